"""Checkpoints on disk: written whole or not at all, read without running any code of theirs.

A checkpoint is a dictionary in the published layout, ``iter`` (updates done), ``model_state_dict`` and
``optimizer_state_dict``; training adds ``precision_state_dict`` (the gradient scaler's, with ``precision=16``),
``format`` (1), ``config`` (the run's resolved config) and ``versions`` (of the code and of what it runs on).
"""

import math
import os
import pickle
import re
import reprlib
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.schema import Dataset, TrainConfig
from utils.console import stderr
from utils.errors import UserError
from utils.files import flush_to_disk

FORMAT = 1
_PADDING = next(spec.metadata for spec in fields(Dataset) if spec.name == "box_padding")
_GROUPS = [name for name, kind in get_type_hints(TrainConfig).items() if is_dataclass(kind)]


def file_name(iteration: int) -> str:
    """The name of the checkpoint after ``iteration`` updates."""
    return f"model_{iteration}.pth"


def save(path: Path | str, payload: Mapping[str, Any], keep: int | None = None, milestone_every: int = 0) -> Path:
    """Writes a checkpoint under its final name only once it is complete on disk, and has been read back.

    Args:
        path: ``FOLDER/model_ITER.pth``; the folder is created, but not what it is in.
        payload: what to write; read back by :func:`read`.
        keep: how many of the newest checkpoints remain, from this one backwards; None keeps all.
        milestone_every: those after a multiple of so many updates remain for ever; 0: none do.

    Raises:
        UserError: the file cannot be written (no space, no permission), or is another one when it is read back; an
            older file of that name is left as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        for interrupted in path.parent.glob(".model_*.pth.part"):
            interrupted.unlink()
        try:
            with temporary.open("wb") as file:
                _write(payload, file)
            flush_to_disk(temporary)
            _check_sums(temporary)
            os.replace(temporary, path)
            flush_to_disk(path.parent)  # a renamed file survives a power cut once its folder is on disk too
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"Cannot write the checkpoint {path}: {reason}. Earlier checkpoints stay as they are."
        ) from error
    if keep is not None:
        _delete_older(path, keep, milestone_every)
    return path


def latest(run_dir: Path | str) -> Path | None:
    """The checkpoint with the most updates in a run directory (or in a folder of checkpoints); None if it has none."""
    files = _numbered_of(Path(run_dir))
    return files[-1] if files else None


def find(path: Path | str) -> tuple[Path, dict[str, Any]]:
    """Reads the checkpoint meant by a path, onto the CPU, tensors and plain values only.

    Args:
        path: a file; or a run directory, of which the checkpoint with the most updates is meant. Where that one is
            damaged, the one before it is taken, and a warning names both.

    Returns:
        The file and what it holds. Its ``config``, if it has one, is a mapping without interpolations, in which the
        groups of ``conf/`` are mappings, and ``method.name``, ``segmenter.variant`` and ``dataset.box_padding``, where
        they are there, are of their types, the last within its range.

    Raises:
        UserError: nothing is there; or the file, or each of the directory's, is truncated, damaged or no checkpoint of
            a segmenter; or the newest is of a newer format.
    """
    path = Path(path)
    if path.is_file():
        return path, _read(path)
    if not path.is_dir():
        raise UserError(f"No checkpoint at {path}: give a .pth file or a run directory.")
    damaged = None
    for file in reversed(_numbered_of(path)):
        try:
            payload = _read(file)
        except Damaged as error:
            damaged = damaged or error
            continue
        if damaged:
            stderr.print(f"warning: {damaged} Going on with {file}.", markup=False, highlight=False, soft_wrap=True)
        return file, payload
    if damaged:
        raise UserError(f"{damaged} No earlier checkpoint in {path} can be read.")
    raise UserError(f"No checkpoint in {path}: looked for model_*.pth there and in {path / 'checkpoints'}.")


def read(path: Path | str) -> dict[str, Any]:
    """What the checkpoint meant by a path holds; see :func:`find`."""
    return find(path)[1]


class Damaged(UserError):
    """A file is not, or is no longer, what was written as a checkpoint."""


def _read(path: Path) -> dict[str, Any]:
    try:
        payload = load_tensors(path)
    except PermissionError as error:
        raise UserError(f"Cannot read the checkpoint {path}: {error.strerror}.") from error
    except ForeignObject as error:
        raise Damaged(
            f"{path} is not read: {error}. Expected are the published checkpoints or those that train.py writes."
        ) from error
    except Exception as error:  # on damaged bytes PyTorch raises nearly anything
        raise Damaged(
            f"{path} cannot be read as a checkpoint: it is truncated, damaged, or another kind of file. "
            "Copy or download it again, or give an earlier checkpoint."
        ) from error
    state = payload.get("model_state_dict") if isinstance(payload, dict) else None
    if not isinstance(state, Mapping):
        raise Damaged(
            f"{path} is not a checkpoint of this project: it has no 'model_state_dict'. "
            "Expected are the published checkpoints or those that train.py writes."
        )
    for name, value in state.items():
        if not isinstance(name, str):
            raise Damaged(f"{path} is not a checkpoint of this project: the name {reprlib.repr(name)} is no text.")
        if not isinstance(value, torch.Tensor) or value.is_complex():
            what = "has complex numbers" if isinstance(value, torch.Tensor) else "is no tensor"
            raise Damaged(f"{path} is not a checkpoint of this project: its {name!r} {what}.")
    written = payload.get("format", FORMAT)  # the published ones do not say
    if not isinstance(written, int) or not 1 <= written <= FORMAT:
        raise UserError(
            f"{path} has the format {written!r}, and this version of the code reads up to {FORMAT}: use the version "
            "that wrote it."
        )
    if "config" in payload:
        payload["config"] = _plain_config(payload["config"], path)
    return payload


def _plain_config(config: Any, path: Path) -> dict[str, Any]:
    """A checkpoint's config, of which all that later code takes for granted is checked here."""

    def refuse(what: str) -> None:
        raise Damaged(
            f"{path} is not a checkpoint of this project: its {what}. Expected is the config of a run, as train.py "
            "writes it, or none."
        )

    if not isinstance(config, dict):
        refuse(f"config is {reprlib.repr(config)}, not a mapping")
    try:
        config = OmegaConf.to_container(OmegaConf.create(config), resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        refuse(f"config cannot be read: {str(error).splitlines()[0]}")
    for group in _GROUPS:
        if not isinstance(config.get(group, {}), dict):
            refuse(f"config's {group} is {reprlib.repr(config[group])}, not a mapping")
    for group, name, kind, expected in (
        ("method", "name", str, "text"),
        ("segmenter", "variant", str, "text"),
        ("dataset", "box_padding", float | int | None, "a number"),
    ):
        found = config.get(group, {})
        if name in found and not isinstance(found[name], kind):
            refuse(f"config's {group}.{name} is {reprlib.repr(found[name])}, not {expected}")
    padding = config.get("dataset", {}).get("box_padding")
    if padding is not None and not _PADDING["low"] <= padding <= _PADDING["high"]:
        refuse(f"config's dataset.box_padding is {padding}, not from {_PADDING['low']} to {_PADDING['high']}")
    return config


class ForeignObject(Exception):
    """A file holds a Python object other than tensors and plain values."""


def load_tensors(path: Path) -> Any:
    """What ``torch.save`` wrote, onto the CPU: tensors and plain values only.

    Raises:
        ForeignObject: it holds something else.
        Exception: nearly any other, where the file is damaged.
    """
    if zipfile.is_zipfile(path):
        _check_sums(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            reason = "only tensors and plain values are read, since loading anything else could run code"
            raise ForeignObject(f"it holds {found[1]}, and {reason}") from error
        raise


def read_to_resume(run_dir: Path | str) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that training can go on from, its file and what it holds; None in a run that has saved none yet.

    Raises:
        UserError: as :func:`find`; it lacks the step or the optimiser's state, or the step is none; there is none any
            more, in a run that has come farther than its first.
    """
    run_dir = Path(run_dir)
    if run_dir.is_dir() and latest(run_dir) is None:
        _refuse_if_lost(run_dir)
        return None
    file, payload = find(run_dir)
    missing = [name for name in ("iter", "optimizer_state_dict") if not payload.get(name)]
    if missing:
        raise UserError(f"Training cannot go on from {file}: it has no {' and no '.join(missing)}.")
    if not isinstance(payload["iter"], int) or payload["iter"] < 0:
        raise UserError(f"Training cannot go on from {file}: its 'iter' is {payload['iter']!r}.")
    return file, payload


def _refuse_if_lost(run_dir: Path) -> None:
    """Raises UserError if a run without a checkpoint must have had one: it would begin anew and lose its tables."""
    settings = run_dir / "config.yaml"
    every = OmegaConf.load(settings).checkpointing.every if settings.is_file() else math.inf
    # Before an evaluation there is a checkpoint, too.
    for table, saved in (("metrics.csv", every), ("evaluation.csv", 0)):
        lines = (run_dir / table).read_text().splitlines() if (run_dir / table).is_file() else []
        reached = re.match(r"\d+", (lines or [""])[-1])  # the first column
        if reached and int(reached[0]) > saved:
            raise UserError(
                f"{run_dir} has no checkpoint, but its {table} has come to step {reached[0]}: there were some, and "
                "they are gone. Put them back, or start another run: this one would begin anew and lose its tables."
            )


def _write(payload: Mapping[str, Any], file: Any) -> None:
    try:
        torch.save(dict(payload), file)
    except RuntimeError as error:  # PyTorch's end of the file, which hides why it could not be written
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _check_sums(path: Path) -> None:
    """PyTorch writes a checksum of every tensor, and compares none.

    Raises:
        OSError: a tensor's bytes are not those that were written.
    """
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise OSError(f"{damaged} in it is damaged")


def _delete_older(newest: Path, keep: int, milestone_every: int) -> None:
    # Those of later steps are not counted: a run goes on before them where they are damaged.
    files = _numbered(newest.parent)
    for old in files[: files.index(newest) + 1][:-keep]:
        if not milestone_every or _iteration(old) % milestone_every:
            old.unlink(missing_ok=True)


def _numbered_of(run_dir: Path) -> list[Path]:
    return _numbered(run_dir / "checkpoints") or _numbered(run_dir)


def _numbered(folder: Path) -> list[Path]:
    """The folder's ``model_ITER.pth`` in the order of their iterations."""
    return sorted((path for path in folder.glob("model_*.pth") if _iteration(path) is not None), key=_iteration)


def _iteration(path: Path) -> int | None:
    found = re.fullmatch(r"model_(\d+)\.pth", path.name)
    return int(found[1]) if found else None
