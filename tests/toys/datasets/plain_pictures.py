"""A data set that knows nothing but its pictures: what the least of modules looks like."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets import base, crops
from datasets.base import Split
from datasets.files import read_picture
from datasets.part_views import PartView, PartViewOptions
from datasets.sample import Purpose, Sample


@dataclass
class Options(base.Options):
    """The keys of ``dataset``: no choice of masks, no boxes."""


def build(options: Options, dataset_root: Path, split: Split, purpose: Purpose) -> "PlainPictures":
    """See ``datasets.build``."""
    return PlainPictures(dataset_root / options.folder, split, options.flip_probability)


class PlainPictures:
    """Every second PNG of a folder is of the test split."""

    name = "plain pictures"
    keypoint_names: list[str] = []
    part_names = None
    has_masks = False
    num_classes = 0
    pixel_classes: list[str] = []

    def __init__(self, root: Path, split: Split, flip_probability: float) -> None:
        self.split, self._flip_probability = split, flip_probability
        self._paths = sorted(root.glob("*.png"))[split == "test" :: 2]
        self.notes = [f"{self.name}: {len(self)} pictures"]

    def __len__(self) -> int:
        return len(self._paths)

    def sample_name(self, index: int) -> str:
        return self._paths[index].name

    def files(self, index: int) -> list[Path]:
        return [self._paths[index]]

    def __getitem__(self, index: int) -> Sample:
        image = read_picture(self._paths[index])
        return Sample(self.sample_name(index), self._paths[index], image, np.ones(image.shape[:2], np.uint8))

    def train_crop(self, sample: Sample, size: int, rng: np.random.Generator) -> Sample:
        cropped = crops.resize(sample, size, size, "nearest")
        return crops.flip(cropped, []) if rng.random() < self._flip_probability else cropped

    def train_region(self, sample: Sample) -> np.ndarray:
        height, width = sample.foreground.shape
        return np.array([0, 0, width - 1, height - 1])

    def test_crop(self, sample: Sample, size: int) -> Sample:
        return crops.pad_to_square(sample, size)

    def part_views(self, options: PartViewOptions) -> list[PartView]:
        return []
