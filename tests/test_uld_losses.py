"""The losses of ULD: what must hold of them, the formulas written naively, and the edges."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.transforms.warp import control_points, move_control_points, sampling_grid
from losses.landmarks import gaussians, landmarks, soft_masks
from losses.reconstruction import perceptual_reconstruction_loss, reconstruction_loss
from losses.separation import separation_loss
from losses.uld_concentration import uld_concentration_loss
from losses.uld_equivariance import uld_equivariance_loss
from tests import uld_formulas
from tests.test_losses import relative


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def maps(num_images: int = 3, num_parts: int = 4, size: tuple[int, int] = (24, 20)) -> Tensor:
    return (2 * torch.randn(num_images, num_parts + 1, *size)).softmax(1)[:, 1:]


def grids(num_images: int = 3, size: tuple[int, int] = (24, 20), noise: float = 0.1) -> Tensor:
    rng, points = np.random.default_rng(0), control_points(5)
    moved = [
        move_control_points(
            points,
            noise * rng.normal(size=points.shape),
            rng.uniform(0.7, 1.4),
            rng.uniform(-0.5, 0.5),
            rng.uniform(-0.3, 0.3, 2),
        )
        for _ in range(num_images)
    ]
    return sampling_grid(np.stack(moved), *size)


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


# --- what must hold ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixel", [(0, 0), (6, 5), (7, 19)])
def test_the_landmark_of_a_map_of_one_pixel_is_its_centre(pixel):
    found = torch.zeros(1, 2, 8, 20)
    found[0, 0][pixel] = 0.7
    found[0, 1, 3, 4] = 1
    centres, deviations = landmarks(found)
    assert centres[0, 0].tolist() == pytest.approx([(pixel[1] + 0.5) / 20, (pixel[0] + 0.5) / 8], abs=1e-6)
    assert deviations.max() < 1e-4


@pytest.mark.parametrize("num_parts", [2, 4, 10])
def test_the_separation_of_landmarks_that_coincide_is_the_number_of_ordered_pairs(num_parts):
    centres = torch.rand(3, 1, 2).expand(3, num_parts, 2)
    assert float(separation_loss(centres, 0.08)) == pytest.approx(num_parts * (num_parts - 1), rel=1e-6)


@pytest.mark.parametrize("deviation", [0.03, 0.08])
def test_the_concentration_of_a_gaussian_is_17_08_times_its_variance(deviation):
    centres, deviations = torch.tensor([[[0.5, 0.4], [0.45, 0.55]]]), torch.tensor([[deviation, deviation]])
    found = landmarks(gaussians(centres, deviations, (200, 160)))
    assert (found[0] - centres).abs().max() < 1e-4
    assert float(uld_concentration_loss(found[1])) == pytest.approx(2 * 17.08 * deviation**2, rel=1e-3)


def test_the_equivariance_of_a_detector_that_follows_the_warp_is_zero():
    """The landmark of a spot in the warped picture goes back to where the spot was."""
    height, width = 64, 48
    grid = grids(4, (height, width), noise=0.03)
    of_warped = 0.25 + 0.5 * torch.rand(4, 5, 2)
    centres = torch.stack([torch.stack([uld_formulas.come_from(place, own) for place in image])
                           for image, own in zip(of_warped, grid, strict=True)])  # fmt: skip
    assert float(uld_equivariance_loss(centres, of_warped, grid)) < 1e-9


def test_spots_that_are_warped_as_a_picture_is_have_next_to_no_equivariance_loss():
    """By the warp itself, not by the grid's numbers: a detector of colours on pictures of blurred spots."""
    size, points = (96, 96), control_points(7)
    moved = move_control_points(points, np.zeros_like(points), 1.2, 0.3, np.array([0.1, -0.05]))
    grid = sampling_grid(moved[None], *size)
    centres = torch.tensor([[[0.4, 0.45], [0.55, 0.6], [0.6, 0.35]]])
    spots = gaussians(centres, 0.04, size)
    of_warped = landmarks(torch.nn.functional.grid_sample(spots, grid, align_corners=True))[0]
    moved_apart = float((of_warped - centres).norm(dim=2).max())
    assert moved_apart > 0.03
    found = float(uld_equivariance_loss(landmarks(spots)[0], of_warped, grid))
    assert found < 1e-5 < float(uld_equivariance_loss(centres, centres, grid))


# --- the formulas, written naively ---------------------------------------------------------------------------------


def test_landmarks_are_the_naive_formula():
    given = maps()
    found, expected = landmarks(given), uld_formulas.landmarks(given.double())
    assert relative(found[0], expected[0]) < 1e-6 and relative(found[1], expected[1]) < 1e-6


def test_concentration_is_the_naive_formula_and_so_is_its_gradient():
    given = maps().requires_grad_()
    exact = given.detach().double().requires_grad_()
    found = uld_concentration_loss(landmarks(given)[1])
    expected = uld_formulas.concentration(uld_formulas.landmarks(exact)[1])
    assert relative(found, expected.detach()) < 1e-5
    assert relative(*gradients(found, given), *gradients(expected, exact)) < 1e-4


def test_separation_is_the_naive_formula_and_so_is_its_gradient():
    centres = torch.rand(3, 6, 2).requires_grad_()
    exact = centres.detach().double().requires_grad_()
    found, expected = separation_loss(centres, 0.08), uld_formulas.separation(exact, 0.08)
    assert relative(found, expected.detach()) < 1e-5
    assert relative(*gradients(found, centres), *gradients(expected, exact)) < 1e-4


def test_equivariance_is_the_naive_formula_and_its_gradient_reaches_both_pictures():
    inputs = [torch.rand(3, 4, 2).requires_grad_(), (0.05 + 0.9 * torch.rand(3, 4, 2)).requires_grad_()]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    grid = grids()
    found, expected = uld_equivariance_loss(*inputs, grid), uld_formulas.equivariance(*exact, grid.double())
    assert relative(found, expected.detach()) < 1e-5
    for gradient, wanted in zip(gradients(found, *inputs), gradients(expected, *exact), strict=True):
        assert gradient.abs().max() > 0 and relative(gradient, wanted) < 1e-4


def test_without_a_warp_equivariance_is_four_times_the_squared_distance_in_pictures_sides():
    points = control_points(5)
    still = sampling_grid(points[None], 24, 20)
    a, b = torch.tensor([[[0.3, 0.5]]]), torch.tensor([[[0.4, 0.3]]])
    assert float(uld_equivariance_loss(a, b, still)) == pytest.approx(4 * (0.1**2 + 0.2**2), rel=1e-4)


def test_reconstruction_is_half_the_squared_error_summed_over_pixels():
    rebuilt, image = torch.randn(2, 3, 6, 5).requires_grad_(), torch.rand(2, 3, 6, 5)
    found = reconstruction_loss(rebuilt, image)
    assert relative(found, uld_formulas.reconstruction(rebuilt.detach().double(), image.double())) < 1e-6
    assert relative(gradients(found, rebuilt)[0], (rebuilt.detach() - image) / 2) < 1e-6
    assert float(reconstruction_loss(image + 0.1, image)) == pytest.approx(0.5 * 0.01 * 90, rel=1e-4)


def test_perceptual_reconstruction_is_the_naive_formula_zero_for_the_picture_and_one_for_nothing():
    features = [torch.randn(2, 5, 6, 4), 100 * torch.randn(2, 7, 3, 2)]
    rebuilt = [(layer + torch.randn_like(layer)).requires_grad_() for layer in features]
    found = perceptual_reconstruction_loss(rebuilt, features)
    expected = uld_formulas.perceptual_reconstruction([layer.double() for layer in rebuilt], features)
    assert relative(found, expected.detach()) < 1e-5
    assert all(gradient.abs().max() > 0 for gradient in gradients(found, *rebuilt))
    assert float(perceptual_reconstruction_loss(features, features)) == 0
    nothing = [torch.zeros_like(layer) for layer in features]
    assert float(perceptual_reconstruction_loss(nothing, features)) == pytest.approx(1, rel=1e-5)


def test_soft_masks_are_the_naive_formula_add_up_to_one_and_have_the_background_first():
    centres, deviations = torch.rand(2, 3, 2), 0.05 + 0.2 * torch.rand(2, 3)
    found = soft_masks(centres, deviations, (12, 15))
    assert relative(found, uld_formulas.soft_masks(centres.double(), deviations.double(), 12, 15)) < 1e-5
    assert (found.sum(1) - 1).abs().max() < 1e-6
    alike = soft_masks(centres, torch.full_like(deviations, 0.1), (12, 15))
    assert (soft_masks(centres, 0.1, (12, 15)) - alike).abs().max() < 1e-6
    far = soft_masks(torch.tensor([[[0.1, 0.1]]]), 0.02, (50, 50))
    assert far[0, 0, -1, -1] == pytest.approx(1) and far[0, 1, 4, 4] > 0.99


# --- edges ---------------------------------------------------------------------------------------------------------


def test_maps_that_no_pixel_wants_or_one_pixel_has_alone_give_finite_losses_and_gradients():
    logits = torch.zeros(2, 5, 24, 20)
    logits[:, 1] = -300.0
    logits[:, 2] = -300.0
    logits[:, 2, 3, 4] = 300.0
    logits.requires_grad_()
    centres, deviations = landmarks(logits.softmax(1)[:, 1:])
    assert centres[0, 0].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)
    loss = uld_concentration_loss(deviations) + separation_loss(centres, 0.08)
    loss = loss + uld_equivariance_loss(centres, centres, grids(2)) + soft_masks(centres, deviations, (8, 8)).sum()
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_autocast_and_half_precision_inputs_leave_the_arithmetic_in_float32():
    halves = maps().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        centres, deviations = landmarks(halves)
        found = [centres, deviations, soft_masks(centres, deviations, (8, 8)), separation_loss(centres, 0.08)]
        found += [uld_concentration_loss(deviations), uld_equivariance_loss(centres, centres, grids())]
        found += [reconstruction_loss(halves[:, :3], halves[:, :3] * 0)]
    wide, spread = landmarks(halves.float())
    expected = [wide, spread, soft_masks(wide, spread, (8, 8)), separation_loss(wide, 0.08)]
    expected += [uld_concentration_loss(spread), uld_equivariance_loss(wide, wide, grids())]
    expected += [reconstruction_loss(halves[:, :3].float(), torch.zeros(3, 3, 24, 20))]
    for own, wanted in zip(found, expected, strict=True):
        assert own.dtype == torch.float32 and torch.equal(own, wanted)


def test_the_smallest_a_separation_can_be_is_that_of_landmarks_far_apart():
    centres = torch.tensor([[[0.1, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9]]])
    assert float(separation_loss(centres, 0.08)) < 1e-10
    near = centres.clone()
    near[0, 1] = torch.tensor([0.1 + 0.08, 0.1])
    assert float(separation_loss(near, 0.08)) == pytest.approx(2 * math.exp(-0.5), rel=1e-4)
