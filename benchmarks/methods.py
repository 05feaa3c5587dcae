"""What a step of each method costs: ``python benchmarks/methods.py [METHOD ...] [key=value ...]``.

Without names it takes all methods; ratios are to the first, whose size and number of pictures all get. Keys are those
of train.py. Pictures are noise and networks untrained, as in ``benchmarks/step.py``; the steps of all methods are timed
in turn, so that whatever else the machine does meets them all, and peak memory is of a process of its own for each.
"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import conf.threads  # noqa: F401

# isort: split
from rich.box import SIMPLE
from rich.table import Table

from benchmarks.step import STEP, Trainer, measure, peak_memory
from conf.app import composed
from conf.modules import module, names
from utils.console import stdout
from utils.errors import UserError


def main(arguments: list[str]) -> None:
    """The command: ends with status 2 and one message after a mistake."""
    chosen = [argument for argument in arguments if "=" not in argument] or names("method")
    overrides = [argument for argument in arguments if "=" in argument]
    try:
        for name in chosen:
            module("method", name)
        configs = {name: composed("train", [f"method={name}", *overrides]) for name in chosen}
        for config in configs.values():
            config.image_size, config.batch_size = (configs[chosen[0]][key] for key in ("image_size", "batch_size"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    # First: on Linux a process starts with the peak of the one that started it.
    memory = {name: peak_memory(config, STEP) for name, config in configs.items()}
    trainers = {name: Trainer(config) for name, config in configs.items()}
    first = trainers[chosen[0]]
    seconds = measure({name: trainer.step for name, trainer in trainers.items()}, first.fabric.device)
    stdout().print(table(seconds, memory, f"batch {first.config.batch_size} at {first.config.image_size} px"))


def table(seconds: dict[str, list[float]], memory: dict[str, float], title: str) -> Table:
    """A row for each method: seconds of a step in each round, MiB of its peak memory, both relative to the first."""
    found = Table(title=title, box=SIMPLE, title_justify="left")
    for column in ("", "ms, median", "least", "most", "ratio", "MiB", "ratio"):
        found.add_column(column, justify="right" if column else "left")
    first, base = (next(iter(figures.values())) for figures in (seconds, memory))
    for name, values in seconds.items():
        milliseconds = (f"{1000 * value:.0f}" for value in (statistics.median(values), min(values), max(values)))
        ratio = statistics.median(own / other for own, other in zip(values, first, strict=True))
        found.add_row(name, *milliseconds, f"{ratio:.3f}", f"{memory[name]:,.0f}", f"{memory[name] / base:.3f}")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
