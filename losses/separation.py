"""Separation loss of ULD: no two landmarks are in one place."""

import torch
from torch import Tensor

from losses.precision import full_precision


@full_precision
def separation_loss(centres: Tensor, width: float) -> Tensor:
    """L = mean_n sum_(i != j) exp(-||c_i - c_j||^2 / (2 b^2)), over ordered pairs (Zhang et al.'s release).

    Args:
        centres: (N, K, 2), shares of the picture's sides.
        width: b, in the same unit.

    Returns:
        Scalar: a sum over the pairs, K (K - 1) where all landmarks coincide; a mean over the images of the batch.
    """
    squares = (centres[:, :, None] - centres[:, None]).square().sum(3)
    others = 1 - torch.eye(centres.shape[1], device=centres.device, dtype=centres.dtype)
    return (torch.exp(-squares / (2 * width**2)) * others).sum((1, 2)).mean()
