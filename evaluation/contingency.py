"""NMI and ARI from one table of counts, so that memory does not grow with the test set."""

import numpy as np
import torch
from scipy.stats import entropy
from torch import Tensor


class ContingencyTable:
    """Counts how often each true label meets each predicted label.

    Args:
        num_true: number of true labels; they are 0..num_true-1.
        num_predicted: number of predicted labels; they are 0..num_predicted-1.
    """

    def __init__(self, num_true: int, num_predicted: int) -> None:
        self.counts = np.zeros((num_true, num_predicted), dtype=np.int64)

    def update(self, true: Tensor, predicted: Tensor) -> None:
        """Add one pair per element; integer tensors of the same shape, on any device.

        Raises:
            ValueError: the shapes differ, or a label is outside the table.
        """
        if true.shape != predicted.shape:
            raise ValueError(f"true labels {tuple(true.shape)} and predicted labels {tuple(predicted.shape)} differ")
        if true.numel() == 0:
            return
        for labels, limit in zip((true, predicted), self.counts.shape, strict=True):
            if labels.min() < 0 or labels.max() >= limit:
                raise ValueError(f"labels {labels.min()}..{labels.max()} do not fit in a table of {limit}")
        rows, columns = self.counts.shape
        cells = true.flatten().long() * columns + predicted.flatten().long()
        self.counts += torch.bincount(cells, minlength=rows * columns).view(rows, columns).cpu().numpy()

    @property
    def total(self) -> int:
        """How many pairs were added."""
        return int(self.counts.sum())

    def nmi(self) -> float:
        """Normalised mutual information in percent, arithmetic mean of the entropies in the denominator.

        As in scikit-learn: 100 where each side has at most one label (an empty table too), 0 where only one side has.
        """
        true, predicted = self.counts.sum(1), self.counts.sum(0)
        if (true > 0).sum() <= 1 and (predicted > 0).sum() <= 1:
            return 100.0
        entropies = entropy(true) + entropy(predicted)
        information = max(entropies - entropy(self.counts, axis=None), 0.0)
        return 100.0 * float(information / (entropies / 2))

    def ari(self) -> float:
        """Adjusted Rand index in percent; can be negative. As in scikit-learn: 100 where the partitions are the same.

        scikit-learn takes labels only; from the table the index is a ratio of sums of squares. They are summed
        as Python integers because squares of pixel counts overflow 64 bits.
        """
        together = _sum_of_squares(self.counts)
        in_true = _sum_of_squares(self.counts.sum(1))
        in_predicted = _sum_of_squares(self.counts.sum(0))
        total = self.total
        both, only_true, only_predicted = together - total, in_true - together, in_predicted - together
        neither = total**2 - in_true - in_predicted + together
        if only_true == only_predicted == 0:
            return 100.0
        agreement = 2 * (both * neither - only_true * only_predicted)
        possible = (both + only_true) * (only_true + neither) + (both + only_predicted) * (only_predicted + neither)
        return 100.0 * (agreement / possible)


def _sum_of_squares(counts: np.ndarray) -> int:
    return sum(int(count) ** 2 for count in counts.flat)
