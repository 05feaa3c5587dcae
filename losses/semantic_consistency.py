"""Semantic consistency loss of SCOPS: the parts, times one feature each, rebuild the object's perceptual features."""

from torch import Tensor

from losses.pooling import feature_sums, squared_norms
from losses.precision import full_precision


@full_precision
def semantic_consistency_loss(part_masks: Tensor, features: list[Tensor], foreground: Tensor, basis: Tensor) -> Tensor:
    """L = mean over images, pixels and channels of (sum_k M_ku v_k - m_u phi_u)^2, v = relu(basis) (release of SCOPS).

    phi is upsampled bilinearly (corners aligned) to the masks' size, but never in memory: the square is multiplied
    out, sum_u ||V^T M_u - m_u phi_u||^2 = sum_u M_u^T V V^T M_u - 2 sum_k v_k . sum_u M_ku m_u phi_u
    + sum_u m_u^2 ||phi_u||^2, and its sums are those of ``losses.pooling``.

    Args:
        part_masks: (N, K, H, W) in [0, 1], the softmax over K + 1 channels without the background's, not masked.
        features: small feature maps (N, C_i, h_i, w_i).
        foreground: (N, 1, H, W) in [0, 1], m; soft values count as they are.
        basis: (K, C), C the sum of C_i, any sign; negative entries count as 0 and get no gradient.

    Returns:
        Scalar: a mean over the images of the batch. Pixels outside the foreground count: there the parts are to be
        empty.
    """
    basis = basis.relu()
    parts = part_masks.flatten(2)
    rebuilt = (parts @ parts.transpose(1, 2) * (basis @ basis.T)).sum()
    common = (feature_sums(part_masks * foreground, features) * basis).sum()
    seen = (foreground[:, 0].square() * squared_norms(features, like=part_masks)).sum()
    return (rebuilt - 2 * common + seen) / (foreground.numel() * basis.shape[1])
