"""Training pictures kept decoded (``dataset.cache``), so that only the first epoch reads their files.

Kept is the part of a picture that its training crops can show, at the picture's own resolution: three bytes a pixel for
the colours, one for the foreground mask, and one each for a class map and for infrared, where there are any. A sample
comes back in its full size with nothing but that part filled in, so that a data set cuts it as it cuts what was read
from the files, and the crops are equal to the bit.
"""

import hashlib
import multiprocessing
import os
import struct
import sys
from pathlib import Path
from uuid import uuid4

import joblib
import numpy as np
import PIL

from datasets.base import Source
from datasets.sample import VOID, Sample
from utils.errors import UserError

_LAYOUT = 4  # of a record: raised whenever it changes
# Key, height and width of the picture, left, top, right, bottom of the part (the last two exclusive), object's box,
# whether the fourth plane is a saliency map, whether a class map and infrared follow, and the class (0: none).
_HEADER = struct.Struct("<16s6q4d???q")


def cached(dataset: Source, cache: str, folder: Path | str) -> Source:
    """A data set of the same training crops that reads each picture's files once.

    Its samples lack what training does not use: keypoints and part map.

    Args:
        cache: "none" gives ``dataset`` itself. "disk" serves other processes and later runs too; a record is made anew
            when a file's path, size or time of change is another one, and all are when the data set's lists or settings
            are.
        folder: of the cache; each state of a data set has one of its own in it.

    Raises:
        UserError: ``cache`` is neither.
    """
    if cache == "none":
        return dataset
    if cache != "disk":
        raise UserError(
            f"dataset.cache must be none or disk, not {cache!r}. To keep pictures in memory, give a folder of the "
            "system's shared memory: dataset.cache=disk dataset.cache_dir=/dev/shm/NAME."
        )
    return _Cached(dataset, _Records(dataset, Path(folder)))


class _Cached:
    def __init__(self, dataset: Source, records: "_Records") -> None:
        self.name, self.train_crop = dataset.name, dataset.train_crop
        self._dataset, self._records = dataset, records
        self._keys: dict[int, bytes] = {}
        self._failed = multiprocessing.Value("b", False)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        try:
            key = self._key(index)
        except OSError:
            return self._dataset[index]  # whose message names the file
        record = self._records.read(index)
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
            states += [()] * (not self._dataset.has_masks)  # of the same files, maybe
            self._keys[index] = hashlib.blake2b(repr(states).encode(), digest_size=16).digest()
        return self._keys[index]

    def _keep(self, index: int, record: bytes) -> None:
        if self._failed.value:
            return
        try:
            self._records.write(index, record)
        except OSError as error:
            with self._failed.get_lock():
                told, self._failed.value = self._failed.value, True
            if not told:
                print(
                    f"warning: dataset.cache: cannot write to {self._records.folder}: {error.strerror or error}. From "
                    "here on nothing is added, and pictures that are not kept are read from their files each time.",
                    file=sys.stderr,
                )

    def _unpacked(self, index: int, record: bytes, key: bytes) -> Sample | None:
        """The sample of a record; None if that is of another state of the files, or not whole."""
        if len(record) < _HEADER.size:
            return None
        found, height, width, left, top, right, bottom, *marks, label = _HEADER.unpack_from(record)
        box, (salient, mapped, infrared) = marks[:4], marks[4:]
        shape = bottom - top, right - left
        if found != key or len(record) != _HEADER.size + (4 + mapped + infrared) * shape[0] * shape[1]:
            return None
        kept = np.frombuffer(record, np.uint8, offset=_HEADER.size)
        colours, maps = np.split(kept, [3 * shape[0] * shape[1]])
        image = np.zeros((height, width, 3), np.uint8)
        image[top:bottom, left:right] = colours.reshape(*shape, 3)
        planes = iter(maps.reshape(-1, *shape))

        def plane(outside: int) -> np.ndarray:
            whole = np.full((height, width), outside, np.uint8)
            whole[top:bottom, left:right] = next(planes)
            return whole

        foreground = plane(0)
        return Sample(
            name=self._dataset.sample_name(index),
            path=self._dataset.files(index)[0],
            image=image,
            foreground=(foreground > 127).astype(np.uint8) if salient else foreground,
            saliency=foreground if salient else None,
            label=label or None,
            box=None if np.isnan(box).any() else np.array(box),
            class_map=plane(VOID) if mapped else None,
            infrared=plane(0) if infrared else None,
        )


def _packed(sample: Sample, region: np.ndarray, key: bytes) -> bytes:
    height, width = sample.foreground.shape
    corners = np.array([*region[:2], *(region[2:] + 1)])
    left, top, right, bottom = np.clip(corners, 0, [width, height] * 2).tolist()
    box = [np.nan] * 4 if sample.box is None else sample.box.tolist()
    kept = [sample.class_map, sample.infrared]
    marks = sample.saliency is not None, *(labels is not None for labels in kept), sample.label or 0
    header = _HEADER.pack(key, height, width, left, top, right, bottom, *box, *marks)
    mask = sample.foreground if sample.saliency is None else sample.saliency
    planes = [sample.image, mask, *(labels for labels in kept if labels is not None)]
    return b"".join([header, *(pixels[top:bottom, left:right].tobytes() for pixels in planes)])


class _Records:
    """A file for each record, named by the sample's index."""

    def __init__(self, dataset: Source, folder: Path) -> None:
        # The data set's own state is all that a sample depends on besides its files and what decodes them.
        state = joblib.hash((_LAYOUT, PIL.__version__, dataset))
        self.folder = folder / f"{dataset.name.replace(' ', '_')}-{state}"

    def read(self, index: int) -> bytes | None:
        try:
            return (self.folder / str(index)).read_bytes()
        except OSError:
            return None

    def write(self, index: int, record: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Written beside its place and moved there whole, so that no other run ever sees half of it.
        written = self.folder / f".{index}-{uuid4().hex}"
        try:
            written.write_bytes(record)
            written.replace(self.folder / str(index))
        except BaseException:
            written.unlink(missing_ok=True)
            raise
