"""The one record that every data set gives."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

# What a data set is read for; see datasets.build.
Purpose = Literal["training", "evaluation", "prediction"]

VOID = 255  # of class maps and of label maps made elsewhere: nothing is known of the pixel


@dataclass(frozen=True)
class Remark:
    """What a log should say of a file that is read for what it is, though most are not as it is.

    Attributes:
        kind: a sentence for all of its kind, with ``{count}`` for their number and, if need be, ``{pixels}``.
        file: which one.
        pixels: in it.
    """

    kind: str
    file: Path
    pixels: int = 0


class Remarks:
    """What was found so far, each file once."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[Path, int]] = {}
        self._told: dict[str, int] = {}

    def add(self, remarks: Iterable[Remark]) -> None:
        for remark in remarks:
            self._kinds.setdefault(remark.kind, {})[remark.file] = remark.pixels

    def lines(self, new_kinds: bool = False) -> list[str]:
        """A line for each kind of which more files are known than were told, with one of them.

        Args:
            new_kinds: only of those of which nothing was told.
        """
        due = [kind for kind, files in self._kinds.items() if self._told.get(kind, 0) < len(files)]
        due = [kind for kind in due if not (new_kinds and kind in self._told)]
        self._told |= {kind: len(self._kinds[kind]) for kind in due}
        return [_line(kind, self._kinds[kind]) for kind in due]


def _line(kind: str, files: Mapping[Path, int]) -> str:
    return f"{kind.format(count=f'{len(files):,}', pixels=f'{sum(files.values()):,}')} For example {next(iter(files))}."


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
        void: (H, W) uint8, 1 where the annotation does not say what a pixel is, so that no figure is of it; or None.
        predicted: (H, W) uint8, a label map made elsewhere that is to be compared with the annotation, 255 where it is
            void, or None.
        remarks: what a log should say of the sample's files.
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
    void: np.ndarray | None = field(default=None, metadata={"outside": 0})
    predicted: np.ndarray | None = field(default=None, metadata={"outside": 0})
    remarks: tuple[Remark, ...] = ()
