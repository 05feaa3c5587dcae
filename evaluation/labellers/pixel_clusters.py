"""Clusters of pixels that a trained network gives; it sees infrared where there is any."""

from collections.abc import Callable

from torch import Tensor, nn

from datasets.batch import EvalBatch
from evaluation.labellers.segmenter import SegmenterLabeller
from models.inputs import of_bytes


def network_scores(predictor: nn.Module, images: Tensor, infrared: Tensor | None) -> Tensor:
    """What a network in eval mode says (N, C, h, w) of images (N, 3, H, W) and infrared (N, 1, H, W), uint8."""
    return _in_eval_mode(predictor, predictor, images, infrared)


def network_features(predictor: nn.Module, batch: EvalBatch) -> Tensor:
    """The last map before the head (N, C, h, w) of a network in eval mode that has ``features``."""
    return _in_eval_mode(predictor, predictor.features, batch.images, batch.infrared)


def _in_eval_mode(
    predictor: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor, infrared: Tensor | None
) -> Tensor:
    device, training = next(predictor.parameters()).device, predictor.training
    infrared = None if infrared is None else infrared.to(device, non_blocking=True).float() / 255
    predictor.eval()
    try:
        return function(predictor.preprocess(of_bytes(images.to(device, non_blocking=True)), infrared))
    finally:
        predictor.train(training)


class PixelClusters(SegmenterLabeller):
    """Scores with a network whose ``preprocess`` takes images and infrared."""

    caption = "clusters"
    has_features = True

    def scores_of(self, batch: EvalBatch) -> Tensor:
        return network_scores(self.predictor, batch.images, batch.infrared)

    def features_of(self, batch: EvalBatch) -> Tensor:
        return network_features(self.predictor, batch)


of_predictor = PixelClusters
