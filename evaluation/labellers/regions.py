"""Regions of a network that shares the whole picture out among them (Huang & Li)."""

import torch
from torch import Tensor

from datasets.batch import EvalBatch
from evaluation.labellers.segmenter import SegmenterLabeller
from evaluation.prediction import centres_of_mass


class RegionLabeller(SegmenterLabeller):
    """Parts are the regions within the mask; keypoints are regressed from the whole regions, as in the release."""

    def centres(self, probabilities: Tensor, batch: EvalBatch, scores: Tensor) -> Tensor:
        """Centres of mass (N, K, 2) of all regions on the network's own map, without a mask: x and y, pixels.

        The release counts cells from one and multiplies them by their side.
        """
        (height, width), (rows, columns) = batch.images.shape[-2:], scores.shape[-2:]
        x, y = centres_of_mass(scores.float().softmax(1)).unbind(2)
        return torch.stack([x * (width / columns), y * (height / rows)], dim=2)


of_predictor = RegionLabeller
