"""ULD: landmarks that move with the picture, and from which, with a few numbers each, it can be drawn again."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from conf.fields import choice, number
from datasets.batch import TrainBatch
from datasets.transforms.pair import JitterAndWarp, Pair, jittered_pair
from datasets.transforms.warp import warp
from losses.landmarks import gaussians, landmarks, soft_masks
from losses.precision import full_precision
from losses.reconstruction import perceptual_reconstruction_loss, reconstruction_loss
from losses.separation import separation_loss
from losses.uld_concentration import uld_concentration_loss
from losses.uld_equivariance import uld_equivariance_loss
from models.hourglass import Hourglass
from models.initialisation import new_perceptual_network, new_segmenter, seeded_initialisation
from models.methods import base
from models.perceptual import PerceptualNetwork
from utils.seeding import Randomness


@dataclass
class Options:
    """Keys of the node ``method``. Lengths are shares of the picture's side.

    Attributes:
        reconstruction: ``pixels`` (Zhang et al.) draws each view from its own landmarks and descriptors;
            ``perceptual`` (Jakab et al., NeurIPS 2018) draws the warped view from its landmarks and the appearance of
            the other one, and compares features of the perceptual network.
        separation_width: b of the separation loss.
        descriptor_size: channels of the descriptor network.
        descriptor_widths, decoder_widths: of these hourglasses, channels at each scale.
        decoder_deviations: of the Gaussians that the decoder sees for each landmark, of ``pixels``.
        transfer_deviation: of those of ``perceptual``.
    """

    name: str = MISSING
    reconstruction: str = choice("pixels", "perceptual")
    separation_width: float = number(above=0)
    descriptor_size: int = number(low=1)
    descriptor_widths: list[int] = number(low=1)
    decoder_widths: list[int] = number(low=1)
    decoder_deviations: list[float] = number(above=0)
    transfer_deviation: float = number(above=0)


@dataclass
class LossWeights:
    """For losses as the release normalises them: sums over pixels and landmarks, means over images."""

    reconstruction: float = number(low=0)
    concentration: float = number(low=0)
    separation: float = number(low=0)
    equivariance: float = number(low=0)


Augmentation = JitterAndWarp


class Method(base.Method):
    """Unsupervised discovery of object landmarks as structural representations (Zhang et al., CVPR 2018).

    A landmark is the mean place of a part's map; masks play no role in training. The background's channel, the first,
    takes what is no landmark's, and gets no loss.

    Args:
        predictor: the detector, a segmenter of K parts and background.
        descriptors: gives the appearance at each pixel.
        decoder: draws a picture from Gaussians at the landmarks, and the appearance.
        perceptual: what ``method.reconstruction=perceptual`` compares with; else None.
        options: the node ``method``.
        augmentation: the node ``augmentation``.
    """

    labeller = "landmarks"
    has_background = True
    needs_masks = False

    def __init__(
        self,
        predictor: nn.Module,
        descriptors: Hourglass,
        decoder: Hourglass,
        perceptual: PerceptualNetwork | None,
        options: DictConfig,
        augmentation: DictConfig,
    ) -> None:
        super().__init__()
        self.predictor, self.descriptors, self.decoder, self.perceptual = predictor, descriptors, decoder, perceptual
        self.options, self.augmentation = options, augmentation

    @classmethod
    def not_deterministic(cls, options: DictConfig) -> str | None:
        return "the places of landmarks in the warp, of the equivariance: give deterministic=false"

    @classmethod
    def networks(cls, options: DictConfig) -> tuple[str, ...]:
        return ("segmenter",) if options.reconstruction == "pixels" else ("segmenter", "perceptual")

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        options, num_parts = config.method, config.num_parts
        predictor = new_segmenter(config, num_parts, has_background=True)
        with seeded_initialisation(config.seed, "descriptors"):
            descriptors = Hourglass(3, options.descriptor_widths, options.descriptor_size)
        in_channels, perceptual = num_parts + options.descriptor_size, None
        if options.reconstruction == "pixels":
            in_channels = len(options.decoder_deviations) * (1 + num_parts + options.descriptor_size)
        else:
            perceptual = new_perceptual_network(config)
        with seeded_initialisation(config.seed, "decoder"):
            decoder = Hourglass(in_channels, options.decoder_widths, 3)
        return cls(predictor, descriptors, decoder, perceptual, options, config.augmentation)

    def views(self, batch: TrainBatch, random: Randomness) -> Pair:
        return jittered_pair(batch, self.augmentation, random)

    def forward(self, views: Pair) -> dict[str, Tensor]:
        """Scalars ``reconstruction``, ``concentration``, ``separation``, ``equivariance``.

        Both views have one jitter: the second is the first, warped. What the warp brings in from outside the picture
        is its edge.
        """
        view = views.jittered
        warped_view = warp(view, views.grid, outside="border")
        (centres, deviations), (centres_of_warped, deviations_of_warped) = map(self.landmarks, (view, warped_view))
        if self.options.reconstruction == "pixels":
            reconstruction = reconstruction_loss(self.rebuilt(view, centres, deviations), view)
        else:
            drawn = self.transferred(view, centres_of_warped)
            features = self.perceptual(warped_view)
            reconstruction = perceptual_reconstruction_loss(self.perceptual.with_gradient(drawn), features)
        return {
            "reconstruction": reconstruction,
            "concentration": uld_concentration_loss(deviations),
            "separation": separation_loss(centres, self.options.separation_width),
            "equivariance": uld_equivariance_loss(centres, centres_of_warped, views.grid),
        }

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Centres (N, K, 2) and deviations (N, K) of images (N, 3, H, W) in [0, 1]; see ``losses.landmarks``."""
        return landmarks(self.full_size_logits(self.predictor.preprocess(images)).softmax(1)[:, 1:])

    def rebuilt(self, view: Tensor, centres: Tensor, deviations: Tensor) -> Tensor:
        """A view (N, 3, H, W) from its own landmarks and descriptors, K and one of the background."""
        size = view.shape[-2:]
        # Never narrower than half a pixel: there would be nothing under it.
        deviations = deviations.clamp(min=0.5 / max(size))
        described = pooled(self.descriptors(view), soft_masks(centres, deviations, size))
        maps = [soft_masks(centres, deviation, size) for deviation in self.options.decoder_deviations]
        spread = [torch.einsum("nkhw,nkc->nchw", masks, described) for masks in maps]
        return self.decoder(torch.cat([*maps, *spread], dim=1)).float()

    def transferred(self, view: Tensor, centres: Tensor) -> Tensor:
        """A picture (N, 3, H, W) with the appearance of a view and its landmarks at other places."""
        maps = gaussians(centres, self.options.transfer_deviation, view.shape[-2:])
        return self.decoder(torch.cat([maps, self.descriptors(view)], dim=1)).float()

    def parameter_groups(self, optimizer: DictConfig) -> list[dict[str, Any]]:
        beside = [*self.descriptors.parameters(), *self.decoder.parameters()]
        return [*self.predictor.parameter_groups(optimizer.head_multiplier), {"params": beside}]


@full_precision
def pooled(features: Tensor, masks: Tensor) -> Tensor:
    """The mean (N, K, C) of features (N, C, H, W) under each of the masks (N, K, H, W), which are not empty."""
    return torch.einsum("nkhw,nchw->nkc", masks, features) / masks.sum((2, 3))[..., None]
