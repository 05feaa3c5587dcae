"""A solution that has collapsed: one part holds nearly all of the foreground."""

from collections.abc import Sequence

import numpy as np

from evaluation.run import Example


def largest_part(examples: Sequence[Example]) -> tuple[int, float]:
    """The part (1..K) with most of the pixels that have one, and its share of them; (0, 0) where none has."""
    counts = np.bincount(np.concatenate([one.predicted.ravel() for one in examples]), minlength=2)[1:]
    part = int(counts.argmax())
    return (part + 1, counts[part] / counts.sum()) if counts.any() else (0, 0.0)


class CollapseWatch:
    """Warns once, when one part has held nearly all of the foreground in several checks in a row.

    Args:
        share: of the foreground, above which a part is alone on it.
        checks: how many in a row.
    """

    def __init__(self, share: float, checks: int) -> None:
        self.share, self.checks = share, checks
        self._in_a_row, self._told = 0, False

    def check(self, examples: Sequence[Example]) -> str | None:
        """What to tell after a look at training crops with their predicted parts; None if there is nothing to tell."""
        part, held = largest_part(examples)
        self._in_a_row = self._in_a_row + 1 if held > self.share else 0
        if self._told or self._in_a_row < self.checks:
            return None
        self._told = True
        return (
            f"part {part} holds {100 * held:.1f} % of the foreground, in the last {self.checks} pictures of the "
            "training too. Try another seed, a higher loss_weights.contrastive, or a lower optimizer.lr."
        )
