"""Visual consistency loss L_v: the pixels of a part have like colours."""

from typing import Literal

from torch import Tensor

from losses.pooling import spread
from losses.precision import full_precision

EPSILON = 1e-5  # release


@full_precision
def visual_consistency_loss(
    part_masks: Tensor, image: Tensor, foreground: Tensor, normalisation: Literal["release", "paper"] = "release"
) -> Tensor:
    """L_v = mean_n 1/|Omega| sum_k sum_u m_u M_ku ||I_u - mean_k||^2, mean_k the mean colour of part k.

    Paper, section 3; normalisation: release.

    Args:
        part_masks: (N, K, H, W) soft part masks, the softmax over parts, before masking.
        image: (N, 3, H, W), the clean, unwarped image, already in CIE Lab (L in 0..100); used as it stands.
        foreground: (N, 1, H, W) in [0, 1]; |Omega| is its sum.
        normalisation: ``"paper"`` sums over pixels and images, as the paper writes it.

    Returns:
        Scalar: a mean over the images of the batch. An image with an empty mask adds 0, with zero gradient; N = 1 is
        allowed.
    """
    masks = part_masks * foreground
    sums = masks.flatten(2) @ image.flatten(2).transpose(1, 2)
    per_image = spread(masks, sums, image.square().sum(1), EPSILON)
    if normalisation == "paper":
        return per_image.sum()
    return (per_image / (foreground.sum((1, 2, 3)) + EPSILON)).mean()
