"""The losses against the release's own numbers, against the formulas written naively, and at the edges."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import formulas
from losses.contrastive import contrastive_loss, descriptor_distance, draw_positives
from losses.descriptors import part_descriptors
from losses.equivariance import equivariance_loss
from losses.feature import feature_loss
from losses.visual import visual_consistency_loss
from tests.shared import GOLDEN


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(GOLDEN / "losses.npz").items()}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected).norm() / expected.double().norm())


def case(num_images: int = 3, num_parts: int = 4, size: tuple[int, int] = (24, 20)) -> dict[str, Tensor]:
    """Part logits, features that look like a ReLU's, a foreground with a hole in it, and a Lab image."""
    foreground = torch.zeros(num_images, 1, *size)
    foreground[..., 3:-4, 2:-3] = 1
    foreground[..., 9:12, 9:12] = 0
    return {
        "logits": 2 * torch.randn(num_images, num_parts, *size),
        "deep": 5 * torch.randn(num_images, 12, 3, 4).relu(),
        "shallow": torch.randn(num_images, 7, 12, 10).relu(),
        "foreground": foreground,
        "lab": torch.rand(num_images, 3, *size) * 50 + 30,
    }


# --- the release's own numbers -------------------------------------------------------------------------------------


def test_contrastive_loss_agrees_with_the_release(golden: dict[str, Tensor]) -> None:
    descriptors = golden["contrastive_descriptors"].clone().requires_grad_()
    later_of_the_others = torch.tensor([2, 2, 1])[:, None].expand(3, 4)
    loss = contrastive_loss(descriptors, float(golden["contrastive_temperature"]), later_of_the_others)
    loss.backward()
    assert relative(loss, golden["contrastive_loss"]) < 1e-4
    assert relative(descriptors.grad, golden["contrastive_gradient"]) < 1e-3


def test_part_descriptors_agree_with_the_release(golden: dict[str, Tensor]) -> None:
    masks = formulas.upsample(golden["consistency_logits"], (32, 32)).softmax(1)
    found = part_descriptors(masks, [golden["consistency_features"]], golden["consistency_foreground"])
    assert relative(found, golden["consistency_descriptors"]) < 1e-4


@pytest.mark.parametrize("name", ["feature", "visual"])
def test_consistency_losses_agree_with_the_release(golden: dict[str, Tensor], name: str) -> None:
    logits = golden["consistency_logits"].clone().requires_grad_()
    masks = formulas.upsample(logits, (32, 32)).softmax(1)
    if name == "feature":
        loss = feature_loss(masks, [golden["consistency_features"]], golden["consistency_foreground"])
    else:
        loss = visual_consistency_loss(masks, golden["consistency_image"], golden["consistency_foreground"])
    loss.backward()
    assert relative(loss, golden[f"consistency_{name}_loss"]) < 1e-4
    assert relative(logits.grad, golden[f"consistency_{name}_gradient"]) < 1e-3


def test_equivariance_loss_agrees_with_the_release(golden: dict[str, Tensor]) -> None:
    logits = golden["equivariance_logits"].clone().requires_grad_()
    of_warped = golden["equivariance_logits_of_warped_image"].clone().requires_grad_()
    loss = equivariance_loss(logits, of_warped, golden["equivariance_grid"], golden["equivariance_foreground"])
    loss.backward()
    assert relative(loss, golden["equivariance_loss"]) < 1e-4
    assert relative(of_warped.grad, golden["equivariance_gradient"]) < 1e-3
    assert logits.grad is None


# --- the formulas, written naively ---------------------------------------------------------------------------------


@pytest.mark.parametrize("num_parts", [2, 16])
def test_descriptors_are_the_means_of_upsampled_features_over_soft_parts(num_parts: int) -> None:
    c = case(num_parts=num_parts)
    masks = c["logits"].softmax(1)
    phi = torch.cat([formulas.upsample(c["deep"], (24, 20)), formulas.upsample(c["shallow"], (24, 20))], dim=1)
    expected = formulas.descriptors(masks, phi, c["foreground"])
    found = part_descriptors(masks, [c["deep"], c["shallow"]], c["foreground"])
    assert found.shape == (3, num_parts, 19)
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("num_parts", [2, 16])
def test_feature_loss_is_the_naive_formula_in_float32(num_parts: int) -> None:
    c = case(num_parts=num_parts)
    logits = c["logits"].clone().requires_grad_()
    feature_loss(logits.softmax(1), [c["deep"], c["shallow"]], c["foreground"]).backward()
    found = feature_loss(logits.softmax(1), [c["deep"], c["shallow"]], c["foreground"])

    exact = c["logits"].double().requires_grad_()
    phi = torch.cat(
        [formulas.upsample(c["deep"].double(), (24, 20)), formulas.upsample(c["shallow"].double(), (24, 20))], dim=1
    )
    expected = sum(formulas.spread(exact.softmax(1), phi, c["foreground"].double()))
    expected.backward()
    assert relative(found, expected.detach()) < 1e-5
    assert relative(logits.grad, exact.grad) < 1e-4


@pytest.mark.parametrize("small", [(1, 1), (1, 4), (2, 1), (24, 20), (30, 25)])
def test_feature_loss_holds_for_maps_of_one_cell_and_for_maps_as_large_as_the_image(small: tuple[int, int]) -> None:
    c = case()
    features = torch.randn(3, 5, *small)
    expected = sum(formulas.spread(c["logits"].softmax(1), formulas.upsample(features, (24, 20)), c["foreground"]))
    found = feature_loss(c["logits"].softmax(1), [features], c["foreground"])
    assert float(found) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


def test_visual_loss_is_the_naive_formula() -> None:
    c = case()
    logits = c["logits"].clone().requires_grad_()
    found = visual_consistency_loss(logits.softmax(1), c["lab"], c["foreground"])
    found.backward()

    exact = c["logits"].double().requires_grad_()
    expected = sum(formulas.spread(exact.softmax(1), c["lab"].double(), c["foreground"].double())) / 3
    expected.backward()
    assert relative(found, expected.detach()) < 1e-5
    assert relative(logits.grad, exact.grad) < 1e-4


@pytest.mark.parametrize("negatives", ["all_images", "other_images"])
@pytest.mark.parametrize(("num_images", "num_parts"), [(2, 2), (4, 5), (2, 16)])
def test_contrastive_loss_is_the_naive_formula(negatives: str, num_images: int, num_parts: int) -> None:
    descriptors = torch.randn(num_images, num_parts, 8)
    positives = draw_positives(num_images, num_parts, np.random.default_rng(0))
    expected = formulas.contrastive(descriptors, 0.3, positives, negatives)
    found = contrastive_loss(descriptors, 0.3, positives, negatives=negatives)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("formula", ["release", "paper"])
def test_equivariance_loss_is_the_naive_formula(formula: str) -> None:
    c = case()
    turn = torch.tensor([[0.8, -0.5, 0.1], [0.5, 0.8, -0.1]])
    grid = F.affine_grid(turn.expand(3, 2, 3), (3, 1, 24, 20), align_corners=True)
    logits, of_warped = c["logits"].clone().requires_grad_(), torch.randn(3, 4, 24, 20, requires_grad=True)

    expected = formulas.equivariance(logits, of_warped, grid, c["foreground"], formula)
    expected_gradients = torch.autograd.grad(expected, [logits, of_warped], allow_unused=True)

    found = equivariance_loss(logits, of_warped, grid, c["foreground"], formula=formula)
    found.backward()
    assert relative(found, expected.detach()) < 1e-5
    assert relative(of_warped.grad, expected_gradients[1]) < 1e-4
    if formula == "paper":
        assert relative(logits.grad, expected_gradients[0]) < 1e-4
    else:
        assert logits.grad is None


def test_equivariance_loss_is_zero_for_a_network_that_follows_the_warp() -> None:
    c = case()
    turn = torch.tensor([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.1]])
    grid = F.affine_grid(turn.expand(3, 2, 3), (3, 1, 24, 20), align_corners=True)
    following = F.grid_sample(c["logits"], grid, align_corners=True)
    assert float(equivariance_loss(c["logits"], following, grid, c["foreground"])) == pytest.approx(0, abs=1e-6)


# --- the paper's sums, and its ablations of the contrastive loss ------------------------------------------------------


def test_the_papers_normalisation_is_a_sum_over_pixels_images_and_anchors() -> None:
    c = case()
    grid = F.affine_grid(torch.tensor([[0.8, -0.5, 0.1], [0.5, 0.8, -0.1]]).expand(3, 2, 3), (3, 1, 24, 20), True)
    masks, of_warped, areas = c["logits"].softmax(1), torch.randn(3, 4, 24, 20), c["foreground"].sum((1, 2, 3))
    phi = formulas.upsample(c["deep"], (24, 20))
    found = feature_loss(masks, [c["deep"]], c["foreground"], normalisation="paper")
    assert relative(found, (formulas.spread(masks, phi, c["foreground"]) * areas).sum()) < 1e-4
    found = visual_consistency_loss(masks, c["lab"], c["foreground"], normalisation="paper")
    assert relative(found, (formulas.spread(masks, c["lab"], c["foreground"]) * areas).sum()) < 1e-4

    warped_areas = F.grid_sample(c["foreground"], grid, align_corners=True).sum((1, 2, 3))
    alone = [
        equivariance_loss(*(x[n : n + 1] for x in (c["logits"], of_warped, grid, c["foreground"])), formula="paper")
        for n in range(3)
    ]
    found = equivariance_loss(c["logits"], of_warped, grid, c["foreground"], "paper", normalisation="paper")
    assert relative(found, sum(value * area for value, area in zip(alone, warped_areas, strict=True))) < 1e-4

    descriptors, positives = torch.randn(3, 4, 8), draw_positives(3, 4, np.random.default_rng(0))
    contrast, distance = partial(contrastive_loss, temperature=0.19), descriptor_distance
    for loss in (contrast, distance):
        of_mean, of_sum = (loss(descriptors, positives=positives, normalisation=how) for how in ("release", "paper"))
        assert relative(of_sum, 12 * of_mean) < 1e-6


def test_positives_of_another_view_are_the_naive_formula() -> None:
    z, other = (F.normalize(torch.randn(3, 4, 8), dim=2) for _ in range(2))
    positives = draw_positives(3, 4, np.random.default_rng(0), rule="same_image")
    assert positives.tolist() == [[n] * 4 for n in range(3)]
    expected = []
    for n, k in itertools.product(range(3), range(4)):
        positive = torch.exp(z[n, k] @ other[n, k] / 0.3)
        negative = sum(torch.exp(z[n, k] @ z[i, j] / 0.3) for i, j in itertools.product(range(3), range(4)) if j != k)
        expected.append(-torch.log(positive / (positive + negative)))
    found = contrastive_loss(2 * z, 0.3, positives, other_view=3 * other)
    assert float(found) == pytest.approx(float(sum(expected)) / 12, rel=1e-5)


@pytest.mark.parametrize("unit_length", [True, False])
@pytest.mark.parametrize("has_other_view", [False, True])
def test_the_descriptor_distance_is_the_naive_formula(has_other_view: bool, unit_length: bool) -> None:
    z, other = torch.randn(3, 4, 8), torch.randn(3, 4, 8) if has_other_view else None
    positives = draw_positives(3, 4, np.random.default_rng(0))
    own, source = (F.normalize(x, dim=2) if unit_length else x for x in (z, z if other is None else other))
    expected = [
        (own[n, k] - source[int(positives[n, k]), k]).square().sum() for n, k in itertools.product(range(3), range(4))
    ]
    assert float(descriptor_distance(z, positives, other, unit_length=unit_length)) == pytest.approx(
        float(sum(expected)) / 12, rel=1e-5
    )


def test_nothing_keeps_parts_apart_in_the_descriptor_distance() -> None:
    positives = draw_positives(3, 4, np.random.default_rng(0))
    one_for_all = torch.randn(8).expand(3, 4, 8)
    assert float(descriptor_distance(one_for_all, positives)) == pytest.approx(0, abs=1e-10)
    assert float(contrastive_loss(one_for_all, 0.19, positives)) == pytest.approx(math.log(1 + 9), rel=1e-5)


# --- positives -----------------------------------------------------------------------------------------------------


def test_uniform_positives_are_all_other_images_equally_often() -> None:
    drawn = draw_positives(4, 3000, np.random.default_rng(0))
    for own in range(4):
        counts = torch.bincount(drawn[own], minlength=4)
        assert counts[own] == 0
        assert all(abs(int(counts[other]) - 1000) < 120 for other in range(4) if other != own)


def test_release_positives_leave_out_the_first_of_the_other_images() -> None:
    drawn = draw_positives(4, 300, np.random.default_rng(0), rule="release")
    assert [sorted(set(row.tolist())) for row in drawn] == [[2, 3], [2, 3], [1, 3], [1, 2]]


def test_release_positives_need_a_batch_of_three() -> None:
    with pytest.raises(ValueError, match="batch of 3 or more, not 2"):
        draw_positives(2, 4, np.random.default_rng(0), rule="release")
    with pytest.raises(ValueError, match="batch of 2 or more, not 1"):
        draw_positives(1, 4, np.random.default_rng(0))


# --- edges ---------------------------------------------------------------------------------------------------------


def all_losses(c: dict[str, Tensor], logits: Tensor, of_warped: Tensor) -> dict[str, Tensor]:
    masks, features = logits.softmax(1), [c["deep"], c["shallow"]]
    with torch.autocast("cpu", enabled=False):
        grid = F.affine_grid(torch.eye(2, 3).expand(len(logits), 2, 3), c["foreground"].shape, align_corners=True)
    found = {
        "feature": feature_loss(masks, features, c["foreground"]),
        "visual": visual_consistency_loss(masks, c["lab"], c["foreground"]),
        "equivariance": equivariance_loss(logits, of_warped, grid, c["foreground"]),
    }
    if len(logits) > 1:
        positives = torch.arange(len(logits)).roll(1)[:, None].expand(logits.shape[:2])
        descriptors = part_descriptors(masks, features, c["foreground"])
        found["contrastive"] = contrastive_loss(descriptors, 0.19, positives)
    return found


@pytest.mark.parametrize("empty", [[0], [0, 1, 2]], ids=["one image", "all images"])
def test_empty_masks_give_finite_losses_and_gradients(empty: list[int]) -> None:
    c = case()
    c["foreground"][empty] = 0
    logits, of_warped = c["logits"].requires_grad_(), torch.randn(3, 4, 24, 20, requires_grad=True)
    found = all_losses(c, logits, of_warped)
    sum(found.values()).backward()
    assert all(loss.isfinite() for loss in found.values())
    assert logits.grad.isfinite().all() and of_warped.grad.isfinite().all()
    assert logits.grad[empty].abs().max() == 0
    if len(empty) == 3:
        assert found["feature"] == found["visual"] == found["equivariance"] == 0


def test_a_part_that_no_pixel_wants_gives_finite_losses_and_gradients() -> None:
    c = case()
    logits, of_warped = c["logits"], torch.randn(3, 4, 24, 20, requires_grad=True)
    logits[:, 0] = -200.0
    logits.requires_grad_()
    found = all_losses(c, logits, of_warped)
    sum(found.values()).backward()
    assert all(loss.isfinite() for loss in found.values())
    assert logits.grad.isfinite().all()


def test_one_image_is_enough_for_all_but_the_contrastive_loss() -> None:
    c = case(num_images=1)
    found = all_losses(c, c["logits"], torch.randn(1, 4, 24, 20))
    assert all(loss.isfinite() and loss > 0 for loss in found.values())
    with pytest.raises(ValueError, match="batch of 2 or more"):
        contrastive_loss(torch.randn(1, 4, 8), 0.19, torch.zeros(1, 4, dtype=torch.int64))


@pytest.mark.parametrize(
    "call",
    [
        lambda: contrastive_loss(torch.randn(3, 4, 8), 0.19, torch.zeros(3, 4, dtype=torch.int64), negatives="none"),
        lambda: draw_positives(3, 4, np.random.default_rng(0), rule="random"),
        lambda: equivariance_loss(*[torch.zeros(1, 2, 4, 4)] * 4, formula="both"),
    ],
)
def test_unknown_choices_are_refused(call: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        call()


def test_autocast_and_half_precision_features_leave_the_arithmetic_in_float32() -> None:
    c = case()
    c["deep"], c["shallow"] = c["deep"].bfloat16(), c["shallow"].bfloat16()
    of_warped = torch.randn(3, 4, 24, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = all_losses(c, c["logits"], of_warped)
    c["deep"], c["shallow"] = c["deep"].float(), c["shallow"].float()
    for name, expected in all_losses(c, c["logits"], of_warped).items():
        assert found[name].dtype == torch.float32
        assert float(found[name]) == pytest.approx(float(expected), rel=1e-6), name


def test_arguments_may_be_given_by_name() -> None:
    c = case()
    masks, features = c["logits"].softmax(1), [c["deep"]]
    by_name = feature_loss(part_masks=masks, features=features, foreground=c["foreground"])
    assert by_name == feature_loss(masks, features, c["foreground"])


def test_channels_last_inputs_give_the_same_losses() -> None:
    c = case()
    of_warped = torch.randn(3, 4, 24, 20)
    expected = all_losses(c, c["logits"], of_warped)
    last = {name: tensor.contiguous(memory_format=torch.channels_last) for name, tensor in c.items()}
    found = all_losses(last, last["logits"], of_warped.contiguous(memory_format=torch.channels_last))
    for name in expected:
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-5), name


def test_training_works_after_an_evaluation_under_inference_mode() -> None:
    c = case(size=(23, 19))  # a size of its own, so that this test is the first to make its matrices
    with torch.inference_mode():
        feature_loss(c["logits"].softmax(1), [c["deep"]], c["foreground"])
    logits = c["logits"].requires_grad_()
    feature_loss(logits.softmax(1), [c["deep"]], c["foreground"]).backward()
    assert logits.grad.abs().sum() > 0


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation, forward or backward, makes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, list | tuple) else [result]:
            if isinstance(value, Tensor):
                self.size = max(self.size, value.untyped_storage().nbytes() // value.element_size())
        return result


def test_features_are_never_brought_up_to_full_size() -> None:
    num_images, num_parts, channels, size = 2, 3, 64, 32
    masks = torch.randn(num_images, num_parts, size, size, requires_grad=True).softmax(1)
    features = [torch.randn(num_images, channels, 4, 4)]
    foreground = torch.ones(num_images, 1, size, size)
    with LargestTensor() as largest:
        loss = feature_loss(masks, features, foreground)
        loss = loss + part_descriptors(masks, features, foreground).square().sum()
        loss.backward()
    # The masks themselves are the largest that is needed; upsampled features would be channels / K times larger.
    assert 0 < largest.size <= num_images * num_parts * size * size
