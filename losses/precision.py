"""Losses are computed in float32 whatever precision the networks run in."""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    if isinstance(value, list | tuple):
        return [_widen(item) for item in value]
    return value


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def full_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run a function of tensors outside autocast, with half-precision arguments widened to float32."""

    @wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Tensor:
        device = next(_tensors((*arguments, *options.values()))).device
        with torch.autocast(device.type, enabled=False):
            return function(*map(_widen, arguments), **{name: _widen(value) for name, value in options.items()})

    return wrapper
