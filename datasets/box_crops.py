"""The crops that data sets of objects with boxes share."""

from functools import partial

import numpy as np

from datasets import crops
from datasets.base import Boxed
from datasets.part_views import PartView, PartViewOptions
from datasets.sample import Sample


class BoxCrops:
    """Square crops around each sample's box, as the release cuts CUB and PASCAL-Part.

    Attributes:
        mirrored_keypoints: for each keypoint the index of the one that takes its name in the mirror.
    """

    mirrored_keypoints: list[int] = []

    def __init__(self, options: Boxed, flip_probability: float) -> None:
        """
        Args:
            options: padding and jitter of the training crop, shares of the box's size; the test crop has the padding.
            flip_probability: of the training crop.
        """
        self._box_padding, self._box_jitter = options.box_padding, options.box_jitter
        self._flip_probability = flip_probability

    def train_crop(self, sample: Sample, size: int, rng: np.random.Generator) -> Sample:
        """A ``size`` x ``size`` crop around the jittered box, mirrored at times (release)."""
        draws, mirrored = rng.uniform(-1, 1, 4), rng.random() < self._flip_probability
        box = crops.square_box(sample.box, self._box_padding, self._box_jitter, draws)
        cropped = crops.crop(sample, box, size)
        return crops.flip(cropped, self.mirrored_keypoints) if mirrored else cropped

    def train_region(self, sample: Sample) -> np.ndarray:
        """(x0, y0, x1, y1) int, inclusive: what ``train_crop`` can see; it may reach past the picture."""
        return crops.reach(sample.box, self._box_padding, self._box_jitter)

    def test_crop(self, sample: Sample, size: int) -> Sample:
        """A ``size`` x ``size`` crop around the padded box (release)."""
        return crops.crop(sample, crops.square_box(sample.box, self._box_padding), size)

    def part_views(self, options: PartViewOptions) -> list[PartView]:
        """The test crop, for every figure."""
        return [PartView("crop", partial(self.test_crop, size=options.image_size))]
