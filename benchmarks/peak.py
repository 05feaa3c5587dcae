"""What a piece of work needs, in a process of its own: its peak memory is not that of what ran before."""

from collections.abc import Callable
from multiprocessing import get_context
from typing import TypeVar

import torch

from utils.memory import peak_memory_mb

Result = TypeVar("Result")


def measured(
    function: Callable[..., Result], *arguments: object, first: Callable[[], object] | None = None
) -> tuple[Result, float]:
    """What ``function(*arguments)`` gives, and MiB of peak memory: of CUDA where it is used, else of the process.

    The process's is less what was there before. On Linux a process starts with the peak of the one that started it: to
    be called before that has worked itself.

    Args:
        function, arguments, first: what a new process can be sent; ``first`` is called before it is counted, for what
            is loaded at the first call.
    """
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (function, arguments, first))


def _measured(function: Callable[..., Result], arguments: tuple, first: Callable | None) -> tuple[Result, float]:
    if first:
        first()
    before = peak_memory_mb()
    result = function(*arguments)
    return result, peak_memory_mb() - (0 if torch.cuda.is_initialized() else before)
