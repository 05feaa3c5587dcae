"""The held-out pictures of a config, ready to score a labeller: the same for ``train.py`` and ``evaluate.py``."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

import datasets
from evaluation.inputs import EvalDataset
from evaluation.labellers import Labeller
from evaluation.run import Result, evaluate


@dataclass
class HeldOut:
    """The test split, and the training split as the evaluation reads it (with the masks of the evaluation)."""

    test_set: EvalDataset
    fit_set: EvalDataset
    config: DictConfig

    @classmethod
    def of(cls, config: DictConfig) -> "HeldOut":
        """Read the lists of both splits.

        Args:
            config: the whole config.

        Raises:
            UserError: the data set, or the masks ``dataset.eval_mask``, are not there.
        """

        def split(name: str) -> EvalDataset:
            return datasets.build(config.dataset_name, config.dataset, config.dataset_root, name, "evaluation")

        return cls(split("test"), split("train"), config)

    def evaluate(self, labeller: Labeller, device: torch.device, label_maps: Path | None = None) -> Result:
        """Score a labeller; see :func:`evaluation.run.evaluate`."""
        return evaluate(
            labeller,
            self.test_set,
            self.fit_set,
            image_size=self.config.image_size,
            size=self.config.evaluation.size,
            label_resize=self.config.evaluation.label_resize,
            batch_size=self.config.evaluation.batch_size,
            num_workers=self.config.loader.num_workers,
            device=device,
            label_maps=label_maps,
            num_pictures=self.config.evaluation.pictures,
        )
