"""Processes that read ahead, and what goes wrong in them as one message."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from utils.errors import UserError, ended_from_outside


def loader(dataset: Dataset, collate: Callable | None = None, *, num_workers: int, **options: Any) -> DataLoader:
    """A loader whose iteration raises UserError, in this process, for a worker's UserError or a worker's end.

    Args:
        dataset: what workers read; a UserError that it raises is what the user sees.
        collate: makes a batch of a list of items, in the worker; None hands items on, or lists of them, as they are.
        num_workers: processes that read ahead; 0 reads in this one.
        options: of ``torch.utils.data.DataLoader``.
    """
    return _Loader(
        _Caught(dataset),
        collate_fn=_Collate(collate),
        num_workers=num_workers,
        worker_init_fn=_start,
        pin_memory=torch.cuda.is_available(),
        **options,
    )


class _Loader(DataLoader):
    def __iter__(self) -> Iterator[Any]:
        try:
            for batch in super().__iter__():
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except RuntimeError as error:
            raise ended_from_outside(error) or error from None


@dataclass
class _Caught(Dataset):
    """Hands a UserError on as a value: raised in a worker, it would reach the user wrapped in a traceback."""

    dataset: Dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.dataset[item]
        except UserError as error:
            return error


@dataclass
class _Collate:
    collate: Callable | None

    def __call__(self, items: Any) -> Any:
        for item in items if isinstance(items, list) else ():
            if isinstance(item, UserError):
                return item
        return items if self.collate is None or isinstance(items, UserError) else self.collate(items)


def _start(_worker: int) -> None:
    # The workers are the parallelism; OpenCV's own threads would fight over the same cores.
    cv2.setNumThreads(0)
