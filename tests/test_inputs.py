"""What segmenters are shown: floats in [0, 1] go through, bytes, 0..255, NaN and other shapes are refused."""

import pytest
import torch

from models import segmenters
from tests.composition import composed

NAMES = ("caffe", "efficientnet_lite0", "hourglass", "autoregressive", "iic")


def segmenter(name: str) -> torch.nn.Module:
    options = composed(f"segmenter={name}", "segmenter.weights=none").segmenter
    return segmenters.build(options, num_parts=2).eval()


@pytest.fixture(scope="module", params=NAMES)
def network(request) -> torch.nn.Module:
    return segmenter(request.param)


PICTURES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_what_is_no_float_from_0_to_1_is_refused_with_what_to_do(network, training):
    network.train(training)
    broken = PICTURES.clone()
    broken[1, 2, 3, 4] = torch.nan
    for images, error, message in (
        ((PICTURES * 255).byte(), TypeError, r"images are uint8, and not .*: give images.float\(\) / 255"),
        (PICTURES > 0.5, TypeError, "images are bool"),
        (PICTURES * 255, ValueError, r"reach from 0\.\d+ to 25\d.*divide by 255"),
        ((PICTURES - 0.45) / 0.22, ValueError, "undo a normalisation"),
        (broken, ValueError, "images have NaN"),
        (PICTURES[0], ValueError, r"the shape \(3, 32, 32\)"),
        (PICTURES.permute(0, 2, 3, 1), ValueError, r"the shape \(2, 32, 32, 3\), .*permute"),
    ):
        with pytest.raises(error, match=message):
            network.preprocess(images)


def test_pictures_of_any_float_go_through_and_so_does_what_interpolation_adds(network):
    for images in (PICTURES, PICTURES.double(), PICTURES.bfloat16(), torch.zeros_like(PICTURES), PICTURES + 1e-4):
        assert network.preprocess(images).isfinite().all()


def test_in_a_training_step_on_a_device_the_numbers_are_left_alone():
    """The host would wait for the device; ``is_cpu`` tells them apart, a tensor that says no stands for one there."""

    class OnDevice(torch.Tensor):
        is_cpu = False

        def aminmax(self, *_, **__):
            raise AssertionError("the host waits")

    network = segmenter("hourglass")
    elsewhere = (PICTURES * 255).as_subclass(OnDevice)
    network.train().preprocess(elsewhere)
    with pytest.raises(AssertionError, match="the host waits"):
        network.eval().preprocess(elsewhere)
