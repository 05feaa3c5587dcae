"""What the methods share that predict how two places of a picture lie; see ``models.context``."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from conf.fields import number
from datasets.batch import TrainBatch, to_device
from datasets.transforms.pixel_pair import PixelPair, PixelTransformations, pixel_pair
from models.context import ContextHead, Pair, draw_dropout, draw_pair, window
from models.initialisation import seeded_initialisation
from models.methods.clustered import Clustering, TrunkMethod
from models.segmenters.iic_features import feature_size
from utils.errors import UserError
from utils.ranks import gathered
from utils.seeding import Randomness

SEEN = ("jitter", "flip")  # what happens to each picture


@dataclass
class ContextOptions(Clustering):
    """Keys of ``method`` that Doersch's and Isola's share.

    Attributes:
        patch_size: p, side of the windows, pixels; odd.
        head_width: channels of the head's convolution.
        hidden_size: of the head's linear layer, which has 2 p^2 head_width times as many weights.
        dropout: probability, after that layer.
    """

    name: str = MISSING
    patch_size: int = number(low=1)
    head_width: int = number(low=1)
    hidden_size: int = number(low=1)
    dropout: float = number(low=0, high=0.99)


Augmentation = PixelTransformations


@dataclass
class Views:
    """What the loss sees of one batch.

    Attributes:
        inputs: (N, C, H, W), of the network: pictures jittered and mirrored.
        pair: the places of all of them.
        counts: (N,) bool, the pictures of whose two places one counts or both.
        kept: (N, hidden_size), see ``models.context.draw_dropout``.
    """

    inputs: Tensor
    pair: Pair
    counts: Tensor
    kept: Tensor


class ContextMethod(TrunkMethod):
    """A head tells from two windows of the trunk's features how they lie; the features are what is wanted.

    The pictures, and where their pixels count, are mirrored together (the release leaves the masks).

    Args:
        predictor: the segmenter ``iic_features``.
        head: trained beside it.
        options: the node ``method``.
        augmentation: the node ``augmentation``.
        seed: of the run.
    """

    def __init__(
        self, predictor: nn.Module, head: ContextHead, options: DictConfig, augmentation: DictConfig, seed: int
    ) -> None:
        super().__init__()
        self.predictor, self.head = predictor, head
        self.options, self.augmentation, self.seed = options, augmentation, seed

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        options = config.method
        if options.patch_size % 2 == 0:
            raise UserError(f"method.patch_size={options.patch_size}: a window has a middle, give an odd number.")
        if config.image_size < 4 * options.patch_size:
            raise UserError(
                f"image_size={config.image_size} has no room for pairs of windows of method.patch_size="
                f"{options.patch_size}: give image_size={4 * options.patch_size} or more, or smaller windows."
            )
        predictor = cls.new_predictor(config, config.num_parts)
        with seeded_initialisation(config.seed, "context head"):
            sizes = options.patch_size, options.head_width, options.hidden_size
            head = ContextHead(feature_size(config.segmenter), *sizes, cls.num_outputs(options))
        return cls(predictor, head, options, config.augmentation, config.seed)

    @classmethod
    def not_recorded(cls, options: DictConfig) -> str | None:
        return "each has places of its own"

    @classmethod
    def num_outputs(cls, options: DictConfig) -> int:
        """Scores of a picture."""
        raise NotImplementedError

    def draw_offset(self, size: int, rng: np.random.Generator) -> tuple[int, tuple[float, float]]:
        """The target, and how far down and to the right of the centre the other place is, in pictures of S pixels."""
        raise NotImplementedError

    def inputs(self, seen: PixelPair, random: Randomness) -> Tensor:
        """Of the network, from the pictures ``seen.other``."""
        return self.predictor.preprocess(seen.other, seen.other_infrared)

    def views(self, batch: TrainBatch, random: Randomness) -> Views:
        options, size = self.options, batch.image.shape[-1]
        seen = pixel_pair(batch, self.augmentation, SEEN, random)
        pair = draw_pair(
            size, options.patch_size, random.of_step("pair of places"), lambda rng: self.draw_offset(size, rng)
        )
        mask = seen.undone(seen.mask)[:, 0]  # mirroring undoes itself
        counts = torch.stack([mask[:, row, column] > 0.5 for row, column in (pair.centre, pair.other)]).any(0)
        draws = [draw_dropout(options.hidden_size, options.dropout, rng) for rng in random.of_each("dropout")]
        return Views(self.inputs(seen, random), pair, counts, to_device(np.stack(draws), mask.device))

    def scores(self, views: Views) -> tuple[Tensor, Tensor]:
        """The head's (N, P), and which of the pictures count (N,), of the whole batch on every device."""
        features, size = self.predictor.features(views.inputs), views.inputs.shape[-2:]
        places = views.pair.centre, views.pair.other
        windows = [window(features, size, place, self.options.patch_size) for place in places]
        return gathered(self.head(*windows, views.kept)), gathered(views.counts)
