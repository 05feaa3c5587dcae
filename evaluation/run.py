"""One pass over the images: inputs from the loader's workers, scores from the labeller, numbers from the protocols."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from datasets.batch import EvalBatch, TrainBatch, to_device
from datasets.part_views import PartViewOptions
from datasets.sample import Sample
from evaluation.foreground import ForegroundProtocol
from evaluation.inputs import EvalDataset, EvalInput, batches_of_equal_shape
from evaluation.keypoints import KeypointProtocol
from evaluation.labellers import Labeller
from evaluation.part_maps import PartMapProtocol, sample_input
from evaluation.prediction import part_probabilities, predicted_labels, upsample
from utils import workers
from utils.console import stderr
from utils.errors import UserError


@dataclass
class Example:
    """A held-out picture with what was found in it.

    Attributes:
        shown: the picture and its annotation.
        predicted: (h, w) uint8, 0 is background, 1..K are the parts.
    """

    shown: EvalInput
    predicted: np.ndarray


@dataclass
class Result:
    """What one evaluation gives.

    Attributes:
        metrics: name -> percent.
        counts: what the metrics are of: images, training_images, keypoints, part_pixels.
        notes: which metrics are left out and why.
        pictures: held-out examples, for ``evaluation.report.part_picture``.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pictures: list[Example] = field(default_factory=list)


@torch.inference_mode()
def examples(labeller: Labeller, batch: TrainBatch) -> list[Example]:
    """Training crops with what the labeller finds in them, for ``evaluation.report.part_picture``."""
    scores = labeller.scores(batch.image, batch.foreground)
    foreground = batch.foreground.to(scores.device)
    predicted = predicted_labels(scores, foreground, labeller.has_background).cpu().numpy()
    images, masks = batch.image.permute(0, 2, 3, 1).cpu().numpy(), batch.foreground[:, 0].byte().cpu().numpy()
    return [
        Example(EvalInput(name, None, image, mask, fitted=True), labels)
        for name, image, mask, labels in zip(batch.names, images, masks, predicted, strict=True)
    ]


@torch.inference_mode()
def evaluate(
    labeller: Labeller,
    test_set: EvalDataset,
    fit_set: EvalDataset | None,
    *,
    task: Literal["parts", "foreground"] = "parts",
    image_size: int,
    size: int = 256,
    label_resize: Literal["bilinear", "nearest"] = "bilinear",
    batch_size: int,
    num_workers: int,
    device: torch.device | str,
    label_maps: Path | None = None,
    num_pictures: int = 8,
    progress: bool = True,
) -> Result:
    """Score a labeller by every protocol that the data set's annotation allows.

    Each file is decoded once, in the workers, and each network input goes through the labeller once. (A labeller
    that has to be fitted reads the training crops once before.) Where the data set has part maps, FG-NMI, FG-ARI, NMI
    and ARI are over their pixels, and those over keypoints are called ``FG-NMI (keypoints)`` and so on. Where it has
    neither, the result is pictures, and a note that says so. A foreground network is compared with the masks instead.
    The figures do not depend on ``num_workers``; ``batch_size`` changes them by rounding only.

    Args:
        labeller: on ``device``; see ``evaluation.labellers``.
        test_set: the held-out split.
        fit_set: the training split with the masks of the evaluation, for the keypoint regression and for labellers
            that are fitted; None leaves the keypoint error out.
        task: what the labeller finds.
        image_size: side of the test crops, pixels (part maps; masks; what labellers are fitted on).
        size: of whole pictures, pixels; in the keypoint protocol the shorter side.
        label_resize: how part maps of whole pictures are resized; see ``datasets.part_views``.
        batch_size: the most inputs that go through the labeller at once.
        num_workers: processes that read and resize; 0 reads in this one.
        label_maps: folder for the label maps that the figures over part maps are of, as PNG.
        num_pictures: how many examples to return, spread evenly over the test set.
        progress: show a progress bar.

    Raises:
        UserError: a file cannot be read, or there is nothing to fit.
    """
    device = torch.device(device)
    protocols = {}
    if task == "foreground":
        protocols["foreground"] = ForegroundProtocol(test_set, image_size)
    if task == "parts" and test_set.part_names is not None:
        protocols["part maps"] = PartMapProtocol(
            test_set,
            labeller.num_parts,
            PartViewOptions(image_size, size, label_resize),
            has_background=labeller.has_background,
            label_maps=label_maps,
        )
    if task == "parts" and test_set.keypoint_names:
        protocols["keypoints"] = KeypointProtocol(
            len(test_set.keypoint_names), labeller.num_parts, size=size, has_background=labeller.has_background
        )
    annotated = bool(protocols)
    if not annotated:
        protocols["crops"] = _Crops(test_set, image_size, labeller.has_background)

    if hasattr(labeller, "fit"):
        if fit_set is None:
            raise UserError(f"{type(labeller).__name__} has to be fitted, but no training split was given.")
        crops = _Inputs(fit_set, {"crops": _Crops(fit_set, image_size, labeller.has_background)}, fitted=True)
        loaded = _load(crops, num_workers, "fitting", progress)
        labeller.fit(_moved(batch, device) for _, batch in batches_of_equal_shape(loaded, batch_size))

    pictured = set(np.linspace(0, len(test_set) - 1, num_pictures).round().astype(int).tolist())
    pictured_view = "box" if "keypoints" in protocols else "crop"
    if "part maps" in protocols:
        pictured_view = protocols["part maps"].shown_view
    reader = getattr(labeller, "label_map", None)
    splits = [_Inputs(test_set, protocols, fitted=False, reader=reader)]
    if not annotated:
        splits = [Subset(splits[0], sorted(pictured))]
    if fit_set is not None and "keypoints" in protocols:
        splits.append(_Inputs(fit_set, protocols, fitted=True, reader=reader))
    loaded = _load(ConcatDataset(splits), num_workers, "evaluating", progress)
    result = Result()
    for key, batch in batches_of_equal_shape(loaded, batch_size):
        batch = _moved(batch, device)
        given = () if reader is None else (to_device(np.stack([one.predicted for one in batch.inputs]), device),)
        probabilities = protocols[key].update(batch, labeller.scores(batch.images, batch.foreground, *given))
        for one, probability in zip(batch.inputs, probabilities, strict=True):
            if one.view == pictured_view and one.place in pictured:
                predicted = probability.argmax(0).to(torch.uint8).cpu().numpy()
                result.pictures.append(Example(one, predicted))
    result.pictures.sort(key=lambda example: example.shown.place)

    for key, protocol in protocols.items():
        for name, value in protocol.metrics().items():
            result.metrics[f"{name} ({key})" if name in result.metrics else name] = value
        result.counts |= protocol.counts()
        result.notes += protocol.notes
    return result


def _moved(batch: EvalBatch, device: torch.device) -> EvalBatch:
    # From page-locked memory the copy does not wait for the network's work on the last batch.
    return (batch.pin_memory() if device.type == "cuda" else batch).to(device)


@dataclass
class _Crops:
    """Test crops without anything to compare: what labellers are fitted on, and what can be seen of a bare data set."""

    dataset: EvalDataset
    image_size: int
    has_background: bool

    def inputs(self, sample: Sample, fitted: bool, predicted: np.ndarray | None = None) -> list[EvalInput]:
        crop = sample_input(self.dataset.test_crop(sample, self.image_size), "crop")
        if predicted is not None:
            crop.predicted = self.dataset.test_crop(replace(sample, part_map=predicted), self.image_size).part_map
        return [crop]

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        return part_probabilities(upsample(scores, batch.images.shape[-2:]), batch.foreground, self.has_background)

    def metrics(self) -> dict[str, float]:
        return {}

    def counts(self) -> dict[str, int]:
        return {"images": 0}

    @property
    def notes(self) -> list[str]:
        return [f"{self.dataset.name} has neither keypoints nor part maps: there is nothing to compare with."]


@dataclass
class _Inputs(Dataset):
    """Each sample of a split as the inputs of all protocols, in the worker that decodes its files."""

    dataset: EvalDataset
    protocols: dict[str, KeypointProtocol | PartMapProtocol | ForegroundProtocol | _Crops]
    fitted: bool
    reader: Callable[[Sample], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> list[tuple[str, EvalInput]]:
        sample = self.dataset[index]
        predicted = () if self.reader is None else (self.reader(sample),)
        return [
            (key, replace(one, place=index))
            for key, protocol in self.protocols.items()
            for one in protocol.inputs(sample, self.fitted, *predicted)
        ]


def _load(inputs: Dataset, num_workers: int, description: str, progress: bool) -> Iterator[tuple[str, EvalInput]]:
    loader = workers.loader(inputs, num_workers=num_workers, batch_size=None)
    shown = progress and stderr.is_terminal
    for found in track(loader, description, console=stderr, transient=True, disable=not shown):
        yield from found
