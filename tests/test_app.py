import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import os
from conf.app import run
from utils.errors import UserError

def task(config):
    if config.num_steps == 6:
        return print(os.fsdecode(b"Fl\\xfcgel"))
    if config.num_steps == 7:
        raise UserError("seven is no good")
    if config.num_steps == 8:
        raise KeyError("a fault")
    if config.num_steps == 9:
        raise KeyboardInterrupt
    print(config.num_steps, config.optimizer.name)

run("train", task)
"""


@pytest.fixture
def program(tmp_path):
    """Runs a program like train.py in an empty directory; gives its result, and fails if anything was left there."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    folder = tmp_path / "cwd"
    folder.mkdir()

    def call(*arguments: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, file, *arguments], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert list(folder.iterdir()) == []
        return done

    return call


@pytest.mark.parametrize("argument", ["num_stepz=3", "segmenter=cafe", "num_steps=7"])
def test_the_process_ends_with_the_message_alone(program, argument):
    done = program(argument)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_debug_shows_where_a_mistake_was_found(program):
    done = program("num_steps=7", "debug=true")
    assert done.returncode == 2
    assert "Traceback" in done.stderr and done.stderr.endswith("error: seven is no good\n")


def test_a_fault_of_the_code_keeps_its_traceback(program):
    done = program("num_steps=8")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "KeyError: 'a fault'" in done.stderr


def test_a_name_of_a_file_in_another_encoding_can_be_printed(program, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    assert program("num_steps=6").stdout == "Fl\\udcfcgel\n"


def test_ctrl_c_ends_with_one_line(program):
    done = program("num_steps=9")
    assert done.returncode == 130
    assert done.stderr == "Interrupted.\n"


IMPORTED = """
import runpy, sys

class CtrlC:
    def find_spec(self, name, *_):
        if name == "torch":
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
runpy.run_module(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "evaluation.table"])
def test_ctrl_c_during_the_imports_of_a_program_ends_with_one_line_too(name):
    done = subprocess.run([sys.executable, "-c", IMPORTED, name], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_the_task_gets_the_config_and_several_in_a_sweep(program, tmp_path):
    done = program("num_steps=3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 sgd\n", "")
    done = program("--multirun", "num_steps=3,4", "optimizer=adamw", f"hydra.sweep.dir={tmp_path}/sweep")
    assert done.returncode == 0
    assert "3 adamw\n" in done.stdout and "4 adamw\n" in done.stdout


def test_hydras_own_options_work(program):
    shown = program("--cfg", "job", "dataset_name=synthetic")
    assert shown.returncode == 0 and "dataset_name: synthetic\n" in shown.stdout
    help_text = program("--help")
    assert help_text.returncode == 0 and re.search(r"segmenter: .*caffe, dinov2_vits14", help_text.stdout)
