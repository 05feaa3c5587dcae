"""What evaluation scores: anything that gives each pixel a score for each part.

A module beside this one is found by its name. One that an evaluation puts beside what it is of has ``Options`` and
``build(options, config, num_parts, device)``, where ``config`` is the whole config, which gives a labeller of
``num_parts`` parts on ``device``, and ``NEEDS_KEYPOINTS = True`` if it refuses a data set without them; one that wraps
what a method has trained has ``of_predictor(predictor)``.
"""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from torch import Tensor

from datasets.base import Source
from datasets.batch import EvalBatch
from datasets.sample import Sample
from evaluation.prediction import centres_of_mass


class Labeller:
    """Defines ``scores``, or ``scores_of`` where pictures and masks alone do not tell.

    Attributes:
        title: its column in the table.
        num_parts: K.
        has_background: its scores hold a background channel, the first; else background comes from the mask.
        caption: of what it finds, in a figure.
        gives_masks: its one part is the foreground, and so its label maps are masks.
        needs_fit: ``fit`` has to be called first.
        num_fitted: training pictures that ``fit`` is shown at most, spread evenly over the split; None: all.
        knows_training_pictures: it can score those too; else what is fitted on them is left out.
        has_features: it has ``features_of``, of which probes can be taught.
        leaves_out_absent: the keypoint error leaves out pictures in which something is nowhere; else that is put at the
            middle of the box.
        is_graded: the softmax of its scores says how certain it is; else, as of distances, it says nothing.
        notes: what a reader of its figures should know.
    """

    title: ClassVar[str]
    num_parts: int
    has_background: bool = False
    caption: ClassVar[str] = "discovered parts"
    gives_masks: ClassVar[bool] = False
    needs_fit: ClassVar[bool] = False
    num_fitted: int | None = None
    knows_training_pictures: bool = True
    has_features: ClassVar[bool] = False
    leaves_out_absent: ClassVar[bool] = False
    is_graded: ClassVar[bool] = True
    notes: tuple[str, ...] = ()

    @property
    def largest_label(self) -> int:
        """The largest that its label maps may have."""
        return self.num_parts

    def prepare(self, dataset: Source) -> None:
        """Take from the held-out split what it has to know of it, before anything is read.

        Raises:
            UserError: the data set has not what the labeller needs.
        """

    def fit(self, batches: Iterable[EvalBatch]) -> None:
        """Learn from the test crops of the training pictures.

        Raises:
            UserError: nothing can be learnt from them.
        """
        raise NotImplementedError

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        """Scores (N, K [+ 1], h', w'), softmax gives probabilities.

        Args:
            images: (N, 3, h, w) uint8, RGB.
            foreground: (N, 1, h, w) float, 1 on the object and 0 elsewhere.
        """
        raise NotImplementedError

    def scores_of(self, batch: EvalBatch) -> Tensor:
        """Scores of a batch of network inputs."""
        return self.scores(batch.images, batch.foreground)

    def features_of(self, batch: EvalBatch) -> Tensor:
        """Features (N, C, h', w') of a batch, as the network has them before what gives scores."""
        raise NotImplementedError

    def centres(self, probabilities: Tensor, batch: EvalBatch, scores: Tensor) -> Tensor:
        """Where what it has found is (N, L, 2): x and y, one-based pixels; NaN where something is nowhere.

        The centres of mass of the K parts, unless a labeller knows better.

        Args:
            probabilities: (N, K, h, w) of the parts; 0 off the object.
            batch: that they are of.
            scores: that ``scores_of`` gave of it.
        """
        return centres_of_mass(probabilities)

    def label_map(self, sample: Sample) -> np.ndarray | None:
        """A map (H, W) uint8 of the sample that was made elsewhere; None where the labeller does not read any.

        It is called where the sample is read. Protocols cut and resize it as they do the picture, which makes it
        ``EvalInput.predicted``.
        """
        return None
