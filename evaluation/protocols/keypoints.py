"""The published protocol for data sets with a box and keypoints (CUB).

FG-NMI and FG-ARI compare the part at each visible keypoint with the keypoint's index, on the picture cut to its box.
NMI and ARI do the same on the whole picture, with a background channel from the mask. The keypoint error regresses
keypoints from the parts' centres on the whole picture: of mass, unless the labeller knows better. The paper's text
leaves the pixel arithmetic open; the readings below are those that give the release's figures.
"""

from dataclasses import replace
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.base import Source
from datasets.batch import EvalBatch, to_device
from datasets.crops import with_shorter_side
from datasets.masks import void_of
from datasets.sample import VOID, Sample
from evaluation.contingency import ContingencyTable, ari, nmi
from evaluation.examples import Comparison, Known
from evaluation.inputs import EvalInput
from evaluation.labellers.base import Labeller
from evaluation.options import EvaluationOptions
from evaluation.prediction import largest, part_probabilities, part_scores, upsample
from evaluation.protocols import base
from evaluation.regression import Located, distances, keypoint_error, mean_error
from utils.errors import UserError

# Sides of network inputs: the release cuts to twice the segmenter's output stride.
MULTIPLE = 16
# The paper's tables give the keypoint error over the first three classes one by one, beside all.
TABLE_CLASSES = (1, 2, 3)
# As the release computed FG-ARI until March 2023, and so probably the published FG-ARIs.
WITH_BACKGROUND = "FG-ARI (with background)"


class Protocol(base.Protocol):
    """Scores part probabilities at keypoints; ``evaluation.size`` is the shorter side, >= 16, the paper's is 256."""

    name = "keypoints"
    annotation = "keypoints"
    fits = True
    gives_way_to = ("part_maps",)
    agreement_is = "of the visible keypoints, those in the part that holds them most often over all pictures"
    shown_view = "box"
    metric_names = (
        *("FG-NMI", "FG-ARI", "NMI", "ARI", "keypoint_error_all"),
        *(f"keypoint_error_{label:03}" for label in TABLE_CLASSES),
    )

    def __init__(self, dataset: Source, labeller: Labeller, options: EvaluationOptions) -> None:
        super().__init__(dataset, labeller, options)
        if options.size < MULTIPLE:
            raise UserError(
                f"evaluation.size={options.size} is too small: pictures are cut to multiples of {MULTIPLE} pixels."
            )
        self.in_box = ContingencyTable(len(dataset.keypoint_names), labeller.num_parts)
        self.in_whole = ContingencyTable(len(dataset.keypoint_names), labeller.num_parts + 1)
        self.in_box_with_background = None
        self.fits = dataset.has_masks  # for the keypoint error, which is of parts within masks
        self.knows_background = dataset.has_masks or labeller.has_background
        if options.ari_with_background and self.knows_background:
            self.in_box_with_background = ContingencyTable(len(dataset.keypoint_names), labeller.num_parts + 1)
            self.metric_names = (*self.metric_names, WITH_BACKGROUND)
        # The whole pictures, without their pixels, and, on the device until they are read, the parts' centres in them.
        self._whole: list[EvalInput] = []
        self._centres: list[Tensor] = []

    @classmethod
    def of(cls, dataset: Source, labeller: Labeller, options: EvaluationOptions) -> Self | None:
        return cls(dataset, labeller, options) if dataset.keypoint_names else None

    def inputs(self, sample: Sample, fitted: bool = False, predicted: np.ndarray | None = None) -> list[EvalInput]:
        """The whole picture and, of a held-out sample, the picture cut to its box.

        The box is cut at the integer parts of its file's numbers (one-based corner, width, height) and at the
        picture's border. The shorter side is resized to ``size``, the longer one to its integer part, by PIL,
        bilinear; the mask as an 8-bit picture of 0 and 1, which rounds it. Borders are cut evenly, the smaller half
        left and top, so that both sides are multiples of 16. Keypoints and box are those of the file (one-based),
        times size / shorter side, minus the cut border. ``predicted`` (H, W) uint8, a label map of the whole picture
        made elsewhere, is cut and resized likewise, but takes the nearest pixel.
        """
        if sample.box is None or sample.keypoints is None:
            raise UserError(f"{sample.name} has no box or no keypoints: the keypoint protocol needs both.")
        sample = replace(sample, predicted=predicted)
        height, width = sample.foreground.shape
        whole = self._input(sample, "whole", np.array([0, 0, width, height]), origin=np.zeros(2))
        if fitted:
            return [whole]
        corner = sample.box[:2] + 1
        start = np.clip(corner.astype(int), 0, [width - 1, height - 1])
        size = (sample.box[2:] - sample.box[:2] + 1).astype(int)
        end = np.clip(corner.astype(int) + size, start + 1, [width, height])
        return [whole, self._input(sample, "box", np.concatenate([start, end]), origin=corner)]

    def _input(self, sample: Sample, view: str, cut: np.ndarray, origin: np.ndarray) -> EvalInput:
        left, top, right, bottom = cut.tolist()
        what = str(sample.path) if view == "whole" else f"The box of {sample.path}"
        size = with_shorter_side(right - left, bottom - top, self.options.size, what)
        scale = self.options.size / min(right - left, bottom - top)
        kept = np.array(size) // MULTIPLE * MULTIPLE
        border = (size - kept) // 2
        columns, rows = map(slice, border, border + kept)

        def resized(picture: np.ndarray, resampling: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
            return np.asarray(Image.fromarray(picture[top:bottom, left:right]).resize(size, resampling))[rows, columns]

        keypoints = sample.keypoints.astype(float)
        keypoints[:, :2] = np.maximum(keypoints[:, :2] + 1 - origin, 0) * scale - border
        corner = (sample.box[:2] + 1 - origin) * scale - border
        extent = (sample.box[2:] - sample.box[:2] + 1) * scale
        predicted = None if sample.predicted is None else resized(sample.predicted, Image.Resampling.NEAREST)
        return EvalInput(
            name=sample.name,
            label=sample.label,
            image=resized(sample.image),
            foreground=resized(sample.foreground),
            view=view,
            keypoints=keypoints,
            box=np.concatenate([np.maximum(corner, 0), np.minimum(extent, kept)]),
            predicted=predicted,
            void=void_of(predicted, VOID),  # a keypoint is one, whatever the annotation says of the pixels around it
        )

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        given, has_background = scores, self.labeller.has_background
        scores = upsample(given, batch.images.shape[-2:])
        probabilities = part_probabilities(scores, batch.foreground, has_background)
        if batch.inputs[0].view == "box":
            _count(self.in_box, part_scores(scores, has_background), batch.inputs)
            if self.in_box_with_background:
                _count(self.in_box_with_background, probabilities, batch.inputs)
            return probabilities
        _count(self.in_whole, probabilities, batch.inputs)
        self._centres.append(self.labeller.centres(probabilities[:, 1:], batch, given))
        self._whole += [replace(shown, image=None, foreground=None, predicted=None) for shown in batch.inputs]
        return probabilities

    def located(self, fitted: bool) -> list[Located]:
        """Parts and keypoints of the training samples (``fitted``), or of the held-out ones."""
        centres = torch.cat(self._centres).cpu().numpy() if self._centres else ()
        return [
            _relative_to_box(shown, found)
            for shown, found in zip(self._whole, centres, strict=True)
            if shown.fitted == fitted and not (self.labeller.leaves_out_absent and np.isnan(found).any())
        ]

    def metrics(self) -> dict[str, float]:
        """FG-NMI, FG-ARI, NMI, ARI and the keypoint errors that can be computed, all in percent.

        On request also FG-ARI of labels with background, on the same picture cut to its box.

        ``keypoint_error_all`` is fitted on every training sample and tested on every held-out one;
        ``keypoint_error_001`` to ``_003`` are fitted on the training samples of classes 1 to 3 together and tested
        on one class. An error is left out, and ``notes`` says why, where its classes lack samples in either split.
        Where there are no masks all are, and NMI and ARI, unless the labeller finds the background itself.

        Raises:
            UserError: the held-out samples show no keypoint.
        """
        fitted, held_out = self.located(fitted=True), self.located(fitted=False)
        if self.in_whole.total == 0:
            raise UserError(
                f"No held-out sample shows a keypoint; the first is {self.dataset.sample_name(0)}: check the data "
                "set's split and keypoint files."
            )
        of_points = distances(fitted, held_out)
        self._errors = np.array([np.nan if (error := mean_error([own])) is None else error for own in of_points])
        metrics = {
            "FG-NMI": nmi(self.in_box.counts),
            "FG-ARI": ari(self.in_box.counts),
            "NMI": nmi(self.in_whole.counts) if self.knows_background else None,
            "ARI": ari(self.in_whole.counts) if self.knows_background else None,
            "keypoint_error_all": mean_error(of_points),
        }
        if self.in_box_with_background:
            metrics[WITH_BACKGROUND] = ari(self.in_box_with_background.counts)
        reason = "too few samples in the training or the test split" if fitted else "there is nothing to fit it on"
        reason = reason if self.dataset.has_masks else base.WITHOUT_MASKS
        fitted = [located for located in fitted if located.label in TABLE_CLASSES]
        for label in TABLE_CLASSES if any(located.label is not None for located in held_out) else ():
            of_class = [located for located in held_out if located.label == label]
            in_both = any(located.label == label for located in fitted)
            metrics[f"keypoint_error_{label:03}"] = keypoint_error(fitted, of_class) if in_both else None
        missing = [name for name, value in metrics.items() if value is None]
        self.notes = [f"{name} is left out: {reason}." for name in missing]
        return {name: value for name, value in metrics.items() if value is not None}

    def counts(self) -> dict[str, int]:
        """How many held-out images, training images and visible held-out keypoints the metrics are of."""
        fitted = [shown.fitted for shown in self._whole]
        return {
            "images": fitted.count(False),
            "training_images": fitted.count(True),
            "keypoints": self.in_whole.total,
        }

    def renamed(self, metric: str) -> str:
        return f"{metric} ({self.name})"

    def known(self, shown: EvalInput) -> Known:
        """The keypoints."""
        return Known("true keypoints", shown.image, points=shown.keypoints)

    def comparison(self) -> Comparison:
        """The visible keypoints on whole pictures, which NMI and ARI are of, and their errors."""
        errors = self._errors if len(self._errors) else None
        return Comparison("keypoint", self.dataset.keypoint_names, self.in_whole.counts, "visible keypoints", errors)

    def compared(self, shown: EvalInput, predicted: np.ndarray) -> np.ndarray:
        visible, rows, columns = _pixels(shown, predicted.shape)
        return base.met(visible, predicted[rows, columns], self.in_whole.shape)

    def agreement(self, tables: np.ndarray) -> np.ndarray:
        """The share of a picture's visible keypoints in the part that each of them is in most often (N,)."""
        usual = tables[..., 1:].sum(0).argmax(1) + 1
        return base.share(tables[:, np.arange(len(usual)), usual].sum(1), tables.sum((1, 2)))


def _count(table: ContingencyTable, scores: Tensor, inputs: list[EvalInput]) -> None:
    """Add the labels with the largest scores (N, L, h, w) at the visible keypoints of the held-out inputs."""
    height, width = scores.shape[-2:]
    found = [np.empty((4, 0), dtype=int)]
    for place, shown in enumerate(inputs):
        if not shown.fitted:
            visible, rows, columns = _pixels(shown, (height, width))
            found.append([visible, np.full_like(visible, place), rows, columns])
    points, places, rows, columns = to_device(np.concatenate(found, axis=1), scores.device)
    table.update(points, largest(scores[places, :, rows, columns]))


def _pixels(shown: EvalInput, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which visible keypoints count, and the rows and columns that they lie in, of a picture (height, width)."""
    (visible,) = np.nonzero(shown.keypoints[:, 2] > 0)
    columns, rows = np.round(shown.keypoints[visible, :2] - 0.5).astype(int).T
    rows, columns = rows.clip(0, size[0] - 1), columns.clip(0, size[1] - 1)
    counted = slice(None) if shown.void is None else shown.void[rows, columns] == 0
    return visible[counted], rows[counted], columns[counted]


def _relative_to_box(shown: EvalInput, centres: np.ndarray) -> Located:
    """Positions as fractions of the box. A part that is nowhere (the mask is empty) is put at its middle."""
    corner, extent = shown.box[:2], shown.box[2:]
    return Located(
        name=shown.name,
        label=shown.label,
        centres=np.nan_to_num((centres - corner) / extent, nan=0.5),
        keypoints=(shown.keypoints[:, :2] - corner) / extent,
        visible=shown.keypoints[:, 2] > 0,
    )
