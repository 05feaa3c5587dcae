"""What fitting the baselines costs: ``python benchmarks/fitted.py [--pictures N] [--cells N] [--sweeps N] ...``.

The features are drawn, no network runs. What is fitted:

- deep feature factorisation by both solvers: a sweep over the feature file of all pictures, 16 x 16 cells of 512
  channels each, K = 4;
- scikit-learn's NMF with the same multiplicative updates, on a tenth of the pictures, which it holds in memory;
- k-means by mini-batches: one epoch over cells of 1,024 channels, K = 4.

One table compares the factorisations' sweeps over that tenth: in one process, in turn, so that all have the same
neighbours. In the other each row is measured in a process of its own, and its peak memory is less what was before.

Seconds are of the processor, of all threads; those of a sweep are what more sweeps take longer than one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import conf.threads  # noqa: F401

# isort: split
import numpy as np
import torch
from rich.box import SIMPLE
from rich.table import Table
from sklearn.decomposition import NMF
from torch import Tensor

from benchmarks.peak import measured
from datasets.batch import EvalBatch
from evaluation.cells import Cells
from evaluation.factorisation import SOLVERS, factorise, random_start
from evaluation.labellers.kmeans import KMeansLabeller, Options
from utils.console import stdout

GRID, CHANNELS, CHANNELS_OF_K_MEANS, NUM_PARTS = 16, 512, 1024, 4
PICTURES_OF_A_BATCH = 8
MINIBATCH = 8192
SCIKIT_LEARN = "scikit-learn's NMF, mu"


def drawn(num_cells: int, channels: int) -> Iterator[Tensor]:
    """Features (p, C) after a ReLU, of a batch of pictures each."""
    random = torch.Generator().manual_seed(0)
    at_once = PICTURES_OF_A_BATCH * GRID**2
    for start in range(0, num_cells, at_once):
        yield torch.randn(min(at_once, num_cells - start), channels, generator=random).relu_()


@torch.inference_mode()
def dff(num_cells: int, sweeps: int, solver: str) -> float:
    """Seconds of a sweep."""
    with Cells() as cells:
        for rows in drawn(num_cells, CHANNELS):
            cells.add(rows)
        return of_a_sweep(ours(cells, solver), sweeps)


def ours(cells: Cells, solver: str) -> Callable[[int], object]:
    """So many sweeps, from the release's start."""
    mean = cells.total / (len(cells) * CHANNELS)
    start = random_start(mean, len(cells), CHANNELS, NUM_PARTS, np.random.default_rng(0))
    return lambda number: factorise(cells, start, solver, number, tolerance=0)


@torch.inference_mode()
def scikit_learn(num_cells: int, sweeps: int) -> float:
    """Seconds of a sweep."""
    return of_a_sweep(theirs(torch.cat(list(drawn(num_cells, CHANNELS)))), sweeps)


def theirs(rows: Tensor) -> Callable[[int], object]:
    """So many sweeps over rows (p, C), from the release's start."""
    start = random_start(float(rows.mean()), *rows.shape, NUM_PARTS, np.random.default_rng(0))
    v, w, h = (tensor.numpy() for tensor in (rows, *start))

    def fit(number: int) -> None:
        NMF(NUM_PARTS, solver="mu", init="custom", max_iter=number, tol=0).fit_transform(v, W=w.copy(), H=h.copy())

    return fit


@torch.inference_mode()
def in_turn(num_cells: int, sweeps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a sweep over the same cells in each round, after one to warm up; scikit-learn's are the last."""
    with Cells() as cells:
        rows = torch.cat(list(drawn(num_cells, CHANNELS)))
        cells.add(rows)
        fits = {f"DFF, {solver}": ours(cells, solver) for solver in SOLVERS} | {SCIKIT_LEARN: theirs(rows)}
        times = [[of_a_sweep(fit, sweeps) for fit in fits.values()] for _ in range(rounds + 1)]
    return dict(zip(fits, map(list, zip(*times[1:], strict=True)), strict=True))


class _OfFeatures(KMeansLabeller):
    """k-means on features that are given for pictures."""

    def describe(self, images: Tensor) -> Tensor:
        return images


@torch.inference_mode()
def k_means(num_cells: int, sweeps: int) -> float:
    """Seconds of an epoch, with the writing of the file and the start."""
    options = Options(num_points=num_cells, restarts=10, num_images=None, minibatch=MINIBATCH, epochs=1)
    batches = (
        EvalBatch(rows.T[None, :, :, None], torch.ones(1, 1, len(rows), 1), [])
        for rows in drawn(num_cells, CHANNELS_OF_K_MEANS)
    )
    start = time.process_time()
    _OfFeatures(options, NUM_PARTS, seed=0).fit(batches)
    return time.process_time() - start


def of_a_sweep(fit: Callable[[int], object], sweeps: int) -> float:
    """Seconds that one sweep more takes."""
    fit(1)  # the first one pays for memory that those before it gave back
    times = []
    for number in (1, 1 + sweeps):
        start = time.process_time()
        fit(number)
        times.append(time.process_time() - start)
    return (times[1] - times[0]) / sweeps


def comparison(num_cells: int, sweeps: int, rounds: int) -> Table:
    """Microseconds a cell of a sweep of each factorisation, and their ratio to scikit-learn's of the same round."""
    times, _ = measured(in_turn, num_cells, sweeps, rounds)
    title = f"A sweep over {num_cells:,} cells of {CHANNELS} channels: median (least-most) of {rounds} rounds"
    found = Table("", "microseconds a cell", "ratio", title=title, box=SIMPLE, title_justify="left")
    for name, seconds in times.items():
        ratios = [own / other for own, other in zip(seconds, times[SCIKIT_LEARN], strict=True)]
        found.add_row(name, spread([1e6 * each / num_cells for each in seconds]), spread(ratios))
    return found


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def table(pictures: int, num_cells: int, sweeps: int) -> Table:
    """A row for each way of fitting."""
    of_all, tenth = pictures * GRID**2, pictures // 10 * GRID**2
    rows = {
        "DFF, mu": (of_all, CHANNELS, dff, "mu"),
        "DFF, hals": (of_all, CHANNELS, dff, "hals"),
        SCIKIT_LEARN: (tenth, CHANNELS, scikit_learn),
        "k-means, mini-batches": (num_cells, CHANNELS_OF_K_MEANS, k_means),
    }
    found = Table(title=f"{torch.get_num_threads()} threads; a sweep, or an epoch", box=SIMPLE, title_justify="left")
    for column in ("", "cells", "channels", "CPU s", "microseconds a cell", "peak MiB", "bytes a cell"):
        found.add_column(column, justify="right" if column else "left")
    for name, (cells, channels, function, *own) in rows.items():
        seconds, memory = measured(function, cells, sweeps, *own)
        each = f"{1e6 * seconds / cells:.2f}", f"{memory:,.0f}", f"{memory * 2**20 / cells:,.0f}"
        found.add_row(name, f"{cells:,}", str(channels), f"{seconds:.1f}", *each)
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=6000, help="of the factorisation")
    parser.add_argument("--cells", type=int, default=1_000_000, help="of k-means")
    parser.add_argument("--sweeps", type=int, default=3, help="that are timed")
    parser.add_argument("--rounds", type=int, default=9, help="of the comparison")
    given = parser.parse_args(arguments)
    stdout().print(comparison(given.pictures // 10 * GRID**2, given.sweeps, given.rounds))
    stdout().print(table(given.pictures, given.cells, given.sweeps))


if __name__ == "__main__":
    main(sys.argv[1:])
