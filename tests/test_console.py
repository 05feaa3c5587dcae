"""What a program prints, where nobody reads it or its disk is full."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils import checkpoints

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
from pathlib import Path
from conf.app import run

def task(config):
    for _ in range(3):
        print("a line", flush=True)
        print("another", file=sys.stderr)
    Path("done").touch()

run("train", task)
"""
SMALL = "dataset_name=synthetic dataset.drawing.num_train=4 dataset.drawing.num_test=4 image_size=32 device=cpu"


def shell(program: str, redirected: str, folder: Path) -> subprocess.CompletedProcess:
    """``python PROGRAM REDIRECTED`` in an empty folder; begins when the other end of a pipe has had time to end."""
    command = f"set -o pipefail; (sleep 0.2; exec '{sys.executable}' {program}) {redirected}"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", command], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("redirected", ["2>&1 | true", "| true", "2>/dev/full", "2>&- >&-"])
def test_a_reader_of_its_output_that_goes_away_does_not_end_a_program(tmp_path, redirected):
    (tmp_path / "program.py").write_text(f"import sys{PROGRAM}")
    done = shell("program.py", redirected, tmp_path)
    assert (done.returncode, done.stderr) == (0, "another\n" * 3 if redirected == "| true" else "")
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("unbuffered", ["", "-u "])
def test_a_program_whose_results_are_lost_as_the_disk_is_full_fails_and_says_so(tmp_path, unbuffered):
    done = shell(f"{unbuffered}-m datasets.check {SMALL} dataset_root=.", ">/dev/full", tmp_path)
    assert done.returncode in (1, 120) and "No space left on device" in done.stderr


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_trains_to_its_end(tmp_path):
    program = f"{ROOT}/train.py {SMALL} experiment=debug num_steps=3 evaluation.every=1 logging.wandb=disabled"
    done = shell(f"{program} evaluation.size=32 dataset_root=. output_dir=run", "2>&1 | head -1", tmp_path)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert checkpoints.find(tmp_path / "run").step == 3
