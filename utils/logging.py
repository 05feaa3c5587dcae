"""What a run tells: tables in its directory, a progress bar, and Weights & Biases."""

import base64
import csv
import io
import json
import os
import secrets
import shlex
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from utils.console import SECONDS_BETWEEN_LINES, Record, say, say_progress, stderr
from utils.errors import UserError
from utils.files import flush_to_disk, written_whole
from utils.forecast import duration
from utils.memory import peak_memory_mb
from utils.page import Page, State
from utils.run_directory import RunDirectory

WANDB_ID = "wandb_id.txt"  # in the run directory
WANDB_FILES = "wandb_files.json"  # beside it: the last file of each kind that was added
WANDB_TOLD = "wandb_told"  # and by step what was told that neither tables nor pictures of the run have
PNG = "image/png;base64"  # what a picture is in there
RECENT = 100  # steps by which the time that is left is told
# Tables, and what stands before their numbers' names on W&B.
TABLES = {"metrics": "train"} | {name: name for name in ("timing", "evaluation", "part_areas", "largest_part")}


class Table:
    """A CSV file with a column ``step``, on disk after every row.

    A column that appears later is added to the file; rows without a value leave it empty.

    Args:
        path: the file; what it holds stays, up to ``last_step``.
        last_step: rows of later steps are cut, and so is a row that was not written to its end.

    Raises:
        UserError: on every use, where the file cannot be written.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self.path = path
        self.columns: list[str] = []
        if path.exists() and (rows := self.rows()):
            self.columns = list(rows[0])
            self._rewrite([row for row in rows if None not in row.values() and int(row["step"]) <= last_step])

    def rows(self) -> list[dict[str, str]]:
        """What is in the file, by column."""
        with self._told(), self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Appends a row; ``values`` are numbers by column."""
        row = {"step": step, **values}
        if new := [column for column in row if column not in self.columns]:
            rows = self.rows() if self.columns else []
            self.columns += new
            self._rewrite(rows)
        # "r+" and not "a": a file that has vanished is not begun anew, without its rows.
        with self._told(), self.path.open("r+", newline="") as file:
            file.seek(0, os.SEEK_END)
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)

    def flush(self) -> None:
        """Returns once all rows would survive a power cut."""
        if self.columns:
            with self._told():
                flush_to_disk(self.path)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with self._told(), written_whole(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"Cannot write {self.path}: {error.strerror or error}. The run stops, since its figures would be lost; "
                "it can go on from its last checkpoint with resume=."
            ) from error


class WandbRun:
    """A run's Weights & Biases run, the same one whenever the run directory is opened again.

    Offline each opening makes a folder of its own. `wandb sync` writes each over the beginning of the run's history,
    whatever another one has put there. So each begins with what the run's tables and pictures have from before,
    with what it was told to keep, and with the last file of each kind that was added; the older ones, which it
    supersedes, get another name.

    Nothing that goes wrong here ends the program: it is told once, and nothing more is sent.

    Args:
        run: its ``wandb_id.txt`` keeps the id, its ``wandb/`` the files.
        config: of the run; ``config.logging`` says where to log.
        say: prints a line.
        step: that the run has come to; what is of later ones on the disk will be made again.
    """

    def __init__(self, run: RunDirectory, config: DictConfig, say: Callable[[str], None], step: int = 0) -> None:
        self.say, self.step, self._path = say, step, run.path
        self.run: Any = None
        mode = config.logging.wandb
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or "auto"
        if mode == "disabled" or self._attempt(_wandb) is None:
            return
        if mode == "auto":
            mode = "online" if self._attempt(lambda: _wandb().login(prompt=False)) else "offline"
        is_known = (run.path / WANDB_ID).exists()
        self._attempt(lambda: self._start(run.path, config, mode))
        if self.run is None and mode == "online":
            say("W&B: logging offline instead.")
            self._attempt(lambda: self._start(run.path, config, "offline"))
        if is_known and self.run is not None and not getattr(self.run, "resumed", False):  # which is known online alone
            self._attempt(lambda: self._catch_up(run.path))
        if self.run is not None and self.run.settings.mode == "offline":
            say(f"W&B: offline. To upload: wandb sync {shlex.quote(self.run.settings.sync_dir)}")

    def log(self, step: int, values: Mapping[str, Any], keep: bool = False) -> None:
        """Numbers, pictures (H, W, 3 or 4) uint8, or tables, which are lists of rows with both, by name.

        Args:
            keep: what the run has in no table and no picture of its own: on disk, for the folders to come.
        """
        self._attempt(lambda: self.run and self._send(step, values))
        if keep:
            self._attempt(lambda: self.run and _keep(self._path, step, values))

    def add(self, file: Path, kind: str) -> None:
        """A file, as an artifact of the run; a later one of its kind is another version."""
        self._attempt(lambda: self.run and self._add(file, kind))

    def alert(self, title: str, message: str) -> None:
        """A message that W&B sends on."""
        self._attempt(lambda: self.run and self.run.alert(title, message))

    def close(self, exit_code: int = 0) -> None:
        """Ends the W&B run; ``exit_code`` other than 0 marks it as failed."""
        self._attempt(lambda: self.run and self.run.finish(exit_code=exit_code))
        self.run = None

    def _send(self, step: int, values: Mapping[str, Any]) -> None:
        # Pictures are written to the system's folder for temporary files, which may be full.
        self.run.log({"step": step, **{name: _medium(value) for name, value in values.items()}})

    def _add(self, file: Path, kind: str) -> None:
        self.run.log_artifact(str(file), f"{self.run.id}_{kind}", kind)
        place = file.resolve()
        inside = place.is_relative_to(self._path.resolve())
        place = place.relative_to(self._path.resolve()) if inside else place  # a run may be moved
        with written_whole(self._path / WANDB_FILES) as part:
            part.write_text(json.dumps(self._added() | {kind: str(place)}) + "\n")

    def _added(self) -> dict[str, str]:
        kept = self._path / WANDB_FILES
        return json.loads(kept.read_text()) if kept.is_file() else {}

    def _start(self, path: Path, config: DictConfig, mode: str) -> None:
        options, identity = config.logging, path / WANDB_ID
        known = identity.read_text().strip() if identity.exists() else ""
        name = known or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        identity.write_text(name + "\n")  # first, so that there is one however soon the program is ended
        self.run = _wandb().init(
            id=name,
            # Offline W&B warns that it does not ask the server whether the run exists.
            resume="allow" if known and mode != "offline" else None,
            project=options.project,
            entity=options.entity,
            group=options.group,
            name=options.name or path.resolve().name,
            tags=list(options.tags) or None,
            config=OmegaConf.to_container(config),
            dir=os.environ.get("WANDB_DIR") or str(path),
            mode=mode,
            reinit="finish_previous",  # a run before in this process that was given up is not gone on with
            settings=_wandb().Settings(console="off", silent=mode == "offline"),
        )
        # W&B's own counter only grows: a resumed run logs steps again that were logged after its last checkpoint.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def _catch_up(self, path: Path) -> None:
        for step, values in _told_before(path, self.step):
            self._send(step, values)
        for kind, file in self._added().items():
            if (path / file).is_file():
                self._add(path / file, kind)
        current = Path(self.run.settings.sync_dir)
        for folder in current.parent.glob(f"offline-run-*-{self.run.id}"):
            if folder != current:
                folder.rename(folder.with_name(f"superseded-{folder.name}"))

    def _attempt(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:
            self.say(f"W&B: {error!r}. Going on without it; the tables in the run directory stay.")
            self.run = None
            if isinstance(error, ConnectionError):
                with suppress(Exception):
                    _wandb().teardown()  # the end of its own process: else there is a traceback when the program ends


def _wandb() -> Any:
    """The library, which takes a second to import, and which a run that does not log to it need not have."""
    import wandb

    return wandb


def _medium(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _wandb().Image(value)
    if isinstance(value, list):
        return _wandb().Table([*value[0]], [[_medium(cell) for cell in row.values()] for row in value])
    return value


def _keep(run: Path, step: int, values: Mapping[str, Any]) -> None:
    """Add what was told of a step to the file that has it; pictures are PNG in it."""
    path = run / WANDB_TOLD / f"{step}.json"
    path.parent.mkdir(exist_ok=True)
    before = json.loads(path.read_text()) if path.is_file() else {}
    with written_whole(path) as part:
        part.write_text(json.dumps(before | dict(values), default=_encoded))


def _encoded(picture: np.ndarray) -> dict[str, str]:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return {PNG: base64.b64encode(file.getvalue()).decode()}


def _decoded(value: dict[str, Any]) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(value[PNG])))) if value.keys() == {PNG} else value


def _told_before(run: Path, last_step: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """What a run's tables and pictures hold, and what was kept, as it was sent to W&B, by step up to one."""
    told: list[tuple[int, dict[str, Any]]] = []
    for table, prefix in TABLES.items():
        path = run / f"{table}.csv"
        with path.open(newline="") if path.is_file() else nullcontext(()) as lines:
            for row in csv.DictReader(lines):
                if None in row.values():
                    continue  # cut off
                values = {f"{prefix}/{name}": float(value) for name, value in row.items() if value and name != "step"}
                told.append((int(row["step"]), values))
    for path in sorted((run / "pictures").glob("*_*.png")):
        name, _, step = path.stem.rpartition("_")
        if step.isdecimal() and int(step) <= last_step:
            with Image.open(path) as picture:
                told.append((int(step), {f"pictures/{name}": np.asarray(picture)}))
    for path in (run / WANDB_TOLD).glob("*.json"):
        if int(path.stem) <= last_step:
            told.append((int(path.stem), json.loads(path.read_text(), object_hook=_decoded)))
    return (row for row in sorted(told, key=lambda row: row[0]) if row[0] <= last_step)


class RunLogger:
    """Everything a training run tells. Steps are the number of updates done.

    In the run directory: ``metrics.csv``, ``timing.csv`` (seconds per step, pictures and evaluations left out, and the
    peak memory so far in MiB), ``evaluation.csv``, ``part_areas.csv`` and ``largest_part.csv``, with a column ``step``;
    ``pictures/NAME_STEP.png``; ``train.log``, what was printed and a line of progress at least every minute; and
    ``index.html``, which shows all of these. On stderr: a progress bar, or these lines where it is no terminal. On
    Weights & Biases: the config, the same numbers and pictures under ``train/``, ``timing/``, ``evaluation/``,
    ``part_areas/`` and ``pictures/``, and a table of held-out pictures.

    Args:
        run: where to write.
        config: of the run.
        resumed_step: updates in the checkpoint that the run goes on from; rows of later steps are cut.
    """

    def __init__(self, run: RunDirectory, config: DictConfig, resumed_step: int = 0) -> None:
        self.pictures = run.path / "pictures"
        self.num_steps, self._evaluation_every = config.num_steps, config.evaluation.every
        self._losses = ["total", *config.loss_weights]
        self._tables = {name: Table(run.path / f"{name}.csv", resumed_step) for name in TABLES}
        self._record = Record(run.path / "train.log")
        self._record.add(f"{shlex.join(sys.argv)} ({resumed_step} of {self.num_steps} steps done)")
        self._page = Page(run.path, self.say) if config.logging.page else None
        self._last: dict[str, float] = {}
        self._step = resumed_step
        self._line_due, self._skipped = 0.0, 0
        columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        description = TextColumn("{task.description}")
        self._progress = Progress(*columns, description, console=stderr, disable=not stderr.is_terminal)
        self._task = self._progress.add_task("", total=self.num_steps, completed=resumed_step)
        self._wandb = WandbRun(run, config, self.say, resumed_step)
        self._progress.start()
        # Seconds spent in steps, in all and when each of the last was done; of how many steps a row is to tell.
        self._spent, self._marks, self._row_began = 0.0, deque[float](maxlen=RECENT + 1), (0.0, 0)
        self._steps, self._evaluation_seconds, self._clock = 0, 0.0, time.perf_counter()

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        self._wandb.close(0 if kind is None else 1)
        ended = str(error) or kind.__name__ if kind else ""
        if kind is None:
            self._record.add("Done.")
        elif issubclass(kind, UserError | KeyboardInterrupt):  # which ``conf.app`` tells
            self._record.add(f"error: {ended}" if issubclass(kind, UserError) else ended)
        else:
            self._record.add("".join(traceback.format_exception(kind, error, trace)).rstrip())
        if self._page:
            self._page.write(self._state(ended or "done"))
        self._record.close()

    def say(self, message: str) -> None:
        """Prints a line on stderr, above the progress bar."""
        say(message)

    def skipped(self, messages: Sequence[str]) -> None:
        """Says of each picture that another one stands in for what was wrong with it, and counts them."""
        for message in messages:
            self._skipped += 1
            self.say(f"Skipped picture {self._skipped}: {message}")

    def advance(self, step: int) -> None:
        """Counts an update; called after every one."""
        self._spend()
        self._marks.append(self._spent)
        self._steps += 1
        loss = f"loss {self._last['total']:.4g}" if "total" in self._last else ""
        self._progress.update(self._task, completed=step, description=f"{loss}  {self._speed()}")
        if time.monotonic() >= self._line_due and step < self.num_steps:
            self._tell(step)
        self._step = step
        if self._page:
            self._page.refresh(self._state)

    def _state(self, outcome: str = "running") -> State:
        return State(self._step, self.num_steps, outcome, self.seconds_per_step(), self.seconds_left(self._step))

    def seconds_per_step(self) -> float | None:
        """Of the last hundred steps, the first one left out, waiting for the device until now counted as theirs."""
        self._spend()
        return (self._spent - self._marks[0]) / (len(self._marks) - 1) if len(self._marks) > 1 else None

    def seconds_left(self, step: int) -> float | None:
        """Until the end of the run at this speed, with evaluations that take as long as the last one did."""
        if (pace := self.seconds_per_step()) is None:
            return None
        every = self._evaluation_every or self.num_steps
        evaluations = -(-self.num_steps // every) - step // every if step < self.num_steps else 0
        return pace * (self.num_steps - step) + self._evaluation_seconds * evaluations

    def log(self, step: int, scalars: Mapping[str, float | torch.Tensor]) -> None:
        """Losses, ``total``, ``learning_rate``, ``gradient_norm``; and the time per step since the last call."""
        values = {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in scalars.items()}
        self._spend()  # waiting for the device is part of the steps
        self._add("metrics", step, values)
        spent, steps = self._spent - self._row_began[0], self._steps - self._row_began[1]
        if steps:
            self._add("timing", step, {"seconds_per_step": spent / steps, "peak_memory_mb": peak_memory_mb()})
        self._row_began = self._spent, self._steps
        self._last = values
        if step == self.num_steps:
            self._tell(step)
        self._clock = time.perf_counter()

    def _spend(self) -> None:
        now = time.perf_counter()
        self._spent, self._clock = self._spent + now - self._clock, now

    def _speed(self) -> str:
        pace = self.seconds_per_step()
        return "" if pace is None else f"{pace:.3g} s/step"

    def _tell(self, step: int) -> None:
        """A line of progress."""
        self._line_due = time.monotonic() + SECONDS_BETWEEN_LINES
        losses = [f"{name} {self._last[name]:.4g}" for name in self._losses if name in self._last]
        left = self.seconds_left(step)
        rest = [", ".join(losses), self._speed(), f"{duration(left)} left" if left else ""]
        say_progress("  ".join(filter(None, [f"step {step}/{self.num_steps}", *rest])))

    def log_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics in percent, by name."""
        self._add("evaluation", step, {name: float(value) for name, value in metrics.items()})
        figures = ", ".join(f"{name} {value:.1f}" for name, value in metrics.items())
        self._record.add(f"evaluated after {step} steps: {figures}")
        now = time.perf_counter()  # an evaluation is not part of a step
        self._evaluation_seconds, self._clock = now - self._clock, now

    def log_part_areas(self, step: int, shares: Sequence[float]) -> None:
        """Each part's share of the foreground of the pictures that are shown all along."""
        areas = {f"part_{part}": 100 * share for part, share in enumerate(shares, start=1)}
        self._add("part_areas", step, areas)

    def log_test_pictures(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table of held-out pictures, on Weights & Biases alone: texts, numbers and pictures by column."""
        self._wandb.log(step, {"evaluation/pictures": [*rows]}, keep=True)
        self._clock = time.perf_counter()

    def log_largest_part(self, step: int, part: int, share: float) -> list[tuple[int, int, float]]:
        """Which part, from 1, holds most of the foreground of training crops, and its share of it.

        Returns:
            Step, part and share so far, those before the run was interrupted among them.
        """
        self._add("largest_part", step, {"part": part, "share": share})
        rows = self._tables["largest_part"].rows()
        return [(int(row["step"]), int(row["part"]), float(row["share"])) for row in rows]

    def warn(self, title: str, message: str) -> None:
        """A line on stderr, and an alert on Weights & Biases, which sends it on to whoever has asked for alerts."""
        self.say(f"warning: {title}: {message}")
        self._wandb.alert(title, message)

    def flush(self) -> None:
        """To be called before a checkpoint is saved: the rows of its steps are never made again."""
        for table in self._tables.values():
            table.flush()

    def has_evaluation(self, step: int) -> bool:
        """Whether the run was evaluated at this step."""
        table = self._tables["evaluation"]
        return bool(table.columns) and str(step) in [row["step"] for row in table.rows()]

    def log_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures (H, W, 3 or 4) uint8, RGB or RGBA, by name. One that cannot be written is told, and left out."""
        for name, picture in pictures.items():
            path = self.pictures / f"{name}_{step}.png"
            try:
                self.pictures.mkdir(exist_ok=True)
                Image.fromarray(picture).save(path)
            except OSError as error:
                self.say(f"warning: cannot write {path}: {error.strerror or error}. Going on without it.")
        self._wandb.log(step, {f"pictures/{name}": picture for name, picture in pictures.items()})
        self._clock = time.perf_counter()

    def _add(self, table: str, step: int, values: dict[str, float]) -> None:
        self._tables[table].add(step, values)
        self._wandb.log(step, {f"{TABLES[table]}/{name}": value for name, value in values.items()})


class Silence(RunLogger):
    """What the other processes of a run on several devices have for a logger: it tells nothing and writes nothing."""

    def _nothing(self, *_: object, **__: object) -> None:
        pass

    __init__ = say = warn = skipped = advance = log = log_evaluation = log_pictures = flush = __exit__ = _nothing
