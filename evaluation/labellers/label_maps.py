"""Label maps made elsewhere, by any method, as a labeller."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor

from conf.schema import MAX_PARTS
from datasets.batch import EvalBatch, to_device
from datasets.files import read_label_map, read_labels
from datasets.masks import void_of
from datasets.sample import VOID, Sample
from evaluation.labellers.base import Labeller
from evaluation.options import Sets
from utils.console import stderr
from utils.errors import UserError

# Softmax takes scores this much smaller than the largest to 0, to the last bit; the second is still above the first.
_NEVER, _HARDLY = -1e4, -2e2

RESIZE = "Resize the label map to its picture's size, by the nearest pixel: means of labels are other labels."


class LabelMaps(Labeller):
    """A directory of label maps: ``NAME.png`` for a sample's name, at its picture's own size.

    Labels 1..K are parts. Whether 0 is background is declared. If it is, the masks of the evaluation play no role, and
    where figures are over parts alone a pixel of background counts as of one part more: nothing else is known of it.
    If it is not, every pixel has a part, and background comes from the masks. No figure is of void pixels.

    Args:
        directory: holds the maps, PNG with one channel or a palette.
        num_parts: K; ``largest_label`` from here on, since background may be one part more.
        has_background: 0 is background.
        ignore_label: of void pixels; None: there are none.
    """

    title = "label maps"
    is_graded = False
    largest_label: int = 0

    def __init__(self, directory: Path, num_parts: int, has_background: bool, ignore_label: int | None = None) -> None:
        self.directory, self.ignore_label = directory, ignore_label
        self.largest_label = num_parts
        self.num_parts = num_parts + has_background
        self.has_background = has_background

    def label_map(self, sample: Sample) -> np.ndarray:
        """The map (H, W) uint8 of a sample, 255 where it is void.

        Raises:
            UserError: it is missing, broken, of another size than its picture, or has a label that is none.
        """
        path = self.directory / f"{sample.name}.png"
        labels = read_label_map(path, sample.path, sample.image, RESIZE)
        smallest = 0 if self.has_background else 1
        void = void_of(labels, self.ignore_label)
        known = labels if void is None else labels[~void]
        if known.size and (known.min() < smallest or known.max() > self.largest_label):
            raise UserError(
                f"{path} has labels from {known.min()} to {known.max()}: they must be from {smallest} to "
                f"{self.largest_label}; see predictions_num_parts and predictions_background in conf/evaluate.yaml."
            )
        return (labels if void is None else np.where(void, VOID, labels)).astype(np.uint8)

    def scores_of(self, batch: EvalBatch) -> Tensor:
        """Scores (N, K, h, w), or with a background (N, 1 + K + 1, h, w), that give ``EvalInput.predicted`` again.

        Void pixels have those of background, or the same of every part. Where a crop reaches past its picture the maps
        have 0 in any case, and so have the masks.
        """
        maps = to_device(np.stack([shown.predicted for shown in batch.inputs]), batch.images.device)
        maps = maps.where(maps != VOID, 0)
        labels = torch.arange(self.largest_label + 1, device=maps.device)[:, None, None]
        scores = torch.where(maps[:, None] == labels, 0.0, _NEVER)
        if not self.has_background:
            return scores[:, 1:]
        return torch.cat([scores, torch.full_like(scores[:, :1], _HARDLY)], dim=1)

    def centres(self, probabilities: Tensor, batch: EvalBatch, scores: Tensor) -> Tensor:
        """The parts' centres of mass, without void pixels."""
        known = probabilities if batch.counted is None else probabilities * batch.counted
        return super().centres(known, batch, scores)


def given(config: DictConfig, sets: Sets) -> LabelMaps:
    """The label maps in ``config.predictions``.

    Those of the training pictures are needed for the keypoint error alone, and may all be missing.

    Args:
        config: the whole config; without ``predictions_num_parts`` K is the largest label of all maps.
        sets: whose pictures they are of.

    Raises:
        UserError: maps are missing, cannot be read, or have no parts.
    """
    directory, num_parts = Path(config.predictions), config.predictions_num_parts
    if not directory.is_dir():
        raise UserError(f"predictions={config.predictions} is no directory.")
    paths, of_training = (
        [directory / f"{pictures.sample_name(index)}.png" for index in range(len(pictures))]
        for pictures in (sets.test, sets.fit or ())
    )
    _require(paths, "held-out", directory)
    knows_training_pictures = bool(sets.test.keypoint_names) and any(path.is_file() for path in of_training)
    if knows_training_pictures:
        if sets.on_error == "raise":
            _require(of_training, "training", directory)
        paths += [path for path in of_training if path.is_file()]
    if num_parts is None:
        shown = {"console": stderr, "transient": True, "disable": not stderr.is_terminal}
        maps = (read_labels(path) for path in track(paths, "counting parts", **shown))
        largest = [_largest(labels, sets.ignore_label) for labels in maps]
        num_parts = max(known for known, _ in largest) or max(found for _, found in largest)
        if not 1 <= num_parts <= MAX_PARTS:
            raise UserError(
                f"The largest label in {directory} is {num_parts}: parts are numbered from 1 to {MAX_PARTS} at most. "
                "Masks of 0 and 255 are no label maps."
            )
    labeller = LabelMaps(directory, num_parts, config.predictions_background, sets.ignore_label)
    labeller.knows_training_pictures = knows_training_pictures
    if sets.fit and sets.test.keypoint_names and not knows_training_pictures:
        labeller.notes = (f"{directory} has no maps of the training pictures, which the keypoint error is fitted on.",)
    return labeller


def _largest(labels: np.ndarray, ignore_label: int | None) -> tuple[int, int]:
    """The largest label that is not void, and the largest of all."""
    void = void_of(labels, ignore_label)
    return int((labels if void is None else np.where(void, 0, labels)).max()), int(labels.max())


def _require(paths: Sequence[Path], kind: str, directory: Path) -> None:
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(
            f"{len(missing):,} of {len(paths):,} {kind} pictures have no label map, for example "
            f"{', '.join(map(str, missing[:3]))}. A map is named as the sample, with its ending and .png after it. "
            f"Those of training pictures are for the keypoint error alone: all have one, or none.{_meant(directory)}"
        )


def _meant(directory: Path) -> str:
    """Where our own programs put label maps below their ``output_dir``, for a message."""
    inside = directory / "label_maps"
    return f" Did you mean predictions={inside}?" if inside.is_dir() else ""
