"""The mutual information of two views' clusters: reference numbers, the formula written naively, and the edges."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import formulas
from losses import mutual_information_loss
from tests.shared import GOLDEN

KINDS = ("summed", "separate")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "mutual_information.npz") as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def case(num_images: int = 3, num_clusters: int = 4, size: tuple[int, int] = (9, 7), sharpness: float = 2.0):
    """Logits of two views that have something in common, in double precision, and a mask with a hole."""
    common = torch.randn(num_images, num_clusters, *size, dtype=torch.float64)
    logits = [sharpness * (common + torch.randn_like(common)) for _ in range(2)]
    mask = torch.ones(num_images, *size, dtype=torch.float64)
    mask[0, 2:5, 1:4] = 0
    mask[-1, :, 5:] = 0
    return *(given.requires_grad_() for given in logits), mask


@pytest.mark.parametrize(
    ("name", "window", "masked", "shifts"),
    [
        ("summed", False, False, "summed"),
        ("summed", False, False, "separate"),
        ("summed_window", True, False, "summed"),
        ("summed_window_masked", True, True, "summed"),
        ("per_shift_window", True, False, "separate"),
        ("per_shift_window_masked", True, True, "separate"),
    ],
)
def test_value_and_gradients_are_the_reference_ones(golden, name, window, masked, shifts):
    a, b = (golden[f"logits_{view}"].clone().requires_grad_() for view in "ab")
    mask = golden["mask"] if masked else None
    half_window = int(golden["half_window"]) if window else 0
    loss = mutual_information_loss(a.softmax(1), b.softmax(1), half_window, mask, shifts)
    loss.backward()
    assert loss.item() == pytest.approx(float(golden[name]), rel=1e-4)
    for view, given in (("a", a), ("b", b)):
        expected = golden[f"{name}_gradient_{view}"]
        assert (given.grad - expected).norm() < 1e-4 * expected.norm()


HARD = torch.tensor([[[[1.0, 0], [0, 1]], [[0, 1], [1, 0]]]])


@pytest.mark.parametrize(
    ("half_window", "shifts", "weight", "expected"),
    [
        (0, "summed", 1.0, -0.693147),
        (0, "separate", 1.5, -1.386294),
        (1, "separate", 1.0, -0.385082),
        (1, "separate", 1.5, -0.770164),
        (1, "summed", 1.0, 0.0),
        (1, "summed", 1.5, -0.693147),
    ],
)
def test_two_by_two_pixels_have_the_value_computed_by_hand(half_window, shifts, weight, expected):
    mask = torch.ones(1, 2, 2)
    loss = mutual_information_loss(HARD, HARD, half_window, mask, shifts, weight)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def two_classes(first: list[list[float]]) -> Tensor:
    first = torch.tensor(first, dtype=torch.float64)
    return torch.stack([first, 1 - first])[None]


SOFT = two_classes([[0.9, 0.2, 0.6], [0.3, 0.7, 0.5]]), two_classes([[0.8, 0.4, 0.5], [0.1, 0.6, 0.9]])


@pytest.mark.parametrize(
    ("half_window", "shifts", "weight", "expected"),
    [
        (0, "summed", 1.0, -0.0129742),
        (0, "summed", 1.5, -0.70264513),
        (1, "separate", 1.0, -0.01388022),
        (1, "separate", 1.5, -0.69396912),
        (1, "summed", 1.0, -0.00001559),
        (1, "summed", 1.5, -0.69109502),
    ],
)
def test_soft_clusters_have_the_value_computed_by_hand(half_window, shifts, weight, expected):
    loss = mutual_information_loss(*SOFT, half_window, shifts=shifts, marginal_weight=weight)
    assert loss.item() == pytest.approx(expected, abs=6e-8)


def test_a_joint_table_has_the_value_computed_by_hand():
    # Ten pictures of one pixel: six of y's cluster 0, four of 1, with x's share of each in that column of the table.
    columns = torch.tensor([[0.4, 0.2], [0.1, 0.3]], dtype=torch.float64)
    of_pictures = torch.tensor([0] * 6 + [1] * 4)
    x, y = (columns / columns.sum(1, keepdim=True))[of_pictures], torch.eye(2, dtype=torch.float64)[of_pictures]
    x, y = x[..., None, None], y[..., None, None]
    for weight, expected in ((1.0, -0.0794335), (1.5, -0.7675723)):
        assert mutual_information_loss(x, y, marginal_weight=weight).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("half_window", [0, 1, 3, 6])
@pytest.mark.parametrize("shifts", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradients_are_those_of_the_loop_over_shifts(half_window, shifts, masked):
    a, b, mask = case(num_images=9)  # more than go through the transforms at once
    mask = mask if masked else None
    found = mutual_information_loss(a.softmax(1), b.softmax(1), half_window, mask, shifts, 1.3)
    expected = formulas.mutual_information(a.softmax(1), b.softmax(1), half_window, mask, shifts, 1.3)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    for own, naive in zip(torch.autograd.grad(found, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True):
        assert (own - naive).norm() < 1e-8 * naive.norm()


def test_many_shifts_are_as_exact_in_single_precision_as_the_loop():
    a, b, mask = case(num_images=4, num_clusters=6, size=(40, 33), sharpness=8.0)
    mask = mask[:, :40, :33]
    found = mutual_information_loss(a.float().softmax(1), b.float().softmax(1), 10, mask.float(), "separate")
    expected = formulas.mutual_information(a.softmax(1), b.softmax(1), 10, mask, "separate", 1.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for own, naive in zip(torch.autograd.grad(found, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True):
        assert (own - naive).norm() < 1e-4 * naive.norm()


@pytest.mark.parametrize("shifts", KINDS)
def test_it_is_computed_in_single_precision_under_autocast(shifts):
    x, y = (torch.randn(2, 3, 8, 6).softmax(1) for _ in range(2))
    halves = x.bfloat16().requires_grad_(), y.bfloat16().requires_grad_()
    expected = mutual_information_loss(*(view.detach().float() for view in halves), 2, shifts=shifts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mutual_information_loss(*halves, 2, shifts=shifts)
    assert found.dtype == torch.float32 and found.item() == expected.item()
    found.backward()
    assert all(view.grad.dtype == torch.bfloat16 and view.grad.isfinite().all() for view in halves)


@pytest.mark.parametrize("shifts", KINDS)
@pytest.mark.parametrize("half_window", [0, 2])
def test_it_lies_between_no_information_and_that_of_as_many_clusters(shifts, half_window):
    num_clusters, size = 3, (12, 12)
    stripes = torch.arange(12).div(4, rounding_mode="floor").expand(size)
    hard = torch.nn.functional.one_hot(stripes, num_clusters).permute(2, 0, 1).double()[None]
    even = torch.full_like(hard, 1 / num_clusters)
    for weight in (1.0, 1.5):
        same = mutual_information_loss(hard, hard, half_window, None, shifts, weight).item()
        independent = mutual_information_loss(hard, even, half_window, None, shifts, weight).item()
        assert same >= (1 - 2 * weight) * math.log(num_clusters) - 1e-9
        if half_window == 0:
            assert same == pytest.approx((1 - 2 * weight) * math.log(num_clusters))
            assert independent == pytest.approx((2 - 2 * weight) * math.log(num_clusters))
    assert mutual_information_loss(even, even, half_window, None, shifts).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("shifts", KINDS)
def test_the_views_change_places_and_clusters_their_numbers(shifts):
    a, b, mask = case()
    x, y = a.softmax(1), b.softmax(1)
    expected = mutual_information_loss(x, y, 2, mask, shifts, 1.2).item()
    assert mutual_information_loss(y, x, 2, mask[:, None], shifts, 1.2).item() == pytest.approx(expected)
    order = [2, 0, 3, 1]
    assert mutual_information_loss(x[:, order], y[:, order], 2, mask, shifts, 1.2).item() == pytest.approx(expected)


def test_shifts_at_which_the_masks_do_not_overlap_count_as_nothing():
    a, b, _ = case(num_images=1)
    mask = torch.zeros(1, 9, 7)
    mask[0, 4, 2:5] = 1
    found = mutual_information_loss(a.float().softmax(1), b.float().softmax(1), 3, mask, "separate")
    x, y = a.softmax(1), b.softmax(1)
    overlapping = [formulas.joint_table(x * mask, y * mask, 0, right) for right in range(-2, 3)]
    expected = sum(formulas.information_of(table, 1.0) for table in overlapping) / 49
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    for own, naive in zip(torch.autograd.grad(found, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True):
        assert (own - naive).norm() < 1e-4 * naive.norm()


@pytest.mark.parametrize("shifts", KINDS)
def test_nothing_that_counts_and_certain_clusters_have_finite_gradients(shifts):
    a, b, mask = case()
    loss = mutual_information_loss(a.softmax(1), b.softmax(1), 1, 0 * mask, shifts)
    gradients = torch.autograd.grad(loss, (a, b))
    assert loss.item() == pytest.approx(0, abs=1e-9) and not any(gradient.any() for gradient in gradients)
    certain = torch.zeros(1, 3, 4, 4)
    certain[:, 1] = 1000
    certain.requires_grad_()
    loss = mutual_information_loss(certain.softmax(1), certain.softmax(1), 1, None, shifts)
    (gradient,) = torch.autograd.grad(loss, certain)
    assert loss.item() == pytest.approx(0, abs=1e-5) and gradient.isfinite().all()


def test_only_the_gradient_that_is_asked_for_is_needed():
    a, b, mask = case()
    loss = mutual_information_loss(a.softmax(1), b.detach().softmax(1), 2, mask, "separate")
    expected = mutual_information_loss(a.softmax(1), b.softmax(1), 2, mask, "separate")
    assert torch.autograd.grad(loss, a)[0].allclose(torch.autograd.grad(expected, a)[0])


def test_a_window_that_does_not_fit_and_unknown_shifts_are_refused():
    x = torch.full((1, 2, 5, 8), 0.5)
    with pytest.raises(ValueError, match="half_window must be at least 0 and less than the sides of 5 x 8: 5"):
        mutual_information_loss(x, x, 5)
    with pytest.raises(ValueError, match="shifts must be 'summed' or 'separate', not 'all'"):
        mutual_information_loss(x, x, 1, shifts="all")
