"""Contrastive loss L_c: a part's descriptor resembles the same part's in another image, and no other part's."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from losses.precision import full_precision

Negatives = Literal["all_images", "other_images"]
PositiveRule = Literal["uniform", "release", "same_image"]
Normalisation = Literal["release", "paper"]


def least_batch(rule: PositiveRule) -> int:
    """The fewest images from which :func:`draw_positives` can draw.

    Raises:
        ValueError: an unknown rule.
    """
    if rule not in ("uniform", "release", "same_image"):
        raise ValueError(f"positives must be drawn by the rule 'uniform', 'release' or 'same_image', not {rule!r}")
    return 3 if rule == "release" else 2


def draw_positives(num_images: int, num_parts: int, rng: np.random.Generator, rule: PositiveRule = "uniform") -> Tensor:
    """Draw for each anchor (image, part) the image that its positive, the same part, is taken from.

    Args:
        num_images: N, 2 or more (3 or more with ``"release"``).
        num_parts: K.
        rng: source of randomness.
        rule: ``"uniform"`` over the other images (paper), or ``"release"``: uniform over the other images except the
            first of them, which the released code leaves out; or ``"same_image"`` (an ablation of the paper): the
            anchor's own, for which the loss takes another view.

    Returns:
        (N, K) int64; except for ``"same_image"`` never an anchor's own image.

    Raises:
        ValueError: too few images, or an unknown rule.
    """
    if num_images < least_batch(rule):
        raise ValueError(
            f"the contrastive loss takes its positives from other images of the batch: the rule {rule!r} needs a batch "
            f"of {least_batch(rule)} or more, not {num_images}"
        )
    own = np.arange(num_images)[:, None]
    if rule == "same_image":
        return torch.from_numpy(own.repeat(num_parts, axis=1))
    first = 1 if rule == "release" else 0
    other = rng.integers(first, num_images - 1, size=(num_images, num_parts))
    return torch.from_numpy(other + (other >= own))


@full_precision
def contrastive_loss(
    descriptors: Tensor,
    temperature: float,
    positives: Tensor,
    negatives: Negatives = "all_images",
    other_view: Tensor | None = None,
    normalisation: Normalisation = "release",
) -> Tensor:
    """L_c = mean_nk -log [ e^(z_k^n . p / tau) / (e^(z_k^n . p / tau) + sum_ij e^(z_k^n . z_j^i / tau)) ].

    z are the L2-normalised descriptors and p = z_k^i that of the same part in the anchor's positive image. The sum
    over negatives runs over the parts j != k of all images (release) or of the images i != n (paper). The
    mean over the N K anchors is the release's, the paper writes a sum. Gradients flow through anchors, positives and
    negatives.

    Args:
        descriptors: (N, K, C), normalised here.
        temperature: tau.
        positives: (N, K), the image each anchor's positive comes from; see :func:`draw_positives`.
        negatives: ``"all_images"`` (release) or ``"other_images"`` (paper).
        other_view: (N, K, C), descriptors in another view of the same images, of which the positives are; None: they
            are of ``descriptors`` too.
        normalisation: the mean over anchors (``"release"``) or their sum (``"paper"``).

    Returns:
        Scalar. A descriptor of zeros (an empty mask) has similarity 0 to everything: the loss stays finite.

    Raises:
        ValueError: N = 1 (a batch of 2 or more is needed), or an unknown choice of negatives.
    """
    num_images, num_parts, _ = descriptors.shape
    if num_images < 2:
        raise ValueError("the contrastive loss compares images with each other: it needs a batch of 2 or more")
    if negatives not in ("all_images", "other_images"):
        raise ValueError(f"negatives must be 'all_images' or 'other_images', not {negatives!r}")

    anchors = F.normalize(descriptors, dim=2).flatten(0, 1)
    similarity = anchors @ anchors.T / temperature

    chosen = _rows(positives, descriptors)
    if other_view is None:
        positive = similarity.gather(1, chosen[:, None])
    else:
        of_view = F.normalize(other_view, dim=2).flatten(0, 1)[chosen]
        positive = (anchors * of_view).sum(1, keepdim=True) / temperature
    device = similarity.device
    excluded = torch.eye(num_parts, dtype=torch.bool, device=device).repeat(num_images, num_images)
    if negatives == "other_images":
        of_image = torch.eye(num_images, dtype=torch.bool, device=device)
        excluded = excluded | of_image.repeat_interleave(num_parts, 0).repeat_interleave(num_parts, 1)
    candidates = torch.cat([positive, similarity.masked_fill(excluded, -torch.inf)], dim=1)
    first = torch.zeros(len(candidates), dtype=torch.long, device=device)
    return F.cross_entropy(candidates, first, reduction="mean" if normalisation == "release" else "sum")


@full_precision
def descriptor_distance(
    descriptors: Tensor,
    positives: Tensor,
    other_view: Tensor | None = None,
    normalisation: Normalisation = "release",
    unit_length: bool = True,
) -> Tensor:
    """mean_nk ||z_k^n - p||^2, the paper's ablation "L2 instead of contrastive": nothing keeps parts apart.

    Args:
        descriptors, positives, other_view, normalisation: as for :func:`contrastive_loss`.
        unit_length: z are L2-normalised here, as in :func:`contrastive_loss`, whose weight this takes, so that the loss
            lies in [0, 4]; False: as they are, as the paper's formula has them.

    Returns:
        Scalar.
    """
    if unit_length:
        descriptors = F.normalize(descriptors, dim=2)
        other_view = None if other_view is None else F.normalize(other_view, dim=2)
    anchors = descriptors.flatten(0, 1)
    source = anchors if other_view is None else other_view.flatten(0, 1)
    per_anchor = (anchors - source[_rows(positives, descriptors)]).square().sum(1)
    return per_anchor.mean() if normalisation == "release" else per_anchor.sum()


def _rows(positives: Tensor, descriptors: Tensor) -> Tensor:
    """(N K): the row of each anchor's positive among flattened descriptors (N, K, C), on their device."""
    num_parts = descriptors.shape[1]
    if descriptors.is_cuda and not positives.is_cuda:
        positives = positives.pin_memory()  # from other memory the copy would not be under way when this goes on
    part = torch.arange(num_parts, device=descriptors.device)
    return (positives.to(descriptors.device, non_blocking=True) * num_parts + part).flatten()
