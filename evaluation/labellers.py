"""What evaluation scores: anything that gives each pixel a score for each part.

A labeller has ``num_parts`` (K), ``has_background`` (its scores hold a background channel, the first) and
``scores(images, foreground)``; one that learns from the training images first has ``fit(batches)`` as well. One that
reads from disk what was predicted elsewhere has ``label_map(sample)`` (H, W) uint8, called where the sample is read;
what the protocols make of these maps, cut and resized as their pictures are, is the third argument of its ``scores``.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from kornia.color import rgb_to_lab
from sklearn.cluster import KMeans
from torch import Tensor

from datasets.batch import EvalBatch
from models.perceptual import PerceptualNetwork
from models.segmenter import Segmenter
from utils.errors import UserError
from utils.seeding import generator


class Labeller(Protocol):
    """See the module's docstring."""

    num_parts: int
    has_background: bool

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        """Scores (N, K [+ 1], h', w'), softmax gives probabilities.

        Args:
            images: (N, 3, h, w) uint8, RGB.
            foreground: (N, 1, h, w) float, 1 on the object and 0 elsewhere.
        """
        ...


class CheckpointLabeller:
    """The part logits of a segmenter, computed on the segmenter's device.

    The network is in eval mode while it scores and afterwards in the mode it was in.
    """

    has_background = False

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.num_parts = segmenter.num_parts

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        images = images.to(next(self.segmenter.parameters()).device)
        training = self.segmenter.training
        self.segmenter.eval()
        try:
            return self.segmenter(self.segmenter.preprocess(images.float() / 255))
        finally:
            self.segmenter.train(training)


class ForegroundLabeller(CheckpointLabeller):
    """The foreground logit of a segmenter after that of the background, which is 0: softmax is the logistic function.

    The object is the only part.
    """

    has_background = True

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        logits = super().scores(images, foreground)
        return torch.cat([torch.zeros_like(logits), logits], dim=1)


# What a segmenter finds -> what scores it.
LABELLERS = {"parts": CheckpointLabeller, "foreground": ForegroundLabeller}


class _KMeans:
    """k-means on a description of foreground cells; scores are negative squared distances to the centres.

    Args:
        k: number of clusters, the parts.
        seed: of the choice of points and of k-means.
        max_points: foreground cells that it sees at most, drawn evenly from all training images.
        restarts: starts from other centres, of which the best counts.
    """

    has_background = False

    def __init__(self, k: int, seed: int, *, max_points: int, restarts: int) -> None:
        self.num_parts = k
        self.seed = seed
        self.max_points = max_points
        self.restarts = restarts
        self.centres: Tensor | None = None

    def describe(self, images: Tensor) -> Tensor:
        """Descriptions (N, C, h', w') of images (N, 3, h, w) uint8."""
        raise NotImplementedError

    def fit(self, batches: Iterable[EvalBatch]) -> None:
        """Find the centres from the foreground of training images.

        Raises:
            UserError: there are fewer foreground cells than clusters.
        """
        # The points with the smallest random numbers are kept: an even draw of bounded size from a stream.
        points, numbers = np.empty((0, 0), np.float32), np.empty(0)
        for place, batch in enumerate(batches):
            described = self.describe(batch.images)
            inside = F.interpolate(batch.foreground, size=described.shape[-2:], mode="area")[:, 0] > 0.5
            found = described.permute(0, 2, 3, 1)[inside].float().cpu().numpy()
            points = np.concatenate([points, found]) if points.size else found
            numbers = np.append(numbers, generator(self.seed, "k-means", place).random(len(found)))
            kept = np.argsort(numbers)[: self.max_points]
            points, numbers = points[kept], numbers[kept]
        if len(points) < self.num_parts:
            raise UserError(
                f"k-means needs {self.num_parts} foreground cells, the training images have {len(points)}: "
                "check the data set's masks."
            )
        clusters = KMeans(self.num_parts, n_init=self.restarts, random_state=self.seed).fit(points)
        self.centres = torch.from_numpy(clusters.cluster_centers_.astype(np.float32))

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        if self.centres is None:
            raise RuntimeError("fit first")
        described = self.describe(images).float()
        points = described.permute(0, 2, 3, 1).flatten(1, 2)
        distances = torch.cdist(points, self.centres.to(points.device), compute_mode="donot_use_mm_for_euclid_dist")
        return -distances.square().transpose(1, 2).unflatten(2, described.shape[-2:])


class KMeansFeatures(_KMeans):
    """k-means on perceptual features: all maps brought to the finest map's size and concatenated."""

    def __init__(self, perceptual: PerceptualNetwork, k: int, seed: int, *, max_points: int, restarts: int) -> None:
        super().__init__(k, seed, max_points=max_points, restarts=restarts)
        self.perceptual = perceptual

    def describe(self, images: Tensor) -> Tensor:
        maps = self.perceptual(images.float() / 255)
        size = max((one.shape[-2:] for one in maps), key=lambda size: size[0] * size[1])
        return torch.cat([F.interpolate(one, size=size, mode="bilinear", align_corners=True) for one in maps], dim=1)


class KMeansColours(_KMeans):
    """k-means on CIE Lab colours, pixel by pixel: what colour alone achieves."""

    def describe(self, images: Tensor) -> Tensor:
        return rgb_to_lab(images.float() / 255)
