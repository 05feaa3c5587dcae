"""Features of whole pictures, as what is fitted on them sees them: one map of all layers."""

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from models.initialisation import new_perceptual_network, whole_pictures
from models.perceptual import PerceptualNetwork
from utils.devices import memory_format


def perceptual_of(config: DictConfig, device: torch.device) -> PerceptualNetwork:
    """The perceptual network of a whole config, on the device; UserError where its weights cannot be had."""
    network = new_perceptual_network(config, *whole_pictures(config))
    return network.to(device, memory_format=memory_format(config.channels_last))


def on_one_grid(perceptual: PerceptualNetwork, images: Tensor, normalise: bool = False) -> Tensor:
    """Features (N, C, h', w') of images (N, 3, h, w) uint8: all maps brought to the finest map's size and concatenated.

    Args:
        normalise: each layer's features have length 1 in each of its own cells.
    """
    maps = perceptual(images.float() / 255)
    if normalise:
        maps = [F.normalize(features, dim=1) for features in maps]
    size = max((features.shape[-2:] for features in maps), key=lambda size: size[0] * size[1])
    return torch.cat(
        [F.interpolate(features, size=size, mode="bilinear", align_corners=True) for features in maps], dim=1
    )
