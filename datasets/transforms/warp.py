"""Thin-plate warps of a similarity and some noise, as sampling grids (paper, section 3; numbers from the release)."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.interpolate import RBFInterpolator
from torch import Tensor

from conf.fields import number, numbers
from datasets.batch import to_device


@dataclass
class Warp:
    """Keys of ``augmentation``, of the map from output to source; coordinates are in [-1, 1].

    Attributes:
        control_points: of the sampling grid, along each side.
        noise, translation: of coordinates.
        scale: smallest and largest.
        rotation: degrees.
    """

    control_points: int = number(low=2, high=16)
    noise: float = number(low=0, high=1)
    scale: list[float] = numbers(2, increasing=True, above=0, high=100)
    rotation: float = number(low=0, high=180)
    translation: float = number(low=0, high=2)  # at 2 nothing of the picture is left


def control_points(side: int) -> np.ndarray:
    """The ``side * side`` points of a regular grid on [-1, 1] x [-1, 1], (P, 2)."""
    line = np.linspace(-1, 1, side)
    return np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)


def draw_control_points(augmentation: Warp, rng: np.random.Generator) -> np.ndarray:
    """Draw where the control points of one image's sampling grid go: (P, 2)."""
    points = control_points(augmentation.control_points)
    noise = rng.uniform(-1, 1, points.shape) * augmentation.noise
    scale = rng.uniform(*augmentation.scale)
    angle = np.deg2rad(rng.uniform(-1, 1) * augmentation.rotation)
    translation = rng.uniform(-1, 1, 2) * augmentation.translation
    return move_control_points(points, noise, scale, angle, translation)


def move_control_points(
    points: np.ndarray, noise: np.ndarray, scale: float, angle: float, translation: np.ndarray
) -> np.ndarray:
    """s R(a) (p + noise) + t of the points (P, 2); ``angle`` in radians. The map goes from output to source."""
    cos, sin = math.cos(angle), math.sin(angle)
    return scale * (points + noise) @ np.array([[cos, sin], [-sin, cos]]) + translation


def sampling_grid(moved: np.ndarray, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Thin-plate interpolation (r^2 log r, exact at the points) between moved control points.

    Args:
        moved: (N, P, 2), where each point of a regular grid goes.

    Returns:
        (N, H, W, 2) float32, corner pixels' centres at +-1 (align_corners=True).
    """
    weights = _thin_plate_weights(math.isqrt(moved.shape[1]), height, width, str(device))
    # In double precision, as rgb_to_lab and for its reasons; the product is small.
    grid = weights @ to_device(moved.astype(np.float64), torch.device(device))
    return grid.view(-1, height, width, 2).float()


def warp(images: Tensor, grid: Tensor, outside: Literal["zeros", "border"] = "zeros") -> Tensor:
    """Images (N, C, H, W), logits or masks at the places of a :func:`sampling_grid`, bilinear.

    Args:
        outside: zeros, or what is nearest on the border.
    """
    return F.grid_sample(images, grid, padding_mode=outside, align_corners=True)


@lru_cache(maxsize=4)
def _thin_plate_weights(side: int, height: int, width: int, device: str) -> Tensor:
    """(H * W, P): the interpolation is linear in the values at the points, so one matrix serves every warp."""
    points = control_points(side)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    pixels = np.stack([x, y], -1).reshape(-1, 2)
    weights = RBFInterpolator(points, np.eye(len(points)), kernel="thin_plate_spline", degree=1)(pixels)
    return torch.from_numpy(weights).to(device)
