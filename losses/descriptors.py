"""Part descriptors: the mean perceptual feature of each part (paper, section 3)."""

from torch import Tensor

from losses.pooling import feature_sums
from losses.precision import full_precision

EPSILON = 1e-7  # release


@full_precision
def part_descriptors(part_masks: Tensor, features: list[Tensor], foreground: Tensor) -> Tensor:
    """z_k = sum_u m_u M_ku phi_u / sum_u m_u M_ku, phi upsampled bilinearly (corners aligned) to the masks' size.

    Args:
        part_masks: (N, K, H, W) soft part masks, the softmax over parts, before masking.
        features: small feature maps (N, C_i, h_i, w_i).
        foreground: (N, 1, H, W) in [0, 1].

    Returns:
        (N, K, sum of C_i), not normalised; zeros, with zero gradient, for an image with an empty mask.
    """
    masks = part_masks * foreground
    return feature_sums(masks, features) / (masks.sum((2, 3)) + EPSILON)[..., None]
