"""Lists and tables of annotations: their lines, the values in these, and whether they can be of their picture."""

import codecs
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import HELP, UnreadableFile, foreign
from utils.errors import UserError
from utils.files import stand_in


def read_text(path: Path) -> str:
    """A list's text, in UTF-8, or in UTF-16 where it begins by saying so.

    Raises:
        MissingFile, UnreadableFile: it is not there, is no text, or in another encoding.
    """
    with foreign(path, "list"):
        content = path.read_bytes()
        if content and (found := stand_in(path)):
            raise UnreadableFile(f"{path} is no list: {found}. Fetch it again. {HELP}")
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            raise UnreadableFile(
                f"{path} is not in UTF-8 ({error.reason}, byte {error.start}): save it so. {HELP}"
            ) from None
        if "\0" in text:  # of which no name can be
            raise UnreadableFile(
                f"{path} is not in UTF-8: it has bytes of 0, as UTF-16 without its mark. Save it so. {HELP}"
            )
        return text


def read_lines(path: Path) -> list[str]:
    """The lines of a list; errors as of :func:`read_text`."""
    return read_text(path).splitlines()


def read_rows(path: Path, expected: str, *types: Callable) -> list[tuple]:
    """The lines of a list, split at blanks into as many values as there are types; the last one may hold blanks.

    Args:
        expected: the names of the values, for the message.
        types: convert the values; ValueError refuses one.

    Raises:
        UserError: the file is missing, or a line is malformed; the message has the line and its number.
    """
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        values = line.split(maxsplit=len(types) - 1)
        if not values:
            continue
        try:
            rows.append(tuple(convert(value.strip()) for convert, value in zip(types, values, strict=True)))
        except ValueError:
            raise UserError(f"{path}, line {number}: expected '{expected}', found '{line}'. {HELP}") from None
    return rows


def read_names(path: Path) -> list[str]:
    """The names of a list of lines ``index name``, indices counted from 1.

    Raises:
        UserError: as of :func:`read_rows`, or an index is left out, doubled or in another place.
    """
    names = []
    for index, name in read_rows(path, "index name", int, str):
        names.append(name)
        if index != len(names):
            raise UserError(f"{path}: the index of {name!r} is {index}, but {len(names)} comes next. {HELP}")
    return names


def flag(text: str) -> bool:
    """``0`` or ``1``, also as pandas writes them beside gaps, or true and false, also in German; else ValueError."""
    if (value := text.strip().lower()) not in ("0", "1", "0.0", "1.0", "true", "false", "wahr", "falsch"):
        raise ValueError(text)
    return value in ("1", "1.0", "true", "wahr")


def coordinate(text: str) -> float:
    """A finite number; else ValueError."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def positive(text: str) -> int:
    """A whole number from 1; else ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def extent(text: str) -> float:
    """A positive number; else ValueError."""
    value = coordinate(text)
    if value <= 0:
        raise ValueError(text)
    return value


def check_box(sample: Any, source: Path) -> None:
    """Refuse a box that does not touch its picture, or reaches farther out of it than its own size (UserError).

    Args:
        sample: a ``datasets.sample.Sample`` as read.
        source: the file that the box comes from, for the message.
    """
    first, last = sample.box.reshape(2, 2)
    extent = np.array(sample.foreground.shape[::-1])
    if (first >= extent).any() or (last < 0).any() or far_outside(sample.box.reshape(2, 2), extent).any():
        corners = "({:g}, {:g}) to ({:g}, {:g})".format(*sample.box)
        raise UserError(f"{source}: the box {corners} is not in {_size(sample)}")


def check_keypoints(sample: Any, names: list[str], source: Path) -> None:
    """Refuse a keypoint farther outside its picture than the picture's size (UserError).

    One that is nearer stays: published ones may lie outside.

    Args:
        sample: a ``datasets.sample.Sample`` as read.
        names: of its keypoints.
        source: the file that they come from, for the message.
    """
    extent = np.array(sample.foreground.shape[::-1])
    lost = far_outside(sample.keypoints[:, :2], extent) & (sample.keypoints[:, 2] > 0)
    if lost.any():
        index = int(lost.argmax())
        x, y, _ = sample.keypoints[index]
        raise UserError(f"{source}: the {names[index]} at ({x:g}, {y:g}) is not in {_size(sample)}")


def far_outside(places: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Which of places (N, 2), x and y, are farther outside a picture than its width and height, ``extent`` (2,)."""
    return ((places < -extent) | (places >= 2 * extent)).any(-1)


def _size(sample: Any) -> str:
    height, width = sample.foreground.shape
    return f"{sample.path}, {width} x {height} pixels, counted from 0. Mend the line. {HELP}"
