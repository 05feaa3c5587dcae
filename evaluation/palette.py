"""Colours of labels, the same in every picture of the project."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

# Background, then the parts. The first seven are Okabe and Ito's for colour-blind readers, whose eighth is black; the
# violet is as far from them for these readers too, and seen on pages of either scheme. The rest are darker and paler
# relatives; with many parts neighbours stay apart in lightness if not in hue.
_HEX = (
    *("000000", "e69f00", "56b4e9", "009e73", "f0e442", "d55e00", "0072b2", "cc79a7"),
    *("7733ff", "7a3e00", "aadcbe", "581c6e", "ffbebe", "5a6414", "bebebe", "142864", "ff7864"),
)
STRIPES = (2, 4, 7, 11)  # pixels, of labels that share a colour
PALETTE = np.array([ImageColor.getrgb(f"#{colour}") for colour in _HEX], np.uint8)


def colours(labels: np.ndarray) -> np.ndarray:
    """RGB colours (..., 3) uint8 of labels, 0 is background; above 16 the parts' colours start again."""
    return PALETTE[np.where(labels == 0, 0, (labels.astype(int) - 1) % (len(PALETTE) - 1) + 1)]


def round_of(labels: np.ndarray) -> np.ndarray:
    """How often the colours have started again before those of labels; from 1 on labels have stripes."""
    return np.where(labels > 0, (labels.astype(int) - 1) // (len(PALETTE) - 1), 0)


def tint(labels: np.ndarray) -> np.ndarray:
    """RGBA (h, w, 4) uint8 of labels (h, w), 0 is transparent: as ``colours``, those above 16 in stripes.

    All of the 254 that there can be look different: each sixteen have stripes of another direction or width.
    """
    largest = int(labels.max())
    known = np.arange(largest + 1)
    paint = np.column_stack([colours(known), np.where(known > 0, 255, 0)]).astype(np.uint8)[labels]
    if largest < len(PALETTE):
        return paint
    rounds = round_of(labels)
    y, x = np.indices(labels.shape, sparse=True)
    directions = np.stack(np.broadcast_arrays(x + y, x - y, x, y))
    along = np.take_along_axis(directions, (rounds - 1).clip(0)[None] % len(directions), axis=0)[0]
    widths = np.array(STRIPES)[(rounds - 1).clip(0) // len(directions)]
    dark = (rounds > 0) & (along // widths % 2 == 0)
    paint[..., :3] = np.where(dark[..., None], paint[..., :3] // 3, paint[..., :3])
    return paint


def save_label_map(path: Path, label_map: np.ndarray) -> None:
    """Write (H, W) uint8 as PNG under the name ``path`` with this ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label_map)
    # With a palette the file opens as a coloured picture, yet its pixel values are the labels.
    picture.putpalette(PALETTE.tobytes())
    picture.save(path.with_suffix(".png"))


def with_legend(image: np.ndarray, num_labels: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 above the numbers of the labels 1 .. ``num_labels`` in their colours: (H + h, W, 3)."""
    size = max(10, image.shape[1] // 40)
    font, gap = ImageFont.load_default(size), size // 3
    cell = round(font.getlength("0" * len(str(num_labels)))) + 2 * gap
    columns = max(1, min(num_labels, image.shape[1] // cell))
    height = size + 2 * gap
    strip = Image.new("RGB", (image.shape[1], -(-num_labels // columns) * height), "white")
    draw = ImageDraw.Draw(strip)
    for place in range(num_labels):
        left, top = place % columns * cell, place // columns * height
        colour = tuple(colours(np.array(place + 1)).tolist())
        draw.rectangle((left, top, left + cell - 2, top + height - 2), fill=colour, outline="gray")
        ink = "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 128 else "white"
        draw.text((left + cell / 2 - 1, top + height / 2 - 1), str(place + 1), fill=ink, font=font, anchor="mm")
    return np.concatenate([image, np.asarray(strip)])
