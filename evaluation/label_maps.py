"""Label maps made elsewhere, by any method, as a labeller."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor

from datasets.files import read_label_map, read_labels
from datasets.sample import Sample
from evaluation.held_out import HeldOut
from utils.console import stderr
from utils.errors import UserError

MAX_PARTS = 254  # labels are bytes, and one more is needed

# Softmax takes scores this much smaller than the largest to 0, to the last bit; the second is still above the first.
_NEVER, _HARDLY = -1e4, -2e2


class LabelMaps:
    """A directory of label maps: ``NAME.png`` for a sample's name, at its picture's own size.

    Labels 1..K are parts. Whether 0 is background is declared. If it is, the masks of the evaluation play no role, and
    where figures are over parts alone a pixel of background counts as of one part more: nothing else is known of it.
    If it is not, every pixel has a part, and background comes from the masks.

    Args:
        directory: holds the maps, PNG with one channel or a palette.
        num_parts: K.
        has_background: 0 is background.
    """

    def __init__(self, directory: Path | str, num_parts: int, has_background: bool) -> None:
        self.directory = Path(directory)
        self.largest_label = num_parts
        self.has_background = has_background
        self.num_parts = num_parts + has_background

    def path(self, name: str) -> Path:
        """Where the map of a sample is."""
        return self.directory / f"{name}.png"

    def label_map(self, sample: Sample) -> np.ndarray:
        """The map (H, W) uint8 of a sample.

        Raises:
            UserError: it is missing, broken, of another size than its picture, or has a label that is none.
        """
        path = self.path(sample.name)
        labels = read_label_map(path, sample.path, sample.image)
        smallest = 0 if self.has_background else 1
        if labels.min() < smallest or labels.max() > self.largest_label:
            raise UserError(
                f"{path} has labels from {labels.min()} to {labels.max()}: they must be from {smallest} to "
                f"{self.largest_label}; see predictions_num_parts and predictions_background in conf/evaluate.yaml."
            )
        return labels.astype(np.uint8)

    def scores(self, images: Tensor, foreground: Tensor, label_maps: Tensor) -> Tensor:
        """Scores (N, K, h, w), or with a background (N, 1 + K + 1, h, w), that give the label maps (N, h, w) again.

        Where a crop reaches past its picture the maps have 0 in any case, and so have the masks.
        """
        labels = F.one_hot(label_maps.long(), self.largest_label + 1).permute(0, 3, 1, 2)
        scores = torch.where(labels > 0, 0.0, _NEVER)
        if not self.has_background:
            return scores[:, 1:]
        return torch.cat([scores, torch.full_like(scores[:, :1], _HARDLY)], dim=1)


def given_label_maps(config: DictConfig, held_out: HeldOut) -> tuple[LabelMaps, bool]:
    """The label maps in ``config.predictions``, and whether there are some of the training pictures too.

    Those are needed for the keypoint error alone, and may all be missing.

    Args:
        config: the whole config; without ``predictions_num_parts`` K is the largest label of all maps.

    Raises:
        UserError: maps are missing, cannot be read, or have no parts.
    """
    directory, num_parts = config.predictions, config.predictions_num_parts
    if not Path(directory).is_dir():
        raise UserError(f"predictions={directory} is no directory.")
    sets = {"held-out": held_out.test_set}
    if held_out.test_set.keypoint_names:
        sets["training"] = held_out.fit_set
    paths = {}
    for kind, dataset in sets.items():
        paths[kind] = [Path(directory, f"{dataset.sample_name(index)}.png") for index in range(len(dataset))]
        missing = [path for path in paths[kind] if not path.is_file()]
        if kind == "training" and len(missing) == len(dataset):
            paths[kind] = []
        elif missing:
            advice = "A map is named as the sample, with its ending and .png after it."
            if kind == "training":
                advice += " Those of training pictures are for the keypoint error; without any of them it is left out."
            raise UserError(
                f"{len(missing):,} of {len(dataset):,} {kind} pictures have no label map, for example "
                f"{', '.join(map(str, missing[:3]))}. {advice}"
            )
    if num_parts is None:
        num_parts = _largest_label([path for found in paths.values() for path in found])
        if not 1 <= num_parts <= MAX_PARTS:
            raise UserError(
                f"The largest label in {directory} is {num_parts}: parts are numbered from 1 to {MAX_PARTS} at most. "
                "Masks of 0 and 255 are no label maps."
            )
    return LabelMaps(directory, num_parts, config.predictions_background), bool(paths.get("training"))


def _largest_label(paths: Iterable[Path]) -> int:
    shown = {"console": stderr, "transient": True, "disable": not stderr.is_terminal}
    return max(int(read_labels(path).max()) for path in track(paths, "counting parts", **shown))
