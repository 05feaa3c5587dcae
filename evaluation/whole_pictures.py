"""Label maps of whole pictures, at their own size, from the scores of a labeller on square crops."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Subset

from datasets.base import Source
from datasets.batch import EvalBatch, planes, stack
from datasets.sample import Sample
from evaluation.labellers.base import Labeller
from evaluation.prediction import upsample
from utils import workers
from utils.errors import UserError
from utils.memory import Halving

# Of large pictures: the probabilities of all parts at all pixels would take gigabytes.
PIXELS_AT_ONCE = 1 << 22


@dataclass
class _Cropped:
    """A picture and its crop; a pixel's place x in the picture is ``scale * x + offset`` in the crop."""

    index: int
    sample: Sample
    crop: Sample
    scale: np.ndarray
    offset: np.ndarray


@dataclass
class Found:
    """What a labeller says of a picture, at the picture's size; where its crop does not reach there is background.

    Attributes:
        labels: (H, W) uint8, 0 is background.
        certainty: (H, W) float32, the probability of the label; where a mask says what is background, 1 there.
        inside: (H, W) bool, where the crop reaches.
        probabilities: (1 + K, H, W) float32, of the background and of each part; None where they are not asked for.
    """

    labels: np.ndarray
    certainty: np.ndarray
    inside: np.ndarray
    probabilities: np.ndarray | None = None


def label_maps(*arguments: Any, **options: Any) -> Iterator[tuple[int, Sample, np.ndarray]]:
    """As :func:`predictions`, of which it gives the label maps alone."""
    return ((index, sample, found.labels) for index, sample, found in predictions(*arguments, **options))


@torch.inference_mode()
def predictions(
    labeller: Labeller,
    dataset: Source,
    *,
    image_size: int,
    batch_size: int,
    num_workers: int,
    device: torch.device | str,
    indices: Sequence[int] | None = None,
    skipped: dict[int, str] | None = None,
    with_probabilities: bool = False,
) -> Iterator[tuple[int, Sample, Found]]:
    """Each sample's index, the sample, and what is found in it.

    The labeller sees the data set's test crop. Where that does not reach, the label is 0; a labeller without a
    background channel has it from the sample's mask.

    Args:
        labeller: on ``device``.
        image_size: side of the crops, pixels.
        batch_size: the most crops that go through the labeller at once; half of it where memory does not suffice.
        num_workers: processes that read and crop; 0 reads in this one.
        indices: of the samples, in order; None is all of them.
        skipped: is given what is wrong with each sample that cannot be read, by its index. None: the first ends it.
        with_probabilities: of every part at every pixel too, 4 (1 + K) bytes a pixel.

    Raises:
        UserError: a file cannot be read, or memory does not suffice for one crop at a time.
    """
    crops = _Crops(dataset, image_size, skip=skipped is not None)
    if indices is not None:
        crops = Subset(crops, indices)
    halving = Halving(batch_size, f"image_size ({image_size} now)", device)
    for read in workers.loader(crops, num_workers=num_workers, batch_size=batch_size):
        items = [item for item in read if isinstance(item, _Cropped)]
        if len(items) < len(read):
            skipped |= dict(item for item in read if not isinstance(item, _Cropped))
        found = halving.attempt(
            lambda most, items=items: [
                (cropped.index, cropped.sample, result)
                for start in range(0, len(items), most)
                for cropped, result in _found(
                    labeller, items[start : start + most], image_size, device, with_probabilities
                )
            ]
        )
        yield from found


def _found(
    labeller: Labeller,
    items: Sequence[_Cropped],
    image_size: int,
    device: torch.device | str,
    with_probabilities: bool,
) -> Iterator[tuple[_Cropped, Found]]:
    """What is found in some crops' pictures, which go through the labeller at once."""
    crops = [cropped.crop for cropped in items]
    batch = EvalBatch(*stack(crops), items, infrared=planes([crop.infrared for crop in crops])).to(device)
    scores = labeller.scores_of(batch)
    # As the networks are trained: the centres of the outermost cells lie on those of the outermost pixels.
    probabilities = upsample(scores, (image_size, image_size), align_corners=True).softmax(1)
    for cropped, probability in zip(items, probabilities, strict=True):
        found = _placed(probability, cropped, with_probabilities)
        yield cropped, found if labeller.has_background else _on_mask(found, cropped.sample.foreground)


@dataclass
class _Crops(Dataset):
    dataset: Source
    size: int
    skip: bool

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> _Cropped | tuple[int, str]:
        try:
            return self._cropped(index)
        except UserError as error:
            if not self.skip:
                raise
            return index, str(error)

    def _cropped(self, index: int) -> _Cropped:
        sample = self.dataset[index]
        # Keypoints follow every crop, so two of them tell where it lies.
        extent = np.array(sample.foreground.shape[::-1], float)
        corners = np.array([[0, 0, 1], [*extent, 1]])
        crop = self.dataset.test_crop(replace(sample, keypoints=corners), self.size)
        start, end = crop.keypoints[:, :2]
        return _Cropped(index, sample, crop, (end - start) / extent, start)


def _on_mask(found: Found, mask: np.ndarray) -> Found:
    """What was found where a mask (H, W) says that there is an object; the channels become those of the parts."""
    mask = mask * found.inside
    labels, certainty = (found.labels + 1) * mask, np.where(mask, found.certainty, np.float32(1))
    if found.probabilities is None:
        return Found(labels, certainty, found.inside)
    channels = np.concatenate([1 - mask[None], found.probabilities * mask], dtype=np.float32)
    return Found(labels, certainty, found.inside, channels)


def _placed(probability: Tensor, cropped: _Cropped, with_probabilities: bool) -> Found:
    """The most probable channel at each pixel of the picture of a crop's (C, S, S); 0 outside the crop."""
    # Resizing moves pixels by their centres, keypoints are multiplied alone: half a pixel's difference in scale.
    offset = cropped.offset + (cropped.scale - 1) / 2
    axes = [
        torch.from_numpy((2 * (np.arange(extent) * scale + start) + 1) / probability.shape[-1] - 1).float()
        for extent, scale, start in zip(cropped.sample.foreground.shape[::-1], cropped.scale, offset, strict=True)
    ]
    labels, certainty, inside, probabilities = [], [], [], []
    for rows in axes[1].split(max(PIXELS_AT_ONCE // len(axes[0]), 1)):
        grid = torch.stack(torch.meshgrid(axes[0], rows, indexing="xy"), dim=-1).to(probability.device)
        placed = F.grid_sample(probability[None], grid[None], align_corners=False)[0]
        largest, where = placed.max(0)
        # Outside of the crop all are 0, and at its border they have lost a part.
        total = placed.sum(0)
        labels.append(where.to(torch.uint8).cpu())
        inside.append((total > 0).cpu())
        certainty.append(torch.where(total > 0, largest / total, 1).cpu())
        if with_probabilities:
            placed[0] += total == 0
            probabilities.append((placed / placed.sum(0)).cpu())
    whole = torch.cat(probabilities, dim=1).numpy() if with_probabilities else None
    return Found(*(torch.cat(rows).numpy() for rows in (labels, certainty, inside)), whole)
