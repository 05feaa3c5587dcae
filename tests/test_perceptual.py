"""The perceptual network: torchvision's VGG, its layers by their usual names, frozen whatever happens to it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.models import get_model
from torchvision.models.vgg import VGG
from torchvision.transforms.functional import normalize

from models import perceptual
from models.perceptual import PerceptualNetwork
from utils.errors import UserError


def build(**changes: object) -> PerceptualNetwork:
    settings = {
        "name": "vgg",
        "network": "vgg19",
        "layers": {"relu3_2": 0.33, "relu5_4": 1.0},
        "weights": "none",
        "weights_dir": "none",
        "scale": "published",
        "factor": None,
        "sobel": False,
    }
    return perceptual.build(SimpleNamespace(**settings | changes))


@pytest.fixture(scope="module")
def network() -> PerceptualNetwork:
    torch.manual_seed(0)
    return build()


def without_classifier(name: str) -> VGG:
    with torch.device("meta"):
        vgg = get_model(name)
    vgg.features.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in vgg.features.parameters():
        nn.init.normal_(parameter, std=0.05)
    return vgg


@pytest.mark.parametrize(
    ("name", "layers", "indices", "channels"),
    [
        ("vgg19", {"relu3_2": 0.33, "relu5_4": 1.0}, [13, 35], [256, 512]),
        ("vgg16", {"relu3_2": 0.5, "relu5_3": 2.0}, [13, 29], [256, 512]),
    ],
)
def test_features_are_torchvisions_at_the_named_layers_scaled(
    name: str, layers: dict[str, float], indices: list[int], channels: list[int], tmp_path: Path
) -> None:
    reference = without_classifier(name).features.eval()
    torch.save({f"features.{key}": tensor for key, tensor in reference.state_dict().items()}, tmp_path / "vgg.pth")
    images = torch.rand(2, 3, 64, 48)
    found = build(network=name, layers=layers, weights=str(tmp_path / "vgg.pth"))(images)
    normalised = normalize(images, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = [
            reference[: index + 1](normalised) * scale for index, scale in zip(indices, layers.values(), strict=True)
        ]
    assert [tuple(m.shape) for m in found] == [(2, channels[0], 16, 12), (2, channels[1], 4, 3)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_order_of_the_layers_is_the_configs() -> None:
    images = torch.rand(1, 3, 32, 32)
    channels = [m.shape[1] for m in build(layers={"relu2_1": 1.0, "relu1_1": 1.0})(images)]
    assert channels == [128, 64]


@pytest.mark.parametrize("disturb", [lambda n: n.train(), lambda n: nn.Sequential(n).train()])
def test_it_stays_in_eval_mode(network: PerceptualNetwork, disturb: Callable) -> None:
    disturb(network)
    assert not any(module.training for module in network.modules())


def test_it_has_nothing_to_train_and_gives_no_gradient(network: PerceptualNetwork) -> None:
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(features.requires_grad for features in network(images))


def test_random_weights_follow_the_seed_and_keep_the_signals_size() -> None:
    images = torch.rand(1, 3, 64, 64)
    torch.manual_seed(3)
    first = build()(images)
    torch.manual_seed(3)
    second = build()(images)
    other = build()(images)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])
    assert all(0.01 < float(features.std()) < 10 for features in first)


def test_channels_last_images_give_the_same_features(network: PerceptualNetwork) -> None:
    images = torch.rand(2, 3, 32, 32)
    for a, b in zip(network(images), network(images.contiguous(memory_format=torch.channels_last)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [{"relu3_9": 1.0}, {"conv3_2": 1.0}, {}])
def test_an_unknown_layer_is_refused_with_those_there_are(layers: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"perceptual\.layers.*vgg19 has no layer.*relu3_2.*relu5_4"):
        build(layers=layers)
