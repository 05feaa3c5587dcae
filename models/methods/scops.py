"""SCOPS: parts and a background, whose product with a learned basis rebuilds the features of the foreground."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from conf.fields import number
from datasets.batch import TrainBatch
from datasets.transforms.pair import JitterAndWarp, Pair, jittered_pair
from datasets.transforms.warp import warp
from losses.concentration import concentration_loss
from losses.landmark_equivariance import landmark_equivariance_loss
from losses.orthonormality import orthonormality_loss
from losses.scops_equivariance import scops_equivariance_loss
from losses.semantic_consistency import semantic_consistency_loss
from models.initialisation import new_perceptual_network, new_segmenter, seeded_initialisation
from models.methods import base
from models.perceptual import PerceptualNetwork
from utils.ranks import num_ranks
from utils.seeding import Randomness


@dataclass
class Options:
    """Keys of the node ``method``.

    Attributes:
        basis_rate: learning rate of the basis, constant.
    """

    name: str = MISSING
    basis_rate: float = number(above=0)


@dataclass
class LossWeights:
    """For losses as the release normalises them: another batch size changes the weight of ``concentration`` too."""

    concentration: float = number(low=0)
    equivariance: float = number(low=0)
    landmarks: float = number(low=0)
    semantic: float = number(low=0)
    orthonormal: float = number(low=0)


Augmentation = JitterAndWarp


class Method(base.Method):
    """Self-supervised co-part segmentation (Hung et al., CVPR 2019; numbers and details from its release).

    The segmenter has a channel for the background, the first, which gets no loss of its own: where the foreground is 0
    there is nothing to rebuild, so that no part may be there. The basis is clipped apart from the network and keeps its
    rate; under SGD that is the release's pair of optimisers.

    Args:
        predictor: the segmenter that is trained, K parts and background.
        perceptual: the frozen network that gives the features.
        basis: (K, C) new values, C the channels of all features.
        options: the node ``method``.
        augmentation: the node ``augmentation``.
    """

    has_background = True

    def __init__(
        self,
        predictor: nn.Module,
        perceptual: PerceptualNetwork,
        basis: Tensor,
        options: DictConfig,
        augmentation: DictConfig,
    ) -> None:
        super().__init__()
        self.predictor, self.perceptual = predictor, perceptual
        self.basis = nn.Parameter(basis)
        self.options, self.augmentation = options, augmentation

    @classmethod
    def not_deterministic(cls, options: DictConfig) -> str | None:
        return "the gradient through the warp, of the landmarks' equivariance: give deterministic=false"

    @classmethod
    def networks(cls, options: DictConfig) -> tuple[str, ...]:
        return "segmenter", "perceptual"

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        predictor = new_segmenter(config, config.num_parts, has_background=True)
        perceptual = new_perceptual_network(config)
        channels = sum(
            features.shape[1] for features in perceptual(torch.zeros(1, 3, config.image_size, config.image_size))
        )
        with seeded_initialisation(config.seed, "basis"):
            basis = torch.randn(config.num_parts, channels).abs()
        return cls(predictor, perceptual, basis, config.method, config.augmentation)

    def views(self, batch: TrainBatch, random: Randomness) -> Pair:
        return jittered_pair(batch, self.augmentation, random)

    def forward(self, views: Pair) -> dict[str, Tensor]:
        """Scalars ``concentration``, ``equivariance``, ``landmarks``, ``semantic``, ``orthonormal``."""
        return self.losses(
            view=self.predictor.preprocess(views.image),
            view_to_warp=self.predictor.preprocess(views.jittered_to_warp),
            features=self.perceptual(views.image),
            foreground=views.foreground,
            grid=views.grid,
        )

    def losses(
        self, view: Tensor, view_to_warp: Tensor, features: list[Tensor], foreground: Tensor, grid: Tensor
    ) -> dict[str, Tensor]:
        """As :meth:`forward`, with the views preprocessed and the features given."""
        logits, logits_of_warped_view = self.logits_of_views(view, warp(view_to_warp, grid))
        # Outside the picture the warped logits are 0: there every channel is as probable, and that counts (release).
        warped_logits = warp(logits, grid)
        part_masks, warped_masks, masks_of_warped_view = (
            channels.softmax(1)[:, 1:] for channels in (logits, warped_logits, logits_of_warped_view)
        )
        return {
            # Divided by the number of images twice: of a share of the batch it is too large by the number of shares.
            "concentration": concentration_loss(part_masks) / num_ranks(),
            "equivariance": scops_equivariance_loss(warped_logits, logits_of_warped_view),
            "landmarks": landmark_equivariance_loss(masks_of_warped_view, warped_masks),
            "semantic": semantic_consistency_loss(part_masks, features, foreground, self.basis),
            "orthonormal": orthonormality_loss(self.basis),
        }

    def parameter_groups(self, optimizer: DictConfig) -> list[dict[str, Any]]:
        basis = {"params": [self.basis], "constant_rate": self.options.basis_rate, "clip": "basis"}
        return [*self.predictor.parameter_groups(optimizer.head_multiplier), basis]
