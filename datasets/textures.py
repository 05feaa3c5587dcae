"""The drawn set of textures: pictures cut into regions whose pixels have classes, made on this machine (ours).

A class is a texture. Each region has two colours of its own, one as often as the other, so that a class shows in where
they are, not in how much there is of either. The colours of a class vary around a hue of its own so widely that they
say something about the class, and far from all.
"""

from colorsys import hsv_to_rgb
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from omegaconf import MISSING
from PIL import Image

from conf.fields import number
from datasets import base, drawn
from datasets.base import Split
from datasets.files import read_label_map, read_picture
from datasets.sample import VOID, Purpose, Sample
from datasets.windows import WindowCrops
from utils.seeding import generator

CLASSES = ("horizontal stripes", "vertical stripes", "chequers", "dots", "noise")

_VERSION = 1  # of the drawing: raised whenever the same numbers would give other pictures
_HUE_SPREAD = 0.2  # deviation of a region's hue from its class's, of a turn


@dataclass
class Drawing:
    """What the drawn set depends on.

    Attributes:
        num_train, num_test: how many pictures of each split.
        size: side of a picture, pixels.
        seed: of the drawing; training seeds do not touch it.
    """

    num_train: int = number(low=1)
    num_test: int = number(low=1)
    size: int = number(low=32)
    seed: int = number(low=0)


@dataclass
class Options(base.Options):
    """The keys of ``dataset``."""

    drawing: Drawing = MISSING


def build(options: Options, dataset_root: Path, split: Split, purpose: Purpose) -> "Textures":
    """See ``datasets.build``."""
    root = dataset_root / options.folder
    drawn.ensure(root, {"textures": _VERSION, **asdict(options.drawing)}, partial(_draw, drawing=options.drawing))
    return Textures(root, split, options)


class Textures(WindowCrops):
    """Pictures of regions of textures; void (255, where the foreground is 0) are the lines between regions."""

    name = "textures"
    pixel_classes = list(CLASSES)

    def __init__(self, root: Path, split: Split, options: Options) -> None:
        super().__init__(options.flip_probability)
        self.split, self._root = split, root
        self._count = options.drawing.num_train if split == "train" else options.drawing.num_test
        self.notes = [f"{self.name}: {len(self):,} pictures, the whole {split} split."]

    def __len__(self) -> int:
        return self._count

    def sample_name(self, index: int) -> str:
        """The name of sample ``index``, without reading it."""
        return _name(self.split, index)

    def files(self, index: int) -> list[Path]:
        """The picture and its class map."""
        return [self._root / folder / f"{self.sample_name(index)}.png" for folder in ("images", "class_maps")]

    def __getitem__(self, index: int) -> Sample:
        """Read one picture and its class map; errors as of ``files.read_label_map``."""
        path, map_path = self.files(index)
        image = read_picture(path)
        class_map = read_label_map(map_path, path, image)
        foreground = (class_map != VOID).astype(np.uint8)
        return Sample(self.sample_name(index), path, image, foreground, class_map=class_map)


def _name(split: Split, index: int) -> str:
    return f"{split}_{index:04d}"


def _draw(root: Path, drawing: Drawing) -> None:
    for folder in ("images", "class_maps"):
        (root / folder).mkdir()
    for split, count in (("train", drawing.num_train), ("test", drawing.num_test)):
        for index in range(count):
            rng = generator(drawing.seed, f"textures {split}", index)
            for folder, pixels in zip(("images", "class_maps"), draw_textures(drawing.size, rng), strict=True):
                Image.fromarray(pixels).save(root / folder / f"{_name(split, index)}.png")


def draw_textures(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture of two to four regions, each of another class.

    Args:
        size: side of the picture, pixels.
        rng: decides everything.

    Returns:
        The picture (size, size, 3) uint8, and its class map (size, size) uint8: 0.. as in ``CLASSES``, 255 on the lines
        between regions.
    """
    y, x = np.mgrid[:size, :size]
    count = rng.integers(2, 5)
    regions = _regions(x, y, count, rng)
    classes = rng.permutation(len(CLASSES))[:count]
    image = np.zeros((size, size, 3))
    for region, of_class in enumerate(classes):
        hue = of_class / len(CLASSES) + rng.normal(0, _HUE_SPREAD)
        # Either colour may be the lighter one, and both are of about the same hue.
        values = rng.permutation([rng.uniform(0.3, 0.5), rng.uniform(0.75, 1)])
        colours = [np.array(hsv_to_rgb(hue % 1, rng.uniform(0.3, 0.7), value)) for value in values]
        marks = _texture(of_class, x, y, rng)[..., None]
        image = np.where((regions == region)[..., None], np.where(marks, *colours), image)
    image = np.clip(image * 255 + rng.normal(0, 6, image.shape), 0, 255)
    between = np.zeros((size, size), bool)
    between[:-1] |= regions[:-1] != regions[1:]
    between[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    return image.astype(np.uint8), np.where(between, VOID, classes[regions]).astype(np.uint8)


def _regions(x: np.ndarray, y: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size): which of ``count`` points, none close to another, is the nearest."""
    size = len(x)
    while True:
        points = rng.uniform(0, size, (count, 2))
        distances = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
        if (distances + size * np.eye(count) > 0.4 * size).all():
            return np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1]).argmin(-1)


def _texture(of_class: int, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where a texture, at a place and of a scale of its own, has its first colour: about half of the pixels."""
    period = rng.uniform(5, 7)
    x, y = x + rng.uniform(0, period), y + rng.uniform(0, period)
    if of_class == 0:  # horizontal stripes
        return y % period < period / 2
    if of_class == 1:  # vertical stripes
        return x % period < period / 2
    if of_class == 2:  # chequers
        return (x % period < period / 2) ^ (y % period < period / 2)
    if of_class == 3:  # dots, on the half of the area
        return np.hypot(x % period - period / 2, y % period - period / 2) < period / np.sqrt(2 * np.pi)
    return rng.random(x.shape) < 0.5  # noise
