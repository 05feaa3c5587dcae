"""Region grouping (Huang & Li, CVPR 2020): cells of a map go to the nearest prototype, and regions say the class.

Formulas and sizes are those of the released code; how new convolutions start is not known, and ours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_MASS = 1e-5  # of a region, and of a prototype's coordinates at the start


class RegionGrouping(nn.Module):
    """K learnt prototypes, each with a smoothing factor; a segmenter's head, whose scores are :meth:`logits`.

    Args:
        in_channels: C.
        num_parts: K.

    Attributes:
        centres: (K, C), the prototypes d, at the start He-normal and not below 1e-5.
        smoothing: (K,), s; the factor is beta = sigmoid(s), at the start 1/2.
    """

    def __init__(self, in_channels: int, num_parts: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.empty(num_parts, in_channels))
        self.smoothing = nn.Parameter(torch.zeros(num_parts))
        nn.init.kaiming_normal_(self.centres)
        with torch.no_grad():
            self.centres.clamp_(min=LEAST_MASS)

    def logits(self, features: Tensor) -> Tensor:
        """-||x - d_k||^2 / beta_k (N, K, h, w) of a map (N, C, h, w), whatever its precision in the centres'."""
        with torch.autocast(features.device.type, enabled=False):
            cells = features.to(self.centres.dtype).flatten(2)
            products = self.centres @ cells
            squares = cells.square().sum(1, keepdim=True) + self.centres.square().sum(1)[:, None]
            distances = (squares - 2 * products).clamp(min=0)
            return (-distances / self.smoothing.sigmoid()[:, None]).unflatten(2, features.shape[2:])

    def regions(self, features: Tensor, assignments: Tensor) -> Tensor:
        """z (N, K, C) of unit length: z_k ~ (sum_x q_k x / max(sum_x q_k, 1e-5) - d_k) / sqrt(beta_k / 2).

        Args:
            features: (N, C, h, w), x.
            assignments: (N, K, h, w), q, the softmax of :meth:`logits`.
        """
        with torch.autocast(features.device.type, enabled=False):
            cells, shares = features.to(self.centres.dtype).flatten(2), assignments.flatten(2)
            means = shares @ cells.transpose(1, 2) / shares.sum(2, keepdim=True).clamp(min=LEAST_MASS)
            return F.normalize((means - self.centres) / (self.smoothing.sigmoid() / 2).sqrt()[:, None], dim=2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Region vectors (N, K, C) of unit length and soft assignments (N, K, h, w) of a map (N, C, h, w)."""
        assignments = self.logits(features).softmax(1)
        return self.regions(features, assignments), assignments


class Bottleneck(nn.Module):
    """A residual block of 1 x 1 convolutions on vectors (N, C, K); it starts as its shortcut.

    Args:
        in_channels, inner, out_channels: a projection stands in the shortcut where the first and last differ.
    """

    def __init__(self, in_channels: int, inner: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *(_convolution(in_channels, inner), nn.BatchNorm1d(inner), nn.ReLU(inplace=True)),
            *(_convolution(inner, inner), nn.BatchNorm1d(inner), nn.ReLU(inplace=True)),
            *(_convolution(inner, out_channels), nn.BatchNorm1d(out_channels)),
        )
        nn.init.zeros_(self.residual[-1].weight)
        self.shortcut = nn.Sequential()
        if in_channels != out_channels:
            self.shortcut.extend([_convolution(in_channels, out_channels), nn.BatchNorm1d(out_channels)])

    def forward(self, vectors: Tensor) -> Tensor:
        return (self.residual(vectors) + self.shortcut(vectors)).relu()


class RegionClassifier(nn.Module):
    """Scores of classes from region vectors, which an attention weighs against each other.

    With ResNet-101's 1024 channels the sizes are the release's: 256 inside the attention's blocks, 2048 channels after
    the others and 512 inside them.

    Args:
        channels: C of the region vectors.
        num_classes: of the scores.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            Bottleneck(channels, channels // 4, channels),
            Bottleneck(channels, channels // 4, channels),
            *(_convolution(channels, 1, bias=True), nn.BatchNorm1d(1), nn.ReLU(inplace=True)),
        )
        wide, inner = 2 * channels, channels // 2
        self.post = nn.Sequential(Bottleneck(channels, inner, wide), *(Bottleneck(wide, inner, wide) for _ in range(3)))
        self.norm = nn.BatchNorm1d(wide)
        self.classifier = nn.Linear(wide, num_classes)

    def attention_of(self, regions: Tensor) -> Tensor:
        """How much each region counts (N, K): not negative, 1 together."""
        return self.attention(regions.transpose(1, 2))[:, 0].float().softmax(1)

    def forward(self, regions: Tensor) -> Tensor:
        """Scores (N, classes) from region vectors (N, K, C)."""
        vectors = self.post(regions.transpose(1, 2))
        return self.classifier(self.norm((vectors * self.attention_of(regions)[:, None]).sum(2)))


def _convolution(in_channels: int, out_channels: int, bias: bool = False) -> nn.Conv1d:
    convolution = nn.Conv1d(in_channels, out_channels, kernel_size=1, bias=bias)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # ours: as ResNets have it
    return convolution
