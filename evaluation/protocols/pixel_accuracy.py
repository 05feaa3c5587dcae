"""The protocol for data sets with class maps: every pixel's cluster, as the class that it stands for, is compared."""

from typing import Self

import numpy as np
from torch import Tensor

from datasets.base import Source
from datasets.batch import EvalBatch
from datasets.sample import VOID, Sample
from evaluation.contingency import ContingencyTable, ari, nmi
from evaluation.examples import Comparison, Known
from evaluation.inputs import EvalInput
from evaluation.labellers.base import Labeller
from evaluation.matching import matched_accuracy, recolouring
from evaluation.options import EvaluationOptions
from evaluation.prediction import largest, part_probabilities, part_scores, upsample
from evaluation.protocols import base
from utils.errors import UserError

ONE_TO_ONE, MANY_TO_ONE = "pixel accuracy", "pixel accuracy (many-to-one)"


class Protocol(base.Protocol):
    """Scores clusters at every pixel of the test crops with a class (IIC, Ji et al., ICCV 2019; AC takes it over).

    All pictures are in one table; void pixels are not. Clusters are matched with classes once for the whole split,
    by its own classes: one to one, or with more clusters than classes many to one, which is a figure of another name.
    """

    name = "pixel_accuracy"
    annotation = "class maps"
    gives_way_to = ("part_maps", "keypoints")
    agreement_is = "of the pixels with a class, those in a cluster that stands for it"

    def __init__(self, dataset: Source, labeller: Labeller, options: EvaluationOptions) -> None:
        super().__init__(dataset, labeller, options)
        self.num_classes = len(dataset.pixel_classes)
        self.table = ContingencyTable(self.num_classes, labeller.num_parts)
        self.accuracy = MANY_TO_ONE if labeller.num_parts > self.num_classes else ONE_TO_ONE
        self.metric_names = (self.accuracy, "NMI", "ARI")

    @classmethod
    def of(cls, dataset: Source, labeller: Labeller, options: EvaluationOptions) -> Self | None:
        """
        Raises:
            UserError: there are more classes than clusters.
        """
        if labeller.num_parts < (classes := len(dataset.pixel_classes)):
            raise UserError(
                f"{labeller.num_parts} clusters cannot stand for the {classes} classes of {dataset.name}, with which "
                f"they are matched one to one: train with num_parts={classes} or more (of label maps: give "
                f"predictions_num_parts={classes})."
            )
        return cls(dataset, labeller, options) if classes else None

    def inputs(self, sample: Sample, fitted: bool = False, predicted: np.ndarray | None = None) -> list[EvalInput]:
        """The test crop.

        Raises:
            UserError: the sample has no class map, or one with labels that the data set does not name.
        """
        require_class_map(sample, self.num_classes)
        return super().inputs(sample, fitted, predicted)

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        has_background = self.labeller.has_background
        scores = upsample(scores, batch.images.shape[-2:])
        true = batch.class_map[:, 0]
        counted = true != VOID if batch.counted is None else (true != VOID) & batch.counted[:, 0]
        self.table.update(true, largest(part_scores(scores, has_background)), counted)
        return part_probabilities(scores, batch.foreground, has_background)

    def metrics(self) -> dict[str, float]:
        """Accuracy of the matched clusters, NMI and ARI, in percent, of the same pixels.

        Raises:
            UserError: no pixel of the held-out pictures has a class.
        """
        counts = self._counts()
        return {self.accuracy: 100 * matched_accuracy(counts)[0], "NMI": nmi(counts), "ARI": ari(counts)}

    def counts(self) -> dict[str, int]:
        """How many held-out images and pixels with a class the metrics are of."""
        return {"images": len(self.dataset), "class_pixels": self.table.total}

    def known(self, shown: EvalInput) -> Known:
        """The true classes."""
        # Void is 0 there, and so is class 0 here: 255 + 1 is 0 in 8 bits.
        return Known("true classes", shown.image, labels=shown.class_map + np.uint8(1))

    def recolouring(self) -> np.ndarray:
        """The colours of the classes; clusters without one have those that follow."""
        return recolouring(matched_accuracy(self._counts())[1], self.num_classes)

    def comparison(self) -> Comparison:
        """The true classes."""
        return Comparison("true class", self.dataset.pixel_classes, np.pad(self._counts(), [(0, 0), (1, 0)]), "pixels")

    def compared(self, shown: EvalInput, predicted: np.ndarray) -> np.ndarray:
        known = (shown.class_map != VOID) & shown.counted
        return base.met(shown.class_map[known], predicted[known], (self.num_classes, self.labeller.num_parts + 1))

    def _counts(self) -> np.ndarray:
        counts = self.table.counts
        if counts.sum() == 0:
            raise UserError(
                f"No held-out picture has a pixel with a class; the first is {self.dataset.sample_name(0)}: check the "
                "data set's split and class maps."
            )
        return counts


def require_class_map(sample: Sample, num_classes: int) -> None:
    """Raises UserError if a sample has no class map, or one with labels above ``num_classes`` - 1 but void."""
    known = sample.class_map
    if known is None or (known[known != VOID] >= num_classes).any():
        raise UserError(
            f"{sample.name} has no class map, or one with labels above {num_classes - 1} that are not {VOID}."
        )
