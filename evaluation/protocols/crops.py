"""Test crops without anything to compare: what labellers are fitted on, and what can be seen of a bare data set."""

from torch import Tensor

from datasets.batch import EvalBatch
from evaluation.prediction import part_probabilities, upsample
from evaluation.protocols import base


class Protocol(base.Protocol):
    """Shows what was found."""

    name = "crops"
    metric_names = ()

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        scores = upsample(scores, batch.images.shape[-2:])
        return part_probabilities(scores, batch.foreground, self.labeller.has_background)

    def metrics(self) -> dict[str, float]:
        return {}

    def counts(self) -> dict[str, int]:
        return {"images": 0}
