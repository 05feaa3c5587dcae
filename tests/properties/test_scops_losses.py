"""SCOPS's losses: signs, bounds, zeros, and what they do not see."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from losses.centres import part_centres
from losses.concentration import concentration_loss
from losses.landmark_equivariance import landmark_equivariance_loss
from losses.orthonormality import orthonormality_loss
from losses.scops_equivariance import scops_equivariance_loss
from losses.semantic_consistency import semantic_consistency_loss
from tests import scops_formulas
from tests.properties import seeds, tried


@dataclass(repr=False)
class Case:
    """What the losses see of a batch: N images, K parts and a background."""

    logits: Tensor
    other_logits: Tensor
    features: list[Tensor]
    foreground: Tensor
    basis: Tensor

    def __repr__(self) -> str:
        features = [tuple(maps.shape[1:]) for maps in self.features]
        logits = f"logits {tuple(self.logits.shape)} {self.logits.dtype} up to {self.logits.abs().max():.3g}"
        return f"<{logits}, features {features}, foreground {self.foreground.sum((1, 2, 3)).tolist()}>"

    @property
    def masks(self) -> Tensor:
        return self.logits.softmax(1)[:, 1:]

    @property
    def other_masks(self) -> Tensor:
        return self.other_logits.softmax(1)[:, 1:]

    def of(self, images: Tensor, parts: Tensor) -> Self:
        """The images and parts of these indices; the background stays the first channel."""
        channels = torch.cat([torch.zeros(1, dtype=torch.int64), parts + 1])
        return replace(
            self,
            logits=self.logits[images][:, channels],
            other_logits=self.other_logits[images][:, channels],
            features=[maps[images] for maps in self.features],
            foreground=self.foreground[images],
            basis=self.basis[parts],
        )


@st.composite
def cases(draw, largest=1e30) -> Case:
    """One to four images of odd and even sizes, one to eight parts, masks that are soft, hard or empty."""
    n, k = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    h, w = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    scale = draw(st.sampled_from([scale for scale in (0.0, 0.1, 3.0, 1e3, 1e30) if scale <= largest]))
    feature_scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    maps = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3))
    kinds = draw(st.lists(st.sampled_from(["soft", "hard", "empty"]), min_size=n, max_size=n))
    rng = np.random.default_rng(draw(seeds))

    def normal(scale: float, *shape: int) -> Tensor:
        return torch.from_numpy(scale * rng.normal(size=shape)).to(dtype)

    values = rng.random((n, 1, h, w))
    for kind, image in zip(kinds, values, strict=True):
        image[:] = {"soft": image, "hard": image > 0.5, "empty": 0}[kind]
    return Case(
        logits=normal(scale, n, k + 1, h, w),
        other_logits=normal(scale, n, k + 1, h, w),
        features=[normal(feature_scale, n, *shape) for shape in maps],
        foreground=torch.from_numpy(values).to(dtype),
        basis=normal(feature_scale, k, sum(c for c, _, _ in maps)),
    )


def all_losses(case: Case) -> dict[str, Tensor]:
    return {
        "concentration": concentration_loss(case.masks),
        "landmark_equivariance": landmark_equivariance_loss(case.masks, case.other_masks),
        "equivariance": scops_equivariance_loss(case.logits, case.other_logits),
        "semantic_consistency": semantic_consistency_loss(case.masks, case.features, case.foreground, case.basis),
        "orthonormality": orthonormality_loss(case.basis),
    }


def rounding(case: Case) -> dict[str, float]:
    """How far rounding may move each loss: epsilon, times the summands in the longest sum, times their size.

    Coordinates and centres are at most 1, so a part's variance at most 2; a pixel's rebuilt features are no larger
    than the largest row of the basis, as its parts are at most 1 in all; what is summed to a divergence is no larger
    than the logits.
    """
    n, channels, h, w = case.logits.shape
    eps = torch.finfo(case.logits.dtype).eps
    summands = channels * h * w + sum(maps[0].numel() for maps in case.features) + 16
    logits = max(float(case.logits.abs().max()), float(case.other_logits.abs().max()))
    squares = sum(float(maps.square().amax((2, 3)).sum(1).max()) for maps in case.features)
    squares += float(case.basis.square().sum(1).max())
    k, c = case.basis.shape
    return {
        "concentration": 4 * eps * summands * 2 * k / n,
        "landmark_equivariance": 4 * eps * summands * 4,
        "equivariance": 4 * eps * summands * (logits + np.log(channels) + 1),
        "semantic_consistency": 4 * eps * summands * 2 * squares / c,
        "orthonormality": 4 * eps * (c + 16) * k**2,
    }


def assert_same_losses(case: Case, other: Case) -> None:
    found, expected, bounds = all_losses(other), all_losses(case), rounding(case)
    for name in expected:
        assert abs(float(found[name]) - float(expected[name])) <= 2 * bounds[name], name


@tried(60)
@given(cases())
def test_no_loss_is_negative_or_not_finite_and_no_gradient_is_not_finite(case):
    bounds = rounding(case)
    inputs = [case.logits, case.other_logits, case.basis]
    for tensor in inputs:
        tensor.requires_grad_()
    found = all_losses(case)
    for name, loss in found.items():
        assert loss.isfinite() and float(loss.detach()) >= -bounds[name], name
    sum(found.values()).backward()
    assert all(tensor.grad.isfinite().all() for tensor in inputs)


@tried(60)
@given(cases(), seeds)
def test_relabelling_the_parts_and_reordering_the_images_change_no_loss(case, seed):
    rng = np.random.default_rng(seed)
    images, parts = (torch.from_numpy(rng.permutation(count)) for count in (len(case.logits), len(case.basis)))
    assert_same_losses(case, case.of(images, parts))


@tried(40)
@given(cases())
def test_concentration_adds_up_over_n_squared_and_images_are_averaged_in_the_other_losses(case):
    count, found, bounds = len(case.logits), all_losses(case), rounding(case)
    apart = [all_losses(case.of(torch.tensor([n]), torch.arange(len(case.basis)))) for n in range(count)]
    for name in ("concentration", "landmark_equivariance", "equivariance", "semantic_consistency"):
        total = count**2 if name == "concentration" else count
        expected = sum(float(alone[name]) for alone in apart) / total
        assert abs(float(found[name]) - expected) <= 2 * bounds[name], name


@tried(40)
@given(cases(largest=3.0))
def test_losses_are_their_formulas_at_any_size(case):
    masks, others = case.masks, case.other_masks
    found, bounds = all_losses(case), rounding(case)
    expected = {
        "concentration": scops_formulas.concentration(masks),
        "landmark_equivariance": scops_formulas.landmark_equivariance(masks, others),
        "equivariance": scops_formulas.equivariance(case.logits, case.other_logits),
        "semantic_consistency": scops_formulas.semantic_consistency(masks, case.features, case.foreground, case.basis),
        "orthonormality": scops_formulas.orthonormality(case.basis),
    }
    assert expected.keys() == found.keys()
    for name in expected:
        assert abs(float(found[name] - expected[name])) <= 2 * bounds[name], name


@tried(60)
@given(cases())
def test_centres_are_within_the_picture_and_turn_with_it(case):
    masks = case.masks
    height, width = masks.shape[-2:]
    tolerance = 4 * torch.finfo(masks.dtype).eps * (height * width + 16)
    centres = part_centres(masks)
    last = torch.tensor([2 * (size - 1) / size - 1 for size in (width, height)], dtype=masks.dtype)
    assert (centres >= -1 - tolerance).all() and (centres <= last + tolerance).all()
    assert ((part_centres(masks.mT) - centres.flip(2)).abs() <= tolerance).all()
    # Mirrored, coordinate 2 i / S - 1 becomes -2 / S minus it.
    assert ((part_centres(masks.flip(3))[..., 0] - (-2 / width - centres[..., 0])).abs() <= tolerance).all()


@tried(60)
@given(cases())
def test_concentration_and_orthonormality_lie_between_their_bounds(case):
    n, k = len(case.logits), len(case.basis)
    found, bounds = all_losses(case), rounding(case)
    # A variance is at most a quarter of the squared range, which is less than 2 for either axis.
    assert found["concentration"] <= 2 * k / n + bounds["concentration"]
    assert found["orthonormality"] <= k**2 + bounds["orthonormality"]


@tried(40)
@given(cases(), st.integers(-8, 8))
def test_consistency_is_quadratic_in_features_and_basis_together(case, power):
    larger = [maps * 2.0**power for maps in case.features]
    found = semantic_consistency_loss(case.masks, larger, case.foreground, case.basis * 2.0**power)
    expected = semantic_consistency_loss(case.masks, case.features, case.foreground, case.basis)
    assert float(found) == float(expected) * 4.0**power  # to the bit: a power of two rounds nothing


@tried(40)
@given(cases())
def test_parts_outside_the_foreground_cost_the_squares_of_what_they_rebuild(case):
    case = replace(case, basis=case.basis.abs())  # nothing of it is dead
    masks, outside = case.masks, case.foreground == 0

    def loss(part_masks: Tensor) -> Tensor:
        return semantic_consistency_loss(part_masks, case.features, case.foreground, case.basis)

    added = loss(masks) - loss(masks * ~outside)
    rebuilt = torch.einsum("nkhw,kc->nchw", masks * outside, case.basis)
    assert abs(float(added - rebuilt.square().mean())) <= 2 * rounding(case)["semantic_consistency"]
