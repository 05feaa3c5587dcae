"""What a protocol hands to the runner: pictures at network size with their annotation, batched by shape."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from datasets.batch import EvalBatch, to_device
from datasets.masks import united, void_of
from datasets.sample import VOID, Remark, Sample
from utils.transfers import Beside

CPU = torch.device("cpu")


@dataclass
class EvalInput:
    """One picture as the network sees it, with its annotation in that picture's coordinates.

    Attributes:
        name: the sample's name within its data set.
        label: the sample's class, or None.
        image: (h, w, 3) uint8, RGB.
        foreground: (h, w) uint8, 1 on the object and 0 elsewhere.
        fitted: the sample is of the training split: what is fitted sees it, the tables do not. Set by
            the runner.
        view: which of the protocol's views of the sample this is; views are batched apart.
        keypoints: (P, 3) float, columns x, y, visible, in pixels; a point at x lies in the pixel round(x - 0.5).
        box: (x, y, width, height) float, the object's box in pixels, no larger than the picture and not left of it or
            above it; or None.
        part_map: (h, w) uint8, 0 is background, 1.. are the annotated parts, or None.
        class_map: (h, w) uint8, the true class of each pixel, 0.., 255 = void, or None.
        infrared: (h, w) uint8, the picture's fourth channel, or None.
        void: (h, w) uint8 or bool, not 0 where no figure is of the pixel; or None.
        predicted: (h, w) uint8, what a label map made elsewhere says of these pixels, 255 for void, or None.
        place: the sample's index in its split, set by the runner.
        remarks: what a log should say of the sample's files, set by the runner.
    """

    name: str
    label: int | None
    image: np.ndarray
    foreground: np.ndarray
    fitted: bool = False
    view: str = "crop"
    keypoints: np.ndarray | None = None
    box: np.ndarray | None = None
    part_map: np.ndarray | None = None
    class_map: np.ndarray | None = None
    infrared: np.ndarray | None = None
    void: np.ndarray | None = None
    predicted: np.ndarray | None = None
    place: int = 0
    remarks: tuple[Remark, ...] = ()

    @property
    def counted(self) -> np.ndarray:
        """(h, w) bool: what figures are of."""
        return np.ones(self.foreground.shape, bool) if self.void is None else self.void == 0


def prepared(
    sample: Sample, view: str, prepare: Callable[[Sample], Sample], predicted: np.ndarray | None = None
) -> EvalInput:
    """A sample as a network input of the view ``view``.

    Args:
        prepare: sample as on disk -> sample at network size.
        predicted: (H, W) uint8, a label map of the whole picture made elsewhere, which moves with it.
    """
    ready = prepare(replace(sample, predicted=predicted))
    keypoints = None if ready.keypoints is None else ready.keypoints + [0.5, 0.5, 0]
    known = {name: getattr(ready, name) for name in ("part_map", "class_map", "infrared", "predicted")}
    known |= {"keypoints": keypoints, "void": united(ready.void, void_of(ready.predicted, VOID))}
    return EvalInput(ready.name, ready.label, ready.image, ready.foreground, view=view, **known)


def batch(inputs: list[EvalInput], device: torch.device = CPU) -> EvalBatch:
    """Stack inputs of one size; the pictures stay as they lie in files, channels last, which networks take faster.

    Bytes go to the device, for which nothing waits.
    """

    def stacked(arrays: Sequence[np.ndarray | None]) -> Tensor | None:
        return None if any(array is None for array in arrays) else to_device(np.stack(arrays), device)

    def planes(maps: Sequence[np.ndarray | None]) -> Tensor | None:
        return None if (found := stacked(maps)) is None else found[:, None]

    void = any(shown.void is not None for shown in inputs)
    return EvalBatch(
        stacked([shown.image for shown in inputs]).permute(0, 3, 1, 2),
        planes([shown.foreground for shown in inputs]).float(),
        inputs,
        planes([shown.class_map for shown in inputs]),
        planes([shown.infrared for shown in inputs]),
        planes([shown.counted for shown in inputs]) if void else None,
    )


def batches_of_equal_shape(
    inputs: Iterable[tuple[Hashable, EvalInput]], batch_size: int, device: torch.device = CPU
) -> Iterator[tuple[Hashable, EvalBatch]]:
    """Gather inputs into batches that share key, view and size, on the device.

    A batch leaves as soon as it is full, what is left over leaves at the end, so that at most ``batch_size - 1``
    inputs of each size wait. The last batches may hold one input.

    Args:
        inputs: pairs of the protocol's name and one input.
        batch_size: the most inputs in one batch, >= 1.
    """
    beside, waiting = Beside(device), defaultdict(list)
    for key, shown in inputs:
        bucket = (key, shown.view, shown.image.shape)
        waiting[bucket].append(shown)
        if len(waiting[bucket]) == batch_size:
            yield key, beside.make(partial(batch, waiting.pop(bucket), device), EvalBatch.tensors)
    for (key, _, _), rest in waiting.items():
        yield key, beside.make(partial(batch, rest, device), EvalBatch.tensors)
