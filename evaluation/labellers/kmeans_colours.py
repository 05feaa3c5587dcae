"""k-means on colours."""

import torch
from omegaconf import DictConfig
from torch import Tensor

from datasets.transforms.lab import rgb_to_lab
from evaluation.labellers.kmeans import KMeansLabeller, Options


class KMeansColours(KMeansLabeller):
    """k-means on CIE Lab colours, pixel by pixel: what colour alone achieves."""

    title = "k-means colours"

    def describe(self, images: Tensor) -> Tensor:
        return rgb_to_lab(images.float() / 255)


def build(options: Options, config: DictConfig, num_parts: int, device: torch.device) -> KMeansColours:
    return KMeansColours(options, num_parts, config.seed)
