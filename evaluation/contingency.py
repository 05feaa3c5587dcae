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
        self._cells = self._cells.to(cells.device, non_blocking=True).index_add(0, cells.flatten(), ones.flatten())

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

    scikit-learn takes labels only. Pairs are counted in Python's integers: products of them overflow 64 bits.

    Args:
        counts: (true labels, predicted labels) integers.
    """
    both, true, predicted, all_pairs = map(_pairs, (counts, counts.sum(1), counts.sum(0), counts.sum()))
    by_chance = 2 * true * predicted
    possible = (true + predicted) * all_pairs - by_chance
    return 100.0 * ((2 * both * all_pairs - by_chance) / possible) if possible else 100.0


def _pairs(sizes: np.ndarray) -> int:
    return sum(size * (size - 1) // 2 for size in np.ravel(sizes).tolist())
