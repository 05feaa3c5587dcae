"""What the part-map protocol compares pixel by pixel: each data set says which pictures of a sample those are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from datasets.sample import Sample


@dataclass(frozen=True)
class PartViewOptions:
    """What a config says about the pictures; a data set takes what concerns it.

    Attributes:
        image_size: side of the test crop, pixels.
        size: of a whole picture, pixels; which side is the data set's choice.
        labels: how part maps and masks of a whole picture are resized. "bilinear", as published, mixes neighbouring
            numbers and so invents labels at borders. Test crops and predicted maps take the nearest pixel in any case.
    """

    image_size: int
    size: int = 256
    labels: Literal["bilinear", "nearest"] = "bilinear"


@dataclass(frozen=True)
class PartView:
    """One network input of a sample on which parts are compared with the part map.

    Attributes:
        name: unique within the data set; label maps are saved under it.
        prepare: sample as on disk -> sample at network size, whose label maps and foreground lie on its picture. The
            name stays. A function of its argument alone that pickles: it runs in the loader's workers.
        on_parts: the pixels of annotated parts are compared here: FG-NMI and FG-ARI are of this view.
        everywhere: all pixels, background included, are compared here: NMI and ARI are of this view.
        align_corners: how part logits are brought to the size of this view.
        true_masks: with ``everywhere``: also report NMI and ARI with the union of the annotated parts for a mask.
    """

    name: str
    prepare: Callable[[Sample], Sample]
    on_parts: bool = True
    everywhere: bool = True
    align_corners: bool = False
    true_masks: bool = False
