"""timm's networks: the maps of the layers asked for, at any size, of convolutional networks and transformers."""

from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor

from models import methods, perceptual, segmenters
from models.backbone import Backbone
from models.initialisation import new_perceptual_network, new_segmenter
from tests.composition import composed
from utils.errors import UserError

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def backbone(network: str, *layers: str, **options: object) -> Backbone:
    torch.manual_seed(0)
    return Backbone(network, layers, "perceptual", **options).eval()


@torch.no_grad()
def maps(network: Backbone, images: Tensor = IMAGES) -> list[Tensor]:
    return network(images)


@pytest.mark.parametrize("network", ["tf_efficientnet_lite0", "resnet18", "regnetx_002"])
def test_maps_are_those_that_timm_gives_with_features_only(network: str) -> None:
    found = backbone(network, "4", "2")
    reference = timm.create_model(network, features_only=True, out_indices=(2, 4)).eval()
    reference.load_state_dict(found.model.state_dict(), strict=False)
    with torch.no_grad():
        expected = reference(IMAGES)
    for own, theirs in zip(maps(found), (expected[1], expected[0]), strict=True):
        torch.testing.assert_close(own, theirs)


def test_layers_are_named_by_index_from_both_ends_or_by_timms_name() -> None:
    by_index, from_the_end, by_name = (maps(backbone("resnet18", layer))[0] for layer in ("4", "-1", "layer4"))
    assert torch.equal(by_index, from_the_end) and torch.equal(by_index, by_name)


@pytest.mark.parametrize(("stride", "cells"), [(8, (8, 12)), (16, (4, 6)), (None, (2, 3))])
def test_the_output_stride_is_the_pixels_of_a_cell(stride: int | None, cells: tuple[int, int]) -> None:
    assert maps(backbone("tf_efficientnet_lite0", "-1", output_stride=stride))[0].shape[-2:] == cells


@pytest.mark.parametrize("network", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_tokens_are_the_normed_ones_of_the_patches_alone(network: str) -> None:
    found = backbone(network, "3")
    patch = found.patch[0]
    images = IMAGES[..., : 4 * patch, : 6 * patch]
    with torch.no_grad():
        _, (tokens,) = found.model.forward_intermediates(images, indices=[3], norm=True, output_fmt="NLC")
    (own,) = maps(found, images)
    assert own.shape == (2, found.channels[0], images.shape[-2] // patch, images.shape[-1] // patch)
    torch.testing.assert_close(own.flatten(2).transpose(1, 2), tokens)


@pytest.mark.parametrize("facet", ["key", "query", "value"])
def test_a_facet_is_what_the_blocks_attention_makes_of_its_input(facet: str) -> None:
    found = backbone("vit_tiny_patch16_224", "5", facet=facet)
    seen = []
    attention = found.model.blocks[5].attn
    handle = attention.qkv.register_forward_hook(lambda module, given, out: seen.append(out))
    (own,) = maps(found)
    handle.remove()
    place = ["query", "key", "value"].index(facet)
    expected = seen[0].chunk(3, dim=-1)[place][:, 1:]
    torch.testing.assert_close(own.flatten(2).transpose(1, 2), expected)


def test_a_picture_of_another_size_than_patches_is_resized_to_the_nearest() -> None:
    network = backbone("vit_tiny_patch16_224", "1")
    for size, cells in (((64, 97), (4, 6)), ((60, 105), (4, 7)), ((5, 5), (1, 1))):
        assert maps(network, torch.rand(1, 3, *size))[0].shape[-2:] == cells


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("resnet_18", "1"), {}, "perceptual.network=resnet_18: timm has no such network. The nearest: resnet18"),
        (("resnet18.no_such_tag", "1"), {}, "timm has no such network. The nearest: .*resnet18"),
        (("resnet18",), {}, "layers={4: 1}, or others of 0 [(]act1[)]"),
        (("resnet18", "5"), {}, "resnet18 has no layer 5; it has 0 [(]act1[)], .*4 [(]layer4[)]"),
        (("resnet18", "1"), {"facet": "key"}, "facet=key: resnet18 has no attention"),
        (("resnet18", "-1"), {"output_stride": 5}, "output_stride=5: resnet18 cannot have it"),
        (("vit_tiny_patch16_224", "1"), {"output_stride": 8}, "output_stride=8: vit_tiny_patch16_224 cannot have it"),
        (("vit_tiny_patch16_224", "12"), {}, "has no layer 12; it has .*11 [(]blocks.11[)]"),
    ],
)
def test_what_timm_does_not_have_is_told(arguments: tuple, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        backbone(*arguments, **options)


def test_enlarged_pictures_have_finer_maps() -> None:
    shapes = [maps(backbone("resnet18", "3", enlarge=factor))[0].shape[-2:] for factor in (1, 1.5, 2)]
    assert shapes == [(4, 6), (6, 9), (8, 12)]
    plain, enlarged = backbone("vit_tiny_patch16_224", "1"), backbone("vit_tiny_patch16_224", "1", enlarge=2)
    twice = torch.nn.functional.interpolate(IMAGES, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(maps(plain, twice)[0], maps(enlarged)[0], rtol=1e-4, atol=1e-4)


def test_a_hub_that_cannot_be_reached_says_where_the_file_is_and_how_to_give_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="(?s)Cannot get timm's weights of vit_small_patch8_224.dino") as caught:
        perceptual.build(composed("perceptual=dino_vits8").perceptual)
    for part in ("huggingface.co/timm/vit_small_patch8_224.dino", "perceptual.weights=FILE", "perceptual.weights=none"):
        assert part in str(caught.value)


def test_a_size_that_a_network_cannot_take_is_told_before_training() -> None:
    given = ("perceptual=timm", "perceptual.network=beit_base_patch16_224", "perceptual.layers={11: 1}")
    with pytest.raises(UserError, match="beit_base_patch16_224: it cannot take pictures of 256 x 256 pixels"):
        new_perceptual_network(composed(*given, "perceptual.weights=none"))
    given = ("segmenter=timm", "segmenter.network=swin_tiny_patch4_window7_224", "segmenter.weights=none")
    with pytest.raises(UserError, match="cannot take pictures of 256 x 341 pixels"):
        new_segmenter(composed(*given, "dataset_name=DF"), num_parts=4)
    new_segmenter(composed(*given), num_parts=4)  # CUB's are cut to multiples of 16


@pytest.mark.parametrize(
    ("network", "near"), [("dinov2_vits14", "dinov2"), ("hf_hub:timm/resnet18", "resnet18"), ("resnet5O", "resnet50")]
)
def test_the_nearest_networks_are_of_the_family_that_is_asked_for(network: str, near: str) -> None:
    config = composed("segmenter=timm", "segmenter.weights=none", f"'segmenter.network=\"{network}\"'"[1:-1])
    with pytest.raises(UserError, match=f"timm has no such network. The nearest: [^,]*{near}"):
        new_segmenter(config, num_parts=4)


def test_a_factor_without_matching_is_refused() -> None:
    with pytest.raises(UserError, match="perceptual.factor=3.0 is for perceptual.scale=matched"):
        new_perceptual_network(composed("perceptual.weights=none", "perceptual.factor=3"))


@pytest.mark.parametrize("head", ["deeplab", "convolution"])
@pytest.mark.parametrize("network", ["tf_efficientnet_lite0", "vit_tiny_patch16_224"])
def test_a_segmenter_scores_each_cell_and_comes_back_from_its_state(network: str, head: str) -> None:
    given = ("segmenter=timm", f"segmenter.network={network}", f"segmenter.head={head}", "segmenter.weights=none")
    options = composed(*given).segmenter
    for has_background in (False, True):
        first = segmenters.build(options, num_parts=3, has_background=has_background).eval()
        again = segmenters.from_state(options, first.state_dict(), has_background).eval()
        again.load_state_dict(first.state_dict())
        with torch.no_grad():
            scores = first(first.preprocess(IMAGES))
            assert scores.shape[:2] == (2, 3 + has_background) and again.num_parts == 3
            assert torch.equal(scores, again(again.preprocess(IMAGES)))


@pytest.mark.parametrize("kind", ["fixed", "trained"])
def test_batch_norms_keep_the_pretrainings_statistics_or_take_the_batchs(kind: str) -> None:
    given = ("segmenter=efficientnet_lite0", "segmenter.weights=none", f"segmenter.batch_norm={kind}")
    segmenter = segmenters.build(composed(*given).segmenter, num_parts=3).train()
    before = segmenter.backbone.model.bn1.running_mean.clone()
    alone = segmenter(IMAGES[:1])
    beside_another = segmenter(IMAGES)[:1]
    assert torch.equal(before, segmenter.backbone.model.bn1.running_mean) == (kind == "fixed")
    assert torch.allclose(alone, beside_another, atol=1e-5) == (kind == "fixed")
    assert all(parameter.requires_grad for parameter in segmenter.parameters())


@pytest.mark.parametrize(
    ("network", "frozen", "first"),
    [
        ("tf_efficientnet_lite0", "1", "blocks.2"),
        ("tf_efficientnet_lite0", "blocks.0", "blocks.1"),
        ("tf_efficientnet_lite0", "null", "conv_stem"),
        ("resnet18", "0", "layer1"),
        ("resnet18", "layer3", "layer4"),
        ("vgg11", "1", "features.6"),
        ("vit_tiny_patch16_224", "2", "blocks.3"),
    ],
)
def test_frozen_layers_and_all_before_them_are_not_trained(network: str, frozen: str, first: str) -> None:
    given = ("segmenter=timm", f"segmenter.network={network}", "segmenter.weights=none", f"segmenter.frozen={frozen}")
    segmenter = segmenters.build(composed(*given, "segmenter.head=convolution").segmenter, num_parts=3)
    trained = [name for name, parameter in segmenter.backbone.model.named_parameters() if parameter.requires_grad]
    assert trained[0].startswith(first)
    groups = segmenter.parameter_groups(10.0)
    assert sum(len(group["params"]) for group in groups) == len(trained) + 2
    assert [group["multiplier"] for group in groups] == [1.0, 10.0]
    segmenter(IMAGES).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in segmenter.parameters())


def test_position_embeddings_that_are_trained_are_refused_where_their_gradient_is_not_deterministic() -> None:
    given = ("segmenter=timm", "segmenter.network=vit_tiny_patch16_224", "segmenter.weights=none", "deterministic=true")
    given += ("perceptual.weights=none",)
    with pytest.raises(UserError, match="resized position embeddings .*pos_embed.*give segmenter.frozen=0"):
        methods.build(composed(*given), has_masks=True, device=torch.device("cuda"))
    for fine in ((*given, "segmenter.frozen=0"), (*given, "deterministic=false")):
        methods.build(composed(*fine), has_masks=True, device=torch.device("cuda"))


def test_the_head_alone_can_be_trained() -> None:
    given = ("segmenter=efficientnet_lite0", "segmenter.weights=none", "segmenter.frozen=-1")
    groups = segmenters.build(composed(*given).segmenter, num_parts=3).parameter_groups(10.0)
    assert [(len(group["params"]), group["multiplier"]) for group in groups] == [(2, 10.0)]


def test_frozen_layers_keep_their_statistics_where_others_follow_the_batch() -> None:
    given = ("segmenter=efficientnet_lite0", "segmenter.weights=none", "segmenter.frozen=1")
    segmenter = segmenters.build(composed(*given, "segmenter.batch_norm=trained").segmenter, num_parts=3).train()
    frozen, trained = segmenter.backbone.model.bn1, segmenter.backbone.model.blocks[6][0].bn1
    before = [norm.running_mean.clone() for norm in (frozen, trained)]
    segmenter(IMAGES)
    assert torch.equal(frozen.running_mean, before[0]) and not torch.equal(trained.running_mean, before[1])


def test_batch_norms_over_several_devices_keep_timms_activations() -> None:
    network = backbone("tf_efficientnet_lite0", "2", "4")
    expected = maps(network)
    for found, wanted in zip(maps(convert_sync_batchnorm(network).eval()), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_small_size_is_taken_where_the_network_can() -> None:
    backbone("resnet18", "-1").train().require_sizes((32, 32))


def test_the_laptops_features_are_of_the_means_that_its_weights_were_trained_with() -> None:
    network = perceptual.build(composed("perceptual=efficientnet_lite0", "perceptual.weights=none").perceptual)
    torch.testing.assert_close(network.normalisation(IMAGES), (IMAGES * 255 - 127) / 128)


def test_a_network_made_for_a_size_that_is_no_multiple_of_its_stride_takes_an_output_stride() -> None:
    config = composed("experiment=laptop", "perceptual.network=tf_efficientnet_lite2", "perceptual.weights=none")
    maps = new_perceptual_network(config)(torch.rand(1, 3, 96, 96))
    assert [tuple(features.shape[2:]) for features in maps] == [(12, 12), (6, 6)]
