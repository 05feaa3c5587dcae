"""The protocol for foreground networks: every pixel of the test crops is compared with the mask."""

import torch
from torch import Tensor

from datasets.batch import EvalBatch
from datasets.sample import Sample
from evaluation.contingency import ContingencyTable
from evaluation.inputs import EvalDataset, EvalInput
from evaluation.part_maps import sample_input
from evaluation.prediction import upsample
from utils.errors import UserError


class ForegroundProtocol:
    """Scores predicted masks on the test crops.

    Args:
        dataset: gives ``test_crop(sample, size)``; its masks are taken for the truth.
        image_size: side of the crops, pixels.
    """

    def __init__(self, dataset: EvalDataset, image_size: int) -> None:
        self.dataset = dataset
        self.image_size = image_size
        self.table = ContingencyTable(2, 2)
        self.images = 0
        self.notes: list[str] = []

    def inputs(self, sample: Sample, fitted: bool) -> list[EvalInput]:
        """The test crop, without its annotation of parts."""
        crop = sample_input(self.dataset.test_crop(sample, self.image_size), "crop")
        crop.part_map = None
        return [crop]

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        """Count a batch; ``scores`` (N, 2, h', w'), background and object, are those of its images.

        Returns:
            The probabilities (N, 2, h, w).
        """
        probabilities = upsample(scores, batch.images.shape[-2:], align_corners=True).softmax(1)
        self.table.update(batch.foreground[:, 0].to(torch.long), probabilities.argmax(1))
        self.images += len(batch.inputs)
        return probabilities

    def metrics(self) -> dict[str, float]:
        """Intersection over union of the foreground, and accuracy, over the pixels of all pictures; in percent.

        Raises:
            UserError: no picture shows any foreground.
        """
        counts = self.table.counts
        if counts[1].sum() == 0:
            raise UserError(
                f"No held-out picture has any foreground; the first is {self.dataset.sample_name(0)}: check the data "
                "set's split and masks."
            )
        return {
            "foreground IoU": 100 * float(counts[1, 1] / (counts.sum() - counts[0, 0])),
            "pixel accuracy": 100 * float(counts.trace() / counts.sum()),
        }

    def counts(self) -> dict[str, int]:
        """How many held-out images the metrics are of."""
        return {"images": self.images}
