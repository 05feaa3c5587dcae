"""The trivial rows of the table: the picture's middle, the mean of the keypoints, one keypoint alone."""

import json

import numpy as np
import pytest
import torch

import datasets
import evaluate as evaluate_program
from conf.modules import module
from evaluation.contingency import ari, nmi
from evaluation.inputs import batch
from evaluation.labellers.keypoint import Keypoint
from evaluation.labellers.keypoint_average import KeypointAverage
from evaluation.labellers.midpoint import Midpoint
from evaluation.protocols.keypoints import Protocol
from evaluation.regression import Located, keypoint_error
from tests.composition import composed
from tests.quadrants import draw_split, evaluated, evaluation_options
from tests.shared import SHARED, needs_shared
from tests.test_datasets import DRAWN, SMALL
from tests.trees import cub
from utils.errors import UserError

ROWS = ("midpoint", "keypoint_average", "keypoint")
INDICES = ("FG-NMI", "FG-ARI", "NMI", "ARI")


def keypoint(name="b", dataset=None):
    labeller = Keypoint(name)
    labeller.prepare(dataset or draw_split("test", 1))
    return labeller


def built(name, config):
    return module("baseline", name).build(config.baselines[name], config, config.num_parts, torch.device("cpu"))


def protocol_of(labeller, split):
    protocol = Protocol(split, labeller, evaluation_options(size=48))
    for sample in split.samples:
        for shown in protocol.inputs(sample):
            inputs = batch([shown])
            protocol.update(inputs, labeller.scores_of(inputs))
    return protocol


@pytest.mark.parametrize("labeller", [Midpoint(), KeypointAverage()])
def test_one_label_has_nmi_and_ari_of_exactly_0_whatever_the_masks(labeller):
    test, train = draw_split("test", 6, part_maps=True), draw_split("training", 12)
    for sample in test.samples:
        sample.foreground[:40] = 0
    metrics = evaluated(labeller, test, train).metrics
    for name in INDICES:
        assert metrics[name] == metrics[f"{name} (keypoints)"] == 0, name


def test_one_label_has_nmi_and_ari_of_0_for_any_numbers_of_keypoints():
    for seed in range(200):
        counts = np.zeros((15, 2), int)
        counts[:, 1] = np.random.default_rng(seed).integers(0, 5000, 15)
        assert nmi(counts) == pytest.approx(0, abs=1e-10) and ari(counts) == 0


def test_the_midpoint_is_the_middle_of_the_whole_picture_relative_to_the_box():
    split = draw_split("test", 5)
    protocol = protocol_of(Midpoint(), split)
    for located, sample in zip(protocol.located(fitted=False), split.samples, strict=True):
        height, width = sample.foreground.shape
        x0, y0, x1, y1 = sample.box
        # Of the resized picture: its sides are whole pixels, 48 the shorter.
        expected = [(width / 2 - x0) / (x1 - x0 + 1), (height / 2 - y0) / (y1 - y0 + 1)]
        assert located.centres.shape == (1, 2)
        np.testing.assert_allclose(located.centres[0], expected, atol=0.1)


def test_the_average_is_that_of_the_keypoints_that_are_seen():
    split = draw_split("test", 5)
    for sample in split.samples[1:]:
        sample.keypoints[2, :2], sample.keypoints[2, 2] = 0, 0
    located = protocol_of(KeypointAverage(), split).located(fitted=False)
    for found, number in zip(located, (4, 3, 3, 3, 3), strict=True):
        assert found.visible.sum() == number
        np.testing.assert_allclose(found.centres[0], found.keypoints[found.visible].mean(0))


def test_one_keypoint_is_where_it_is_and_its_label_is_its_own():
    split = draw_split("test", 6)
    protocol = protocol_of(keypoint("c"), split)
    for found in protocol.located(fitted=False):
        np.testing.assert_allclose(found.centres[0], found.keypoints[2])
    assert protocol.in_box.counts.tolist() == [[0, 6], [0, 6], [6, 0], [0, 6]]
    assert protocol.in_whole.counts.tolist() == [[0, 0, 6], [0, 0, 6], [0, 6, 0], [0, 0, 6]]


@pytest.mark.parametrize("name, labeller", [("all", KeypointAverage()), ("one", keypoint("b"))])
def test_pictures_that_hide_it_are_left_out_of_the_keypoint_error_and_of_nothing_else(name, labeller):
    split = draw_split("test", 5)
    hidden = slice(None) if name == "all" else 1
    split.samples[3].keypoints[hidden, 2] = 0
    protocol = protocol_of(labeller, split)
    names = [located.name for located in protocol.located(fitted=False)]
    assert names == [split.sample_name(place) for place in (0, 1, 2, 4)]
    assert protocol.in_box.total == protocol.counts()["keypoints"] == (16 if name == "all" else 19)


def noisy(name, count):
    """Keypoints that move on their own by a tenth of the box."""
    split = draw_split(name, count)
    for place, sample in enumerate(split.samples):
        extent = sample.box[2:] - sample.box[:2]
        sample.keypoints[:, :2] += np.random.default_rng(place).normal(0, 0.1, (4, 2)) * extent
    return split


def test_the_average_is_better_than_the_midpoint():
    test, train = noisy("test", 30), noisy("training", 60)
    midpoint, average = (
        evaluated(labeller, test, train, size=64).metrics for labeller in (Midpoint(), KeypointAverage())
    )
    assert average["keypoint_error_all"] < midpoint["keypoint_error_all"]


def test_the_regression_on_the_true_keypoints_themselves_has_no_error():
    class True_(Midpoint):
        def centres(self, probabilities, batch, scores):
            return torch.from_numpy(np.stack([shown.keypoints[:, :2] for shown in batch.inputs]))

    metrics = evaluated(True_(), noisy("test", 12), noisy("training", 30), size=64).metrics
    errors = [value for name, value in metrics.items() if name.startswith("keypoint_error")]
    assert len(errors) == 4 and max(errors) < 1e-8
    random = np.random.default_rng(0)
    places = [
        Located(str(place), 1, points, points, np.ones(5, bool))
        for place, points in enumerate(random.random((40, 5, 2)))
    ]
    assert keypoint_error(places[:30], places[30:]) < 1e-10


@needs_shared
def test_on_photographs_the_average_beats_the_midpoint_and_the_throat_both():
    config = composed(*(f"baseline=[{','.join(ROWS)}]", "dataset_name=CUB"))
    test, train = (cub(SHARED / "data/CUB", split, "supervised") for split in ("test", "train"))
    errors = []
    for name in ROWS:
        labeller = built(name, config)
        labeller.prepare(test)
        metrics = evaluated(labeller, test, train, protocols=("keypoints",), size=48).metrics
        errors.append(metrics["keypoint_error_all"])
        if name != "keypoint":
            assert max(metrics[index] for index in INDICES) == pytest.approx(0, abs=1e-10)
    midpoint, average, throat = errors
    assert throat < average < midpoint
    assert metrics["FG-NMI"] == pytest.approx(19, abs=2) and metrics["FG-ARI"] == pytest.approx(2.6, abs=0.5)


@pytest.mark.parametrize("name", ROWS)
def test_a_data_set_without_keypoints_is_refused_before_anything_is_read(name, tmp_path):
    draw, overrides = DRAWN["PP"]
    draw(tmp_path)
    config = composed(
        *("dataset_name=PP", f"dataset_root={tmp_path}", *SMALL, *overrides, f"baseline=[kmeans_colours,{name}]"),
        f"output_dir={tmp_path / 'out'}",
        name="evaluate",
    )
    with pytest.raises(
        UserError, match=rf"baseline=\[{name}\] is a row of the keypoint error, and .* has no keypoints"
    ):
        evaluate_program.evaluate(config)
    assert not (tmp_path / "out").exists()


def test_a_keypoint_that_the_data_set_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(UserError, match=r"quadrants has no keypoint 'throat'\. Did you mean .*one of: a, b, c, d\."):
        keypoint("throat")
    config = composed("dataset_name=synthetic", *DRAWN["synthetic"][1], "baseline=[keypoint]")
    drawn = datasets.build(config, "test", "evaluation")
    near, name = config.copy(), drawn.keypoint_names[-1]
    near.baselines.keypoint.name = f"{name}s"
    with pytest.raises(UserError, match=f"synthetic has no keypoint '{name}s'. Did you mean '{name}'.*{name}"):
        built("keypoint", near).prepare(drawn)


def test_all_three_are_evaluated_alone_by_their_names(tmp_path, capsys):
    draw, overrides = DRAWN["CUB"]
    draw(tmp_path / "data")
    first = datasets.build(
        composed("dataset_name=CUB", f"dataset_root={tmp_path / 'data'}", *SMALL, *overrides), "test", "evaluation"
    ).keypoint_names[0]
    config = composed(
        *("dataset_name=CUB", f"dataset_root={tmp_path / 'data'}", *SMALL, *overrides, f"baseline=[{','.join(ROWS)}]"),
        *(f"baselines.keypoint.name='{first}'", f"output_dir={tmp_path / 'out'}"),
        name="evaluate",
    )
    evaluate_program.evaluate(config)
    printed = capsys.readouterr().out
    assert all(title in printed for title in ("midpoint", "keypoint average", first))
    assert f"Pictures that hide the {first} are left out" in printed
    figures = json.loads((tmp_path / "out/metrics.json").read_text())
    assert list(figures) == ["produced_by"] and list(figures["produced_by"]["baselines"]) == list(ROWS)
