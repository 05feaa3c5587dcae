"""Where a part is: the mean position of its mask (SCOPS, Hung et al., CVPR 2019)."""

import torch
from torch import Tensor

from losses.precision import full_precision

EPSILON = 1e-3  # release of SCOPS; at 256 x 256 pixels 65.5 pixels of mass, which draw small parts to the middle


def axes(part_masks: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each axis's coordinates and the parts' mass along it, x before y.

    With q_k = (M_k + 1e-3) / sum_u (M_k + 1e-3), a mean over q_k of what depends on one coordinate alone needs only
    the column or row sums of q_k.

    Args:
        part_masks: (N, K, H, W).

    Returns:
        Coordinates 2 i / S - 1, i = 0..S - 1, and the sums of q_k, which add up to 1: (W,) and (N, K, W), then (H,)
        and (N, K, H).
    """
    height, width = part_masks.shape[-2:]
    mass = part_masks.sum((2, 3)) + EPSILON * height * width
    return [
        (
            torch.arange(size, device=part_masks.device, dtype=part_masks.dtype) * 2 / size - 1,
            (part_masks.sum(across) + EPSILON * (height * width / size)) / mass[..., None],
        )
        for size, across in ((width, 2), (height, 3))
    ]


@full_precision
def part_centres(part_masks: Tensor) -> Tensor:
    """c_k = sum_u q_k(u) x_u, with q_k = (M_k + 1e-3) / sum_u (M_k + 1e-3) and x_u = 2 u / S - 1 (release of SCOPS).

    The middle of the picture is at -1 / S of an axis of S pixels, not at 0.

    Args:
        part_masks: (N, K, H, W) in [0, 1], the softmax over K + 1 channels without the background's.

    Returns:
        (N, K, 2), x before y, in [-1, 1 - 2 / S]. A part without any mass is in the middle.
    """
    return torch.stack([mass @ coordinates for coordinates, mass in axes(part_masks)], dim=2)
