"""k-means on the perceptual network's features."""

from dataclasses import dataclass

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor

from datasets.batch import EvalBatch
from evaluation.features import on_one_grid, perceptual_of
from evaluation.labellers import kmeans
from evaluation.prediction import centres_of_mass, hard
from models.perceptual import PerceptualNetwork


@dataclass
class Options(kmeans.Options):
    """How k-means is fitted, and on what."""

    normalise: bool = MISSING  # each layer's features have length 1 in each cell


class KMeansFeatures(kmeans.KMeansLabeller):
    """k-means on perceptual features: all maps brought to the finest map's size and concatenated."""

    title = "k-means features"

    def __init__(self, perceptual: PerceptualNetwork, options: Options, num_parts: int, seed: int) -> None:
        super().__init__(options, num_parts, seed)
        self.perceptual = perceptual

    def describe(self, images: Tensor) -> Tensor:
        return on_one_grid(self.perceptual, images, self.options.normalise)

    def centres(self, probabilities: Tensor, batch: EvalBatch, scores: Tensor) -> Tensor:
        """Of mass; of the labels where features have length 1, whose distances leave softmax nearly even."""
        return centres_of_mass(hard(probabilities) if self.options.normalise else probabilities)


def build(options: Options, config: DictConfig, num_parts: int, device: torch.device) -> KMeansFeatures:
    """On the perceptual network of ``config``; UserError where its pretrained weights cannot be had."""
    return KMeansFeatures(perceptual_of(config, device), options, num_parts, config.seed)
