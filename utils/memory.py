"""Memory that does not suffice: known by its error, told with numbers, met with less at once."""

import gc
import re
import sys
from collections.abc import Callable
from typing import Any

import torch

from utils.console import say
from utils.devices import memory_available
from utils.errors import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None

# What PyTorch says where it has no class of its own for it.
SIGNS = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "MPS backend out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Unable to find a valid cuDNN algorithm",  # none whose workspace fits
)


def shortage(error: BaseException, device: torch.device) -> str | None:
    """What was needed, and what there was: ``20.5 GiB in use and 2.50 GiB more asked for; the GPU has 23.6 GiB ...``.

    Returns:
        None where the error does not come from want of memory.
    """
    if (found := _out_of_memory(error)) is None:
        return None
    text = str(found)
    asked = re.search(r"ried to allocate (\d+) bytes", text) or re.search(
        r"(?:ried|nable) to allocate ([\d.]+ \w+)", text
    )
    more = f" and {_size(asked[1])} more asked for" if asked else ""
    held = re.search(r"([\d.]+ \w+) is allocated by PyTorch", text)
    used = held[1] if held else _size(peak * 2**20) if (peak := peak_memory_mb()) else "an unknown amount"
    if device.type != "cuda" or isinstance(found, MemoryError):
        left = memory_available(torch.device("cpu"))
        return f"{used} in use{more}" + (f"; the machine has {_size(left)} left" if left is not None else "")
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)  # CUDA's own is in it
    return f"{used} in use{more}; the GPU has {_size(total)}, {_size(others)} of it not this program's tensors"


def _out_of_memory(error: BaseException | None) -> BaseException | None:
    """What an error comes from, if that is want of memory; compiling wraps it in errors of its own."""
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, torch.OutOfMemoryError | MemoryError):  # the second of Python, NumPy, Pillow
            return error
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS):
            return error
        error = error.__cause__ or error.__context__
    return None


def ways_on(device: torch.device, lower: str) -> str:
    """What to give where memory does not suffice.

    Args:
        device: on which it does not.
        lower: the keys whose lower values need less.
    """
    elsewhere = "device=cpu, " if device.type != "cpu" else ""
    return f"Give precision=bf16, {elsewhere}or a lower {lower}."


def release(device: torch.device) -> None:
    """Gives back what failed work has held; to be called once its error is forgotten."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Halving:
    """How much goes through a network at once: half of it whenever memory does not suffice, which is told once.

    Args:
        most: to begin with, the value of ``evaluation.batch_size``.
        lower: the other keys whose lower values need less memory, for the message where it does not suffice for one.

    Attributes:
        most: as it is now.
    """

    def __init__(self, most: int, lower: str, device: torch.device | str) -> None:
        self.most, self._told = most, most
        self._lower, self._device = lower, torch.device(device)

    def attempt(self, action: Callable[[int], Any]) -> Any:
        """What ``action`` gives, called with how much it may do at once, and from its beginning with half of that.

        Raises:
            UserError: memory does not suffice for one.
        """
        while True:
            try:
                result = action(self.most)
            except Exception as error:
                if (lacking := shortage(error, self._device)) is None:
                    raise
            else:
                if self.most < self._told:
                    say(f"Out of memory with evaluation.batch_size={self._told}: it is {self.most} from here on.")
                    self._told = self.most
                return result
            # Here the error is forgotten, and the tensors of its frames with it.
            release(self._device)
            if self.most == 1:
                advice = ways_on(self._device, self._lower)
                raise UserError(f"Out of memory with evaluation.batch_size=1: {lacking}. {advice}")
            self.most //= 2


def peak_memory_mb() -> float:
    """The most memory in use so far, in MiB: PyTorch's on the CUDA device if one is used, else this process's.

    0 on Windows, which does not tell it.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    if resource is None:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _size(size: str | float) -> str:
    """Of bytes, or of a text that says it in a unit already."""
    return size if isinstance(size, str) and not size.isdigit() else f"{float(size) / 2**30:.2f} GiB"
