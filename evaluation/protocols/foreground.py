"""The protocol for foreground networks: every pixel of the test crops is compared with the mask."""

import numpy as np
from torch import Tensor

from datasets.base import Source
from datasets.batch import EvalBatch
from evaluation.contingency import ContingencyTable
from evaluation.examples import Comparison, Known
from evaluation.inputs import EvalInput
from evaluation.labellers.base import Labeller
from evaluation.options import EvaluationOptions
from evaluation.prediction import largest, upsample
from evaluation.protocols import base
from utils.errors import UserError


class Protocol(base.Protocol):
    """Scores predicted masks on the test crops; the data set's masks are taken for the truth."""

    name = "foreground"
    metric_names = ("foreground IoU", "pixel accuracy")
    agreement_is = "intersection over union of the mask found and the true one"

    def __init__(self, dataset: Source, labeller: Labeller, options: EvaluationOptions) -> None:
        super().__init__(dataset, labeller, options)
        self.table = ContingencyTable(2, 2)

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        """Count a batch; ``scores`` (N, 2, h', w') are those of background and object."""
        probabilities = upsample(scores, batch.images.shape[-2:], align_corners=True).softmax(1)
        counted = None if batch.counted is None else batch.counted[:, 0]
        self.table.update(batch.foreground[:, 0], largest(probabilities), counted)
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
        return {"images": len(self.dataset)}

    def known(self, shown: EvalInput) -> Known:
        """The mask."""
        return Known("true mask", shown.image, (shown.foreground > 0).astype(np.uint8))

    def comparison(self) -> Comparison:
        """The masks."""
        return Comparison("mask", ["background", "object"], self.table.counts, "pixels")

    def compared(self, shown: EvalInput, predicted: np.ndarray) -> np.ndarray:
        return base.met(shown.foreground[shown.counted], predicted[shown.counted], (2, 2))

    def agreement(self, tables: np.ndarray) -> np.ndarray:
        """Intersection over union (N,) in percent; NaN where neither mask has a pixel."""
        return base.share(tables[:, 1, 1], tables.sum((1, 2)) - tables[:, 0, 0])
