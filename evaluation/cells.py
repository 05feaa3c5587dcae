"""Features of the cells of many pictures, in a temporary file: memory holds one chunk of them."""

import tempfile
from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError

CELLS_AT_ONCE = 1 << 14  # of 512 channels: 16 MiB as they lie in the file, 32 MiB as they are handed out
BLOCK = 256  # neighbours in the file that stay together in a random order: reads of single cells would take too long


class Cells:
    """Rows (P, C), each in half precision relative to its largest magnitude, so that none overflows or vanishes.

    Iterating gives them in order, as float32 chunks (p, C) on the device, as often as asked. The file is in the folder
    for temporary files (``TMPDIR``) and goes with the object, at the latest when ``with`` is left.

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
        for start in range(0, len(self), self.chunk):
            yield self._read(start, min(self.chunk, len(self) - start))

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
        self._file.seek(start * self.num_channels * halves.itemsize)
        self._file.readinto(halves.data)
        largest = torch.from_numpy(self._largest[start : start + count, None])
        return torch.from_numpy(halves).to(self.device).float().mul_(largest.to(self.device))
