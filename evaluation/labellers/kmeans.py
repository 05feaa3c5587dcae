"""k-means on a description of foreground cells: what labellers of any description share."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from conf.fields import number
from datasets.batch import EvalBatch
from evaluation.labellers.base import Labeller
from utils.errors import UserError
from utils.seeding import generator


@dataclass
class Options:
    """How k-means is fitted."""

    num_points: int = number(low=1)  # foreground cells that it sees at most, drawn evenly from all training pictures
    restarts: int = number(low=1)  # starts from other centres, of which the best counts


class KMeansLabeller(Labeller):
    """Scores are negative squared distances to the clusters' means.

    Args:
        options: how it is fitted.
        num_parts: number of clusters, the parts.
        seed: of the choice of points and of k-means.
    """

    needs_fit = True

    def __init__(self, options: Options, num_parts: int, seed: int) -> None:
        self.options = options
        self.num_parts = num_parts
        self.seed = seed

    def describe(self, images: Tensor) -> Tensor:
        """Descriptions (N, C, h', w') of images (N, 3, h, w) uint8."""
        raise NotImplementedError

    def fit(self, batches: Iterable[EvalBatch]) -> None:
        """Find the means from the foreground of training images.

        Raises:
            UserError: there are fewer foreground cells than clusters.
        """
        points = self._foreground_points(batches)
        if len(points) < self.num_parts:
            raise UserError(
                f"k-means needs {self.num_parts} foreground cells, the training images have {len(points)}: "
                "check the data set's masks."
            )
        clusters = KMeans(self.num_parts, n_init=self.options.restarts, random_state=self.seed).fit(points)
        self.means = torch.from_numpy(clusters.cluster_centers_.astype(np.float32))

    def _foreground_points(self, batches: Iterable[EvalBatch]) -> np.ndarray:
        """Descriptions (P, C) float32 of cells more than half of which are foreground, drawn evenly from all pictures.

        P is ``num_points`` at most, and never much more is in memory. The draw depends on how pictures are batched.
        """
        # The points with the smallest random numbers are kept: an even draw of bounded size from a stream.
        points, numbers = np.empty((0, 0), np.float32), np.empty(0)
        for place, batch in enumerate(batches):
            described = self.describe(batch.images)
            inside = F.interpolate(batch.foreground, size=described.shape[-2:], mode="area")[:, 0] > 0.5
            found = described.permute(0, 2, 3, 1)[inside].float().cpu().numpy()
            points = np.concatenate([points, found]) if points.size else found
            numbers = np.append(numbers, generator(self.seed, "k-means", place).random(len(found)))
            kept = np.argsort(numbers)[: self.options.num_points]
            points, numbers = points[kept], numbers[kept]
        return points

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        described = self.describe(images).float()
        points = described.permute(0, 2, 3, 1).flatten(1, 2)
        distances = torch.cdist(points, self.means.to(points.device), compute_mode="donot_use_mm_for_euclid_dist")
        return -distances.square().transpose(1, 2).unflatten(2, described.shape[-2:])
