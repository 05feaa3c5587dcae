"""COCO-Stuff (164k) as curated for IIC: pictures, most of whose pixels are of some coarse classes of stuff.

    python -m datasets.coco_stuff dataset_name=coco_stuff15 dataset_root=data
    python -m datasets.check dataset_name=coco_stuff15 dataset_root=data
    python train.py dataset_name=coco_stuff15 method=iic dataset_root=data

``python -m datasets.coco_stuff dataset_name=coco_stuff15 dataset_root=DIR`` makes the curated lists where they are not
at hand.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from omegaconf import MISSING, DictConfig
from rich.progress import track
from torch.utils.data import Dataset

from conf import app
from conf.fields import choice, number, reading
from datasets import base
from datasets.base import Split
from datasets.files import HELP, MissingFile, read_label_map, read_labels, read_picture
from datasets.rows import read_rows
from datasets.sample import VOID, Purpose, Sample
from datasets.windows import WindowCrops
from utils import workers
from utils.console import stdout
from utils.errors import UserError
from utils.files import written_whole

# The fine labels of each class; 0 to 90 are things.
CLASSES: dict[str, tuple[int, ...]] = {
    "ceiling": (101, 102),
    "floor": (100, *range(113, 118)),
    "food": (120, 121, 152, 169),
    "furniture": (97, 106, 107, 109, 111, 122, 129, 132, 155, 160, 164),
    "raw material": (99, 131, 138, 142),
    "textile": (91, 92, 103, 104, 108, 130, 136, 140, 151, 166, 167),
    "wall": tuple(range(170, 177)),
    "window": (179, 180),
    "building": (94, 95, 127, 150, 157, 165),
    "ground": (110, 124, 125, 135, 139, 143, 144, 146, 148, 153, 158),
    "plant": (93, 96, 118, 123, 128, 133, 141, 162, 168),
    "sky": (105, 156),
    "solid": (126, 134, 149, 159, 161, 181),
    "structural": (98, 112, 137, 145, 163),
    "water": (119, 147, 154, 177, 178),
}
NUM_LABELS = 182
UNLABELLED = 255

FOLDERS = ("train2017", "val2017")
LISTS = "https://www.robots.ox.ac.uk/~xuji/datasets/COCOStuff164kCurated.tar.gz"
# Of the published lists: how many pictures. The second one's split between the folders is not known.
PUBLISHED = {"Coco164kFull_Stuff_Coarse_7": 49_629 + 2_175, "Coco164kFew_Stuff_6": 36_660}
# The rule of version 7.
LEAST_SIDE = 360  # pixels, of the label map
LEAST_SHARE = 0.75  # of all pixels, the unlabelled ones among them


@dataclass
class Options(base.Options):
    """The keys of ``dataset``.

    Attributes:
        classes: those that are told apart, in the order of their numbers.
        curated: name of the lists of pictures.
        scale: of the pictures as read, of their own size.
        unlabelled: "void": such pixels do not count. "sky": they are taken for sky, as in the published COCO-Stuff-3.
        fractions: of a training picture's values after scaling: "cut", as published, or "round". Test pictures are
            rounded; the published ones keep their fractions.
    """

    classes: list[str] = choice(*CLASSES)
    curated: str = MISSING
    scale: float = reading(number(above=0, high=1))
    unlabelled: str = reading(choice("void", "sky"))
    fractions: str = reading(choice("cut", "round"))


def build(options: Options, dataset_root: Path, split: Split, purpose: Purpose) -> "CocoStuff":
    """See ``datasets.build``.

    Raises:
        UserError: unlabelled pixels are to be sky, which is none of the classes.
    """
    if options.unlabelled == "sky" and "sky" not in options.classes:
        raise UserError("dataset.unlabelled=sky needs sky among dataset.classes: give dataset.unlabelled=void.")
    return CocoStuff(dataset_root / options.folder, split, options)


class CocoStuff(WindowCrops):
    """Pictures of the curated lists, scaled, with class maps; void, where the foreground is 0, is what is of no class.

    As in IIC, training and test see the same pictures, those of both lists; what is taught with labels is tested on
    those of val2017 alone.
    """

    def __init__(self, root: Path, split: Split, options: Options) -> None:
        """Read the lists; pictures and label maps are read one by one, when asked for.

        Args:
            root: the folder with ``images/``, ``annotations/`` and ``curated/``.

        Raises:
            UserError: something is missing or malformed.
        """
        super().__init__(options.flip_probability)
        self.name = f"COCO-Stuff {options.curated}"
        self.split, self._root, self._scale = split, root, options.scale
        self.pixel_classes = list(options.classes)
        self._cut = split == "train" and options.fractions == "cut"
        self._lookup = lookup(self.pixel_classes)
        if options.unlabelled == "sky":
            self._lookup[UNLABELLED] = self.pixel_classes.index("sky")
        self._check_presence(options.curated)
        self._names = [
            f"{folder}/{picture}"
            for folder in FOLDERS
            for (picture,) in read_rows(list_of(root, folder, options.curated), "12 digits of a picture", _identity)
        ]
        if not self._names:
            raise UserError(f"{list_of(root, FOLDERS[0], options.curated)} and its neighbour name no picture. {HELP}")
        self.held_out = frozenset(name for name in self._names if name.startswith(f"{FOLDERS[1]}/"))
        self.notes = [f"{self.name}: {len(self):,} pictures. The test is on the training pictures, as published."]
        if len(self) != PUBLISHED.get(options.curated, len(self)):
            self.notes.append(f"{self.name}: the published lists have {PUBLISHED[options.curated]:,} pictures.")

    def _check_presence(self, curated: str) -> None:
        _check_folders(self._root)
        lost = [path for folder in FOLDERS if not (path := list_of(self._root, folder, curated)).is_file()]
        if lost:
            raise MissingFile(
                f"{self.name}: missing {' and '.join(map(str, lost))}. The curated lists are in {LISTS}; or make them "
                f"with `python -m datasets.coco_stuff` and the same arguments. {HELP}"
            )

    def __len__(self) -> int:
        return len(self._names)

    def sample_name(self, index: int) -> str:
        """The name of sample ``index``, without reading it: its folder and its twelve digits."""
        return self._names[index]

    def files(self, index: int) -> list[Path]:
        """The picture and its label map."""
        name = self._names[index]
        return [self._root / "images" / f"{name}.jpg", self._root / "annotations" / f"{name}.png"]

    def __getitem__(self, index: int) -> Sample:
        """Read one picture and its labels, and scale both.

        Raises:
            UserError: a file is missing or broken, they differ in size, or a label is none of COCO-Stuff's.
        """
        path, label_path = self.files(index)
        image = read_picture(path)
        labels = _checked(read_label_map(label_path, path, image), label_path)
        # With the scale itself for a step, not the ratio of the rounded sizes.
        scaled = cv2.resize(image.astype(np.float32), None, fx=self._scale, fy=self._scale)
        labels = cv2.resize(labels, None, fx=self._scale, fy=self._scale, interpolation=cv2.INTER_NEAREST)
        class_map = self._lookup[labels]
        return Sample(
            name=self.sample_name(index),
            path=path,
            image=(scaled if self._cut else np.rint(scaled)).astype(np.uint8),
            foreground=(class_map != VOID).astype(np.uint8),
            class_map=class_map,
        )


def lookup(classes: list[str]) -> np.ndarray:
    """(256,) uint8: the place of each fine label's class among ``classes``, 255 for what is of none."""
    table = np.full(256, VOID, np.uint8)
    for place, name in enumerate(classes):
        table[list(CLASSES[name])] = place
    return table


def list_of(root: Path, folder: str, curated: str) -> Path:
    """A curated list."""
    return root / "curated" / folder / f"{curated}.txt"


def _check_folders(root: Path) -> None:
    wanted = [root / kind / folder for kind in ("images", "annotations") for folder in FOLDERS]
    if missing := [str(folder) for folder in wanted if not folder.is_dir()]:
        raise MissingFile(
            f"COCO-Stuff: no folder {' and no folder '.join(missing)}. Set dataset_root= to what holds {root.name}/. "
            f"{HELP}"
        )


def _identity(text: str) -> str:
    if len(text) != 12 or not text.isdecimal():
        raise ValueError(text)
    return text


def _checked(labels: np.ndarray, path: Path) -> np.ndarray:
    strange = (labels != UNLABELLED) & ((labels >= NUM_LABELS) | (labels < 0))
    if strange.any():
        raise UserError(
            f"{path} has a label {labels[strange][0]}, but those of COCO-Stuff are 0 to {NUM_LABELS - 1}, and "
            f"{UNLABELLED} where there is none. Fetch the file again. {HELP}"
        )
    return labels.astype(np.uint8)


@dataclass
class _Curated(Dataset):
    """Whether each label map keeps the rule of version 7."""

    paths: list[Path]
    of_class: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> bool:
        path = self.paths[index]
        return is_curated(_checked(read_labels(path), path), self.of_class)


def is_curated(labels: np.ndarray, of_class: np.ndarray) -> bool:
    """Whether a label map is large enough and most of its pixels are of a class (version 7).

    Args:
        labels: (H, W) uint8, fine labels.
        of_class: as of :func:`lookup`.
    """
    return min(labels.shape) >= LEAST_SIDE and (of_class[labels] != VOID).mean() >= LEAST_SHARE


def curate(config: DictConfig) -> None:
    """Make the curated lists of a config by the rule of version 7, and compare their lengths with the published ones.

    Of lists that one part of the pictures has already, the other is made.

    Raises:
        UserError: the data set is not there, or all lists are.
    """
    options, console = config.dataset, stdout()
    if options.name != "coco_stuff":
        raise UserError("give dataset_name=coco_stuff15 or dataset_name=coco_stuff3: others have no such lists.")
    root = Path(config.dataset_root) / options.folder
    _check_folders(root)
    lists = [list_of(root, folder, options.curated) for folder in FOLDERS]
    if all(path.is_file() for path in lists):
        raise UserError(f"{lists[0]} is there already, and so is the other list: move them away to make them anew.")
    of_class, found = lookup(list(options.classes)), 0
    for folder, path in zip(FOLDERS, lists, strict=True):
        if path.is_file():
            found += len(path.read_text().split())
            console.print(f"{path} is there already, and stays.", soft_wrap=True, highlight=False)
            continue
        maps = sorted((root / "annotations" / folder).glob("*.png"))
        loader = workers.loader(_Curated(maps, of_class), num_workers=config.loader.num_workers, batch_size=None)
        kept = [
            label_map.stem
            for label_map, keep in zip(maps, track(loader, folder, disable=not sys.stdout.isatty()), strict=True)
            if keep
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write_text("".join(f"{name}\n" for name in kept))
        found += len(kept)
        console.print(f"{path}: {len(kept):,} of {len(maps):,} pictures", soft_wrap=True, highlight=False)
    published = PUBLISHED.get(options.curated)
    compared = "" if published is None else ", as published" if published == found else f"; published: {published:,}"
    console.print(f"{found:,} pictures in all{compared}", highlight=False)


if __name__ == "__main__":
    app.run("train", curate)
