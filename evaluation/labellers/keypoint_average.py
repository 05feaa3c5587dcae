"""The mean of the keypoints that a picture shows: what one landmark could tell at best of where an object is."""

from dataclasses import dataclass

import numpy as np
import torch
from omegaconf import DictConfig

from evaluation.inputs import EvalInput
from evaluation.labellers.known_landmark import Landmark

NEEDS_KEYPOINTS = True


@dataclass
class Options:
    """It has none."""


class KeypointAverage(Landmark):
    """The mean of the true keypoints."""

    title, baseline = "keypoint average", "keypoint_average"

    def landmark(self, shown: EvalInput) -> np.ndarray | None:
        visible = shown.keypoints[shown.keypoints[:, 2] > 0, :2]
        return visible.mean(0) if len(visible) else None


def build(options: Options, config: DictConfig, num_parts: int, device: torch.device) -> KeypointAverage:
    return KeypointAverage()
