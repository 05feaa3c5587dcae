"""Deep feature factorisation (Collins, Achanta and Suesstrunk, ECCV 2018, arXiv 1806.10206).

V ~ W H, V the perceptual features of all training pictures' cells, H the parts' features and W how much of each part is
in a cell. The updates, the start and the rule for stopping are the release's. Ours are, since the row of the table that
we reproduce says nothing of it: cells weighted by the mask, rows of H of length 1 before parts are compared, and held-
out pictures by fixed H.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from conf.fields import choice, number
from datasets.batch import EvalBatch
from evaluation.cells import Cells
from evaluation.factorisation import SOLVERS, activations_of, factorise, random_start
from evaluation.features import on_one_grid, perceptual_of
from evaluation.labellers.base import Labeller
from evaluation.prediction import centres_of_mass, hard
from models.perceptual import PerceptualNetwork
from utils.errors import UserError
from utils.seeding import generator


@dataclass
class Options:
    """How the factors are found."""

    solver: str = choice(*SOLVERS)
    iterations: int = number(low=1)  # the most sweeps over the training features; so many steps a held-out picture
    tolerance: float = number(low=0)  # of the starting error: less in ten sweeps ends it
    num_images: int | None = number(low=1)  # training pictures that it sees, spread evenly over the split; null: all


class DFF(Labeller):
    """Scores are activations W of factors of length 1.

    Features below 0, which networks have that do not end in a ReLU, are taken as 0; a note says how many.

    Args:
        perceptual: whose features.
        options: how the factors are found.
        num_parts: number of factors, the parts.
        seed: of the start.
    """

    title = "DFF"
    needs_fit = True
    is_graded = False

    def __init__(self, perceptual: PerceptualNetwork, options: Options, num_parts: int, seed: int) -> None:
        self.perceptual, self.options, self.num_parts, self.seed = perceptual, options, num_parts, seed
        self.num_fitted = options.num_images

    def describe(self, images: Tensor) -> Tensor:
        """Features (N, C, h', w') of images (N, 3, h, w) uint8, any of which may be below 0."""
        return on_one_grid(self.perceptual, images).float()

    def fit(self, batches: Iterable[EvalBatch]) -> None:
        """Find the factors of the training pictures' features, each cell's times its share of foreground.

        Raises:
            UserError: there are fewer foreground cells than factors, all of them are 0, or the disk is full.
        """
        below = count = 0
        with Cells() as cells:
            for batch in batches:
                described = self.describe(batch.images)
                cells.device = described.device
                share = F.interpolate(batch.foreground, size=described.shape[-2:], mode="area")[:, 0]
                found = described.permute(0, 2, 3, 1)[share > 0]
                below, count = below + (found < 0).sum(), count + found.numel()
                cells.add(found.clamp(min=0) * share[share > 0][:, None])
            if len(cells) < self.num_parts or not cells.total:
                raise UserError(
                    f"DFF needs {self.num_parts} foreground cells with features above 0, the training images have "
                    f"{len(cells) if cells.total else 0}: check the data set's masks."
                )
            self.basis = self._basis(cells)
        if below:
            self.notes = (
                f"DFF takes features below 0 as 0: {100 * int(below) / count:.0f} % of those of the perceptual network "
                "on the training pictures' foreground.",
            )

    def _basis(self, cells: Cells) -> Tensor:
        mean = cells.total / (len(cells) * cells.num_channels)
        random = generator(self.seed, "factors")
        start = random_start(mean, len(cells), cells.num_channels, self.num_parts, random)
        options = self.options
        return factorise(cells, start, options.solver, options.iterations, options.tolerance).basis

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        # Not times the mask: that only scales a cell's activations, and leaves none where an object reaches past it.
        described = self.describe(images).clamp(min=0)
        rows = described.permute(0, 2, 3, 1).flatten(0, 2)
        self.basis = self.basis.to(rows, non_blocking=True)  # once
        activations = activations_of(rows, self.basis, self.options.solver, self.options.iterations)
        return activations.unflatten(0, (len(images), *described.shape[-2:])).permute(0, 3, 1, 2)

    def centres(self, probabilities: Tensor, batch: EvalBatch, scores: Tensor) -> Tensor:
        """Of the labels: softmax of activations depends on the features' scale, the largest one does not."""
        return centres_of_mass(hard(probabilities))


def build(options: Options, config: DictConfig, num_parts: int, device: torch.device) -> DFF:
    """On the perceptual network of ``config``; UserError where its pretrained weights cannot be had."""
    return DFF(perceptual_of(config, device), options, num_parts, config.seed)
