"""The segmenter: the published network's numbers and names, its variants, and its checkpoints."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torchvision.models import resnet50

from conf.trained import with_settings_of
from models import segmenters
from models.predictor import load_predictor
from models.segmenters.deeplab import Segmenter
from tests.composition import composed
from tests.golden_checkpoint import golden_state, write_golden_checkpoint
from tests.shared import GOLDEN
from utils import checkpoints
from utils.errors import UserError

KEYS = json.loads((GOLDEN / "release_checkpoint_keys.json").read_text())
FROM_SCRATCH = SimpleNamespace(name="deeplab", variant="caffe", weights="none", weights_dir="none", init="he")


def load_segmenter(path: Path) -> torch.nn.Module:
    """What evaluate.py predicts with, when given ``checkpoint=PATH``."""
    checkpoint = checkpoints.find(path)
    return load_predictor(checkpoint, with_settings_of(checkpoint.config, checkpoint.file, composed()))


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_golden_checkpoint(tmp_path_factory.mktemp("published") / "model_60000.pth", head=False)


# Batch statistics of two images amplify rounding: another order of the sums alone moves the train-mode logits by 1e-4.
@pytest.mark.parametrize(
    ("layout", "tolerance_in_train_mode"),
    [(torch.contiguous_format, 1e-4), (torch.channels_last, 1e-3)],
    ids=["contiguous", "channels last"],
)
def test_a_published_checkpoint_gives_the_releases_logits_in_eval_and_in_train_mode(
    checkpoint: Path, layout: torch.memory_format, tolerance_in_train_mode: float
) -> None:
    golden = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / "network.npz").items()}
    segmenter = load_segmenter(checkpoint)
    assert not segmenter.training
    inputs = golden["input"].contiguous(memory_format=layout)
    with torch.no_grad():
        in_eval_mode, in_train_mode = segmenter(inputs), segmenter.train()(inputs)
    assert relative(in_eval_mode, golden["logits_eval"]) < 1e-4
    assert relative(in_train_mode, golden["logits_train"]) < tolerance_in_train_mode


@pytest.mark.parametrize("variant", ["caffe", "torchvision"])
def test_names_and_shapes_are_those_of_the_published_checkpoints(variant: str) -> None:
    state = Segmenter(num_parts=4, variant=variant).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == KEYS


def test_parameters_train_at_the_releases_rates_or_not_at_all() -> None:
    segmenter = Segmenter(num_parts=4)
    names = {id(parameter): name for name, parameter in segmenter.named_parameters()}
    groups = segmenter.parameter_groups(head_multiplier=10.0)
    found = {group["multiplier"]: sorted(names.pop(id(parameter)) for parameter in group["params"]) for group in groups}
    expected = json.loads((GOLDEN / "param_groups.json").read_text())
    assert found == {1.0: sorted(expected["lr_1x"]), 10.0: sorted(expected["lr_10x"])}
    assert set(names.values()) == set(expected["frozen"])
    assert not any(segmenter.get_parameter(name).requires_grad for name in expected["frozen"])


def test_a_background_is_one_channel_more_and_no_part() -> None:
    segmenter = segmenters.build(FROM_SCRATCH, num_parts=3, has_background=True).eval()
    with torch.no_grad():
        assert segmenter(torch.randn(1, 3, 32, 32)).shape[1] == 4
    found = segmenters.from_state(FROM_SCRATCH, segmenter.state_dict(), has_background=True)
    found.load_state_dict(segmenter.state_dict())
    assert (found.num_parts, found.has_background) == (segmenter.num_parts, segmenter.has_background) == (3, True)
    with pytest.raises(UserError, match=r"layer5.conv2d_list.0.weight of the shape \(1 \+ K, C, 3, 3\)"):
        segmenters.from_state(FROM_SCRATCH, Segmenter(1).state_dict(), has_background=True)


@pytest.mark.parametrize("variant", ["caffe", "torchvision"])
@pytest.mark.parametrize(("num_parts", "size", "expected"), [(2, (64, 64), (9, 9)), (16, (96, 128), (13, 17))])
def test_logits_have_an_eighth_of_the_images_size(
    variant: str, num_parts: int, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    segmenter = Segmenter(num_parts, variant).eval()
    with torch.no_grad():
        assert segmenter(torch.randn(1, 3, *size)).shape == (1, num_parts, *expected)


def test_256_pixels_give_33_logits() -> None:
    segmenter = Segmenter(4).eval()
    with torch.no_grad():
        assert segmenter(torch.randn(1, 3, 256, 256)).shape == (1, 4, 33, 33)


def test_the_torchvision_variant_computes_torchvisions_own_dilated_network() -> None:
    torch.manual_seed(0)
    reference = resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    reference.maxpool.ceil_mode = True
    segmenter = Segmenter(2, "torchvision").eval()
    segmenter.load_state_dict(reference.state_dict(), strict=False)
    seen = {}
    segmenter.layer4.register_forward_hook(lambda module, inputs, output: seen.update(segmenter=output))
    reference.layer4.register_forward_hook(lambda module, inputs, output: seen.update(reference=output))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        segmenter(image), reference(image)
        caffe = Segmenter(2, "caffe").eval()
        caffe.load_state_dict(segmenter.state_dict())
        assert not torch.allclose(caffe(image), segmenter(image))
    assert torch.equal(seen["segmenter"], seen["reference"])


def test_preprocess_subtracts_the_published_means_in_their_published_order() -> None:
    white = torch.ones(1, 3, 2, 2)
    expected = torch.tensor([255 - 104.00698793, 255 - 116.66876762, 255 - 122.67891434])
    torch.testing.assert_close(Segmenter(4).preprocess(white)[0, :, 0, 0], expected)


def test_preprocess_of_the_torchvision_variant_is_that_of_its_weights() -> None:
    expected = (torch.tensor([1.0, 1.0, 1.0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(Segmenter(4, "torchvision").preprocess(torch.ones(1, 3, 2, 2))[0, :, 0, 0], expected)


@pytest.mark.parametrize(("init", "deviation"), [("he", (2 / (64 * 9)) ** 0.5), ("normal", 0.01)])
def test_weights_from_scratch_are_drawn_as_asked(init: str, deviation: float) -> None:
    torch.manual_seed(0)
    segmenter = segmenters.build(SimpleNamespace(**vars(FROM_SCRATCH) | {"init": init}), num_parts=3)
    assert segmenter.layer1[1].conv2.weight.std().item() == pytest.approx(deviation, rel=0.05)
    assert segmenter.layer5.conv2d_list[0].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert segmenter.num_parts == 3


def test_own_checkpoints_bring_their_variant_and_number_of_parts(tmp_path: Path) -> None:
    written = Segmenter(6, "torchvision").eval()
    config = OmegaConf.to_container(composed("segmenter=torchvision", "num_parts=3"))
    (tmp_path / "checkpoints").mkdir()
    payload = {"iter": 1, "model_state_dict": written.state_dict(), "optimizer_state_dict": {}, "config": config}
    torch.save(payload, tmp_path / "checkpoints" / "model_1.pth")
    for path in (tmp_path, tmp_path / "checkpoints" / "model_1.pth"):
        segmenter = load_segmenter(path)
        assert (segmenter.num_parts, segmenter.has_background, segmenter.training) == (6, False, False)
        inputs = torch.rand(1, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(segmenter(segmenter.preprocess(inputs)), written(written.preprocess(inputs)))
    assert all(torch.equal(tensor, segmenter.state_dict()[name]) for name, tensor in written.state_dict().items())


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.pth"):
        load_segmenter(tmp_path / "nowhere.pth")


def test_a_truncated_checkpoint_is_named(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.pth"
    path.write_bytes(checkpoint.read_bytes()[:100000])
    with pytest.raises(UserError, match="short.pth"):
        load_segmenter(path)


def faulty_payloads() -> dict[str, tuple[dict, str]]:
    state = golden_state(head=False)
    without_head = {name: tensor for name, tensor in state.items() if "layer5" not in name}
    without_layer = {name: tensor for name, tensor in state.items() if not name.startswith("layer3.2.conv1")}
    other_size = state | {"layer4.2.conv1.weight": torch.zeros(7, 7)}
    return {
        "a classifier": ({"model_state_dict": without_head}, "layer5"),
        "a hole": ({"model_state_dict": without_layer}, "layer3.2.conv1.weight"),
        "another size": ({"model_state_dict": other_size}, "layer4.2.conv1.weight"),
        "an unknown variant": (
            {
                "model_state_dict": state,
                "config": OmegaConf.to_container(composed())
                | {"segmenter": {**OmegaConf.to_container(composed().segmenter), "variant": "vit"}},
            },
            "caffe, torchvision.*'vit'",
        ),
        "an unknown segmenter": (
            {
                "model_state_dict": state,
                "config": OmegaConf.to_container(composed()) | {"segmenter": {"name": "vit"}},
            },
            "no segmenter 'vit'.*deeplab",
        ),
        "a bare state dict of another network": (without_head, "layer5"),
    }


@pytest.mark.parametrize("fault", faulty_payloads())
def test_a_foreign_checkpoint_is_refused_with_its_name_and_what_is_wrong(fault: str, tmp_path: Path) -> None:
    payload, message = faulty_payloads()[fault]
    path = tmp_path / "foreign.pth"
    torch.save(payload, path)
    with pytest.raises(UserError, match=f"(?s)foreign.pth.*{message}"):
        load_segmenter(path)
