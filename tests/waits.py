"""What keeps the host waiting for a device, counted on any device."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HostCalls(TorchFunctionMode):
    """Counts the calls that on a GPU would keep the host waiting, or copy from memory that is not page-locked.

    Tensors made of Python's numbers, tensors brought to the host, copies to a device that do not say
    ``non_blocking=True``. The operators under them are seen on a GPU alone: here both ends are the same memory.
    """

    WAITING = ("cpu", "cuda", "numpy", "tolist", "item", "__array__", "__bool__", "__float__", "__int__", "__index__")
    MAKING = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        on_tensors = getattr(torch.Tensor, name, None) is func
        if func in self.MAKING or (on_tensors and name in self.WAITING):
            self.calls[name] += 1
        elif func is torch.Tensor.to:
            device, _, non_blocking, _ = torch._C._nn._parse_to(*args[1:], **kwargs)
            # PyTorch's clipping and updates name the device that their numbers are on.
            at_home = sys._getframe(1).f_code.co_filename.endswith(("clip_grad.py", "optim/sgd.py", "optim/adam.py"))
            if device is not None and not non_blocking and not at_home:
                self.calls["blocking copy"] += 1
            if device is not None and device.type == "cuda" and not (args[0].is_cuda or args[0].is_pinned()):
                self.calls["copy from pageable memory"] += 1
        return func(*args, **kwargs)


class HostWaits(TorchDispatchMode):
    """Counts the operators whose result the host has to wait for: on a GPU each would empty its queue."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.waits(func, args):
            self.operators[func.__name__] += 1
        return func(*args, **(kwargs or {}))

    @classmethod
    def waits(cls, func: Any, args: tuple) -> bool:
        """Whether the host has to wait for what an operator gives."""
        masks = [one for one in tree_leaves(args) if torch.is_tensor(one) and one.dtype == torch.bool]
        return func.__name__.split(".")[0] in cls.WAITING or (func.__name__.startswith("index") and bool(masks))


@contextmanager
def counted_waits() -> Iterator[Counter[str]]:
    """What the host waits for inside, complete once it is left."""
    counts: Counter[str] = Counter()
    synchronize = torch.cuda.synchronize
    torch.cuda.synchronize = lambda *_: counts.update(["synchronize"])
    try:
        with HostWaits() as waits, HostCalls() as calls:
            yield counts
    finally:
        torch.cuda.synchronize = synchronize
    counts.update(waits.operators + calls.calls)
