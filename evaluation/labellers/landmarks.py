"""Landmarks of a trained network: the mean places of its maps on the object (ULD)."""

import torch
from torch import Tensor

from datasets.batch import EvalBatch
from evaluation.labellers.segmenter import SegmenterLabeller
from evaluation.prediction import centres_of_mass, upsample


class LandmarkLabeller(SegmenterLabeller):
    """A pixel is the nearest landmark's, where the mask says that it is the object's.

    A landmark is the mean place of its map times the mask, the map being that of the softmax over the parts and the
    background. Where the mask is empty the map alone counts: something has to be the nearest.

    Args:
        predictor: a segmenter whose first channel is the background.
    """

    caption = "nearest landmarks"
    is_graded = False

    def __init__(self, predictor: torch.nn.Module) -> None:
        super().__init__(predictor)
        self.has_background = False  # that of the network takes no pixel: background comes from the mask

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        """Scores (N, K, h, w): negative squared distances, pixels, to the landmarks."""
        height, width = images.shape[-2:]
        maps = upsample(super().scores(images, foreground), (height, width)).softmax(1)[:, 1:]
        masks = foreground.to(maps.device, non_blocking=True)
        masks = torch.where(masks.sum((1, 2, 3), keepdim=True) > 0, masks, 1.0)
        mass = (maps + torch.finfo(maps.dtype).tiny) * masks
        # Sums of so many pixels are rounded, and differences of squared distances multiply that by the picture's size:
        # other programs (models/export.py) would find other probabilities. MPS has no float64.
        wide = mass.float() if mass.device.type == "mps" else mass.double()
        centres = centres_of_mass(wide).float()
        columns, rows = (
            torch.arange(1, size + 1, device=maps.device) - centres[..., axis, None]
            for axis, size in enumerate((width, height))
        )
        return -(rows.square()[..., None] + columns.square()[..., None, :])

    def centres(self, probabilities: Tensor, batch: EvalBatch, scores: Tensor) -> Tensor:
        """The landmarks (N, K, 2) again, from the scores: x and y, one-based pixels.

        Between the first and the last pixel of a row, 1 and w, -(u - c)^2 grows by 2 c (w - 1) - (w^2 - 1).
        """
        height, width = scores.shape[-2:]
        x = (scores[..., -1] - scores[..., 0]).mean(2) / (2 * (width - 1)) + (width + 1) / 2
        y = (scores[..., -1, :] - scores[..., 0, :]).mean(2) / (2 * (height - 1)) + (height + 1) / 2
        return torch.stack([x, y], dim=2)


of_predictor = LandmarkLabeller
