"""What fitting the baselines costs: ``python benchmarks/fitted.py [--pictures N] [--cells N] [--sweeps N]``.

The features are drawn, no network runs. Each row is measured in a process of its own, and its peak memory is less what
was there before:

- deep feature factorisation by both solvers: a sweep over the feature file of all pictures, 16 x 16 cells of 512
  channels each, K = 4;
- scikit-learn's NMF with the same multiplicative updates, on a tenth of the pictures, which it holds in memory;
- k-means by mini-batches: one epoch over cells of 1,024 channels, K = 4.

Seconds are of the processor, of all threads; those of a sweep are what more sweeps take longer than one.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import numpy as np
import torch
from rich.box import SIMPLE
from rich.table import Table
from sklearn.decomposition import NMF
from torch import Tensor

from datasets.batch import EvalBatch
from evaluation.cells import Cells
from evaluation.factorisation import factorise, random_start
from evaluation.labellers.kmeans import KMeansLabeller, Options
from utils.console import stdout

GRID, CHANNELS, CHANNELS_OF_K_MEANS, NUM_PARTS = 16, 512, 1024, 4
PICTURES_OF_A_BATCH = 8
MINIBATCH = 8192


def drawn(num_cells: int, channels: int) -> Iterator[Tensor]:
    """Features (p, C) after a ReLU, of a batch of pictures each."""
    random = torch.Generator().manual_seed(0)
    at_once = PICTURES_OF_A_BATCH * GRID**2
    for start in range(0, num_cells, at_once):
        yield torch.randn(min(at_once, num_cells - start), channels, generator=random).relu_()


def dff(num_cells: int, sweeps: int, solver: str) -> float:
    """Seconds of a sweep."""
    with Cells() as cells:
        for rows in drawn(num_cells, CHANNELS):
            cells.add(rows)
        mean = cells.total / (num_cells * CHANNELS)
        start = random_start(mean, num_cells, CHANNELS, NUM_PARTS, np.random.default_rng(0))
        return of_a_sweep(lambda number: factorise(cells, start, solver, number, tolerance=0), sweeps)


def scikit_learn(num_cells: int, sweeps: int) -> float:
    """Seconds of a sweep."""
    rows = torch.cat(list(drawn(num_cells, CHANNELS)))
    start = random_start(float(rows.mean()), num_cells, CHANNELS, NUM_PARTS, np.random.default_rng(0))
    rows, w, h = (tensor.numpy() for tensor in (rows, *start))

    def fit(number: int) -> None:
        NMF(NUM_PARTS, solver="mu", init="custom", max_iter=number, tol=0).fit_transform(rows, W=w.copy(), H=h.copy())

    return of_a_sweep(fit, sweeps)


class _OfFeatures(KMeansLabeller):
    """k-means on features that are given for pictures."""

    def describe(self, images: Tensor) -> Tensor:
        return images


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
    times = []
    for number in (1, 1 + sweeps):
        start = time.process_time()
        fit(number)
        times.append(time.process_time() - start)
    return (times[1] - times[0]) / sweeps


def measured(function: Callable[..., float], *arguments: object) -> tuple[float, float]:
    """Seconds, and MiB of peak memory, in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (function, *arguments))


def _measured(function: Callable[..., float], *arguments: object) -> tuple[float, float]:
    def peak() -> float:
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size / 2**10 if sys.platform == "linux" else size / 2**20

    before = peak()
    with torch.inference_mode():
        seconds = function(*arguments)
    return seconds, peak() - before


def table(pictures: int, num_cells: int, sweeps: int) -> Table:
    """A row for each way of fitting."""
    of_all, tenth = pictures * GRID**2, pictures // 10 * GRID**2
    rows = {
        "DFF, mu": (of_all, CHANNELS, dff, "mu"),
        "DFF, hals": (of_all, CHANNELS, dff, "hals"),
        "scikit-learn's NMF, mu": (tenth, CHANNELS, scikit_learn),
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
    given = parser.parse_args(arguments)
    stdout().print(table(given.pictures, given.cells, given.sweeps))


if __name__ == "__main__":
    main(sys.argv[1:])
