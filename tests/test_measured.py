"""Which figures a comparison takes from the evaluations that its runs keep."""

import json
import os
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from datasets.lists import lists_of
from evaluation.options import Sets
from evaluation.pages.measured import Figures, Kept
from evaluation.report import write_metrics
from tests.composition import composed
from tests.pages import checkpoint_of
from tests.quadrants import draw_split

KEYS = ("dataset_name=CUB", "num_parts=4", "seed=3", "baseline=[kmeans_features]")
SETS = Sets(draw_split("test", 5), None)


def config_of(*overrides: str) -> DictConfig:
    return composed("checkpoint=run", *KEYS, *overrides, name="evaluate")


def evaluated(run: Path, name: str, value: float, *overrides: str, updates: int = 10, sets: Sets = SETS) -> Path:
    """Keep an evaluation in a run, as evaluate.py does."""
    config = config_of(*overrides)
    OmegaConf.update(config, "dataset.lists", lists_of(sets.test), merge=False)
    path = run / "evaluations" / name / "metrics.json"
    made = {
        "checkpoint": str(checkpoint_of(run).file),
        "updates": updates,
        "num_parts": config.num_parts,
        "colours": [0, 2, 1, 3, 4],
        "config": OmegaConf.to_container(config),
        "baselines": {"kmeans_features": {"FG-NMI": value / 2}},
    }
    write_metrics(path, {"FG-NMI": value}, made)
    return path


@pytest.fixture
def run(tmp_path):
    """A run directory whose checkpoint is of step 10."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(OmegaConf.to_yaml(composed(*KEYS)))
    return run


def test_the_newest_evaluation_of_the_same_checkpoint_counts_and_of_the_baseline_beside_it(run):
    evaluated(run, "a", 40.0)
    newest = evaluated(run, "b", 50.0)
    for path, time in ((run / "evaluations/a/metrics.json", 1), (newest, 2)):
        os.utime(path, (time, time))
    kept = Kept([run])
    assert kept.of_checkpoint(checkpoint_of(run), config_of(), SETS) == Figures(
        {"FG-NMI": 50.0}, 5, newest, [0, 2, 1, 3, 4]
    )
    assert kept.of_baseline("kmeans_features", 4, config_of(), SETS) == Figures({"FG-NMI": 25.0}, 5, newest)


@pytest.mark.parametrize(
    "other",
    [
        {"updates": 20},  # another checkpoint
        {"sets": Sets(draw_split("test", 4), None)},  # other pictures
        {"overrides": ("evaluation.size=96",)},  # measured otherwise
    ],
)
def test_an_evaluation_of_something_else_is_none_of_this(run, other):
    evaluated(run, "a", 40.0, *other.pop("overrides", ()), **other)
    assert Kept([run]).of_checkpoint(checkpoint_of(run), config_of(), SETS) is None


@pytest.mark.parametrize(
    ("num_parts", "overrides"),
    [(8, ()), (4, ("seed=4",)), (4, ("baselines.kmeans_features.restarts=2",)), (4, ("perceptual=vgg16",))],
)
def test_a_baseline_with_another_k_seed_option_or_network_is_another(run, num_parts, overrides):
    evaluated(run, "a", 40.0)
    assert Kept([run]).of_baseline("kmeans_features", num_parts, config_of(*overrides), SETS) is None


def test_what_a_run_has_measured_itself_counts_where_evaluate_py_has_not(run):
    config = config_of()
    OmegaConf.update(config, "dataset.lists", lists_of(SETS.test), merge=False)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.masked_copy(config, [*composed(*KEYS)])))
    table = run / "evaluation.csv"
    table.write_text("step,FG-NMI\n5,10\n10,30.5\n")
    assert Kept([run]).of_checkpoint(checkpoint_of(run), config, SETS) == Figures({"FG-NMI": 30.5}, 5, table)
    assert Kept([run]).of_checkpoint(checkpoint_of(run), config_of("evaluation.size=96"), SETS) is None
    evaluated(run, "a", 40.0)
    assert Kept([run]).of_checkpoint(checkpoint_of(run), config, SETS).metrics == {"FG-NMI": 40.0}


def test_a_damaged_evaluation_is_said_and_the_others_count(run, capsys):
    evaluated(run, "a", 40.0)
    broken = evaluated(run, "b", 50.0)
    broken.write_text(json.dumps({"FG-NMI": 50.0}))
    assert Kept([run]).of_checkpoint(checkpoint_of(run), config_of(), SETS).metrics == {"FG-NMI": 40.0}
    assert f"{broken} left out: it is damaged" in capsys.readouterr().err


def test_without_runs_nothing_is_kept():
    assert Kept([]).of_baseline("kmeans_features", 4, config_of(), SETS) is None


@pytest.mark.parametrize("content", ["\x01\x02 garbage\nmore", "step,FG-NMI\n10,3o.5\n", "FG-NMI\n30.5\n"])
def test_a_damaged_table_of_a_run_is_said(run, capsys, content):
    table = run / "evaluation.csv"
    table.write_text(content)
    assert Kept([run]).of_checkpoint(checkpoint_of(run), config_of(), SETS) is None
    assert f"{table} left out: it is damaged" in capsys.readouterr().err.replace("\n", "")
