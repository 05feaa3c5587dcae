"""The crops of data sets of classed pixels: windows cut out of pictures at the size they are read in (IIC)."""

import numpy as np

from datasets import crops
from datasets.sample import Sample


class WindowCrops:
    """Square windows without resizing; a picture that is too small is centred on black, where no pixel counts."""

    keypoint_names: list[str] = []
    part_names: list[str] | None = None
    has_masks = False
    num_classes = 0
    held_out: frozenset[str] | None = None

    def __init__(self, flip_probability: float) -> None:
        """
        Args:
            flip_probability: of the training crop.
        """
        self._flip_probability = flip_probability

    def train_crop(self, sample: Sample, size: int, rng: np.random.Generator) -> Sample:
        """A ``size`` x ``size`` window anywhere in the picture, mirrored at times."""
        height, width = sample.foreground.shape
        left, top = (
            rng.integers(0, side - size + 1) if side >= size else _centred(side, size) for side in (width, height)
        )
        mirrored = rng.random() < self._flip_probability
        cropped = _window(sample, left, top, size)
        return crops.flip(cropped, []) if mirrored else cropped

    def train_region(self, sample: Sample) -> np.ndarray:
        """(x0, y0, x1, y1) int, inclusive: the whole picture."""
        height, width = sample.foreground.shape
        return np.array([0, 0, width - 1, height - 1])

    def test_crop(self, sample: Sample, size: int) -> Sample:
        """The ``size`` x ``size`` window in the middle."""
        height, width = sample.foreground.shape
        return _window(sample, _centred(width, size), _centred(height, size), size)


def _centred(side: int, size: int) -> int:
    """Where a window of ``size`` starts in ``side`` pixels, or, below 0, how far before them."""
    return side // 2 - size // 2


def _window(sample: Sample, left: int, top: int, size: int) -> Sample:
    return crops.cut(sample, np.array([left, top, left + size - 1, top + size - 1]), outside=0)
