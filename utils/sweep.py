"""Sweeps: many jobs from one command, ``python train.py -m seed=1,2,3 dataset_name=CUB``, through any Hydra launcher.

A sweep's directory, ``hydra.sweep.dir``, holds

    NAME/               the run directory of each job, named after its overrides: ``num_parts_4+seed_1``
    jobs/NAME.yaml      its overrides, and how it ended
    jobs/NAME.log       what it printed, where it ran in a process of its own
    sweep.yaml          the command, and the keys that the jobs differ in
    sweep.csv           the table: a row for each job
    sweep_mean.csv      mean and standard deviation over seeds: a row for each setting

``python -m utils.sweep DIR`` makes the table again from these, for example after a failed job was run again.

    python train.py -m seed=1,2,3 num_parts=4,8 dataset_name=CUB
    python train.py resume=runs/sweeps/DATE/num_parts_4+seed_1
    python -m utils.sweep runs/sweeps/DATE
"""

import conf.start  # noqa: F401

# isort: split
import csv
import itertools
import json
import multiprocessing
import os
import re
import shlex
import shutil
import statistics
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE
from rich.table import Table

from utils.console import say, stdout
from utils.once import keeping

ROOT = Path(__file__).resolve().parents[1]
SWEEP = "sweep.yaml"  # in the sweep's directory
SHOWN = {"loss_total": ".4g", "seconds": ".0f"}  # of training, in the table that is printed, and how; files have all

# For conf/train.yaml: a value, or another one where it is null.
OmegaConf.register_new_resolver(
    "either", lambda first, second: second if first is None else os.path.expanduser(first), replace=True
)


@dataclass
class Job:
    """One job of a sweep, as ``jobs/NAME.yaml`` keeps it.

    Attributes:
        name: of its directory and its W&B run.
        number: place in the sweep, from 0.
        overrides: swept key -> value.
        directory: its run directory if that is not ``SWEEP/NAME``: the one that it resumes.
        status: as of a process: 0, 1 (a fault of the code), 2 (a mistake of the user's); None until it has ended.
        error: why it failed.
        metrics: in percent, by name; read from its directory.
        training: likewise its last losses, as ``loss_NAME``, and the ``seconds`` that its steps took.
    """

    name: str
    number: int
    overrides: dict[str, str]
    directory: str | None = None
    status: int | None = None
    error: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    training: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return _label(self.overrides.items()) or self.name

    @property
    def outcome(self) -> str:
        return {0: "done", None: "unfinished"}.get(self.status, "failed")

    def save(self, sweep: Path) -> None:
        (sweep / "jobs" / f"{self.name}.yaml").write_text(yaml.safe_dump(asdict(self), sort_keys=False))


class SweepStart(Callback):
    """Hydra's hook before the first job, in the process of the command: checks all jobs, makes the sweep's directory.

    Ends the process with status 2 where that cannot be done; an exception Hydra would make a warning.

    Attributes:
        refused: what is wrong with a job, from the name of its config and its overrides. Of the program; None: nothing
            is asked.
    """

    refused: ClassVar[Callable[[str, list[str]], str | None] | None] = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        swept = [override.get_key_element() for override in overrides if override.is_sweep_override()]
        sweep, message = Path(config.hydra.sweep.dir), _mistake(overrides)
        try:
            if not message:
                sweep.mkdir(parents=True, exist_ok=True)
                if any(sweep.iterdir()):
                    raise FileExistsError(0, "it is not an empty directory")
                (sweep / "jobs").mkdir()
                (sweep / SWEEP).write_text(yaml.safe_dump({"command": list(sys.argv), "swept": swept}))
        except OSError as error:
            message = f"Cannot begin a sweep in {sweep}: {error.strerror}. Give another output_dir."
        if message:
            print(f"error: {message}", file=sys.stderr)
            sys.exit(2)
        HydraConfig.instance().set_config(config)  # Hydra does so for jobs only; current() asks it, and messages do
        OmegaConf.set_readonly(config.hydra, None)
        if wrong := _refused_jobs(config.hydra.job.config_name, overrides, type(self).refused):
            print(*wrong, sep="\n", file=sys.stderr)
            shutil.rmtree(sweep)
            sys.exit(2)
        # joblib replaces a worker whose memory has grown, as that of every training does.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
        # submitit's processes start in this directory, not in the program's.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def _mistake(overrides: Sequence[Override]) -> str:
    """What no sweep can be begun with, or nothing."""
    for override in overrides:
        if override.get_key_element() == "output_dir" and override.value() == "":
            return "output_dir is empty: give one, or leave it out."
        if override.is_sweep_override() and override.get_key_element() == "output_dir":
            return "output_dir is the directory of the whole sweep, each job has one in it: give one, or none."
        values = [str(value) for value in override.sweep_iterator()] if override.is_choice_sweep() else []
        if len(set(values)) < len(values):
            return f"{override.input_line} makes the same job twice: give each value once."
    if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return (
            "A sweep starts its jobs itself: run it as one process, without torchrun or several tasks of srun. Under "
            "SLURM, hydra/launcher=submitit_slurm starts each job with its devices."
        )
    return ""


def _refused_jobs(
    config_name: str, overrides: Sequence[Override], refused: Callable[[str, list[str]], str | None] | None
) -> list[str]:
    """What is wrong with each job that cannot start, in a line, once if it is the same in all, and that none does."""
    if refused is None:
        return []
    if any(override.is_sweep_override() and not override.is_discrete_sweep() for override in overrides):
        return []  # the launcher tells it
    given = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [f"{override.get_key_element()}={override.get_value_element_as_str()}"]
        for override in overrides
    ]
    swept = [place for place, override in enumerate(overrides) if override.is_sweep_override()]
    with keeping():
        mistakes = {job: refused(config_name, list(job)) for job in itertools.product(*given)}
    if not any(mistakes.values()):
        return []
    if len(set(mistakes.values())) == 1:
        return [f"error: {next(iter(mistakes.values()))}"]
    jobs = {" ".join(job[place] for place in swept): mistake for job, mistake in mistakes.items() if mistake}
    return [*(f"error: job {job}: {mistake}" for job, mistake in jobs.items()), "No job was started."]


def current() -> Path | None:
    """The directory of the sweep that this process runs or works for; None where there is none."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    sweep = Path(HydraConfig.get().sweep.dir)
    return sweep if (sweep / SWEEP).is_file() else None


def run_job(sweep: Path, config: DictConfig, attempt: Callable[[DictConfig], tuple[int, str]]) -> None:
    """One job. What goes wrong is told and kept in its record, and never raised: the others go on.

    Args:
        sweep: the sweep's directory.
        config: of the job; it gets the job's ``output_dir``, and the sweep's name as ``logging.group`` unless it has
            a group.
        attempt: does the work and tells what goes wrong; gives the exit status, and the error.
    """
    hydra, begun = HydraConfig.get(), yaml.safe_load((sweep / SWEEP).read_text())
    given = dict(override.partition("=")[::2] for override in hydra.overrides.task)
    overrides = {key.lstrip("+"): given[key] for key in begun["swept"]}
    job = Job(job_name(overrides, hydra.job.num), hydra.job.num, overrides, config.resume)
    if config.resume is None:
        config.output_dir = str(sweep / job.name)
    if config.logging.group is None:
        config.logging.group = sweep.resolve().name

    # Of the processes of one job, which a launcher of SLURM's may start side by side, the first keeps the record.
    if any(int(os.environ.get(name, 0)) for name in ("SLURM_PROCID", "SUBMITIT_LOCAL_GLOBALID")):
        attempt(config)
        return
    job.save(sweep)
    log = sweep / "jobs" / f"{job.name}.log"
    own_process = hydra.runtime.choices["hydra/launcher"] != "basic"
    if multiprocessing.get_start_method() == "loky":  # joblib's; those of a DataLoader cannot be started like its own
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    command = sys.argv
    sys.argv = [begun["command"][0], *(given for given in hydra.overrides.task if not given.startswith("output_dir="))]
    sys.argv += [f"output_dir={config.output_dir}", f"logging.group={config.logging.group}"]
    try:
        with log.open("a", buffering=1) if own_process else nullcontext() as file:
            with redirect_stdout(file or sys.stdout), redirect_stderr(file or sys.stderr):
                job.status, job.error = attempt(config)
    finally:
        sys.argv = command
    job.save(sweep)
    if job.status:
        printed = f" (what it printed: {log})" if own_process else ""
        print(f"error: job {job.label} failed, the others go on: {job.error}{printed}", file=sys.stderr, flush=True)
    elif own_process:
        print(f"job {job.label} is done: {config.output_dir}", flush=True)


def job_name(overrides: Mapping[str, str], number: int) -> str:
    """A name for files that tells the overrides, and is a value for the command line without quotes.

    The number is part of it where different overrides could get the same name.
    """
    text = "+".join(f"{key}_{value}" for key, value in overrides.items())
    name = re.sub(r"[^a-zA-Z0-9._+-]", "_", text)[:120]  # file systems take 255 bytes
    return name if name == text != "" else f"{name or 'job'}_{number}"


def report(sweep: Path) -> int:
    """Prints the table of a sweep and what failed, and writes ``sweep.csv`` and ``sweep_mean.csv``.

    Returns:
        The exit status of the sweep: 0 if all jobs are done, 2 if all that are not failed by mistakes of the user's,
        else 1.
    """
    jobs = read(sweep)
    if jobs:
        shown, means = summary(jobs)
        rows = [
            {"job": job.name, **job.overrides, "outcome": job.outcome, **job.metrics, **job.training} for job in jobs
        ]
        _write(sweep / "sweep.csv", rows)
        if means:
            _write(sweep / "sweep_mean.csv", means)
        stdout().print(shown, crop=False)
        print(f"Sweep: {sweep}. This table: {sweep / 'sweep.csv'}", flush=True)
    broken = [job for job in jobs if job.status != 0]
    for job in broken:
        print(": ".join(filter(None, (job.label, job.outcome, job.error))), file=sys.stderr)
    if broken:
        listed = ", ".join(job.label for job in broken)
        again = f"python -m utils.sweep {shlex.quote(str(sweep))}"
        print(f"error: {len(broken)} of {len(jobs)} jobs not done: {listed}. Table: {again}", file=sys.stderr)
    return 0 if not broken else 2 if all(job.status == 2 for job in broken) else 1


def read(sweep: Path) -> list[Job]:
    """The jobs of a sweep that were started, in their order, with the last metrics of those that are done."""
    jobs = [Job(**yaml.safe_load(file.read_text())) for file in (sweep / "jobs").glob("*.yaml")]
    for job in jobs:
        run = Path(job.directory or sweep / job.name)
        metrics = final_metrics(run)
        if metrics is not None:  # also where somebody has resumed it since
            job.status, job.error, job.metrics, job.training = 0, "", metrics, training_figures(run)
    return sorted(jobs, key=lambda job: job.number)


def summary(jobs: Iterable[Job]) -> tuple[Table, list[dict[str, Any]]]:
    """The table of a sweep, and means over seeds of those settings of which two or more jobs are done.

    Returns:
        table: a row for each job, those that differ in the seed alone together and under them their mean.
        means: for each setting its overrides, ``seeds`` (how many are done), and of every metric that all of them have
            the mean and, as ``NAME std``, the standard deviation of a sample (divided by seeds - 1).
    """
    settings: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    jobs = [*jobs]
    for job in jobs:
        settings.setdefault(tuple(item for item in job.overrides.items() if item[0] != "seed"), []).append(job)
    of_jobs = [job.metrics | {name: job.training[name] for name in SHOWN if name in job.training} for job in jobs]
    numbers = {job.number: shown for job, shown in zip(jobs, of_jobs, strict=True)}
    names = sorted(dict.fromkeys(name for shown in of_jobs for name in shown), key=[*SHOWN].count)
    table = Table("job", box=SIMPLE)
    table.columns[0].no_wrap = True
    for name in names or ["outcome"]:
        unit = " %" if names and name not in SHOWN else ""
        table.add_column(" ".join(name.split("_")) + unit, justify="right")
    means = []
    for setting, same in settings.items():
        for job in same:
            shown = numbers[job.number]
            cells = [_cell(name, shown[name]) if name in shown else "-" for name in names]
            table.add_row(job.label, *(cells if shown else [job.outcome]))
        done = [numbers[job.number] for job in same if job.status == 0]
        common = [name for name in names if len(done) > 1 and all(name in metrics for metrics in done)]
        if values := {name: [metrics[name] for metrics in done] for name in common}:
            mean = {name: statistics.fmean(numbers) for name, numbers in values.items()}
            std = {name: statistics.stdev(numbers) for name, numbers in values.items()}
            cells = [
                f"{_cell(name, mean[name])} ±\u00a0{_cell(name, std[name])}" if name in mean else "-" for name in names
            ]
            table.add_row(f"{_label(setting)} mean ± std of {len(done)}".lstrip(), *cells, end_section=True)
            deviations = {f"{name} std": value for name, value in std.items()}
            means.append({**dict(setting), "seeds": len(done), **mean, **deviations})
    for column in table.columns[1:]:
        # A narrow terminal may wrap between words, but cut none, nor a figure with its deviation's sign.
        column.min_width = max(6, *(len(word) for text in (column.header, *column.cells) for word in text.split()))
    return table, means


def _cell(name: str, value: float) -> str:
    """Metrics to a tenth of a percent, the others to what they can be told apart by."""
    return f"{value:{SHOWN.get(name, '.1f')}}"


def _label(overrides: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"{key}={value}" for key, value in overrides)


def final_metrics(run: Path) -> dict[str, float] | None:
    """The metrics in a directory of evaluate.py, or those of the last step in one of train.py; None where none are."""
    if (run / "metrics.json").is_file():
        return metrics_in(json.loads((run / "metrics.json").read_text()))
    table = run / "evaluation.csv"
    if not table.is_file():
        return None
    try:
        return metrics_after(table, yaml.safe_load((run / "config.yaml").read_text())["num_steps"])
    except (ValueError, TypeError) as error:
        say(f"{table} left out: it is damaged ({error}).")
        return None


def metrics_in(found: Mapping[str, Any]) -> dict[str, float]:
    """Those of what a ``metrics.json`` holds."""
    return {name: value for name, value in found.items() if isinstance(value, float)}


def metrics_after(evaluations: Path, num_steps: int) -> dict[str, float] | None:
    """The last row of a run's ``evaluation.csv`` if that is of its last step, ``num_steps``; else None.

    Raises:
        ValueError, TypeError: it is damaged.
    """
    last = (_rows(evaluations) or [{}])[-1]
    if last and not (last.get("step") or "").isdecimal():
        raise ValueError("its last row has no step")
    if last.pop("step", None) != str(num_steps):
        return None
    return {name: float(value) for name, value in last.items() if value}


def training_figures(run: Path) -> dict[str, float]:
    """The last losses of a run of train.py, and how long its steps took; nothing of other programs."""
    if not (run / "metrics.csv").is_file():
        return {}
    losses = ("total", *yaml.safe_load((run / "config.yaml").read_text()).get("loss_weights", ()))
    last = _rows(run / "metrics.csv")[-1:]
    figures = {f"loss_{name}": float(row[name]) for row in last for name in losses if row.get(name)}
    seconds, before = 0.0, 0
    for row in _rows(run / "timing.csv") if (run / "timing.csv").is_file() else ():
        seconds += float(row["seconds_per_step"]) * (int(row["step"]) - before)
        before = int(row["step"])
    return figures | ({"seconds": seconds} if before else {})


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    if len(arguments) != 1 or not (Path(arguments[0]).expanduser() / SWEEP).is_file():
        print("error: give the directory of one sweep: python -m utils.sweep runs/sweeps/DATE", file=sys.stderr)
        return 2
    return report(Path(arguments[0]).expanduser())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
