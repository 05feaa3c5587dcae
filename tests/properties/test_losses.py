"""Losses: signs, bounds, zeros, and what they do not see."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import grid_sample

from benchmarks import formulas
from datasets.transforms import warp
from losses import feature
from losses.contrastive import contrastive_loss, draw_positives
from losses.descriptors import part_descriptors
from losses.equivariance import equivariance_loss
from losses.feature import feature_loss
from losses.foreground import foreground_loss
from losses.visual import visual_consistency_loss
from tests.properties import seeds, tried


@dataclass(repr=False)
class Case:
    """What the losses see of a batch: N images, K parts."""

    logits: Tensor
    logits_of_warped: Tensor
    features: list[Tensor]
    lab: Tensor
    foreground: Tensor
    grid: Tensor
    descriptors: Tensor
    positives: Tensor
    temperature: float
    negatives: str
    formula: str

    def __repr__(self) -> str:
        features = [tuple(one.shape[1:]) for one in self.features]
        areas = self.foreground.sum((1, 2, 3)).tolist()
        logits = f"logits {tuple(self.logits.shape)} {self.logits.dtype} up to {self.logits.abs().max():.3g}"
        return f"<{logits}, features {features}, foreground {areas}, {self.negatives}, {self.formula}>"

    @property
    def masks(self) -> Tensor:
        return self.logits.softmax(1)

    @property
    def eps(self) -> float:
        return torch.finfo(self.logits.dtype).eps


@st.composite
def cases(draw, dtypes=(torch.float32, torch.float64), largest=1e30) -> Case:
    """One to four images of odd and even sizes, one to sixteen parts, masks that are soft, hard, empty or one pixel."""
    n, k = draw(st.integers(1, 4)), draw(st.integers(1, 16))
    h, w = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    dtype = draw(st.sampled_from(dtypes))
    scale = draw(st.sampled_from([scale for scale in (0.0, 0.1, 3.0, 1e3, 1e30) if scale <= largest]))
    feature_scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    maps = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=2))
    kinds = draw(st.lists(st.sampled_from(["soft", "hard", "full", "empty", "pixel"]), min_size=n, max_size=n))
    rng = np.random.default_rng(draw(seeds))

    def tensor(values) -> Tensor:
        return torch.from_numpy(np.asarray(values)).to(dtype)

    def foreground(kind: str) -> np.ndarray:
        values = rng.random((h, w))
        pixel = np.zeros((h, w))
        pixel[rng.integers(h), rng.integers(w)] = 1
        return {
            "soft": values, "hard": values > 0.5, "full": pixel * 0 + 1, "empty": pixel * 0, "pixel": pixel
        }[kind][None]  # fmt: skip

    points = warp.control_points(3)
    moved = [
        warp.move_control_points(
            points,
            rng.uniform(-0.1, 0.1, points.shape),
            rng.uniform(0.5, 1.5),
            rng.uniform(-3, 3),
            rng.uniform(-1, 1, 2),
        )
        for _ in range(n)
    ]
    if n > 1:
        positives = draw_positives(n, k, rng)
    else:
        positives = torch.zeros(n, k, dtype=torch.int64)
    return Case(
        logits=tensor(scale * rng.normal(size=(n, k, h, w))),
        logits_of_warped=tensor(scale * rng.normal(size=(n, k, h, w))),
        features=[tensor(feature_scale * rng.normal(size=(n, c, *size))) for c, *size in maps],
        lab=tensor(rng.uniform((0, -100, -100), (100, 100, 100), (n, h, w, 3))).permute(0, 3, 1, 2),
        foreground=tensor(np.stack([foreground(kind) for kind in kinds])),
        grid=warp.sampling_grid(np.stack(moved), h, w).to(dtype),
        descriptors=tensor(rng.normal(size=(n, k, 6)) * (rng.random((n, k, 1)) < 0.9)),
        positives=positives,
        temperature=draw(st.sampled_from([0.07, 0.19, 1.0])),
        negatives=draw(st.sampled_from(["all_images", "other_images"])),
        formula=draw(st.sampled_from(["release", "paper"])),
    )


def all_losses(case: Case) -> dict[str, Tensor]:
    """The four losses; the contrastive one only of two images or more."""
    found = {
        "feature": feature_loss(case.masks, case.features, case.foreground),
        "visual": visual_consistency_loss(case.masks, case.lab, case.foreground),
        "equivariance": equivariance_loss(
            case.logits, case.logits_of_warped, case.grid, case.foreground, formula=case.formula
        ),
    }
    if len(case.logits) > 1:
        found["contrastive"] = contrastive_loss(
            case.descriptors, case.temperature, case.positives, negatives=case.negatives
        )
    return found


def rounding(case: Case) -> dict[str, float]:
    """How far rounding may move each loss: epsilon, times the summands in the longest sum, times their size.

    The consistency losses are differences of terms that are each no larger than the largest squares, the divergences
    of terms no larger than the logits, the contrastive loss of similarities of at most 1 / tau.
    """
    n, k, h, w = case.logits.shape
    squares = [sum(float(one.square().amax((2, 3)).sum()) for one in case.features)]
    squares.append(float(case.lab.square().amax((2, 3)).sum()) / n)
    summands = k * h * w + sum(one[0].numel() for one in case.features) + 16
    logits = max(float(case.logits.abs().max()), float(case.logits_of_warped.abs().max()))
    return {
        "feature": 4 * case.eps * summands * squares[0],
        "visual": 4 * case.eps * summands * squares[1],
        "equivariance": 8 * case.eps * summands * (logits + math.log(k) + 1),
        "contrastive": 8 * case.eps * (n * k + 16) * (1 / case.temperature + math.log(n * k)),
    }


def assert_same_losses(case: Case, other: Case) -> None:
    found, expected, bounds = all_losses(other), all_losses(case), rounding(case)
    for name in expected:
        assert abs(float(found[name]) - float(expected[name])) <= 2 * bounds[name], name


@tried(80)
@given(cases())
def test_no_loss_is_negative_or_not_finite(case):
    bounds = rounding(case)
    for name, loss in all_losses(case).items():
        assert loss.isfinite() and float(loss) >= -bounds[name], name


@tried(60)
@given(cases())
def test_every_gradient_is_finite(case):
    inputs = [case.logits, case.logits_of_warped, case.descriptors]
    for one in inputs:
        one.requires_grad_()
    sum(all_losses(case).values()).backward()
    for one in inputs:
        assert one.grad is None or one.grad.isfinite().all()


@tried(60)
@given(cases(), seeds)
def test_relabelling_the_parts_changes_no_loss(case, seed):
    order = torch.from_numpy(np.random.default_rng(seed).permutation(case.logits.shape[1]))
    relabelled = replace(
        case,
        logits=case.logits[:, order],
        logits_of_warped=case.logits_of_warped[:, order],
        descriptors=case.descriptors[:, order],
        positives=case.positives[:, order],
    )
    assert_same_losses(case, relabelled)


@tried(60)
@given(cases(), seeds)
def test_the_order_of_the_images_changes_no_loss(case, seed):
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(case.logits)))
    reordered = replace(
        case,
        logits=case.logits[order],
        logits_of_warped=case.logits_of_warped[order],
        features=[one[order] for one in case.features],
        lab=case.lab[order],
        foreground=case.foreground[order],
        grid=case.grid[order],
        descriptors=case.descriptors[order],
        positives=order.argsort()[case.positives[order]],
    )
    assert_same_losses(case, reordered)


@tried(40)
@given(cases())
def test_images_add_up_in_the_feature_loss_and_are_averaged_in_the_others(case):
    def alone(n: int) -> Case:
        one = slice(n, n + 1)
        features = [maps[one] for maps in case.features]
        names = ("logits", "logits_of_warped", "lab", "foreground", "grid", "descriptors", "positives")
        return replace(case, features=features, **{name: getattr(case, name)[one] for name in names})

    count, found, bounds = len(case.logits), all_losses(case), rounding(case)
    apart = [all_losses(alone(n)) for n in range(count)]
    for name, total in (("feature", 1), ("visual", count), ("equivariance", count)):
        expected = sum(float(one[name]) for one in apart) / total
        assert abs(float(found[name]) - expected) <= 2 * bounds[name], name


@tried(40)
@given(cases(largest=3.0))
def test_consistency_losses_are_their_formulas_at_any_size(case):
    phi = torch.cat([formulas.upsample(one, case.foreground.shape[-2:]) for one in case.features], dim=1)
    found, bounds = all_losses(case), rounding(case)
    expected = formulas.spread(case.masks, phi, case.foreground).sum()
    assert abs(float(found["feature"] - expected)) <= 2 * bounds["feature"]
    expected = formulas.spread(case.masks, case.lab, case.foreground).mean()
    assert abs(float(found["visual"] - expected)) <= 2 * bounds["visual"]


@tried(40)
@given(cases(), st.integers(-10, 10))
def test_consistency_losses_are_quadratic_in_features_and_colours(case, power):
    larger = replace(case, features=[one * 2.0**power for one in case.features], lab=case.lab * 2.0**power)
    found, expected = all_losses(larger), all_losses(case)
    for name in ("feature", "visual"):  # to the bit: a power of two rounds nothing
        assert float(found[name]) == float(expected[name]) * 4.0**power


def left_by_epsilon(case: Case, squares: float) -> float:
    """The most that the mean's epsilon leaves of what would cancel: m e^2 / (m + e)^2 <= m, e / 4, m a part's mass.

    Args:
        squares: the largest squared norm of what is averaged.
    """
    epsilon = feature.EPSILON
    areas = case.foreground.sum((1, 2, 3))
    return float((case.logits.shape[1] * areas.clamp(max=epsilon / 4) * squares / (areas + epsilon)).sum())


@tried(40)
@given(cases(dtypes=(torch.float64,)), seeds)
def test_consistency_losses_are_zero_where_each_part_has_one_feature(case, seed):
    n, k, h, w = case.logits.shape
    part = case.logits.argmax(1)
    hard = torch.nn.functional.one_hot(part, k).permute(0, 3, 1, 2).double()
    vectors = torch.from_numpy(np.random.default_rng(seed).uniform(-50, 50, (n, k, 3)))
    painted = torch.stack([one[labels] for one, labels in zip(vectors, part, strict=True)]).permute(0, 3, 1, 2)
    case = replace(case, features=[painted], lab=painted)
    tolerance = left_by_epsilon(case, float(vectors.square().sum(2).max()))
    bounds = rounding(case)
    assert abs(float(feature_loss(hard, [painted], case.foreground))) <= tolerance + bounds["feature"]
    assert abs(float(visual_consistency_loss(hard, painted, case.foreground))) <= tolerance + bounds["visual"]


@tried(40)
@given(cases(dtypes=(torch.float64,)), st.floats(-100, 100))
def test_consistency_losses_do_not_see_what_is_added_to_all_pixels(case, shift):
    moved = replace(case, features=[one + shift for one in case.features], lab=case.lab + shift)
    found, expected, bounds = all_losses(moved), all_losses(case), rounding(moved)
    # The epsilon leaves m e^2 / (m + e)^2 (||c||^2 + 2 c . mean) of a part, c the shift.
    for name, values in (("feature", case.features), ("visual", [case.lab])):
        channels = sum(one.shape[1] for one in values)
        largest = max(float(one.abs().max()) for one in values)
        tolerance = left_by_epsilon(case, channels * (shift**2 + 2 * abs(shift) * largest))
        assert abs(float(found[name] - expected[name])) <= tolerance + 2 * bounds[name], name


@tried(40)
@given(cases(dtypes=(torch.float64,)))
def test_two_parts_made_one_are_never_more_consistent(case):
    assume(case.logits.shape[1] > 1)
    parts = case.masks
    merged = torch.cat([parts[:, :1] + parts[:, 1:2], parts[:, 2:]], dim=1)
    bounds = rounding(case)
    for name, function, seen in (
        ("feature", feature_loss, case.features),
        ("visual", visual_consistency_loss, case.lab),
    ):
        values = seen if isinstance(seen, list) else [seen]
        squares = sum(float(one.square().sum(1).max()) for one in values)
        apart, together = (function(masks, seen, case.foreground) for masks in (parts, merged))
        assert float(together - apart) >= -left_by_epsilon(case, squares) - 2 * bounds[name], name


@tried(40)
@given(cases(), seeds)
def test_only_the_foreground_counts(case, seed):
    random = torch.Generator().manual_seed(seed)
    outside = case.foreground == 0
    unseen = grid_sample(case.foreground, case.grid, align_corners=True) == 0
    noise = torch.randn(case.logits.shape, generator=random, dtype=case.logits.dtype)
    changed = replace(
        case,
        logits=torch.where(outside, noise, case.logits),
        lab=torch.where(outside, noise[:, :1], case.lab),
        logits_of_warped=torch.where(unseen, noise, case.logits_of_warped),
    )
    found, expected = all_losses(changed), all_losses(case)
    assert found["feature"] == expected["feature"] and found["visual"] == expected["visual"]
    z, of_changed = (part_descriptors(one.masks, case.features, case.foreground) for one in (case, changed))
    assert torch.equal(z, of_changed)
    changed = replace(changed, logits=case.logits)  # those outside do reach the warped foreground's soft border
    assert all_losses(changed)["equivariance"] == expected["equivariance"]


@tried(40)
@given(cases(), seeds)
def test_the_equivariance_loss_is_zero_for_a_network_that_follows_the_warp(case, seed):
    def loss(of_warped: Tensor) -> float:
        return float(equivariance_loss(case.logits, of_warped, case.grid, case.foreground, formula=case.formula))

    following = grid_sample(case.logits, case.grid, align_corners=True)
    assert loss(following) == 0
    # The softmax does not see what is added to all parts of a pixel.
    shift = torch.from_numpy(np.random.default_rng(seed).uniform(-50, 50, (len(following), 1, *following.shape[2:])))
    shifted = following + shift.to(following.dtype)
    assert abs(loss(shifted)) <= rounding(replace(case, logits_of_warped=shifted))["equivariance"]


@tried(40)
@given(cases(largest=3.0))
def test_the_papers_equivariance_is_the_releases_in_both_directions(case):
    def loss(one: Tensor, other: Tensor, formula: str) -> float:
        return float(equivariance_loss(one, other, case.grid, case.foreground, formula=formula))

    # Logits that are the same all over a picture are left as they are by a warp that stays in it.
    case = replace(case, grid=case.grid.clamp(-1, 1))
    first, second = (one[..., :1, :1].expand(one.shape).contiguous() for one in (case.logits, case.logits_of_warped))
    both = loss(first, second, "release") + loss(second, first, "release")
    tolerance = 4 * rounding(case)["equivariance"]
    assert abs(loss(first, second, "paper") - both) <= tolerance
    assert abs(loss(second, first, "paper") - both) <= tolerance


@tried(60)
@given(cases())
def test_the_contrastive_loss_lies_between_its_bounds(case):
    assume(len(case.logits) > 1)
    n, k, _ = case.descriptors.shape
    loss = float(all_losses(case)["contrastive"])
    negatives = (n if case.negatives == "all_images" else n - 1) * (k - 1)
    # Similarities are in -1 / tau .. 1 / tau.
    low, high = (math.log1p(negatives * math.exp(sign * 2 / case.temperature)) for sign in (-1, 1))
    tolerance = rounding(case)["contrastive"]
    assert low - tolerance <= loss <= high + tolerance
    same = case.descriptors[:1, :1].expand(n, k, -1)
    collapsed = contrastive_loss(same, case.temperature, case.positives, negatives=case.negatives)
    assert abs(float(collapsed) - math.log1p(negatives)) <= tolerance
    if k == 2:
        opposite = torch.stack([torch.ones(n, 6), -torch.ones(n, 6)], dim=1).to(case.descriptors)
        best = contrastive_loss(opposite, case.temperature, case.positives, negatives=case.negatives)
        assert abs(float(best) - low) <= tolerance


@tried(40)
@given(cases(), seeds)
def test_the_contrastive_loss_sees_directions_alone(case, seed):
    assume(len(case.logits) > 1)
    rng = np.random.default_rng(seed)
    lengths = torch.from_numpy(2.0 ** rng.integers(-8, 9, (*case.descriptors.shape[:2], 1))).to(case.descriptors)
    longer = replace(case, descriptors=case.descriptors * lengths)
    assert all_losses(longer)["contrastive"] == all_losses(case)["contrastive"]  # powers of two round nothing
    rotation = torch.from_numpy(np.linalg.qr(rng.normal(size=(6, 6)))[0]).to(case.descriptors)
    turned = all_losses(replace(case, descriptors=case.descriptors @ rotation))["contrastive"]
    assert abs(float(turned - all_losses(case)["contrastive"])) <= 4 * rounding(case)["contrastive"]


@tried(60)
@given(st.integers(2, 9), st.integers(1, 16), st.sampled_from(["uniform", "release"]), seeds)
def test_positives_are_of_other_images(num_images, num_parts, rule, seed):
    assume(num_images > 2 or rule == "uniform")
    drawn = draw_positives(num_images, num_parts, np.random.default_rng(seed), rule)
    own = torch.arange(num_images)[:, None]
    assert drawn.shape == (num_images, num_parts) and 0 <= drawn.min() and drawn.max() < num_images
    assert (drawn != own).all()
    assert rule == "uniform" or (drawn != (own == 0).long()).all()


@tried(40)
@given(cases(), seeds)
def test_descriptors_follow_their_parts_and_images_and_lie_among_the_features(case, seed):
    rng = np.random.default_rng(seed)
    z = part_descriptors(case.masks, case.features, case.foreground)
    images, parts = (torch.from_numpy(rng.permutation(size)) for size in z.shape[:2])
    masks = case.masks[images][:, parts]
    moved = part_descriptors(masks, [one[images] for one in case.features], case.foreground[images])
    scale = torch.cat([one.abs().amax((2, 3)) for one in case.features], dim=1)
    bound = case.eps * (case.lab[0].numel() + 64) * scale[:, None]
    assert ((moved - z[images][:, parts]).abs() <= 2 * bound[images]).all()
    low = torch.cat([one.amin((2, 3)) for one in case.features], dim=1).clamp(max=0)[:, None]
    high = torch.cat([one.amax((2, 3)) for one in case.features], dim=1).clamp(min=0)[:, None]
    assert (z >= low - bound).all() and (z <= high + bound).all()


@tried(40)
@given(cases(), seeds)
def test_the_foreground_loss_is_symmetric_and_zero_for_the_sure_and_right(case, seed):
    logits, mask = case.logits[:, :1], case.foreground
    loss = foreground_loss(logits, mask)
    assert loss.isfinite() and loss >= 0
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(mask)))
    tolerance = case.eps * (mask.numel() + 8) * (float(logits.abs().max()) + 1)
    for same in (foreground_loss(-logits, 1 - mask), foreground_loss(logits[order], mask[order])):
        assert abs(float(same - loss)) <= tolerance
    hard = (mask > 0.5).to(mask.dtype)
    assert foreground_loss(1e4 * (2 * hard - 1), hard) == 0
