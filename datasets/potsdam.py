"""Potsdam (ISPRS 2D Semantic Labeling) in tiles, as for IIC: ``python -m datasets.potsdam prepare DOWNLOAD ROOT``.

    python -m datasets.potsdam prepare downloads data/Potsdam
    python -m datasets.check dataset_name=potsdam dataset_root=data
    python train.py dataset_name=potsdam3 method=iic dataset_root=data

The command reads the pictures (``*_RGBIR.tif``) and labels (``*_label.tif``) anywhere below DOWNLOAD, halves them, cuts
them into tiles of 200 x 200 and writes those to ROOT in the layout of the archive that IIC's author gives away, which
is read as well. It may be stopped at any time: given again, it goes on with what is missing.
"""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from omegaconf import MISSING
from PIL import Image
from scipy.io import loadmat, savemat

from datasets import base
from datasets.base import Split
from datasets.files import HELP, MissingFile, UnreadableFile, foreign, read_picture
from datasets.rows import read_rows
from datasets.sample import VOID, Purpose, Sample
from datasets.windows import WindowCrops
from utils.errors import UserError
from utils.seeding import generator

CLASSES = ("roads", "buildings", "low vegetation", "trees", "cars", "clutter")
COLOURS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))  # of the labels
MERGED = {"roads and cars": (0, 4), "buildings and clutter": (1, 5), "vegetation and trees": (2, 3)}

TILE = 200  # pixels
LISTS = {"labelled": ("labelled_train", "labelled_test"), "unlabelled": ("unlabelled_train",)}
PREPARE = "Cut the tiles with `python -m datasets.potsdam prepare DOWNLOAD ROOT`."

STAMP = "cutting.json"
_VERSION = 1  # of the cutting: raised whenever the same pictures would give other tiles
_TEST_SHARE = 0.1  # of all tiles, labelled or not
_SIZE_OF_FILE = 512  # bytes, at most, around the numbers of a tile


@dataclass
class Options(base.Options):
    """The keys of ``dataset``.

    Attributes:
        merged: in pairs: Potsdam-3.
    """

    merged: bool = MISSING


def build(options: Options, dataset_root: Path, split: Split, purpose: Purpose) -> "Potsdam":
    """See ``datasets.build``."""
    return Potsdam(dataset_root / options.folder, split, options)


class Potsdam(WindowCrops):
    """Tiles with infrared and, where they are labelled, class maps. Every pixel counts.

    As in IIC, training sees all tiles, and the test is on all that are labelled, which are among them; what is taught
    with labels is tested on those of ``labelled_test`` alone. The class map of a tile without labels is void.
    """

    def __init__(self, root: Path, split: Split, options: Options) -> None:
        """Read the lists; tiles are read one by one, when asked for.

        Args:
            root: the folder with ``imgs/``, ``gt/`` and the lists.

        Raises:
            UserError: something is missing.
        """
        super().__init__(options.flip_probability)
        self.name = "Potsdam-3" if options.merged else "Potsdam"
        self.split, self._root = split, root
        self._check_presence()
        merged = MERGED if options.merged else {name: (of_class,) for of_class, name in enumerate(CLASSES)}
        self.pixel_classes = list(merged)
        self._lookup = np.zeros(len(CLASSES), np.uint8)
        for of_class, labels in enumerate(merged.values()):
            self._lookup[list(labels)] = of_class

        self.held_out = frozenset(self._listed("labelled_test"))
        names = {kind: [name for listed in lists for name in self._listed(listed)] for kind, lists in LISTS.items()}
        self._labelled = set(names["labelled"])
        self._names = names["labelled"] + (names["unlabelled"] if split == "train" else [])
        if not self._names:
            raise UserError(f"{self.name}: the lists in {root} name no tile of the {split} split. {HELP}")
        self.notes = [
            f"{self.name}: {len(self):,} tiles, the whole {split} split; {len(self._labelled):,} have labels. The test "
            "is on tiles that training sees, without their labels, as published."
        ]

    def _check_presence(self) -> None:
        if not self._root.is_dir():
            raise MissingFile(
                f"{self.name}: no folder {self._root}. Set dataset_root= to what holds {self._root.name}/. {PREPARE} "
                f"{HELP}"
            )
        if (self._root / STAMP).is_file() and not _list_of(self._root, "labelled_test").is_file():
            raise UserError(
                f"{self.name}: the cutting of {self._root} has not come to its end: give the same command again, and "
                f"it goes on. {HELP}"
            )

    def _listed(self, name: str) -> list[str]:
        return [tile for (tile,) in read_rows(_list_of(self._root, name), "name of a tile", str)]

    def __len__(self) -> int:
        return len(self._names)

    def sample_name(self, index: int) -> str:
        """The name of sample ``index``, without reading it."""
        return self._names[index]

    def files(self, index: int) -> list[Path]:
        """The tile and, where it is labelled, its labels."""
        name = self._names[index]
        return [self._root / folder / f"{name}.mat" for folder in ("imgs", "gt")[: 1 + (name in self._labelled)]]

    def __getitem__(self, index: int) -> Sample:
        """Read one tile.

        Raises:
            UserError: a file is missing, broken or of another size, or a label stands for no class.
        """
        path, *label_path = self.files(index)
        pixels = _read_tile(path, "img", (TILE, TILE, 4))
        class_map = np.full((TILE, TILE), VOID, np.uint8)
        if label_path:
            labels = _read_tile(label_path[0], "gt", (TILE, TILE))
            if not 0 <= labels.min() <= labels.max() < len(CLASSES):
                raise UserError(
                    f"{label_path[0]} has labels from {labels.min()} to {labels.max()}: they must be from 0 to "
                    f"{len(CLASSES) - 1}. Take it away and cut it again. {HELP}"
                )
            class_map = self._lookup[labels]
        return Sample(
            name=self.sample_name(index),
            path=path,
            image=np.ascontiguousarray(pixels[..., :3]),
            foreground=np.ones((TILE, TILE), np.uint8),
            class_map=class_map,
            infrared=np.ascontiguousarray(pixels[..., 3]),
        )


def _list_of(root: Path, name: str) -> Path:
    return root / f"{name}.txt"


def _read_tile(path: Path, key: str, shape: tuple[int, ...]) -> np.ndarray:
    with foreign(path, "tile of Potsdam", "take it away and cut it again"):
        found = loadmat(path, variable_names=[key])[key]
    if found.shape != shape or found.dtype.kind not in "iu":
        shape_found, wanted = (" x ".join(map(str, sizes)) for sizes in (found.shape, shape))
        raise UserError(
            f"{path}: {key} is {shape_found} {found.dtype}, but that of a tile is {wanted} whole numbers. {PREPARE} "
            f"{HELP}"
        )
    return found


@dataclass(frozen=True)
class Download:
    """What the download should hold.

    Attributes:
        num_pictures, num_labelled: how many pictures, and how many of them with labels.
        side: of a picture, pixels.
    """

    num_pictures: int
    num_labelled: int
    side: int

    @property
    def tiles_of_picture(self) -> int:
        """The halved picture is cut without overlap."""
        return (self.side // 2 // TILE) ** 2


PUBLISHED = Download(num_pictures=38, num_labelled=24, side=6000)


def prepare(download: Path, root: Path, published: Download = PUBLISHED, say: Callable[[str], None] = print) -> None:
    """Cut the tiles into ``root``, or what is missing there; the lists come last.

    Tiles are named by a permutation of their numbers; it and the test list (a tenth of all tiles, drawn from those with
    labels) are drawn with a seed of ours, since those of IIC's author were drawn without one.

    Args:
        download: holds ``*_RGBIR.tif`` and ``*_label.tif`` anywhere below it.
        published: what it should hold.
        say: is told what is done.

    Raises:
        UserError: the download is not whole, ``root`` holds something else, or the disk is too small.
    """
    pictures, labels = (_found(download, f"_{kind}.tif") for kind in ("RGBIR", "label"))
    _check_download(download, pictures, labels, published)
    stems = sorted(pictures)  # plain order of strings: 6_10 before 6_7
    _stamp(root, {"version": _VERSION, "pictures": stems, "labelled": sorted(labels)})

    per_picture = published.tiles_of_picture
    names = generator(0, "tiles of Potsdam").permutation(len(stems) * per_picture).reshape(len(stems), per_picture)
    wanted = {}
    for stem, of_picture in zip(stems, names.tolist(), strict=True):
        folders = ("imgs", "gt") if stem in labels else ("imgs",)
        wanted[stem] = {folder: [root / folder / f"{name}.mat" for name in of_picture] for folder in folders}
    present = {path for folder in ("imgs", "gt") for path in (root / folder).glob("*.mat")}
    missing = {
        stem: {folder: [path not in present for path in paths] for folder, paths in of_picture.items()}
        for stem, of_picture in wanted.items()
    }
    _check_disk(root, missing, say)

    for number, (stem, of_picture) in enumerate(wanted.items(), start=1):
        lacking = missing[stem]
        if not any(map(any, lacking.values())):
            continue
        read = {"imgs": partial(_read_halved, pictures[stem]), "gt": lambda stem=stem: _read_labels(labels[stem])}
        for folder, paths in of_picture.items():
            if any(lacking[folder]):
                tiles = _cut(read[folder]())
                for path, tile in ((paths[i], tiles[i]) for i, lacks in enumerate(lacking[folder]) if lacks):
                    _write_tile(path, {"imgs": "img", "gt": "gt"}[folder], tile)
        say(f"{number} of {len(stems)}: {stem}, {per_picture} tiles" + (" and labels" if stem in labels else ""))

    labelled = np.concatenate([names[place] for place, stem in enumerate(stems) if stem in labels])
    unlabelled = np.setdiff1d(names, labelled)
    order = generator(0, "test tiles of Potsdam").permutation(len(labelled))
    num_test = round(_TEST_SHARE * names.size)
    lists = {
        "unlabelled_train": unlabelled,
        "labelled_train": np.sort(labelled[order[num_test:]]),
        "labelled_test": np.sort(labelled[order[:num_test]]),  # the last, which says that all is there
    }
    for name, listed in lists.items():
        _replace(
            _list_of(root, name), lambda path, listed=listed: path.write_text("".join(f"{tile}\n" for tile in listed))
        )
    say(f"{root}: {names.size:,} tiles, {len(labelled):,} with labels.")


def _found(download: Path, ending: str) -> dict[str, Path]:
    """Files by their names without the ending."""
    if not download.is_dir():
        raise MissingFile(f"No folder {download}: give the one that holds the pictures and labels. {HELP}")
    found: dict[str, Path] = {}
    for path in sorted(download.rglob(f"*{ending}")):
        stem = path.name.removesuffix(ending)
        if stem in found:
            raise UserError(f"{found[stem]} and {path} are one picture's: take one away. {HELP}")
        found[stem] = path
    return found


def _check_download(download: Path, pictures: dict[str, Path], labels: dict[str, Path], published: Download) -> None:
    for found, count, ending, folder in (
        (pictures, published.num_pictures, "_RGBIR.tif", "4_Ortho_RGBIR"),
        (labels, published.num_labelled, "_label.tif", "5_Labels_for_participants"),
    ):
        if len(found) != count:
            raise UserError(
                f"{download}: {len(found)} files *{ending}, but {folder} has {count}. Fetch what is missing, or take "
                f"away what is not of it. {HELP}"
            )
    if lost := sorted(set(labels) - set(pictures)):
        raise MissingFile(f"{labels[lost[0]]} has no picture {lost[0]}_RGBIR.tif. {HELP}")
    side = published.side
    for path in (*pictures.values(), *labels.values()):
        with foreign(path), Image.open(path, formats=("TIFF",)) as picture:
            size = picture.size
        if size != (side, side):
            raise UserError(
                f"{path} is {size[0]} x {size[1]} pixels, but pictures and labels of Potsdam are {side} x {side}. "
                f"Fetch the file again. {HELP}"
            )


def _stamp(root: Path, cutting: dict) -> None:
    """Note in ``root`` what is cut there, or refuse what is cut already."""
    stamp = root / STAMP
    try:
        found = json.loads(stamp.read_text()) if stamp.is_file() else None
        if found is None and root.is_dir() and any(not path.name.startswith(".") for path in root.iterdir()):
            raise UserError(f"{root} holds files that were not cut here: name another folder, or move them away.")
        if found not in (None, cutting):
            raise UserError(f"{root} holds tiles of other pictures, see {stamp}: name another folder, or remove it.")
        root.mkdir(parents=True, exist_ok=True)
        _replace(stamp, lambda path: path.write_text(json.dumps(cutting)))  # first: it says that the rest is cut here
        for folder in ("imgs", "gt"):
            (root / folder).mkdir(exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot cut into {root}: {error}. Name another folder.") from None


def _check_disk(root: Path, missing: dict[str, dict[str, list[bool]]], say: Callable[[str], None]) -> None:
    # Labels are compressed, to a hundredth or so: a byte a pixel is more than they take.
    sizes = {"imgs": 4 * TILE**2 + _SIZE_OF_FILE, "gt": TILE**2 + _SIZE_OF_FILE}
    counts = {folder: sum(sum(lacking.get(folder, ())) for lacking in missing.values()) for folder in sizes}
    needed = sum(counts[folder] * size for folder, size in sizes.items())
    free = shutil.disk_usage(root).free
    say(
        f"{counts['imgs']:,} tiles and {counts['gt']:,} label maps to cut into {root}: {needed / 1e9:.2f} GB at most, "
        f"of {free / 1e9:.2f} GB free there."
    )
    if needed > free:
        raise UserError(f"{root}: {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free. Name another folder.")


def _cut(pixels: np.ndarray) -> list[np.ndarray]:
    """Tiles without overlap, row by row."""
    corners = range(0, len(pixels) - TILE + 1, TILE)
    return [pixels[top : top + TILE, left : left + TILE] for top in corners for left in corners]


def _read_halved(path: Path) -> np.ndarray:
    """(H / 2, W / 2, 4) uint8, R, G, B, infrared: the mean of 2 x 2 pixels."""
    pixels = _read_four_channels(path)
    height, width = pixels.shape[:2]
    return cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_LINEAR)


def _read_four_channels(path: Path) -> np.ndarray:
    """(H, W, 4) uint8, as stored."""
    with foreign(path):
        with Image.open(path, formats=("TIFF",)) as picture:
            # A fourth channel that is called nothing (0), or transparency multiplied with the colours (1), Pillow drops
            # or undoes, and OpenCV leaves alone; of transparency (2) it is the other way round.
            if picture.mode == "RGBA" and picture.tag_v2.get(338) not in ((0,), (1,)):
                return np.asarray(picture)
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 4:
        raise UnreadableFile(
            f"{path} is no picture of four channels of 8 bits, red, green, blue and infrared. Fetch the file again. "
            f"{HELP}"
        )
    return pixels[..., [2, 1, 0, 3]]


def _read_labels(path: Path) -> np.ndarray:
    """(H / 2, W / 2) int32, 0.. as in ``CLASSES``: every other pixel."""
    colours = read_picture(path)[::2, ::2].astype(np.int32)
    numbers = colours @ np.array([65536, 256, 1], np.int32)
    labels = np.full(numbers.shape, -1, np.int32)
    for label, (red, green, blue) in enumerate(COLOURS):
        labels[numbers == 65536 * red + 256 * green + blue] = label
    if (labels < 0).any():
        row, column = np.argwhere(labels < 0)[0].tolist()
        raise UserError(
            f"{path}: the pixel at ({2 * column}, {2 * row}), counted from 0, has the colour "
            f"{tuple(colours[row, column].tolist())}, which stands for no class. Fetch the file again. {HELP}"
        )
    return labels


def _write_tile(path: Path, key: str, tile: np.ndarray) -> None:
    def write(written: Path) -> None:
        with written.open("wb") as file:
            savemat(file, {key: tile}, do_compression=key == "gt")

    _replace(path, write)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Written beside its place and moved there whole: what was cut off is never taken for a file."""
    written = path.with_name(f".{path.name}")
    try:
        write(written)
        written.replace(path)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from None
    finally:
        written.unlink(missing_ok=True)


def main(arguments: Sequence[str]) -> None:
    """The command: ends with status 2 and one message after a mistake, 130 where it was stopped."""
    try:
        if len(arguments) != 3 or arguments[0] != "prepare" or any(text.startswith("-") for text in arguments):
            raise UserError(
                "give the download and a folder for the tiles: python -m datasets.potsdam prepare DOWNLOAD ROOT"
            )
        prepare(Path(arguments[1]), Path(arguments[2]), say=partial(print, flush=True))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on with what is missing.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
