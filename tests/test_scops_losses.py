"""The losses of SCOPS against its release's own numbers, against the formulas written naively, and at the edges."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from losses.centres import part_centres
from losses.concentration import concentration_loss
from losses.landmark_equivariance import landmark_equivariance_loss
from losses.orthonormality import orthonormality_loss
from losses.scops_equivariance import scops_equivariance_loss
from losses.semantic_consistency import semantic_consistency_loss
from tests import scops_formulas
from tests.shared import GOLDEN
from tests.test_losses import LargestTensor, relative

SIZES_OF_MAPS = [[(3, 4)], [(3, 4), (12, 10)], [(1, 1), (24, 20), (2, 30)]]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(GOLDEN / "scops.npz").items()}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def parts(logits: Tensor) -> Tensor:
    """The parts' masks of logits whose first channel is the background's."""
    return logits.softmax(1)[:, 1:]


def case(sizes_of_maps: list[tuple[int, int]] = SIZES_OF_MAPS[1], num_images: int = 3) -> dict:
    """Four parts and a background, features like a ReLU's, a soft foreground with a hole, a basis of both signs."""
    foreground = torch.rand(num_images, 1, 24, 20)
    foreground[..., 9:12, 9:12] = 0
    features = [5 * torch.randn(num_images, 7 + i, *size).relu() for i, size in enumerate(sizes_of_maps)]
    return {
        "logits": 2 * torch.randn(num_images, 5, 24, 20),
        "other_logits": 2 * torch.randn(num_images, 5, 24, 20),
        "features": features,
        "foreground": foreground,
        "basis": torch.randn(4, sum(maps.shape[1] for maps in features)),
    }


def all_losses(c: dict) -> dict[str, Tensor]:
    """The losses of a case with the masks of its logits."""
    return {
        "concentration": concentration_loss(c["masks"]),
        "landmark_equivariance": landmark_equivariance_loss(c["masks"], c["other_masks"]),
        "equivariance": scops_equivariance_loss(c["logits"], c["other_logits"]),
        "semantic_consistency": semantic_consistency_loss(c["masks"], c["features"], c["foreground"], c["basis"]),
        "orthonormality": orthonormality_loss(c["basis"]),
    }


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


# --- the release's own numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["logits", "other_logits"])
def test_centres_agree_with_the_release(golden: dict[str, Tensor], name: str) -> None:
    assert relative(part_centres(parts(golden[name])), golden[f"centres_of_{name}"]) < 1e-4


GOLDEN_CASES: dict[str, tuple[Callable[..., Tensor], list[str]]] = {
    "concentration": (lambda g: concentration_loss(parts(g["logits"])), ["logits"]),
    "semantic_consistency": (
        lambda g: semantic_consistency_loss(
            parts(g["logits"]), [g["features"]], torch.ones_like(g["features"][:, :1]), g["basis"]
        ),
        ["logits", "basis"],
    ),
    "orthonormality": (lambda g: orthonormality_loss(g["basis"]), ["basis"]),
    "landmark_equivariance": (
        lambda g: landmark_equivariance_loss(parts(g["other_logits"]), parts(g["logits"])),
        ["logits", "other_logits"],
    ),
    "equivariance": (lambda g: scops_equivariance_loss(g["logits"], g["other_logits"]), ["other_logits"]),
}


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_losses_and_gradients_agree_with_the_release(golden: dict[str, Tensor], name: str) -> None:
    function, names = GOLDEN_CASES[name]
    inputs = {key: golden[key].clone().requires_grad_() for key in names}
    loss = function(golden | inputs)
    assert relative(loss, golden[name]) < 1e-4
    for key, gradient in zip(names, gradients(loss, *inputs.values()), strict=True):
        assert relative(gradient, golden[f"{name}_gradient_{key}"]) < 1e-4


# --- the formulas, written naively ---------------------------------------------------------------------------------


def test_centres_are_the_naive_formula_with_each_axis_over_its_own_size() -> None:
    masks = parts(case()["logits"])
    found = part_centres(masks)
    assert found.shape == (3, 4, 2)
    assert relative(found, scops_formulas.centres(masks.double())) < 1e-5


def test_a_parts_centre_is_x_before_y_in_two_i_over_s_minus_one() -> None:
    masks = torch.zeros(1, 1, 8, 20)
    masks[..., 6, 5] = 1e6  # so heavy that what is added to every pixel does not move it
    assert part_centres(masks)[0, 0].tolist() == pytest.approx([2 * 5 / 20 - 1, 2 * 6 / 8 - 1], abs=1e-5)


def test_small_parts_are_drawn_to_the_middle_by_what_is_added_to_every_pixel() -> None:
    masks = torch.zeros(1, 2, 256, 256)
    masks[:, 0, 255, 255] = 1
    added = 1e-3 * 256**2
    middle, corner = -1 / 256, 2 * 255 / 256 - 1
    expected = (added * middle + corner) / (added + 1)
    assert part_centres(masks)[0, 0].tolist() == pytest.approx([expected] * 2, abs=1e-6)
    assert part_centres(masks)[0, 1].tolist() == pytest.approx([middle] * 2, abs=1e-6)


def test_concentration_loss_is_the_naive_formula() -> None:
    logits = case()["logits"].requires_grad_()
    exact = logits.detach().double().requires_grad_()
    found, expected = concentration_loss(parts(logits)), scops_formulas.concentration(parts(exact))
    assert relative(found, expected.detach()) < 1e-5
    assert relative(*gradients(found, logits), *gradients(expected, exact)) < 1e-4


def test_landmark_equivariance_loss_is_the_naive_formula() -> None:
    c = case()
    inputs = [c["logits"].requires_grad_(), c["other_logits"].requires_grad_()]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    found = landmark_equivariance_loss(*map(parts, inputs))
    expected = scops_formulas.landmark_equivariance(*map(parts, exact))
    assert relative(found, expected.detach()) < 1e-5
    for gradient, wanted in zip(gradients(found, *inputs), gradients(expected, *exact), strict=True):
        assert relative(gradient, wanted) < 1e-4


def test_equivariance_loss_is_the_naive_formula() -> None:
    c = case()
    of_warped = c["other_logits"].requires_grad_()
    exact = of_warped.detach().double().requires_grad_()
    found = scops_equivariance_loss(c["logits"], of_warped)
    expected = scops_formulas.equivariance(c["logits"].double(), exact)
    assert relative(found, expected.detach()) < 1e-5
    assert relative(*gradients(found, of_warped), *gradients(expected, exact)) < 1e-4


@pytest.mark.parametrize("sizes_of_maps", SIZES_OF_MAPS, ids=str)
def test_semantic_consistency_loss_is_the_naive_formula_in_float32(sizes_of_maps: list[tuple[int, int]]) -> None:
    c = case(sizes_of_maps)
    inputs = [c["logits"].requires_grad_(), c["basis"].requires_grad_()]
    found = semantic_consistency_loss(parts(inputs[0]), c["features"], c["foreground"], inputs[1])

    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    features = [maps.double() for maps in c["features"]]
    expected = scops_formulas.semantic_consistency(parts(exact[0]), features, c["foreground"].double(), exact[1])
    assert relative(found, expected.detach()) < 1e-5
    for gradient, wanted in zip(gradients(found, *inputs), gradients(expected, *exact), strict=True):
        assert relative(gradient, wanted) < 1e-4


def test_orthonormality_loss_is_the_naive_formula() -> None:
    basis = case()["basis"]
    basis[2] = -basis[2].abs()  # a dead row
    basis.requires_grad_()
    exact = basis.detach().double().requires_grad_()
    found, expected = orthonormality_loss(basis), scops_formulas.orthonormality(exact)
    assert relative(found, expected.detach()) < 1e-5
    assert relative(*gradients(found, basis), *gradients(expected, exact)) < 1e-4


# --- what holds exactly --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_images", "num_parts", "size"), [(1, 4, 16), (3, 8, 24)])
def test_concentration_of_equal_logits_is_that_of_a_uniform_square(num_images: int, num_parts: int, size: int) -> None:
    loss = concentration_loss(parts(torch.full((num_images, num_parts + 1, size, size), 0.7)))
    assert float(loss) == pytest.approx(num_parts * (2 / 3) * (1 - 1 / size**2) / num_images, rel=1e-5)


def test_a_batchs_loss_is_the_mean_of_its_pieces_and_concentration_that_divided_by_their_number() -> None:
    c = case(num_images=6)

    def found(piece: slice) -> dict[str, float]:
        of_piece = {
            name: [maps[piece] for maps in value] if isinstance(value, list) else value[piece]
            for name, value in c.items()
            if name != "basis"
        }
        masks, others = parts(of_piece["logits"]), parts(of_piece["other_logits"])
        losses = all_losses(of_piece | {"basis": c["basis"], "masks": masks, "other_masks": others})
        return {name: float(loss) for name, loss in losses.items()}

    whole, pieces = found(slice(None)), [found(slice(first, first + 2)) for first in (0, 2, 4)]
    means = {name: sum(losses[name] for losses in pieces) / 3 for name in whole}
    means["concentration"] /= 3
    assert whole == pytest.approx(means, rel=1e-5)


def test_orthonormal_rows_cost_nothing() -> None:
    assert float(orthonormality_loss(torch.eye(5, 9))) == pytest.approx(0, abs=1e-5)
    assert float(orthonormality_loss(3 * torch.eye(5, 9) - 0.1 * (torch.eye(5, 9) == 0))) == pytest.approx(0, abs=1e-5)


def test_equal_rows_cost_one_for_every_pair_of_parts() -> None:
    rows = torch.rand(1, 9).expand(5, 9)
    assert float(orthonormality_loss(rows)) == pytest.approx(5**2 - 5, rel=1e-4)


def test_dead_rows_cost_one_each_and_have_finite_gradients() -> None:
    basis = torch.full((3, 6), -1.0, requires_grad=True)
    loss = orthonormality_loss(basis)
    assert loss == 3
    assert gradients(loss, basis)[0].abs().max() == 0


def test_a_basis_as_it_is_drawn_at_the_start_costs_what_it_does_in_the_release() -> None:
    # The squared cosine of two rows of |N(0, 1)| is (2 / pi)^2 = 0.405 for many channels.
    assert float(orthonormality_loss(torch.randn(8, 1024).abs())) == pytest.approx(0.405 * 8 * 7, rel=0.03)


def test_features_that_are_sums_of_the_basis_cost_nothing() -> None:
    masks, basis = parts(2 * torch.randn(2, 5, 16, 12)), torch.randn(4, 9)
    features = torch.einsum("nkhw,kc->nchw", masks, basis.relu())
    loss = semantic_consistency_loss(masks, [features[:, :4], features[:, 4:]], torch.ones(2, 1, 16, 12), basis)
    assert float(loss) == pytest.approx(0, abs=1e-6 * float(features.square().mean()))


def test_background_everywhere_costs_the_masked_features_squares() -> None:
    c = case([(24, 20)])
    loss = semantic_consistency_loss(torch.zeros(3, 4, 24, 20), c["features"], c["foreground"], c["basis"])
    expected = (c["foreground"] * c["features"][0]).square().mean()
    assert relative(loss, expected) < 1e-5


def test_a_network_that_follows_the_warp_costs_nothing() -> None:
    logits = case()["logits"]
    same = logits.clone()
    assert scops_equivariance_loss(logits, same) == 0
    assert landmark_equivariance_loss(parts(logits), parts(same)) == 0


def test_the_divergence_gives_the_warped_logits_no_gradient_and_the_centres_give_both() -> None:
    c = case()
    warped, of_warped = c["logits"].requires_grad_(), c["other_logits"].requires_grad_()
    scops_equivariance_loss(warped, of_warped).backward()
    assert warped.grad is None and of_warped.grad.abs().max() > 0
    for gradient in gradients(landmark_equivariance_loss(parts(of_warped), parts(warped)), warped, of_warped):
        assert gradient.abs().max() > 0


def test_pixels_that_the_warp_brings_in_count_in_the_divergence_as_uniform() -> None:
    of_warped = case()["other_logits"]
    uniform = torch.full((), 1 / 5)
    expected = (uniform * (uniform.log() - of_warped.log_softmax(1))).mean()
    assert relative(scops_equivariance_loss(torch.zeros_like(of_warped), of_warped), expected) < 1e-5


def test_negative_entries_of_the_basis_get_no_gradient() -> None:
    c = case()
    basis = c["basis"].requires_grad_()
    consistency = semantic_consistency_loss(parts(c["logits"]), c["features"], c["foreground"], basis)
    for loss in (consistency, orthonormality_loss(basis)):
        (gradient,) = gradients(loss, basis)
        assert gradient[basis < 0].abs().max() == 0
        assert (gradient[basis > 0] != 0).all()


# --- edges ---------------------------------------------------------------------------------------------------------


def test_empty_foregrounds_and_parts_that_no_pixel_wants_give_finite_losses_and_gradients() -> None:
    c = case()
    c["foreground"][0] = 0
    c["logits"][:, 1] = -200.0
    logits, other, basis = (c[name].requires_grad_() for name in ("logits", "other_logits", "basis"))
    found = [
        concentration_loss(parts(logits)),
        landmark_equivariance_loss(parts(other), parts(logits)),
        scops_equivariance_loss(logits, other),
        scops_equivariance_loss(other, logits),
        semantic_consistency_loss(parts(logits), c["features"], c["foreground"], basis),
    ]
    sum(found).backward()
    assert all(loss.isfinite() for loss in found)
    assert all(tensor.grad.isfinite().all() for tensor in (logits, other, basis))


def test_autocast_and_half_precision_inputs_leave_the_arithmetic_in_float32() -> None:
    c = case()
    c |= {"masks": parts(c["logits"]), "other_masks": parts(c["other_logits"])}

    def of_type(dtype: torch.dtype, values: dict) -> dict:
        return {
            name: [maps.to(dtype) for maps in value] if isinstance(value, list) else value.to(dtype)
            for name, value in values.items()
        }

    halves = of_type(torch.bfloat16, c)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = all_losses(halves) | {"centres": part_centres(halves["masks"])}
    widened = of_type(torch.float32, halves)
    for name, expected in (all_losses(widened) | {"centres": part_centres(widened["masks"])}).items():
        assert found[name].dtype == torch.float32, name
        assert torch.equal(found[name], expected), name


def test_features_are_never_brought_up_to_the_masks_size() -> None:
    num_images, num_parts, channels, size = 2, 3, 64, 32
    logits = torch.randn(num_images, num_parts + 1, size, size, requires_grad=True)
    basis = torch.randn(num_parts, 2 * channels, requires_grad=True)
    features = [torch.randn(num_images, channels, 4, 4), torch.randn(num_images, channels, 5, 6)]
    foreground = torch.rand(num_images, 1, size, size)
    with LargestTensor() as largest:
        semantic_consistency_loss(parts(logits), features, foreground, basis).backward()
    # The logits are the largest that is needed; one image's upsampled features are 16 times larger.
    assert 0 < largest.size <= logits.numel()
    with LargestTensor() as naive:
        scops_formulas.semantic_consistency(parts(logits), features, foreground, basis)
    assert naive.size >= 2 * channels * size * size
