"""Pictures with what was found in them and what is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.inputs import EvalInput


@dataclass
class Known:
    """What is known of a picture, as a figure shows it below what was found.

    Attributes:
        caption: of the row in the figure.
        image: (h, w, 3) uint8, RGB.
        labels: (h, w) uint8, painted over the image; 0 is background. What was found takes the colours of what it
            matches here.
        points: (P, 3) float, columns x, y, visible, in pixels: dots on the image, which is faded.
    """

    caption: str
    image: np.ndarray
    labels: np.ndarray | None = None
    points: np.ndarray | None = None


@dataclass
class Comparison:
    """How often what is known meets what was found, over all held-out pictures.

    Attributes:
        known: in words, one of them: "keypoint".
        names: (T,) of what is known.
        counts: (T, 1 + K) int64: at background, and at the parts.
        unit: what is counted.
        errors: (T,) float, of places regressed from the parts' centres, percent; NaN where there is none. None: nothing
            is regressed.
    """

    known: str
    names: Sequence[str]
    counts: np.ndarray
    unit: str
    errors: np.ndarray | None = None


@dataclass
class Example:
    """A picture with what was found in it.

    Attributes:
        shown: the picture and its annotation.
        predicted: (h, w) uint8, 0 is background, 1..K are the parts.
        known: what a figure compares that with; None where nothing is known.
        recolouring: (K + 1,) int, for each predicted label the label whose colour it takes, where the protocol knows.
            None: its own.
    """

    shown: EvalInput
    predicted: np.ndarray
    known: Known | None
    recolouring: np.ndarray | None = None
