"""Region grouping (Huang & Li, CVPR 2020): parts from classes alone, as the regions that tell the classes apart."""

import copy
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from omegaconf import MISSING, DictConfig
from torch import Tensor

from conf.fields import number, plain
from datasets.batch import TrainBatch
from datasets.transforms.colour import ColourJitter, draw_jitter, jitter
from losses.part_occurrence import part_occurrence_loss
from models.initialisation import new_segmenter, seeded_initialisation
from models.methods import base
from models.region_grouping import RegionClassifier
from models.segmenters import region_grouping
from utils.errors import UserError
from utils.ranks import gathered
from utils.seeding import Randomness


@dataclass
class Options:
    """Keys of the node ``method``.

    Attributes:
        num_classes: null: those of the data set, which then stand here.
        occurrence_alpha, occurrence_beta: of the Beta distribution that the parts' occurrence is to have.
        occurrence_radius: of the window that smooths the assignments, cells.
        occurrence_std: of its Gaussian, cells.
    """

    name: str = MISSING
    num_classes: int | None = number(low=1)
    occurrence_alpha: float = number(above=0)
    occurrence_beta: float = number(above=0)
    occurrence_radius: int = number(low=0)
    occurrence_std: float = number(above=0)


@dataclass
class LossWeights:
    classification: float = number(low=0)
    occurrence: float = number(low=0)


Augmentation = ColourJitter


@dataclass
class Labelled:
    """Pictures of a step.

    Attributes:
        image: (N, 3, H, W) float, RGB in [0, 1], jittered.
        classes: (N,) int64, from 0.
    """

    image: Tensor
    classes: Tensor


class Method(base.Method):
    """Trained to tell classes apart; its parts are the prototypes, of which one usually becomes the background.

    Numbers and details are those of the release. Not so the pictures: the release cuts random squares from whole
    pictures, and these are the data set's own training crops, as every method here has them.

    Args:
        predictor: the segmenter that is trained, with a region grouping for a head.
        classifier: gives scores of classes from the regions' vectors.
        options: the node ``method``.
        augmentation: the node ``augmentation``.
    """

    needs_masks: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    labeller = "regions"
    watched: ClassVar[tuple[str, ...]] = ("accuracy",)

    def __init__(
        self,
        predictor: region_grouping.Segmenter,
        classifier: RegionClassifier,
        options: DictConfig,
        augmentation: DictConfig,
    ) -> None:
        super().__init__()
        self.predictor, self.classifier = predictor, classifier
        self.options, self.augmentation = options, augmentation

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        predictor = new_segmenter(config, config.num_parts)
        if not isinstance(predictor, region_grouping.Segmenter):
            raise UserError(
                f"method={config.method.name} trains a segmenter with a region grouping: give "
                f"segmenter=region_grouping segmenter.network=NAME instead of segmenter.name={config.segmenter.name}."
            )
        _require_window(predictor, config)
        with seeded_initialisation(config.seed, "classifier"):
            classifier = RegionClassifier(predictor.backbone.channels[0], config.method.num_classes)
        return cls(predictor, classifier, config.method, config.augmentation)

    @torch.no_grad()
    def views(self, batch: TrainBatch, random: Randomness) -> Labelled:
        augmentation = plain(self.augmentation)
        draws = [draw_jitter(augmentation, rng) for rng in random.of_each("jitter")]
        # Mixed precision would leave the colours with three digits.
        with torch.autocast(batch.image.device.type, enabled=False):
            return Labelled(jitter(batch.image.float(), draws).div_(255), batch.labels - 1)

    def forward(self, views: Labelled) -> dict[str, Tensor]:
        """Scalars ``classification``, ``occurrence``; and ``accuracy`` in [0, 1] on the batch, in train mode."""
        regions, assignments = self.predictor(self.predictor.preprocess(views.image), with_regions=True)
        scores = self.classifier(regions).float()
        options = self.options
        return {
            "classification": F.cross_entropy(scores, views.classes),
            "occurrence": part_occurrence_loss(
                gathered(assignments),
                options.occurrence_alpha,
                options.occurrence_beta,
                options.occurrence_radius,
                options.occurrence_std,
            ),
            "accuracy": (scores.argmax(1) == views.classes).float().mean(),
        }

    @torch.no_grad()
    def class_scores(self, images: Tensor) -> Tensor:
        """Scores (N, classes) of RGB images (N, 3, H, W) in [0, 1]."""
        return self.classifier(self.predictor(self.predictor.preprocess(images), with_regions=True)[0])


def _require_window(predictor: region_grouping.Segmenter, config: DictConfig) -> None:
    """Raises UserError if the map of a training crop is smaller than the window of the occurrence loss."""
    probe = copy.deepcopy(predictor.backbone).to("meta").eval()  # nothing is computed
    (cells,) = probe(torch.zeros(1, 3, config.image_size, config.image_size, device="meta"))
    height, width = cells.shape[2:]
    window = 2 * config.method.occurrence_radius + 1
    if min(height, width) < window:
        raise UserError(
            f"image_size={config.image_size}: the map of {config.segmenter.network} has {height} x {width} cells, and "
            f"method.occurrence_radius={config.method.occurrence_radius} needs {window} x {window}: give a larger "
            "image_size, a smaller segmenter.output_stride, or a smaller radius."
        )
