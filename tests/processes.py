"""Python in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_python(
    *command: object, cwd: Path = ROOT, timeout: float = 300, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """``python COMMAND``, with this process's environment but for where it finds modules and what W&B goes by."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONPATH", "WANDB"))}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=inherited | (environment or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def run_elsewhere(
    program: Path, *arguments: str, cwd: Path, before: str = "", timeout: float = 300
) -> subprocess.CompletedProcess:
    """A program that finds the project's modules though neither it nor ``cwd`` is where they are.

    The processes that it starts have to find them by themselves.

    Args:
        before: statements that come first.
    """
    start = f"{before}\nimport runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = sys.argv[1:]; "
    start += "runpy.run_path(sys.argv[0], run_name='__main__')"
    return run_python("-c", start, program, *arguments, cwd=cwd, timeout=timeout)
