"""Doersch: features by which a place's position relative to another one is told."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from conf.fields import number
from datasets.batch import TrainBatch, to_device
from datasets.transforms.pixel_pair import PixelPair, pixel_pair
from losses.context import position_loss
from models.methods import context
from utils.errors import UserError
from utils.seeding import Randomness


@dataclass
class Options(context.ContextOptions):
    """Keys of the node ``method``.

    Attributes:
        positions: at steps of 45 degrees, from the right, downwards: 8, or 9 as released, whose last is the first.
        measured_on: batches that mean and deviation of each colour are measured on, the first of the run.
    """

    positions: int = number(low=8, high=9)
    measured_on: int = number(low=1)


@dataclass
class LossWeights:
    position: float = number(low=0)


Augmentation = context.Augmentation


class Method(context.ContextMethod):
    """Unsupervised visual representation learning by context prediction (Doersch, Gupta, Efros, ICCV 2015).

    As IIC's authors compare it. One colour of each picture is seen, so that the lens' colour fringes do not tell where
    a place is: the two others are noise N(m, (d / 100)^2), m and d the mean and deviation of the one that is left.
    Edges (``segmenter.sobel``) and infrared are of the whole picture.

    Attributes:
        colours: (2, 3), mean and deviation of red, green and blue, of jittered pixels that count, in [0, 1]; 0 until
            they are measured.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.register_buffer("colours", torch.zeros(2, 3))

    @classmethod
    def num_outputs(cls, options: DictConfig) -> int:
        return options.positions

    def measure(self, batches: Callable[[int], Iterable[TrainBatch]]) -> dict[str, Any]:
        """Mean and deviation of each colour, unless a checkpoint had them.

        Raises:
            UserError: no pixel counts.
        """
        if self.colours.any():
            return {}
        count, total, squares = 0.0, 0.0, 0.0
        for batch in batches(self.options.measured_on):
            seen = pixel_pair(batch, self.augmentation, ["jitter"], Randomness(self.seed, batch.step, batch.places))
            pixels = (seen.other * seen.mask).double()
            count += float(seen.mask.sum())
            total, squares = total + pixels.sum((0, 2, 3)), squares + pixels.square().sum((0, 2, 3))
        if not count:
            raise UserError(f"method=doersch: no pixel of the first {self.options.measured_on} batches counts.")
        means = total / count
        self.colours.copy_(torch.stack([means, (squares / count - means.square()).clamp(min=0).sqrt()]))
        return {}

    def draw_offset(self, size: int, rng: np.random.Generator) -> tuple[int, tuple[float, float]]:
        position = int(rng.integers(self.options.positions))
        distance, angle = rng.uniform(1.5, 2) * self.options.patch_size, position * np.pi / 4
        return position, (distance * np.sin(angle), distance * np.cos(angle))

    def inputs(self, seen: PixelPair, random: Randomness) -> Tensor:
        left, noise = [], []
        for rng in random.of_each("colours"):
            left.append(int(rng.integers(3)))
            noise.append(rng.standard_normal(seen.other.shape[1:], np.float32))
        means, deviations = self.colours[:, left, None, None, None]
        shown = means + deviations / 100 * to_device(np.stack(noise), seen.other.device)
        places = torch.arange(len(left), device=shown.device)
        shown[places, left] = seen.other[places, left]
        return self.predictor.preprocess(seen.other, seen.other_infrared, shown)

    def forward(self, views: context.Views) -> dict[str, Tensor]:
        """Scalar ``position``; it is of the whole batch, on every device."""
        scores, counts = self.scores(views)
        return {"position": position_loss(scores, views.pair.target, counts)}
