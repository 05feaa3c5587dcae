"""The network "10a" of IIC (Ji et al., ICCV 2019) with the head that is evaluated, from scratch; see ``models.iic``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from conf.fields import number, numbers, path
from models.channels import Channels, network_input, num_channels
from models.iic import Head, Trunk
from models.inputs import require_pictures
from models.segmenters.base import with_weights
from utils.errors import UserError

HEAD = "head."


@dataclass
class TrunkOptions(Channels):
    """Keys of the node ``segmenter`` of any network with this trunk.

    Attributes:
        weights: ``"none"`` (random), or the path or URL of a file; the path of a run of this project starts from that
            one's segmenter, head included where K is the same.
        weights_dir: of downloads.
        widths, dilated_padding: of the trunk.
    """

    name: str = MISSING
    weights: str = path("none", "imagenet", "hub")
    weights_dir: str = path()
    widths: list[int] = numbers(4, low=1)
    dilated_padding: int = number(low=1, high=2)


@dataclass
class Options(TrunkOptions):
    """Keys of the node ``segmenter``.

    Attributes:
        sub_heads, head_padding: of each head. The first sub-head is what predicts.
    """

    sub_heads: int = number(low=1)
    head_padding: int = number(low=0, high=1)


class Segmenter(nn.Module):
    """The trunk, and head B, whose clusters are the classes.

    Args:
        options: the node ``segmenter``.
        num_parts: K, the clusters.
        has_background: one cluster more, the first, is the background's.
    """

    def __init__(self, options: DictConfig, num_parts: int, has_background: bool = False) -> None:
        super().__init__()
        self.num_parts, self.has_background, self.options = num_parts, has_background, options
        self.trunk = Trunk(num_channels(options), options.widths, options.dilated_padding)
        self.head = self.new_head(num_parts + has_background)

    def new_head(self, num_clusters: int) -> Head:
        """A head for this trunk."""
        return Head(self.trunk.out_channels, num_clusters, self.options.sub_heads, self.options.head_padding)

    def preprocess(self, images: Tensor, infrared: Tensor | None = None) -> Tensor:
        """Network input (N, C, H, W) of RGB images (N, 3, H, W) and infrared (N, 1, H, W), in [0, 1].

        Raises:
            UserError: it is to see infrared, and there is none.
            TypeError, ValueError: they are no floats in [0, 1]; see ``models.inputs``.
        """
        require_pictures(images, self)
        return network_input(images, infrared, self.options)

    def probabilities(self, inputs: Tensor, head: Head) -> Tensor:
        """Those of a head (N, sub-heads, k, H, W) for preprocessed images."""
        return head(self.trunk(inputs), tuple(inputs.shape[-2:]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores (N, K [+ 1], H, W) of preprocessed images: logarithms of the first sub-head's probabilities."""
        probabilities = self.probabilities(inputs, self.head)[:, 0]
        return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()

    def features(self, inputs: Tensor) -> Tensor:
        """The trunk's map (N, C, h, w) of preprocessed images; the margin that it takes away is not in it."""
        return self.trunk(inputs)

    def parameter_groups(self, head_multiplier: float) -> list[dict[str, Any]]:
        """The trained parameters for ``utils.optimizer``: the head learns ``head_multiplier`` times as fast."""
        return [
            {"params": [*self.trunk.parameters()], "multiplier": 1.0},
            {"params": [*self.head.parameters()], "multiplier": head_multiplier},
        ]


def build(options: DictConfig, num_parts: int, has_background: bool) -> Segmenter:
    """See ``models.segmenters.build``."""
    return with_weights(Segmenter(options, num_parts, has_background), options, HEAD)


def from_state(options: DictConfig, state: Mapping[str, Tensor], has_background: bool) -> Segmenter:
    """See ``models.segmenters.from_state``."""
    weight = state.get(f"{HEAD}convolution.weight")
    found = 0 if weight is None or weight.ndim != 4 else len(weight) // options.sub_heads
    if found <= has_background or len(weight) % options.sub_heads:
        raise UserError(
            f"it is no checkpoint of a segmenter={options.name} with segmenter.sub_heads={options.sub_heads}: it has "
            f"no {HEAD}convolution.weight of the shape ({'1 + ' * has_background}K, C, 1, 1) for each of them."
        )
    return Segmenter(options, found - has_background, has_background)
