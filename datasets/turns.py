"""Turns that a note in a picture's file (EXIF, orientation) asks of whoever shows it."""

from contextlib import suppress

import numpy as np
from PIL import ExifTags, Image

UPRIGHT = 1  # the stored pixels are as they are to be shown
# For each value of the note: whether the axes change places, and which of the new ones, x and y, are then mirrored.
_TURNS = {
    UPRIGHT: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def turn_of(picture: Image.Image) -> int:
    """What an open picture's note says, ``UPRIGHT`` or 2 to 8; ``UPRIGHT`` where it is damaged or says nothing."""
    with suppress(Exception):  # on damaged notes Pillow raises nearly anything
        turn = picture.getexif().get(ExifTags.Base.Orientation)
        return turn if turn in _TURNS else UPRIGHT
    return UPRIGHT


def swaps_sides(turn: int) -> bool:
    """Whether height and width change places."""
    return _TURNS[turn][0]


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Stored pixels (H, W, ...) as they are to be shown."""
    if turn == UPRIGHT:
        return pixels
    swapped, mirrored_x, mirrored_y = _TURNS[turn]
    pixels = pixels.swapaxes(0, 1) if swapped else pixels
    return np.ascontiguousarray(pixels[:: -1 if mirrored_y else 1, :: -1 if mirrored_x else 1])


def turned_places(places: np.ndarray, turn: int, shape: tuple[int, ...]) -> np.ndarray:
    """Places (N, 2) in stored pixels, x and y from 0, where they are shown.

    Args:
        shape: height and width of the picture as it is shown.
    """
    swapped, mirrored_x, mirrored_y = _TURNS[turn]
    x, y = (places[:, ::-1] if swapped else places).T
    height, width = shape[:2]
    return np.stack([width - 1 - x if mirrored_x else x, height - 1 - y if mirrored_y else y], axis=1)
