"""Equivariance loss of SCOPS: warping the picture warps its parts and its background."""

from torch import Tensor

from losses.precision import full_precision


@full_precision
def scops_equivariance_loss(warped_logits: Tensor, logits_of_warped_picture: Tensor) -> Tensor:
    """L = mean over all elements of p (log p - log q), p = softmax(T(f(I))), q = softmax(f(T(I))) (release of SCOPS).

    No mask: where the warp brings in what was outside the picture, its logits are 0, p is 1 / (K + 1), and it counts.

    Args:
        warped_logits: (N, K + 1, H, W), with the background's channel, already warped; without gradient.
        logits_of_warped_picture: (N, K + 1, H, W), with the background's channel.

    Returns:
        Scalar: a mean over images, channels and pixels, so the mean divergence of a pixel divided by K + 1.
    """
    log_p = warped_logits.detach().log_softmax(1)
    log_q = logits_of_warped_picture.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).mean()
