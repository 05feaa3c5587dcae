"""Copies between the host and a device that neither of them waits for while it has work."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


class Beside:
    """Makes what is needed next while a device computes: on CUDA it has a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def make(self, function: Callable[[], Made], tensors: Callable[[Made], Iterable[Tensor]]) -> Made:
        """What ``function`` makes, by copies that do not block; work that is queued from here on waits for it.

        Args:
            tensors: all of them in what is made.
        """
        if self._stream is None:
            return function()
        with torch.cuda.stream(self._stream):
            made = function()
        work = torch.cuda.current_stream(self._stream.device)
        work.wait_stream(self._stream)
        for tensor in tensors(made):
            tensor.record_stream(work)  # or its memory would be given to what is made next while it is read
        return made


class Behind:
    """Brings results of batches to the host, each taken there when the next batch's work is under way.

    Args:
        take: gets the arrays of one call of ``add``, and whatever else that was given; calls keep their order.
    """

    def __init__(self, take: Callable[..., None]) -> None:
        self._take = take
        self._waiting: tuple[list[Tensor], torch.cuda.Event | None, tuple[Any, ...]] | None = None

    def add(self, results: Sequence[Tensor], *given: Any) -> None:
        """Begin to bring results, and take those of the call before."""
        # To page-locked memory, which PyTorch makes by itself. MPS has no event here to wait for.
        copies = [result.to("cpu", non_blocking=result.device.type != "mps") for result in results]
        there = torch.cuda.Event(blocking=True) if results[0].is_cuda else None
        if there is not None:
            there.record(torch.cuda.current_stream(results[0].device))
        self.finish()
        self._waiting = copies, there, given

    def finish(self) -> None:
        """Take what is left."""
        if self._waiting is None:
            return
        (copies, there, given), self._waiting = self._waiting, None
        if there is not None:
            there.synchronize()
        self._take(*(copy.numpy() for copy in copies), *given)
