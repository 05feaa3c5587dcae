"""The part logits of a trained network."""

from torch import Tensor, nn

from evaluation.labellers.base import Labeller
from models.inputs import of_bytes


class SegmenterLabeller(Labeller):
    """Scores with a network, on that network's device.

    The network is in eval mode while it scores and afterwards in the mode it was in.

    Args:
        predictor: has ``num_parts``, ``has_background`` (its first channel is the background), ``preprocess`` of images
            in [0, 1], and a forward that gives scores (N, K [+ 1], h', w').
    """

    title = "this model"

    def __init__(self, predictor: nn.Module) -> None:
        self.predictor = predictor
        self.num_parts = predictor.num_parts
        self.has_background = predictor.has_background

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        """As of the base class; images may be floats in [0, 1] too."""
        images = images.to(next(self.predictor.parameters()).device, non_blocking=True)
        images = images if images.is_floating_point() else of_bytes(images)
        training = self.predictor.training
        self.predictor.eval()
        try:
            return self.predictor(self.predictor.preprocess(images))
        finally:
            self.predictor.train(training)


of_predictor = SegmenterLabeller
