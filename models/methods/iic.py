"""IIC: clusters of pixels that stay as they are when the picture is transformed."""

from dataclasses import dataclass
from typing import Self

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from conf.fields import choice, number
from datasets.batch import TrainBatch
from datasets.transforms.pixel_pair import TRANSFORMATIONS, PixelPair, PixelTransformations, pixel_pair
from losses.mutual_information import mutual_information_loss
from models.iic import Head
from models.initialisation import new_segmenter, seeded_initialisation
from models.methods import base
from models.methods.ac import cluster_entropy, require_window
from utils.errors import UserError
from utils.ranks import gathered
from utils.seeding import Randomness


@dataclass
class Options:
    """Keys of the node ``method``.

    Attributes:
        auxiliary_clusters: of head A, which is trained beside head B and not evaluated.
        pass_steps: steps of a pass with head A, and then of one with head B: the batches of the training split.
        transformations: of the second view: ``jitter``, ``flip``, ``rotation`` (by quarter turns; ours).
        half_window: T, pixels.
        shifts: ``separate``, the mean of one loss for each displacement (published), or ``summed``, one joint table.
        auxiliary_marginal_weight, marginal_weight: lambda of head A and of head B.
    """

    name: str = MISSING
    auxiliary_clusters: int = number(low=2)
    pass_steps: int = number(low=1)
    transformations: list[str] = choice(*TRANSFORMATIONS)
    half_window: int = number(low=0)
    shifts: str = choice("summed", "separate")
    auxiliary_marginal_weight: float = number(above=0)
    marginal_weight: float = number(above=0)


@dataclass
class LossWeights:
    information: float = number(low=0)


Augmentation = PixelTransformations


@dataclass
class Views:
    """What the losses see of one batch.

    Attributes:
        pair: two views of each image.
        main: whether head B learns from it, or head A.
    """

    pair: PixelPair
    main: bool


class Method(base.Method):
    """Invariant information clustering of pixels (Ji, Henriques, Vedaldi, ICCV 2019).

    Two heads on one trunk take turns, a pass each (published). Where the data set has masks, or pixels of no class, the
    others alone count.

    Args:
        predictor: the segmenter ``iic``, trunk and head B.
        auxiliary: head A.
        options: the node ``method``.
        augmentation: the node ``augmentation``.
    """

    labeller = "pixel_clusters"
    protocols = ("pixel_accuracy", "pixel_probe")
    needs_masks = False
    watched = ("main_head", "cluster_entropy")

    def __init__(self, predictor: nn.Module, auxiliary: Head, options: DictConfig, augmentation: DictConfig) -> None:
        super().__init__()
        self.predictor, self.auxiliary = predictor, auxiliary
        self.options, self.augmentation = options, augmentation

    @classmethod
    def not_recorded(cls, options: DictConfig) -> str | None:
        return "two heads take turns"

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        if config.segmenter.name != "iic":
            raise UserError(f"method=iic needs segmenter=iic, whose trunk has two heads, not {config.segmenter.name}.")
        require_window(config)
        predictor = new_segmenter(config, config.num_parts)
        with seeded_initialisation(config.seed, "auxiliary head"):
            auxiliary = predictor.new_head(config.method.auxiliary_clusters)
        return cls(predictor, auxiliary, config.method, config.augmentation)

    def views(self, batch: TrainBatch, random: Randomness) -> Views:
        pair = pixel_pair(batch, self.augmentation, self.options.transformations, random)
        return Views(pair, main=random.step // self.options.pass_steps % 2 == 1)

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Scalars ``information``, the loss of the head whose turn it is, the mean over its sub-heads.

        And ``main_head``, 1 where that is head B and 0 where it is head A, and ``cluster_entropy``, nats, of its first
        sub-head. The loss is of the whole batch, on every device.
        """
        pair, options, predictor = views.pair, self.options, self.predictor
        head, idle = (predictor.head, self.auxiliary) if views.main else (self.auxiliary, predictor.head)
        weight = options.marginal_weight if views.main else options.auxiliary_marginal_weight
        first = predictor.probabilities(predictor.preprocess(pair.image, pair.infrared), head)
        second = predictor.probabilities(predictor.preprocess(pair.other, pair.other_infrared), head)
        second, mask = pair.undone(second.flatten(1, 2)).unflatten(1, second.shape[1:3]), gathered(pair.mask)
        of_sub_heads = [
            mutual_information_loss(
                gathered(first[:, place]), gathered(second[:, place]), options.half_window, mask, options.shifts, weight
            )
            for place in range(head.sub_heads)
        ]
        # Zeros, not nothing: the release's optimiser goes on moving a head by its momentum, and DDP asks for them.
        unused = sum(0 * parameter.sum() for parameter in idle.parameters())
        return {
            "information": torch.stack(of_sub_heads).mean() + unused,
            "main_head": torch.tensor(float(views.main), device=mask.device),
            "cluster_entropy": cluster_entropy(gathered(first[:, 0]), mask),
        }
