"""Concentration loss of SCOPS: a part is in one place."""

from torch import Tensor

from losses.centres import axes
from losses.precision import full_precision


@full_precision
def concentration_loss(part_masks: Tensor) -> Tensor:
    """L = 1/N^2 sum_n sum_k sum_u q_k(u) ||x_u - c_k||^2, q_k, x and c_k as in ``part_centres`` (release of SCOPS).

    Args:
        part_masks: (N, K, H, W) in [0, 1], the softmax over K + 1 channels without the background's.

    Returns:
        Scalar: a sum over parts and images, divided by N twice, so the mean over the images is divided by N once more.
        Of R equal pieces of a batch, the whole batch's loss is the mean of the pieces' losses, divided by R.
    """
    variances = [
        (mass * (coordinates - (mass @ coordinates)[..., None]).square()).sum()
        for coordinates, mass in axes(part_masks)
    ]
    return sum(variances) / len(part_masks) ** 2
