"""Sums over full-size part masks of bilinearly upsampled features, without upsampling the features.

Upsampling is linear and separable, phi = Uy F Ux^T, with F (h, w) small and the matrices Uy (H, h), Ux (W, w): the sum
of the upsampled features under a mask is the sum of the small features under the mask pooled down by Uy^T and Ux^T.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=64)
def upsampling_matrix(size: int, small_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix (size, small_size) that upsamples one axis linearly with the corners' centres aligned."""
    # The matrix outlives the call: made as an inference tensor it could not be used in a later training step.
    with torch.inference_mode(False):
        identity = torch.eye(small_size, dtype=torch.float64)[None]
        matrix = F.interpolate(identity, size=size, mode="linear", align_corners=True)[0].T
        return matrix.contiguous().to(device=device, dtype=dtype)


@lru_cache(maxsize=64)
def _squared_matrix(size: int, small_size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Shares of the products of a cell with itself, (size, small_size), and with the next, (size, small_size - 1)."""
    matrix = upsampling_matrix(size, small_size, device, dtype)
    with torch.inference_mode(False):
        return matrix.square(), 2 * matrix[:, :-1] * matrix[:, 1:]


def _matrices(full: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(upsampling_matrix(full.shape[axis], small.shape[axis], full.device, full.dtype) for axis in (-2, -1))


def feature_sums(masks: Tensor, features: list[Tensor]) -> Tensor:
    """Sum over pixels u of mask_ku phi_u.

    Args:
        masks: (N, K, H, W), already restricted to the foreground.
        features: small maps (N, C_i, h_i, w_i), meant to be upsampled to H x W and concatenated.

    Returns:
        (N, K, sum of C_i).
    """
    sums = []
    for small in features:
        rows, columns = _matrices(masks, small)
        pooled = rows.T @ (masks @ columns)
        sums.append(pooled.flatten(2) @ small.flatten(2).transpose(1, 2))
    return torch.cat(sums, dim=2)


def squared_norms(features: list[Tensor], like: Tensor) -> Tensor:
    """||phi_u||^2 of the upsampled, concatenated features at the size (H, W) of ``like``.

    A pixel mixes four neighbouring cells, so its squared norm is a mix of the products of these: of each cell with
    itself, with its right, lower, and two diagonal neighbours.

    Returns:
        (N, H, W).
    """
    total = 0.0
    for small in features:
        (rows, rows_next), (columns, columns_next) = (
            _squared_matrix(like.shape[axis], small.shape[axis], like.device, like.dtype) for axis in (-2, -1)
        )
        same = small.square().sum(1)
        right = (small[..., :-1] * small[..., 1:]).sum(1)
        below = (small[..., :-1, :] * small[..., 1:, :]).sum(1)
        falling = (small[..., :-1, :-1] * small[..., 1:, 1:]).sum(1)
        rising = (small[..., :-1, 1:] * small[..., 1:, :-1]).sum(1)
        total = (
            total
            + (rows @ same + rows_next @ below) @ columns.T
            + (rows @ right + rows_next @ (falling + rising) / 2) @ columns_next.T
        )
    return total


def spread(masks: Tensor, sums: Tensor, squares: Tensor, epsilon: float) -> Tensor:
    """Sum over parts and pixels of mask_ku ||x_u - mean_k||^2 per image, multiplied out.

    Args:
        masks: (N, K, H, W), already restricted to the foreground.
        sums: (N, K, C), sum over u of mask_ku x_u.
        squares: (N, H, W), ||x_u||^2.
        epsilon: added to the mask's sum in the mean.

    Returns:
        (N,).
    """
    mass = masks.sum((2, 3))
    means = sums / (mass + epsilon)[..., None]
    around_means = means * (mass[..., None] * means - 2 * sums)
    return (masks.sum(1) * squares).sum((1, 2)) + around_means.sum((1, 2))
