"""How predictions are compared with one kind of annotation.

A module beside this one is found by its name, and its class is called ``Protocol``.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from datasets.base import Source
from datasets.batch import EvalBatch
from datasets.sample import Sample
from evaluation.examples import Comparison, Known
from evaluation.inputs import EvalInput, prepared
from evaluation.labellers.base import Labeller
from evaluation.matching import matched_accuracy
from evaluation.options import EvaluationOptions

# Why a figure is left out where no masks are read.
WITHOUT_MASKS = "it takes background or box from masks, and none are read"


class Protocol:
    """One protocol of one evaluation: makes inputs of samples, counts what is found in them, and gives figures.

    Attributes:
        name: of its module.
        annotation: what it compares with, in words.
        metric_names: all figures that ``metrics`` can give, known before anything is counted.
        fits: it wants the training split as well.
        needs_fit: ``fit`` has to be called first.
        of_features: it is of a labeller's features: ``update`` gets those, not scores.
        gives_way_to: protocols that keep the name of a figure which both have.
        shown_view: the view of its inputs that a figure of examples shows.
        notes: which figures are left out and why, once ``metrics`` was called.
        agreement_is: in words, the share that ``agreement`` gives.
    """

    name: ClassVar[str]
    annotation: ClassVar[str] = "annotation"
    metric_names: Sequence[str]
    fits: ClassVar[bool] = False
    needs_fit: ClassVar[bool] = False
    of_features: ClassVar[bool] = False
    gives_way_to: ClassVar[tuple[str, ...]] = ()
    shown_view: str = "crop"
    notes: Sequence[str] = ()
    agreement_is: ClassVar[str] = ""

    def __init__(self, dataset: Source, labeller: Labeller, options: EvaluationOptions) -> None:
        self.dataset, self.labeller, self.options = dataset, labeller, options

    @classmethod
    def of(cls, dataset: Source, labeller: Labeller, options: EvaluationOptions) -> Self | None:
        """The protocol of a labeller on a split; None where the data set is not annotated so."""
        return cls(dataset, labeller, options)

    def inputs(self, sample: Sample, fitted: bool = False, predicted: np.ndarray | None = None) -> list[EvalInput]:
        """What the labeller is shown of a sample, in the process that reads it; here the test crop.

        Args:
            fitted: the sample is of the training split; asked of protocols that fit, or need a fit, alone.
            predicted: (H, W) uint8, a label map of the whole picture made elsewhere; each input gets its own piece.

        Raises:
            UserError: the sample's annotation does not fit the protocol.
        """
        test_crop = partial(self.dataset.test_crop, size=self.options.image_size)
        return [prepared(sample, "crop", test_crop, predicted)]

    def fit(self, batches: Iterable[EvalBatch]) -> None:
        """Learn from the inputs of the training split.

        Raises:
            UserError: nothing can be learnt from them.
        """
        raise NotImplementedError

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        """Count a batch of one view; ``scores`` (N, K [+ 1], h', w') are those of its images, or its features.

        It does not wait for their device: counts stay there, and what the host has to see is brought to it by
        ``utils.transfers.Behind``.

        Returns:
            The probabilities (N, 1 + K, h, w), background first.
        """
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Figures by name, in percent.

        Raises:
            UserError: there is nothing to compare with.
        """
        raise NotImplementedError

    def counts(self) -> dict[str, int]:
        """What the figures are of."""
        raise NotImplementedError

    def per_part(self) -> list[dict[str, float]]:
        """Figures of each part by name, in percent, if it has any."""
        return []

    def renamed(self, metric: str) -> str:
        """The name of a figure that gives way to another protocol's."""
        return f"{self.name}/{metric}"

    def known(self, shown: EvalInput) -> Known | None:
        """What a figure of examples compares the prediction with; here the mask, if there is one."""
        return Known("foreground", shown.image * shown.foreground[..., None]) if self.dataset.has_masks else None

    def recolouring(self) -> np.ndarray | None:
        """For each label 0..K that is predicted the known one whose colour it takes in a figure of examples.

        None: labels have the colours of their numbers.
        """
        return None

    def comparison(self) -> Comparison | None:
        """What the figures are computed from, for readers, once ``metrics`` was called; None where nothing is known."""
        return None

    def compared(self, shown: EvalInput, predicted: np.ndarray) -> np.ndarray | None:
        """Counts (T, 1 + K) of one input of ``shown_view``: how often what is known meets what was found.

        Args:
            predicted: (h, w) uint8, 0 is background, 1..K are the parts.

        Returns:
            None where nothing is known.
        """
        return None

    def agreement(self, tables: np.ndarray) -> np.ndarray:
        """How far each picture agrees with what is known (N,), in percent; NaN where it shows nothing of it.

        Here the share of what is known that lies in the part which it matches best over all pictures.

        Args:
            tables: (N, T, 1 + K), what ``compared`` gives of each picture.
        """
        parts = tables[..., 1:]
        if not (total := parts.sum(0)).any():
            return np.full(len(tables), np.nan)
        _, assignment = matched_accuracy(total)
        (matched,) = np.nonzero(assignment >= 0)
        return share(parts[:, assignment[matched], matched].sum(1), tables.sum((1, 2)))


def share(some: np.ndarray, of_all: np.ndarray) -> np.ndarray:
    """In percent; NaN of nothing."""
    return np.divide(100.0 * some, of_all, where=of_all > 0, out=np.full(len(of_all), np.nan))


def met(true: np.ndarray, predicted: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Counts of a ``shape`` (T, 1 + K): how often a true label 0.. meets a predicted one; arrays of one shape."""
    pairs = true.astype(np.int64) * shape[1] + predicted
    return np.bincount(pairs.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
