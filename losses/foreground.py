"""Foreground loss: the binary cross-entropy of supervised foreground networks. Not part of the paper."""

import torch.nn.functional as F
from torch import Tensor

from losses.precision import full_precision


@full_precision
def foreground_loss(logits: Tensor, foreground: Tensor) -> Tensor:
    """L = -mean_n mean_u [ m_u log s(x_u) + (1 - m_u) log(1 - s(x_u)) ], s the logistic function.

    Args:
        logits: (N, 1, H, W), x: above 0 where the object is predicted.
        foreground: (N, 1, H, W) in [0, 1], the mask m; soft where it was warped.

    Returns:
        Scalar: a mean over the pixels of all images.
    """
    return F.binary_cross_entropy_with_logits(logits, foreground)
