"""Equivariance loss of ULD: warping the picture moves its landmarks."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.precision import full_precision


@full_precision
def uld_equivariance_loss(centres: Tensor, centres_of_warped_picture: Tensor, grid: Tensor) -> Tensor:
    """L = mean_n sum_k ||T^-1(c_k(T I)) - c_k(I)||^2, gradients through both (Zhang et al.'s release).

    A picture's ends are -1 and 1 in it, so that it is four times that of the centres given. The sampling grid says of
    each pixel of T I where it comes from, which is T^-1; between pixels it is interpolated, bilinear.

    Args:
        centres: (N, K, 2) of the picture I, x before y, in (0, 1) at pixels' centres.
        centres_of_warped_picture: (N, K, 2) of T I, likewise.
        grid: (N, H, W, 2) sampling grid of T, x then y in [-1, 1] at the corner pixels' centres.

    Returns:
        Scalar: a sum over landmarks and both coordinates, a mean over the images of the batch.
    """
    sides = _sides(*grid.shape[1:3], grid.device)
    # The grid's coordinates end at the centres of the outermost pixels.
    places = (2 * centres_of_warped_picture - 1) * sides / (sides - 1)
    moved = F.grid_sample(grid.permute(0, 3, 1, 2), places[:, :, None], padding_mode="border", align_corners=True)
    moved_back = moved[..., 0].transpose(1, 2) * (sides - 1) / sides
    return (moved_back - (2 * centres - 1)).square().sum((1, 2)).mean()


@lru_cache(maxsize=4)
def _sides(height: int, width: int, device: torch.device) -> Tensor:
    """(2,), x before y, pixels; made once, since the host waits for the device to take it."""
    with torch.inference_mode(False):  # it outlives the call
        return torch.tensor([float(width), float(height)], device=device)
