"""What a report keeps of an evaluation while it runs: numbers of every held-out picture, pixels of some."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.batch import EvalBatch
from evaluation.inputs import EvalInput
from evaluation.labellers.base import Labeller
from evaluation.protocols.base import Protocol
from evaluation.protocols.truth_free import present
from utils.transfers import Behind

SIDE, SMALL = 256, 112  # pixels: the longest side of a picture in the grid, and in the strips
STRIPS = 200  # pictures in the strips of all parts together, but one at each end of each
LONGEST = 8  # pictures at each end of a strip
FEWEST = 4  # pictures, that two ends are shown of; fewer are one strip


@dataclass
class Shown:
    """A picture with what was found in it, at the page's size.

    Attributes:
        name, place: of the sample, in its split.
        image: (h, w, 3) uint8, RGB.
        found: (h, w) uint8, 0 is background.
        true: the same of what is known, where it has labels.
        points: (P, 3) float, columns x, y, visible: the keypoints, as fractions of width and height; or None.
    """

    name: str
    place: int
    image: np.ndarray
    found: np.ndarray
    true: np.ndarray | None = None
    points: np.ndarray | None = None


@dataclass
class Numbers:
    """Of N pictures, in the order of their split; K parts.

    Attributes:
        names, labels, places: of the samples.
        areas: (N, 1 + K) float, share of the picture that is background, and each part.
        present: (N, K) bool, where a part is, as ``evaluation.protocols.truth_free.present`` has it.
        certainty: (N, 1 + K) float, mean probability of what was found there; NaN where it was not, and of a labeller
            that grades nothing.
        centres: (N, 1 + K, 2) float, x and y as fractions of width and height; NaN likewise.
        agreement: (N,) float, percent; NaN where nothing is known. None: of no picture anything is.
    """

    names: list[str]
    labels: list[int | None]
    places: list[int]
    areas: np.ndarray
    present: np.ndarray
    certainty: np.ndarray
    centres: np.ndarray
    agreement: np.ndarray | None


class Seen:
    """Observes one labeller; see ``evaluation.run.Observer``.

    Args:
        places: of the pictures that the grid shows.
    """

    def __init__(self, labeller: Labeller, places: Sequence[int]) -> None:
        self.labeller, self.num_parts = labeller, labeller.largest_label
        self._in_grid = set(places)
        self._length = min(max(STRIPS // (2 * self.num_parts), 1), LONGEST)
        self.restart()

    def restart(self) -> None:
        """Forget all."""
        self.protocol: Protocol | None = None
        self._behind = Behind(self._take)
        self._grid: list[Shown] = []
        self._rows: list[tuple[EvalInput, np.ndarray, np.ndarray | None]] = []
        # Of each part two heaps, whose first is the one to go.
        self._strips = [([], []) for _ in range(self.num_parts)]
        self._present = np.zeros(self.num_parts, int)  # pictures

    def update(self, protocol: Protocol, batch: EvalBatch, probabilities: Tensor) -> None:
        """Keep of the held-out ones what the page tells."""
        if all(shown.fitted for shown in batch.inputs):
            return
        self.protocol = protocol
        most, labels = probabilities.max(1)
        sums = _sums(most, labels, probabilities.shape[1])[..., : self.num_parts + 1]
        self._behind.add([labels.to(torch.uint8), sums], batch.inputs)

    def _take(self, labels: np.ndarray, sums: np.ndarray, inputs: Sequence[EvalInput]) -> None:
        for shown, predicted, own in zip(inputs, labels, sums, strict=True):
            if shown.fitted:
                continue
            table = self.protocol.compared(shown, predicted)
            bare = EvalInput(shown.name, shown.label, None, None, place=shown.place)
            self._rows.append((bare, own, None if table is None else table[:, : self.num_parts + 1]))
            if shown.place in self._in_grid:
                self._grid.append(_reduced(shown, predicted, SIDE, self.protocol))
            self._add_to_strips(shown, predicted, own)

    def _add_to_strips(self, shown: EvalInput, predicted: np.ndarray, sums: np.ndarray) -> None:
        small, there = None, present(sums[0, 1:])
        self._present += there
        for part in np.flatnonzero(there):
            count, certain = sums[:2, 1 + part]
            value = float(certain / count if self.labeller.is_graded else count)
            # Of equals the first in the split counts as larger: batches do not tell, and the ends are none the same.
            for heap, entry in zip(self._strips[part], ((value, -shown.place), (-value, shown.place)), strict=True):
                if len(heap) < self._length or entry > heap[0][:2]:
                    small = small or _reduced(shown, predicted, SMALL)  # one for all strips that it is in
                    (heapq.heappush if len(heap) < self._length else heapq.heapreplace)(heap, (*entry, small))

    def strips(self) -> list[list[list[Shown]]]:
        """Of each part the pictures in which it is most certain, the surest first, and those in which it is least.

        Of a labeller that does not say how certain it is: in which it is largest, and smallest. No picture is in both;
        of a part that is in fewer than ``FEWEST`` there is one strip, and none of one that is nowhere.
        """
        self._behind.finish()
        found = []
        for count, heaps in zip(self._present.tolist(), self._strips, strict=True):
            first, last = (
                [shown for *_, shown in sorted(heap, key=lambda entry: entry[:2], reverse=True)] for heap in heaps
            )
            if count < FEWEST:
                places = {shown.place for shown in first}
                one = first + [shown for shown in reversed(last) if shown.place not in places]
                found.append([one] if one else [])
            else:
                found.append([first[: count // 2], last[: count // 2]])
        return found

    def grid(self) -> list[Shown]:
        """The pictures that the grid shows, in the order of the split."""
        self._behind.finish()
        return sorted(self._grid, key=lambda shown: shown.place)

    def numbers(self) -> Numbers:
        """Of all pictures."""
        self._behind.finish()
        rows = sorted(self._rows, key=lambda row: row[0].place)
        counts, certain, columns, height = np.stack([sums for _, sums, _ in rows], axis=1)
        inputs, tables = [shown for shown, _, _ in rows], [table for _, _, table in rows]
        agreement = None if any(table is None for table in tables) else self.protocol.agreement(np.stack(tables))
        return Numbers(
            names=[shown.name for shown in inputs],
            labels=[shown.label for shown in inputs],
            places=[shown.place for shown in inputs],
            areas=counts / counts.sum(1, keepdims=True),
            present=present(counts[:, 1:]),
            certainty=_ratio(certain, counts) if self.labeller.is_graded else np.full(counts.shape, np.nan),
            centres=np.stack([_ratio(columns, counts), _ratio(height, counts)], axis=-1),
            agreement=agreement,
        )


def _sums(most: Tensor, labels: Tensor, num_labels: int) -> Tensor:
    """Over the pixels of each label the sums (N, 4, 1 + K) of 1, of the probability ``most``, of x and of y.

    x and y are fractions of width and height, of pixels' centres.
    """
    height, width = labels.shape[-2:]
    x = (torch.arange(width, device=most.device) + 0.5) / width
    y = (torch.arange(height, device=most.device) + 0.5) / height
    values = torch.stack([torch.ones_like(most), most, x.expand_as(most), y[:, None].expand_as(most)], dim=1)
    numbers = torch.arange(num_labels, device=most.device)
    # A product, not a scattered sum: that has no fixed order on a GPU.
    hard = (labels[:, None] == numbers[:, None, None]).to(values.dtype)
    return values.flatten(2) @ hard.flatten(2).transpose(1, 2)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, where=counts > 0, out=np.full(counts.shape, np.nan))


def _reduced(shown: EvalInput, predicted: np.ndarray, side: int, protocol: Protocol | None = None) -> Shown:
    """At most ``side`` pixels long; with a protocol also what that knows."""
    height, width = predicted.shape
    scale = min(side / max(height, width), 1)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    known = protocol and protocol.known(shown)
    labels, points = (known.labels, known.points) if known else (None, None)
    if points is not None:
        points = points / [width, height, 1]
    return Shown(
        name=shown.name,
        place=shown.place,
        image=_resized(shown.image, size, Image.Resampling.BILINEAR),
        found=_resized(predicted, size, Image.Resampling.NEAREST),
        true=None if labels is None else _resized(labels, size, Image.Resampling.NEAREST),
        points=points,
    )


def _resized(array: np.ndarray, size: tuple[int, int], resampling: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize(size, resampling))
