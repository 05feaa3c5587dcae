"""Feature loss L_f: the pixels of a part look alike to the perceptual network."""

from typing import Literal

from torch import Tensor

from losses.pooling import feature_sums, spread, squared_norms
from losses.precision import full_precision

EPSILON = 1e-5  # release


@full_precision
def feature_loss(
    part_masks: Tensor,
    features: list[Tensor],
    foreground: Tensor,
    normalisation: Literal["release", "paper"] = "release",
) -> Tensor:
    """L_f = sum_n 1/|Omega| sum_k sum_u m_u M_ku ||z_k - phi_u||^2 (paper, section 3; normalisation: release).

    phi is upsampled bilinearly (corners aligned) to the masks' size, but never in memory: see ``losses.pooling``.

    Args:
        part_masks: (N, K, H, W) soft part masks, the softmax over parts, before masking.
        features: small feature maps (N, C_i, h_i, w_i).
        foreground: (N, 1, H, W) in [0, 1]; |Omega| is its sum.
        normalisation: ``"paper"`` leaves out 1/|Omega|, as the paper writes it.

    Returns:
        Scalar: a sum over the images of the batch. An image with an empty mask adds 0, with zero gradient; N = 1 is
        allowed.
    """
    masks = part_masks * foreground
    squares = squared_norms(features, like=masks)
    per_image = spread(masks, feature_sums(masks, features), squares, EPSILON)
    if normalisation == "paper":
        return per_image.sum()
    return (per_image / (foreground.sum((1, 2, 3)) + EPSILON)).sum()
