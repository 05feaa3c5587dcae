"""NMI and ARI from one table of counts, so that memory does not grow with the test set."""

import numpy as np
import torch
from scipy.stats import entropy
from torch import Tensor


class ContingencyTable:
    """Counts how often each true label meets each predicted label, on the device of the labels.

    Counting never waits for that device; reading the counts does.

    Args:
        num_true: number of true labels; they are 0..num_true-1.
        num_predicted: number of predicted labels; they are 0..num_predicted-1.
    """

    def __init__(self, num_true: int, num_predicted: int) -> None:
        self.shape = (num_true, num_predicted)
        # One cell more, for pairs outside the table.
        self._cells = torch.zeros(num_true * num_predicted + 1, dtype=torch.int64)

    def update(self, true: Tensor, predicted: Tensor, where: Tensor | None = None) -> None:
        """Add one pair per element; integer tensors of the same shape on one device.

        Args:
            where: bool, the pairs that count; all without it.

        Raises:
            ValueError: the shapes differ. Labels outside the table are found when it is read.
        """
        if true.shape != predicted.shape:
            raise ValueError(f"true labels {tuple(true.shape)} and predicted labels {tuple(predicted.shape)} differ")
        rows, columns = self.shape
        true, predicted = true.long(), predicted.long()
        inside = (true >= 0) & (true < rows) & (predicted >= 0) & (predicted < columns)
        cells = torch.where(inside, true * columns + predicted, rows * columns)
        ones = torch.ones_like(cells) if where is None else where.long()
        self._cells = self._cells.to(cells.device).index_add(0, cells.flatten(), ones.flatten())

    @property
    def counts(self) -> np.ndarray:
        """(num_true, num_predicted) int64.

        Raises:
            ValueError: labels did not fit in the table.
        """
        *cells, outside = self._cells.tolist()
        if outside:
            raise ValueError(f"{outside} pairs of labels do not fit in a table of {self.shape}")
        return np.array(cells, dtype=np.int64).reshape(self.shape)

    @property
    def total(self) -> int:
        """How many pairs were added."""
        return int(self.counts.sum())

    def nmi(self) -> float:
        """:func:`nmi` of the counts."""
        return nmi(self.counts)

    def ari(self) -> float:
        """:func:`ari` of the counts."""
        return ari(self.counts)


def nmi(counts: np.ndarray) -> float:
    """Normalised mutual information in percent, arithmetic mean of the entropies in the denominator.

    As in scikit-learn: 100 where each side has at most one label (an empty table too), 0 where only one side has.

    Args:
        counts: (true labels, predicted labels) integers.
    """
    true, predicted = counts.sum(1), counts.sum(0)
    if (true > 0).sum() <= 1 and (predicted > 0).sum() <= 1:
        return 100.0
    entropies = entropy(true) + entropy(predicted)
    information = max(entropies - entropy(counts, axis=None), 0.0)
    return 100.0 * float(information / (entropies / 2))


def ari(counts: np.ndarray) -> float:
    """Adjusted Rand index in percent; can be negative. As in scikit-learn: 100 where the partitions are the same.

    scikit-learn takes labels only; from the table the index is a ratio of sums of squares. They are summed
    as Python integers because squares of pixel counts overflow 64 bits.

    Args:
        counts: (true labels, predicted labels) integers.
    """
    together = _sum_of_squares(counts)
    in_true = _sum_of_squares(counts.sum(1))
    in_predicted = _sum_of_squares(counts.sum(0))
    total = int(counts.sum())
    both, only_true, only_predicted = together - total, in_true - together, in_predicted - together
    neither = total**2 - in_true - in_predicted + together
    if only_true == only_predicted == 0:
        return 100.0
    agreement = 2 * (both * neither - only_true * only_predicted)
    possible = (both + only_true) * (only_true + neither) + (both + only_predicted) * (only_predicted + neither)
    return 100.0 * (agreement / possible)


def _sum_of_squares(counts: np.ndarray) -> int:
    return sum(int(count) ** 2 for count in counts.flat)
