"""Where the programs print to."""

import sys
from contextlib import suppress
from typing import Any, TextIO

from rich.console import Console

WIDTH_OF_FILES = 200  # characters

# One for progress and notes: bars drawn by different parts of a program then keep clear of each other.
stderr = Console(stderr=True)


class Heedless:
    """A stream whose reader may be gone or whose disk may be full: what cannot be written is left out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def stdout() -> Console:
    """Standard output as it is now; where that is no terminal, it has room for any table."""
    return Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_FILES)
