"""The held-out pictures of a config, ready to score a labeller: the same for ``train.py`` and ``evaluate.py``."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

import datasets
from evaluation.inputs import EvalDataset
from evaluation.labellers import LABELLERS, Labeller
from evaluation.run import Result, evaluate
from models import Segmenter, task_of


@dataclass
class HeldOut:
    """The test split, and the training split as the evaluation reads it (with the masks of the evaluation).

    Attributes:
        task: what is compared, ``"parts"`` or, where a method learns masks, ``"foreground"``. Then the masks are those
            of the training: the ones of the evaluation may be what the method is to give.
    """

    test_set: EvalDataset
    fit_set: EvalDataset | None
    config: DictConfig
    task: str = "parts"

    @classmethod
    def of(cls, config: DictConfig) -> "HeldOut":
        """Read the lists of both splits.

        Args:
            config: the whole config; ``config.method.name`` decides the task.

        Raises:
            UserError: the data set, or the masks ``dataset.eval_mask``, are not there.
        """

        def split(name: str, purpose: str) -> EvalDataset:
            return datasets.build(config.dataset_name, config.dataset, config.dataset_root, name, purpose)

        task = task_of(config.method.name)
        if task == "foreground":
            return cls(split("test", "training"), None, config, task)
        return cls(split("test", "evaluation"), split("train", "evaluation"), config, task)

    def labeller(self, segmenter: Segmenter) -> Labeller:
        """What scores a segmenter of the method."""
        return LABELLERS[self.task](segmenter)

    def evaluate(
        self,
        labeller: Labeller,
        device: torch.device,
        label_maps: Path | None = None,
        on_training_pictures: bool = True,
    ) -> Result:
        """Score a labeller; see :func:`evaluation.run.evaluate`.

        Args:
            on_training_pictures: it knows those too; else what is fitted on them is left out.
        """
        return evaluate(
            labeller,
            self.test_set,
            self.fit_set if on_training_pictures else None,
            task=self.task,
            image_size=self.config.image_size,
            size=self.config.evaluation.size,
            label_resize=self.config.evaluation.label_resize,
            batch_size=self.config.evaluation.batch_size,
            num_workers=self.config.loader.num_workers,
            device=device,
            label_maps=label_maps,
            num_pictures=self.config.evaluation.pictures,
        )
