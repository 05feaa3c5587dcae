"""The one console for progress and notes: bars drawn by different parts of a program then keep clear of each other."""

from rich.console import Console

stderr = Console(stderr=True)
