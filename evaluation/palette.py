"""Colours of labels, the same in every picture of the project."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

# Background, then the parts. The first seven are Okabe and Ito's for colour-blind readers, the rest darker and paler
# relatives of them; with many parts neighbours stay apart in lightness if not in hue.
_HEX = (
    *("000000", "e69f00", "56b4e9", "009e73", "f0e442", "d55e00", "0072b2", "cc79a7"),
    *("ffffff", "7a3e00", "aadcbe", "581c6e", "ffbebe", "5a6414", "bebebe", "142864", "ff7864"),
)
PALETTE = np.array([ImageColor.getrgb(f"#{colour}") for colour in _HEX], np.uint8)


def colours(labels: np.ndarray) -> np.ndarray:
    """RGB colours (..., 3) uint8 of labels, 0 is background; above 16 the parts' colours start again."""
    return PALETTE[np.where(labels == 0, 0, (labels.astype(int) - 1) % (len(PALETTE) - 1) + 1)]


def save_label_map(path: Path, label_map: np.ndarray) -> None:
    """Write (H, W) uint8 as PNG under the name ``path`` with this ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label_map)
    # With a palette the file opens as a coloured picture, yet its pixel values are the labels.
    picture.putpalette(PALETTE.tobytes())
    picture.save(path.with_suffix(".png"))
