"""Batches as dataclasses: what training and evaluation move to the device."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from torch import Tensor

from datasets.sample import Remark, Sample


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy of an array on ``device``; on CUDA it is under way when this returns, and nothing waits for it."""
    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


class _Batch:
    """Moves every tensor of a dataclass; PyTorch's loader and Lightning Fabric find these two by name."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        """The same batch with its tensors on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same batch with its tensors in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [value for spec in fields(self) if isinstance(value := getattr(self, spec.name), Tensor)]

    def _map(self, function) -> Self:
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return replace(self, **{name: function(value) for name, value in values.items() if isinstance(value, Tensor)})


@dataclass
class TrainBatch(_Batch):
    """Training crops of one step.

    Attributes:
        image: (N, 3, H, W) uint8, RGB.
        foreground: (N, 1, H, W) float32, 1 on the object and 0 elsewhere.
        names: the N samples' names.
        step: the update, from 0, that the batch is for.
        first_place: the place of the first of these crops among all of the step; other devices have others.
        skipped: what was wrong with each picture that another one stands in for.
        paths: the N pictures' files.
        labels: (N,) int64, the classes, from 1; or None where the data set has none.
        class_map: (N, 1, H, W) uint8, the true class of each pixel, 0.., 255 = void; or None where there is none.
        infrared: (N, 1, H, W) uint8, the pictures' fourth channel; or None where there is none.
        remarks: what a log should say of the pictures' files.
    """

    image: Tensor
    foreground: Tensor
    names: list[str]
    step: int
    first_place: int = 0
    skipped: list[str] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    labels: Tensor | None = None
    class_map: Tensor | None = None
    infrared: Tensor | None = None
    remarks: list[Remark] = field(default_factory=list)

    @property
    def places(self) -> range:
        """Where these crops stand among all of the step."""
        return range(self.first_place, self.first_place + len(self.image))

    @classmethod
    def collate(
        cls, samples: Sequence[Sample], step: int, first_place: int = 0, skipped: Sequence[str] = ()
    ) -> "TrainBatch":
        """Stack crops of one size."""
        image, foreground = stack(samples)
        names, paths = [sample.name for sample in samples], [sample.path for sample in samples]
        classes = [sample.label for sample in samples]
        labels = None if None in classes else torch.from_numpy(np.array(classes, np.int64))
        class_map = planes([sample.class_map for sample in samples])
        infrared = planes([sample.infrared for sample in samples])
        remarks = [remark for sample in samples for remark in sample.remarks]
        known = {"labels": labels, "class_map": class_map, "infrared": infrared, "remarks": remarks}
        return cls(image, foreground, names, step, first_place, list(skipped), paths, **known)


@dataclass
class EvalBatch(_Batch):
    """Network inputs of one size.

    Attributes:
        images: (N, 3, h, w) uint8, RGB, in any memory format.
        foreground: (N, 1, h, w) float32, 1 on the object and 0 elsewhere.
        inputs: for each of the N images what the protocol needs to score it.
        class_map: (N, 1, h, w) uint8, the true class of each pixel, 0.., 255 = void; or None where there is none.
        infrared: (N, 1, h, w) uint8, the images' fourth channel; or None where there is none.
        counted: (N, 1, h, w) bool, the pixels that figures are of; or None for all.
    """

    images: Tensor
    foreground: Tensor
    inputs: list[Any]
    class_map: Tensor | None = None
    infrared: Tensor | None = None
    counted: Tensor | None = None


def planes(maps: Sequence[np.ndarray | None]) -> Tensor | None:
    """Maps (H, W) of one size as (N, 1, H, W); None where one is missing."""
    return None if any(found is None for found in maps) else torch.from_numpy(np.stack(maps)[:, None])


def stack(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, H, W) uint8 and foreground (N, 1, H, W) float32 in [0, 1] of samples of one size."""
    image = np.empty((len(samples), 3, *samples[0].foreground.shape), np.uint8)
    for sample, planes in zip(samples, image, strict=True):
        cv2.split(sample.image, list(planes))  # into them; NumPy and PyTorch take five times as long
    foreground = np.empty((len(samples), 1, *samples[0].foreground.shape), np.float32)
    for sample, (mask,) in zip(samples, foreground, strict=True):
        mask[:] = sample.foreground if sample.saliency is None else sample.saliency / np.float32(255)
    return torch.from_numpy(image), torch.from_numpy(foreground)
