"""What an evaluation reads, and how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from omegaconf import DictConfig

import datasets
from datasets.base import NoPictures, Source
from datasets.part_views import PartViewOptions
from datasets.sample import Purpose


@dataclass(frozen=True)
class Sets:
    """Both splits as an evaluation reads them.

    Attributes:
        test: the held-out split, which the figures are of.
        fit: the training split, with the masks of the evaluation: what is fitted is fitted on it. None where it has no
            picture.
        on_error: of a picture of ``fit`` that cannot be read. "skip" leaves it out.
        ignore_label: of void pixels in label maps made elsewhere; None: there are none.
    """

    test: Source
    fit: Source | None
    on_error: Literal["raise", "skip"] = "raise"
    ignore_label: int | None = None

    @classmethod
    def of(cls, config: DictConfig, test_masks: Purpose) -> Self:
        """Read the lists of both splits; whether the files of training pictures are there is not asked.

        Args:
            config: the whole config.
            test_masks: whose masks are read: of a method that gives masks those of "training", since those of
                "evaluation" may be what it is to give.

        Raises:
            UserError: the data set, or its masks, are not there.
        """
        test = datasets.build(config, "test", test_masks)
        try:
            fit = datasets.build_from_lists(config, "train", test_masks)
        except NoPictures:
            fit = None
        return cls(test, fit if fit else None, config.dataset.on_error, config.dataset.ignore_label)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(PartViewOptions):
    """How pictures are prepared and read; labellers and protocols take what concerns them.

    Attributes:
        batch_size: the most inputs that go through the labeller at once.
        num_workers: processes that read and resize; 0 reads in this one.
        num_pictures: how many examples a result has, spread evenly over the test set.
        ari_with_background: at keypoints, also FG-ARI of labels with background.
        truth_free: figures that need no truth, also where there is one.
        probe: the node ``evaluation.probe``: how probes are taught; None: there are none.
        seed: of the run; probes draw with it.
        label_maps: folder for the label maps that the figures over part maps are of, as PNG; None: they are not kept.
    """

    batch_size: int
    num_workers: int
    num_pictures: int
    ari_with_background: bool = False
    truth_free: bool = False
    probe: DictConfig | None = None
    seed: int = 0
    label_maps: Path | None = None

    @classmethod
    def of(cls, config: DictConfig) -> Self:
        """Those of a whole config."""
        return cls(
            image_size=config.image_size,
            size=config.evaluation.size,
            labels=config.evaluation.label_resize,
            batch_size=config.evaluation.batch_size,
            num_workers=config.loader.num_workers,
            num_pictures=config.evaluation.pictures,
            ari_with_background=config.evaluation.ari_with_background,
            truth_free=config.evaluation.truth_free,
            probe=config.evaluation.probe,
            seed=config.seed,
        )
