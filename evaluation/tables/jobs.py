"""What makes the figures that a table lacks: programs of the project, one after the other."""

import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

import datasets
from conf.modules import module
from conf.trained import saved_config
from datasets.pascal_part import NoObjects
from datasets.sample import Purpose
from evaluation.protocols.truth_free import Protocol as TruthFree
from evaluation.tables.found import Result
from evaluation.tables.rows import Entry, differences, training_numbers
from utils import checkpoints
from utils.errors import Stopped, UserError
from utils.forecast import duration
from utils.run_directory import ROOT, argument
from utils.signals import TO_STOP

NO_DATA, NOT_ANNOTATED, NO_KEYPOINTS, NO_FILE, FAILED = "no data", "not annotated", "no keypoints", "no file", "failed"
WITHOUT_TRUTH = TruthFree.metric_names
# Keys that are not for the foreground network.
OF_PARTS = re.compile(r"[+~]*(num_steps|num_parts|loss_weights|method|optimizer|perceptual|baselines?)\b")


@dataclass(frozen=True)
class Job:
    """One seed of an entry; ``seed`` is None for a checkpoint that is there.

    Attributes:
        folder: its run directory, or that of its evaluation.
        trained: the run is there, to be evaluated.
    """

    entry: Entry
    seed: int | None
    folder: Path
    trained: bool = False

    @property
    def training(self) -> list[str] | None:
        """``train.py`` and what it is given; it goes on with what is there. None where nothing is trained."""
        if self.entry.kind != "training" or self.trained:
            return None
        if checkpoints.latest(self.folder) is not None:
            return ["train.py", argument("resume", self.folder)]
        return ["train.py", *self._keys(self.entry.keys), argument("output_dir", self.folder)]

    @property
    def evaluation(self) -> list[str]:
        """``evaluate.py`` and what it is given."""
        entry = self.entry
        if entry.kind == "training":  # the rest is in the checkpoint
            own = [key for key in entry.keys if key.startswith("evaluation.") and key not in entry.data_keys]
            keys = [*self._keys([*entry.data_keys, *own]), argument("checkpoint", self.folder)]
        elif entry.kind == "baseline":
            keys = [*self._keys(entry.keys), f"baseline=[{entry.spec.baseline}]"]
        else:
            keys = [*entry.keys, argument("checkpoint", entry.spec.checkpoint)]
        return ["evaluate.py", *keys, argument("output_dir", self.figures)]

    @property
    def figures(self) -> Path:
        """Where the evaluation writes to: where there is none yet."""
        folder = self.folder / "evaluation" if self.entry.kind == "training" else self.folder
        return _first(folder, lambda own: not (own / "metrics.json").exists())

    @property
    def command(self) -> str:
        """What makes it, for a shell."""
        return _in_shell(*filter(None, (self.training, self.evaluation)))

    @property
    def title(self) -> str:
        """As messages name it."""
        return self.entry.title if self.seed is None else f"{self.entry.title}, seed {self.seed}"

    def run(self) -> bool:
        """Train, or go on with what is there, and evaluate; whether that ended well."""
        return (self.training is None or program(*self.training)) and program(*self.evaluation)

    def _keys(self, keys: Sequence[str]) -> list[str]:
        return [*keys, f"seed={self.seed}"]


def missing(results: Iterable[Result], seeds: Sequence[int], folder: Path) -> list[Job]:
    """What is left to do for these seeds; of what no seed plays a role in, one job.

    Args:
        folder: each job has one in it: ``ROW/seed_S``, or ``ROW/DATA/seed_S``, with a number behind it where something
            else is there. A run that is trained is evaluated where it is.
    """
    jobs = []
    for result in results:
        entry, own = result.entry, folder / result.entry.folder
        done = {measured.seed for measured in result.measured}
        if entry.kind == "checkpoint":
            jobs += [] if done else [Job(entry, None, own)]
        elif entry.kind != "published":
            wanted, there = seeds if entry.spec.seeded else seeds[: not done], result.unevaluated
            jobs += [
                Job(entry, seed, there.get(seed) or _place(entry, own / f"seed_{seed}"), trained=seed in there)
                for seed in wanted
                if seed not in done
            ]
    return jobs


def make(
    jobs: Sequence[Job], metrics: Sequence[str], foreground_steps: int | None, folder: Path
) -> dict[tuple[str, str], str]:
    """Do the jobs, one after the other; what goes wrong is told, and the others go on.

    Args:
        metrics: which figures are wanted.
        foreground_steps: see ``rows.Options``.
        folder: foreground networks have one in it.

    Returns:
        (row, data) -> ``NO_DATA``, ``NOT_ANNOTATED``, ``NO_KEYPOINTS``, ``NO_FILE`` or ``FAILED``, where not all is
        done.
    """
    statuses, of_data, seconds = {}, {}, []
    for place, job in enumerate(jobs):
        entry = job.entry
        if entry.kind == "checkpoint" and not Path(entry.spec.checkpoint).exists():
            print(f"{job.title} left out: there is no {entry.spec.checkpoint}.", flush=True)
            status = NO_FILE
        else:
            data = repr((entry.data, entry.plain["dataset"]))  # rows may differ in masks
            if lacks_keypoints(entry):
                status = NO_KEYPOINTS
            else:
                if data not in of_data:
                    of_data[data] = state_of(entry, metrics, foreground_steps, foreground_run(entry, folder))
                status = of_data[data]
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


def state_of(entry: Entry, metrics: Sequence[str], foreground_steps: int | None, run: Path) -> str:
    """Whether the data of an entry is there: nothing, or ``NO_DATA``, ``NOT_ANNOTATED`` or ``FAILED``, which is told.

    Where predicted masks are missing and ``foreground_steps`` is given, ``run`` is trained to predict them.
    """
    try:
        if lacks_annotation(entry, metrics):  # which no masks mend
            return NOT_ANNOTATED
        _build(entry, "training")
        if not needs_masks(entry, foreground_steps):
            _build(entry, "evaluation")
            return ""
        training, prediction = mask_programs(entry, foreground_steps, run)
        return "" if program(*training) and program(*prediction) else FAILED
    except NoObjects as error:
        print(error, flush=True)
        return NO_DATA
    except UserError as error:
        print(f"error: {entry.title}, and what is of the same data: {error}", file=sys.stderr, flush=True)
        return FAILED


def lacks_annotation(entry: Entry, metrics: Iterable[str]) -> bool:
    """Whether there is nothing to compare with, and figures that need no truth are not asked for; which is told."""
    dataset = datasets.build(entry.config, "test", "prediction")
    if dataset.keypoint_names or dataset.part_names or dataset.pixel_classes or set(metrics) & set(WITHOUT_TRUTH):
        return False
    print(
        f"{entry.title}, and what is of the same data, left out: {dataset.name} has no annotation to compare with. "
        f"metrics=[{','.join(WITHOUT_TRUTH)}] is a table of figures that need none.",
        flush=True,
    )
    return True


def lacks_keypoints(entry: Entry) -> bool:
    """Whether it is a baseline that needs keypoints, on a data set that is there and has none, which is told."""
    if entry.kind != "baseline" or not getattr(module("baseline", entry.spec.baseline), "NEEDS_KEYPOINTS", False):
        return False
    try:
        dataset = datasets.build(entry.config, "test", "prediction")  # masks may be missing
    except UserError:
        return False
    if not dataset.keypoint_names:
        print(f"{entry.title} left out: {dataset.name} has no keypoints.", flush=True)
    return not dataset.keypoint_names


def commands(jobs: Iterable[Job], foreground_steps: int | None, folder: Path) -> list[str]:
    """What makes the jobs, for a shell; masks that they need and that are not there, see ``make``, first.

    Those that a data set has no keypoints for are left out, which is told.
    """
    jobs = [job for job in jobs if not lacks_keypoints(job.entry)]
    of_data = {job.entry.data: job.entry for job in jobs}
    masks = [
        _in_shell(*mask_programs(entry, foreground_steps, foreground_run(entry, folder)))
        for entry in of_data.values()
        if needs_masks(entry, foreground_steps)
    ]
    return [*masks, *(job.command for job in jobs)]


def foreground_run(entry: Entry, folder: Path) -> Path:
    """Where the network is trained that predicts the masks of an entry's data."""
    return _first(folder / "foreground" / entry.data, lambda run: _is_free(run) or checkpoints.latest(run) is not None)


def needs_masks(entry: Entry, foreground_steps: int | None) -> bool:
    """Whether predicted masks are missing, and a network is to be trained for them."""
    return bool(foreground_steps) and entry.config.dataset.eval_mask == "supervised" and not _has_masks(entry)


def mask_programs(entry: Entry, foreground_steps: int, run: Path) -> tuple[list[str], list[str]]:
    """Two programs and what they are given: ``run`` is trained, and writes masks into ``supervisedlabels/``."""
    keys = [key for key in entry.data_keys if not OF_PARTS.match(key)]
    steps = min(foreground_steps, entry.config.num_steps)
    training = ["train.py", *keys, "method=foreground", f"num_steps={steps}", argument("output_dir", run)]
    if checkpoints.latest(run) is not None:
        training = ["train.py", argument("resume", run)]
    return training, ["predict.py", *keys, argument("checkpoint", run), "only_missing=true"]


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


def _place(entry: Entry, folder: Path) -> Path:
    """Where a run of an entry can be made, or gone on with."""
    if entry.kind != "training":
        return folder
    return _first(folder, lambda run: _is_free(run) or (checkpoints.latest(run) is not None and _is_of(entry, run)))


def _first(folder: Path, fits: Callable[[Path], bool]) -> Path:
    """The folder, or the first that fits of ``FOLDER_2``, ``FOLDER_3`` and so on."""
    own, number = folder, 1
    while not fits(own):
        number += 1
        own = folder.with_name(f"{folder.name}_{number}")
    return own


def _is_free(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


def _in_shell(*programs: Sequence[str]) -> str:
    return " && ".join(shlex.join(["python", *words]) for words in programs)


def _is_of(entry: Entry, run: Path) -> bool:
    """Whether a run has an entry's config."""
    try:
        own = OmegaConf.to_container(saved_config(run / "config.yaml"))
    except UserError:
        return False
    return not differences(entry.numbers, training_numbers(own))


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
