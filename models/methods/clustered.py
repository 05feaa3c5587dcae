"""What methods share that learn features, in which k-means finds clusters when they are evaluated."""

from collections.abc import Mapping
from dataclasses import dataclass

from omegaconf import DictConfig
from torch import Tensor, nn

from conf.fields import number
from models import segmenters
from models.initialisation import new_segmenter
from models.methods import base
from models.segmenters import iic_features
from utils.errors import UserError


@dataclass
class Clustering:
    """Keys of ``method``: of the k-means that an evaluation fits to the features.

    Attributes:
        num_points: pixels that it sees at most.
        restarts: starts from other centres, of which the best counts.
    """

    num_points: int = number(low=1)
    restarts: int = number(low=1)


def clustered(predictor: nn.Module, config: DictConfig, num_parts: int, normalise: bool) -> nn.Module:
    """The predictor with what its labeller has to know of the clustering, which is no weight.

    Args:
        num_parts: K, the clusters.
        normalise: each pixel's features are scaled to length 1.
    """
    predictor.num_parts = num_parts
    predictor.clustering = {
        "num_points": config.method.num_points,
        "restarts": config.method.restarts,
        "seed": config.seed,
        "normalise": normalise,
    }
    return predictor


class TrunkMethod(base.Method):
    """Learns the features of the segmenter ``iic_features``, which are clustered as they are (rows of IIC's table)."""

    labeller = "feature_clusters"
    protocols = ("pixel_accuracy",)
    needs_masks = False

    @classmethod
    def new_predictor(cls, config: DictConfig, num_parts: int) -> nn.Module:
        if config.segmenter.name != "iic_features":
            raise UserError(
                f"method={config.method.name} needs segmenter=iic_features, which gives features, not "
                f"{config.segmenter.name}."
            )
        predictor = new_segmenter(config, iic_features.feature_size(config.segmenter))
        return clustered(predictor, config, num_parts, normalise=False)

    @classmethod
    def predictor_of(cls, config: DictConfig, state: Mapping[str, Tensor]) -> nn.Module:
        return clustered(segmenters.from_state(config.segmenter, state), config, config.num_parts, normalise=False)
