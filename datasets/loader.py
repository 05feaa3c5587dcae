"""Training crops, step by step: what a step sees depends on (seed, step) alone, not on workers or on a restart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets.base import Source
from datasets.batch import TrainBatch
from datasets.sample import Sample
from utils import workers
from utils.errors import UserError
from utils.seeding import generator

Item = tuple[int, int, int]  # index in the data set, step, place in the batch


def train_batches(
    dataset: Source,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    first_step: int,
    num_steps: int,
    num_workers: int,
    on_error: Literal["raise", "skip"] = "raise",
    rank: int = 0,
    num_ranks: int = 1,
) -> DataLoader:
    """Batches of the steps ``first_step`` .. ``num_steps - 1``.

    Each epoch goes through the data set in an order of its own; its last incomplete batch is dropped. Reading and
    cropping happen in the workers, everything else on the batch (``datasets.transforms``).

    Args:
        image_size: side of the crops, pixels.
        batch_size: of a whole step; a multiple of ``num_ranks``.
        num_workers: processes that read ahead; 0 reads in this one.
        on_error: of a picture that cannot be read. "skip" puts another one in its place, drawn for (seed, step, place
            in the batch), and says so in ``TrainBatch.skipped``.
        rank, num_ranks: which of how many equal parts of each step's batch to load, from 0.

    Returns:
        A loader of ``TrainBatch``. Iterating raises UserError, in this process, where a file cannot be read (with
        "skip": none at all), or where a worker was ended from outside.

    Raises:
        UserError: the data set is smaller than a batch.
    """
    require_batch(dataset, batch_size)
    return workers.loader(
        _Crops(dataset, image_size, seed, on_error),
        _collate,
        num_workers=num_workers,
        batch_sampler=StepSampler(len(dataset), batch_size, seed, first_step, num_steps, rank, num_ranks),
    )


def require_batch(dataset: Source, batch_size: int) -> None:
    """Raises UserError where a training set is smaller than a batch."""
    if len(dataset) < batch_size:
        raise UserError(
            f"{dataset.name} has {len(dataset)} training images, fewer than batch_size={batch_size}: "
            + (
                f"set batch_size={len(dataset)} or less, or check dataset_root."
                if len(dataset) > 1
                else "add pictures."
            )
        )


class StepSampler(Sampler[list[Item]]):
    """For each step the items of its batch, or of one of the equal parts of it."""

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        first_step: int,
        num_steps: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.steps = range(first_step, num_steps)
        part = batch_size // num_ranks
        self.places = range(rank * part, (rank + 1) * part)

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
            yield [(int(order[start + place]), step, place) for place in self.places]


@dataclass
class _Crop:
    sample: Sample
    step: int
    place: int
    skipped: list[str]


@dataclass
class _Crops(Dataset):
    dataset: Source
    size: int
    seed: int
    on_error: Literal["raise", "skip"]

    def __getitem__(self, item: Item) -> _Crop:
        _, step, place = item
        skipped = []
        for index in self._candidates(item):
            try:
                rng = generator(self.seed, "crop", step, place)
                return _Crop(self.dataset.train_crop(self.dataset[index], self.size, rng), step, place, skipped)
            except UserError as error:
                if self.on_error == "raise":
                    raise
                skipped.append(str(error))
        raise UserError(f"No training picture of {self.dataset.name} can be read. The first one: {skipped[0]}")

    def _candidates(self, item: Item) -> Iterator[int]:
        index, step, place = item
        yield index
        others = generator(self.seed, "replacement", step, place).permutation(len(self.dataset))
        yield from others[others != index].tolist()


def _collate(items: Sequence[_Crop]) -> TrainBatch:
    skipped = [message for item in items for message in item.skipped]
    return TrainBatch.collate([item.sample for item in items], items[0].step, items[0].place, skipped)
