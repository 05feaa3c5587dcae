"""ULD's losses: signs, bounds, zeros, and what they do not see."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from datasets.transforms.warp import control_points, move_control_points, sampling_grid
from losses.landmarks import EPSILON, landmarks, soft_masks
from losses.reconstruction import perceptual_reconstruction_loss, reconstruction_loss
from losses.separation import separation_loss
from losses.uld_concentration import uld_concentration_loss
from losses.uld_equivariance import uld_equivariance_loss
from tests import uld_formulas
from tests.properties import seeds, tried

WIDTH = 0.08


@dataclass(repr=False)
class Case:
    """What the losses see of a batch: N images, K landmarks and a background."""

    logits: Tensor
    of_warped: Tensor
    grid: Tensor
    image: Tensor
    rebuilt: Tensor

    def __repr__(self) -> str:
        logits = f"logits {tuple(self.logits.shape)} {self.logits.dtype} up to {self.logits.abs().max():.3g}"
        return f"<{logits}, rebuilt up to {self.rebuilt.abs().max():.3g}>"

    def of(self, images: Tensor, parts: Tensor) -> Self:
        """The images and landmarks of these indices; the background stays the first channel."""
        channels = torch.cat([torch.zeros(1, dtype=torch.int64), parts + 1])
        logits, of_warped = self.logits[images][:, channels], self.of_warped[images][:, channels]
        rest = {name: getattr(self, name)[images] for name in ("grid", "image", "rebuilt")}
        return replace(self, logits=logits, of_warped=of_warped, **rest)


@st.composite
def cases(draw, largest=1e30) -> Case:
    """One to four images of odd and even sizes, one to eight landmarks."""
    n, k = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    h, w = draw(st.integers(2, 12)), draw(st.integers(2, 12))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    scale = draw(st.sampled_from([scale for scale in (0.0, 0.1, 3.0, 1e3, 1e30) if scale <= largest]))
    rng, points = np.random.default_rng(draw(seeds)), control_points(3)
    moved = [
        move_control_points(
            points, rng.normal(0, 0.1, points.shape), rng.uniform(0.6, 1.5), rng.normal(), rng.uniform(-0.3, 0.3, 2)
        )
        for _ in range(n)
    ]

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(dtype)

    return Case(
        logits=tensor(scale * rng.normal(size=(n, k + 1, h, w))),
        of_warped=tensor(scale * rng.normal(size=(n, k + 1, h, w))),
        grid=sampling_grid(np.stack(moved), h, w).to(dtype),
        image=tensor(rng.random((n, 3, h, w))),
        rebuilt=tensor(rng.normal(size=(n, 3, h, w))),
    )


def all_losses(case: Case) -> dict[str, Tensor]:
    (centres, deviations), (of_warped, _) = (
        landmarks(logits.softmax(1)[:, 1:]) for logits in (case.logits, case.of_warped)
    )
    return {
        "concentration": uld_concentration_loss(deviations),
        "separation": separation_loss(centres, WIDTH),
        "equivariance": uld_equivariance_loss(centres, of_warped, case.grid),
        "reconstruction": reconstruction_loss(case.rebuilt, case.image),
        "perceptual": perceptual_reconstruction_loss([case.rebuilt, case.rebuilt[:, :1]], [case.image] * 2),
    }


def rounding(case: Case, added: float = 0.0) -> dict[str, float]:
    """How far rounding may move each loss: epsilon, times the summands in the longest sum, times their size.

    Centres are off by epsilon times their pixels' number; the separation has a slope of at most 1 / b for each of its
    pairs, the equivariance of 2 times the largest distance, and of what the warp magnifies by, 3 at most for these.

    Args:
        added: how far something else may move a centre or a deviation's square.
    """
    n, channels, h, w = case.logits.shape
    eps, k = torch.finfo(case.logits.dtype).eps, case.logits.shape[1] - 1
    of_centre = 8 * eps * (h * w + 16) + added
    largest = float(case.grid.abs().max()) + 2
    squares = float((case.rebuilt - case.image).square().sum() + case.image.square().sum())
    return {
        "concentration": 17.08 * k * of_centre + 17.08 * k * 1e-10,
        "separation": k * (k - 1) * of_centre / WIDTH,
        "equivariance": k * 2 * largest * 12 * max(h, w) * of_centre,
        "reconstruction": 8 * eps * (3 * h * w + 16) * squares,
        "perceptual": 8 * eps * (3 * h * w + 16) * squares / float(case.image[:, :1].square().sum((1, 2, 3)).min()),
    }


def assert_same_losses(case: Case, other: Case) -> None:
    found, expected, bounds = all_losses(other), all_losses(case), rounding(case)
    for name in expected:
        assert abs(float(found[name]) - float(expected[name])) <= 2 * bounds[name], name


@tried(60)
@given(cases())
def test_no_loss_is_negative_or_not_finite_and_no_gradient_is_not_finite(case):
    inputs = [case.logits, case.of_warped, case.rebuilt]
    for tensor in inputs:
        tensor.requires_grad_()
    found = {name: loss for name, loss in all_losses(case).items() if name != "perceptual"}
    for name, loss in found.items():
        assert loss.isfinite() and float(loss.detach()) >= 0, name
    sum(found.values()).backward()
    assert all(tensor.grad.isfinite().all() for tensor in inputs)


@tried(60)
@given(cases(), seeds)
def test_relabelling_the_landmarks_and_reordering_the_images_change_no_loss(case, seed):
    rng = np.random.default_rng(seed)
    counts = (len(case.logits), case.logits.shape[1] - 1)
    assert_same_losses(case, case.of(*(torch.from_numpy(rng.permutation(count)) for count in counts)))


@tried(40)
@given(cases())
def test_every_loss_of_a_batch_is_the_mean_of_its_images_losses(case):
    parts = torch.arange(case.logits.shape[1] - 1)
    apart = [all_losses(case.of(torch.tensor([n]), parts)) for n in range(len(case.logits))]
    found, bounds = all_losses(case), rounding(case)
    for name, loss in found.items():
        expected = sum(float(alone[name]) for alone in apart) / len(apart)
        assert abs(float(loss) - expected) <= 2 * bounds[name], name


@tried(40)
@given(cases(largest=3.0))
def test_losses_are_their_formulas_at_any_size(case):
    (centres, deviations), (of_warped, _) = (
        uld_formulas.landmarks(logits.softmax(1)[:, 1:]) for logits in (case.logits, case.of_warped)
    )
    lightest = min(float(logits.softmax(1).sum((2, 3)).min()) for logits in (case.logits, case.of_warped))
    found, bounds = all_losses(case), rounding(case, added=4 * EPSILON * case.logits[0, 0].numel() / lightest)
    expected = {
        "concentration": uld_formulas.concentration(deviations),
        "separation": uld_formulas.separation(centres, WIDTH),
        "equivariance": uld_formulas.equivariance(centres, of_warped, case.grid),
        "reconstruction": uld_formulas.reconstruction(case.rebuilt, case.image),
        "perceptual": uld_formulas.perceptual_reconstruction([case.rebuilt, case.rebuilt[:, :1]], [case.image] * 2),
    }
    assert expected.keys() == found.keys()
    for name in expected:
        assert abs(float(found[name] - expected[name])) <= 2 * bounds[name], name


@tried(60)
@given(cases())
def test_landmarks_are_within_the_picture_and_turn_with_it(case):
    maps = case.logits.softmax(1)[:, 1:]
    tolerance = 8 * torch.finfo(maps.dtype).eps * (maps[0, 0].numel() + 16)
    centres, deviations = landmarks(maps)
    ends = torch.tensor([0.5 / size for size in reversed(maps.shape[-2:])], dtype=maps.dtype)
    assert (centres >= ends - tolerance).all() and (centres <= 1 - ends + tolerance).all()
    assert (deviations <= 0.5 + tolerance).all()
    assert ((landmarks(maps.mT)[0] - centres.flip(2)).abs() <= tolerance).all()
    assert ((landmarks(maps.flip(3))[0][..., 0] - (1 - centres[..., 0])).abs() <= tolerance).all()


@tried(60)
@given(cases())
def test_concentration_and_separation_lie_between_their_bounds_and_soft_masks_add_up_to_one(case):
    num_parts = case.logits.shape[1] - 1
    found, bounds = all_losses(case), rounding(case)
    assert found["concentration"] <= 17.08 * num_parts / 4 + bounds["concentration"]
    assert found["separation"] <= num_parts * (num_parts - 1) + bounds["separation"]
    centres, _ = landmarks(case.logits.softmax(1)[:, 1:])
    masks = soft_masks(centres, 0.125, case.image.shape[-2:])
    assert (masks >= 0).all() and ((masks.sum(1) - 1).abs() <= 16 * torch.finfo(masks.dtype).eps).all()
