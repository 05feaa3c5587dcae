"""Checkpoints on disk: written whole or not at all, read without running any code of theirs.

A checkpoint is a dictionary in the published layout, ``iter`` (updates done), ``model_state_dict`` and
``optimizer_state_dict``; training adds ``format`` (1), ``config`` (the run's resolved config) and ``versions``.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError

FORMAT = 1


def file_name(iteration: int) -> str:
    """The name of the checkpoint after ``iteration`` updates."""
    return f"model_{iteration}.pth"


def save(path: Path | str, payload: Mapping[str, Any], keep: int | None = None) -> Path:
    """Writes a checkpoint under its final name only once it is complete on disk.

    Args:
        path: ``FOLDER/model_ITER.pth``; the folder is created.
        payload: what to write; read back by :func:`read`.
        keep: how many of the folder's newest checkpoints remain; None keeps all.

    Raises:
        UserError: the file cannot be written (no space, no permission); an older file of that name is left as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                torch.save(dict(payload), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write the checkpoint {path}: {error.strerror or error}.") from error
    if keep is not None:
        for old in _numbered(path.parent)[:-keep]:
            old.unlink(missing_ok=True)
    return path


def latest(run_dir: Path | str) -> Path | None:
    """The checkpoint with the most updates in a run directory (or in a folder of checkpoints); None if it has none."""
    run_dir = Path(run_dir)
    files = _numbered(run_dir / "checkpoints") or _numbered(run_dir)
    return files[-1] if files else None


def resolve(path: Path | str) -> Path:
    """The checkpoint file meant by a path: the file itself, or the latest one of a run directory.

    Raises:
        UserError: nothing is there, or the directory holds no checkpoint.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"No checkpoint at {path}: give a .pth file or a run directory.")
    found = latest(path)
    if found is None:
        raise UserError(f"No checkpoint in {path}: looked for model_*.pth there and in {path / 'checkpoints'}.")
    return found


def read(path: Path | str) -> dict[str, Any]:
    """Reads a checkpoint (file or run directory) onto the CPU, tensors and plain values only.

    Raises:
        UserError: the file is missing, truncated, damaged, not a checkpoint of a segmenter, or of a newer format.
    """
    path = resolve(path)
    try:
        payload = load_tensors(path)
    except PermissionError as error:
        raise UserError(f"Cannot read the checkpoint {path}: {error.strerror}.") from error
    except ForeignObject as error:
        raise UserError(
            f"{path} is not read: {error}. Expected are the published checkpoints or those that train.py writes."
        ) from error
    except Exception as error:  # on damaged bytes PyTorch raises nearly anything
        raise UserError(
            f"{path} cannot be read as a checkpoint: it is truncated, damaged, or another kind of file. "
            "Copy or download it again, or give an earlier checkpoint."
        ) from error
    state = payload.get("model_state_dict") if isinstance(payload, dict) else None
    if not isinstance(state, Mapping):
        raise UserError(
            f"{path} is not a checkpoint of this project: it has no 'model_state_dict'. "
            "Expected are the published checkpoints or those that train.py writes."
        )
    if foreign := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise UserError(f"{path} is not a checkpoint of this project: its {foreign[0]!r} is no tensor.")
    written = payload.get("format", FORMAT)  # the published ones do not say
    if not isinstance(written, int) or not 1 <= written <= FORMAT:
        raise UserError(
            f"{path} has the format {written!r}, and this version of the code reads up to {FORMAT}: use the version "
            "that wrote it."
        )
    return payload


class ForeignObject(Exception):
    """A file holds a Python object other than tensors and plain values."""


def load_tensors(path: Path) -> Any:
    """What ``torch.save`` wrote, onto the CPU: tensors and plain values only.

    Raises:
        ForeignObject: it holds something else.
        Exception: nearly any other, where the file is damaged.
    """
    # PyTorch does not compare the checksums that it writes.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} in it is damaged")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            reason = "only tensors and plain values are read, since loading anything else could run code"
            raise ForeignObject(f"it holds {found[1]}, and {reason}") from error
        raise


def read_to_resume(path: Path | str) -> dict[str, Any]:
    """Reads a checkpoint that training can go on from.

    Raises:
        UserError: as :func:`read`, or it lacks the step or the optimiser's state, or the step is none.
    """
    payload = read(path)
    missing = [name for name in ("iter", "optimizer_state_dict") if not payload.get(name)]
    if missing:
        raise UserError(f"Training cannot go on from {resolve(path)}: it has no {' and no '.join(missing)}.")
    if not isinstance(payload["iter"], int) or payload["iter"] < 0:
        raise UserError(f"Training cannot go on from {resolve(path)}: its 'iter' is {payload['iter']!r}.")
    return payload


def _numbered(folder: Path) -> list[Path]:
    """The folder's ``model_ITER.pth`` in the order of their iterations."""
    files = {
        int(m[1]): path for path in folder.glob("model_*.pth") if (m := re.fullmatch(r"model_(\d+)\.pth", path.name))
    }
    return [files[iteration] for iteration in sorted(files)]
