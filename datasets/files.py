"""Reading pictures and label maps from disk; whatever is wrong with a file ends in a message that names it."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from datasets.turns import UPRIGHT, swaps_sides, turn_of, turned
from utils.errors import UserError
from utils.files import stand_in

try:
    import pillow_heif
except ImportError:
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()

Read = TypeVar("Read")

HELP = "See docs/data/."
FETCH = "Fetch both again."  # a map and its picture, which come from elsewhere
# Pillow's names and the endings of files; of others it runs foreign programs (EPS) or reads a part.
FORMATS = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg"),
    "PNG": (".png",),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
ENDINGS = {ending for endings in FORMATS.values() for ending in endings}
# Those that cannot be read here, and what they need.
LACKING = {} if features.check("avif") else {"AVIF": "a newer Pillow (python -m pip install -U pillow)"}
if pillow_heif is None:
    LACKING["HEIF"] = "the package pillow-heif (python -m pip install pillow-heif)"


class MissingFile(UserError):
    """A file that a sample needs is not there."""


class UnreadableFile(UserError):
    """A file is there, but its content is damaged."""


class SizesDiffer(UserError):
    """A mask or label map has another size than its picture."""


@contextmanager
def foreign(path: Path, kind: str | None = None, again: str = "fetch it again") -> Iterator[None]:
    """Where the content of a foreign file is read: whatever a library raises in it becomes one message.

    Args:
        path: of the file.
        kind: what it should be, after "is no"; None: a picture.
        again: what to do with one that is damaged.

    Raises:
        MissingFile, UnreadableFile: the message names the file, what is wrong with it and what to do. A UserError that
            is raised in it stays as it is, and so does want of memory, which is no fault of the file.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # on damaged bytes libraries raise nearly anything
        found, system = stand_in(path), error.__cause__ or error  # SciPy wraps what the system says
        if isinstance(system, FileNotFoundError):
            raise MissingFile(f"Missing {path}. {HELP}") from None
        if not found and isinstance(system, OSError) and system.errno:
            raise UnreadableFile(f"Cannot open {path}: {system.strerror}. Look at its rights and its drive.") from None
        told = f"it has no {error}" if isinstance(error, KeyError) else str(error).strip() or type(error).__name__
        found = found or f"{told.splitlines()[0].rstrip('.')}. It is cut off, damaged or of another kind"
        fault = f"{path} is no {kind}" if kind else f"Cannot read {path}"
        raise UnreadableFile(f"{fault}: {found}. {again[0].upper()}{again[1:]}. {HELP}") from None


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8, RGB, as viewers show it, whatever the file's mode; alpha is dropped, 16 bits become 8.

    Raises:
        MissingFile, UnreadableFile: the message names the file.
    """
    return read_turned_picture(path)[0]


def read_turned_picture(path: Path) -> tuple[np.ndarray, int]:
    """As :func:`read_picture`, with the turn that was needed; see ``datasets.turns``."""
    pixels, turn = decoded(path, lambda picture: np.asarray(_to_rgb(picture)))
    return turned(pixels, turn), turn


def shape_and_turn(path: Path) -> tuple[tuple[int, int], int]:
    """Height and width of a picture as viewers show it, and its turn, of its head alone.

    Raises:
        MissingFile, UnreadableFile: the message names the file.
    """
    (width, height), turn = decoded(path, lambda picture: picture.size)
    return ((width, height) if swaps_sides(turn) else (height, width)), turn


def read_label_map(path: Path, picture_path: Path, image: np.ndarray, advice: str = FETCH) -> np.ndarray:
    """As :func:`read_labels`, for a map that belongs to a picture; see :func:`turn_of_map`.

    Args:
        path: of the mask or label map.
        picture_path: of the picture that it belongs to.
        image: (H, W, 3), that picture.
        advice: what to do where sizes differ.

    Raises:
        MissingFile, UnreadableFile: the message names the file.
        SizesDiffer: the message names both files and both sizes.
    """
    labels, turn = stored_labels(path)
    return turned(labels, turn_of_map(str(path), labels.shape, picture_path, image, turn, advice))


def read_labels(path: Path) -> np.ndarray:
    """(H, W), the stored values (of a palette the indices) as viewers show them; of several channels the first.

    Some of CUB's masks have an alpha channel.

    Raises:
        MissingFile, UnreadableFile: the message names the file.
    """
    return turned(*stored_labels(path))


def stored_labels(path: Path) -> tuple[np.ndarray, int]:
    """As :func:`read_labels`, but as they are stored, with the turn that viewers give them."""
    labels, turn = decoded(path, lambda picture: np.asarray(to_labels(picture)))
    if labels.ndim == 3:
        colours, labels = labels[..., : 1 if labels.shape[2] == 2 else 3], labels[..., 0]  # without alpha
        if (colours != labels[..., None]).any():
            raise no_labels(path, "is a coloured picture")
    return labels, turn


def _to_rgb(picture: Image.Image) -> Image.Image:
    # Of these Pillow would make white wherever the value is above 255. It reads a PGM of 16 bits as "I", up to 65535.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise UnreadableFile(
            f"{picture.filename} has 32 bits for each pixel, and nothing says which of them is white: save it with 8 "
            f"or 16 bits. {HELP}"
        )
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def to_labels(picture: Image.Image) -> Image.Image:
    """An open picture in a mode whose values are labels; UnreadableFile where there are none."""
    if picture.mode == "F":
        raise no_labels(picture.filename, "has fractions for pixels")
    if picture.mode in ("CMYK", "HSV", "LAB", "YCbCr"):
        raise no_labels(picture.filename, f"is a coloured picture ({picture.mode})")
    if not picture.mode.startswith("I") and ";16" in str(picture.tile):
        # Pillow keeps the high byte, which is 0 for every label.
        raise no_labels(picture.filename, "has several channels of 16 bits")
    return picture.convert("L") if picture.mode == "1" else picture


def no_labels(path: Path | str, what: str) -> UnreadableFile:
    """The refusal of a mask or label map that ``what``."""
    return UnreadableFile(
        f"{path} {what}, but a mask or label map has one whole number for each pixel: save it as greyscale or with a "
        f"palette. {HELP}"
    )


def turn_of_map(
    what: str,
    shape: tuple[int, ...],
    picture_path: Path,
    image: np.ndarray,
    turn: int = UPRIGHT,
    advice: str = FETCH,
) -> int:
    """How a stored mask or label map is to be turned to lie on its picture.

    As viewers show it, if its sizes fit. If they fit as stored, its note was left behind by a program that had turned
    it. If they are those of the stored picture, it was made by a program that knows nothing of the picture's note, and
    is turned as the picture is.

    Args:
        what: the map, for the message.
        shape: height and width, as stored.
        picture_path: of the picture that it belongs to.
        image: (H, W, 3), that picture, as it is shown.
        turn: that viewers give the map.
        advice: what to do where sizes differ.

    Raises:
        SizesDiffer: it does not fit; the message names both files, both sizes, and what turns there are.
    """
    shown, flat = image.shape[:2], image.shape[1::-1]
    if (shape[::-1] if swaps_sides(turn) else shape) == shown:
        return turn
    if shape == shown:
        return UPRIGHT
    of_picture = UPRIGHT
    if picture_path.is_file():  # drawn ones have no file
        with foreign(picture_path), _opened(picture_path) as picture:
            of_picture = turn_of(picture)
    stored = flat if swaps_sides(of_picture) else shown
    if shape == stored:
        return of_picture
    note = f", stored as {flat[1]} x {flat[0]} and turned by its EXIF" if stored != shown else ""
    own = " before its EXIF turns it" if swaps_sides(turn) else ""
    if shape == flat:
        advice = "Another copy's EXIF may say to turn it, this one's does not: turn the mask, or take that copy."
    raise SizesDiffer(
        f"{what} is {shape[1]} x {shape[0]} pixels{own}, but its picture {picture_path} is {shown[1]} x {shown[0]}"
        f"{note}. {advice} {HELP}"
    )


def missing_files(dataset: Any) -> tuple[list[Path], int]:
    """Which files of all samples are not there, without opening any, and how many there should be.

    Args:
        dataset: has a length, and ``files(index)``, the paths that a sample is read from.
    """
    wanted = dict.fromkeys(path for index in range(len(dataset)) for path in dataset.files(index))
    # One listing for each folder: asking for every file takes minutes on a network drive.
    present = {folder: names_in(folder) if folder.is_dir() else () for folder in {path.parent for path in wanted}}
    return [path for path in wanted if path.name not in present[path.parent]], len(wanted)


def require_files(dataset: Any) -> None:
    """Look whether all files of all samples are there, without opening any.

    Args:
        dataset: as of :func:`missing_files`, and ``name``; perhaps ``ways_on(missing)``, what else than fetching files
            can be done.

    Raises:
        MissingFile: the message counts what is missing and names the first ones.
    """
    missing, count = missing_files(dataset)
    if missing:
        raise MissingFile(
            f"{dataset.name}: {len(missing)} of {count} files are missing: {some([*map(str, missing)], 3)}. "
            f"`python -m datasets.check`, with the same arguments, names every one. {ways_on(dataset, missing)}{HELP}"
        )


def ways_on(dataset: Any, missing: Sequence[Path]) -> str:
    """What else than fetching missing files can be done, with a blank behind; nothing where the data set knows none."""
    told = dataset.ways_on(missing) if hasattr(dataset, "ways_on") else ""
    return told and f"{told} "


def require_masks(name: str, mask: str, folders: Mapping[str, Path]) -> None:
    """Refuse a choice of masks whose folder is not there (MissingFile); the message says which choices are.

    Args:
        name: of the data set.
        folders: of each choice.
    """
    if folders[mask].is_dir():
        return
    others = [choice for choice, folder in folders.items() if folder.is_dir()]
    present = f"masks on disk: {', '.join(others)}" if others else "no other masks are on disk"
    raise MissingFile(f"{name}: no folder {folders[mask]} for {mask} masks; {present}. {HELP}")


def decoded(path: Path, read: Callable[[Image.Image], Read]) -> tuple[Read, int]:
    """What is read of an open picture, and how viewers turn it.

    Raises:
        MissingFile, UnreadableFile: the message names the file.
    """
    with foreign(path), _opened(path) as picture:
        found = read(picture)
        return found, turn_of(picture)  # Pillow turns a TIFF by itself, and takes the note away


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    known = [name for name in FORMATS if name not in LACKING]
    try:
        with Image.open(path, formats=known) as picture:
            yield picture
    except Image.DecompressionBombError as error:
        raise UnreadableFile(f"{path} is too large: {error} Make it smaller, or take it away. {HELP}") from None
    except UnidentifiedImageError:
        if (found := _kind_of_box(path)) in LACKING:
            raise UnreadableFile(f"Cannot read {path}: {found} needs {LACKING[found]}. {HELP}") from None
        raise ValueError(f"it is none of {', '.join(known)}") from None


def _kind_of_box(path: Path) -> str | None:
    """AVIF or HEIF, whose files begin alike."""
    with path.open("rb") as file:
        head = file.read(12)
    kinds = {b"avif": "AVIF", b"avis": "AVIF", b"mif1": "HEIF", b"msf1": "HEIF"}
    brand = head[8:] if head[4:8] == b"ftyp" else b""
    return "HEIF" if brand.startswith((b"hei", b"hev")) else kinds.get(brand)


def some(names: Sequence[str], count: int = 10) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(names[:count]) + (f" and {len(names) - count:,} more" if len(names) > count else "")


def names_in(folder: Path) -> set[str]:
    """What is in a folder, without links to nothing."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if not entry.is_symlink() or os.path.exists(entry.path)}
