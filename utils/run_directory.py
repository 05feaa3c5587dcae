"""A run's own directory: its config, the state of the code, its checkpoints, tables and pictures."""

import errno
import fcntl
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Self

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.schema import TrainConfig
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "lightning", "kornia", "numpy", "scipy", "scikit-learn", "opencv-python-headless")
# A change of any of these makes another run.
FIXED = (
    *("dataset_name", "dataset_root", "dataset", "num_parts", "image_size", "batch_size", "seed"),
    *("segmenter", "perceptual", "method", "optimizer.name"),
)
# But these: a run that a broken picture ended may go on without it, and a cache changes no crop.
FREE = ("dataset.on_error", "dataset.cache", "dataset.cache_dir")
UNTRACKED_LIMIT = 1_000_000  # bytes: larger files that git does not know are left out of the saved difference


@dataclass(frozen=True)
class RunDirectory:
    """Holds ``config.yaml`` (resolved), ``code/``, ``checkpoints/``, ``pictures/`` and the log's files.

    One that :meth:`of` gives is this process's own, until it has been left as a context: ``lock`` is locked.
    """

    path: Path
    _lock: IO[str] | None = field(default=None, repr=False, compare=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock:
            self._lock.close()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @classmethod
    def of(cls, config: DictConfig) -> "RunDirectory":
        """A new directory, or that of the run to resume.

        Raises:
            UserError: see :meth:`create` and :meth:`resume`; another process trains in it.
        """
        return cls.create(config) if config.resume is None else cls.resume(config)

    @classmethod
    def create(cls, config: DictConfig) -> "RunDirectory":
        """A new directory: ``config.output_dir``, or else dated under ``runs/``.

        Raises:
            UserError: the directory holds something already, or cannot be written.
        """
        try:
            path = _new_directory(config.output_dir, config.dataset_name)
            _save_config(config, path)
            run = cls(path, _locked(path))
            run._record(run.path / "code")
        except OSError as error:
            raise UserError(
                f"Cannot write the run directory {error.filename or config.output_dir}: {error.strerror}. "
                "Give another one: output_dir=DIR"
            ) from error
        return run

    @classmethod
    def resume(cls, config: DictConfig) -> "RunDirectory":
        """The directory ``config.resume``; its earlier config goes beside the code state of this start.

        Raises:
            UserError: the directory cannot be written.
        """
        path = Path(config.resume)
        folder = path / "code" / f"resumed_{datetime.now():%Y-%m-%d_%H-%M-%S}"
        try:
            run = cls(path, _locked(path))
            run._record(folder)
            shutil.copyfile(run.path / "config.yaml", folder / "config_before.yaml")
            _save_config(config, run.path)
        except OSError as error:
            raise UserError(f"Cannot write to the run directory {path}: {error.strerror}.") from error
        return run

    def _record(self, folder: Path) -> None:
        """Saves what made the run: the code's commit and uncommitted difference, versions and command line."""
        for one in (folder, self.checkpoints, self.pictures):
            one.mkdir(parents=True, exist_ok=True)
        commit, difference = code_state()
        (folder / "commit.txt").write_text(commit + "\n")
        (folder / "uncommitted.diff").write_bytes(difference)
        lines = [f"command: {shlex.join(sys.argv)}", *(f"{name}: {number}" for name, number in versions().items())]
        (folder / "environment.txt").write_text("\n".join(lines) + "\n")


def _locked(run: Path) -> IO[str]:
    """The run's lock file, locked for this process; the system frees it however the process ends.

    Raises:
        UserError: another process has it.
        OSError: it cannot be written.
    """
    file = (run / "lock").open("a")
    try:
        # Of POSIX's kind: what this process starts does not inherit it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UserError(
                f"Another process trains in {run}: two would spoil each other's tables. Wait for it, or end it."
            ) from None
        # Some network drives have no locks: then it is left to the user.
    return file


def to_resume(run: Path | str) -> str:
    """The argument that goes on with a run, as the shell and Hydra read it."""
    text = str(run)
    if not re.fullmatch(r"[\w./+-]+", text, re.ASCII):
        text = '"' + text.replace('"', r"\"") + '"'
    return shlex.quote(f"resume={text}")


def resumed_config(given: DictConfig, overrides: list[str]) -> DictConfig:
    """The config of the run ``given.resume`` with what the command line gives, and nothing else, changed.

    Args:
        given: the config composed from the command line.
        overrides: the command line's overrides.

    Raises:
        UserError: no run is there, or its config is damaged or lacks a key that is not given; or a change of network,
            data, or whatever makes it another run; the message names the key, the run's value and the one given.
    """
    run = Path(given.resume)
    config = _saved_config(run)
    config.resume = config.output_dir = str(run)

    groups = []
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if key == "resume" or key.startswith("hydra."):
            continue
        if key == "experiment":
            raise UserError("A run cannot be resumed with an experiment: leave it out, the run's own config holds it.")
        if override.is_delete():
            raise UserError(f"A run cannot be resumed without {key}: leave out {override.input_line}.")
        value = OmegaConf.select(given, key)
        if key != "dataset_name" and (ROOT / "conf" / key).is_dir():
            groups.append(key)
            continue
        before = OmegaConf.select(config, key)
        if not _same(key, before, value) and key.startswith("output_dir"):
            raise UserError(f"The run goes on in {run}: leave out output_dir={value}.")
        if not _same(key, before, value) and not key.endswith("weights_dir"):
            _refuse_if_fixed(key, before, value)
        OmegaConf.update(config, key, value)
    for group in groups:
        for key, value in given[group].items():
            if config[group][key] != value:
                _refuse_if_fixed(f"{group}.{key}", config[group][key], value)
                config[group][key] = value
    if missing := sorted(OmegaConf.missing_keys(config)):
        more = " ..." if len(missing) > 3 else ""
        raise UserError(
            f"{run / 'config.yaml'} has no {', '.join(missing[:3])}{more}: it is cut off, or of another version of the "
            "code. Put a whole one there (code/resumed_*/config_before.yaml in the run, and 'config' in its "
            "checkpoints), or give what is missing."
        )
    return config


def _saved_config(run: Path) -> DictConfig:
    """The config in a run's directory; keys that it lacks are missing."""
    path = run / "config.yaml"
    try:
        saved = OmegaConf.load(path)
        if not OmegaConf.is_dict(saved):
            raise yaml.YAMLError("it is no mapping")
        config = OmegaConf.merge(OmegaConf.structured(TrainConfig), saved)
        OmegaConf.resolve(config)
    except OSError as error:
        raise UserError(f"No run to resume in {run}: cannot read {path} ({error.strerror or error}).") from error
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} does not fit this version of the code: {str(error).splitlines()[0]}") from error
    return config


def _save_config(config: DictConfig, folder: Path) -> None:
    """Under its name there is a whole one or none."""
    temporary = folder / "config.yaml.part"
    try:
        OmegaConf.save(config, temporary)
        os.replace(temporary, folder / "config.yaml")
    finally:
        temporary.unlink(missing_ok=True)


def code_state() -> tuple[str, bytes]:
    """The commit of the code and its difference from it, files that git does not know yet included.

    Where there is no git or no repository the first says so, and the second is empty.
    """
    if shutil.which("git") is None:
        return "unknown: git is not installed", b""
    with tempfile.TemporaryDirectory() as folder:
        # An index of its own takes the new files, so that the user's stays as it is.
        index = Path(folder) / "index"

        def git(*arguments: str, **kwargs) -> bytes:
            command = ("git", "-C", str(ROOT), *arguments)
            environment = os.environ | {"GIT_INDEX_FILE": str(index)}
            return subprocess.run(command, env=environment, capture_output=True, check=True, **kwargs).stdout

        try:
            commit = git("rev-parse", "HEAD").decode().strip()
            git("read-tree", "HEAD")
            untracked = git("ls-files", "--others", "--exclude-standard", "-z").split(b"\0")[:-1]
            small = [name for name in untracked if (ROOT / os.fsdecode(name)).lstat().st_size <= UNTRACKED_LIMIT]
            git("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul", input=b"\0".join(small))
            return commit, git("diff", "HEAD", "--no-color", "--no-ext-diff")
        except subprocess.CalledProcessError as error:
            return f"unknown: {error.stderr.decode(errors='replace').strip()}", b""


def versions() -> dict[str, str]:
    """The code's commit, and versions of Python, the packages that make the numbers, and the accelerator."""
    import torch  # here, so that entry points tell mistakes in the config without waiting for it

    found = {"code": _commit(), "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return found


def _commit() -> str:
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


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
    attempt = 1
    while True:
        path = Path(stem if attempt == 1 else f"{stem}_{attempt}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            attempt += 1


def _same(key: str, before: object, value: object) -> bool:
    if key in ("dataset_root", "output_dir") and None not in (before, value):
        return Path(str(before)).resolve() == Path(str(value)).resolve()
    return before == value


def _refuse_if_fixed(key: str, before: object, value: object) -> None:
    if key not in FREE and any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED):
        _refuse(key, before, value)


def _refuse(key: str, before: object, value: object) -> None:
    raise UserError(
        f"The run to resume was trained with {key}={before}: it cannot go on with {key}={value}. "
        "Leave it out, or start a new run."
    )
