"""Checkpoints on disk: written whole or not at all, read without running any code of theirs.

A checkpoint is a dictionary in the published layout, ``iter`` (updates done), ``model_state_dict`` (of what predicts)
and ``optimizer_state_dict``; training adds ``method_state_dict`` (what else the method trains, absent where there is
nothing), ``precision_state_dict`` (the gradient scaler's, with ``precision=16``), ``format`` (2; 1 had no
``method_state_dict``), ``config`` (the run's resolved config) and ``versions`` (of the code and of what it runs on).
``slim`` says that ``utils.slim`` has left out what only training needs.
"""

import argparse
import errno
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from utils.console import stderr
from utils.errors import UserError
from utils.files import stand_in, written_whole

FORMAT = 2
# What files of training hold beside tensors and plain values, and cannot run code.
HARMLESS = (
    argparse.Namespace,
    *(np.dtype, type(np.dtype("float32")), type(np.dtype("float64")), type(np.dtype("int64"))),
    *((np._core.multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
)
SLIM = "slim"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, tensors on the CPU.

    Attributes:
        file: where it was read from.
        model: state dict of what predicts.
        step: updates done; None where it does not say.
        beside: what else its method trained.
        optimizer, precision: their states; empty where it has none.
        config: of the run, as plain mappings in the form of the version that wrote it; empty in a published one.
        versions: of the code and of what it ran on; empty where it does not say.
        is_bare: the file is a state dict, or one in what others wrap it in, and nothing says of what.
        is_slim: it was made to be shared, without what only training needs.
    """

    file: Path
    model: Mapping[str, Tensor]
    step: int | None = None
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    precision: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    is_bare: bool = False
    is_slim: bool = False

    @property
    def run(self) -> Path | None:
        """The run directory that it lies in, if it lies in one."""
        return run_of(self.file)


def run_of(file: Path) -> Path | None:
    """The run directory that a checkpoint lies in; None if it lies in none."""
    run = file.parent.parent
    return run if file.parent.name == "checkpoints" and (run / "config.yaml").is_file() else None


def save(path: Path | str, payload: Mapping[str, Any], keep: int | None = None, milestone_every: int = 0) -> Path:
    """Writes a checkpoint under its final name only once it is complete on disk.

    Args:
        path: ``FOLDER/model_ITER.pth``; the folder is created, but not what it is in.
        payload: what to write; see the module's docstring.
        keep: how many of the newest checkpoints remain, from this one backwards; None keeps all.
        milestone_every: those after a multiple of so many updates remain for ever; 0: none do.

    Raises:
        UserError: the file cannot be written (no space, no permission); an older file of that name is left as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(exist_ok=True)
        for interrupted in path.parent.glob(".model_*.pth.part"):
            interrupted.unlink()
        with written_whole(path) as part, part.open("wb") as file:
            torch.save(dict(payload), file)
    except (OSError, RuntimeError) as error:
        # PyTorch's own error at the end of a file hides why it could not be written.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise UserError(
            f"Cannot write the checkpoint {path}: {reason.strerror or reason}. Earlier checkpoints stay as they are."
        ) from error
    if keep is not None:
        files = _numbered(path.parent)
        # Those of later steps are not counted: a run goes on before them where they are damaged.
        for step in [step for step in files if step <= payload["iter"]][:-keep]:
            if not milestone_every or step % milestone_every:
                files[step].unlink(missing_ok=True)
    return path


def latest(run_dir: Path | str) -> Path | None:
    """The checkpoint with the most updates in a run directory (or in a folder of checkpoints); None if it has none."""
    return next(reversed(_numbered(Path(run_dir)).values()), None)


def _numbered(folder: Path) -> dict[int, Path]:
    """The ``model_ITER.pth`` of a run directory, or of a folder of checkpoints, by their iterations in order."""
    for place in (folder / "checkpoints", folder):
        named = ((re.fullmatch(r"model_(\d+)\.pth", path.name), path) for path in place.glob("model_*.pth"))
        if files := {int(name[1]): path for name, path in named if name}:
            return dict(sorted(files.items()))
    return {}


def find(path: Path | str) -> Checkpoint:
    """Reads the checkpoint meant by a path, onto the CPU, tensors and plain values only.

    Args:
        path: a file; or a run directory, of which the checkpoint with the most updates is meant. Where that one is
            damaged, the one before it is taken, and a warning names both.

    Raises:
        UserError: nothing is there; or the file, or each of the directory's, is truncated, damaged or no checkpoint; or
            the newest is of a newer format.
    """
    path = Path(path)
    require(path)
    if path.is_file():
        return _read(path)
    damaged = None
    for file in reversed(_numbered(path).values()):
        try:
            checkpoint = _read(file)
        except Damaged as error:
            damaged = damaged or error
            continue
        if damaged:
            stderr.print(f"warning: {damaged} Going on with {file}.", markup=False, highlight=False, soft_wrap=True)
        return checkpoint
    raise UserError(f"{damaged} No earlier checkpoint in {path} can be read.")


def require(path: Path) -> None:
    """Raises UserError where a path is neither a file nor a directory with checkpoints; none is opened."""
    if not path.exists():
        raise UserError(f"No checkpoint at {path}: give a .pth file or a run directory.")
    if path.is_dir() and latest(path) is None:
        raise UserError(f"No checkpoint in {path}: looked for model_*.pth there and in {path / 'checkpoints'}.")


def find_to_resume(run_dir: Path, every: int) -> Checkpoint | None:
    """The checkpoint that training can go on from; None in a run that has saved none yet.

    Args:
        every: how often the run saves, in steps.

    Raises:
        UserError: as :func:`find`; it lacks the step or the optimiser's state; or there is none any more, in a run that
            has come farther than its first: it would begin anew and lose its tables.
    """
    if run_dir.is_dir() and latest(run_dir) is None:
        for table, saved in (("metrics.csv", every), ("evaluation.csv", 0)):  # it saves before it evaluates
            lines = (run_dir / table).read_text().splitlines() if (run_dir / table).is_file() else []
            reached = re.match(r"\d+", (lines or [""])[-1])  # the first column
            if reached and int(reached[0]) > saved:
                raise UserError(
                    f"{run_dir} has no checkpoint, but its {table} has come to step {reached[0]}: there were some, and "
                    "they are gone. Put them back, or start another run: this one would begin anew and lose its tables."
                )
        return None
    checkpoint = find(run_dir)
    if checkpoint.is_slim:
        raise UserError(
            f"Training cannot go on from {checkpoint.file}: it was made to be shared (python -m utils.slim), without "
            "the optimiser's state. Put the run's own checkpoint back; a new run starts from this network with "
            f"segmenter.weights={checkpoint.file}"
        )
    if not (checkpoint.step and checkpoint.optimizer):
        raise UserError(f"Training cannot go on from {checkpoint.file}: it has no iter or no optimizer_state_dict.")
    return checkpoint


class Damaged(UserError):
    """A file is not, or is no longer, what was written as a checkpoint."""


def _read(path: Path) -> Checkpoint:
    try:
        payload = load_tensors(path)
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes PyTorch raises nearly anything
        raise Damaged(f"{path} cannot be read as a checkpoint: {why_unreadable(path, error)}") from error
    is_bare = not (isinstance(payload, dict) and "model_state_dict" in payload)
    if is_bare:
        read, payload = payload, {"model_state_dict": dict(tensors_in(payload))}
        if not payload["model_state_dict"] and isinstance(read, list | tuple):
            raise Damaged(
                f"{path} holds a {type(read).__name__} of {len(read)}, and tensors are looked for in mappings alone: "
                f"{_SAVE_TENSORS}"
            )
    model = payload["model_state_dict"]
    if not isinstance(model, Mapping) or not model or any(not isinstance(item, Tensor) for item in model.values()):
        raise Damaged(
            f"{path} is not a checkpoint of this project: it has no 'model_state_dict' of tensors, nor any others. "
            "Expected are the published checkpoints, those that train.py writes, or a network's state dict."
        )
    written = payload.get("format", FORMAT)  # the published ones do not say
    if not isinstance(written, int) or not 1 <= written <= FORMAT:
        raise UserError(
            f"{path} has the format {written!r}, and this version of the code reads up to {FORMAT}: use the version "
            "that wrote it."
        )
    return Checkpoint(
        file=path,
        model=model,
        step=payload.get("iter"),
        beside=payload.get("method_state_dict", {}),
        optimizer=payload.get("optimizer_state_dict", {}),
        precision=payload.get("precision_state_dict", {}),
        config=payload.get("config", {}),
        versions=payload.get("versions", {}),
        is_bare=is_bare,
        is_slim=SLIM in payload,
    )


def tensors_in(payload: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested mappings but the optimiser's, under its dotted name."""
    if not isinstance(payload, Mapping):
        return
    for name, value in payload.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif "optim" not in str(name):
            yield from tensors_in(value, f"{prefix}{name}.")


def why_unreadable(path: Path, error: Exception) -> str:
    """What is wrong with a file that :func:`load_tensors` could not read, and what to do, in sentences."""
    if found := stand_in(path):
        return f"{found}. Fetch it again."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EIO):
        return f"{error.strerror}. Look at its rights and its drive."
    told = str(error)
    if "TorchScript" in told:
        return f"it is a TorchScript program, not tensors. Load it with torch.jit.load, and {_SAVE_TENSORS}"
    if forbidden := re.search(r"(?:GLOBAL|instantiate|call) (\S+)", told):
        return (
            f"it holds more than tensors and plain values ({forbidden[1]}), which could run code. "
            f"Where you trust it, load it with weights_only=False, and {_SAVE_TENSORS}"
        )
    return "it is truncated, damaged or another kind of file. Copy or download it again, or give another."


_SAVE_TENSORS = "save what is needed of it: torch.save(network.state_dict(), FILE)."


def load_tensors(path: Path) -> Any:
    """What ``torch.save`` or safetensors wrote, whatever the file's ending, onto the CPU: tensors and plain values.

    Raises:
        Exception: nearly any, where the file is damaged or holds something else.
    """
    with path.open("rb") as file:
        length, brace = int.from_bytes(file.read(8), "little"), file.read(1)
    if brace == b"{" and length < path.stat().st_size:  # of the header in the front
        return load_file(path)
    if zipfile.is_zipfile(path):
        # PyTorch writes a checksum of every tensor, and compares none.
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise OSError(f"{damaged} in it is damaged")
    with torch.serialization.safe_globals(list(HARMLESS)):
        return torch.load(path, map_location="cpu", weights_only=True)
