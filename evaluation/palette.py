"""Colours of labels, the same in every picture of the project."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
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
INK = "#7a7a7a"  # of what is written: as easy to read on a dark page as on a light one
GROUND = {"RGB": "white", "RGBA": (0, 0, 0, 0)}
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


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Pillow's own font has no letters beyond ASCII.

    Args:
        size: pixels.
    """
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def with_legend(image: np.ndarray, texts: Mapping[int, str] | int, size: int | None = None) -> np.ndarray:
    """A picture above a legend, in columns that are as wide as the longest text.

    Args:
        image: (H, W, 3 or 4) uint8; on RGBA the legend has no ground, and is read on a dark page as on a light one.
        texts: what stands beside the colour of each label; of a number, the labels 1 .. so many.
        size: of the text, pixels; None: one that suits the picture's width.

    Returns:
        (H + h, W, 3 or 4) uint8.
    """
    if isinstance(texts, int):
        texts = {label: str(label) for label in range(1, texts + 1)}
    width = image.shape[1]
    size = size or max(10, width // 40)
    font, gap = font_of(size), size // 2
    said = [shortened(text, font, width - size - 3 * gap) for text in texts.values()]
    cell = round(max(font.getlength(text) for text in said)) + size + 3 * gap
    columns, height = max(1, width // cell), size + gap
    mode = "RGB" if image.shape[2] == 3 else "RGBA"
    strip = Image.new(mode, (width, -(-len(said) // columns) * height + gap), GROUND[mode])
    draw = ImageDraw.Draw(strip)
    for place, (label, text) in enumerate(zip(texts, said, strict=True)):
        left, top = place % columns * cell + gap, place // columns * height + gap
        strip.paste(Image.fromarray(tint(np.full((size, size), label))).convert(mode), (left, top))
        draw.rectangle((left, top, left + size - 1, top + size - 1), outline=INK)
        draw.text((left + size + gap, top + size / 2), text, fill=INK, font=font, anchor="lm")
    return np.concatenate([image, np.asarray(strip)])


def shortened(text: str, font: ImageFont.FreeTypeFont, room: float, keeps_end: bool = False) -> str:
    """What of a text fits into some pixels, with an ellipsis for the rest."""
    whole = text = text.encode(errors="replace").decode()
    for length in range(len(whole) - 1, -1, -1):
        if font.getlength(text) <= room:
            break
        text = "…" + whole[len(whole) - length :] if keeps_end else whole[:length] + "…"
    return text
