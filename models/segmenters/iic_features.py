"""The network "10a" of IIC without clusters: the features of its trunk, from scratch; see ``models.iic``.

What methods train that cluster features afterwards. Its channels are no parts: ``num_parts`` is their number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from conf.fields import number
from models.channels import network_input, num_channels
from models.iic import Trunk
from models.inputs import require_pictures
from models.segmenters.iic import TrunkOptions
from models.weights import copy_by_name, read_state
from utils.errors import UserError


@dataclass
class Options(TrunkOptions):
    """Keys of the node ``segmenter``.

    Attributes:
        projection: channels of a 1 x 1 convolution without bias, and batch norm, after the trunk; null: the features
            are the trunk's, after its last ReLU.
    """

    projection: int | None = number(low=1)


class Segmenter(nn.Module):
    """Features of images, brought to their size.

    Args:
        options: the node ``segmenter``.
    """

    has_background = False

    def __init__(self, options: DictConfig) -> None:
        super().__init__()
        self.options, self.num_parts = options, feature_size(options)
        self.trunk = Trunk(num_channels(options), options.widths, options.dilated_padding)
        self.projection = nn.Identity()
        if options.projection is not None:
            convolution = nn.Conv2d(self.trunk.out_channels, options.projection, kernel_size=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight)
            self.projection = nn.Sequential(convolution, nn.BatchNorm2d(options.projection))

    def preprocess(self, images: Tensor, infrared: Tensor | None = None, shown: Tensor | None = None) -> Tensor:
        """Network input (N, C, H, W) of RGB images (N, 3, H, W) and infrared (N, 1, H, W), in [0, 1].

        Args:
            shown: see ``models.channels.network_input``.

        Raises:
            UserError: it is to see infrared, and there is none.
            TypeError, ValueError: images are no floats in [0, 1]; see ``models.inputs``.
        """
        require_pictures(images, self)
        return network_input(images, infrared, self.options, shown)

    def features(self, inputs: Tensor) -> Tensor:
        """Features (N, C, h, w) of preprocessed images, as fine as the network has them."""
        return self.projection(self.trunk(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (N, C, H, W) of preprocessed images, upsampled bilinearly."""
        return F.interpolate(self.features(inputs), size=inputs.shape[-2:], mode="bilinear", align_corners=False)

    def parameter_groups(self, head_multiplier: float) -> list[dict[str, Any]]:
        """The trained parameters for ``utils.optimizer``; none of them are a head's."""
        return [{"params": [*self.parameters()], "multiplier": 1.0}]


def feature_size(options: DictConfig) -> int:
    """Numbers of a pixel's features."""
    return options.widths[-1] if options.projection is None else options.projection


def build(options: DictConfig, num_parts: int, has_background: bool) -> Segmenter:
    """See ``models.segmenters.build``; UserError where parts are asked for, and not its features."""
    if has_background or num_parts != feature_size(options):
        raise UserError(
            f"segmenter=iic_features gives {feature_size(options)} features and no parts: it is for methods whose "
            "features are clustered afterwards, such as method=doersch. Give another segmenter."
        )
    segmenter = Segmenter(options)
    if options.weights != "none":
        state = read_state(options.weights, options.weights_dir, "segmenter.weights")
        copy_by_name(segmenter, state, f"segmenter.weights={options.weights}")
    return segmenter


def from_state(options: DictConfig, state: Mapping[str, Tensor], has_background: bool) -> Segmenter:
    """See ``models.segmenters.from_state``."""
    if "trunk.layers.0.weight" not in state:
        raise UserError(f"it is no checkpoint of a segmenter={options.name}: it has no trunk.layers.0.weight.")
    return Segmenter(options)
