"""How threads wait: so that what else runs on the machine gets its share."""

import os
import subprocess
import sys

import pytest

from utils.run_directory import ROOT

OPENMP = ("OMP_", "GOMP_", "KMP_")


def output(*command: str, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OPENMP)}
    command = [sys.executable, *command]
    return subprocess.run(command, env=inherited | environment, cwd=ROOT, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("environment", "spins"),
    [
        ({}, "700"),
        ({"OMP_NUM_THREADS": "1"}, "None"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"KMP_BLOCKTIME": "0"}, "None"),
    ],
)
@pytest.mark.parametrize("start", ["conf.start", "conf.threads"])
def test_threads_sleep_soon_unless_the_user_says_how_they_wait(start, environment, spins):
    code = f"import os, sys, {start}; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    assert output("-c", code, **environment) == f"{spins} False\n"


def test_the_benchmark_has_a_row_for_each_way_of_waiting_and_a_column_for_each_number_of_runs():
    small = "--runs", "1", "2", "--sizes", "32", "--spins", "none", "ours", "--seconds", "0", "--rounds", "1"
    shown = output("benchmarks/threads.py", *small)
    rows = [line.split() for line in shown.splitlines() if line.strip().startswith(("none", "ours"))]
    assert [row[0] for row in rows] == ["none", "ours"] and all(line.count("x") == 2 for line in map("".join, rows))
