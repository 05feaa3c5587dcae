"""What runs on the same cores cost each other, by how their threads wait: ``python benchmarks/threads.py [--runs N]``.

A step is a ResNet-50's, forward and back, as many as fit in the time that is given, after one that does not count. So
many processes of it start together, each on all cores, as runs do that know nothing of each other. Their threads spin
so many times while they wait for each other (GOMP_SPINCOUNT) before they sleep; ``none`` is the library's own choice,
``ours`` what ``conf/threads.py`` sets.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

from rich.box import SIMPLE
from rich.table import Table

from conf.threads import OPENMP, SPINS
from utils.console import stdout

BATCH = {64: 8}  # pictures of a step by their side; 6, the published, of all others
NONE, OURS = "none", "ours"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 2, 4], help="how many beside each other")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="side of a picture, pixels")
    parser.add_argument("--spins", nargs="+", default=[NONE, "0", OURS, "100000"], help="numbers, none, or ours")
    parser.add_argument("--seconds", type=float, default=30, help="of a measurement; at least three steps of each run")
    parser.add_argument("--rounds", type=int, default=3, help="all are measured in turn, so many times")
    parser.add_argument("--worker", type=int, metavar="SIZE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, options.seconds, *options.spins)
    cells = [(size, runs, spins) for size in options.sizes for runs in options.runs for spins in options.spins]
    seconds: dict[tuple[int, int, str], list[float]] = {cell: [] for cell in cells}
    for _ in range(options.rounds):
        for cell in cells:
            seconds[cell] += together(*cell, options.seconds)
    for size in options.sizes:
        stdout().print(shown(size, options.runs, options.spins, seconds))


def work(size: int, seconds: float, spins: str) -> None:
    """Measures steps once told to, and prints the seconds of each."""
    os.environ.pop("GOMP_SPINCOUNT", None)  # which importing conf.threads has set
    if spins != NONE:
        os.environ["GOMP_SPINCOUNT"] = SPINS if spins == OURS else spins
    import torch
    from torchvision.models import resnet50

    network, batch = resnet50(), torch.randn(BATCH.get(size, 6), 3, size, size)

    def step() -> float:
        begun = time.perf_counter()
        network(batch).sum().backward()
        return time.perf_counter() - begun

    step()
    print(torch.get_num_threads(), flush=True)
    sys.stdin.readline()
    end, taken = time.perf_counter() + seconds, []
    while time.perf_counter() < end or len(taken) < 3:
        taken.append(step())
    print(*taken, flush=True)


def together(size: int, runs: int, spins: str, seconds: float) -> list[float]:
    """Seconds of every step of so many processes beside each other."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OPENMP)}
    command = [sys.executable, __file__, "--worker", str(size), "--seconds", str(seconds), "--spins", spins]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    workers = [subprocess.Popen(command, **pipes) for _ in range(runs)]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    return [float(taken) for worker in workers for taken in worker.communicate()[0].split()]


def shown(size: int, runs: list[int], spins: list[str], seconds: dict[tuple[int, int, str], list[float]]) -> Table:
    """A row for each way of waiting: median seconds, quarters, and the ratio to one run that waits in the same way."""
    title = f"{BATCH.get(size, 6)} pictures of {size} px, {os.cpu_count()} cores: seconds a step, median (quarters)"
    table = Table("spins", *(f"{number} at once" for number in runs), title=title, box=SIMPLE, title_justify="left")
    for own in spins:
        table.add_row(f"{own} ({SPINS})" if own == OURS else own, *cells_of(size, runs, own, seconds))
    return table


def cells_of(size: int, runs: list[int], spins: str, seconds: dict[tuple[int, int, str], list[float]]) -> Iterator[str]:
    """Their texts."""
    first = statistics.median(seconds[size, runs[0], spins])
    for number in runs:
        low, median, high = statistics.quantiles(seconds[size, number, spins], n=4)
        yield f"{median:.2f} ({low:.2f}-{high:.2f}) x{median / first:.1f}"


if __name__ == "__main__":
    main()
