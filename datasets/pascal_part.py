"""PASCAL-Part (Chen et al., 2014): objects of PASCAL VOC 2010 with annotated parts, one category at a time."""

import zlib
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from conf.fields import choice, number
from datasets import base
from datasets.base import Mask, Split
from datasets.box_crops import BoxCrops
from datasets.files import HELP, MissingFile, UnreadableFile, foreign, read_picture, turn_of_map
from datasets.masks import LabelMap, read_mask, remarks_of
from datasets.part_views import PartView, PartViewOptions
from datasets.rows import read_rows
from datasets.sample import Purpose, Sample
from datasets.turns import UPRIGHT, turned, turned_places
from utils.errors import UserError

# In the order of the paper's table, which abbreviates three of them.
CATEGORIES = ("sheep", "horse", "cow", "motorbike", "aeroplane", "bus", "car", "bicycle", "dog", "cat")
PAPER_NAMES = {"mbike": "motorbike", "plane": "aeroplane", "bike": "bicycle"}

LISTS = {"train": "train", "test": "val"}  # split -> ending of the list's name
MASK_FOLDERS = {"supervised": "supervisedlabels", "unsupervised": "pseudolabels"}
MAX_FILES = 4096  # annotations kept in memory, some kilobytes each; a category has 1,200 at most


@dataclass
class Options(base.Options, base.Masked, base.Boxed):
    """The keys of ``dataset``.

    Attributes:
        category: one of ``CATEGORIES``, or the paper's ``plane``, ``mbike``, ``bike``.
        min_train_area, min_test_area: an object's box must cover more than this share of its picture.
    """

    category: str | None = choice(*CATEGORIES, *PAPER_NAMES)
    min_train_area: float = number(low=0, high=1)
    min_test_area: float = number(low=0, high=1)


class NoObjects(UserError):
    """The category is not there: a list of its pictures is missing, or none of its objects is large enough."""


def build(options: Options, dataset_root: Path, split: Split, purpose: Purpose) -> "PascalPart":
    """See ``datasets.build``. Predicted masks are needed for the test split alone.

    It is not refused to an evaluation without training objects.

    Raises:
        UserError: no category is given.
        NoObjects: the category is not there, or no object is large enough.
    """
    if options.category is None:
        raise UserError(f"dataset.category is needed: give dataset.category={'|'.join(CATEGORIES)}.")
    mask = options.mask_of_split(split, purpose) or "gt"
    source = PascalPart(dataset_root / options.folder, split, mask, options)
    if not len(source) and (purpose == "training" or split == "test"):
        raise NoObjects(f"{source.list_of(split)} gives no object to use. {source.notes[0]} {HELP}")
    return source


@dataclass(frozen=True)
class _Object:
    """What is kept of one object of an annotation.

    Attributes:
        index: its place among all objects of the file, from 0.
        box: (x0, y0, x1, y1), the tight box of its mask, zero-based, both corners inclusive; None for an empty mask.
        shape: height and width of the picture.
        part_names: of labels 1.. of the part map, sorted.
        packed: the part map (H, W) uint8, compressed.
    """

    index: int
    box: tuple[int, int, int, int] | None
    shape: tuple[int, int]
    part_names: tuple[str, ...]
    packed: bytes

    @property
    def area(self) -> float:
        """(x1 - x0) (y1 - y0) / (H W) of the box, as in the release."""
        if self.box is None:
            return 0.0
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0) / (self.shape[0] * self.shape[1])

    def part_map(self, labels: dict[str, int]) -> np.ndarray:
        """(H, W) uint8; ``labels`` gives each part name its number."""
        own = np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.shape)
        return np.array([0, *(labels[name] for name in self.part_names)], np.uint8)[own]


class PascalPart(BoxCrops):
    """The objects of one category that cover enough of their picture, with masks, boxes and part maps.

    One sample per object. Its box is the tight box of the object's mask; its ground-truth foreground is the union of
    its labelled parts, not the object's mask. A part's label is its name up to the first underscore (``wheel_2`` is
    ``wheel``); where parts overlap, the one that comes first in the file is seen. Labels are numbered in the
    alphabetical order of the names that any object of the category has in the pictures of its two lists, whatever its
    size, so they are the same in both splits. They keep the picture's sides: in a mirrored crop ``leftmirror`` is on
    the right.

    An object without parts has no foreground. The losses have nothing to see in it, so it is left out of the training
    split; in the test split it stays, as background everywhere, since the protocol counts every object.

    Predicted masks are PNGs of the whole picture, not 0 on the object:
    ``supervisedlabels/CATEGORY/PICTURE_INDEX.png`` (``unsupervised``: ``pseudolabels/``), INDEX is the object's place
    in its annotation file, from 0 and over the objects of all categories. That is ``NAME.png`` for a sample's name.

    The annotations are read when the first split is built and kept, compressed, for the life of the process.

    Attributes:
        name: of the data set, with the category.
        split: as given.
        category: PASCAL's name for it.
        keypoint_names: none.
        part_names: of labels 1.. of the part maps.
        notes: what a log should say about this data.
    """

    keypoint_names: list[str] = []
    num_classes = 0
    pixel_classes: list[str] = []

    def __init__(self, root: Path | str, split: Split, mask: Mask, options: Options) -> None:
        """Read the lists and the annotations; pictures and predicted masks are read one by one, when asked for.

        Args:
            root: the folder ``VOCdevkit_2010`` with ``Annotations_Part/``, ``VOC2010/JPEGImages/`` and
                ``VOC2010/ImageSets/Main/``.
            split: training is ``CATEGORY_train.txt``, test ``CATEGORY_val.txt``; their lines with -1 are pictures
                without the category.
            mask: the labelled parts, or predicted masks; ``none``: the whole picture.
            options: the category, how large its objects must be, and the crops, see ``BoxCrops``.

        Raises:
            NoObjects: a list of the category is missing.
            UserError: something is missing or malformed; the message names every such annotation.
        """
        super().__init__(options, options.flip_probability)
        self.category = PAPER_NAMES.get(options.category, options.category)
        self.name = f"PASCAL-Part {self.category}"
        self.split = split
        self._root, self._mask, self.has_masks = Path(root), mask, mask != "none"
        self._mask_rules = options.mask_rules(options.ignore_label)
        self._check_presence()

        listed, lost = self._read_lists(options.on_error == "skip")
        names = {name for found in listed.values() for _, annotated in found for name in annotated.part_names}
        self.part_names = sorted(names)
        self._labels = {name: label for label, name in enumerate(self.part_names, start=1)}

        min_area = options.min_train_area if split == "train" else options.min_test_area
        large = [(picture, annotated) for picture, annotated in listed[split] if annotated.area > min_area]
        self._objects = [pair for pair in large if pair[1].part_names] if split == "train" else large
        left_out = len(large) - len(self)
        self.notes = [
            f"{self.name}: {len(self):,} of {len(listed[split]):,} objects of the {split} split, those that cover more "
            f"than {min_area:.0%} of their picture" + (f"; {left_out:,} without parts left out." if left_out else ".")
        ]
        if lost:
            self.notes.append(f"{self.name}: {len(lost):,} training pictures are skipped, the first: {lost[0]}")

    def _check_presence(self) -> None:
        if not self._root.is_dir():
            raise UserError(
                f"{self.name}: no folder {self._root}. Set dataset_root= to what holds {self._root.name}/. {HELP}"
            )
        folders = ("Annotations_Part", "VOC2010/JPEGImages", "VOC2010/ImageSets/Main")
        missing = [f"{name}/" for name in folders if not (self._root / name).is_dir()]
        if missing:
            raise UserError(f"{self.name}: missing {', '.join(missing)}; looked in {self._root}. {HELP}")
        lost = next((self.list_of(split) for split in LISTS if not self.list_of(split).is_file()), None)
        if lost is not None:
            raise NoObjects(f"{self.name}: missing {lost}. {HELP}")
        if self._mask in MASK_FOLDERS:
            folder = self._root / MASK_FOLDERS[self._mask] / self.category
            if not folder.is_dir():
                raise UserError(
                    f"{self.name}: no folder {folder} for {self._mask} masks. None are published: train with "
                    "method=foreground and let predict.py write them, or give dataset.eval_mask=gt, "
                    f"which leaves out the figures with predicted masks. {HELP}"
                )

    def list_of(self, split: Split) -> Path:
        """The list of the category's pictures."""
        return self._root / "VOC2010/ImageSets/Main" / f"{self.category}_{LISTS[split]}.txt"

    def _annotation(self, picture: str) -> Path:
        return self._root / "Annotations_Part" / f"{picture}.mat"

    def _read_lists(self, skip: bool) -> tuple[dict[str, list[tuple[str, _Object]]], list[UserError]]:
        """For each split all objects of the category, each with its picture's name, in the order of the list.

        And what is wrong with annotations of training pictures that are skipped.
        """
        found: dict[str, list[tuple[str, _Object]]] = {split: [] for split in LISTS}
        faults, skipped = [], []
        for split, objects in found.items():
            for picture, present in read_rows(self.list_of(split), "picture 1|0|-1", str, _presence):
                if not present:
                    continue
                path = self._annotation(picture)
                try:
                    changed = path.stat().st_mtime_ns if path.is_file() else 0
                    objects += [(picture, found) for found in _read_objects(path, self.category, changed)]
                except (MissingFile, UnreadableFile) as error:
                    (skipped if skip and split == "train" else faults).append(error)
        if faults:
            raise type(faults[0])("\n".join(str(fault) for fault in faults))
        return found, skipped

    def __len__(self) -> int:
        return len(self._objects)

    def sample_name(self, index: int) -> str:
        """The name of sample ``index``, without reading it."""
        picture, annotated = self._objects[index]
        return f"{self.category}/{picture}_{annotated.index}"

    def files(self, index: int) -> list[Path]:
        """Every file that sample ``index`` is read from; its annotation has been read already."""
        picture, _ = self._objects[index]
        files = [self._root / "VOC2010/JPEGImages" / f"{picture}.jpg"]
        if self._mask in MASK_FOLDERS:
            files.append(self.mask_path(index, self._mask))
        return files

    def mask_path(self, index: int, mask: Mask) -> Path:
        """Where a predicted mask of sample ``index`` is read from, and is to be written to."""
        return self._root / MASK_FOLDERS[mask] / f"{self.sample_name(index)}.png"

    def __getitem__(self, index: int) -> Sample:
        """Read one object's picture, and its predicted mask if that is asked for.

        Raises:
            UserError: a file is missing or broken, or a mask has another size than its picture.
        """
        picture, annotated = self._objects[index]
        path, *mask_path = self.files(index)
        image = read_picture(path)
        part_map = annotated.part_map(self._labels)
        turn = turn_of_map(str(self._annotation(picture)), part_map.shape, path, image)
        part_map, corners = turned(part_map, turn), np.array(annotated.box, float).reshape(2, 2)
        if turn != UPRIGHT:
            corners = np.sort(turned_places(corners, turn, image.shape), axis=0)
        mask = LabelMap((part_map > 0).astype(np.uint8) if self.has_masks else np.ones_like(part_map, np.uint8))
        if mask_path:
            mask = read_mask(mask_path[0], path, image, **self._mask_rules)
        return Sample(
            name=self.sample_name(index),
            path=path,
            image=image,
            foreground=mask.labels,
            box=corners.ravel(),
            part_map=part_map,
            void=mask.void,
            remarks=remarks_of(path, UPRIGHT, [mask]),
        )

    def part_views(self, options: PartViewOptions) -> list[PartView]:
        """The test crop, for every figure; those with ground-truth masks stand beside those with predicted ones."""
        prepare = partial(self.test_crop, size=options.image_size)
        return [PartView("crop", prepare, everywhere=self._mask != "gt", true_masks=True)]


def _presence(text: str) -> bool:
    # 0: all objects of the category in the picture are marked as difficult.
    if text not in ("1", "0", "-1"):
        raise ValueError(text)
    return text != "-1"


@lru_cache(maxsize=MAX_FILES)
def _read_objects(path: Path, category: str, _changed: int) -> tuple[_Object, ...]:
    """The objects of a category in an annotation file; ``_changed`` is when that was written."""
    with foreign(path, "annotation of PASCAL-Part"):
        annotation = loadmat(path)["anno"][0, 0]
        return tuple(
            _read_object(index, annotated)
            for index, annotated in enumerate(annotation["objects"].ravel())
            if annotated["class"].item() == category
        )


def _read_object(index: int, annotated: np.void) -> _Object:
    mask = annotated["mask"] > 0
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = tuple(map(int, (columns[0], rows[0], columns[-1], rows[-1]))) if len(rows) else None
    parts = [(part["part_name"].item().partition("_")[0], part["mask"] > 0) for part in annotated["parts"].ravel()]
    names = sorted({name for name, _ in parts})
    part_map = np.zeros(mask.shape, np.uint8)
    for name, part in reversed(parts):
        if part.shape != mask.shape:
            raise ValueError(f"the masks of object {index} and its part {name!r} differ in size")
        part_map[part] = names.index(name) + 1
    return _Object(index, box, mask.shape, tuple(names), zlib.compress(part_map.tobytes()))
