"""The one command for whoever has a GPU, tried on the CPU."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from utils.errors import UserError
from utils.run_directory import ROOT

SMALL = ("device=cpu", "image_size=32", "batch_size=2", "evaluation.size=32", "loader.num_workers=0")


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_each_part_leaves_its_numbers_and_a_table(tmp_path):
    data = tmp_path / "data"
    parts = "parts=[step_32,ways_bf16,precision,tests,nccl]"
    done = program(f"output_dir={tmp_path}/out", "limit=900", parts, "num_steps=2", f"dataset_root={data}", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert {name: part["outcome"] for name, part in results["parts"].items()} == dict.fromkeys(
        ("step_32", "ways_bf16", "precision", "tests", "nccl"), "done"
    )
    step = results["parts"]["step_32"]["numbers"]["step_32"]
    assert step["seconds"]["step"][0] > step["seconds"]["visual loss"][0] > 0 and step["memory"]["step"] > 0
    assert len(results["parts"]["precision"]["numbers"]) == 6
    page = (tmp_path / "out/results.md").read_text()
    for row in (
        "| cuda_graph=True ",
        "steps go one by one all the same",
        "| step ",
        "| reference step, float32 ",
        "| FG-NMI, bf16 ",
        "steps a second",
        "skipped",
        "| total ",
    ):
        assert row in page, row
    assert done.stdout.endswith(page + "\n")


def test_a_part_that_runs_past_its_time_is_ended_with_all_it_started_and_the_others_go_on(tmp_path):
    endless = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    part = gpu.Part(
        "", 1, {"first": ["-c", "pass"], "second": ["-c", endless], "third": ["-c", "pass"]}, gpu.table_of_step
    )
    begun = time.monotonic()
    gpu.run(part, tmp_path, 3)
    assert time.monotonic() - begun < 60 and part.outcome == "ran past its 3 s at second"
    assert list(part.folders) == ["first", "second"]
    children = subprocess.run(["pgrep", "-f", "time.sleep.600"], capture_output=True, text=True).stdout
    assert not children


def test_a_part_that_fails_is_named_with_what_it_printed(tmp_path):
    part = gpu.Part("", 1, {"first": ["-c", "raise SystemExit('no such thing')"]}, gpu.table_of_step)
    gpu.run(part, tmp_path, 60)
    assert part.outcome == "failed at first (exit status 1): see first.log"
    assert (tmp_path / "first.log").read_text() == "no such thing\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "output_dir=DIR is missing"),
        (("output_dir=new", "limit=soon"), "limit must be a whole number above 0, not soon"),
        (("output_dir=new", "device=cpu", "parts=[stepp_32]"), "there is no 'stepp_32'. Did you mean 'step_32'"),
        (("output_dir={here}", "device=cpu"), "is not an empty directory"),
        (("output_dir=new", "device=cpu", "parts=[step_32"), "cannot read output_dir=new device=cpu parts=[step_32"),
        (("output_dir=new", "device=cpu", "parts=stepp_32"), "there is no 'stepp_32'. Did you mean 'step_32'"),
        (("output_dir={here}/mine/x", "device=cpu"), "Cannot write output_dir"),
    ],
)
def test_a_mistake_is_one_message(tmp_path, arguments, message):
    (tmp_path / "mine").touch()
    with pytest.raises(UserError) as caught:
        gpu.main([argument.format(here=tmp_path) for argument in arguments])
    assert message in str(caught.value)
    assert not Path("new").exists()
