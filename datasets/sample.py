"""The one record that every data set gives."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

# What a data set is read for; see datasets.build.
Purpose = Literal["training", "evaluation", "prediction"]

VOID = 255  # of class maps: the pixel's class is not known


@dataclass
class Sample:
    """A picture with its annotation, as it lies on disk or after a crop.

    Coordinates are zero-based pixels: the centre of the top left pixel is (0, 0). A field with ``outside`` in its
    metadata has a label for each pixel, or is None, and moves with the picture (``datasets.crops``): ``outside`` is the
    label beyond its edges, and those that are ``bilinear`` may be resized as pictures are, or "always" are.

    Attributes:
        name: identifies the sample within its data set.
        path: the picture's file.
        image: (H, W, 3) uint8, RGB.
        foreground: (H, W) uint8, 1 on the object and 0 elsewhere.
        label: the class of the picture (CUB: 1..200), or None.
        box: (x0, y0, x1, y1) float, the object's box, both corners inclusive, or None.
        keypoints: (P, 3) float, columns x, y, visible (0 or 1), or None.
        part_map: (H, W) uint8, 0 is background, 1.. are the annotated parts, or None.
        saliency: (H, W) uint8, how surely a pixel is the object's, 255 for wholly: training batches have it instead of
            the foreground; or None.
        class_map: (H, W) uint8, the true class of each pixel, 0.., 255 where it is not known (void), or None.
        infrared: (H, W) uint8, a fourth channel of the picture, or None.
        predicted: (H, W) uint8, a label map made elsewhere that is to be compared with the annotation, or None.
    """

    name: str
    path: Path
    image: np.ndarray
    foreground: np.ndarray = field(metadata={"outside": 0, "bilinear": True})
    label: int | None = None
    box: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    part_map: np.ndarray | None = field(default=None, metadata={"outside": 0, "bilinear": True})
    saliency: np.ndarray | None = field(default=None, metadata={"outside": 0, "bilinear": True})
    class_map: np.ndarray | None = field(default=None, metadata={"outside": VOID})
    infrared: np.ndarray | None = field(default=None, metadata={"outside": 0, "bilinear": "always"})
    predicted: np.ndarray | None = field(default=None, metadata={"outside": 0})
