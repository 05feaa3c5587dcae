"""What the information of two views costs: ``python benchmarks/mutual_information.py [--images N] [--clusters K] ...``.

Value and gradients of ``losses.mutual_information_loss``, both kinds, beside the loop over shifts as it is written in
``benchmarks/formulas.py``. The loop is measured on a few shifts spread over the window, and what one of them takes is
scaled to all; of its memory there are two figures, that of all shifts in one graph, scaled, and that of a single shift,
less than which no loop takes. Seconds are of the processor, of all threads; each row is measured in a process of its
own, and its peak memory is less what was there before: the two views of probabilities are in it.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import conf.threads  # noqa: F401

# isort: split
import numpy as np
import torch
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor

from benchmarks.formulas import information_of, joint_table
from benchmarks.peak import measured
from losses.mutual_information import mutual_information_loss
from utils.console import stdout

KINDS = ("summed", "separate")
Size = tuple[int, int, int]  # images, clusters, side in pixels


def loop(x: Tensor, y: Tensor, half_window: int, shifts: str, number: int) -> Tensor:
    """The loss of so many of the shifts, spread over the window."""
    side = 2 * half_window + 1
    places = np.unique(np.linspace(0, side**2 - 1, number + 2).round().astype(int)[1:-1])
    tables = [joint_table(x, y, *(int(place) - half_window for place in divmod(index, side))) for index in places]
    if shifts == "summed":
        return information_of(sum(tables), 1.0)
    return sum(information_of(table, 1.0) for table in tables) / len(tables)


def seconds(function: Callable[..., Tensor], size: Size, half_window: int) -> float:
    """Of value and gradients."""
    torch.manual_seed(0)
    views = []
    for _ in range(2):
        view = torch.rand(*size, size[-1])
        views.append(view.div_(view.sum(1, keepdim=True)).requires_grad_())
    start = time.process_time()
    function(*views, half_window).backward()
    return time.process_time() - start


def measured_of(function: Callable[..., Tensor], size: Size, half_window: int) -> tuple[float, float]:
    """Seconds and MiB of peak memory, after a small call for what is loaded at the first one."""
    return measured(seconds, function, size, half_window, first=partial(seconds, function, (2, 3, 12), 2))


def table(size: Size, half_window: int, number: int) -> Table:
    """A row for each kind and way."""
    of_all = (2 * half_window + 1) ** 2
    title = f"{size[0]} images, {size[1]} clusters, {size[2]} px, {of_all} shifts; {torch.get_num_threads()} threads"
    found = Table(title=title, box=SIMPLE, title_justify="left")
    for column in ("", "CPU s", "times ours", "peak MiB", "of one shift"):
        found.add_column(column, justify="right" if column else "left")
    for kind in KINDS:
        taken, memory = measured_of(partial(mutual_information_loss, shifts=kind), size, half_window)
        found.add_row(kind, f"{taken:.2f}", "1", f"{memory:,.0f}", "")
        few, least = (measured_of(partial(loop, shifts=kind, number=n), size, half_window) for n in (number, 1))
        each = (few[0] * of_all / number, least[1] + (few[1] - least[1]) / (number - 1) * (of_all - 1))
        figures = f"{each[0]:.1f}", f"{each[0] / taken:.0f}", f"{each[1]:,.0f}", f"{least[1]:,.0f}"
        found.add_row(f"{kind}, loop ({number} shifts, scaled)", *figures)
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--clusters", type=int, default=15)
    parser.add_argument("--side", type=int, default=128, help="pixels")
    parser.add_argument("--half-window", type=int, default=10, help="pixels")
    parser.add_argument("--shifts", type=int, default=8, help="of the loop that are measured, 2 or more")
    given = parser.parse_args(arguments)
    stdout().print(table((given.images, given.clusters, given.side), given.half_window, given.shifts))


if __name__ == "__main__":
    main(sys.argv[1:])
