"""Figures of parts that need no truth, by which runs on pictures without annotation, and their K, can be compared.

They say whether parts are stable, used and compact; not whether they mean anything: a part for the left third of every
object would do well. So they belong beside a look at the pictures.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from datasets.batch import EvalBatch
from datasets.sample import Sample
from evaluation.inputs import EvalInput
from evaluation.prediction import largest, part_probabilities, upsample
from evaluation.protocols import base
from utils.seeding import generator
from utils.transfers import Behind

# A similarity for each picture, drawn evenly: turned by so many degrees at most, shrunk or enlarged by a factor, and
# moved by a share of its side.
TURN, FACTORS, MOVE = 20.0, (0.8, 1.2), 0.05
PRESENT = 0.01  # of a picture's object: a part that holds less is not there

# What each part has, in the order of its figures.
OF_PART = ("share", "presence", "compactness", "warp_agreement")
# What a reader without the documentation has to know of a figure, of each part.
MEANINGS = {
    "warp_agreement": "each picture is labelled as it is, and once more turned, scaled and moved a little; of the "
    "pixels that are the part in one of these label maps, those that are in both",
    "presence": f"pictures in which the part holds {100 * PRESENT:g} % or more of what is found",
    "compactness": "of the part's pixels in these pictures, those in its largest connected piece",
    "largest_share": "of what is found in all pictures, the largest part",
    "smallest_share": "of what is found in all pictures, the smallest part",
}


def present(pixels: np.ndarray) -> np.ndarray:
    """In which pictures which parts are (..., K) bool, of the pixels (..., K) of each."""
    return (pixels > 0) & (pixels >= PRESENT * pixels.sum(-1, keepdims=True, dtype=float))


class Protocol(base.Protocol):
    """Scores the labels of the test crops, and of the same crops warped.

    Of a part: ``share``, of all pixels of parts; ``presence``, the share of the pictures in which it holds 1 % or more
    of what is found; ``compactness``, the mean over these pictures of the share of its pixels that lie in its largest
    connected piece (8 neighbours); ``warp_agreement``, the pixels where the label of the warped picture and the warped
    label of the picture are both this part, divided by those where one is (IoU), over all pictures; pixels that the
    warp takes from outside the crop do not count.
    """

    name = "truth_free"
    metric_names = ("warp_agreement", "presence", "compactness", "largest_share", "smallest_share")

    def __init__(self, *given) -> None:
        super().__init__(*given)
        num_parts = self.labeller.num_parts
        self._num_images, self._pixels, self._present = 0, np.zeros(num_parts, int), np.zeros(num_parts, int)
        self._compact, self._warped = np.zeros(num_parts), 0
        self._both, self._either = np.zeros(num_parts, int), np.zeros(num_parts, int)
        self._waiting: dict[int, np.ndarray] = {}  # labels of one view, of pictures whose other view is to come
        self._behind = Behind(self._take)

    def inputs(self, sample: Sample, fitted: bool = False, predicted: np.ndarray | None = None) -> list[EvalInput]:
        """The test crop, and the same warped; without the second where the label map was made elsewhere."""
        (crop,) = super().inputs(sample, fitted, predicted)
        return [crop] if fitted or predicted is not None else [crop, warped(crop)]

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        scores = upsample(scores, batch.images.shape[-2:])
        probabilities = part_probabilities(scores, batch.foreground, self.labeller.has_background)
        self._behind.add([largest(probabilities).to(torch.uint8)], batch.inputs)
        return probabilities

    def _take(self, labels: np.ndarray, inputs: Sequence[EvalInput]) -> None:
        for shown, found in zip(inputs, labels, strict=True):
            if shown.fitted:
                continue
            if shown.view == "crop":
                self._count(found)
            if shown.place not in self._waiting:
                self._waiting[shown.place] = found
                continue
            other = self._waiting.pop(shown.place)
            self._compare(shown.name, *((found, other) if shown.view == "crop" else (other, found)))

    def _count(self, found: np.ndarray) -> None:
        pixels = np.bincount(found.ravel(), minlength=self.labeller.num_parts + 1)[1:]
        there = present(pixels)
        self._num_images += 1
        self._pixels += pixels
        self._present += there
        for part in np.flatnonzero(there):
            pieces = cv2.connectedComponentsWithStats((found == part + 1).view(np.uint8), connectivity=8)[2]
            self._compact[part] += pieces[1:, cv2.CC_STAT_AREA].max() / pixels[part]

    def _compare(self, name: str, found: np.ndarray, of_warped: np.ndarray) -> None:
        matrix, size = warp_of(name, *found.shape), found.shape[::-1]
        expected = cv2.warpAffine(found, matrix, size, flags=cv2.INTER_NEAREST)
        inside = cv2.warpAffine(np.ones_like(found), matrix, size, flags=cv2.INTER_NEAREST) > 0
        num_labels = self.labeller.num_parts + 1
        pairs = expected[inside].astype(int) * num_labels + of_warped[inside]
        counts = np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)
        both = counts.diagonal()
        self._both += both[1:]
        self._either += (counts.sum(0) + counts.sum(1) - both)[1:]
        self._warped += 1

    def per_part(self) -> list[dict[str, float]]:
        """Of each part ``OF_PART`` in percent, without what cannot be said of it."""
        self._behind.finish()
        columns = {
            "share": _percent(self._pixels, self._pixels.sum()),
            "presence": _percent(self._present, self._num_images),
            "compactness": _percent(self._compact, self._present),
            "warp_agreement": _percent(self._both, self._either),
        }
        rows = zip(*(columns[name] for name in OF_PART), strict=True)
        return [{name: float(v) for name, v in zip(OF_PART, row, strict=True) if not np.isnan(v)} for row in rows]

    def metrics(self) -> dict[str, float]:
        """The means over parts; and the largest and smallest share.

        A part that is nowhere has a ``warp_agreement`` of 0, so that empty parts do not make a figure better, and no
        ``compactness``. Of label maps made elsewhere there is no ``warp_agreement``; without a part in any picture
        there is nothing.
        """
        parts, figures = self.per_part(), {}
        if not self._pixels.any():
            return figures
        if self._warped:
            figures["warp_agreement"] = float(np.mean([part.get("warp_agreement", 0.0) for part in parts]))
        figures["presence"] = float(np.mean([part["presence"] for part in parts]))
        if compact := [part["compactness"] for part in parts if "compactness" in part]:
            figures["compactness"] = float(np.mean(compact))
        shares = [part["share"] for part in parts]
        return figures | {"largest_share": max(shares), "smallest_share": min(shares)}

    def counts(self) -> dict[str, int]:
        """How many held-out images the metrics are of."""
        self._behind.finish()
        return {"images": self._num_images}


def warp_of(name: str, height: int, width: int) -> np.ndarray:
    """The similarity (2, 3) of a picture, as OpenCV has it: a function of its name and size, the same in every run."""
    random = generator(0, f"warp of {name}")
    turn, factor = random.uniform(-TURN, TURN), random.uniform(*FACTORS)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), turn, factor)
    matrix[:, 2] += random.uniform(-MOVE, MOVE, 2) * (width, height)
    return matrix


def warped(crop: EvalInput) -> EvalInput:
    """A crop and its mask warped, black where they end, as the view "warped"."""
    height, width = crop.foreground.shape
    matrix = warp_of(crop.name, height, width)

    def moved(plane: np.ndarray | None, how: int) -> np.ndarray | None:
        return None if plane is None else cv2.warpAffine(plane, matrix, (width, height), flags=how)

    return EvalInput(
        crop.name,
        crop.label,
        moved(crop.image, cv2.INTER_LINEAR),
        moved(crop.foreground, cv2.INTER_NEAREST),
        view="warped",
        infrared=moved(crop.infrared, cv2.INTER_LINEAR),
    )


def _percent(part: np.ndarray, whole: np.ndarray | int) -> np.ndarray:
    """NaN where the whole is nothing."""
    return 100 * np.divide(part, whole, out=np.full(len(part), np.nan), where=np.broadcast_to(whole, part.shape) > 0)
