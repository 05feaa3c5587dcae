"""A stand-in, on the CPU, for a CUDA graph: a tape of the operators that a piece of work dispatches.

Like a graph's, its recording leaves everything as it was, refuses to wait for numbers, and its replay has the numbers
of the host, and the tensors, that the recording had: what was not copied into these is what it was then.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.waits import HostCalls, HostWaits

STATISTICS = slice(3, 5)  # of batch norms, whose operators do not say that they write them


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, Any]] = []
        self.before: list[tuple[Tensor, Tensor]] = []  # what was written to, and its numbers before that

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if HostWaits.waits(func, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        self.before += [(tensor, tensor.clone()) for tensor in _written(func, args, kwargs)]
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result


def _written(func: Any, args: tuple, kwargs: dict) -> Iterator[Tensor]:
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
    if "batch_norm" in func.overloadpacket.__name__ and "backward" not in func.overloadpacket.__name__:
        yield from (value for value in args[STATISTICS] if isinstance(value, Tensor))


def record(work: Callable[[], object]) -> Callable[[], None]:
    """As ``utils.graph.record``."""
    tape = _Tape()
    try:
        with tape, HostCalls() as host:
            work()
        if host.calls:
            raise RuntimeError(f"operation not permitted when stream is capturing: {dict(host.calls)}")
    finally:
        with torch.no_grad():
            for tensor, numbers in reversed(tape.before):
                tensor.copy_(numbers)
        tape.before.clear()

    @torch.no_grad()
    def replay() -> None:
        for func, args, kwargs, result in tape.calls:
            for old, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                # Views, and what is written to, are the recording's own; other results go where it had them.
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)

    return replay
