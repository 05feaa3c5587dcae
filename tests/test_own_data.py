"""evaluate.py and predict.py with the directory of a run: on its own data set and root, unless others are named."""

import json
import os
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import datasets
import evaluate
import predict
from datasets.example import draw_folder
from datasets.lists import lists_of
from models.segmenters.deeplab import Segmenter
from tests.composition import composed, given
from tests.processes import run_python
from tests.test_datasets import DRAWN, SMALL
from tests.test_logging import history
from tests.test_wandb_sync import finished
from utils import checkpoints
from utils.logging import WANDB_ID

SYNTHETIC = ("dataset_name=synthetic", *DRAWN["synthetic"][1])


def program(*arguments: str) -> str:
    """What it printed on stdout, in a process of its own."""
    done = run_python(*arguments, "device=cpu", "loader.num_workers=0")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def call(capsys, monkeypatch):
    """The same in this process, which is faster."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)

    def attempt(name: str, *overrides: str) -> str:
        with given(*overrides, "device=cpu", "loader.num_workers=0", name=name) as config:
            {"evaluate": evaluate.evaluate, "predict": predict.predict}[name](config)
        return capsys.readouterr().out

    return attempt


@pytest.fixture
def data(tmp_path) -> Path:
    draw_folder(tmp_path / "mine", count=15, size=48)
    return tmp_path / "mine"


def run(path: Path, num_parts: int, *overrides: str) -> Path:
    """The directory of a run with one checkpoint and a W&B run."""
    config = composed(*SMALL, *overrides, "logging.wandb=offline")
    path.mkdir()
    OmegaConf.save(config, path / "config.yaml")
    (path / WANDB_ID).write_text("abc12345\n")
    torch.manual_seed(0)
    payload = {"iter": 1, "model_state_dict": Segmenter(num_parts).state_dict(), "optimizer_state_dict": {}}
    checkpoints.save(path / "checkpoints/model_1.pth", payload | {"config": OmegaConf.to_container(config)})
    return path


def wandb_runs(path: Path) -> list[Path]:
    return sorted((path / "wandb").glob("offline-run-*-abc12345"))


def figures(path: Path) -> dict:
    return json.loads((path / "metrics.json").read_text())


def test_a_run_is_evaluated_on_its_own_data_without_naming_them_and_on_others_that_are_named(data, tmp_path, call):
    of_run = run(tmp_path / "run", 5, "dataset_name=folder", f"dataset_root={data}", "dataset.test_share=0.4")
    printed = program("evaluate.py", f"checkpoint={of_run}", f"output_dir={tmp_path / 'own'}")
    produced_by = figures(tmp_path / "own")["produced_by"]
    assert (produced_by["dataset_name"], produced_by["dataset_root"]) == ("folder", str(data))
    assert produced_by["counts"]["images"] == 6 and produced_by["num_parts"] == 5
    assert "Trained on" not in printed and len(wandb_runs(of_run)) == 1

    others = (*SYNTHETIC, f"dataset_root={tmp_path}")
    printed = call("evaluate", f"checkpoint={of_run}", *others, f"output_dir={tmp_path / 'other'}")
    told = f"Trained on dataset_name=folder dataset_root={data}; now on dataset_name=synthetic dataset_root={tmp_path}."
    assert printed.splitlines().count(told) == 1 and printed.count("Trained on") == 1
    produced_by = figures(tmp_path / "other")["produced_by"]
    assert produced_by["dataset_name"] == "synthetic" and produced_by["counts"]["images"] == 3
    assert len(wandb_runs(of_run)) == 1, "the run's figures are of its own data"


def test_a_run_is_evaluated_on_its_data_wherever_both_have_moved_to(data, tmp_path, call, monkeypatch):
    own = ("dataset_name=folder", f"dataset_root={data}")
    lists = lists_of(datasets.build(composed(*own), "test", "evaluation"))
    given = f"++dataset.lists.test='{lists['test']}'"
    of_run = run(tmp_path / "run", 4, *own, given).rename(tmp_path / "moved")
    data = data.rename(tmp_path / "yours")
    monkeypatch.chdir(data)
    printed = call("evaluate", "checkpoint=../moved", "dataset_root=.", "output_dir=out")
    assert "Trained on" not in printed and len(wandb_runs(of_run)) == 1
    (data / "test.txt").write_text("creature_001\ncreature_002\n")
    printed = call("evaluate", "checkpoint=../moved", "dataset_root=.", "output_dir=other")
    assert f"(test list: {lists['test']}); now on" in printed and len(wandb_runs(of_run)) == 1


def test_the_figures_of_a_run_with_a_damaged_config_go_to_its_wandb_run(data, tmp_path, call):
    of_run = run(tmp_path / "run", 4, "dataset_name=folder", f"dataset_root={data}")
    (of_run / "config.yaml").write_text("logging: [")
    printed = call("evaluate", f"checkpoint={of_run}", "logging.name=mine", f"output_dir={tmp_path / 'out'}")
    assert "W&B: offline" in printed and len(wandb_runs(of_run)) == 1


def test_the_figures_of_an_evaluation_without_pictures_go_to_the_wandb_run_too(data, tmp_path, call):
    of_run = run(tmp_path / "run", 4, "dataset_name=folder", f"dataset_root={data}")
    call("evaluate", f"checkpoint={of_run}", "evaluation.pictures=0", f"output_dir={tmp_path / 'out'}")
    finished(of_run)
    (folder,) = wandb_runs(of_run)
    logged = {name: value for row in history(folder) for name, value in row.items()}
    found = figures(tmp_path / "out")
    assert logged["evaluation/FG-NMI"] == pytest.approx(found["FG-NMI"]) and "pictures/evaluation_parts" not in logged


def test_a_foreground_run_writes_the_masks_of_its_own_data_and_of_others_that_are_named(data, tmp_path, call):
    of_run = run(tmp_path / "run", 1, "method=foreground", "dataset_name=folder", f"dataset_root={data}")
    printed = program("predict.py", f"checkpoint={of_run}")
    names = {path.stem for path in (data / "images").iterdir()}
    assert {path.stem for path in (data / "supervisedlabels").glob("*.png")} == names and len(names) == 15
    assert f"15 pictures, 16 files in {data / 'supervisedlabels'}\n" in printed and "Trained on" not in printed
    assert f"dataset_name=folder dataset_root={data} dataset.eval_mask=supervised" in printed

    printed = call("predict", f"checkpoint={of_run}", *SYNTHETIC, f"dataset_root={tmp_path}")
    assert printed.splitlines()[0] == (
        f"Trained on dataset_name=folder dataset_root={data}; now on dataset_name=synthetic dataset_root={tmp_path}."
    )
    assert len(list((tmp_path / "synthetic/supervisedlabels").rglob("*.png"))) == 9


def test_the_baselines_keys_that_are_given_reach_an_evaluation(data, tmp_path, call):
    of_run = run(tmp_path / "run", 4, "dataset_name=folder", f"dataset_root={data}", "perceptual.weights=none")
    (of_run / WANDB_ID).unlink()
    baselines = ("baseline=[untrained,kmeans_features]", "baselines.kmeans_features.num_points=5")
    baselines += ("segmenter.weights=none",)
    printed = call("evaluate", f"checkpoint={of_run}", *baselines, f"output_dir={tmp_path / 'out'}")
    assert "untrained" in printed and "k-means features" in printed
    produced_by = figures(tmp_path / "out")["produced_by"]
    assert list(produced_by["baselines"]) == ["untrained", "kmeans_features"]
    assert all({"FG-NMI", "NMI"} <= set(row) for row in produced_by["baselines"].values())
    assert produced_by["config"]["baselines"]["untrained"] == {}
    assert produced_by["config"]["baselines"]["kmeans_features"].items() >= {"num_points": 5, "restarts": 10}.items()
