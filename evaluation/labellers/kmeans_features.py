"""k-means on the perceptual network's features."""

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from evaluation.labellers.kmeans import KMeansLabeller, Options
from models.initialisation import new_perceptual_network, whole_pictures
from models.perceptual import PerceptualNetwork
from utils.devices import memory_format


class KMeansFeatures(KMeansLabeller):
    """k-means on perceptual features: all maps brought to the finest map's size and concatenated."""

    title = "k-means features"

    def __init__(self, perceptual: PerceptualNetwork, options: Options, num_parts: int, seed: int) -> None:
        super().__init__(options, num_parts, seed)
        self.perceptual = perceptual

    def describe(self, images: Tensor) -> Tensor:
        maps = self.perceptual(images.float() / 255)
        size = max((features.shape[-2:] for features in maps), key=lambda size: size[0] * size[1])
        return torch.cat(
            [F.interpolate(features, size=size, mode="bilinear", align_corners=True) for features in maps], dim=1
        )


def build(options: Options, config: DictConfig, num_parts: int, device: torch.device) -> KMeansFeatures:
    """The perceptual network is that of ``config``; UserError where its pretrained weights cannot be had."""
    network = new_perceptual_network(config, *whole_pictures(config))
    perceptual = network.to(device, memory_format=memory_format(config.channels_last))
    return KMeansFeatures(perceptual, options, num_parts, config.seed)
