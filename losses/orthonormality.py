"""Orthonormality loss of SCOPS: the features of two parts have nothing in common."""

import torch
from torch import Tensor

from losses.precision import full_precision

EPSILON = 1e-6  # release of SCOPS


@full_precision
def orthonormality_loss(basis: Tensor) -> Tensor:
    """L = sum_kl ((V V^T)_kl - [k = l])^2, V the rows relu(w_k) / sqrt(||relu(w_k)||^2 + 1e-6) (release of SCOPS).

    Args:
        basis: (K, C), any sign; negative entries count as 0 and get no gradient.

    Returns:
        Scalar: a sum over the K^2 pairs of parts; no image enters it. A row without positive entries adds 1.
    """
    rows = basis.relu()
    rows = rows / (rows.square().sum(1, keepdim=True) + EPSILON).sqrt()
    return (rows @ rows.T - torch.eye(len(rows), device=rows.device, dtype=rows.dtype)).square().sum()
