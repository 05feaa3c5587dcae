"""The program is ended again and again, wherever it is, and ends as one that was not."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.test_logging import history
from utils import checkpoints

ROOT = Path(__file__).resolve().parents[1]
NUM_STEPS, SAVED_EVERY, EVALUATED_EVERY = 18, 2, 4
SMALL = (
    *("dataset_name=synthetic", "dataset.drawing.num_train=11", "dataset.drawing.num_test=8"),
    *("image_size=32", "evaluation.size=32", "batch_size=2", "loader.num_workers=2", "device=cpu", "optimizer=sgd"),
    *(f"num_steps={NUM_STEPS}", f"checkpointing.every={SAVED_EVERY}", f"evaluation.every={EVALUATED_EVERY}"),
    *("checkpointing.keep=2", "logging.every=1", "logging.wandb=offline", "logging.image_every=0"),
)
PATIENCE = 300  # seconds


def start(*arguments: str) -> subprocess.Popen:
    """``python train.py`` in a process group of its own, as a shell or a scheduler starts it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    command = [sys.executable, "train.py", *arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "1"}, **options)


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    return output


def steps(table: Path) -> list[int]:
    if not table.exists():
        return []
    with table.open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["step"].isdecimal()]


def saved(run: Path) -> int:
    """The step of the newest checkpoint."""
    file = checkpoints.latest(run)
    return int(file.stem.removeprefix("model_")) if file else 0


def starts(run: Path) -> int:
    return len(list(run.glob("code/environment.txt"))) + len(list(run.glob("code/resumed_*/config_before.yaml")))


def writing(run: Path) -> bool:
    return any(run.glob("checkpoints/.model_*.pth.part"))


def evaluating(run: Path) -> bool:
    last = saved(run)
    due = last > 0 and last % EVALUATED_EVERY == 0
    return due and last not in steps(run / "evaluation.csv") and steps(run / "metrics.csv")[-1] == last


def logged(run: Path, row: int) -> bool:
    return steps(run / "metrics.csv")[-1:] == [row]


def wait(process: subprocess.Popen, begun: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not begun():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def processes(group: int) -> list[int]:
    """Those of a process group that run train.py, readers left out."""
    # -ww: whole lines, however long the path of the interpreter is.
    command = ["ps", "-ww", "-eo", "pid,ppid,pgid,args"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=3) for line in shown.splitlines()[1:]]
    of_group = {int(row[0]): int(row[1]) for row in rows if int(row[2]) == group and "train.py" in row[3]}
    # A process that Fabric starts has a LOCAL_RANK of its own; a reader has its parent's.
    return [pid for pid, parent in of_group.items() if environment(pid) != environment(parent)]


def environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("runs")
    finish(start(*SMALL, f"dataset_root={folder}", f"output_dir={folder / 'whole'}"))
    return folder / "whole"


def assert_same(run: Path, expected: Path) -> None:
    for table in ("metrics.csv", "evaluation.csv"):
        assert (run / table).read_bytes() == (expected / table).read_bytes(), table
    assert steps(run / "metrics.csv") == steps(run / "timing.csv") == list(range(1, NUM_STEPS + 1))
    ours, theirs = checkpoints.find(run), checkpoints.find(expected)
    assert ours.step == theirs.step == NUM_STEPS
    for name, tensor in theirs.model.items():
        assert torch.equal(ours.model[name], tensor), name
    for number, state in theirs.optimizer["state"].items():
        momentum = ours.optimizer["state"][number]["momentum_buffer"]
        assert torch.equal(momentum, state["momentum_buffer"]), number


@pytest.mark.slow
def test_a_run_killed_at_ten_random_places_ends_as_one_that_was_not(whole):
    place, run = random.Random(0), whole.parent / "killed"
    arguments = [*SMALL, f"dataset_root={whole.parent}", f"output_dir={run}"]
    aims = ["starting", "step", "writing", "evaluating", "step", "writing", "evaluating", "step", "writing", "step"]
    place.shuffle(aims)
    killed_in, reached = [], 0
    while aims:
        aim, before, row = aims.pop(), starts(run), saved(run) + place.choice((1, 2))
        process = start(*arguments)
        wait(process, lambda before=before: starts(run) > before)
        if aim == "starting":
            time.sleep(place.uniform(0, 2))
        elif aim == "step":
            wait(process, lambda row=row: logged(run, row))
            time.sleep(place.uniform(0, 0.1))
        else:
            wait(process, lambda aim=aim: {"writing": writing, "evaluating": evaluating}[aim](run))
            time.sleep(place.uniform(0, 0.03))
        assert process.poll() is None, "it had ended before it was killed"
        process.kill()
        process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL and reached <= saved(run) < NUM_STEPS
        arguments, reached = [f"resume={run}"], saved(run)
        killed_in.append("writing" if writing(run) else "evaluating" if evaluating(run) else aim)
        if len(aims) == 0 and len(killed_in) < 15:  # where the phase was over before the signal came
            aims += {"writing", "evaluating"} - set(killed_in)
    assert len(killed_in) >= 10 and {"step", "writing", "evaluating"} <= set(killed_in), killed_in
    assert reached > 0
    finish(start(*arguments))
    assert_same(run, whole)

    # In W&B it is one run, the last piece of it has every step once, and all that its process could write before it was
    # killed has the same values.
    (last,) = run.glob("wandb/offline-run-*")
    assert [row["step"] for row in history(last) if "train/total" in row] == [*range(1, NUM_STEPS + 1)]
    folders = sorted(run.glob("wandb/*offline-run-*"))
    assert {folder.name.rpartition("-")[2] for folder in folders} == {(run / "wandb_id.txt").read_text().strip()}
    with (whole / "metrics.csv").open() as file:
        totals = {int(row["step"]): float(row["total"]) for row in csv.DictReader(file)}
    begun = [folder for folder in folders if any(folder.glob("*.wandb"))]
    again = [row for folder in begun for row in history(folder) if "train/total" in row]
    assert all(row["train/total"] == totals[row["step"]] for row in again)


@pytest.mark.slow
def test_signals_to_the_whole_process_group_save_say_how_to_go_on_and_lose_nothing(whole):
    """As a terminal or a scheduler sends them: to the processes that read pictures too."""
    run = whole.parent / "signalled"
    process = start(*SMALL, f"dataset_root={whole.parent}", f"output_dir={run}", "checkpointing.every=100")
    wait(process, lambda: steps(run / "metrics.csv")[-1:] == [1])
    os.kill(process.pid, signal.SIGUSR1)
    wait(process, lambda: saved(run) > 0)
    wait(process, lambda: steps(run / "metrics.csv")[-1] > saved(run))  # it goes on
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        os.killpg(process.pid, number)
        output = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == status, output
        assert output.endswith(
            f"{number.name}: saved after {saved(run)} steps. To go on: python train.py resume={run}\n"
        )
        assert "Traceback" not in output
        assert steps(run / "metrics.csv")[-1] == saved(run) < NUM_STEPS
        process, first = start(f"resume={run}"), saved(run) + 1
        wait(process, lambda first=first: steps(run / "metrics.csv")[-1] == first)
    finish(process)
    assert_same(run, whole)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="tells processes apart as Linux lists them")
def test_of_two_devices_a_signal_to_one_ends_both_and_the_run_goes_on(tmp_path):
    run = tmp_path / "run"
    process = start(*SMALL, "devices=2", "logging.wandb=disabled", f"dataset_root={tmp_path}", f"output_dir={run}")
    wait(process, lambda: logged(run, 1))
    (second,) = [pid for pid in processes(process.pid) if b"LOCAL_RANK=1" in environment(pid)]
    os.kill(second, signal.SIGTERM)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 143, output
    assert output.endswith(f"SIGTERM: saved after {saved(run)} steps. To go on: python train.py resume={run}\n")
    assert "Traceback" not in output
    assert 0 < saved(run) == steps(run / "metrics.csv")[-1] < NUM_STEPS
    assert processes(process.pid) == []
