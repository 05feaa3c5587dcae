"""A small data set for evaluation: rectangles on a black ground, each quarter a part of its colour with a keypoint."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.crops import crop, square_box
from datasets.part_views import PartView, PartViewOptions
from datasets.sample import Sample
from evaluation.labellers.base import Labeller
from evaluation.options import EvaluationOptions, Sets
from evaluation.run import Result, evaluate

COLOURS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250], [250, 250, 20]], dtype=np.uint8)


def quadrants(name: str, shape: tuple[int, int], box: tuple[int, int, int, int], label: int | None = 1) -> Sample:
    """A sample of (height, width) pixels whose object fills the inclusive box (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box
    part_map = np.zeros(shape, np.uint8)
    middle_x, middle_y = (x0 + x1 + 1) // 2, (y0 + y1 + 1) // 2
    keypoints = []
    for part, (top, bottom, left, right) in enumerate(
        [
            (y0, middle_y, x0, middle_x),
            (y0, middle_y, middle_x, x1 + 1),
            (middle_y, y1 + 1, x0, middle_x),
            (middle_y, y1 + 1, middle_x, x1 + 1),
        ],
        start=1,
    ):
        part_map[top:bottom, left:right] = part
        keypoints.append([(left + right - 1) / 2, (top + bottom - 1) / 2, 1])
    image = np.concatenate([np.zeros((1, 3), np.uint8), COLOURS])[part_map]
    return Sample(
        name=f"{name}.jpg",
        path=Path(f"{name}.jpg"),
        image=image,
        foreground=(part_map > 0).astype(np.uint8),
        label=label,
        box=np.array(box, float),
        keypoints=np.array(keypoints),
        part_map=part_map,
    )


class Quadrants:
    """A split of such samples; counts how often each is read."""

    name = "quadrants"
    split = "test"
    keypoint_names = ["a", "b", "c", "d"]
    has_masks = True
    part_names = None
    pixel_classes: list[str] = []
    held_out: frozenset[str] | None = None

    def __init__(self, samples: list[Sample], part_maps: bool = False) -> None:
        self.samples = samples
        self.reads = [0] * len(samples)
        if part_maps:
            self.part_names = ["a", "b", "c", "d"]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        self.reads[index] += 1
        return self.samples[index]

    def sample_name(self, index: int) -> str:
        return self.samples[index].name

    def test_crop(self, sample: Sample, size: int) -> Sample:
        return crop(sample, square_box(sample.box, 0.05), size)

    def part_views(self, options: PartViewOptions) -> list[PartView]:
        return [PartView("crop", partial(self.test_crop, size=options.image_size))]


def draw_split(name: str, count: int, **options) -> Quadrants:
    """Boxes and pictures of several sizes, classes 1, 2, 3 in turn."""
    rng = np.random.default_rng(len(name))
    samples = []
    for place in range(count):
        height, width = rng.integers(90, 160, 2)
        x0, y0 = rng.integers(0, 30, 2)
        x1, y1 = x0 + rng.integers(30, width - x0), y0 + rng.integers(30, height - y0)
        samples.append(
            quadrants(
                f"{name}/{place}", (height, width), (x0, y0, min(x1, width - 1), min(y1, height - 1)), 1 + place % 3
            )
        )
    return Quadrants(samples, **options)


class ColourLabeller(Labeller):
    """Finds the four parts by their colours: a perfect labeller, which counts the pictures that it sees."""

    title = "colours"
    num_parts = 4

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        colours = torch.from_numpy(COLOURS).float().to(images.device)
        difference = images.float()[:, None] - colours[None, :, :, None, None]
        return -difference.square().mean(2) / 500


PARTS = ("part_maps", "keypoints")
SIZES = {"image_size": 32, "size": 48, "labels": "bilinear", "batch_size": 4, "num_workers": 0, "num_pictures": 8}


def evaluation_options(**changes) -> EvaluationOptions:
    """``SIZES`` and what of them is another, or other options."""
    return EvaluationOptions(**SIZES | changes)


def evaluated(
    labeller: Labeller, test: Quadrants, fit: Quadrants | None = None, protocols: tuple[str, ...] = PARTS, **changes
) -> Result:
    """What an evaluation on the CPU says."""
    return evaluate(labeller, Sets(test, fit), protocols, evaluation_options(**changes), "cpu")
