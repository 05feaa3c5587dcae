"""Pictures without files and without masks: a bright part above a dark one."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from conf.fields import number
from datasets import base, crops
from datasets.base import Split
from datasets.part_views import PartView, PartViewOptions
from datasets.sample import Purpose, Sample
from utils.seeding import generator


@dataclass
class Options(base.Options):
    brightness: int = number(low=1, high=255)


def build(options: Options, dataset_root: Path, split: Split, purpose: Purpose) -> "Halves":
    return Halves(split, options.brightness)


class Halves:
    name = "halves"
    keypoint_names: list[str] = []
    part_names = ["bright", "dark"]
    has_masks = False
    num_classes = 0
    pixel_classes: list[str] = []

    def __init__(self, split: Split, brightness: int) -> None:
        self.split, self.brightness = split, brightness
        self.notes = [f"{self.name}: {len(self)} pictures"]

    def __len__(self) -> int:
        return 12

    def sample_name(self, index: int) -> str:
        return f"{self.split}_{index}"

    def files(self, index: int) -> list[Path]:
        return []

    def __getitem__(self, index: int) -> Sample:
        rng = generator(0, f"halves {self.split}", index)
        part_map = np.full((40, 40), 2, np.uint8)
        part_map[: rng.integers(10, 30)] = 1
        image = rng.integers(0, 40, (40, 40, 3)) + self.brightness * (part_map == 1)[..., None]
        return Sample(
            name=self.sample_name(index),
            path=Path(self.sample_name(index)),
            image=image.clip(max=255).astype(np.uint8),
            foreground=np.ones((40, 40), np.uint8),
            part_map=part_map,
        )

    def train_crop(self, sample: Sample, size: int, rng: np.random.Generator) -> Sample:
        return self.test_crop(sample, size)

    def test_crop(self, sample: Sample, size: int) -> Sample:
        return crops.resize(sample, size, size, "nearest")

    def part_views(self, options: PartViewOptions) -> list[PartView]:
        return [PartView("crop", partial(self.test_crop, size=options.image_size))]
