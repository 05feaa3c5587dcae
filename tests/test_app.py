import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.app import run

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import os
import sys
from utils.app import run
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
    print(config.num_steps, config.optimizer.name, "torch" in sys.modules)

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


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs the wrapper in this process, which is faster; gives the one line with which it ended with status 2."""

    def call(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            run("train", lambda _: pytest.fail("the task was started"))
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (2, "")
        assert err.startswith("error: ") and err.count("\n") == 1
        return err

    return call


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("num_stepz=3", "'num_steps'"),
        ("num_stepz", "'num_steps'"),
        ("lr=1", "'optimizer.lr'"),
        ("weights=none", "'segmenter.weights' or 'perceptual.weights'"),
        ("optimizer.lrr=1", "'optimizer.lr'"),
        ("+logging.wnadb=offline", "'logging.wandb'"),
        ("segmentr=caffe", "'segmenter'"),
        ("segmenter=cafe", "'caffe'"),
        ("dataset_name=cub", "'CUB'"),
        ("experiment=debugg", "'debug'"),
    ],
)
def test_a_wrong_name_is_met_with_the_nearest_valid_one(refused, argument, nearest):
    assert f"Did you mean {nearest}?" in refused(argument)


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("optimizer.lr=[1]", ["optimizer.lr", "a number"]),
        ("debug=perhaps", ["debug", "true or false"]),
        ("logging.tags=a", ["logging.tags", "list"]),
        ("optimizer=3", ["optimizer=3"]),
        ("dataset.drawing.size=64", ["dataset.drawing.size=64"]),
        ("--num_parts=3", ["num_parts=VALUE"]),
        ("output_dir=a=b", ["output_dir=a=b", "quote"]),
    ],
)
def test_a_mistake_is_one_message_and_status_2(refused, argument, parts):
    message = refused(argument)
    assert all(part in message for part in parts), message


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


def test_the_task_gets_the_config_before_torch_is_loaded_and_several_in_a_sweep(program, tmp_path):
    done = program("num_steps=3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 sgd False\n", "")
    done = program("--multirun", "num_steps=3,4", "optimizer=adamw", f"hydra.sweep.dir={tmp_path}/sweep")
    assert done.returncode == 0
    assert "3 adamw False\n" in done.stdout and "4 adamw False\n" in done.stdout


def test_hydras_own_options_work(program):
    shown = program("--cfg", "job", "dataset_name=synthetic")
    assert shown.returncode == 0 and "dataset_name: synthetic\n" in shown.stdout
    help_text = program("--help")
    assert help_text.returncode == 0 and "segmenter: caffe, torchvision" in help_text.stdout


def test_a_reader_of_its_output_that_goes_away_does_not_end_a_program(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(f"""
import sys
from pathlib import Path
from utils.app import run

def task(config):
    for _ in range(3):
        print("a line", flush=True)
        print("another", file=sys.stderr)
    Path({str(tmp_path / "done")!r}).touch()

run("train", task)
""")
    for redirected in ("2>&1 | true", ">/dev/full 2>/dev/full", "2>&- >&-"):
        (tmp_path / "done").unlink(missing_ok=True)
        command = f"set -o pipefail; sleep 0.2; '{sys.executable}' '{file}' {redirected}"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(["bash", "-c", command], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), redirected
        assert (tmp_path / "done").exists()
