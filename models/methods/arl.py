"""ARL: features of pixels by which a place is known again in another ordering."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from omegaconf import DictConfig
from torch import Tensor, nn

from conf.fields import number
from datasets.batch import TrainBatch
from datasets.transforms.pixel_pair import PixelTransformations
from losses.info_nce import draw_places, info_nce_loss
from models import segmenters
from models.initialisation import new_segmenter, seeded_initialisation
from models.methods import ac
from models.methods.clustered import Clustering, clustered
from utils.errors import UserError
from utils.ranks import gathered, num_ranks
from utils.seeding import Randomness


@dataclass
class Options(ac.PairOptions, Clustering):
    """Keys of the node ``method``; but for the pairs, all numbers are ours.

    Attributes:
        feature_size: numbers of a pixel's features.
        projection_size: of either view's projection, which the loss compares.
        temperature: of the cosines.
        num_places: drawn in each image: the others of the batch are the negatives.
    """

    feature_size: int = number(low=1)
    projection_size: int = number(low=1)
    temperature: float = number(above=0)
    num_places: int = number(low=1)


@dataclass
class LossWeights:
    contrastive: float = number(low=0)


Augmentation = PixelTransformations


@dataclass
class Views(ac.Views):
    """What the loss sees of one batch.

    Attributes:
        places: (images of the whole batch, num_places, 3), see ``losses.info_nce.draw_places``.
    """

    places: Tensor


class Method(ac.PairMethod):
    """Autoregressive representation learning (Ouali et al., ECCV 2020).

    The predictor's channels are features; its ``num_parts``, K, are the clusters that k-means finds in them.

    Args:
        predictor: an autoregressive segmenter.
        projections: of the first pass's features and of the second's, 1 x 1 convolutions.
        options: the node ``method``.
        augmentation: the node ``augmentation``.
    """

    labeller = "feature_clusters"

    def __init__(
        self, predictor: nn.Module, projections: nn.ModuleList, options: DictConfig, augmentation: DictConfig
    ) -> None:
        super().__init__(predictor, options, augmentation)
        self.projections = projections

    @classmethod
    def min_batch_size(cls, options: DictConfig) -> tuple[int, str]:
        return 2, "method=arl"

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        ac.require_pairs(config)
        sizes = config.method.feature_size, config.method.projection_size
        predictor = cls.new_predictor(config, config.num_parts)
        with seeded_initialisation(config.seed, "projections"):
            projections = nn.ModuleList(nn.Conv2d(*sizes, kernel_size=1) for _ in range(2))
        return cls(predictor, projections, config.method, config.augmentation)

    @classmethod
    def new_predictor(cls, config: DictConfig, num_parts: int) -> nn.Module:
        return clustered(new_segmenter(config, config.method.feature_size), config, num_parts, normalise=True)

    @classmethod
    def predictor_of(cls, config: DictConfig, state: Mapping[str, Tensor]) -> nn.Module:
        predictor = segmenters.from_state(config.segmenter, state)
        if predictor.num_parts != config.method.feature_size:
            raise UserError(
                f"it has {predictor.num_parts} channels, which is not method.feature_size={config.method.feature_size}."
            )
        return clustered(predictor, config, config.num_parts, normalise=True)

    def views(self, batch: TrainBatch, random: Randomness) -> Views:
        seen = super().views(batch, random)
        places = draw_places(num_ranks() * len(batch.image), self.options.num_places, random.of_step("places"))
        return Views(seen.pair, seen.orderings, places)

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Scalar ``contrastive``; it is of the whole batch, on every device."""
        first, second = (
            gathered(projection(output).float())
            for projection, output in zip(self.projections, self.outputs(views), strict=True)
        )
        options, mask = self.options, gathered(views.pair.mask)
        loss = info_nce_loss(first, second, views.places, options.temperature, options.half_window, mask)
        return {"contrastive": loss}
