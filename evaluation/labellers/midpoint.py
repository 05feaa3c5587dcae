"""The middle of the whole picture: what a picture's frame tells of an object's keypoints."""

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


class Midpoint(Landmark):
    """The middle of the picture, for the object's box it is relative to."""

    title = baseline = "midpoint"

    def landmark(self, shown: EvalInput) -> np.ndarray:
        height, width = shown.foreground.shape
        return np.array([width + 1, height + 1]) / 2


def build(options: Options, config: DictConfig, num_parts: int, device: torch.device) -> Midpoint:
    return Midpoint()
