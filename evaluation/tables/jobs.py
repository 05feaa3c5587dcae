"""What makes the figures that a table lacks: programs of the project, one after the other."""

import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

import datasets
from conf.trained import saved_config
from datasets.pascal_part import NoObjects
from datasets.sample import Purpose
from evaluation.tables.found import Result
from evaluation.tables.rows import Entry, differences, training_numbers
from utils import checkpoints
from utils.errors import Stopped, UserError
from utils.logging import duration
from utils.run_directory import ROOT, argument
from utils.signals import TO_STOP

NO_DATA, NO_FILE, FAILED = "no data", "no file", "failed"
# Keys that are not for the foreground network.
OF_PARTS = re.compile(r"[+~]*(num_steps|num_parts|loss_weights|method|optimizer|perceptual|baselines?)\b")


@dataclass(frozen=True)
class Job:
    """One seed of an entry; ``seed`` is None for a checkpoint that is there.

    Attributes:
        folder: its run directory, or that of its evaluation.
    """

    entry: Entry
    seed: int | None
    folder: Path

    @property
    def training(self) -> list[str] | None:
        """``train.py`` and what it is given; None where nothing is trained."""
        if self.entry.kind != "training":
            return None
        return ["train.py", *self._keys(self.entry.keys), argument("output_dir", self.folder)]

    @property
    def evaluation(self) -> list[str]:
        """``evaluate.py`` and what it is given."""
        entry = self.entry
        if entry.kind == "training":  # the rest is in the checkpoint
            keys = [*self._keys(entry.data_keys), argument("checkpoint", self.folder)]
        elif entry.kind == "baseline":
            keys = [*self._keys(entry.keys), f"baseline=[{entry.spec.baseline}]"]
        else:
            keys = [*entry.keys, argument("checkpoint", entry.spec.checkpoint)]
        return ["evaluate.py", *keys, argument("output_dir", self.figures)]

    @property
    def figures(self) -> Path:
        """Where the evaluation writes to."""
        return self.folder / "evaluation" if self.entry.kind == "training" else self.folder

    @property
    def command(self) -> str:
        """What makes it, for a shell."""
        programs = filter(None, (self.training, self.evaluation))
        return " && ".join(shlex.join(["python", *words]) for words in programs)

    @property
    def title(self) -> str:
        """As messages name it."""
        return self.entry.title if self.seed is None else f"{self.entry.title}, seed {self.seed}"

    def run(self) -> bool:
        """Train, or go on with what is there, and evaluate; whether that ended well."""
        if self.entry.kind == "training":
            if _is_of_another(self.entry, self.folder):
                set_aside(self.folder)
            if not train(self.training, self.folder):
                return False
        if (self.figures / "metrics.json").exists():
            set_aside(self.figures)
        return program(*self.evaluation)

    def _keys(self, keys: Sequence[str]) -> list[str]:
        return [*keys, f"seed={self.seed}"]


def missing(results: Iterable[Result], seeds: Sequence[int], folder: Path) -> list[Job]:
    """What is left to do for these seeds; of what no seed plays a role in, one job.

    Args:
        folder: each job has one in it: ``ROW/seed_S``, or ``ROW/DATA/seed_S``.
    """
    jobs = []
    for result in results:
        entry, own = result.entry, folder / result.entry.folder
        done = {measured.seed for measured in result.measured}
        if entry.kind == "checkpoint":
            jobs += [] if done else [Job(entry, None, own)]
        elif entry.kind != "published":
            wanted = seeds if entry.spec.seeded else seeds[: not done]
            jobs += [Job(entry, seed, own / f"seed_{seed}") for seed in wanted if seed not in done]
    return jobs


def make(jobs: Sequence[Job], foreground_steps: int | None, folder: Path) -> dict[tuple[str, str], str]:
    """Do the jobs, one after the other; what goes wrong is told, and the others go on.

    Args:
        foreground_steps: see ``rows.Options``.
        folder: foreground networks have one in it.

    Returns:
        (row, data) -> ``NO_DATA``, ``NO_FILE`` or ``FAILED``, where not all is done.
    """
    statuses, of_data, seconds = {}, {}, []
    for place, job in enumerate(jobs):
        entry = job.entry
        if entry.kind == "checkpoint" and not Path(entry.spec.checkpoint).exists():
            print(f"{job.title} left out: there is no {entry.spec.checkpoint}.", flush=True)
            status = NO_FILE
        else:
            if entry.data not in of_data:
                of_data[entry.data] = state_of(entry, foreground_steps, folder / "foreground" / entry.data)
            status = of_data[entry.data]
        if not status:
            left = f"; about {duration(statistics.median(seconds) * (len(jobs) - place))} left" if seconds else ""
            print(f"{place + 1} of {len(jobs)}: {job.title}{left}", flush=True)
            begun = time.monotonic()
            if job.run():
                seconds.append(time.monotonic() - begun)
                continue
            status = FAILED
            print(f"error: {job.title} failed, the others go on.", file=sys.stderr, flush=True)
        statuses[entry.row, entry.data] = status
    return statuses


def state_of(entry: Entry, foreground_steps: int | None, run: Path) -> str:
    """Whether the data of an entry is there: nothing, or ``NO_DATA`` or ``FAILED``, which is told.

    Where predicted masks are missing and ``foreground_steps`` is given, ``run`` is trained to predict them.
    """
    try:
        _build(entry, "training")
        if not foreground_steps or entry.config.dataset.eval_mask != "supervised":
            _build(entry, "evaluation")
        elif not _has_masks(entry):
            steps = min(foreground_steps, entry.config.num_steps)
            return "" if predict_masks(entry.data_keys, steps, run) else FAILED
    except NoObjects as error:
        print(error, flush=True)
        return NO_DATA
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return FAILED
    return ""


def predict_masks(keys: Iterable[str], num_steps: int, run: Path) -> bool:
    """Train a foreground network and write its masks into ``supervisedlabels/``; whether that ended well."""
    keys = [key for key in keys if not OF_PARTS.match(key)]
    words = ["train.py", *keys, "method=foreground", f"num_steps={num_steps}", argument("output_dir", run)]
    return train(words, run) and program("predict.py", *keys, argument("checkpoint", run), "only_missing=true")


def train(words: Sequence[str], run: Path) -> bool:
    """Train, or go on with what is in ``run``; whether that ended well."""
    if checkpoints.latest(run) is not None:
        return program("train.py", argument("resume", run))
    set_aside(run)
    return program(*words)


def program(name: str, *arguments: str) -> bool:
    """Run one of the project's programs, its output with ours; whether it ended well.

    Ctrl-C reaches it too, and SIGTERM is passed on: it saves what it has, and only then this process ends.

    Raises:
        Stopped: a signal ended it; Ctrl-C here is a ``KeyboardInterrupt``.
    """
    with subprocess.Popen([sys.executable, str(ROOT / name), *arguments]) as process:
        before = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    for number in TO_STOP:
        if status in (-number, 128 + number):
            raise Stopped(number, "The same command goes on with what is left.")
    return status == 0


def set_aside(folder: Path) -> None:
    """Rename what is in the way: a run that ended before its first checkpoint, or what other keys gave."""
    if folder.exists():
        attempt = 1
        while (aside := folder.with_name(f"{folder.name}_old_{attempt}")).exists():
            attempt += 1
        folder.rename(aside)


def _is_of_another(entry: Entry, run: Path) -> bool:
    """Whether there is a run that has another config, or one that cannot be read."""
    if not (run / "config.yaml").is_file():
        return False
    try:
        own = OmegaConf.to_container(saved_config(run / "config.yaml"))
    except UserError:
        return True
    return bool(differences(entry.numbers, training_numbers(own)))


def _build(entry: Entry, purpose: Purpose) -> None:
    """Both splits, to see whether they are there (UserError)."""
    for split in ("train", "test"):
        datasets.build(entry.config, split, purpose)


def _has_masks(entry: Entry) -> bool:
    try:
        _build(entry, "evaluation")
    except UserError:
        return False
    return True
