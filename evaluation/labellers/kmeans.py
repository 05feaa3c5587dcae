"""k-means on a description of foreground cells: what labellers of any description share."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans, MiniBatchKMeans
from torch import Tensor

from conf.fields import number
from datasets.batch import EvalBatch
from evaluation.cells import Cells
from evaluation.labellers.base import Labeller
from utils.errors import UserError
from utils.seeding import generator


@dataclass
class Options:
    """How k-means is fitted."""

    num_points: int = number(low=1)  # foreground cells that it sees at most, drawn evenly from all training pictures
    restarts: int = number(low=1)  # starts from other centres, of which the best counts
    num_images: int | None = number(low=1)  # training pictures that it sees, spread evenly over the split; null: all
    minibatch: int | None = number(low=1)  # cells of a mini-batch, all cells being in a file; null: k-means in memory
    epochs: int = number(low=1)  # of mini-batches: how often each cell is seen


class KMeansLabeller(Labeller):
    """Scores are negative squared distances to the clusters' means.

    Args:
        options: how it is fitted.
        num_parts: number of clusters, the parts.
        seed: of the choice of points and of k-means.
    """

    needs_fit = True
    is_graded = False

    def __init__(self, options: Options, num_parts: int, seed: int) -> None:
        self.options = options
        self.num_parts = num_parts
        self.seed = seed
        self.num_fitted = options.num_images

    def describe(self, images: Tensor) -> Tensor:
        """Descriptions (N, C, h', w') of images (N, 3, h, w) uint8."""
        raise NotImplementedError

    def describe_batch(self, batch: EvalBatch) -> Tensor:
        """The same of a batch, where more than its images are described."""
        return self.describe(batch.images)

    def fit(self, batches: Iterable[EvalBatch]) -> None:
        """Find the means from the foreground of training images.

        Raises:
            UserError: there are fewer foreground cells than clusters.
        """
        if self.options.minibatch is not None:
            means = self._means_by_mini_batches(batches)
        else:
            points = self._foreground_points(batches)
            self._require(len(points))
            means = self._k_means(points).cluster_centers_
        self.means = torch.from_numpy(means.astype(np.float32))

    def _k_means(self, points: np.ndarray) -> KMeans:
        return KMeans(self.num_parts, n_init=self.options.restarts, random_state=self.seed).fit(points)

    def _require(self, found: int) -> None:
        if found < self.num_parts:
            raise UserError(
                f"k-means needs {self.num_parts} foreground cells, the training images have {found}: "
                "check the data set's masks."
            )

    def _found(self, batches: Iterable[EvalBatch]) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Descriptions (p, C) of cells more than half of which are foreground, and a random number (p,) for each.

        The numbers depend on how pictures are batched.
        """
        for place, batch in enumerate(batches):
            described = self.describe_batch(batch)
            inside = F.interpolate(batch.foreground, size=described.shape[-2:], mode="area")[:, 0] > 0.5
            found = described.permute(0, 2, 3, 1)[inside].float()
            yield found, generator(self.seed, "k-means", place).random(len(found))

    def _foreground_points(self, batches: Iterable[EvalBatch]) -> np.ndarray:
        """Descriptions (P, C) float32 of foreground cells, drawn evenly from all pictures.

        P is ``num_points`` at most, and never much more is in memory.
        """
        # The points with the smallest random numbers are kept: an even draw of bounded size from a stream.
        points, numbers = np.empty((0, 0), np.float32), np.empty(0)
        for found, drawn in self._found(batches):
            found = found.cpu().numpy()
            points = np.concatenate([points, found]) if points.size else found
            numbers = np.append(numbers, drawn)
            kept = np.argsort(numbers)[: self.options.num_points]
            points, numbers = points[kept], numbers[kept]
        return points

    def _means_by_mini_batches(self, batches: Iterable[EvalBatch]) -> np.ndarray:
        """Means (K, C) of the same draw of cells, which are in a file: memory holds one mini-batch.

        They start at the k-means of the first mini-batch.
        """
        numbers = []
        with Cells() as cells:
            for found, drawn in self._found(batches):
                cells.add(found)
                numbers.append(drawn)
            drawn = np.concatenate(numbers) if numbers else np.empty(0)
            kept = np.zeros(len(drawn), bool)
            kept[np.argsort(drawn)[: self.options.num_points]] = True
            self._require(kept.sum())
            clusters = None
            for epoch in range(self.options.epochs):
                size = max(self.options.minibatch, self.num_parts)
                for points in cells.shuffled(size, generator(self.seed, "mini-batches", epoch), kept):
                    if clusters is None:
                        start = self._k_means(points.numpy()).cluster_centers_
                        clusters = MiniBatchKMeans(self.num_parts, init=start, n_init=1, random_state=self.seed)
                    clusters.partial_fit(points.numpy())
        return clusters.cluster_centers_

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        return self._scores_of_description(self.describe(images))

    def scores_of(self, batch: EvalBatch) -> Tensor:
        return self._scores_of_description(self.describe_batch(batch))

    def _scores_of_description(self, described: Tensor) -> Tensor:
        described = described.float()
        points = described.permute(0, 2, 3, 1).flatten(1, 2)
        self.means = self.means.to(points.device, non_blocking=True)  # once
        distances = torch.cdist(points, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        return -distances.square().transpose(1, 2).unflatten(2, described.shape[-2:])
