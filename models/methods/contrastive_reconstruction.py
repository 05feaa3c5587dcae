"""The paper's method: one segmenter, frozen perceptual features, four losses."""

from dataclasses import dataclass
from typing import Self

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor

from conf.fields import choice, number
from datasets.batch import TrainBatch
from datasets.transforms.lab import rgb_to_lab
from datasets.transforms.pair import JitterAndWarp, Pair, jittered_pair
from datasets.transforms.warp import warp
from losses.contrastive import contrastive_loss, descriptor_distance, draw_positives, least_batch
from losses.descriptors import part_descriptors
from losses.equivariance import equivariance_loss
from losses.feature import feature_loss
from losses.visual import visual_consistency_loss
from models.initialisation import new_perceptual_network, new_segmenter
from models.methods import base
from models.perceptual import PerceptualNetwork
from utils.ranks import gathered, num_ranks
from utils.seeding import Randomness


@dataclass
class Options:
    """Keys of the node ``method``. Where paper and release differ, conf/ has the release's, which made the numbers.

    Attributes:
        temperature: tau of the contrastive loss.
        negatives: ``all_images`` or ``other_images`` (paper).
        positives: ``uniform``, ``release`` (leaves one image out, fails for a batch of 2) or ``same_image`` (an
            ablation: the other, warped view of the anchor's own image).
        descriptors: ``contrastive``, or an ablation, in which nothing keeps parts apart: ``l2``, the distance to the
            positive of L2-normalised descriptors, or ``l2_unnormalised``, of the descriptors as they are (paper).
        equivariance: ``release`` (one way, no gradient through the warped parts) or ``paper`` (both ways).
        normalisation: ``release``, for which the weights are, or ``paper`` (all four losses are sums).
    """

    name: str = MISSING
    temperature: float = number(above=0)
    negatives: str = choice("all_images", "other_images")
    positives: str = choice("uniform", "release", "same_image")
    descriptors: str = choice("contrastive", "l2", "l2_unnormalised")
    equivariance: str = choice("release", "paper")
    normalisation: str = choice("release", "paper")


@dataclass
class LossWeights:
    """lambda_f, lambda_c, lambda_v, lambda_e of the paper's total, for the release's normalisations."""

    feature: float = number(low=0)
    contrastive: float = number(low=0)
    visual: float = number(low=0)
    equivariance: float = number(low=0)


Augmentation = JitterAndWarp


@dataclass
class Views:
    """What the losses see of one batch. N images of H x W pixels.

    Attributes:
        pair: two jitters of the crops, one of them to be warped.
        lab: (N, 3, H, W) float, the clean image in CIE Lab (D65), L in 0..100.
        positives: (images of the whole batch, K) int64, the image that each anchor's positive comes from.
    """

    pair: Pair
    lab: Tensor
    positives: Tensor


class Method(base.Method):
    """Unsupervised part discovery from contrastive reconstruction (Choudhury et al., NeurIPS 2021).

    Args:
        predictor: the segmenter that is trained.
        perceptual: the frozen network that gives the features.
        options: the node ``method``.
        augmentation: the node ``augmentation``.
    """

    def __init__(
        self, predictor: torch.nn.Module, perceptual: PerceptualNetwork, options: DictConfig, augmentation: DictConfig
    ) -> None:
        super().__init__()
        self.predictor, self.perceptual = predictor, perceptual
        self.options, self.augmentation = options, augmentation

    @classmethod
    def min_batch_size(cls, options: DictConfig) -> tuple[int, str]:
        return least_batch(options.positives), f"method.positives={options.positives}"

    @classmethod
    def not_deterministic(cls, options: DictConfig) -> str | None:
        if options.equivariance == "paper":
            return "the gradient through the warp, of method.equivariance=paper: give method.equivariance=release"
        return None

    @classmethod
    def networks(cls, options: DictConfig) -> tuple[str, ...]:
        return "segmenter", "perceptual"

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        predictor, perceptual = new_segmenter(config, config.num_parts), new_perceptual_network(config)
        return cls(predictor, perceptual, config.method, config.augmentation)

    @torch.no_grad()
    def views(self, batch: TrainBatch, random: Randomness) -> Views:
        pair = jittered_pair(batch, self.augmentation, random)
        rng = random.of_step("positives")
        num_images = num_ranks() * len(pair.image)
        return Views(
            pair,
            rgb_to_lab(pair.image),
            draw_positives(num_images, self.predictor.num_parts, rng, self.options.positives),
        )

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Scalars ``feature``, ``contrastive``, ``visual``, ``equivariance``."""
        pair, of_warped = views.pair, None
        if self.options.positives == "same_image":
            of_warped = self.perceptual(warp(pair.jittered_to_warp, pair.grid))
        return self.losses(
            view=self.predictor.preprocess(pair.jittered),
            view_to_warp=self.predictor.preprocess(pair.jittered_to_warp),
            features=self.perceptual(pair.image),
            features_of_warped_view=of_warped,
            lab=views.lab,
            foreground=pair.foreground,
            grid=pair.grid,
            positives=views.positives,
        )

    def losses(
        self,
        view: Tensor,
        view_to_warp: Tensor,
        features: list[Tensor],
        lab: Tensor,
        foreground: Tensor,
        grid: Tensor,
        positives: Tensor,
        features_of_warped_view: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """As :meth:`forward`, with the views preprocessed and features and positives (of the whole batch) given."""
        # Zeros outside the image are the mean colour only after preprocessing.
        logits, logits_of_warped_view = self.logits_of_views(view, warp(view_to_warp, grid))

        part_masks = logits.softmax(1)
        # Every image of the whole batch is compared with every other, whichever device it is on.
        descriptors, other_view = gathered(part_descriptors(part_masks, features, foreground)), None
        if features_of_warped_view is not None:
            warped_masks, warped_foreground = logits_of_warped_view.softmax(1), warp(foreground, grid)
            other_view = gathered(part_descriptors(warped_masks, features_of_warped_view, warped_foreground))
        options, norm = self.options, self.options.normalisation
        if options.descriptors == "contrastive":
            contrastive = contrastive_loss(
                descriptors, options.temperature, positives, options.negatives, other_view, norm
            )
        else:
            unit_length = options.descriptors == "l2"
            contrastive = descriptor_distance(descriptors, positives, other_view, norm, unit_length)
        # Of a sum over images the mean over devices would leave a share.
        ranks_of_sum = num_ranks() if norm == "paper" else 1
        return {
            "feature": num_ranks() * feature_loss(part_masks, features, foreground, norm),
            "contrastive": contrastive,
            "visual": ranks_of_sum * visual_consistency_loss(part_masks, lab, foreground, norm),
            "equivariance": ranks_of_sum
            * equivariance_loss(logits, logits_of_warped_view, grid, foreground, options.equivariance, norm),
        }
