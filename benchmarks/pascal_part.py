"""The paper's table on PASCAL-Part: ``python -m benchmarks.pascal_part [key=value ...]``.

Trains and evaluates all ten categories, one after the other, and prints the paper's figures beside the measured ones.
Where a category has no predicted masks yet, a foreground network is trained on its training masks and predicts them.
Each program is a process of its own: a run that fails leaves a gap in the table and the others as they are. Given the
``output_dir`` of an earlier call it goes on with what is there. Keys are in conf/pascal_part.yaml.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import datasets
from conf import app
from conf.fields import choice, number
from conf.schema import TrainConfig
from datasets.files import HELP
from datasets.pascal_part import CATEGORIES, PAPER_NAMES, NoObjects
from utils import checkpoints
from utils.console import stdout
from utils.errors import UserError
from utils.run_directory import ROOT

# The paper's table on PASCAL-Part, in percent, in the order of CATEGORIES.
PAPER = {
    "NMI": {
        "DFF": (12.2, 14.4, 12.7, 19.1, 16.4, 13.5, 9.0, 17.8, 14.8, 18.0),
        "SCOPS": (26.5, 29.4, 28.8, 35.4, 35.1, 35.7, 33.6, 28.9, 30.1, 33.7),
        "k-means": (34.5, 33.3, 33.0, 38.9, 42.8, 37.5, 38.4, 35.2, 40.4, 44.2),
        "paper": (35.0, 37.4, 35.3, 40.5, 45.1, 38.8, 36.8, 34.8, 46.6, 47.9),
    },
    "ARI": {
        "DFF": (21.6, 32.3, 23.3, 37.2, 38.3, 28.5, 24.1, 39.1, 32.3, 37.5),
        "SCOPS": (46.3, 55.7, 51.2, 59.2, 68.0, 66.0, 67.1, 52.4, 52.2, 46.6),
        "k-means": (58.3, 66.8, 59.0, 63.1, 76.8, 66.4, 70.6, 63.2, 70.2, 71.9),
        "paper": (59.8, 68.9, 59.7, 64.7, 79.6, 67.6, 72.7, 64.7, 73.6, 75.4),
    },
}
# Column -> metric of evaluate.py.
MEASURED = {"measured": "{}", "true masks": "{} (ground-truth mask)", "FG": "FG-{}"}
NO_DATA, FAILED = "no data", "failed"
# Keys that the programs get from here.
OWN = ("categories", "foreground_steps", "dataset_name", "dataset.category", "output_dir")
# Keys that are not for the foreground network.
OF_PARTS = ("num_steps=", "num_parts=", "loss_weights", "method", "optimizer", "perceptual")


@dataclass
class PascalPartConfig(TrainConfig):
    categories: list[str] = choice(*CATEGORIES, *PAPER_NAMES)
    foreground_steps: int = number(low=1)


def pascal_part(config: DictConfig) -> None:
    """All categories, and the table; exit status 1 if a run failed."""
    given = [one for one in HydraConfig.get().overrides.task if one.partition("=")[0] not in OWN]
    output = Path(config.output_dir or f"runs/{datetime.now():%Y-%m-%d_%H-%M-%S}_PASCAL-Part")
    results = run_all(config, given, output)
    print_table(results)
    print(f"Runs: {output}. The same command with output_dir={output} goes on with what has failed or is left to do.")
    if FAILED in results.values():
        sys.exit(1)


def run_all(config: DictConfig, given: list[str], output: Path) -> dict[str, Mapping[str, float] | str]:
    """Train and evaluate the categories of the config.

    Args:
        given: the keys for every program.
        output: the folder of the runs, each named after its category; a new one, or that of an earlier call.

    Returns:
        For each category its metrics in percent, ``NO_DATA`` or ``FAILED``.

    Raises:
        UserError: there is no PASCAL-Part, or ``output`` holds a table made with other keys.
    """
    root = Path(config.dataset_root) / config.dataset.folder
    if not root.is_dir():
        raise UserError(f"PASCAL-Part: no folder {root}. Set dataset_root= to what holds {root.name}/. {HELP}")
    prepare(output, given)
    asked = {PAPER_NAMES.get(category, category) for category in config.categories}
    results = {}
    for category in (one for one in CATEGORIES if one in asked):
        print(f"PASCAL-Part {category}", flush=True)
        results[category] = result_of(category, config, given, output / category)
    return results


def prepare(output: Path, given: list[str]) -> None:
    """Make the folder of the runs, or see whether it was made with the same keys."""
    keys, text = output / "keys.txt", "".join(f"{one}\n" for one in sorted(given))
    if keys.is_file() and keys.read_text() != text:
        raise UserError(
            f"output_dir {output} holds a table made with other keys ({keys}: {' '.join(keys.read_text().split())}): "
            "give these, or another output_dir."
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
        keys.write_text(text)
    except OSError as error:
        raise UserError(f"Cannot write output_dir {output}: {error.strerror}. Give another one.") from error


def result_of(category: str, config: DictConfig, given: list[str], run: Path) -> Mapping[str, float] | str:
    """Train and evaluate a category unless that is done: its metrics, or ``NO_DATA`` or ``FAILED``."""
    figures = run / "evaluation/metrics.json"
    if figures.is_file():
        return json.loads(figures.read_text())
    try:
        build_splits(category, config, "training")
    except NoObjects as error:
        print(error, flush=True)
        return NO_DATA
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return FAILED
    keys = ["dataset_name=PP", f"dataset.category={category}", *given]
    foreground_steps = min(config.foreground_steps, config.num_steps)
    done = (
        (has_masks(category, config) or predict_masks(keys, foreground_steps, run.with_name(f"{category}_foreground")))
        and train(keys, run)
        and program("evaluate.py", *keys, f"checkpoint={run}", f"output_dir={figures.parent}")
    )
    return json.loads(figures.read_text()) if done else FAILED


def build_splits(category: str, config: DictConfig, purpose: Literal["training", "evaluation"]) -> None:
    """Both splits of a category, to see whether they are there (UserError)."""
    config = config.copy()
    config.dataset.category = category
    for split in ("train", "test"):
        datasets.build(config, split, purpose)


def has_masks(category: str, config: DictConfig) -> bool:
    """Whether the masks of the evaluation are there; those that no foreground network gives must be."""
    try:
        build_splits(category, config, "evaluation")
    except UserError:
        return config.dataset.eval_mask != "supervised"
    return True


def predict_masks(keys: list[str], num_steps: int, run: Path) -> bool:
    """Train a foreground network and write its masks into ``supervisedlabels/``; whether that ended well."""
    keys = [one for one in keys if not one.startswith(OF_PARTS)]
    return train([*keys, "method=foreground", f"num_steps={num_steps}"], run) and program(
        "predict.py", *keys, f"checkpoint={run}", "only_missing=true"
    )


def train(keys: list[str], run: Path) -> bool:
    """Train, or go on with what is in ``run``; whether that ended well."""
    if checkpoints.latest(run) is not None:
        return program("train.py", f"resume={run}")
    set_aside(run)
    return program("train.py", *keys, f"output_dir={run}")


def program(name: str, *arguments: str) -> bool:
    """Run one of the project's programs, its output with ours; whether it ended well."""
    return subprocess.run([sys.executable, str(ROOT / name), *arguments]).returncode == 0


def set_aside(run: Path) -> None:
    """Rename a run that ended before its first checkpoint: there is nothing to go on with."""
    if run.exists():
        attempt = 1
        while (aside := run.with_name(f"{run.name}_unfinished_{attempt}")).exists():
            attempt += 1
        run.rename(aside)


def print_table(results: Mapping[str, Mapping[str, float] | str], console: Console | None = None) -> None:
    """Print one table for NMI and one for ARI: what the paper has for each category, and what was measured.

    Args:
        results: category -> metrics in percent, or why there are none. Categories that are not in it are empty.
        console: standard output when None.
    """
    for index, published in PAPER.items():
        table = Table(title=f"{index}, percent", box=SIMPLE)
        table.add_column("category", no_wrap=True)
        for column in (*published, *MEASURED):
            table.add_column(column, justify="right", no_wrap=True)
        for row, category in enumerate(CATEGORIES):
            figures = [f"{numbers[row]:.1f}" for numbers in published.values()]
            table.add_row(category, *figures, *_measured(results.get(category, {}), index))
        (console or stdout()).print(table)
    print("paper, measured: predicted masks; true masks: of the annotated parts; FG: FG-NMI, FG-ARI.")


def _measured(result: Mapping[str, float] | str, index: str) -> list[str]:
    if isinstance(result, str):
        return [result, *[""] * (len(MEASURED) - 1)]
    names = [name.format(index) for name in MEASURED.values()]
    return [f"{result[name]:.1f}" if name in result else "-" for name in names]


if __name__ == "__main__":
    app.run("pascal_part", pascal_part, PascalPartConfig)
