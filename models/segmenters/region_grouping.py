"""Any network that timm has, with a region grouping on its map; Huang & Li (CVPR 2020) have ResNet-101's layer3."""

from collections.abc import Mapping
from dataclasses import dataclass

from omegaconf import DictConfig
from torch import Tensor, nn

from models.region_grouping import RegionGrouping
from models.segmenters import timm
from models.segmenters.base import num_parts_of


@dataclass
class Options(timm.BackboneOptions):
    """Keys of the node ``segmenter``: those of the network."""


class Segmenter(timm.Segmenter):
    """Scores whose softmax is how much each cell belongs to each prototype; as ``timm.Segmenter`` else."""

    @staticmethod
    def new_head(options: DictConfig, in_channels: int, out_channels: int) -> nn.Module:
        return RegionGrouping(in_channels, out_channels)

    def forward(self, inputs: Tensor, with_regions: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Scores (N, K [+ 1], h, w) from preprocessed images (N, 3, H, W).

        Args:
            with_regions: give the regions' vectors (N, K [+ 1], C) and the assignments, the softmax of the scores.
        """
        (features,) = self.backbone(inputs)
        return self.head(features) if with_regions else self.head.logits(features)


def build(options: DictConfig, num_parts: int, has_background: bool) -> Segmenter:
    """See ``models.segmenters.build``."""
    return timm.with_weights(Segmenter(options, num_parts, has_background), options)


def from_state(options: DictConfig, state: Mapping[str, Tensor], has_background: bool) -> Segmenter:
    """See ``models.segmenters.from_state``."""
    num_parts = num_parts_of(options, state, has_background, "head.centres", shape="C")
    return Segmenter(options, num_parts, has_background)
