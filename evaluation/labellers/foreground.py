"""The foreground logit of a trained network."""

import torch
from torch import Tensor, nn

from evaluation.labellers.segmenter import SegmenterLabeller


class ForegroundLabeller(SegmenterLabeller):
    """A network's only logit after that of the background, which is 0: softmax is the logistic function.

    The object is the only part.
    """

    caption = "predicted mask"
    gives_masks = True

    def __init__(self, predictor: nn.Module) -> None:
        super().__init__(predictor)
        self.has_background = True

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        logits = super().scores(images, foreground)
        return torch.cat([torch.zeros_like(logits), logits], dim=1)


of_predictor = ForegroundLabeller
