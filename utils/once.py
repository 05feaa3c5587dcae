"""What several jobs of a sweep need is read once while they are checked."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

_kept: dict[Hashable, Any] | None = None  # None: nothing is kept


@contextmanager
def keeping() -> Iterator[None]:
    """Within, functions marked by :func:`once` are called once for each key; afterwards nothing of it is kept."""
    global _kept
    _kept = {}
    try:
        yield
    finally:
        _kept = None


def once(key: Callable[..., Hashable]) -> Callable[[Callable], Callable]:
    """Marks a function whose results may be shared.

    Args:
        key: of a call's arguments: calls with the same key have the same result.
    """

    def mark(function: Callable) -> Callable:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if _kept is None:
                return function(*args, **kwargs)
            what = function.__qualname__, key(*args, **kwargs)
            if what not in _kept:
                _kept[what] = function(*args, **kwargs)
            return _kept[what]

        return call

    return mark
