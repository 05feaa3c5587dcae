"""Contrastive loss L_c: a part's descriptor resembles the same part's in another image, and no other part's."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from losses.precision import full_precision

Negatives = Literal["all_images", "other_images"]
PositiveRule = Literal["uniform", "release"]


def least_batch(rule: PositiveRule) -> int:
    """The fewest images from which :func:`draw_positives` can draw.

    Raises:
        ValueError: an unknown rule.
    """
    if rule not in ("uniform", "release"):
        raise ValueError(f"positives must be drawn by the rule 'uniform' or 'release', not {rule!r}")
    return 3 if rule == "release" else 2


def draw_positives(num_images: int, num_parts: int, rng: np.random.Generator, rule: PositiveRule = "uniform") -> Tensor:
    """Draw for each anchor (image, part) the image that its positive, the same part, is taken from.

    Args:
        num_images: N, 2 or more (3 or more with ``"release"``).
        num_parts: K.
        rng: source of randomness.
        rule: ``"uniform"`` over the other images (paper), or ``"release"``: uniform over the other images except the
            first of them, which the released code leaves out.

    Returns:
        (N, K) int64, never an anchor's own image.

    Raises:
        ValueError: too few images, or an unknown rule.
    """
    if num_images < least_batch(rule):
        raise ValueError(
            f"the contrastive loss takes its positives from other images of the batch: the rule {rule!r} needs a batch "
            f"of {least_batch(rule)} or more, not {num_images}"
        )
    first = 1 if rule == "release" else 0
    other = rng.integers(first, num_images - 1, size=(num_images, num_parts))
    own = np.arange(num_images)[:, None]
    return torch.from_numpy(other + (other >= own))


@full_precision
def contrastive_loss(
    descriptors: Tensor,
    temperature: float,
    positives: Tensor,
    negatives: Negatives = "all_images",
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

    image = torch.arange(num_images, device=descriptors.device).repeat_interleave(num_parts)
    part = torch.arange(num_parts, device=descriptors.device).repeat(num_images)
    anchors = F.normalize(descriptors, dim=2).flatten(0, 1)
    similarity = anchors @ anchors.T / temperature

    if descriptors.is_cuda and not positives.is_cuda:
        positives = positives.pin_memory()  # from other memory the copy would not be under way when this goes on
    chosen = positives.to(descriptors.device, non_blocking=True).flatten() * num_parts + part
    positive = similarity.gather(1, chosen[:, None])
    excluded = part[:, None] == part
    if negatives == "other_images":
        excluded = excluded | (image[:, None] == image)
    candidates = torch.cat([positive, similarity.masked_fill(excluded, -torch.inf)], dim=1)
    return (candidates.logsumexp(1) - positive[:, 0]).mean()
