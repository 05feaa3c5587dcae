"""The one record that every data set gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

# What a data set is read for; see datasets.build.
Purpose = Literal["training", "evaluation", "prediction"]


@dataclass
class Sample:
    """A picture with its annotation, as it lies on disk or after a crop.

    Coordinates are zero-based pixels: the centre of the top left pixel is (0, 0).

    Attributes:
        name: identifies the sample within its data set.
        path: the picture's file.
        image: (H, W, 3) uint8, RGB.
        foreground: (H, W) uint8, 1 on the object and 0 elsewhere.
        label: the class of the picture (CUB: 1..200), or None.
        box: (x0, y0, x1, y1) float, the object's box, both corners inclusive, or None.
        keypoints: (P, 3) float, columns x, y, visible (0 or 1), or None.
        part_map: (H, W) uint8, 0 is background, 1.. are the annotated parts, or None.
    """

    name: str
    path: Path
    image: np.ndarray
    foreground: np.ndarray
    label: int | None = None
    box: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    part_map: np.ndarray | None = None
