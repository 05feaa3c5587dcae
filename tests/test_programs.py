"""The two programs as a user runs them: train.py and evaluate.py in processes of their own."""

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from tests.processes import ROOT, run_python

SMALL = ("dataset_name=synthetic", "dataset.drawing.num_train=8", "dataset.drawing.num_test=8", "image_size=32")


def program(name: str, *arguments: str) -> subprocess.CompletedProcess:
    return run_python(name, *arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of the two debug steps, W&B offline."""
    folder = tmp_path_factory.mktemp("trained")
    run = folder / "run"
    own = f"dataset_root={folder}", f"output_dir={run}", "logging.project=a-project-of-its-own"
    done = program("train.py", *SMALL, "experiment=debug", *own)
    assert done.returncode == 0, done.stderr
    assert str(run) in done.stdout
    return run


@pytest.fixture(scope="module")
def evaluated(trained) -> Path:
    output = trained / "evaluation"
    done = program(
        "evaluate.py",
        *SMALL[:3],
        f"checkpoint={trained}",
        f"dataset_root={trained.parent}",
        f"output_dir={output}",
        "baseline=[untrained,kmeans_features,kmeans_colours]",
        "logging.wandb=offline",
    )
    assert done.returncode == 0, done.stderr
    assert "untrained" in done.stdout and str(output / "parts.png") in done.stdout
    return output


def test_a_run_directory_holds_config_code_tables_checkpoints_and_pictures(trained):
    for name in ("config.yaml", "code/commit.txt", "code/uncommitted.diff", "code/environment.txt", "timing.csv"):
        assert (trained / name).is_file(), name
    with (trained / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    for column in ("feature", "contrastive", "visual", "equivariance", "total", "learning_rate", "gradient_norm"):
        assert all(np.isfinite(float(row[column])) for row in rows), column
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == ["model_1.pth", "model_2.pth"]
    assert (trained / "pictures/training_parts_2.png").is_file() and (trained / "evaluation.csv").is_file()


def test_a_checkpoint_has_the_published_layout(trained):
    checkpoint = torch.load(trained / "checkpoints/model_2.pth", weights_only=True)
    assert checkpoint["iter"] == 2
    names = json.loads((ROOT / "tests/golden/release_checkpoint_keys.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in checkpoint["model_state_dict"].items()} == names
    assert len(checkpoint["optimizer_state_dict"]["state"]) == sum(
        len(group["params"]) for group in checkpoint["optimizer_state_dict"]["param_groups"]
    )


def test_evaluation_writes_figures_with_what_produced_them(trained, evaluated):
    figures = json.loads((evaluated / "metrics.json").read_text())
    names = {"FG-NMI", "FG-ARI", "NMI", "ARI"}
    assert names | {f"{name} (keypoints)" for name in names} | {"keypoint_error_all"} <= set(figures)
    produced_by = figures["produced_by"]
    assert produced_by["checkpoint"] == str(trained / "checkpoints/model_2.pth")
    assert produced_by["counts"]["images"] == 8 and produced_by["num_parts"] == 4
    assert set(produced_by["baselines"]) == {"untrained", "kmeans_features", "kmeans_colours"}


def test_training_and_evaluation_give_the_same_figures(trained, evaluated):
    with (trained / "evaluation.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    figures = json.loads((evaluated / "metrics.json").read_text())
    for name, value in last.items():
        if name != "step":
            assert figures[name] == pytest.approx(float(value), abs=1e-6), name


def test_the_saved_label_maps_give_the_figures_again(evaluated):
    def labels(kind: str) -> np.ndarray:
        paths = sorted((evaluated / "label_maps" / kind).rglob("*.png"))
        return np.concatenate([np.array(Image.open(path)).ravel() for path in paths])

    true, parts, predicted = labels("true"), labels("parts"), labels("predicted")
    figures = json.loads((evaluated / "metrics.json").read_text())
    on_object = true != 0
    assert figures["FG-NMI"] == pytest.approx(
        100 * normalized_mutual_info_score(true[on_object], parts[on_object]), abs=1e-6
    )
    assert figures["ARI"] == pytest.approx(100 * adjusted_rand_score(true, predicted), abs=1e-6)


def test_evaluating_a_run_directory_adds_to_its_wandb_run(trained, evaluated):
    identity = (trained / "wandb_id.txt").read_text().strip()
    assert len(list((trained / "wandb").glob(f"offline-run-*-{identity}"))) == 1
    assert len(list((trained / "wandb").glob(f"superseded-offline-run-*-{identity}"))) == 1


def test_the_evaluation_keeps_the_wandb_settings_of_the_run(trained, evaluated):
    configs = [path.read_bytes() for path in sorted((trained / "wandb").glob("*offline-run-*/*.wandb"))]
    assert len(configs) == 2 and all(b"a-project-of-its-own" in content for content in configs)


def test_a_data_set_that_is_not_there_is_refused_in_one_message(tmp_path):
    done = program("train.py", "dataset_name=CUB", f"dataset_root={tmp_path}", f"output_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert str(tmp_path / "CUB") in done.stderr and "docs/data/" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_figures_of_another_evaluation_are_not_overwritten(trained, evaluated):
    done = program("evaluate.py", *SMALL[:3], f"checkpoint={trained}", f"output_dir={evaluated}")
    assert done.returncode == 2 and "another evaluation" in done.stderr
