"""What a trained segmenter is compared with: the same network untrained, and k-means."""

from typing import Any

import torch

from evaluation.labellers import CheckpointLabeller, KMeansColours, KMeansFeatures, Labeller
from models.initialisation import seeded_initialisation
from models.perceptual import PerceptualNetwork
from models.segmenter import build_segmenter
from utils.devices import memory_format


def build_baseline(name: str, config: Any, num_parts: int, device: torch.device) -> Labeller:
    """A labeller that no training of ours has touched.

    Args:
        name: ``untrained`` (the segmenter as training with ``config.seed`` starts from), ``kmeans_features`` (k-means
            on the perceptual network's features) or ``kmeans_colours`` (on CIE Lab colours).
        config: the whole config.
        num_parts: K.

    Raises:
        UserError: pretrained weights cannot be had.
    """
    if name == "untrained":
        with seeded_initialisation(config.seed, "segmenter"):
            segmenter = build_segmenter(config.segmenter, num_parts)
        return CheckpointLabeller(segmenter.to(device, memory_format=memory_format(config)).eval())
    bounds = {"max_points": config.evaluation.kmeans_points, "restarts": config.evaluation.kmeans_restarts}
    if name == "kmeans_features":
        with seeded_initialisation(config.seed, "perceptual network"):
            perceptual = PerceptualNetwork(config.perceptual)
        return KMeansFeatures(
            perceptual.to(device, memory_format=memory_format(config)), num_parts, config.seed, **bounds
        )
    return KMeansColours(num_parts, config.seed, **bounds)
