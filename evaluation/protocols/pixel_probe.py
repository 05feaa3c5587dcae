"""The protocol of probes: how much of the pixels' classes a frozen network's features tell to a classifier.

AC and ARL (Ouali et al., ECCV 2020) report such figures; of which features, pixels and classifiers is not known. Here
it is a 1 x 1 convolution, or two with ReLU between, on the last map before the head; how they are taught is ours.
"""

from collections.abc import Iterable
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from datasets.base import Source
from datasets.batch import EvalBatch, to_device
from datasets.sample import VOID, Sample
from evaluation.inputs import EvalInput
from evaluation.labellers.base import Labeller
from evaluation.options import EvaluationOptions
from evaluation.prediction import largest, part_probabilities, upsample
from evaluation.protocols import base
from evaluation.protocols.pixel_accuracy import require_class_map
from models.initialisation import seeded_initialisation
from utils.errors import UserError
from utils.seeding import generator
from utils.transfers import Behind

FIGURES = {"linear": "linear_accuracy", "non_linear": "nonlinear_accuracy"}


class Protocol(base.Protocol):
    """Scores classifiers at every pixel of the test crops with a class; nothing is matched, the largest score counts.

    They are taught with an even draw of the training pictures' pixels with a class. A pixel's features are the map's,
    brought up to the picture's size bilinearly. Where both splits share pictures, those that the data set holds out are
    tested and the others taught with. The network is not changed.
    """

    name = "pixel_probe"
    annotation = "class maps"
    needs_fit = True
    of_features = True

    def __init__(self, dataset: Source, labeller: Labeller, options: EvaluationOptions) -> None:
        super().__init__(dataset, labeller, options)
        self.num_classes = len(dataset.pixel_classes)
        self.right = dict.fromkeys(options.probe.kinds, 0)
        self.metric_names = tuple(FIGURES[kind] for kind in self.right)
        self.num_images = self.num_pixels = self.num_points = 0

    @classmethod
    def of(cls, dataset: Source, labeller: Labeller, options: EvaluationOptions) -> Self | None:
        """None also where no probe is asked for."""
        asked = options.probe is not None and options.probe.kinds
        return cls(dataset, labeller, options) if asked and dataset.pixel_classes and labeller.has_features else None

    def inputs(self, sample: Sample, fitted: bool = False, predicted: np.ndarray | None = None) -> list[EvalInput]:
        """The test crop; nothing of a picture that is of the other side, or has no pixel with a class.

        Raises:
            UserError: the sample has no class map, or one with labels that the data set does not name.
        """
        require_class_map(sample, self.num_classes)
        held_out = self.dataset.held_out
        if held_out is not None and fitted == (sample.name in held_out):
            return []
        shown = super().inputs(sample, fitted, predicted)
        return [of_sample for of_sample in shown if (of_sample.class_map != VOID).any()]

    def fit(self, batches: Iterable[EvalBatch]) -> None:
        """Teach the probes that are asked for.

        Raises:
            UserError: no pixel has a class.
        """
        options, seed, device = self.options.probe, self.options.seed, None
        draw = _EvenDraw(options.num_points)
        behind = Behind(lambda described, numbers, labels: draw.add(numbers, described, labels))
        for batch in batches:
            features = self.labeller.features_of(batch)
            device = features.device
            for shown, own in zip(batch.inputs, features, strict=True):
                labels = shown.class_map.ravel()
                numbers = generator(seed, "pixels of the probes", shown.place).random(len(labels))
                (places,) = np.nonzero((labels != VOID) & (numbers < draw.below))
                described = upsample(own[None], shown.class_map.shape)[0].flatten(1)[:, to_device(places, device)]
                behind.add([described.T], numbers[places], labels[places])
        behind.finish()
        if device is None:
            raise self._nothing("to teach probes with")
        points, labels = draw.found()
        self.num_points = len(labels)
        self.probes = {
            kind: taught(points, labels, self.num_classes, kind, options, seed, device) for kind in self.right
        }

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        """Count the right pixels of every probe; the probabilities are those of the last one."""
        true = batch.class_map[:, 0]
        known = true != VOID
        self.num_images += len(true)
        self.num_pixels = known.sum() + self.num_pixels
        for kind, probe in self.probes.items():
            # One by one: all the pixels of a picture have many numbers each.
            found = torch.cat([probe.of_map(own[None], true.shape[-2:]) for own in scores])
            self.right[kind] = ((largest(found) == true) & known).sum() + self.right[kind]
        return part_probabilities(found, batch.foreground)

    def metrics(self) -> dict[str, float]:
        """The share of right pixels of each probe, in percent.

        Raises:
            UserError: no pixel of the held-out pictures has a class.
        """
        if not self.num_pixels:
            raise self._nothing("to test probes on")
        return {FIGURES[kind]: 100 * int(right) / int(self.num_pixels) for kind, right in self.right.items()}

    def counts(self) -> dict[str, int]:
        """Held-out images and pixels with a class, and the training pixels that the probes were taught with."""
        return {
            "probe_images": self.num_images,
            "probe_pixels": int(self.num_pixels),
            "probe_training_pixels": self.num_points,
        }

    def _nothing(self, to_do: str) -> UserError:
        return UserError(
            f"{self.dataset.name} has no pixel with a class {to_do}: check its lists and class maps, or leave out "
            "evaluation.probe.kinds."
        )


class Probe(nn.Module):
    """Scores of classes from features, which are standardised first.

    Args:
        mean, deviation: (C,) of the features.
        num_classes: how many scores.
        hidden: channels of the layer between, before its ReLU; None: there is none.
    """

    def __init__(self, mean: Tensor, deviation: Tensor, num_classes: int, hidden: int | None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.first = nn.Linear(len(mean), hidden or num_classes)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(hidden, num_classes)) if hidden else nn.Identity()

    def forward(self, points: Tensor) -> Tensor:
        """Scores (P, classes) of points (P, C)."""
        return self.rest(self._before(points))

    def of_map(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores (N, classes, H, W), ``size`` being H and W, of the features (N, C, h, w) brought up to that size."""
        # In another order, which gives the same: the first layer is linear, and has fewer channels than the features.
        before = self._before(features.float().permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.rest(upsample(before, size).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _before(self, points: Tensor) -> Tensor:
        return self.first((points - self.mean) / self.deviation)


def taught(
    points: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    kind: str,
    options: DictConfig,
    seed: int,
    device: torch.device | str,
) -> Probe:
    """A probe that has learnt the classes of points, by cross-entropy; with a seed always the same.

    Args:
        points: (P, C) float32.
        labels: (P,) classes, 0...
        kind: ``linear`` or ``non_linear``.
        options: the node ``evaluation.probe``.
    """
    device, scaler = torch.device(device), StandardScaler().fit(points)
    # An evaluation keeps no gradients, and what is made in it cannot be trained.
    with torch.inference_mode(False), torch.enable_grad():
        statistics = (torch.from_numpy(values.astype(np.float32)) for values in (scaler.mean_, scaler.scale_))
        with seeded_initialisation(seed, f"{kind} probe"):
            probe = Probe(*statistics, num_classes, options.hidden if kind == "non_linear" else None)
        probe.to(device)
        known, true = torch.from_numpy(points).to(device), torch.from_numpy(labels.astype(np.int64)).to(device)
        optimizer = torch.optim.Adam(probe.parameters(), options.rate)
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, options.steps)
        for step in range(options.steps):
            drawn = generator(seed, f"steps of the {kind} probe", step).integers(len(labels), size=options.batch_size)
            places = to_device(drawn, device)
            optimizer.zero_grad()
            F.cross_entropy(probe(known[places]), true[places]).backward()
            optimizer.step()
            falling.step()
    return probe.eval()


class _EvenDraw:
    """Rows of a stream, each as likely as another: those with the smallest numbers, of which each has a random one.

    Args:
        limit: how many at most. Never more than twice as many, and those of one addition, are in memory.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.below = 1.0  # what has a larger number is not among them
        self._waiting: list[tuple[np.ndarray, ...]] = []

    def add(self, numbers: np.ndarray, *rows: np.ndarray) -> None:
        self._waiting.append((numbers, *rows))
        if sum(len(own) for own, *_ in self._waiting) > 2 * self.limit:
            self._keep()

    def found(self) -> list[np.ndarray]:
        """The rows, in the order of their numbers."""
        self._keep()
        return self._waiting[0][1:]

    def _keep(self) -> None:
        joined = [np.concatenate(parts) for parts in zip(*self._waiting, strict=True)]
        kept = np.argsort(joined[0])[: self.limit]
        self._waiting = [tuple(rows[kept] for rows in joined)]
        if len(kept) == self.limit:
            self.below = self._waiting[0][0][-1]
