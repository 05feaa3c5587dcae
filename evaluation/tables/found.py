"""What was measured already: run directories and evaluations on disk, and which rows of a table they belong to."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from omegaconf import OmegaConf

from conf.trained import FREE, IN_CHECKPOINT, MEASURED, saved_config
from conf.upgrade import upgrade
from evaluation.tables.rows import (
    Entry,
    baseline_numbers,
    data_of,
    data_read,
    differences,
    evaluation_numbers,
    is_in,
    leaves,
    training_numbers,
)
from utils import checkpoints
from utils.errors import UserError
from utils.sweep import metrics_after, metrics_in

# Folders of a run and of an evaluation in which there are none.
CLOSED = {"checkpoints", "code", "pictures", "wandb", "wandb_told", "label_maps", "cache"}
# What an evaluation's own config says of the training that its checkpoint is of.
OF_CHECKPOINT = ("seed", "num_parts", "method", "loss_weights", "augmentation", "segmenter")
FORGOTTEN = (*FREE, *IN_CHECKPOINT, *MEASURED)  # which an evaluation may be given in its own way
LISTED = 3  # what was left out of one row, before the rest is counted; and keys of one run


@dataclass(frozen=True)
class Measured:
    """Figures of one seed.

    Attributes:
        seed: None where there is none: of a checkpoint that was there.
        figures: metric -> percent.
        source: the run or evaluation.
        time: when they were written, seconds.
        root: ``dataset_root``, of what it is of.
        pictures: what tells its list of test pictures from others; None: that is not known.
    """

    seed: int | None
    figures: Mapping[str, float]
    source: Path
    time: float
    root: str = ""
    pictures: str | None = None


@dataclass
class Result:
    """An entry with what was measured of it, and why there is no more: ``no data``, ``failed``.

    Attributes:
        unevaluated: seed -> run that is trained, and lacks nothing but the evaluation.
    """

    entry: Entry
    measured: list[Measured] = field(default_factory=list)
    unevaluated: dict[int, Path] = field(default_factory=dict)
    status: str = ""

    def values(self, metric: str) -> list[float]:
        """Those of all seeds, percent."""
        return [measured.figures[metric] for measured in self.measured if metric in measured.figures]


class Source(Protocol):
    """What may belong to an entry; ``path`` names it."""

    path: Path

    def differences(self, entry: Entry) -> dict[str, tuple[Any, Any]] | None:
        """Keys that differ, with both values; None if it is of another method, baseline or data set altogether."""
        ...

    def measured(self, entry: Entry) -> Measured | str:
        """Its figures; or, in words, why it has none."""
        ...


@dataclass
class Evaluation:
    """A ``metrics.json``, of the checkpoint that it names; others have none, or stood beside label maps.

    Attributes:
        path: of the file.
        config: what it was made with, in the form of this version.
        figures: metric -> percent.
        checkpoint, updates: the file that was evaluated, and how far its training was.
        num_parts: K.
        baselines: module -> metric -> percent.
        time: when it was written.
        colours: of the parts; None: an earlier version has not kept them.
    """

    path: Path
    config: Mapping[str, Any]
    figures: Mapping[str, float]
    checkpoint: Path | None
    updates: int | None
    num_parts: int
    baselines: Mapping[str, Mapping[str, float]]
    time: float
    colours: Sequence[int] | None = None

    @classmethod
    def read(cls, path: Path) -> "Evaluation":
        """Raises ValueError, LookupError, TypeError, AttributeError or OSError where it is damaged."""
        content = json.loads(path.read_text())
        made = content["produced_by"]
        config = upgrade(made["config"])
        names = config.get("baselines") or {}
        beside = made["baselines"] if made["baselines"].keys() <= names.keys() else _by_place(made["baselines"], names)
        return cls(
            path=path,
            config=config,
            figures=_finite(metrics_in(content)),
            checkpoint=Path(made["checkpoint"]) if made.get("checkpoint") else None,
            updates=made.get("updates"),
            num_parts=made.get("num_parts") or config["num_parts"],
            baselines={name: _finite(metrics_in(figures)) for name, figures in beside.items()},
            time=path.stat().st_mtime,
            colours=made.get("colours"),
        )

    def differences(self, entry: Entry) -> dict[str, tuple[Any, Any]] | None:
        """As of a checkpoint that was there, see ``Source``."""
        if entry.kind != "checkpoint" or self.checkpoint is None or data_of(entry.plain) != data_of(self.config):
            return None
        asked = Path(entry.spec.checkpoint)
        same_file = self.checkpoint.parts[-len(asked.parts) :] == asked.parts
        return differences(entry.numbers, evaluation_numbers(self.config)) if same_file else None

    def measured(self, entry: Entry) -> Measured:
        return Measured(None, self.figures, self.path, self.time, *data_read(self.config))


def _by_place(figures: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Earlier versions named baselines by their titles, in the order of the config."""
    return dict(zip(names, figures.values(), strict=False))


@dataclass
class Baseline:
    """A baseline in an evaluation."""

    name: str
    evaluation: Evaluation

    @property
    def path(self) -> Path:
        return self.evaluation.path

    def differences(self, entry: Entry) -> dict[str, tuple[Any, Any]] | None:
        config = self.evaluation.config
        if entry.spec.baseline != self.name or entry.config is None or data_of(entry.plain) != data_of(config):
            return None
        num_parts = self.evaluation.num_parts
        return differences(entry.numbers, baseline_numbers(config, self.name, entry.spec.sees, num_parts))

    def measured(self, entry: Entry) -> Measured:
        seed = self.evaluation.config["seed"] if entry.spec.seeded else None
        figures = self.evaluation.baselines[self.name]
        return Measured(seed, figures, self.path, self.evaluation.time, *data_read(self.evaluation.config))


@dataclass
class Run:
    """A run directory.

    Attributes:
        path: the directory.
        config: its ``config.yaml``, in the form of this version.
        evaluations: those by evaluate.py of its checkpoints.
    """

    path: Path
    config: Mapping[str, Any]
    evaluations: list[Evaluation] = field(default_factory=list)

    @cached_property
    def numbers(self) -> dict[str, Any]:
        return training_numbers(self.config)

    @property
    def reached(self) -> int:
        """The step of its last checkpoint; 0: it has none."""
        newest = checkpoints.latest(self.path)
        return int(newest.stem.removeprefix("model_")) if newest else 0

    def differences(self, entry: Entry) -> dict[str, tuple[Any, Any]] | None:
        if entry.kind != "training" or data_of(entry.plain) != data_of(self.config):
            return None
        same_method = entry.plain["method"]["name"] == self.config["method"]["name"]
        return differences(entry.numbers, self.numbers) if same_method else None

    def measured(self, entry: Entry) -> Measured | str:
        """The newest evaluation of its last checkpoint by evaluate.py, or else its own at its end."""
        wanted, last = evaluation_numbers(entry.plain), self.config["num_steps"]
        fitting = [
            evaluation
            for evaluation in self.evaluations
            if evaluation.updates == last and not differences(wanted, evaluation_numbers(evaluation.config))
        ]
        seed, table = self.config["seed"], self.path / "evaluation.csv"
        if fitting:
            newest = max(fitting, key=lambda evaluation: evaluation.time)
            return Measured(seed, newest.figures, self.path, newest.time, *data_read(newest.config))
        try:
            own = metrics_after(table, last) if table.is_file() else None
            _finite(own or {})
        except (ValueError, TypeError, AttributeError) as error:
            return f"its evaluation.csv is damaged: {error}"
        lacking = differences(wanted, evaluation_numbers(self.config))
        if own is not None and not lacking:
            return Measured(seed, own, self.path, table.stat().st_mtime, *data_read(self.config))
        if self.reached != last:
            return f"it has come to step {self.reached} of {last}"
        return "it was not evaluated" + "".join(f" with {key}={value}" for key, (_, value) in lacking.items())


@dataclass
class Found:
    """What is on disk; ``broken`` says what cannot be read."""

    sources: list[Source]
    broken: list[str]


def find(roots: Iterable[Path]) -> Found:
    """Every run directory and every evaluation in some folders, and in folders in them."""
    configs: dict[Path, Path] = {}
    metrics: dict[Path, Path] = {}
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if name not in CLOSED and not name.startswith("."))
            for name, into in (("config.yaml", configs), ("metrics.json", metrics)):
                if name in files:
                    into.setdefault(Path(folder).resolve(), Path(folder, name))
    runs: dict[Path, Run] = {}
    evaluations, broken = [], []
    for place, path in configs.items():
        try:
            runs[place] = Run(path.parent, OmegaConf.to_container(saved_config(path)))
        except (UserError, OSError) as error:
            broken.append(f"{path.parent} left out: {_first_line(error)}")
    for path in metrics.values():
        try:
            evaluation = Evaluation.read(path)
        except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
            broken.append(f"{path} left out: it is damaged ({type(error).__name__}: {_first_line(error)}).")
            continue
        evaluations.append(evaluation)
        if (run := _run_of(evaluation, runs)) is None:
            continue
        if other := differences(of_checkpoint(run.config), of_checkpoint(evaluation.config)):
            broken.append(f"{path} left out: it is not of the run that is in {run.path} now: {_words(other)}.")
        else:
            run.evaluations.append(evaluation)
    baselines = [Baseline(name, evaluation) for evaluation in evaluations for name in evaluation.baselines]
    return Found([*runs.values(), *baselines, *evaluations], _few(broken, most=10))


def of_checkpoint(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation and the run that it is of have in common."""
    return {key: value for key, value in leaves(config) if is_in(key, OF_CHECKPOINT) and not is_in(key, FORGOTTEN)}


def _run_of(evaluation: Evaluation, runs: Mapping[Path, Run]) -> Run | None:
    """The one in whose directory it lies, wherever that was before; or else that of its checkpoint."""
    if evaluation.checkpoint is None:
        return None
    places = (*evaluation.path.resolve().parents, *evaluation.checkpoint.resolve().parents)
    return next((runs[place] for place in places if place in runs), None)


def results_of(entries: Sequence[Entry], found: Found, metrics: Sequence[str]) -> tuple[list[Result], list[str]]:
    """What was measured of each entry, and in words what was left out that a reader might look for.

    Args:
        metrics: of the table; what has none of them is of another kind of annotation, which is said.
    """
    results, notes = [], list(found.broken)
    claimed: set[int] = set()
    nearest: dict[int, tuple[Entry, dict[str, tuple[Any, Any]]]] = {}  # place of a source -> the entry it is most like
    for entry in entries:
        measured, said, unevaluated = [], [], {}
        for place, source in enumerate(found.sources if entry.config is not None else ()):
            other = source.differences(entry)
            if other is None:
                continue
            if other:
                if place not in nearest or len(other) < len(nearest[place][1]):
                    nearest[place] = (entry, other)
                continue
            claimed.add(place)
            figures = source.measured(entry)
            if isinstance(figures, str):
                said.append(f"{source.path} left out of {entry.title}: {figures}.")
                if isinstance(source, Run) and source.reached == source.config["num_steps"]:
                    unevaluated[source.config["seed"]] = source.path
            else:
                measured.append(figures)
                if not any(metric in figures.figures for metric in metrics):
                    said.append(f"{source.path}, {entry.title}, has no figure of this table.")
        newest, repeated = _newest_of_each_seed(measured)
        if len(kinds := _kinds_of_data(newest)) > 1:
            said.append(f"{entry.title} is of different data, which is to be the same: {'; '.join(kinds)}.")
        if entry.kind == "checkpoint" or entry.spec.seeded:
            said += [f"{old.source} left out of {entry.title}: {why}." for old, why in repeated]
        results.append(Result(entry, newest, unevaluated))
        notes += _few(said, f" of {entry.title}")
    for entry in entries:
        said = [
            f"{found.sources[place].path} left out of {entry.title}: {_words(other)}."
            for place, (closest, other) in nearest.items()
            if closest is entry and place not in claimed
        ]
        notes += _few(said, f" of {entry.title}")
    for data in dict.fromkeys(data_of(entry.plain) for entry in entries if entry.config is not None):
        same = [result for result in results if result.entry.config is not None and data_of(result.entry.plain) == data]
        one_each = [own for result in same for own in result.measured[:1]]
        if len(kinds := _kinds_of_data(one_each)) > 1:
            notes.append(f"Rows of {data[0]} are of different data and cannot be compared: {'; '.join(kinds)}.")
    return results, notes


def _kinds_of_data(measured: Iterable[Measured]) -> list[str]:
    """What tells the data apart that figures are of: lists of test pictures; where none is known, places."""
    measured = list(measured)
    listed = {own.pictures for own in measured if own.pictures}
    placed = {own.root for own in measured if not own.pictures}
    return sorted(listed) if len(listed) > 1 or not len(placed) > 1 else sorted(placed)


def _newest_of_each_seed(measured: Iterable[Measured]) -> tuple[list[Measured], list[tuple[Measured, str]]]:
    """Those that count, by seed; and the others, each with the reason."""
    newest: dict[int | None, Measured] = {}
    others = []
    for own in sorted(measured, key=lambda measured: measured.time, reverse=True):
        kept = newest.setdefault(own.seed, own)
        if kept is not own:
            seed = "" if own.seed is None else f" and of seed {own.seed} too"
            others.append((own, f"{kept.source} is newer{seed}"))
    return sorted(newest.values(), key=lambda measured: measured.seed or 0), others


def _finite(figures: dict[str, float]) -> dict[str, float]:
    """The figures; ValueError where one is no number, as damage and other programs leave it."""
    if wrong := [f"{name}={value}" for name, value in figures.items() if not math.isfinite(value)]:
        raise ValueError(f"{wrong[0]} is not finite")
    return figures


def _words(other: Mapping[str, tuple[Any, Any]]) -> str:
    said = [f"{key}={found} instead of {wanted}" for key, (found, wanted) in other.items()]
    more = f", and {len(said) - LISTED} more keys" if len(said) > LISTED else ""
    return ", ".join(said[:LISTED]) + more


def _few(said: Sequence[str], where: str = "", most: int = LISTED) -> list[str]:
    rest = len(said) - most
    return [*said[:most], f"{rest} more left out{where}."] if rest > 1 else list(said)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
