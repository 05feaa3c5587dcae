"""What every data set brings: its options, and one split that is read sample by sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from omegaconf import MISSING

from conf.fields import choice, number, path, probability, reading
from datasets.part_views import PartView, PartViewOptions
from datasets.sample import Purpose, Sample
from utils.errors import UserError

Split = Literal["train", "test"]
Mask = Literal["gt", "supervised", "unsupervised", "none"]


class NoPictures(UserError):
    """A data set has no picture of a split."""


def forced(threshold: int | None, values: Sequence[int] | None) -> int | tuple[int, ...] | None:
    """What ``dataset.mask_threshold`` and ``dataset.mask_values`` say of masks; see ``datasets.masks``.

    Raises:
        UserError: both are given, or no value.
    """
    threshold, values = given(threshold), given(values)
    if values is None:
        return threshold
    if threshold is not None or not values:
        told = f"dataset.mask_threshold={threshold} is given too" if threshold is not None else "it names no value"
        raise UserError(
            f"dataset.mask_values={[*values]} says which values of a mask are the object, and {told}: give one."
        )
    return tuple(values)


def given(value: Any) -> Any:
    """The value of a key; None, too, where a data set is made without a config."""
    return None if value == MISSING else value


@dataclass
class Options:
    """The keys of ``dataset`` that every data set has; those of one are in its module."""

    name: str = MISSING
    folder: str = path(below="dataset_root")
    lists: dict[str, str] | None = reading()  # see datasets/lists.py
    flip_probability: float = reading(probability())
    saliency: str | None = reading(path())
    ignore_label: int | None = reading(number(low=0, high=65535))
    on_error: str = reading(choice("raise", "skip"))
    cache: str = reading()  # checked in datasets/cache.py
    cache_dir: str = reading(path())


@dataclass
class Masked:
    """Of data sets with a choice of masks; "none": every picture is the object's from edge to edge.

    What is object in a mask is said in ``datasets.masks``.
    """

    train_mask: str = reading(choice(*get_args(Mask)))
    eval_mask: str = reading(choice(*get_args(Mask)))
    mask_threshold: int | None = reading(number(low=1, high=65535))
    mask_values: list[int] | None = reading(number(low=0, high=65535))

    def mask_rules(self, ignore_label: int | None) -> dict[str, Any]:
        """How ``datasets.masks.read_mask`` is to read masks; UserError as of :func:`forced`."""
        return {"forced": forced(self.mask_threshold, self.mask_values), "ignore_label": given(ignore_label)}

    def mask(self, purpose: Purpose) -> Mask | None:
        """Which masks are read; None, for a prediction of masks, which needs none."""
        return {"training": self.train_mask, "evaluation": self.eval_mask, "prediction": None}[purpose]

    def mask_of_split(self, split: Split, purpose: Purpose) -> Mask | None:
        """The same for data whose predicted masks are needed of the test split alone.

        What an evaluation fits (k-means) is then fitted with the masks of the training.
        """
        return self.mask("training" if (split, purpose) == ("train", "evaluation") else purpose)


@dataclass
class Boxed:
    """Of data sets cut around boxes; see ``datasets.box_crops``."""

    box_padding: float = reading(number(low=0, high=4))
    box_jitter: float = reading(number(low=0, high=0.5))


class Source(Protocol):
    """One split of a data set. It pickles: workers read it.

    Attributes:
        name: of the data set.
        split: as asked for.
        notes: what a log should say about this data.
        keypoint_names: of its keypoints; empty where it has none.
        part_names: of labels 1.. of its part maps, or None where it has none.
        has_masks: its samples' foreground is an object's; else it is the whole picture, nothing asks for masks, and no
            figure is of them.
        num_classes: its samples' labels are 1 to this; 0 where they have none.
        pixel_classes: names of the classes 0.. of its class maps; empty where it has none.
        held_out: asked for where there are ``pixel_classes``. Where both splits have the same pictures, the names of
            those on which what was taught with labels is tested, and which it is not taught with; None: the test split.
    """

    name: str
    split: Split
    notes: list[str]
    keypoint_names: list[str]
    part_names: list[str] | None
    has_masks: bool
    num_classes: int
    pixel_classes: list[str]
    held_out: frozenset[str] | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            UserError: a file is missing or broken, or does not fit the others; the message names it.
        """
        ...

    def sample_name(self, index: int) -> str:
        """The name of sample ``index``, without reading it."""
        ...

    def files(self, index: int) -> list[Path]:
        """What sample ``index`` is read from, the picture first."""
        ...

    def mask_path(self, index: int, mask: Mask) -> Path:
        """Where a predicted mask of sample ``index`` is read from, and is to be written to; with ``has_masks``."""
        ...

    def train_crop(self, sample: Sample, size: int, rng: np.random.Generator) -> Sample:
        """A ``size`` x ``size`` crop that depends on the sample and the generator alone."""
        ...

    def train_region(self, sample: Sample) -> np.ndarray:
        """(x0, y0, x1, y1) int, inclusive: what ``train_crop`` can see of a sample; it may reach past the picture."""
        ...

    def test_crop(self, sample: Sample, size: int) -> Sample:
        """The ``size`` x ``size`` crop that is evaluated."""
        ...

    def part_views(self, options: PartViewOptions) -> list[PartView]:
        """The pictures on which parts are compared with part maps; asked for where there are ``part_names``."""
        ...
