"""Colours of labels, the same in every picture of the project."""

import numpy as np

# Background, then the parts. The first seven are Okabe and Ito's for colour-blind readers, the rest darker and paler
# relatives of them; with many parts neighbours stay apart in lightness if not in hue.
PALETTE = np.array(
    [
        (0, 0, 0),
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (213, 94, 0),
        (0, 114, 178),
        (204, 121, 167),
        (255, 255, 255),
        (122, 62, 0),
        (170, 220, 190),
        (88, 28, 110),
        (255, 190, 190),
        (90, 100, 20),
        (190, 190, 190),
        (20, 40, 100),
        (255, 120, 100),
    ],
    dtype=np.uint8,
)


def colours(labels: np.ndarray) -> np.ndarray:
    """RGB colours (..., 3) uint8 of labels, 0 is background; above 16 the parts' colours start again."""
    return PALETTE[np.where(labels == 0, 0, (labels.astype(int) - 1) % (len(PALETTE) - 1) + 1)]
