"""One true keypoint alone: what one part that is found without fault tells of the others."""

from dataclasses import dataclass

import numpy as np
import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor

from conf.modules import nearest
from datasets.base import Source
from datasets.batch import EvalBatch, to_device
from evaluation.inputs import EvalInput
from evaluation.labellers.known_landmark import NEVER, Landmark
from utils.errors import UserError

NEEDS_KEYPOINTS = True


@dataclass
class Options:
    """Which keypoint."""

    name: str = MISSING


class Keypoint(Landmark):
    """A keypoint against the rest: the pixel that it lies in is the first part, all others are the second.

    Background comes from the mask, as of any other labeller with parts.

    Args:
        name: of the keypoint.
    """

    baseline = "keypoint"
    num_parts = 2
    has_background = False

    def __init__(self, name: str) -> None:
        self.name = self.title = name

    def prepare(self, dataset: Source) -> None:
        """Find the keypoint among those of the data set.

        Raises:
            UserError: it has none of that name, or none at all.
        """
        super().prepare(dataset)
        if self.name not in dataset.keypoint_names:
            raise UserError(
                f"{dataset.name} has no keypoint {self.name!r}.{nearest(self.name, dataset.keypoint_names)} Give "
                f"'baselines.keypoint.name=NAME', one of: {', '.join(dataset.keypoint_names)}."
            )
        self.index = dataset.keypoint_names.index(self.name)
        self.notes = (f"Pictures that hide the {self.name} are left out of its keypoint error.",)

    def landmark(self, shown: EvalInput) -> np.ndarray | None:
        *place, visible = shown.keypoints[self.index]
        return np.array(place) if visible else None

    def scores_of(self, batch: EvalBatch) -> Tensor:
        height, width = batch.images.shape[-2:]
        first = np.full((len(batch.inputs), height, width), NEVER, np.float32)
        for scores, shown in zip(first, batch.inputs, strict=True):
            if (place := self.landmark(shown)) is not None:
                column, row = np.round(place - 0.5).astype(int).clip(0, [width - 1, height - 1])
                scores[row, column] = -NEVER
        first = to_device(first, batch.images.device)
        return torch.stack([first, torch.zeros_like(first)], dim=1)


def build(options: Options, config: DictConfig, num_parts: int, device: torch.device) -> Keypoint:
    return Keypoint(options.name)
