"""k-means on dense SIFT: what edges alone achieve (a row of IIC, Ji et al., ICCV 2019)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from conf.fields import number
from datasets.batch import EvalBatch
from evaluation.labellers import kmeans
from utils.errors import UserError


@dataclass
class Options(kmeans.Options):
    """How k-means is fitted, and the grid of descriptors, in pixels."""

    step: int = number(low=1)  # between the cells' centres
    bin_size: int = number(low=1)  # side of each of a descriptor's 4 x 4 bins


class Sift(kmeans.KMeansLabeller):
    """Each pixel has the cluster of the nearest cell of a grid, and a cell that of its SIFT descriptor, of 128 values.

    The grey picture is not blurred, and descriptors are not turned. The bins are weighted by a Gaussian, which OpenCV
    cannot leave out; the release's window is flat.
    """

    title = "k-means SIFT"

    def __init__(self, options: Options, num_parts: int, seed: int) -> None:
        super().__init__(options, num_parts, seed)
        # Pictures are taken to have a blur of 0.5 and get what is missing: none.
        self._sift = cv2.SIFT_create(sigma=0.5)

    def describe(self, images: Tensor) -> Tensor:
        rows, columns = (self._centres(side) for side in images.shape[-2:])
        # A picture's OpenCV size is that of 2 bins in 3.
        size = self.options.bin_size * 2 / 3
        cells = [cv2.KeyPoint(float(column), float(row), size, 0) for row in rows for column in columns]
        described = []
        for image in images.permute(0, 2, 3, 1).cpu().numpy():
            grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
            _, found = self._sift.compute(grey, cells)
            described.append(found.reshape(len(rows), len(columns), -1))
        return torch.from_numpy(np.stack(described)).permute(0, 3, 1, 2).to(images.device)

    def fit(self, batches: Iterable[EvalBatch]) -> None:
        super().fit(self._masked_at_cells(batch) for batch in batches)

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        """Scores (N, K, h, w): the nearest cell's, at every pixel."""
        scores = super().scores(images, foreground)
        rows, columns = (self._nearest(side) for side in images.shape[-2:])
        return scores[:, :, rows][..., columns]

    def scores_of(self, batch: EvalBatch) -> Tensor:
        return self.scores(batch.images, batch.foreground)

    def _masked_at_cells(self, batch: EvalBatch) -> EvalBatch:
        """The same with the foreground (N, 1, h', w') of the cells, which is read at their centres."""
        rows, columns = (self._centres(side) for side in batch.foreground.shape[-2:])
        return replace(batch, foreground=batch.foreground[:, :, rows][..., columns])

    def _centres(self, side: int) -> np.ndarray:
        """Pixels at the middle of the cells along one side: as many as have their bins inside the picture."""
        extent = 3 * self.options.bin_size + 1
        if extent > side:
            raise UserError(
                f"baselines.sift.bin_size={self.options.bin_size}: a descriptor has {extent} pixels along each side, "
                f"and the pictures have {side}. Give a smaller one."
            )
        return np.arange(0, side - extent + 1, self.options.step) + extent // 2

    def _nearest(self, side: int) -> np.ndarray:
        """For each pixel along one side the cell whose centre is nearest."""
        return np.abs(np.arange(side)[:, None] - self._centres(side)).argmin(1)


def build(options: Options, config: DictConfig, num_parts: int, device: torch.device) -> Sift:
    return Sift(options, num_parts, config.seed)
