"""Doersch: features by which a place's position relative to another one is told."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from conf.fields import number, numbers
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
        measured_on: batches that the two keys below are measured on, the first of the run.
        colour_means, colour_deviations: of red, green and blue, of jittered pixels that count, in [0, 1]; null: they
            are measured where training starts, and the run's config then has them.
    """

    positions: int = number(low=8, high=9)
    measured_on: int = number(low=1)
    colour_means: list[float] | None = numbers(3, low=0, high=1)
    colour_deviations: list[float] | None = numbers(3, low=0, high=1)


@dataclass
class LossWeights:
    position: float = number(low=0)


Augmentation = context.Augmentation


class Method(context.ContextMethod):
    """Unsupervised visual representation learning by context prediction (Doersch, Gupta, Efros, ICCV 2015).

    As IIC's authors compare it. One colour of each picture is seen, so that the lens' colour fringes do not tell where
    a place is: the two others are noise N(m, (d / 100)^2), m and d the mean and deviation of the one that is left.
    Edges (``segmenter.sobel``) and infrared are of the whole picture.
    """

    @classmethod
    def num_outputs(cls, options: DictConfig) -> int:
        return options.positions

    def measure(self, batches: Callable[[int], Iterable[TrainBatch]]) -> dict[str, Any]:
        """Mean and deviation of each colour, unless they are known; see ``models.methods.base.Method.measure``.

        Raises:
            UserError: no pixel counts.
        """
        options = self.options
        if options.colour_means is not None and options.colour_deviations is not None:
            return {}
        count, total, squares = 0.0, 0.0, 0.0
        for batch in batches(options.measured_on):
            seen = pixel_pair(batch, self.augmentation, ["jitter"], Randomness(self.seed, batch.step, batch.places))
            pixels = (seen.other * seen.mask).double()
            count += float(seen.mask.sum())
            total, squares = total + pixels.sum((0, 2, 3)), squares + pixels.square().sum((0, 2, 3))
        if not count:
            raise UserError(f"method=doersch: no pixel of the first {options.measured_on} batches counts.")
        means = total / count
        deviations = (squares / count - means.square()).clamp(min=0).sqrt()
        # Three digits are more than noise asks for; a run that goes on, on another device too, reads the same.
        found = {"colour_means": means, "colour_deviations": deviations}
        rounded = {key: [round(value, 3) for value in values.tolist()] for key, values in found.items()}
        self.options.update(rounded)
        return {f"method.{key}": values for key, values in rounded.items()}

    def draw_offset(self, size: int, rng: np.random.Generator) -> tuple[int, tuple[float, float]]:
        position = int(rng.integers(self.options.positions))
        distance, angle = rng.uniform(1.5, 2) * self.options.patch_size, position * np.pi / 4
        return position, (distance * np.sin(angle), distance * np.cos(angle))

    def inputs(self, seen: PixelPair, random: Randomness) -> Tensor:
        means, deviations = np.array(self.options.colour_means), np.array(self.options.colour_deviations)
        left, noise = [], []
        for rng in random.of_each("colours"):
            left.append(int(rng.integers(3)))
            drawn = rng.standard_normal(seen.other.shape[1:], np.float32)
            noise.append(means[left[-1]] + deviations[left[-1]] / 100 * drawn)
        shown = to_device(np.stack(noise).astype(np.float32), seen.other.device)
        places = torch.arange(len(left), device=shown.device)
        shown[places, left] = seen.other[places, left]
        return self.predictor.preprocess(seen.other, seen.other_infrared, shown)

    def forward(self, views: context.Views) -> dict[str, Tensor]:
        """Scalar ``position``; it is of the whole batch, on every device."""
        scores, counts = self.scores(views)
        return {"position": position_loss(scores, views.pair.target, counts)}
