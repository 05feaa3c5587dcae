"""What networks that cluster pixels see of a picture."""

from types import SimpleNamespace

import pytest
import torch

from models.channels import network_input, num_channels
from utils.errors import UserError


def options(colour: str = "rgb", sobel: bool = False, infrared: bool = False) -> SimpleNamespace:
    return SimpleNamespace(colour=colour, sobel=sobel, infrared=infrared)


IMAGES, INFRARED = torch.rand(2, 3, 5, 6), torch.rand(2, 1, 5, 6)


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (options("bgr", sobel=True), 5),  # IIC on COCO
        (options("rgb", infrared=True), 4),  # IIC on Potsdam
        (options("rgb", sobel=True, infrared=True), 6),
        (options("none", sobel=True), 2),
        (options("none", sobel=True, infrared=True), 3),
        (options("rgb"), 3),
    ],
)
def test_there_are_as_many_channels_as_iic_has(chosen, count):
    assert network_input(IMAGES, INFRARED, chosen).shape == (2, count, 5, 6)
    assert num_channels(chosen) == count


def test_the_order_is_colour_edges_infrared():
    whole = network_input(IMAGES, INFRARED, options("bgr", sobel=True, infrared=True))
    assert torch.equal(whole[:, :3], IMAGES.flip(1)) and torch.equal(whole[:, 5:], INFRARED)
    assert torch.allclose(whole[:, 3:5], network_input(IMAGES.flip(1), None, options("none", sobel=True)))


def test_edges_of_a_constant_picture_are_those_of_its_border():
    dx, dy = network_input(torch.full((1, 3, 5, 6), 0.5), None, options("none", sobel=True))[0]
    assert dx[1:-1, 1:-1].abs().max() < 1e-6 and dy[1:-1, 1:-1].abs().max() < 1e-6
    for edge, sign in ((dx[1:-1, 0], -1), (dx[1:-1, -1], 1), (dy[0, 1:-1], -1), (dy[-1, 1:-1], 1)):
        assert edge.tolist() == pytest.approx([sign * 4 * 0.5] * len(edge), abs=1e-6)
    corners = [dx[0, 0], dx[0, -1], dx[-1, 0], dx[-1, -1]]
    assert [float(corner) for corner in corners] == pytest.approx([-1.5, 1.5, -1.5, 1.5], abs=1e-6)
    corners = [dy[0, 0], dy[0, -1], dy[-1, 0], dy[-1, -1]]
    assert [float(corner) for corner in corners] == pytest.approx([-1.5, -1.5, 1.5, 1.5], abs=1e-6)


@pytest.mark.parametrize(("colour", "weights"), [("rgb", (0.299, 0.587, 0.114)), ("bgr", (0.114, 0.587, 0.299))])
def test_greys_weight_of_red_falls_on_the_first_colour(colour, weights):
    for place, weight in enumerate(weights):
        image = torch.zeros(1, 3, 3, 4)
        image[:, place, :, 2:] = 1
        dx = network_input(image, None, options(colour, sobel=True))[0, 3]
        assert dx[1, 1].item() == pytest.approx(-4 * weight, abs=1e-6)


def test_infrared_that_is_not_there_and_a_network_that_sees_nothing_are_refused():
    with pytest.raises(UserError, match=r"segmenter\.infrared=true: the pictures have no infrared"):
        network_input(IMAGES, None, options(infrared=True))
    with pytest.raises(UserError, match=r"segmenter\.colour=none .*would see nothing"):
        num_channels(options("none"))
