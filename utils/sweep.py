"""Sweeps: many jobs from one command, ``python train.py -m seed=1,2,3 dataset_name=CUB``, through any Hydra launcher.

A sweep's directory, ``hydra.sweep.dir``, holds

    NAME/               the run directory of each job, named after its overrides: ``num_parts_4+seed_1``
    jobs/NAME.yaml      its overrides, and how it ended
    jobs/NAME.log       what it printed, where it ran in a process of its own
    sweep.yaml          the command, the keys that the jobs differ in, and what each job is to be given
    sweep.csv           the table: a row for each job
    sweep_mean.csv      mean and standard deviation over seeds: a row for each setting

``python -m utils.sweep DIR`` makes the table again from these, for example after a failed job was run again.
"""

import csv
import json
import multiprocessing
import os
import re
import shlex
import statistics
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE
from rich.table import Table

from utils.console import stdout
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SWEEP = "sweep.yaml"  # in the sweep's directory
LONGEST_NAME = 120  # characters: file systems take 255 bytes

# For conf/train.yaml: a value, or another one where it is null.
OmegaConf.register_new_resolver("either", lambda first, second: second if first is None else first, replace=True)


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
        command: that runs it, of one that was planned and has no record.
        metrics: in percent, by name; read from its directory.
    """

    name: str
    number: int
    overrides: dict[str, str]
    directory: str | None = None
    status: int | None = None
    error: str = ""
    command: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return _label(self.overrides) or self.name

    @property
    def outcome(self) -> str:
        return {0: "done", None: "not started" if self.command else "unfinished"}.get(self.status, "failed")

    def save(self, sweep: Path) -> None:
        record = asdict(self)
        del record["metrics"], record["command"]
        (sweep / "jobs" / f"{self.name}.yaml").write_text(yaml.safe_dump(record, sort_keys=False))


class SweepStart(Callback):
    """Hydra's hook before the first job, in the process of the command: makes the sweep's directory.

    Ends the process with status 2 where that cannot be done; an exception Hydra would make a warning.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        try:
            _start(config)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        HydraConfig.instance().set_config(config)  # Hydra does so for jobs only; current() asks it
        OmegaConf.set_readonly(config.hydra, None)


def _start(config: DictConfig) -> None:
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    given += config.hydra.overrides.task
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides(given)
    swept = [override.get_key_element() for override in overrides if override.is_sweep_override()]
    if "output_dir" in swept:
        raise UserError("output_dir is the directory of the whole sweep, each job has one in it: give one, or none.")
    for override in overrides:
        values = [str(value) for value in override.sweep_iterator()] if override.is_choice_sweep() else []
        if len(set(values)) < len(values):
            raise UserError(f"{override.input_line} makes the same job twice: give each value once.")
    if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        raise UserError(
            "A sweep starts its jobs itself: run it as one process, without torchrun or several tasks of srun. Under "
            "SLURM, hydra/launcher=submitit_slurm starts each job with its devices."
        )
    try:
        (jobs,) = BasicSweeper.split_arguments([one for one in overrides if not one.is_hydra_override()], None)
    except HydraException as error:
        raise UserError(f"A sweep takes its values with commas between them, or range(...): {error}.") from error
    sweep = Path(config.hydra.sweep.dir)
    if sweep.exists() and (not sweep.is_dir() or any(sweep.iterdir())):
        raise UserError(f"{sweep} is not an empty directory: give the sweep another output_dir.")
    try:
        (sweep / "jobs").mkdir(parents=True)
        (sweep / SWEEP).write_text(yaml.safe_dump({"command": list(sys.argv), "swept": swept, "jobs": jobs}))
    except OSError as error:
        raise UserError(f"Cannot write the sweep's directory {sweep}: {error.strerror}.") from error
    # joblib replaces a worker whose memory has grown, as that of every training does.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
    # submitit's processes start in this directory, not in the program's.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


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
    overrides = _swept(begun, hydra.overrides.task)
    job = Job(job_name(overrides, hydra.job.num), hydra.job.num, overrides, config.resume)
    if config.resume is None:
        config.output_dir = str(sweep / job.name)
    if config.logging.group is None:
        config.logging.group = sweep.resolve().name

    if _rank() > 0:  # rank 0 keeps the record
        attempt(config)
        return
    job.save(sweep)
    log = sweep / "jobs" / f"{job.name}.log"
    own_process = hydra.runtime.choices["hydra/launcher"] != "basic"
    if multiprocessing.get_start_method() == "loky":  # joblib's; those of a DataLoader cannot be started like its own
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    command = sys.argv
    sys.argv = [begun["command"][0], *(one for one in hydra.overrides.task if not one.startswith("output_dir="))]
    sys.argv += [f"output_dir={config.output_dir}", f"logging.group={config.logging.group}"]
    try:
        with ExitStack() as stack:
            if own_process:
                file = stack.enter_context(log.open("a", buffering=1))
                stack.enter_context(redirect_stdout(file))
                stack.enter_context(redirect_stderr(file))
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
    name = re.sub(r"[^a-zA-Z0-9._+-]", "_", text)[:LONGEST_NAME]
    return name if name == text != "" else f"{name or 'job'}_{number}"


def report(sweep: Path) -> int:
    """Prints the table of a sweep and what failed, and writes ``sweep.csv`` and ``sweep_mean.csv``.

    Returns:
        The exit status of the sweep: 0 if all jobs are done, 2 if all that are not failed by mistakes of the user's,
        else 1.
    """
    jobs = read(sweep)
    means = over_seeds(jobs)
    names = list(dict.fromkeys(name for job in jobs for name in job.metrics))
    keys = list(dict.fromkeys(key for job in jobs for key in job.overrides))
    _write(
        sweep / "sweep.csv",
        ("job", *keys, "outcome", *names),
        ({"job": job.name, "outcome": job.outcome, **job.overrides, **job.metrics} for job in jobs),
    )
    if means:
        settings = (key for key in keys if key != "seed")
        _write(
            sweep / "sweep_mean.csv",
            (*settings, "seeds", *names, *(f"{name} std" for name in names)),
            ({**mean.overrides, "seeds": mean.seeds, **mean.metrics, **_suffixed(mean.std)} for mean in means),
        )
    if jobs:
        console = stdout()
        console.print(table(jobs, means, names), crop=False)
        print(f"Sweep: {sweep}. This table: {sweep / 'sweep.csv'}", flush=True)

    broken = [job for job in jobs if job.outcome != "done"]
    for job in broken:
        print(": ".join(filter(None, (job.label, job.outcome, job.error or job.command))), file=sys.stderr)
    if broken:
        listed = ", ".join(job.label for job in broken)
        again = f"python -m utils.sweep {shlex.quote(str(sweep))}"
        print(f"error: {len(broken)} of {len(jobs)} jobs not done: {listed}. Table: {again}", file=sys.stderr)
    return 0 if not broken else 2 if all(job.status == 2 for job in broken) else 1


def read(sweep: Path) -> list[Job]:
    """The jobs of a sweep, started or not, in their order, with the last metrics of those that are done."""
    jobs = {job.number: job for job in _planned(sweep)}
    for file in (sweep / "jobs").glob("*.yaml"):
        job = Job(**yaml.safe_load(file.read_text()))
        jobs[job.number] = job
    for job in jobs.values():
        metrics, whole = _metrics(Path(job.directory or sweep / job.name))
        if whole:  # also where somebody has resumed it since
            job.status, job.error = 0, ""
        if job.status == 0:
            job.metrics = metrics
    return sorted(jobs.values(), key=lambda job: job.number)


def _planned(sweep: Path) -> list[Job]:
    """The jobs as Hydra's sweeper was to make them."""
    begun, jobs = yaml.safe_load((sweep / SWEEP).read_text()), []
    for number, given in enumerate(begun.get("jobs", [])):
        overrides = _swept(begun, given)
        job = Job(job_name(overrides, number), number, overrides, overrides.get("resume"))
        own = {"output_dir": sweep / job.name, "logging.group": sweep.resolve().name} if job.directory is None else {}
        given = [one for one in given if not one.startswith("output_dir=")]
        own = [f"{key}={value}" for key, value in own.items() if not any(one.startswith(f"{key}=") for one in given)]
        job.command = shlex.join(["python", begun["command"][0], *given, *own])
        jobs.append(job)
    return jobs


def _swept(begun: Mapping[str, Any], given: Sequence[str]) -> dict[str, str]:
    """What a job is given for the keys that differ."""
    values = dict(override.partition("=")[::2] for override in given)
    return {key.lstrip("+"): values[key] for key in begun["swept"]}


@dataclass(frozen=True)
class Mean:
    """Over the done jobs that differ in the seed alone.

    Attributes:
        overrides: what they have in common, of the swept keys.
        seeds: how many they are, at least two.
        metrics, std: mean and standard deviation (of a sample: divided by seeds - 1) by metric, of those all have.
    """

    overrides: dict[str, str]
    seeds: int
    metrics: dict[str, float]
    std: dict[str, float]


def over_seeds(jobs: Iterable[Job]) -> list[Mean]:
    """A mean for each setting that is done with two seeds or more, in the order of the jobs."""
    settings: dict[tuple, list[Job]] = {}
    for job in jobs:
        if "seed" in job.overrides and job.status == 0:
            settings.setdefault(_setting(job), []).append(job)
    means = []
    for setting, same in settings.items():
        common = [name for name in same[0].metrics if all(name in job.metrics for job in same)]
        if len(same) < 2 or not common:
            continue
        values = {name: [job.metrics[name] for job in same] for name in common}
        mean = {name: statistics.fmean(numbers) for name, numbers in values.items()}
        std = {name: statistics.stdev(numbers) for name, numbers in values.items()}
        means.append(Mean(dict(setting), len(same), mean, std))
    return means


def table(jobs: Sequence[Job], means: Sequence[Mean], names: Sequence[str]) -> Table:
    """A row for each job, the seeds of one setting together and under them their mean.

    Args:
        names: of the metrics, the columns.
    """
    mean_of = {tuple(mean.overrides.items()): mean for mean in means}
    settings: dict[tuple, list[Job]] = {}
    for job in jobs:
        settings.setdefault(_setting(job) if means else (), []).append(job)
    sections: list[list[list[str]]] = []
    for setting, same in settings.items():
        sections.append([])
        for job in same:
            cells = [f"{job.metrics[name]:.1f}" if name in job.metrics else "-" for name in names]
            sections[-1].append([job.label, *(cells if job.status == 0 and names else [job.outcome])])
        if mean := mean_of.get(setting):
            cells = [f"{mean.metrics[n]:.1f} ±\u00a0{mean.std[n]:.1f}" if n in mean.metrics else "-" for n in names]
            sections.append([[f"{_label(mean.overrides)} mean of {mean.seeds}".lstrip(), *cells]])

    caption = "± standard deviation over seeds" if means else None
    table = Table("percent", box=SIMPLE, caption=caption, caption_justify="left")
    table.columns[0].no_wrap = True
    for place, name in enumerate([name.replace("_", " ") for name in names] or [""], start=1):
        # A narrow terminal may wrap between words, but cut none.
        column = [name, *(row[place] for rows in sections for row in rows if place < len(row))]
        widest = max(len(word) for text in column for word in text.split(" "))
        table.add_column(name, justify="right", min_width=widest)
    for rows in sections:
        for row in rows:
            table.add_row(*row)
        table.add_section()
    return table


def _setting(job: Job) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in job.overrides.items() if key != "seed")


def _label(overrides: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in overrides.items())


def _metrics(run: Path) -> tuple[dict[str, float], bool]:
    """The last metrics in a directory of evaluate.py or train.py, and whether they are the final ones."""
    if (run / "metrics.json").is_file():
        found = json.loads((run / "metrics.json").read_text())
        return {name: value for name, value in found.items() if isinstance(value, float)}, True
    if not (run / "evaluation.csv").is_file():
        return {}, False
    with (run / "evaluation.csv").open(newline="") as file:
        last = (list(csv.DictReader(file)) or [{}])[-1]
    num_steps = yaml.safe_load((run / "config.yaml").read_text())["num_steps"]
    whole = last.pop("step", None) == str(num_steps)
    return {name: float(value) for name, value in last.items() if value}, whole


def _suffixed(std: Mapping[str, float]) -> dict[str, float]:
    return {f"{name} std": value for name, value in std.items()}


def _write(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _rank() -> int:
    """Of this process among those of one job, which a launcher of SLURM's may start side by side."""
    ranks = ("RANK", "SLURM_PROCID", "SUBMITIT_LOCAL_GLOBALID")
    return next((int(os.environ[name]) for name in ranks if name in os.environ), 0)


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    if len(arguments) != 1 or not (Path(arguments[0]) / SWEEP).is_file():
        print("error: give the directory of one sweep: python -m utils.sweep runs/sweeps/DATE", file=sys.stderr)
        return 2
    return report(Path(arguments[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
