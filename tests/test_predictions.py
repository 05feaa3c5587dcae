"""evaluate.py predictions=DIR: label maps of any method, scored as a checkpoint is."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import datasets
import evaluate as evaluate_program
from datasets.part_views import PartViewOptions
from evaluation.inputs import EvalInput, batch
from evaluation.labellers import kmeans_colours, label_maps
from evaluation.labellers.label_maps import LabelMaps
from evaluation.options import EvaluationOptions, Sets
from evaluation.prediction import part_probabilities
from evaluation.protocols.part_maps import Protocol
from evaluation.run import evaluate
from tests.composition import composed
from tests.quadrants import PARTS, Quadrants, draw_split, evaluated, evaluation_options
from tests.test_datasets import DRAWN, SMALL
from utils.errors import UserError

FIGURES = ("FG-NMI", "FG-ARI", "NMI", "ARI")


def write(directory: Path, name: str, labels: np.ndarray) -> None:
    path = directory / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)


def write_split(directory: Path, split: Quadrants, labels_of=lambda sample: sample.part_map) -> Path:
    for sample in split.samples:
        write(directory, sample.name, labels_of(sample))
    return directory


def blots(sample, smallest: int = 0) -> np.ndarray:
    """Label maps that are right here and there: 0..5, in blots of 16 pixels."""
    rng = np.random.default_rng(len(sample.name))
    height, width = sample.part_map.shape
    wrong = np.kron(rng.integers(smallest, 6, (height // 16 + 1, width // 16 + 1)), np.ones((16, 16)))
    right = np.kron(rng.random((height // 16 + 1, width // 16 + 1)) < 0.6, np.ones((16, 16))) > 0
    return np.where(right[:height, :width], np.maximum(sample.part_map, smallest), wrong[:height, :width]).astype(
        np.uint8
    )


def test_perfect_maps_have_perfect_figures(tmp_path):
    test_set, fit_set = draw_split("test", 5, part_maps=True), draw_split("training", 24, part_maps=True)
    directory = write_split(write_split(tmp_path, test_set), fit_set)
    for sample in (*test_set.samples, *fit_set.samples):
        sample.foreground[:] = 0  # background is in the maps: the masks play no role
    labeller = LabelMaps(directory, 4, has_background=True)
    metrics = evaluated(labeller, test_set, fit_set, size=192).metrics
    for name in FIGURES:
        assert metrics[name] == metrics[f"{name} (keypoints)"] == pytest.approx(100), name
    # Every part's centre of mass is its keypoint, but for the rounding of its border.
    assert metrics["keypoint_error_all"] < 1


@pytest.mark.parametrize("has_background", [True, False], ids=["own background", "masks"])
def test_the_figures_are_those_of_the_maps_on_the_test_crops(tmp_path, has_background):
    split = draw_split("test", 6, part_maps=True)
    for sample in split.samples:
        sample.foreground[: sample.foreground.shape[0] // 2] = 0
    directory = write_split(tmp_path, split, lambda sample: blots(sample, 0 if has_background else 1))
    labeller = LabelMaps(directory, 5, has_background)
    metrics = evaluated(labeller, split).metrics

    crops = [split.test_crop(sample, 32) for sample in split.samples]
    true = np.stack([crop.part_map for crop in crops])
    for sample in split.samples:
        sample.part_map = labeller.label_map(sample)
    found = np.stack([split.test_crop(sample, 32).part_map for sample in split.samples])
    everywhere = found if has_background else found * np.stack([crop.foreground for crop in crops])
    on_parts = true != 0
    # A pixel of a part that the maps call background is a cluster of its own there.
    expected = {
        "FG-NMI": 100 * normalized_mutual_info_score(true[on_parts], found[on_parts]),
        "FG-ARI": 100 * adjusted_rand_score(true[on_parts], found[on_parts]),
        "NMI": 100 * normalized_mutual_info_score(true.ravel(), everywhere.ravel()),
        "ARI": 100 * adjusted_rand_score(true.ravel(), everywhere.ravel()),
    }
    assert {name: metrics[name] for name in FIGURES} == pytest.approx(expected, abs=1e-6)
    assert 5 < expected["FG-NMI"] < 95, "the case must not be trivial"
    assert (0 in found[on_parts]) is has_background


@pytest.mark.parametrize("has_background", [True, False])
def test_scores_give_the_labels_again_without_a_trace_of_the_others(has_background):
    labeller = LabelMaps("nowhere", 3, has_background)
    maps = torch.randint(0 if has_background else 1, 4, (2, 5, 6), dtype=torch.uint8)
    picture, mask = np.zeros((5, 6, 3), np.uint8), np.ones((5, 6), np.uint8)
    scores = labeller.scores_of(
        batch([EvalInput("", None, picture, mask, predicted=labels.numpy()) for labels in maps])
    )
    assert scores.shape == (2, labeller.num_parts + has_background, 5, 6)
    probabilities = part_probabilities(scores, torch.ones(2, 1, 5, 6), has_background)
    assert torch.equal(probabilities.argmax(1), maps.long())
    assert set(probabilities.unique().tolist()) == {0.0, 1.0}
    if has_background:
        assert set(scores[:, 1:].argmax(1)[maps == 0].tolist()) <= {3}


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_the_true_part_maps_of_every_data_set_are_perfect_predictions(name, tmp_path):
    draw, overrides = DRAWN[name]
    draw(tmp_path / "data")
    config = composed(
        *(f"dataset_name={name}", f"dataset_root={tmp_path / 'data'}", *SMALL, *overrides),
        *(f"predictions={tmp_path / 'maps'}", "evaluation.label_resize=nearest"),
        name="evaluate",
    )
    sets = Sets.of(config, "evaluation")
    if sets.test.part_names is None:
        pytest.skip("no part maps")
    for index in range(len(sets.test)):
        sample = sets.test[index]
        assert sample.name == sets.test.sample_name(index)
        write(tmp_path / "maps", sample.name, sample.part_map)
    labeller = label_maps.given(config, sets)
    metrics = evaluate(labeller, sets, PARTS, EvaluationOptions.of(config), "cpu").metrics
    assert [metrics[figure] for figure in FIGURES] == pytest.approx([100] * 4)


def test_bilinear_true_labels_leave_the_predicted_ones_whole(tmp_path):
    """DeepFashion's published protocol invents labels at borders of the true maps; maps given are spared that."""
    draw, _ = DRAWN["DF"]
    draw(tmp_path / "data")
    config = composed("dataset_name=DF", f"dataset_root={tmp_path / 'data'}", *SMALL)
    dataset = datasets.build(config, "test", "evaluation")
    sample = dataset[0]
    for view in dataset.part_views(PartViewOptions(32, 32, "nearest")):
        assert set(np.unique(view.prepare(sample).part_map)) <= set(np.unique(sample.part_map))
    bilinear = {view.name: view for view in dataset.part_views(PartViewOptions(32, 32))}["whole"]
    assert not set(np.unique(bilinear.prepare(sample).part_map)) <= set(np.unique(sample.part_map))
    protocol = Protocol(dataset, LabelMaps(tmp_path, 15, has_background=True), evaluation_options(size=32))
    whole = {shown.view: shown for shown in protocol.inputs(sample, False, sample.part_map)}["whole"]
    assert set(np.unique(whole.predicted)) <= set(np.unique(sample.part_map))


@pytest.fixture
def sets() -> Sets:
    return Sets(draw_split("test", 5), draw_split("training", 4))


def given(directory: Path, sets: Sets, num_parts: int | None = None, background: bool = True) -> LabelMaps:
    config = SimpleNamespace(
        predictions=str(directory), predictions_num_parts=num_parts, predictions_background=background
    )
    return label_maps.given(config, sets)


def test_k_is_the_largest_label_unless_it_is_given(tmp_path, sets):
    write_split(write_split(tmp_path, sets.test), sets.fit)
    assert given(tmp_path, sets).largest_label == 4
    assert given(tmp_path, sets, num_parts=7).largest_label == 7
    few = given(tmp_path, sets, num_parts=3)
    with pytest.raises(UserError, match="test/0.jpg.png has labels from 0 to 4: they must be from 0 to 3; see predic"):
        few.label_map(sets.test.samples[0])
    every = given(tmp_path, sets, background=False)
    with pytest.raises(UserError, match="labels from 0 to 4: they must be from 1 to 4"):
        every.label_map(sets.test.samples[0])


def test_missing_maps_are_counted_and_named(tmp_path, sets):
    write_split(tmp_path, sets.test)
    for number in (1, 3):
        (tmp_path / f"test/{number}.jpg.png").unlink()
    with pytest.raises(UserError, match="2 of 5 held-out pictures have no label map, for example .*test/1.jpg.png, "):
        given(tmp_path, sets)


def test_maps_of_training_pictures_are_all_there_or_none(tmp_path, sets):
    write_split(tmp_path, sets.test)
    assert given(tmp_path, sets).knows_training_pictures is False
    write(tmp_path, sets.fit.samples[0].name, sets.fit.samples[0].part_map)
    with pytest.raises(UserError, match="3 of 4 training pictures have no label map, .*for the keypoint error"):
        given(tmp_path, sets)
    write_split(tmp_path, sets.fit)
    assert given(tmp_path, sets).knows_training_pictures is True


def test_what_is_no_label_map_is_refused(tmp_path, sets):
    with pytest.raises(UserError, match="predictions=.*nowhere is no directory"):
        given(tmp_path / "nowhere", sets)
    write_split(tmp_path, sets.test, lambda sample: sample.foreground * 255)
    with pytest.raises(UserError, match="The largest label in .* is 255.*Masks of 0 and 255"):
        given(tmp_path, sets)
    labeller = LabelMaps(tmp_path, 4, has_background=True)
    sample = sets.test.samples[0]
    write(tmp_path, sample.name, sample.part_map[:-1])
    with pytest.raises(UserError, match="test/0.jpg.png is .* pixels, but its picture .*test/0.jpg"):
        labeller.label_map(sample)
    write(tmp_path, sample.name, sample.image)
    with pytest.raises(UserError, match="test/0.jpg.png is a coloured picture"):
        labeller.label_map(sample)


def test_the_program_writes_figures_with_where_they_come_from(tmp_path, monkeypatch, capsys):
    draw, overrides = DRAWN["synthetic"]
    values = ("dataset_name=synthetic", f"dataset_root={tmp_path}", *SMALL, *overrides, "device=cpu")
    config = composed(*values)
    test_set = datasets.build(config, "test", "evaluation")
    for index in range(len(test_set)):
        write(tmp_path / "maps", test_set[index].name, test_set[index].part_map)
    arguments = (*values, f"predictions={tmp_path / 'maps'}", f"output_dir={tmp_path / 'out'}")
    built, build = [], kmeans_colours.build
    monkeypatch.setattr(kmeans_colours, "build", lambda *given: built.append(given[2]) or build(*given))
    evaluate_program.evaluate(composed(*arguments, "baseline=[kmeans_colours]", name="evaluate"))
    figures = json.loads((tmp_path / "out/metrics.json").read_text())
    assert figures["FG-NMI"] == pytest.approx(100) and "keypoint_error_all" not in figures
    produced_by = figures["produced_by"]
    assert produced_by["predictions"] == str(tmp_path / "maps") and produced_by["num_parts"] == 4
    # What the maps are compared with has as many parts; their background is none.
    assert built == [4]
    assert "checkpoint" not in produced_by and set(produced_by["baselines"]) == {"kmeans_colours"}
    assert (tmp_path / "out/parts.png").is_file()
    printed = capsys.readouterr().out
    assert "label maps" in printed and "has no maps of the training pictures" in printed


def test_baselines_are_evaluated_alone(tmp_path, capsys):
    draw, overrides = DRAWN["synthetic"]
    values = ("dataset_name=synthetic", f"dataset_root={tmp_path}", *SMALL, *overrides, "device=cpu", "num_parts=3")
    alone = ("baseline=[kmeans_colours,untrained]", f"output_dir={tmp_path / 'out'}")
    evaluate_program.evaluate(composed(*values, *alone, name="evaluate"))
    figures = json.loads((tmp_path / "out/metrics.json").read_text())
    assert set(figures) == {"produced_by"} and figures["produced_by"]["num_parts"] == 3
    assert {name: "FG-NMI" in own for name, own in figures["produced_by"]["baselines"].items()} == {
        "kmeans_colours": True,
        "untrained": True,
    }
    assert (tmp_path / "out/parts.png").is_file() and (tmp_path / "out/label_maps/predicted").is_dir()
    printed = capsys.readouterr().out
    assert "k-means colours" in printed and "untrained" in printed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "checkpoint is required.*predictions=DIR"),
        (("checkpoint=a.pth", "predictions=b"), "give one of them"),
        (("predictions=a", "predictions_num_parts=300"), "predictions_num_parts must be at most 254"),
    ],
)
def test_one_thing_is_evaluated(overrides, message):
    with pytest.raises(UserError, match=message):
        composed(*overrides, name="evaluate")
