"""Equivariance loss L_e: warping the image warps its parts."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from losses.precision import full_precision

EPSILON = 1e-7  # release


@full_precision
def equivariance_loss(
    logits: Tensor,
    logits_of_warped_image: Tensor,
    grid: Tensor,
    foreground: Tensor,
    formula: Literal["release", "paper"] = "release",
    normalisation: Literal["release", "paper"] = "release",
) -> Tensor:
    """Divergence of the warped parts of the image from the parts of the warped image, over the warped foreground.

    With p = softmax(T(logits)) and q = softmax(logits of T(image)):
    ``"release"``: L_e = mean_n 1/|T(m)| sum_u T(m)_u KL(p_u || q_u), no gradient through p;
    ``"paper"`` (section 3): KL(p_u || q_u) + KL(q_u || p_u), gradients through both, with the release's weights.

    Args:
        logits: (N, K, H, W) of the image, full size.
        logits_of_warped_image: (N, K, H, W), full size.
        grid: (N, H, W, 2) sampling grid of T, x then y in [-1, 1] at the corner pixels' centres.
        foreground: (N, 1, H, W) in [0, 1], not warped; T(m) is soft.
        formula: see above.
        normalisation: ``"paper"`` sums over pixels and images, as the paper writes it.

    Returns:
        Scalar: a mean over the images of the batch. An image with an empty warped mask adds 0, with zero gradient;
        N = 1 is allowed.

    Raises:
        ValueError: unknown formula.
    """
    if formula not in ("release", "paper"):
        raise ValueError(f"formula must be 'release' or 'paper', not {formula!r}")
    if formula == "release":
        logits = logits.detach()
    weight = F.grid_sample(foreground, grid, align_corners=True)[:, 0]
    log_p = F.grid_sample(logits, grid, align_corners=True).log_softmax(1)
    log_q = logits_of_warped_image.log_softmax(1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(1)
    if formula == "paper":
        divergence = divergence + (log_q.exp() * (log_q - log_p)).sum(1)
    per_image = (weight * divergence).sum((1, 2))
    if normalisation == "paper":
        return per_image.sum()
    return (per_image / (weight.sum((1, 2)) + EPSILON)).mean()
