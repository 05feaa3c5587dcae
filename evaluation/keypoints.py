"""The published protocol for data sets with a box and keypoints (CUB).

FG-NMI and FG-ARI compare the part at each visible keypoint with the keypoint's index, on the picture cut to its box.
NMI and ARI do the same on the whole picture, with a background channel from the mask. The keypoint error regresses
keypoints from the parts' centres of mass on the whole picture. The paper's text leaves the pixel arithmetic open;
the readings below are those that give the release's figures.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.batch import EvalBatch, to_device
from datasets.crops import with_shorter_side
from datasets.sample import Sample
from evaluation.contingency import ContingencyTable
from evaluation.inputs import EvalInput
from evaluation.prediction import part_probabilities, upsample
from evaluation.regression import Located, keypoint_error
from utils.errors import UserError

# Sides of network inputs: the release cuts to twice the segmenter's output stride.
MULTIPLE = 16
# The paper's tables give the keypoint error over the first three classes one by one, beside all.
TABLE_CLASSES = (1, 2, 3)


class KeypointProtocol:
    """Scores part probabilities at keypoints.

    Args:
        num_keypoints: P.
        num_parts: K.
        size: the shorter side of the network's input in pixels, >= 16; the paper's is 256.
        has_background: the labeller's scores hold a background channel.
    """

    def __init__(self, num_keypoints: int, num_parts: int, *, size: int = 256, has_background: bool = False) -> None:
        if size < MULTIPLE:
            raise UserError(f"evaluation.size={size} is too small: pictures are cut to multiples of {MULTIPLE} pixels.")
        self.size = size
        self.has_background = has_background
        self.in_box = ContingencyTable(num_keypoints, num_parts)
        self.in_whole = ContingencyTable(num_keypoints, num_parts + 1)
        # Of the whole pictures: where they are from and, on the device until they are read, the parts' centres.
        self._frames: list[_Frame] = []
        self._centres: list[Tensor] = []
        self.notes: list[str] = []

    def inputs(self, sample: Sample, fitted: bool, predicted: np.ndarray | None = None) -> list[EvalInput]:
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
        corner = sample.box[:2] + 1
        extent = sample.box[2:] - sample.box[:2] + 1
        height, width = sample.foreground.shape
        whole = self._input(sample, (0, 0, width, height), fitted, "whole", np.zeros(2), predicted)
        if fitted:
            return [whole]
        left, top = np.clip(corner.astype(int), 0, [width - 1, height - 1])
        right, bottom = np.clip(corner.astype(int) + extent.astype(int), [left + 1, top + 1], [width, height])
        return [whole, self._input(sample, (left, top, right, bottom), fitted, "box", corner, predicted)]

    def _input(
        self,
        sample: Sample,
        cut: tuple[int, int, int, int],
        fitted: bool,
        view: str,
        origin: np.ndarray,
        predicted: np.ndarray | None,
    ) -> EvalInput:
        left, top, right, bottom = cut
        what = str(sample.path) if view == "whole" else f"The box of {sample.path}"
        width, height = with_shorter_side(int(right - left), int(bottom - top), self.size, what)
        scale = self.size / min(right - left, bottom - top)
        border = np.array([width % MULTIPLE // 2, height % MULTIPLE // 2])
        columns = slice(border[0], border[0] + width // MULTIPLE * MULTIPLE)
        rows = slice(border[1], border[1] + height // MULTIPLE * MULTIPLE)

        def resized(picture: np.ndarray, resampling: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
            small = Image.fromarray(picture[top:bottom, left:right]).resize((width, height), resampling)
            return np.asarray(small)[rows, columns]

        keypoints = sample.keypoints.astype(float)
        keypoints[:, :2] = np.maximum(keypoints[:, :2] + 1 - origin, 0) * scale - border
        corner = (sample.box[:2] + 1 - origin) * scale - border
        extent = (sample.box[2:] - sample.box[:2] + 1) * scale
        return EvalInput(
            name=sample.name,
            label=sample.label,
            image=resized(sample.image),
            foreground=resized(sample.foreground),
            fitted=fitted,
            view=view,
            keypoints=keypoints,
            box=np.concatenate([corner, extent]),
            predicted=None if predicted is None else resized(predicted, Image.Resampling.NEAREST),
        )

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        """Count a batch of one view; ``scores`` (N, K [+ 1], h', w') are those of its images.

        Returns:
            The part probabilities (N, 1 + K, h, w), background first.
        """
        scores = upsample(scores, batch.images.shape[-2:])
        probabilities = part_probabilities(scores, batch.foreground, self.has_background)
        if batch.inputs[0].view == "box":
            parts = scores[:, 1:] if self.has_background else scores
            _count(self.in_box, parts.argmax(1), batch.inputs)
            return probabilities
        _count(self.in_whole, probabilities.argmax(1), batch.inputs)
        self._centres.append(centres_of_mass(probabilities[:, 1:]))
        self._frames += [_frame(one) for one in batch.inputs]
        return probabilities

    def located(self, fitted: bool) -> list[Located]:
        """Parts and keypoints of the training samples (``fitted``), or of the held-out ones."""
        centres = torch.cat(self._centres).cpu().numpy() if self._centres else ()
        placed = zip(self._frames, centres, strict=True)
        return [_relative_to_box(frame, one) for frame, one in placed if frame.fitted == fitted]

    def metrics(self) -> dict[str, float]:
        """FG-NMI, FG-ARI, NMI, ARI and the keypoint errors that can be computed, all in percent.

        ``keypoint_error_all`` is fitted on every training sample and tested on every held-out one;
        ``keypoint_error_001`` to ``_003`` are fitted on the training samples of classes 1 to 3 together and tested
        on one class. An error is left out, and ``notes`` says why, where its classes lack samples in either split.

        Raises:
            UserError: the held-out samples show no keypoint.
        """
        fitted, held_out = self.located(fitted=True), self.located(fitted=False)
        if self.in_whole.total == 0:
            first = held_out[0].name if held_out else "none"
            raise UserError(
                f"No held-out sample shows a keypoint; the first is {first}: check the data set's split and keypoint "
                "files."
            )
        metrics = {
            "FG-NMI": self.in_box.nmi(),
            "FG-ARI": self.in_box.ari(),
            "NMI": self.in_whole.nmi(),
            "ARI": self.in_whole.ari(),
            "keypoint_error_all": keypoint_error(fitted, held_out),
        }
        reason = "too few samples in the training or the test split" if fitted else "there is nothing to fit it on"
        fitted = [one for one in fitted if one.label in TABLE_CLASSES]
        for label in TABLE_CLASSES if any(one.label is not None for one in held_out) else ():
            of_class = [one for one in held_out if one.label == label]
            in_both = any(one.label == label for one in fitted)
            metrics[f"keypoint_error_{label:03}"] = keypoint_error(fitted, of_class) if in_both else None
        missing = [name for name, value in metrics.items() if value is None]
        self.notes = [f"{name} is left out: {reason}." for name in missing]
        return {name: value for name, value in metrics.items() if value is not None}

    def counts(self) -> dict[str, int]:
        """How many held-out images, training images and visible held-out keypoints the metrics are of."""
        return {
            "images": sum(not frame.fitted for frame in self._frames),
            "training_images": sum(frame.fitted for frame in self._frames),
            "keypoints": self.in_whole.total,
        }


def centres_of_mass(part_masks: Tensor) -> Tensor:
    """Centres (N, K, 2) of soft part masks (N, K, h, w): x and y, one-based pixels; NaN where a mask is empty."""
    height, width = part_masks.shape[-2:]
    rows = torch.arange(1, height + 1, device=part_masks.device, dtype=part_masks.dtype)
    columns = torch.arange(1, width + 1, device=part_masks.device, dtype=part_masks.dtype)
    moments = torch.stack([part_masks.sum(2) @ columns, part_masks.sum(3) @ rows], dim=-1)
    return moments / part_masks.sum((2, 3))[..., None]


def _count(table: ContingencyTable, labels: Tensor, inputs: list[EvalInput]) -> None:
    """Add the labels (N, h, w) at the visible keypoints of the held-out inputs."""
    height, width = labels.shape[-2:]
    found = [np.empty((4, 0), dtype=int)]
    for place, one in enumerate(inputs):
        if one.fitted:
            continue
        (visible,) = np.nonzero(one.keypoints[:, 2] > 0)
        columns, rows = np.round(one.keypoints[visible, :2] - 0.5).astype(int).T
        found.append([visible, np.full_like(visible, place), rows.clip(0, height - 1), columns.clip(0, width - 1)])
    points, places, rows, columns = to_device(np.concatenate(found, axis=1), labels.device)
    table.update(points, labels[places, rows, columns])


@dataclass
class _Frame:
    """A whole picture without its pixels: what positions in it are relative to."""

    name: str
    label: int | None
    fitted: bool
    corner: np.ndarray
    extent: np.ndarray
    keypoints: np.ndarray


def _frame(one: EvalInput) -> _Frame:
    """The box's corner is not below 0 and its size not above the picture's."""
    height, width = one.foreground.shape
    corner, extent = np.maximum(one.box[:2], 0), np.minimum(one.box[2:], [width, height])
    return _Frame(one.name, one.label, one.fitted, corner, extent, one.keypoints)


def _relative_to_box(frame: _Frame, centres: np.ndarray) -> Located:
    """Positions as fractions of the box. A part without any pixel (the mask is empty) is put at its middle."""
    return Located(
        name=frame.name,
        label=frame.label,
        centres=np.nan_to_num((centres - frame.corner) / frame.extent, nan=0.5),
        keypoints=(frame.keypoints[:, :2] - frame.corner) / frame.extent,
        visible=frame.keypoints[:, 2] > 0,
    )
