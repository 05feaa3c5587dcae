import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import pascal_part
from benchmarks.pascal_part import FAILED, NO_DATA, PAPER
from datasets.pascal_part import CATEGORIES
from tests.composition import composed
from tests.trees import draw_pascal_tree
from utils.errors import UserError
from utils.run_directory import ROOT

METRICS = {"NMI": 12.34, "ARI": 23.45, "FG-NMI": 34.56, "FG-ARI": 45.67}


class Programs:
    """Stands for the programs: writes what they leave behind, fails where it is told to."""

    def __init__(self, fail: tuple[str, ...] = ()) -> None:
        self.calls: list[list[str]] = []
        self.fail = fail

    def __call__(self, name: str, *arguments: str) -> bool:
        self.calls.append([name, *arguments])
        keys = dict(one.split("=", 1) for one in arguments)
        if any(one in " ".join([name, *arguments]) for one in self.fail):
            return False
        if name == "train.py":
            checkpoint = Path(keys.get("output_dir", keys.get("resume"))) / "checkpoints/model_1.pth"
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.touch()
        if name == "predict.py":
            root, category = Path(keys["dataset_root"]), keys["dataset.category"]
            draw_pascal_tree(root / "VOCdevkit_2010", category)
        if name == "evaluate.py":
            figures = Path(keys["output_dir"]) / "metrics.json"
            figures.parent.mkdir(parents=True)
            figures.write_text(json.dumps(METRICS | {"produced_by": {}}))
        return True

    def of(self, name: str) -> list[list[str]]:
        return [call[1:] for call in self.calls if call[0] == name]


@pytest.fixture
def given(tmp_path) -> list[str]:
    """Three categories are on disk, of one only its list."""
    for category in ("horse", "car"):
        draw_pascal_tree(tmp_path / "VOCdevkit_2010", category)
    draw_pascal_tree(tmp_path / "VOCdevkit_2010", "cat", num_train=0)
    return [f"dataset_root={tmp_path}", "num_steps=7"]


def run_all(monkeypatch, given, output, fail=(), overrides=()) -> tuple[dict, Programs]:
    programs = Programs(fail)
    monkeypatch.setattr(pascal_part, "program", programs)
    config = composed(*given, *overrides, name="pascal_part")
    return pascal_part.run_all(config, given, output), programs


def test_every_category_that_is_there_is_trained_and_evaluated_with_the_keys_given(given, tmp_path, monkeypatch):
    results, programs = run_all(monkeypatch, given, tmp_path / "runs")
    assert list(results) == list(CATEGORIES)
    assert {category for category, result in results.items() if result == NO_DATA} == {*CATEGORIES} - {"horse", "car"}
    assert results["car"]["NMI"] == 12.34
    assert [call[0] for call in programs.calls] == ["train.py", "evaluate.py"] * 2
    keys = ["dataset_name=PP", "dataset.category=horse", *given]
    run = tmp_path / "runs/horse"
    assert programs.calls[0] == ["train.py", *keys, f"output_dir={run}"]
    assert programs.calls[1] == ["evaluate.py", *keys, f"checkpoint={run}", f"output_dir={run}/evaluation"]


@pytest.mark.parametrize("broken", ["train.py", "evaluate.py", "annotation"])
def test_a_run_that_fails_does_not_stop_the_others(given, tmp_path, monkeypatch, broken, capsys):
    if broken == "annotation":
        (tmp_path / "VOCdevkit_2010/Annotations_Part/2010_horse000.mat").unlink()
    results, _ = run_all(
        monkeypatch, given, tmp_path / "runs", fail=(f"{broken} dataset_name=PP dataset.category=horse",)
    )
    assert results["horse"] == FAILED and results["car"]["ARI"] == 23.45
    assert ("2010_horse000.mat" in capsys.readouterr().err) == (broken == "annotation")


def test_a_later_call_goes_on_with_what_is_left(given, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    (runs / "car").mkdir(parents=True)  # ended before its first checkpoint
    (runs / "car/config.yaml").touch()
    run_all(monkeypatch, given, runs, fail=("evaluate.py dataset_name=PP dataset.category=horse",))
    assert (runs / "car_unfinished_1/config.yaml").exists()
    results, programs = run_all(monkeypatch, given, runs)
    assert programs.of("train.py") == [[f"resume={runs / 'horse'}"]]
    assert len(programs.of("evaluate.py")) == 1 and results["horse"] == results["car"]


def test_figures_of_other_keys_are_not_mixed_in(tmp_path):
    for given in (["num_parts=4", "seed=1"], ["seed=1", "num_parts=4"]):
        pascal_part.prepare(tmp_path / "runs", given)
    with pytest.raises(UserError, match="made with other keys .*num_parts=4 seed=1"):
        pascal_part.prepare(tmp_path / "runs", ["num_parts=8", "seed=1"])


def test_masks_that_are_missing_are_predicted_first(given, tmp_path, monkeypatch):
    for path in (tmp_path / "VOCdevkit_2010/supervisedlabels/car").iterdir():
        path.unlink()
    given = [*given, "num_parts=5"]
    _, programs = run_all(monkeypatch, given, tmp_path / "runs", overrides=("categories=[car]", "foreground_steps=5"))
    keys = ["dataset_name=PP", "dataset.category=car", f"dataset_root={tmp_path}"]
    foreground = tmp_path / "runs/car_foreground"
    assert programs.calls[:2] == [
        ["train.py", *keys, "method=foreground", "num_steps=5", f"output_dir={foreground}"],
        ["predict.py", *keys, f"checkpoint={foreground}", "only_missing=true"],
    ]
    assert [call[0] for call in programs.calls[2:]] == ["train.py", "evaluate.py"]


def test_no_masks_are_predicted_for_an_evaluation_without_them(given, tmp_path, monkeypatch):
    (tmp_path / "VOCdevkit_2010/supervisedlabels").rename(tmp_path / "moved")
    given = [*given, "dataset.eval_mask=gt", "categories=[car,mbike]"]
    results, programs = run_all(monkeypatch, given, tmp_path / "runs")
    assert list(results) == ["motorbike", "car"]
    assert [call[0] for call in programs.calls] == ["train.py", "evaluate.py"]


def printed(results) -> list[str]:
    text = io.StringIO()
    pascal_part.print_table(results, Console(file=text, width=80))
    return text.getvalue().splitlines()


def test_the_table_has_the_paper_s_figures_beside_the_measured_ones(capsys):
    lines = printed({"car": METRICS, "dog": FAILED, **dict.fromkeys(CATEGORIES[:6], NO_DATA)})
    rows = [line.split() for line in lines if line.split() and line.split()[0] in CATEGORIES]
    assert len(rows) == 20
    assert [row for row in rows if row[0] == "car"] == [
        ["car", "9.0", "33.6", "38.4", "36.8", "12.3", "-", "34.6"],
        ["car", "24.1", "67.1", "70.6", "72.7", "23.4", "-", "45.7"],
    ]
    assert all(row[5:] == ["no", "data"] for row in rows if row[0] in CATEGORIES[:6])
    assert all(row[5:] == ["failed"] for row in rows if row[0] == "dog")
    assert all(len(numbers) == 10 for index in PAPER.values() for numbers in index.values())


def test_a_data_root_without_pascal_part_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"no folder {tmp_path}/nowhere/VOCdevkit_2010. Set dataset_root="):
        run_all(monkeypatch, [f"dataset_root={tmp_path}/nowhere"], tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_one_command_trains_evaluates_and_prints(given, tmp_path):
    draw_pascal_tree(tmp_path / "VOCdevkit_2010", "dog", num_train=1)
    masks = tmp_path / "VOCdevkit_2010/supervisedlabels/car"
    shutil.rmtree(masks)
    command = [sys.executable, "-m", "benchmarks.pascal_part", *given, "experiment=debug", "num_steps=1"]
    command += [f"output_dir={tmp_path / 'runs'}", "dataset_name=PP", "categories=[car,dog,cow]", "image_size=32"]
    command += ["baseline=[]", "loader.num_workers=0", "logging.wandb=disabled"]
    command.remove("num_steps=7")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.split() and line.split()[0] in CATEGORIES]
    by_category = {category: [row for row in rows if row[0] == category][0] for category in CATEGORIES}
    assert all(-100 <= float(figure) <= 100 for figure in by_category["car"][1:]) and len(by_category["car"]) == 8
    assert by_category["cow"][5:] == ["no", "data"] and by_category["dog"][5:] == ["failed"]
    assert "fewer than batch_size" in done.stderr
    assert len(list(masks.iterdir())) == 10, "they were predicted on the way"
