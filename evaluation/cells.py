"""Features of the cells of many pictures, in a temporary file: memory holds one chunk of them."""

import tempfile
from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError

CELLS_AT_ONCE = 1 << 12  # of 512 channels: 4 MiB as they lie in the file, 8 MiB as they are handed out: near to caches
BLOCK = 256  # neighbours in the file that stay together in a random order: reads of single cells would take too long


class Cells:
    """Rows (P, C), each in half precision relative to its largest magnitude, so that none overflows or vanishes.

    Iterating gives them in order, as float32 chunks (p, C) on the device, as often as asked; a chunk is overwritten by
    the next. The file is in the folder for temporary files (``TMPDIR``) and goes with the object, at the latest when
    ``with`` is left.

    Args:
        device: of the chunks.
        chunk: the most rows of one.

    Attributes:
        total: the sum of all numbers.
    """

    def __init__(self, device: torch.device | str = "cpu", chunk: int = CELLS_AT_ONCE) -> None:
        self.device, self.chunk = torch.device(device), chunk
        self.total, self.num_channels = 0.0, 0
        self._largest = np.empty(0, np.float32)
        self._file = tempfile.TemporaryFile()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._largest)

    def add(self, rows: Tensor) -> None:
        """Append rows (p, C) of finite numbers.

        Raises:
            UserError: the disk is full.
        """
        if not len(rows):
            return
        rows = rows.float()
        largest = rows.abs().amax(1, keepdim=True)
        halves = (rows / largest.clamp(min=torch.finfo(torch.float32).tiny)).half().cpu().numpy()
        self.num_channels = rows.shape[1]
        self.total += float(rows.sum(dtype=torch.float64))
        self._largest = np.append(self._largest, largest[:, 0].cpu().numpy())
        try:
            self._file.write(np.ascontiguousarray(halves).data)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"Cannot write the features of {len(self):,} cells to {tempfile.gettempdir()}: {error.strerror}. Give "
                "the environment variable TMPDIR another folder, or take fewer training pictures (num_images of the "
                "baseline) or coarser layers (perceptual=dff)."
            ) from error

    def __iter__(self) -> Iterator[Tensor]:
        # In place: new memory for each chunk takes several times longer than reading and widening it.
        halves = np.empty((self.chunk, self.num_channels), np.float16)
        wide = torch.empty(halves.shape, device=self.device)
        for start in range(0, len(self), self.chunk):
            count = min(self.chunk, len(self) - start)
            yield self._read_into(halves[:count], wide[:count], start)

    def shuffled(self, size: int, random: np.random.Generator, kept: np.ndarray) -> Iterator[Tensor]:
        """All rows that are kept once, in chunks of at least ``size`` but for the last, blocks in random order.

        Args:
            kept: (P,) bool.
        """
        waiting, count = [], 0
        for block in random.permutation(-(-len(self) // BLOCK)).tolist():
            start = block * BLOCK
            inside = kept[start : start + BLOCK]
            waiting.append(self._read(start, len(inside))[torch.from_numpy(inside)])
            count += len(waiting[-1])
            if count >= size:
                yield torch.cat(waiting)
                waiting, count = [], 0
        if count:
            yield torch.cat(waiting)

    def _read(self, start: int, count: int) -> Tensor:
        halves = np.empty((count, self.num_channels), np.float16)
        return self._read_into(halves, torch.empty(halves.shape, device=self.device), start)

    def _read_into(self, halves: np.ndarray, wide: Tensor, start: int) -> Tensor:
        """The rows from ``start``, in ``wide`` (p, C) float32, by way of ``halves`` (p, C)."""
        self._file.seek(start * self.num_channels * halves.itemsize)
        self._file.readinto(halves.data)
        largest = torch.from_numpy(self._largest[start : start + len(halves), None]).to(self.device)
        # Piece by piece, so that the second operation finds the first one's result in the processor's cache.
        for first in range(0, len(halves), 512):
            own = slice(first, first + 512)
            wide[own].copy_(torch.from_numpy(halves[own])).mul_(largest[own])
        return wide
