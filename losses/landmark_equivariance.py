"""Landmark equivariance loss of SCOPS: warping the picture moves the centres of its parts."""

from torch import Tensor

from losses.centres import part_centres


def landmark_equivariance_loss(part_masks_of_warped_picture: Tensor, warped_part_masks: Tensor) -> Tensor:
    """L = mean_nk,xy (c_k[M'] - c_k[M])^2, centres as in ``part_centres``; gradients through both (release of SCOPS).

    Args:
        part_masks_of_warped_picture: (N, K, H, W) in [0, 1], M' = softmax(f(T(I))) without the background's channel.
        warped_part_masks: (N, K, H, W) in [0, 1], M = softmax(T(f(I))) without the background's channel.

    Returns:
        Scalar: a mean over images, parts and both coordinates.
    """
    return (part_centres(part_masks_of_warped_picture) - part_centres(warped_part_masks)).square().mean()
