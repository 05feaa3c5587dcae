"""Reading pictures, label maps and lists from disk; whatever is wrong with a file ends in a message that names it."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.errors import UserError

HELP = "See README, section 'Data'."


class MissingFile(UserError):
    """A file that a sample needs is not there."""


class UnreadableFile(UserError):
    """A file is there, but its content is damaged."""


class SizesDiffer(UserError):
    """A mask or label map has another size than its picture."""


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8, RGB, whatever the file's mode; alpha is dropped and EXIF left alone.

    Raises:
        MissingFile, UnreadableFile: the message names the file.
    """
    return _decode(path, lambda picture: picture.convert("RGB"))


def read_label_map(path: Path, picture_path: Path, image: np.ndarray) -> np.ndarray:
    """As :func:`read_labels`, for a map that belongs to a picture.

    Args:
        path: of the mask or label map.
        picture_path: of the picture that it belongs to, for the message.
        image: (H, W, 3), that picture.

    Raises:
        MissingFile, UnreadableFile: the message names the file.
        SizesDiffer: the message names both files and both sizes.
    """
    labels = read_labels(path)
    check_size(str(path), labels.shape, picture_path, image)
    return labels


def read_labels(path: Path) -> np.ndarray:
    """(H, W), the stored values (of a palette the indices); of several channels the first.

    Some of CUB's masks have an alpha channel.

    Raises:
        MissingFile, UnreadableFile: the message names the file.
    """
    labels = _decode(path, lambda picture: picture.convert("L") if picture.mode == "1" else picture)
    if labels.ndim == 3:
        colours, labels = labels[..., : 1 if labels.shape[2] == 2 else 3], labels[..., 0]  # without alpha
        if (colours != labels[..., None]).any():
            raise UnreadableFile(
                f"{path} is a coloured picture, but a mask or label map has one number for each pixel: save it as "
                f"greyscale or with a palette. {HELP}"
            )
    return labels


def check_size(what: str, shape: tuple[int, ...], picture_path: Path, image: np.ndarray) -> None:
    """Refuse a mask, ``what``, of another height and width than its picture (SizesDiffer)."""
    if shape != image.shape[:2]:
        advice = "Fetch both again."
        if shape == image.shape[1::-1]:
            advice = "The picture's EXIF may say to turn it, which is not done here: turn it for good."
        raise SizesDiffer(
            f"{what} is {shape[1]} x {shape[0]} pixels, but its picture {picture_path} is "
            f"{image.shape[1]} x {image.shape[0]}. {advice} {HELP}"
        )


def require_files(dataset: Any) -> None:
    """Look whether all files of all samples are there, without opening any.

    Args:
        dataset: has ``name``, a length, and ``files(index)``, the paths that a sample is read from.

    Raises:
        MissingFile: the message counts what is missing and names the first ones.
    """
    wanted = dict.fromkeys(path for index in range(len(dataset)) for path in dataset.files(index))
    # One listing for each folder: asking for every file takes minutes on a network drive.
    present = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in {p.parent for p in wanted}}
    missing = [str(path) for path in wanted if path.name not in present[path.parent]]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise MissingFile(
            f"{dataset.name}: {len(missing)} of {len(wanted)} files are missing: {', '.join(missing[:3])}{more}. "
            f"`python -m datasets.check`, with the same arguments, names every one. {HELP}"
        )


def _decode(path: Path, convert: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.asarray(convert(picture))
    except FileNotFoundError:
        raise MissingFile(f"Missing {path}. {HELP}") from None
    except Exception as error:  # on damaged bytes Pillow raises nearly anything, SyntaxError and struct.error included
        raise UnreadableFile(f"Cannot read {path}: {error}. Fetch the file again. {HELP}") from None


def read_rows(path: Path, expected: str, *types: Callable) -> list[tuple]:
    """The lines of a list, split at blanks into as many values as there are types; the last one may hold blanks.

    Args:
        expected: the names of the values, for the message.
        types: convert the values; ValueError refuses one.

    Raises:
        UserError: the file is missing, or a line is malformed; the message has the line and its number.
    """
    if not path.is_file():
        raise MissingFile(f"Missing {path}. {HELP}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        values = line.split(maxsplit=len(types) - 1)
        if not values:
            continue
        try:
            rows.append(tuple(convert(value.strip()) for convert, value in zip(types, values, strict=True)))
        except ValueError:
            raise UserError(f"{path}, line {number}: expected '{expected}', found '{line}'. {HELP}") from None
    return rows


def read_names(path: Path) -> list[str]:
    """The names of a list of lines ``index name``."""
    return [name for _, name in read_rows(path, "index name", int, str)]


def flag(text: str) -> bool:
    """``0`` or ``1``; else ValueError."""
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


def coordinate(text: str) -> float:
    """A finite number; else ValueError."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def extent(text: str) -> float:
    """A positive number; else ValueError."""
    value = coordinate(text)
    if value <= 0:
        raise ValueError(text)
    return value
