"""AC: clusters of pixels that two orderings of one network agree on."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from conf.fields import choice, number
from datasets.batch import TrainBatch
from datasets.transforms.pixel_pair import TRANSFORMATIONS, PixelPair, PixelTransformations, pixel_pair
from losses.mutual_information import mutual_information_loss
from models.autoregressive import opposite, require_orderings
from models.initialisation import new_segmenter
from models.methods import base
from utils.errors import UserError
from utils.ranks import gathered
from utils.seeding import Randomness


@dataclass
class PairOptions:
    """Keys of ``method`` that AC and ARL share.

    Attributes:
        pairs: how the two orderings of a step are drawn from ``segmenter.orderings``: ``random``, alike or not;
            ``no_repetition``, never the same; ``hard``, an ordering and the one from the opposite corner, which for
            raster scans share no pixel but their own (ours: the paper's definition is not known).
        transformations: of the second view: ``jitter``, ``flip``, ``rotation`` (by quarter turns).
        half_window: T, pixels: places so far apart along either axis agree as well.
    """

    name: str = MISSING
    pairs: str = choice("random", "no_repetition", "hard")
    transformations: list[str] = choice(*TRANSFORMATIONS)
    half_window: int = number(low=0)


@dataclass
class Options(PairOptions):
    """Keys of the node ``method``.

    Attributes:
        shifts: ``summed``, one joint table of all displacements in the window (third party), or ``separate``, the mean
            of one loss for each (IIC).
        marginal_weight: lambda, of the entropies of the marginals.
    """

    shifts: str = choice("summed", "separate")
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
        orderings: of the pass over either.
    """

    pair: PixelPair
    orderings: tuple[int, int]


class PairMethod(base.Method):
    """What AC and ARL share: two passes of one autoregressive network, in two orderings.

    Where the data set has masks, or pixels of no class, the others alone count.

    Args:
        predictor: an autoregressive segmenter.
        options: the node ``method``.
        augmentation: the node ``augmentation``.
    """

    protocols = ("pixel_accuracy", "pixel_probe")
    needs_masks = False

    def __init__(self, predictor: nn.Module, options: DictConfig, augmentation: DictConfig) -> None:
        super().__init__()
        self.predictor, self.options, self.augmentation = predictor, options, augmentation

    @classmethod
    def not_recorded(cls, options: DictConfig) -> str | None:
        return "each has orderings of its own"

    def require_memory(self, image_size: int, device: torch.device) -> None:
        self.predictor.require_memory(image_size, device)

    def views(self, batch: TrainBatch, random: Randomness) -> Views:
        pair = pixel_pair(batch, self.augmentation, self.options.transformations, random)
        orderings = draw_orderings(self.predictor.options.orderings, self.options.pairs, random.of_step("orderings"))
        return Views(pair, orderings)

    def outputs(self, views: Views) -> tuple[Tensor, Tensor]:
        """Those of the two passes (N, C, H, W), float32, in the frame of the first view."""
        pair, (ordering, other) = views.pair, views.orderings
        # Two passes, not one of twice the batch: an ordering is of a whole pass.
        first = self.predictor(self.predictor.preprocess(pair.image, pair.infrared), ordering)
        second = self.predictor(self.predictor.preprocess(pair.other, pair.other_infrared), other)
        return first.float(), pair.undone(second.float())


class Method(PairMethod):
    """Autoregressive clustering (Ouali et al., ECCV 2020): the mutual information of both passes' clusters."""

    labeller = "pixel_clusters"
    watched = ("cluster_entropy",)

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        require_pairs(config)
        return cls(new_segmenter(config, config.num_parts), config.method, config.augmentation)

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Scalars ``information``, the loss, and ``cluster_entropy``, nats: of how much each cluster holds.

        The loss is of the whole batch, on every device.
        """
        first, second = (gathered(output.softmax(1)) for output in self.outputs(views))
        mask, options = gathered(views.pair.mask), self.options
        loss = mutual_information_loss(
            first, second, options.half_window, mask, options.shifts, options.marginal_weight
        )
        return {"information": loss, "cluster_entropy": cluster_entropy(first, mask)}


@torch.no_grad()
def cluster_entropy(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Nats, at most log K, of the shares that clusters (N, K, H, W) have of the pixels that count (N, 1, H, W)."""
    shares = (probabilities * mask).sum((0, 2, 3))
    return torch.special.entr(shares / shares.sum()).sum()


def draw_orderings(orderings: list[int], pairs: str, rng: np.random.Generator) -> tuple[int, int]:
    """Two of the orderings, which may be one twice where pairs are ``random``."""
    first, second = (orderings[place] for place in rng.integers(len(orderings), size=2).tolist())
    if pairs == "hard":
        return first, opposite(first)
    if pairs == "no_repetition":
        others = [ordering for ordering in orderings if ordering != first]
        return first, others[rng.integers(len(others))]
    return first, second


def require_window(config: DictConfig) -> None:
    """Raises UserError if places so far apart as ``method.half_window`` says are in no picture."""
    if config.method.half_window >= config.image_size:
        raise UserError(
            f"method.half_window={config.method.half_window} is past the sides of pictures of image_size="
            f"{config.image_size} pixels: give a smaller window, or larger pictures."
        )


def require_pairs(config: DictConfig) -> None:
    """Raises UserError if the segmenter of a config has no orderings, or not those that pairs are to be drawn of."""
    require_window(config)
    orderings, pairs = config.segmenter.get("orderings"), config.method.pairs
    if orderings is None:
        raise UserError(
            f"method={config.method.name} needs a network with orderings, and segmenter={config.segmenter.name} has "
            "none: give segmenter=autoregressive."
        )
    require_orderings(orderings, "segmenter.orderings")
    if pairs == "no_repetition" and len(set(orderings)) < 2:
        raise UserError(f"method.pairs={pairs} needs two segmenter.orderings or more, not {[*orderings]}.")
    if pairs == "hard" and (lonely := [ordering for ordering in orderings if opposite(ordering) not in orderings]):
        raise UserError(
            f"method.pairs=hard: segmenter.orderings={[*orderings]} has {lonely[0]} without its opposite, "
            f"{opposite(lonely[0])}: add it."
        )
