"""DeepFashion In-shop Clothes Retrieval (Liu et al., 2016), the pictures with segmentation."""

import json
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from conf.fields import numbers, reading
from datasets import base, crops
from datasets.base import Mask, NoPictures, Split
from datasets.files import HELP, UnreadableFile, foreign, read_picture, require_masks, turn_of_map
from datasets.masks import read_mask, remarks_of
from datasets.part_views import PartView, PartViewOptions
from datasets.sample import Purpose, Sample
from datasets.turns import UPRIGHT, turned
from utils.errors import UserError

# Lists of DeepFashion_segmentation_*.json that make a split.
LISTS = {"train": ("train",), "test": ("query", "gallery")}
# Where predicted masks lie; ground-truth masks are the labelled pixels.
MASKS = {"supervised": "supervisedlabels", "unsupervised": "pseudolabels"}
# The colour in a _segment.png that stands for each label.
PALETTE = np.array(
    [
        (0, 0, 0), (0, 100, 0), (16, 78, 139), (50, 205, 50),
        (70, 130, 180), (127, 255, 212), (144, 238, 144), (211, 211, 211),
        (220, 220, 220), (245, 222, 179), (250, 235, 215), (255, 0, 0),
        (255, 140, 0), (255, 250, 205), (255, 250, 250), (255, 255, 0),
    ],
    np.uint8,
)  # fmt: skip
_UNKNOWN = 255


@dataclass
class Options(base.Options, base.Masked):
    """The keys of ``dataset``.

    Attributes:
        crop_area: of the training crop, smallest and largest share of the picture's area.
        crop_aspect: of the training crop, smallest and largest width / height.
    """

    crop_area: list[float] = reading(numbers(2, increasing=True, above=0, high=1))
    crop_aspect: list[float] = reading(numbers(2, increasing=True, above=0))


def build(options: Options, dataset_root: Path, split: Split, purpose: Purpose) -> "DeepFashion":
    """See ``datasets.build``. Predicted masks are published for the test split alone."""
    mask = options.mask_of_split(split, purpose) or "gt"
    return DeepFashion(dataset_root / options.folder, split, mask, options)


class DeepFashion:
    """Pictures of dressed people with masks and part maps of 15 labels (clothes, hair, skin and the like).

    Attributes:
        name: of the data set.
        split: as given.
        keypoint_names: none.
        part_names: the annotation numbers its labels and does not name them.
        notes: what a log should say about this data.
    """

    name = "DeepFashion"
    num_classes = 0
    pixel_classes: list[str] = []
    keypoint_names: list[str] = []
    part_names = [f"label {number}" for number in range(1, len(PALETTE))]

    def __init__(self, root: Path | str, split: Split, mask: Mask, options: Options) -> None:
        """Read the lists; pictures and masks are read one by one, when asked for.

        Args:
            root: the folder that holds ``Anno/`` and the folders of predicted masks.
            split: ``test`` is query and gallery together.
            mask: ``gt`` for all labelled pixels, ``supervisedlabels/`` or ``pseudolabels/``; ``none``: the whole
                picture.
            options: of the training crop.

        Raises:
            UserError: something is missing or malformed; the message says what and where.
        """
        self.split = split
        self._root, self._base = Path(root), Path(root) / "Anno/segmentation"
        self._mask, self.has_masks = mask, mask != "none"
        self._mask_rules = options.mask_rules(options.ignore_label)
        self._crop_area, self._crop_aspect = tuple(options.crop_area), tuple(options.crop_aspect)
        self._flip_probability = options.flip_probability
        lists = [self._base / f"DeepFashion_segmentation_{name}.json" for name in LISTS[split]]
        self._check_presence(lists)
        self._names = [name for path in lists for name in _read_list(path)]
        if not self._names:
            raise NoPictures(f"{' and '.join(map(str, lists))}: no pictures. {HELP}")
        self.notes = [f"{self.name}: {len(self):,} pictures, the {split} split ({' and '.join(LISTS[split])})."]

    def _check_presence(self, lists: list[Path]) -> None:
        pictures = self._base / "img_highres"
        missing = [path for path in lists if not path.is_file()] + [pictures] * (not pictures.is_dir())
        if missing:
            raise UserError(
                f"{self.name}: missing {', '.join(str(path.relative_to(self._root)) for path in missing)}; looked in "
                f"{self._root}. Set dataset_root= to what holds DeepFashion/. {HELP}"
            )
        # The true masks are the labels beside the pictures.
        folders = {mask: self._root / folder for mask, folder in MASKS.items()}
        if self.has_masks:
            require_masks(self.name, self._mask, {"gt": pictures, **folders})

    def __len__(self) -> int:
        return len(self._names)

    def files(self, index: int) -> list[Path]:
        """The files that sample ``index`` is read from: picture, part map and, if one is asked for, predicted mask."""
        path = self._base / self._names[index]
        files = [path, path.with_name(f"{path.stem}_segment.png")]
        if self._mask in MASKS:
            files.append(self.mask_path(index, self._mask))
        return files

    def sample_name(self, index: int) -> str:
        """The name of sample ``index``, without reading it."""
        return self._names[index]

    def mask_path(self, index: int, mask: Mask) -> Path:
        """Where a predicted mask of sample ``index`` is read from, and is to be written to."""
        return self._root / MASKS[mask] / f"{self.sample_name(index)}.png"

    def __getitem__(self, index: int) -> Sample:
        """Read one picture with its annotation.

        Raises:
            UserError: a file is missing or broken, a mask or part map has another size than its picture, or a part map
                has a colour that stands for no label.
        """
        path, part_path, *mask_path = self.files(index)
        image = read_picture(path)
        part_map = read_part_map(part_path, path, image)
        known = {"part_map": part_map}
        if not self.has_masks:
            return Sample(self._names[index], path, image, np.ones_like(part_map, np.uint8), **known)
        if not mask_path:
            return Sample(self._names[index], path, image, (part_map > 0).astype(np.uint8), **known)
        mask = read_mask(mask_path[0], path, image, **self._mask_rules)
        known |= {"void": mask.void, "remarks": remarks_of(path, UPRIGHT, [mask])}
        return Sample(self._names[index], path, image, mask.labels, **known)

    def train_crop(self, sample: Sample, size: int, rng: np.random.Generator) -> Sample:
        """A random box of the picture, resized to ``size`` x ``size``, mirrored at times (release)."""
        height, width = sample.foreground.shape
        box = crops.random_box(width, height, self._crop_area, self._crop_aspect, rng)
        mirrored = rng.random() < self._flip_probability
        cropped = crops.resize(crops.cut(sample, box), size, size, "nearest")
        return crops.flip(cropped, []) if mirrored else cropped

    def train_region(self, sample: Sample) -> np.ndarray:
        """(x0, y0, x1, y1) int, inclusive: what ``train_crop`` can see, the whole picture."""
        height, width = sample.foreground.shape
        return np.array([0, 0, width - 1, height - 1])

    def test_crop(self, sample: Sample, size: int) -> Sample:
        """The whole picture in a square of ``size`` pixels, padded."""
        return crops.pad_to_square(sample, size)

    def part_views(self, options: PartViewOptions) -> list[PartView]:
        """As the published figures: FG-NMI and FG-ARI on the padded square, NMI and ARI on the plain picture."""
        return [
            PartView("padded", partial(self.test_crop, size=options.size), everywhere=False, align_corners=True),
            PartView("whole", partial(_whole, size=options.size, labels=options.labels), on_parts=False),
        ]


def _whole(sample: Sample, size: int, labels: Literal["bilinear", "nearest"]) -> Sample:
    """The picture with its shorter side at ``size``, the longer one at its integer part."""
    height, width = sample.foreground.shape
    return crops.resize(sample, *crops.with_shorter_side(width, height, size, str(sample.path)), labels)


def _read_list(path: Path) -> list[str]:
    with foreign(path, "list of pictures"):
        return [str(image["file_name"]) for image in json.loads(path.read_bytes())["images"]]


def read_part_map(path: Path, picture_path: Path, picture: np.ndarray) -> np.ndarray:
    """The labels (H, W) uint8, 0..15, of a ``_segment.png``.

    Raises:
        UserError: the file is missing or broken, of another size than its picture, or a pixel's colour is not in
            ``PALETTE``; the message names file, pixel and colour.
    """
    colours = read_picture(path)
    turn = turn_of_map(str(path), colours.shape[:2], picture_path, picture)
    labels = _label_of_colour()[_packed(colours)]
    if labels.max() == _UNKNOWN:
        y, x = np.argwhere(labels == _UNKNOWN)[0]
        colour = " ".join(map(str, colours[y, x].tolist()))
        raise UnreadableFile(
            f"{path}: the pixel at x={x}, y={y} (from 0) has the colour {colour} (RGB), which stands for no label. "
            f"Fetch the file again. {HELP}"
        )
    return turned(labels, turn)


@cache
def _label_of_colour() -> np.ndarray:
    """For each 24-bit colour its label: a table, since a picture is some 800,000 look-ups."""
    labels = np.full(1 << 24, _UNKNOWN, np.uint8)
    labels[_packed(PALETTE)] = np.arange(len(PALETTE))
    return labels


def _packed(colours: np.ndarray) -> np.ndarray:
    """24-bit numbers (...) of colours (..., 3)."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue
