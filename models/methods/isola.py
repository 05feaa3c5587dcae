"""Isola: features by which it is told whether two places are adjacent."""

from dataclasses import dataclass

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from conf.fields import number
from losses.context import adjacency_loss
from models.methods import context

Options = context.ContextOptions
Augmentation = context.Augmentation


@dataclass
class LossWeights:
    adjacency: float = number(low=0)


class Method(context.ContextMethod):
    """Learning visual groups from co-occurrences in space and time (Isola, Zoran, Krishnan, Adelson, 2016).

    As IIC's authors compare it: half of the batches have adjacent places, which are the four diagonal neighbours.
    """

    @classmethod
    def num_outputs(cls, options: DictConfig) -> int:
        return 1

    def draw_offset(self, size: int, rng: np.random.Generator) -> tuple[int, tuple[float, float]]:
        patch_size = self.options.patch_size
        if rng.random() < 0.5:
            down, right = rng.choice([-patch_size, patch_size], 2)
            return 1, (down, right)
        distance, angle = rng.uniform(2 * patch_size, size), rng.uniform(0, 2 * np.pi)
        return 0, (distance * np.sin(angle), distance * np.cos(angle))

    def forward(self, views: context.Views) -> dict[str, Tensor]:
        """Scalar ``adjacency``; it is of the whole batch, on every device."""
        scores, counts = self.scores(views)
        return {"adjacency": adjacency_loss(scores[:, 0], views.pair.target == 1, counts)}
