"""k-means on the features of a trained network: the clusters of what has learnt none, such as ARL."""

import torch.nn.functional as F
from torch import Tensor, nn

from datasets.batch import EvalBatch
from evaluation.labellers.kmeans import KMeansLabeller, Options
from evaluation.labellers.pixel_clusters import network_features, network_scores


class FeatureClusters(KMeansLabeller):
    """Each pixel's features go to the nearest mean; k-means is fitted at each evaluation.

    Args:
        predictor: gives features (N, D, h, w), and has ``num_parts``, K, and ``clustering``, a mapping: how many pixels
            k-means sees at most (``num_points``), its ``restarts`` and ``seed``, and whether the features of a pixel
            are scaled to length 1 (``normalise``).
    """

    title = "this model"
    caption = "clusters of features"
    has_features = True

    def __init__(self, predictor: nn.Module) -> None:
        how = dict(predictor.clustering)
        seed, self.normalise = how.pop("seed"), how.pop("normalise")
        options = Options(**how, num_images=None, minibatch=None, epochs=1)
        super().__init__(options, predictor.num_parts, seed)
        self.predictor = predictor

    def describe(self, images: Tensor) -> Tensor:
        return self._features(images, None)

    def describe_batch(self, batch: EvalBatch) -> Tensor:
        return self._features(batch.images, batch.infrared)

    def _features(self, images: Tensor, infrared: Tensor | None) -> Tensor:
        features = network_scores(self.predictor, images, infrared)
        return F.normalize(features, dim=1) if self.normalise else features

    def features_of(self, batch: EvalBatch) -> Tensor:
        return network_features(self.predictor, batch)


of_predictor = FeatureClusters
