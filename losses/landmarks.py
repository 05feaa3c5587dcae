"""Landmarks: where a map is and how far it spreads (ULD, Zhang et al., CVPR 2018). Widths and places are in (0, 1)."""

import math

import torch
from torch import Tensor

from losses.precision import full_precision

EPSILON = 1e-12  # added to every pixel of a map: of one without any mass the landmark is in the middle
LEAST_VARIANCE = 1e-10  # below it the square root's gradient would grow without bound; of no pixel's size


def pixel_centres(size: int, like: Tensor) -> Tensor:
    """(i + 1/2) / S of an axis's pixels i = 0..S - 1: (S,)."""
    return (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size


@full_precision
def landmarks(maps: Tensor) -> tuple[Tensor, Tensor]:
    """c_k = sum_u q_k(u) x_u and sigma_k, with q_k = M_k / sum_u M_k and x_u in (0, 1) at pixels' centres.

    sigma_k is the mean of the deviations of x and y under q_k.

    Args:
        maps: (N, K, H, W), not negative: of the softmax over K + 1 channels those without the background's.

    Returns:
        Centres (N, K, 2), x before y, and deviations (N, K).
    """
    height, width = maps.shape[-2:]
    mass = maps + EPSILON
    total = mass.sum((2, 3))[..., None]
    centres, deviations = [], []
    for size, across in ((width, 2), (height, 3)):
        places, along = pixel_centres(size, maps), mass.sum(across) / total
        centre = along @ places
        variance = (along * (places - centre[..., None]).square()).sum(2)
        centres.append(centre)
        deviations.append(variance.clamp(min=LEAST_VARIANCE).sqrt())
    return torch.stack(centres, dim=2), sum(deviations) / 2


@full_precision
def gaussians(centres: Tensor, deviations: Tensor | float, size: tuple[int, int]) -> Tensor:
    """exp(-||x_u - c_k||^2 / (2 sigma_k^2)), its largest value 1.

    Args:
        centres: (N, K, 2), x before y.
        deviations: (N, K), or one for all.
        size: height H and width W of the maps.

    Returns:
        (N, K, H, W).
    """
    if isinstance(deviations, Tensor):
        deviations = deviations[..., None]
    # Separable: the product of one along each axis.
    x, y = (
        torch.exp(-(pixel_centres(extent, centres) - centres[..., axis, None]).square() / (2 * deviations**2))
        for axis, extent in ((0, size[1]), (1, size[0]))
    )
    return y[..., None] * x[..., None, :]


@full_precision
def soft_masks(centres: Tensor, deviations: Tensor | float, size: tuple[int, int]) -> Tensor:
    """Of each pixel the share of every landmark's Gaussian, and of a background that is the same everywhere.

    Gaussians are densities, 1 / (2 pi sigma_k^2 H W) at their largest, beside the background's 1 / (H W); all are
    divided by their sum over the channels.

    Args:
        centres, deviations, size: as in :func:`gaussians`.

    Returns:
        (N, 1 + K, H, W), the background first; they add up to 1.
    """
    maps = gaussians(centres, deviations, size)
    peaks = 1 / (2 * math.pi * deviations**2)
    maps = maps * (peaks[..., None, None] if isinstance(peaks, Tensor) else peaks)
    maps = torch.cat([torch.ones_like(maps[:, :1]), maps], dim=1)
    return maps / maps.sum(1, keepdim=True)
