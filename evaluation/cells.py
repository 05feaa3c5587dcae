"""Features of the cells of many pictures, in a temporary file: memory holds a few MiB of them."""

import tempfile
from collections.abc import Iterator
from mmap import ACCESS_COPY, ALLOCATIONGRANULARITY, mmap
from typing import Self

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError

AT_ONCE = 1 << 18  # numbers of a chunk: 1 MiB of float32, which a core's cache keeps while a sweep uses it twice
CHUNKS_MAPPED = 32  # 16 MiB of the file: mapping each chunk for itself takes half as long again
BLOCK = 256  # neighbours in the file that stay together in a random order: reads of single cells would take too long


class Cells:
    """Rows (P, C), each in half precision relative to its largest magnitude, so that none overflows or vanishes.

    Iterating gives them in order, as float32 chunks (p, C) on the device, as often as asked; a chunk is overwritten by
    the next. The file is in the folder for temporary files (``TMPDIR``) and goes with the object, at the latest when
    ``with`` is left. Parts of it are mapped rather than read, so that its numbers go to a core's cache but once.

    Args:
        device: of the chunks.
        at_once: the most numbers of a chunk, which has one row at least.

    Attributes:
        total: the sum of all numbers.
    """

    def __init__(self, device: torch.device | str = "cpu", at_once: int = AT_ONCE) -> None:
        self.device, self.at_once = torch.device(device), at_once
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
        size = max(self.at_once // max(self.num_channels, 1), 1)
        # One chunk for all: new memory for each takes several times longer than widening it.
        wide = torch.empty(size, self.num_channels, device=self.device)
        for first in range(0, len(self), size * CHUNKS_MAPPED):
            halves = self._mapped(first, min(size * CHUNKS_MAPPED, len(self) - first))
            for place, part in enumerate(halves.split(size)):
                yield self._widen(part, first + place * size, wide[: len(part)])

    def shuffled(self, size: int, random: np.random.Generator, kept: np.ndarray) -> Iterator[Tensor]:
        """All rows that are kept once, in chunks of at least ``size`` but for the last, blocks in random order.

        Args:
            kept: (P,) bool.
        """
        waiting, count = [], 0
        for block in random.permutation(-(-len(self) // BLOCK)).tolist():
            start = block * BLOCK
            inside = kept[start : start + BLOCK]
            wide = torch.empty(len(inside), self.num_channels, device=self.device)
            waiting.append(self._widen(self._mapped(start, len(inside)), start, wide)[torch.from_numpy(inside)])
            count += len(waiting[-1])
            if count >= size:
                yield torch.cat(waiting)
                waiting, count = [], 0
        if count:
            yield torch.cat(waiting)

    def _mapped(self, start: int, count: int) -> Tensor:
        """Rows (count, C) from ``start`` as they lie in the file, half precision; mapped as long as the tensor is."""
        numbers = count * self.num_channels
        offset = start * self.num_channels * torch.half.itemsize
        before = offset % ALLOCATIONGRANULARITY
        size = before + numbers * torch.half.itemsize
        # A copy on write, which nobody does: PyTorch warns of memory that cannot be written.
        pages = mmap(self._file.fileno(), size, access=ACCESS_COPY, offset=offset - before)
        return torch.frombuffer(pages, dtype=torch.half, count=numbers, offset=before).view(count, self.num_channels)

    def _widen(self, halves: Tensor, start: int, wide: Tensor) -> Tensor:
        """``wide`` (p, C) float32, overwritten with the rows from ``start``, which are ``halves`` (p, C)."""
        largest = torch.from_numpy(self._largest[start : start + len(halves), None])
        return wide.copy_(halves).mul_(largest.to(self.device))
