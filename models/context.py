"""Predicting how two places of a picture lie (Doersch et al., ICCV 2015; Isola et al., 2016), as IIC compares it.

The heads see windows of a dense map of features, around two places that are the same for all pictures of a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Place = tuple[int, int]  # row and column, pixels


@dataclass
class Pair:
    """Two places of every picture of a batch.

    Attributes:
        centre, other: the middles of the two windows.
        target: what is to be told of them.
    """

    centre: Place
    other: Place
    target: int


def draw_pair(
    size: int,
    patch_size: int,
    rng: np.random.Generator,
    draw_offset: Callable[[np.random.Generator], tuple[int, tuple[float, float]]],
) -> Pair:
    """Draw two places whose windows of p pixels a side lie inside a picture of S: the release's way.

    Each coordinate of the centre is uniform in [1.5 p, S - 1.5 p), rounded down; the other place is off by what
    ``draw_offset`` gives, rounded towards zero. Where that window is not inside, all of it is drawn again.

    Args:
        size: S.
        patch_size: p, odd; S is at least 4 p, so that any direction has places.
        draw_offset: the target, and how far down and to the right the other place is, pixels.
    """
    reach = patch_size // 2
    while True:
        centre = rng.uniform(1.5 * patch_size, size - 1.5 * patch_size, 2).astype(int)
        target, offset = draw_offset(rng)
        other = centre + np.trunc(offset).astype(int)
        if (other >= reach).all() and (other < size - reach).all():
            return Pair(tuple(centre.tolist()), tuple(other.tolist()), target)


def window(features: Tensor, size: tuple[int, int], place: Place, patch_size: int) -> Tensor:
    """What bilinear upsampling of features (N, C, h, w) to ``size`` has around a place: (N, C, p, p)."""
    down, across = (
        _interpolation(cells, pixels, middle - patch_size // 2, patch_size).to(features)
        for cells, pixels, middle in zip(features.shape[-2:], size, place, strict=True)
    )
    return down @ features @ across.T


def _interpolation(cells: int, pixels: int, first: int, count: int) -> Tensor:
    """Weights (count, cells) of ``count`` pixels from ``first``, of a line of cells that is brought to ``pixels``."""
    weights = F.interpolate(torch.eye(cells)[None], size=pixels, mode="linear", align_corners=False)[0]
    return weights.T[first : first + count]


class ContextHead(nn.Module):
    """Scores from two windows of features.

    One 3 x 3 convolution, batch norm and ReLU for both, each window by itself; then both, flattened, through a linear
    layer, ReLU, dropout, and a linear layer.

    Args:
        in_channels: of the features.
        patch_size: p.
        width: of the convolution; published 1024.
        hidden_size: of the linear layer; published 1024.
        num_outputs: scores of a picture.
    """

    def __init__(self, in_channels: int, patch_size: int, width: int, hidden_size: int, num_outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.convolution.weight)
        self.norm = nn.BatchNorm2d(width)
        self.hidden = nn.Linear(2 * width * patch_size**2, hidden_size)
        self.output = nn.Linear(hidden_size, num_outputs)
        for linear in (self.hidden, self.output):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, centre: Tensor, other: Tensor, kept: Tensor) -> Tensor:
        """Scores (N, num_outputs).

        Args:
            centre, other: (N, C, p, p).
            kept: (N, hidden_size), by what dropout multiplies; see :func:`draw_dropout`.
        """
        described = [F.relu(self.norm(self.convolution(seen))).flatten(1) for seen in (centre, other)]
        return self.output(F.relu(self.hidden(torch.cat(described, dim=1))) * kept)


def draw_dropout(size: int, probability: float, rng: np.random.Generator) -> np.ndarray:
    """(size,) float32: 0 with the probability, and what keeps the mean else."""
    return ((rng.random(size) >= probability) / (1 - probability)).astype(np.float32)
