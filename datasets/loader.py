"""Training crops, step by step: what a step sees depends on (seed, step) alone, not on workers or on a restart."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets.batch import TrainBatch
from datasets.sample import Sample
from utils.errors import UserError
from utils.seeding import generator

Item = tuple[int, int, int]  # index in the data set, step, place in the batch


class TrainDataset(Protocol):
    """What the loader asks of a data set."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def train_crop(self, sample: Sample, size: int, rng: np.random.Generator) -> Sample: ...


def train_batches(
    dataset: TrainDataset,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    first_step: int,
    num_steps: int,
    num_workers: int,
) -> DataLoader:
    """Batches of the steps ``first_step`` .. ``num_steps - 1``.

    Each epoch goes through the data set in an order of its own; its last incomplete batch is dropped. Reading and
    cropping happen in the workers, everything else on the batch (``datasets.views``).

    Args:
        image_size: side of the crops, pixels.
        num_workers: processes that read ahead; 0 reads in this one.

    Returns:
        A loader of ``TrainBatch``. Iterating raises UserError, in this process, where a file cannot be read.

    Raises:
        UserError: the data set is smaller than a batch.
    """
    if len(dataset) < batch_size:
        raise UserError(
            f"{dataset.name} has {len(dataset)} training images, fewer than batch_size={batch_size}: "
            f"set batch_size={len(dataset)} or less, or check dataset_root."
        )
    return _Loader(
        _Crops(dataset, image_size, seed),
        batch_sampler=StepSampler(len(dataset), batch_size, seed, first_step, num_steps),
        collate_fn=_collate,
        num_workers=num_workers,
        worker_init_fn=_init_worker,
        pin_memory=torch.cuda.is_available(),
    )


class StepSampler(Sampler[list[Item]]):
    """For each step the items of its batch."""

    def __init__(self, num_samples: int, batch_size: int, seed: int, first_step: int, num_steps: int) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.steps = range(first_step, num_steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Item]]:
        steps_per_epoch = self.num_samples // self.batch_size
        epoch, order = -1, np.empty(0)
        for step in self.steps:
            if step // steps_per_epoch != epoch:
                epoch = step // steps_per_epoch
                order = generator(self.seed, "order", epoch).permutation(self.num_samples)
            start = step % steps_per_epoch * self.batch_size
            indices = order[start : start + self.batch_size].tolist()
            yield [(index, step, place) for place, index in enumerate(indices)]


class _Crops(Dataset):
    def __init__(self, dataset: TrainDataset, size: int, seed: int) -> None:
        self.dataset, self.size, self.seed = dataset, size, seed

    def __getitem__(self, item: Item) -> tuple[Sample, int] | UserError:
        index, step, place = item
        try:
            sample = self.dataset[index]
        except UserError as error:
            # Raised here, it would reach the user wrapped in the worker's traceback.
            return error
        return self.dataset.train_crop(sample, self.size, generator(self.seed, "crop", step, place)), step


def _collate(items: Sequence[tuple[Sample, int] | UserError]) -> TrainBatch | UserError:
    for item in items:
        if isinstance(item, UserError):
            return item
    samples, steps = zip(*items, strict=True)
    return TrainBatch.collate(samples, steps[0])


class _Loader(DataLoader):
    def __iter__(self) -> Iterator[TrainBatch]:
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


def _init_worker(_worker: int) -> None:
    # The workers are the parallelism; OpenCV's own threads would fight over the same cores.
    cv2.setNumThreads(0)
