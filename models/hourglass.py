"""Hourglasses: 3 x 3 convolutions down to a coarse scale and up again, with skips at each scale."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Hourglass(nn.Module):
    """Maps of an input's size from all of it.

    Two 3 x 3 convolutions at each scale, each with batch norm and ReLU, and 2 x 2 max pools between the scales (Zhang
    et al., CVPR 2018). The way up is ours: the coarser maps are enlarged, nearest, joined to those of the way down, and
    brought to their width by one convolution; at the end there is a 1 x 1 convolution.

    Args:
        in_channels: of the input.
        widths: channels at each scale, the finest first.
        out_channels: of the output.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(*_convolution(before, width), *_convolution(width, width))
            for before, width in pairwise([in_channels, *widths])
        )
        self.up = nn.ModuleList(nn.Sequential(*_convolution(width + below, width)) for width, below in pairwise(widths))
        self.head = nn.Conv2d(widths[0], out_channels, kernel_size=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps (N, out_channels, H, W) of inputs (N, in_channels, H, W), both sides at least 2^(scales - 1)."""
        skips, x = [], inputs
        for block in self.down:
            skips.append(block(F.max_pool2d(x, 2) if skips else x))
            x = skips[-1]
        for block, skip in zip(reversed(self.up), reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, F.interpolate(x, size=skip.shape[-2:], mode="nearest")], dim=1))
        return self.head(x)


def _convolution(before: int, after: int) -> list[nn.Module]:
    # Batch norm takes a bias away again.
    return [
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    ]
