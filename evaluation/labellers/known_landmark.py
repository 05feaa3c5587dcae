"""One landmark a picture that no network finds: what the trivial rows of the table share."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from datasets.base import Source
from datasets.batch import EvalBatch, to_device
from evaluation.inputs import EvalInput
from evaluation.labellers.base import Labeller
from utils.errors import UserError

NEVER = -1e4  # softmax takes it to 0


class Landmark(Labeller):
    """Every pixel has the one label: there is a background channel, which is never found, so that no mask counts.

    Pictures without the landmark are left out of the keypoint error. Both are our reading: no code for these rows is
    released.

    Attributes:
        baseline: its name on the command line.
    """

    num_parts = 1
    has_background = True
    leaves_out_absent = True
    is_graded = False
    baseline: ClassVar[str]

    def prepare(self, dataset: Source) -> None:
        """Refuse a data set without keypoints.

        Raises:
            UserError: it is one.
        """
        if not dataset.keypoint_names:
            raise UserError(
                f"baseline=[{self.baseline}] is a row of the keypoint error, and {dataset.name} has no keypoints: "
                "leave it out."
            )

    def landmark(self, shown: EvalInput) -> np.ndarray | None:
        """Where it is (2,): x and y, in the coordinates of ``EvalInput.keypoints``; None where it is nowhere."""
        raise NotImplementedError

    def scores_of(self, batch: EvalBatch) -> Tensor:
        found = torch.zeros(len(batch.inputs), 1, 1, 1, device=batch.images.device)
        return torch.cat([found + NEVER, found], dim=1)

    def centres(self, probabilities: Tensor, batch: EvalBatch, scores: Tensor) -> Tensor:
        places = [self.landmark(shown) for shown in batch.inputs]
        found = [np.full(2, np.nan) if place is None else place for place in places]
        return to_device(np.stack(found)[:, None], probabilities.device)
