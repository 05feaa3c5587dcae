"""What masking costs a training step: ``python benchmarks/autoregressive.py [key=value ...]``.

Takes every key of train.py but the method, which is AC; noise, four pictures of 200 pixels unless told otherwise. Rows,
measured in turn so that whatever else the machine does meets them all:

- plain: two passes of the network without an ordering, whose convolutions are ordinary ones, and back;
- masked: the same in two orderings, other ones each time;
- the step: views, two passes, loss, back, update.

On the CPU seconds are of the processor, of all threads, so that other programs count for less; on a GPU they are the
clock's. Peak memory is of a process of its own for each row (on a GPU: of PyTorch's allocator), less what was there
before the network was built.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import conf.threads  # noqa: F401

# isort: split
from omegaconf import DictConfig
from rich.box import SIMPLE
from rich.table import Table

from benchmarks.peak import measured
from benchmarks.step import Trainer, measure
from conf.app import composed
from utils.console import stdout
from utils.devices import build_fabric
from utils.errors import UserError

PLAIN, MASKED, STEP = "plain, two passes and back", "masked, two passes and back", "step of AC"
ROUNDS = 5
DEFAULTS = ("method=ac", "image_size=200", "batch_size=4")


def rows(config: DictConfig) -> dict[str, Callable[[], None]]:
    """What is measured."""
    trainer = Trainer(config)
    predictor, pair = trainer.method.predictor, trainer.views.pair
    orderings = itertools.cycle(config.segmenter.orderings)

    def passes(*chosen: int) -> None:
        with trainer.fabric.autocast():
            scores = [predictor(predictor.preprocess(pair.image), ordering) for ordering in chosen]
        trainer.fabric.backward(sum(own.float().square().mean() for own in scores))
        trainer.training.optimizer.zero_grad()

    return {PLAIN: lambda: passes(0, 0), MASKED: lambda: passes(next(orderings), next(orderings)), STEP: trainer.step}


def memory(config: DictConfig, row: str) -> float:
    """MiB of two rounds of a row in a process of its own."""
    return measured(_two_rounds, config, row)[1]


def _two_rounds(config: DictConfig, row: str) -> None:
    work = rows(config)[row]
    for _ in range(2):
        work()


def main(arguments: list[str]) -> None:
    """The command: ends with status 2 and one message after a mistake."""
    try:
        config = composed("train", [*DEFAULTS, *arguments])
        # First: on Linux a process starts with the peak of the one that started it.
        mebibytes = {row: memory(config, row) for row in (PLAIN, MASKED, STEP)}
        work = rows(config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    device = build_fabric(config.device, config.precision).device
    seconds = measure(work, device, ROUNDS, time.process_time if device.type == "cpu" else time.perf_counter)
    title = f"batch {config.batch_size} at {config.image_size} px, blocks of {list(config.segmenter.widths)}"
    table = Table(title=title, box=SIMPLE, title_justify="left")
    for column in ("", "ms, median", "least", "most", "ratio", "MiB", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for row, values in seconds.items():
        milliseconds = (f"{1000 * value:.0f}" for value in (statistics.median(values), min(values), max(values)))
        ratio = statistics.median(own / plain for own, plain in zip(values, seconds[PLAIN], strict=True))
        share = mebibytes[row] / mebibytes[PLAIN]
        table.add_row(row, *milliseconds, f"{ratio:.3f}", f"{mebibytes[row]:,.0f}", f"{share:.3f}")
    stdout().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
