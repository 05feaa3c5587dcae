"""Where the programs print to."""

import os
import sys
import time
from collections.abc import Iterator, Sized
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import track

SECONDS_BETWEEN_LINES = 30  # of progress, where it is no bar

# One for progress and notes: bars drawn by different parts of a program then keep clear of each other.
stderr = Console(stderr=True)
_records: list["Record"] = []


class Record:
    """A text file that keeps what is told until it is closed; what it holds already stays.

    Where it cannot be written, that is told once, and nothing else is lost.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._told = path, False
        _records.append(self)

    def add(self, text: str) -> None:
        """A message, with the time in front of it."""
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")
        except OSError as error:
            if not self._told:
                self._told = True
                _print(f"warning: cannot write {self.path}: {error.strerror or error}. Going on without it.")

    def close(self) -> None:
        """Nothing more is kept."""
        _records.remove(self)


def say(text: str) -> None:
    """A line of text on standard error, once a machine where a run has several processes."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        _print(text)
    for record in _records:
        record.add(text)


def say_progress(text: str) -> None:
    """The same of what a terminal shows as a bar: there it is kept, and not printed."""
    if not stderr.is_terminal:
        say(text)
        return
    for record in _records:
        record.add(text)


def _print(text: str) -> None:
    stderr.print(text, markup=False, highlight=False, soft_wrap=True)


def tracked(items: Sized, doing: str) -> Iterator[Any]:
    """The same items, under a bar that says how many are done; where there is no terminal, a line says so at times."""
    due = time.monotonic() + SECONDS_BETWEEN_LINES
    shown = track(items, doing, console=stderr, transient=True, disable=not stderr.is_terminal)
    for done, item in enumerate(shown, 1):
        yield item
        if time.monotonic() >= due:
            due = time.monotonic() + SECONDS_BETWEEN_LINES
            say_progress(f"{doing}: {done} of {len(items)}")


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
