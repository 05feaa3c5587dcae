"""A protocol that asks how much of a picture its largest part covers; its FG-ARI gives way to that of part maps."""

from collections.abc import Sequence
from functools import partial
from typing import Self

import numpy as np
from torch import Tensor

from datasets.base import Source
from datasets.batch import EvalBatch
from datasets.sample import Sample
from evaluation.inputs import EvalInput, prepared
from evaluation.labellers.base import Labeller
from evaluation.options import EvaluationOptions
from evaluation.prediction import upsample
from evaluation.protocols import base


class Protocol(base.Protocol):
    name = "coverage"
    gives_way_to = ("part_maps",)
    metric_names: Sequence[str] = ("largest part", "FG-ARI")

    def __init__(self, dataset: Source, image_size: int) -> None:
        self.dataset, self.image_size = dataset, image_size
        self.shares: list[float] = []

    @classmethod
    def of(cls, dataset: Source, labeller: Labeller, options: EvaluationOptions) -> Self:
        return cls(dataset, options.image_size)

    def inputs(self, sample: Sample, fitted: bool = False, predicted: np.ndarray | None = None) -> list[EvalInput]:
        return [prepared(sample, "crop", partial(self.dataset.test_crop, size=self.image_size), predicted)]

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        probabilities = upsample(scores, batch.images.shape[-2:]).softmax(1)
        labels = probabilities.argmax(1).flatten(1)
        self.shares += [float(picture.bincount().max()) / len(picture) for picture in labels]
        return probabilities

    def metrics(self) -> dict[str, float]:
        return {"largest part": 100 * float(np.mean(self.shares)), "FG-ARI": 0.0}

    def counts(self) -> dict[str, int]:
        return {"covered pictures": len(self.shares)}
