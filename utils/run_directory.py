"""A run's own directory: its config, the state of the code, its checkpoints, tables and pictures."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import distributions
from itertools import count
from pathlib import Path
from typing import IO, Self

import torch
from omegaconf import DictConfig, OmegaConf

from utils.errors import UserError
from utils.files import written_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "lightning", "numpy", "scipy", "scikit-learn", "opencv-python-headless")
CARD = "model_card.md"
UNTRACKED_LIMIT = 1_000_000  # bytes: larger files that git does not know are left out of the saved difference


@dataclass(frozen=True)
class RunDirectory:
    """Holds ``config.yaml`` (resolved), ``code/``, ``checkpoints/``, ``pictures/``, the log's files and a model card.

    One that :meth:`of` gives is this process's own, until it has been left as a context: ``lock`` is locked. It knows
    the :func:`versions` that it was begun, or gone on, with.
    """

    path: Path
    versions: dict[str, str] = field(default_factory=dict, compare=False)
    _lock: IO[str] | None = field(default=None, repr=False, compare=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock:
            self._lock.close()

    @classmethod
    def of(cls, config: DictConfig) -> "RunDirectory":
        """A new directory, ``config.output_dir`` or else dated under ``runs/``; or that of the run to resume.

        ``code/`` gets the code's commit and uncommitted difference, versions and the command line; for a resumed run
        a folder in it does, with the config before.

        Raises:
            UserError: a new directory holds something already; another process trains in it; it cannot be written.
        """
        try:
            if config.resume is None:
                path = _new_directory(config.output_dir, config.dataset_name)
                code = path / "code"
            else:
                path = Path(config.resume)
                code = path / "code" / f"resumed_{datetime.now():%Y-%m-%d_%H-%M-%S}"
            state = code_state()
            run = cls(path, versions(state), _locked(path))
            for folder in (code, path / "checkpoints", path / "pictures"):
                folder.mkdir(parents=True, exist_ok=True)
            if config.resume is not None:
                shutil.copyfile(path / "config.yaml", code / "config_before.yaml")
            with written_whole(path / "config.yaml") as part:
                OmegaConf.save(config, part)
            (code / "commit.txt").write_text(state[0] + "\n")
            (code / "uncommitted.diff").write_bytes(state[1])
            numbers = (f"{name}: {number}" for name, number in run.versions.items())
            lines = [f"command: {shlex.join(sys.argv)}", *numbers]
            (code / "environment.txt").write_text("\n".join(lines) + "\n")
        except OSError as error:
            place = error.filename or config.resume or config.output_dir
            raise UserError(f"Cannot write the run directory {place}: {error.strerror}.") from error
        return run

    @classmethod
    def locked(cls, path: Path) -> Self:
        """That of a run which is there, for this process alone.

        Raises:
            UserError: another process trains in it.
        """
        with suppress(OSError):  # it may be read alone, or have no locks
            return cls(path, _lock=_locked(path))
        return cls(path)


def _new_directory(output_dir: str | None, dataset_name: str) -> Path:
    if output_dir is not None:
        path = Path(output_dir)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            run_there = (path / "config.yaml").is_file()
            instead = f"go on with the run in it ({to_resume(path)}), or give" if run_there else "give"
            raise UserError(f"output_dir {path} is not an empty directory: {instead} another output_dir.")
        path.mkdir(parents=True, exist_ok=True)
        return path
    stem = f"runs/{datetime.now():%Y-%m-%d_%H-%M-%S}_{dataset_name}"
    for attempt in count(1):  # others may start in the same second
        path = Path(stem if attempt == 1 else f"{stem}_{attempt}")
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            return path


def _locked(run: Path) -> IO[str]:
    """The run's lock file, locked for this process; the system frees it however the process ends. On Windows not."""
    file = (run / "lock").open("a")
    if fcntl is None:
        return file
    try:
        # Of POSIX's kind: what this process starts does not inherit it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise UserError(
            f"Another process trains in {run}: two would spoil each other's tables. Wait for it, or end it."
        ) from None
    except OSError:
        pass  # some network drives have no locks: then it is left to the user
    return file


def is_locked(run: Path) -> bool | None:
    """Whether another process trains in a run's directory; None where there are no locks to tell."""
    try:
        file = (run / "lock").open()
    except OSError:
        return False
    with file:
        try:
            if fcntl is None:
                return None
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back at once
        except (BlockingIOError, PermissionError):
            return True
        except OSError:  # some network drives have none
            return None
    return False


def to_resume(run: Path | str) -> str:
    """The argument that goes on with a run, as the shell and Hydra read it."""
    return shlex.quote(argument("resume", run))


def argument(key: str, path: Path | str) -> str:
    """``key=path``, as Hydra reads it."""
    text = str(path)
    if not re.fullmatch(r"[\w./+-]+", text, re.ASCII):
        text = '"' + text.replace('"', r"\"") + '"'
    return f"{key}={text}"


def code_state() -> tuple[str, bytes]:
    """The commit of the code, "unknown" where there is no git or no repository, and its difference from it.

    The difference has the files that git does not know yet, too.
    """
    with tempfile.TemporaryDirectory() as folder:
        # An index of its own takes the new files, so that the user's stays as it is.
        environment = os.environ | {"GIT_INDEX_FILE": f"{folder}/index"}

        def git(*arguments: str, given: bytes = b"") -> bytes:
            command = ("git", "-C", str(ROOT), *arguments)
            return subprocess.run(command, input=given, env=environment, capture_output=True, check=True).stdout

        try:
            commit = git("rev-parse", "HEAD").decode().strip()
            git("read-tree", "HEAD")
            untracked = git("ls-files", "--others", "--exclude-standard", "-z").split(b"\0")[:-1]
            small = [name for name in untracked if (ROOT / os.fsdecode(name)).lstat().st_size <= UNTRACKED_LIMIT]
            git("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul", given=b"\0".join(small))
            return commit, git("diff", "HEAD", "--no-color", "--no-ext-diff")
        except (OSError, subprocess.CalledProcessError):
            return "unknown", b""


def versions(state: tuple[str, bytes] | None = None) -> dict[str, str]:
    """The code's commit, and versions of Python, the packages that make the numbers, and the accelerator.

    Args:
        state: of the code, where it has been asked for already; asking goes through all of its files.
    """
    commit, difference = state or code_state()
    # Reversed: of two on the path the first is imported.
    installed = {package.name: package.version for package in reversed([*distributions()])}
    return {
        "code": commit + "-dirty" * bool(difference),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: installed.get(package, "not installed") for package in PACKAGES},
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
