"""Training pictures kept decoded (``dataset.cache``), so that only the first epoch reads their files.

Kept is the part of a picture that its training crops can show, at the picture's own resolution: three bytes a pixel for
the colours and one for the foreground mask. A sample comes back in its full size with nothing but that part filled in,
so that a data set cuts it as it cuts what was read from the files, and the crops are equal to the bit.
"""

import hashlib
import multiprocessing
import os
import struct
import sys
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Literal, Protocol
from uuid import uuid4

import joblib
import numpy as np
import PIL

from datasets.loader import TrainDataset
from datasets.sample import Sample
from utils.errors import UserError

_LAYOUT = 1  # of a record: raised whenever it changes
# Key, height and width of the picture, left, top, right, bottom of the part (the last two exclusive), object's box.
_HEADER = struct.Struct("<16s6q4d")
_SLOT = 1 << 36  # bytes of address, not of memory, for each record in memory


class CacheableDataset(TrainDataset, Protocol):
    """What the cache asks of a data set."""

    def files(self, index: int) -> list[Path]:
        """What sample ``index`` is read from, the picture first."""

    def sample_name(self, index: int) -> str: ...

    def train_region(self, sample: Sample) -> np.ndarray:
        """(x0, y0, x1, y1) int, inclusive: what ``train_crop`` can see of a sample; it may reach past the picture."""


def cached(dataset: CacheableDataset, cache: Literal["none", "memory", "disk"], folder: Path | str) -> TrainDataset:
    """A data set of the same training crops that reads each picture's files once.

    Its samples lack what training does not use: label, keypoints and part map.

    Args:
        cache: "none" gives ``dataset`` itself. "memory" is shared by all processes that are started later, and goes
            with them. "disk" serves later runs too; a record is made anew when a file's path, size or time of change is
            another one, and all are when the data set's lists or settings are.
        folder: of the cache on disk; each state of a data set has one of its own in it.

    Raises:
        UserError: the system has no memory of this kind (Linux has).
    """
    if cache == "none":
        return dataset
    return _Cached(dataset, _Memory() if cache == "memory" else _Disk.of(dataset, Path(folder)))


class _Cached:
    def __init__(self, dataset: CacheableDataset, store: "_Memory | _Disk") -> None:
        self.name, self.train_crop = dataset.name, dataset.train_crop
        self._dataset, self._store = dataset, store
        self._keys: dict[int, bytes] = {}
        self._failed = multiprocessing.Value("b", False)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        try:
            key = self._key(index)
        except OSError:
            return self._dataset[index]  # whose message names the file
        record = self._store.read(index)
        sample = None if record is None else self._unpacked(index, record, key)
        if sample is None:
            sample = self._dataset[index]
            self._keep(index, _packed(sample, self._dataset.train_region(sample), key))
        return sample

    def _key(self, index: int) -> bytes:
        # Once for each process: on a network drive asking costs as much as reading.
        if index not in self._keys:
            files = [(os.path.abspath(path), path.stat()) for path in self._dataset.files(index)]
            states = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in files]
            self._keys[index] = hashlib.blake2b(repr(states).encode(), digest_size=16).digest()
        return self._keys[index]

    def _keep(self, index: int, record: bytes) -> None:
        if self._failed.value:
            return
        try:
            self._store.write(index, record)
        except OSError as error:
            with self._failed.get_lock():
                told, self._failed.value = self._failed.value, True
            if not told:
                print(
                    f"warning: dataset.cache: cannot write to {self._store}: {error.strerror or error}. From here on "
                    "nothing is added, and pictures that are not kept are read from their files each time.",
                    file=sys.stderr,
                )

    def _unpacked(self, index: int, record: bytes, key: bytes) -> Sample | None:
        """The sample of a record; None if that is of another state of the files, or not whole."""
        if len(record) < _HEADER.size:
            return None
        found, height, width, left, top, right, bottom, *box = _HEADER.unpack_from(record)
        shape = bottom - top, right - left
        if found != key or len(record) != _HEADER.size + 4 * shape[0] * shape[1]:
            return None
        kept = np.frombuffer(record, np.uint8, offset=_HEADER.size)
        colours, mask = np.split(kept, [3 * shape[0] * shape[1]])
        image, foreground = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        image[top:bottom, left:right] = colours.reshape(*shape, 3)
        foreground[top:bottom, left:right] = mask.reshape(shape)
        return Sample(
            name=self._dataset.sample_name(index),
            path=self._dataset.files(index)[0],
            image=image,
            foreground=foreground,
            box=None if np.isnan(box).any() else np.array(box),
        )


def _packed(sample: Sample, region: np.ndarray, key: bytes) -> bytes:
    height, width = sample.foreground.shape
    corners = np.array([*region[:2], *(region[2:] + 1)])
    left, top, right, bottom = np.clip(corners, 0, [width, height] * 2).tolist()
    box = [np.nan] * 4 if sample.box is None else sample.box.tolist()
    header = _HEADER.pack(key, height, width, left, top, right, bottom, *box)
    return b"".join(
        [header, *(pixels[top:bottom, left:right].tobytes() for pixels in (sample.image, sample.foreground))]
    )


class _Memory:
    """Records in a file without a name in memory: all processes see it, and none can leave it behind."""

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):
            raise UserError("dataset.cache=memory needs Linux: give dataset.cache=disk, or none.")
        self._file = os.fdopen(os.memfd_create("dataset.cache"), "r+b", buffering=0)

    def __str__(self) -> str:
        return "memory"

    def __getstate__(self) -> DupFd:
        return DupFd(self._file.fileno())

    def __setstate__(self, state: DupFd) -> None:
        self._file = os.fdopen(state.detach(), "r+b", buffering=0)

    def read(self, index: int) -> bytes | None:
        length = int.from_bytes(os.pread(self._file.fileno(), 8, index * _SLOT), "little")
        return os.pread(self._file.fileno(), length, index * _SLOT + 8) if length else None

    def write(self, index: int, record: bytes) -> None:
        if self.read(index) is not None:
            return  # of files that have changed since: another process may be reading it
        # The length comes last, once there was room for the whole of it: until then others see no record.
        if os.pwrite(self._file.fileno(), record, index * _SLOT + 8) == len(record):
            os.pwrite(self._file.fileno(), len(record).to_bytes(8, "little"), index * _SLOT)


class _Disk:
    """A file for each record, named by the sample's index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    @classmethod
    def of(cls, dataset: CacheableDataset, folder: Path) -> "_Disk":
        # The data set's own state is all that a sample depends on besides its files and what decodes them.
        state = joblib.hash((_LAYOUT, PIL.__version__, dataset))
        return cls(folder / f"{dataset.name.replace(' ', '_')}-{state}")

    def read(self, index: int) -> bytes | None:
        try:
            return (self._folder / str(index)).read_bytes()
        except OSError:
            return None

    def write(self, index: int, record: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Written beside its place and moved there whole, so that no other run ever sees half of it.
        written = self._folder / f".{index}-{uuid4().hex}"
        try:
            written.write_bytes(record)
            written.replace(self._folder / str(index))
        except BaseException:
            written.unlink(missing_ok=True)
            raise
