"""Processes that read ahead, and what goes wrong in them as one message."""

import multiprocessing.queues
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from utils.errors import UserError


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
        collate_fn=partial(_collated, collate),
        num_workers=num_workers,
        worker_init_fn=_start,
        pin_memory=torch.cuda.is_available(),
        **options,
    )


class _Loader(DataLoader):
    def __iter__(self) -> Iterator[Any]:
        handler = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
        batches = super().__iter__()
        # PyTorch's own handler would raise wherever this process is, in the middle of an update too. Without it the
        # loader notices within seconds, when it waits for the worker.
        signal.signal(signal.SIGCHLD, handler)
        try:
            for batch in batches:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise UserError(
                f"A process that reads pictures was ended from outside, often for want of memory ({error}). "
                "Give a lower loader.num_workers, or 0 to read in the main process."
            ) from None
        finally:
            # Left to the garbage collector, it may come in a thread of the iterator's own and wait for itself.
            getattr(batches, "_shutdown_workers", lambda: None)()


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


def _collated(collate: Callable | None, items: Any) -> Any:
    for item in items if isinstance(items, list) else [items]:
        if isinstance(item, UserError):
            return item
    return items if collate is None else collate(items)


def _start(_worker: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach these processes too, but the main one ends them when it needs no more. To
    # one that does not end in time it sends SIGTERM itself, twice.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    # A batch that cannot be handed over, for want of shared memory, would be waited for without end.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_give_up)
    # The workers are the parallelism; OpenCV's own threads would fight over the same cores.
    cv2.setNumThreads(0)


def _give_up(error: Exception, _batch: Any) -> None:
    os.write(2, f"A process that reads pictures cannot hand them over: {error}\n".encode())
    os._exit(1)
