"""The network "10a" of IIC (Ji, Henriques, Vedaldi, ICCV 2019): six 3 x 3 convolutions, and heads of clusters."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Trunk(nn.Module):
    """Features at half the size of the picture, less a margin.

    Two convolutions, a 2 x 2 max pool, and four more, of which the last two are dilated by 2; each without bias, with
    batch norm and ReLU. New ones are He-normal by fan-in.

    Args:
        in_channels: of the input.
        widths: channels of the first, the second, the third and fourth, the fifth and sixth convolution; published 64,
            128, 256, 512.
        dilated_padding: 1, as published, with which either dilated convolution takes 2 cells away; 2 keeps them.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], dilated_padding: int = 1) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.out_channels = fourth
        self.layers = nn.Sequential(
            *_convolution(in_channels, first),
            *_convolution(first, second),
            nn.MaxPool2d(2),
            *_convolution(second, third),
            *_convolution(third, third),
            *_convolution(third, fourth, dilation=2, padding=dilated_padding),
            *_convolution(fourth, fourth, dilation=2, padding=dilated_padding),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (N, 512, h, w) of inputs (N, C, H, W): 200 pixels become 96 cells, 128 become 60."""
        return self.layers(inputs)


class Head(nn.Module):
    """Probabilities of clusters from features: a 1 x 1 convolution without bias for each sub-head.

    Args:
        in_channels: of the features.
        num_clusters: k.
        sub_heads: how many such heads, side by side.
        padding: 1, as published, puts a ring of cells around the map in which all clusters are as probable: the
            outermost row and column of every prediction. 0 is the repaired form.
    """

    def __init__(self, in_channels: int, num_clusters: int, sub_heads: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.sub_heads = sub_heads
        size = sub_heads * num_clusters
        self.convolution = nn.Conv2d(in_channels, size, kernel_size=1, padding=padding, bias=False)
        nn.init.kaiming_normal_(self.convolution.weight)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Probabilities (N, sub-heads, k, H, W): softmax in the cells first, then bilinear upsampling, as published.

        Args:
            features: (N, C, h, w).
            size: H and W.
        """
        logits = self.convolution(features).float().unflatten(1, (self.sub_heads, -1))
        cells = logits.softmax(2).flatten(1, 2)
        return F.interpolate(cells, size=size, mode="bilinear", align_corners=False).unflatten(1, (self.sub_heads, -1))


def _convolution(before: int, after: int, dilation: int = 1, padding: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, kernel_size=3, padding=padding, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(convolution.weight)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
