"""A supervised foreground network: the segmenter with a single logit, trained on the training masks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from conf.fields import number
from datasets.batch import TrainBatch
from datasets.transforms.pair import JitterAndWarp, Pair, jittered_pair
from datasets.transforms.warp import warp
from losses.foreground import foreground_loss
from models.initialisation import new_segmenter
from models.methods import base
from utils.errors import UserError
from utils.seeding import Randomness


@dataclass
class Options:
    """Keys of the node ``method``: nothing is left open."""

    name: str = MISSING


@dataclass
class LossWeights:
    foreground: float = number(low=0)


Augmentation = JitterAndWarp


class Method(base.Method):
    """Predicts the foreground mask of a picture, for data without masks at evaluation.

    The paper evaluates with masks predicted by a supervised network, which was not released.

    Args:
        predictor: the segmenter that is trained; its single logit is above 0 on the object.
        augmentation: the node ``augmentation``.
    """

    labeller = "foreground"
    protocols = ("foreground",)
    # The masks of the evaluation may be what it is to give.
    test_masks = "training"

    def __init__(self, predictor: nn.Module, augmentation: DictConfig) -> None:
        super().__init__()
        self.predictor, self.augmentation = predictor, augmentation

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        """From the whole config, of which ``num_parts`` and ``perceptual`` play no role."""
        if config.dataset.get("train_mask") == "none":
            raise UserError("method=foreground learns from masks: dataset.train_mask=none leaves it none.")
        return cls(new_segmenter(config, num_parts=1), config.augmentation)

    @classmethod
    def predictor_of(cls, config: DictConfig, state: Mapping[str, Tensor]) -> nn.Module:
        predictor = super().predictor_of(config, state)
        if predictor.num_parts != 1:
            raise UserError(f"it has {predictor.num_parts} channels: it finds parts, not the foreground alone.")
        return predictor

    def views(self, batch: TrainBatch, random: Randomness) -> Pair:
        return jittered_pair(batch, self.augmentation, random)

    def forward(self, views: Pair) -> dict[str, Tensor]:
        """Scalar ``foreground``: the mean over both views. The warped one teaches other sizes and angles."""
        warped_view = warp(self.predictor.preprocess(views.jittered_to_warp), views.grid)
        warped_foreground = warp(views.foreground, views.grid)
        logits, of_warped = self.logits_of_views(self.predictor.preprocess(views.jittered), warped_view)
        losses = foreground_loss(logits, views.foreground), foreground_loss(of_warped, warped_foreground)
        return {"foreground": sum(losses) / 2}
