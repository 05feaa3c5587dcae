"""Where the programs print to."""

import sys

from rich.console import Console

WIDTH_OF_FILES = 200  # characters

# One for progress and notes: bars drawn by different parts of a program then keep clear of each other.
stderr = Console(stderr=True)


def stdout() -> Console:
    """Standard output as it is now; where that is no terminal, it has room for any table."""
    return Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_FILES)
