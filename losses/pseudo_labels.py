"""Loss of pseudo-labels: the cross-entropy of what clustering has called each pixel (Caron et al., ECCV 2018)."""

import torch.nn.functional as F
from torch import Tensor

from losses.precision import full_precision


@full_precision
def pseudo_label_loss(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """L = sum_nu m_nu (-log softmax(x_nu)[l_nu]), over all pixels of all images.

    Args:
        logits: (N, k, H, W), x.
        labels: (N, 1, H, W) int64, l, 0.. k - 1.
        mask: (N, 1, H, W) float, m, 1 where a pixel counts.

    Returns:
        Scalar, a sum: log k for each pixel by chance.
    """
    return (F.cross_entropy(logits, labels[:, 0], reduction="none") * mask[:, 0]).sum()
