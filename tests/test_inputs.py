"""What segmenters are shown: floats in [0, 1] go through, bytes, 0..255, NaN and other shapes are refused."""

import pytest
import torch

from models import segmenters
from models.inputs import of_bytes
from tests.composition import composed
from tests.waits import counted_waits

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
        (PICTURES.numpy(), TypeError, r"images are numpy.ndarray, and not a tensor: .* torch.from_numpy\(images\)"),
        (PICTURES[:0], ValueError, r"the shape \(0, 3, 32, 32\): there are no pictures"),
        (PICTURES[..., :0], ValueError, r"the shape \(2, 3, 32, 0\): there are no pictures"),
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


def test_in_training_the_numbers_of_the_first_pictures_alone_are_looked_at():
    """The host would wait for the device in every step."""
    network = segmenter("hourglass").train()
    network.preprocess(PICTURES)
    network.preprocess(PICTURES * 255)
    with pytest.raises(TypeError):
        network.preprocess(PICTURES.byte())
    with pytest.raises(ValueError, match="divide by 255"):
        network.eval().preprocess(PICTURES * 255)


def test_pictures_made_of_bytes_are_floats_that_nobody_looks_at_and_others_are_looked_at(network):
    pictures = (PICTURES * 255).byte()
    made = of_bytes(pictures)
    assert torch.equal(made, pictures.float() / 255)
    with counted_waits() as counts:
        network.eval().preprocess(made)
    assert not counts
    with pytest.raises(ValueError, match="divide by 255"):
        network.preprocess(of_bytes(pictures.long() * 100))
