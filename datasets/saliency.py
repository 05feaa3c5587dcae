"""Soft saliency maps in the place of training masks (``dataset.saliency``), for any data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets.base import Source
from datasets.files import HELP, MissingFile, read_label_map
from datasets.sample import Sample


class WithSaliency:
    """A split whose samples have a saliency map each: ``FOLDER/NAME.png`` for a sample's name, 0 to 255.

    Args:
        source: the split, without masks. Where its boxes are those of masks they are whole pictures.
        folder: of the maps, at their pictures' sizes.

    Raises:
        MissingFile: there is no such folder.
    """

    has_masks = True

    def __init__(self, source: Source, folder: Path) -> None:
        if not folder.is_dir():
            raise MissingFile(f"dataset.saliency: no folder {folder}. It holds a map NAME.png for every sample. {HELP}")
        self._source, self._folder = source, folder
        self.name, self.split, self.notes = source.name, source.split, [*source.notes, f"Saliency from {folder}."]
        self.keypoint_names, self.part_names = source.keypoint_names, source.part_names
        self.num_classes, self.pixel_classes = source.num_classes, source.pixel_classes
        self.sample_name = source.sample_name
        self.train_crop, self.train_region = source.train_crop, source.train_region
        self.test_crop = source.test_crop

    def __len__(self) -> int:
        return len(self._source)

    def files(self, index: int) -> list[Path]:
        """What sample ``index`` is read from, the picture first, the saliency map last."""
        return [*self._source.files(index), self._map(index)]

    def __getitem__(self, index: int) -> Sample:
        """Read one sample; errors as of ``files.read_label_map``."""
        sample = self._source[index]
        saliency = read_label_map(self._map(index), sample.path, sample.image)
        return replace(sample, saliency=saliency, foreground=(saliency > 127).astype(np.uint8))

    def _map(self, index: int) -> Path:
        return self._folder / f"{self.sample_name(index)}.png"
