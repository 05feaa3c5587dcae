"""Heads of segmenters: scores of parts from the backbone's last map."""

from torch import Tensor, nn


class DilatedHead(nn.Module):
    """Sum of four dilated 3 x 3 convolutions from ``in_channels`` to ``out_channels`` logits (DeepLab-v2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=dilation, dilation=dilation)
            for dilation in (6, 12, 18, 24)
        )
        for convolution in self.conv2d_list:
            nn.init.normal_(convolution.weight, std=0.01)

    def forward(self, features: Tensor) -> Tensor:
        return sum(convolution(features) for convolution in self.conv2d_list)


def convolution_head(in_channels: int, out_channels: int) -> nn.Conv2d:
    """One 3 x 3 convolution: its parts see no farther than the backbone does."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
    nn.init.normal_(convolution.weight, std=0.01)
    nn.init.zeros_(convolution.bias)
    return convolution
