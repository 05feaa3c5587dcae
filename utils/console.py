"""Where the programs print to."""

import os
import sys
from contextlib import suppress
from typing import Any, TextIO

from rich.console import Console

# One for progress and notes: bars drawn by different parts of a program then keep clear of each other.
stderr = Console(stderr=True)


def say(text: str) -> None:
    """A line of text on standard error, once a machine where a run has several processes."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        stderr.print(text, markup=False, highlight=False, soft_wrap=True)


class Lenient:
    """A stream that leaves out what it cannot write for one kind of error, and raises for others.

    Args:
        error: ``BrokenPipeError``: of a stream whose reader may go away (``| head``); ``OSError``: of one that tells
            nothing that would be missed.
    """

    def __init__(self, stream: TextIO, error: type[OSError]) -> None:
        self._stream, self._error = stream, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(self._error):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(self._error):
            self._stream.flush()


def stdout() -> Console:
    """Standard output as it is now; where that is no terminal, it has room for any table."""
    return Console() if sys.stdout.isatty() else Console(width=200)
