"""The segmenters of AC and IIC as the programs see them."""

import pytest
import torch
from torch import nn

from models import segmenters
from models.iic import Head, Trunk
from tests.composition import composed
from utils.errors import UserError

SMALL = {"autoregressive": "segmenter.widths=[64,64]", "iic": "segmenter.widths=[4,6,8,10]"}


def options(name: str, *overrides: str):
    small = SMALL.get(name)
    return composed("dataset_name=synthetic", f"segmenter={name}", *([small] if small else []), *overrides).segmenter


def built(name: str, *overrides: str, num_parts: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return segmenters.build(options(name, *overrides), num_parts)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(32, 32), (40, 53)])
def test_scores_are_as_fine_as_the_picture(name, size):
    segmenter = built(name)
    scores = segmenter(segmenter.preprocess(torch.rand(2, 3, *size)))
    assert scores.shape == (2, 5, *size) and scores.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_the_input_has_the_channels_that_are_asked_for(name):
    segmenter = built(name, "segmenter.colour=bgr", "segmenter.sobel=true", "segmenter.infrared=true")
    images, infrared = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32)
    inputs = segmenter.preprocess(images, infrared)
    assert inputs.shape == (2, 6, 32, 32) and segmenter(inputs).shape == (2, 5, 32, 32)
    with pytest.raises(UserError, match=r"segmenter\.infrared=true"):
        segmenter.preprocess(images)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("has_background", [False, True])
def test_k_is_read_from_a_checkpoint_and_another_network_is_refused(name, has_background):
    state = segmenters.build(options(name), 7, has_background).state_dict()
    found = segmenters.from_state(options(name), state, has_background)
    assert (found.num_parts, found.has_background) == (7, has_background)
    found.load_state_dict(state)
    with pytest.raises(UserError, match=f"no checkpoint of a segmenter={name}"):
        segmenters.from_state(options(name), {"layer5.weight": torch.zeros(1)}, has_background)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_is_in_one_group_and_the_head_learns_as_fast_as_it_is_told(name):
    segmenter = built(name)
    body, head = segmenter.parameter_groups(3)
    assert (body["multiplier"], head["multiplier"]) == (1, 3)
    found = [*map(id, body["params"]), *map(id, head["params"])]
    assert len(found) == len(set(found)) and set(found) == set(map(id, segmenter.parameters()))
    assert len(head["params"]) == {"autoregressive": 2, "iic": 1}[name]


# --- of AC ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "stem", "ordinary", "masked"),
    [
        ("autoregressive", "convolution", 0, 5),
        ("autoregressive_f1", "none", 0, 5),
        ("autoregressive_f3", "none", 1, 4),
        ("autoregressive_f4", "none", 5, 0),
        ("autoregressive_f5", "resnet18", 0, 0),
    ],
)
def test_the_five_forms_are_options(option, stem, ordinary, masked):
    found = options(option) if option != "autoregressive" else composed(f"segmenter={option}").segmenter
    with torch.device("meta"):
        network = segmenters.build(found, 6).network
    assert (found.stem, found.ordinary) == (stem, ordinary) and len(network.masked.blocks) == masked


def test_attention_follows_the_second_block():
    with torch.device("meta"):
        network = segmenters.build(options("autoregressive_attention"), 6).network
    assert network.masked.attention_after == 2 and network.masked.attention.query.weight.shape == (128, 256, 1, 1)


def test_inference_is_without_an_ordering_or_the_mean_over_all():
    plain, mean = (built("autoregressive", f"segmenter.inference={how}").eval() for how in ("plain", "mean"))
    mean.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain(x), plain(x, 0))
        expected = torch.stack([plain(x, ordering) for ordering in range(1, 9)]).mean(0)
        assert torch.allclose(mean(x), expected, atol=1e-6) and not torch.allclose(mean(x), plain(x), atol=1e-3)


@pytest.mark.parametrize(
    ("orderings", "message"), [("[1,17]", "there is no ordering 17. 1 to 8 are raster"), ("[]", "is empty")]
)
def test_orderings_that_do_not_exist_are_refused(orderings, message):
    with pytest.raises(UserError, match=f"segmenter.orderings.*{message}"):
        built("autoregressive", f"segmenter.orderings={orderings}")


# --- of IIC --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "count"), [(5, 4_503_744), (4, 4_503_168)])
def test_the_trunk_has_the_published_number_of_parameters(channels, count):
    with torch.device("meta"):
        trunk = Trunk(channels, [64, 128, 256, 512])
    assert sum(parameter.numel() for parameter in trunk.parameters()) == count


@pytest.mark.parametrize(("size", "cells"), [(128, 60), (200, 96)])
def test_the_trunk_gives_the_published_cells_and_the_head_a_ring_more(size, cells):
    with torch.device("meta"):
        features = Trunk(4, [64, 128, 256, 512])(torch.rand(1, 4, size, size))
        assert features.shape == (1, 512, cells, cells)
        assert Head(512, 6).convolution(features).shape[-1] == cells + 2
        assert Trunk(4, [4, 4, 4, 4], dilated_padding=2)(torch.rand(1, 4, size, size)).shape[-1] == size // 2


def test_a_feature_sees_30_pixels():
    trunk = Trunk(1, [2, 2, 2, 2]).eval()
    for name, parameter in trunk.named_parameters():
        nn.init.constant_(parameter, 0.5 if name.endswith("weight") else 0.1)
    x = torch.rand(1, 1, 64, 64, requires_grad=True)
    trunk(x)[0, :, 14, 14].sum().backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == 30


@pytest.mark.parametrize(("size", "undecided"), [(128, 508), (200, 796)])
def test_the_published_padding_of_the_head_leaves_the_outermost_pixels_undecided(size, undecided):
    torch.manual_seed(0)
    features = torch.randn(1, 3, (size - 8) // 2, (size - 8) // 2)
    for padding, expected in ((1, undecided), (0, 0)):
        probabilities = Head(3, 4, padding=padding)(features, (size, size))[0, 0]
        assert probabilities.sum(0).sub(1).abs().max() < 1e-5
        assert int((probabilities - 0.25).abs().amax(0).lt(1e-7).sum()) == expected


def test_the_softmax_comes_before_the_upsampling_and_the_scores_are_its_logarithms():
    segmenter = built("iic").eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        cells = segmenter.head.convolution(segmenter.trunk(x)).softmax(1)
        expected = nn.functional.interpolate(cells, size=(32, 32), mode="bilinear", align_corners=False)
        assert torch.allclose(segmenter(x).softmax(1), expected, atol=1e-6)


def test_sub_heads_are_apart_and_the_first_predicts():
    segmenter = built("iic", "segmenter.sub_heads=3").eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        found = segmenter.probabilities(x, segmenter.head)
        assert found.shape == (1, 3, 5, 32, 32) and (found.sum(2) - 1).abs().max() < 1e-5
        assert torch.allclose(segmenter(x).exp(), found[:, 0])
    assert segmenters.from_state(options("iic", "segmenter.sub_heads=3"), segmenter.state_dict()).num_parts == 5
    with pytest.raises(UserError, match="sub_heads=2"):
        segmenters.from_state(options("iic", "segmenter.sub_heads=2"), segmenter.state_dict())
