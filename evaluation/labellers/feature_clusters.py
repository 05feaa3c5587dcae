"""k-means on the features of a trained network: the clusters of what has learnt none (ARL, Ouali et al., ECCV 2020)."""

import torch.nn.functional as F
from torch import Tensor, nn

from datasets.batch import EvalBatch
from evaluation.labellers.kmeans import KMeansLabeller, Options
from evaluation.labellers.pixel_clusters import network_features, network_scores


class FeatureClusters(KMeansLabeller):
    """Each pixel's features, scaled to length 1, go to the nearest mean; k-means is fitted at each evaluation.

    Args:
        predictor: gives features (N, D, h, w), and has ``num_parts``, K, and ``clustering``, a mapping: how many pixels
            k-means sees at most (``num_points``), its ``restarts`` and ``seed``.
    """

    title = "this model"
    caption = "clusters of features"
    has_features = True

    def __init__(self, predictor: nn.Module) -> None:
        how = dict(predictor.clustering)
        seed = how.pop("seed")
        options = Options(**how, num_images=None, minibatch=None, epochs=1)
        super().__init__(options, predictor.num_parts, seed)
        self.predictor = predictor

    def describe(self, images: Tensor) -> Tensor:
        return F.normalize(network_scores(self.predictor, images, None), dim=1)

    def describe_batch(self, batch: EvalBatch) -> Tensor:
        return F.normalize(network_scores(self.predictor, batch.images, batch.infrared), dim=1)

    def features_of(self, batch: EvalBatch) -> Tensor:
        return network_features(self.predictor, batch)


of_predictor = FeatureClusters
