"""Measured figures beside published ones: ``python -m evaluation.table table=cub [key=value ...]``.

    python -m evaluation.table table=cub
    python -m evaluation.table table=synthetic rows=[this_method,no_visual] seeds=[1] run=true
    python -m evaluation.table table=ablations dataset_name=folder dataset_root=my_birds run=true

Rows are in ``conf/table/NAME.yaml``. Runs and evaluations under ``runs=`` belong to the row whose config they have.
With ``run=true`` what is missing is made, by the project's programs. Keys are in conf/evaluation_table.yaml; the page
is docs/tables.md.
"""

import conf.start  # noqa: F401

# isort: split
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig

from conf import app
from conf.fields import number, path
from conf.schema import TrainConfig
from conf.trained import command_line_keys
from evaluation.tables import jobs, text
from evaluation.tables.found import Result, find, results_of
from evaluation.tables.jobs import FAILED
from evaluation.tables.rows import Options, Rows, chosen, makes_figures, rows_of
from utils.console import stdout
from utils.errors import UserError
from utils.sweep import job_name

# Keys of this program; all others are those of every row.
OWN = ("table", "runs", "rows", "data", "metrics", "run", "seeds", "output_dir")
WITHOUT = "Rows without runs, and what makes one seed of each (run=true makes all)"


@dataclass
class TableConfig(TrainConfig):
    table: Options = MISSING
    runs: str = path()
    rows: list[str] = MISSING
    data: list[str] = MISSING
    metrics: list[str] = MISSING
    run: bool = MISSING
    seeds: list[int] = number(low=0, high=2**32 - 1)

    @staticmethod
    def check(config: DictConfig) -> None:
        TrainConfig.check(config)
        if len(set(config.seeds)) != max(1, len(config.seeds)):
            raise UserError(f"seeds={config.seeds}: give one or more, each once.")


def table(config: DictConfig) -> None:
    """Find what was measured, make what is missing if asked to, and write the table; exit status 1 if a run failed."""
    keys = command_line_keys()
    if "seed" in keys:
        raise UserError("seed is one of seeds here: give seeds=[1,2,3], or as many as you like.")
    if "runs" in keys and not Path(config.runs).is_dir():
        raise UserError(f"There is no folder {config.runs}: give runs= what holds run directories.")
    task = HydraConfig.get().overrides.task
    given = [override for key, override in zip(keys, task, strict=True) if key.partition(".")[0] not in OWN]
    rows = rows_of(config, given)
    metrics = columns(config)
    of_folder = ["dataset_root"] if config.dataset.name == "folder" else []  # whose place says which pictures they are
    numbers = [
        override
        for override in given
        if (key := override.lstrip("+~").partition("=")[0]) in of_folder or makes_figures(key)
    ]
    output = Path(config.output_dir or f"runs/tables/{folder_name(config.table.name, numbers)}")

    results, notes = measured(config, rows, metrics, output)
    statuses = {}
    if config.run:
        to_do = jobs.missing(results, config.seeds, output)
        statuses = jobs.make(to_do, metrics, config.table.foreground_steps, output)
        results, notes = measured(config, rows, metrics, output)
        for result in results:
            result.status = statuses.get((result.entry.row, result.entry.data), "")

    if rows.moved:
        notes.insert(0, f"Published figures are left out: they are not of {config.dataset_name}.")
    title = ", with ".join(filter(None, (title_of(config, rows), " ".join(numbers))))
    without = jobs.missing([result for result in results if not result.measured], config.seeds[:1], output)
    commands = jobs.commands(without, config.table.foreground_steps, output)
    show(title, results, metrics, notes, commands, output)
    if FAILED in statuses.values():
        sys.exit(1)
    if not any(result.measured for result in results):
        way_on = (
            "The commands above make them; so does run=true." if commands else "Nothing makes one: choose other rows."
        )
        raise UserError(f"No run under {config.runs} belongs to a row. {way_on}")


def folder_name(name: str, given: Sequence[str]) -> str:
    """That of a table with these keys: runs made with others are in another folder."""
    keys = dict(sorted(one.lstrip("+~").partition("=")[::2] for one in given))
    return f"{name}+{job_name(keys, zlib.crc32(repr(keys).encode()))}" if keys else name


def title_of(config: DictConfig, rows: Rows) -> str:
    """The table's; on another data set than its own, that one's name."""
    return f"The rows of table={config.table.name} on {config.dataset_name}" if rows.moved else config.table.title


def columns(config: DictConfig) -> list[str]:
    """Those figures of the table that are asked for, or such as need no truth."""
    known = dict.fromkeys([*config.table.metrics, *jobs.WITHOUT_TRUTH])
    return chosen("metrics", config.metrics, known) if config.metrics else list(config.table.metrics)


def measured(config: DictConfig, rows: Rows, metrics: Sequence[str], output: Path) -> tuple[list[Result], list[str]]:
    """What is there, and what was left out."""
    return results_of(rows.entries, find([Path(config.runs), output]), metrics)


def show(
    title: str,
    results: Sequence[Result],
    metrics: Sequence[str],
    notes: Sequence[str],
    commands: Sequence[str],
    output: Path,
) -> None:
    """Print the table, what was left out, and what makes rows that nothing was measured of; and write all of it."""
    for grid in text.grids(title, results, metrics):
        stdout().print(text.rich_table(grid), crop=False)
    for line in (*text.footnotes(results, metrics), *notes):
        print(line)
    sections = {}
    if notes:
        sections["Left out"] = [f"- {note}" for note in notes]
    if commands:
        sections[WITHOUT] = ["```", *commands, "```"]
        print("\n  ".join([f"{WITHOUT}:", *commands]))
    text.write(output, title, results, metrics, sections)
    print(f"Table: {output}/table.md, table.tex, table.csv", flush=True)


if __name__ == "__main__":
    app.run("evaluation_table", table, TableConfig)
