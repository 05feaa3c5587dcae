import json
from collections import Counter

import numpy as np
import pytest
import torch
from rich.console import Console

from datasets.batch import TrainBatch
from evaluation.inputs import batches_of_equal_shape
from evaluation.labellers import KMeansColours
from evaluation.palette import PALETTE, colours
from evaluation.prediction import part_probabilities, predicted_labels
from evaluation.report import part_picture, print_table, write_metrics
from evaluation.run import evaluate, examples
from tests.quadrants import ColourLabeller, draw_split
from utils.errors import UserError

SETTINGS = {"image_size": 32, "size": 48, "batch_size": 4, "num_workers": 0, "device": "cpu", "progress": False}


class HalfRight(ColourLabeller):
    """Takes the parts for others in the left third of the picture; the same for a picture whatever batch it is in."""

    def scores(self, images, foreground):
        scores, third = super().scores(images, foreground), images.shape[-1] // 3
        return torch.cat([scores.flip(1)[..., :third], scores[..., third:]], dim=-1)


def test_each_file_is_read_once_and_each_input_goes_through_the_network_once():
    test_set, fit_set = draw_split("test", 7, part_maps=True), draw_split("training", 5, part_maps=True)
    labeller = ColourLabeller()
    result = evaluate(labeller, test_set, fit_set, **SETTINGS)
    assert test_set.reads == [1] * 7 and fit_set.reads == [1] * 5
    # Crop, box and whole of each held-out picture, the whole of each training picture.
    assert sum(shape[0] for shape in labeller.seen) == 3 * 7 + 5
    assert max(shape[0] for shape in labeller.seen) == 4
    assert result.counts["images"] == 7 and result.counts["training_images"] == 5 and result.counts["keypoints"] == 28


def test_the_figures_depend_neither_on_batches_nor_on_workers():
    test_set, fit_set = draw_split("test", 9, part_maps=True), draw_split("training", 9, part_maps=True)
    reference = evaluate(HalfRight(), test_set, fit_set, **SETTINGS)
    assert reference.metrics["FG-NMI (keypoints)"] < 100, "the case must not be trivial"
    for changed in ({"batch_size": 1}, {"batch_size": 64}, {"num_workers": 2}):
        result = evaluate(HalfRight(), test_set, fit_set, **SETTINGS | changed)
        assert result.metrics == pytest.approx(reference.metrics, abs=1e-3)
        assert result.counts == reference.counts
        assert [one.shown.name for one in result.pictures] == [one.shown.name for one in reference.pictures]


def test_a_set_with_keypoints_alone_has_the_published_names():
    result = evaluate(HalfRight(), draw_split("test", 6), draw_split("training", 9), **SETTINGS)
    assert list(result.metrics) == [
        *("FG-NMI", "FG-ARI", "NMI", "ARI"),
        *("keypoint_error_all", "keypoint_error_001", "keypoint_error_002", "keypoint_error_003"),
    ]


def test_part_maps_take_the_plain_names_and_keypoints_say_so():
    test_set, fit_set = draw_split("test", 6, part_maps=True), draw_split("training", 9, part_maps=True)
    both = evaluate(HalfRight(), test_set, fit_set, **SETTINGS).metrics
    keypoints = evaluate(HalfRight(), draw_split("test", 6), fit_set, **SETTINGS).metrics
    assert list(both) == [
        *("FG-NMI", "FG-ARI", "NMI", "ARI"),
        *("FG-NMI (keypoints)", "FG-ARI (keypoints)", "NMI (keypoints)", "ARI (keypoints)"),
        *("keypoint_error_all", "keypoint_error_001", "keypoint_error_002", "keypoint_error_003"),
    ]
    assert both["FG-NMI (keypoints)"] == keypoints["FG-NMI"]
    assert both["keypoint_error_all"] == pytest.approx(keypoints["keypoint_error_all"])
    assert both["FG-NMI"] != keypoints["FG-NMI"]


def test_without_a_training_split_the_keypoint_error_is_left_out():
    result = evaluate(HalfRight(), draw_split("test", 3), None, **SETTINGS)
    assert list(result.metrics) == ["FG-NMI", "FG-ARI", "NMI", "ARI"]
    assert any("keypoint_error_all" in note for note in result.notes)


def test_labellers_that_learn_are_fitted_on_the_training_split():
    test_set, fit_set = draw_split("test", 4, part_maps=True), draw_split("training", 4, part_maps=True)
    result = evaluate(KMeansColours(4, seed=0, max_points=1000, restarts=1), test_set, fit_set, **SETTINGS)
    assert result.metrics["FG-NMI"] > 80
    with pytest.raises(UserError, match="KMeansColours has to be fitted"):
        evaluate(KMeansColours(4, seed=0, max_points=1000, restarts=1), test_set, None, **SETTINGS)


class Broken:
    name, keypoint_names, part_names = "broken", ["a"], None

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise UserError("Cannot read /pictures/7.jpg")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_file_is_one_message_even_from_a_worker(num_workers):
    with pytest.raises(UserError) as caught:
        evaluate(ColourLabeller(), Broken(), None, **SETTINGS | {"num_workers": num_workers})
    assert str(caught.value) == "Cannot read /pictures/7.jpg"


def test_a_set_without_annotation_gives_pictures_and_a_note_instead_of_figures():
    split = draw_split("test", 9)
    split.keypoint_names = []
    result = evaluate(ColourLabeller(), split, None, num_pictures=3, **SETTINGS)
    assert result.metrics == {}
    assert "quadrants has neither keypoints nor part maps" in result.notes[0]
    assert [one.shown.place for one in result.pictures] == [0, 4, 8]
    assert split.reads == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    for one in result.pictures:
        crop = split.test_crop(split.samples[one.shown.place], SETTINGS["image_size"])
        assert ((one.predicted > 0) == crop.foreground).all() and (one.predicted == crop.part_map).mean() > 0.9


def test_batches_hold_one_view_and_size_and_nothing_is_lost_or_held_back():
    from evaluation.keypoints import KeypointProtocol

    protocol = KeypointProtocol(4, 4, size=32)
    inputs = [("k", one) for sample in draw_split("test", 20).samples for one in protocol.inputs(sample, False)]
    taken = []

    def stream():
        for pair in inputs:
            taken.append(pair)
            yield pair

    names, waiting_at_most = Counter(), len({(one.view, one.image.shape) for _, one in inputs}) * 2
    for key, batch in batches_of_equal_shape(stream(), 3):
        assert key == "k" and 1 <= len(batch.inputs) <= 3
        assert len({(one.view, one.image.shape) for one in batch.inputs}) == 1
        assert batch.images.shape == (len(batch.inputs), 3, *batch.inputs[0].image.shape[:2])
        names.update((one.name, one.view) for one in batch.inputs)
        assert len(taken) == len(inputs) or len(taken) - names.total() <= waiting_at_most
    assert names == Counter((one.name, one.view) for _, one in inputs)


def test_background_comes_from_the_mask_or_from_the_labeller():
    scores, foreground = torch.randn(2, 3, 4, 5), (torch.rand(2, 1, 4, 5) > 0.5).float()
    masked = part_probabilities(scores, foreground)
    torch.testing.assert_close(masked.sum(1), torch.ones(2, 4, 5))
    torch.testing.assert_close(masked[:, 1:], scores.softmax(1) * foreground)
    assert ((masked.argmax(1) == 0) == (foreground[:, 0] == 0)).all()
    torch.testing.assert_close(part_probabilities(scores, foreground, has_background=True), scores.softmax(1))
    assert predicted_labels(scores[..., :2, :2], foreground).shape == (2, 4, 5)


def test_pictures_are_spread_over_the_test_set_and_show_what_was_found():
    test_set = draw_split("test", 9, part_maps=True)
    result = evaluate(ColourLabeller(), test_set, None, num_pictures=3, **SETTINGS)
    assert [one.shown.place for one in result.pictures] == [0, 4, 8]
    for one in result.pictures:
        assert one.predicted.shape == one.shown.part_map.shape == (32, 32)
        assert (one.predicted == one.shown.part_map).mean() > 0.9


def test_the_picture_paints_a_part_like_the_true_part_that_it_matches():
    test_set = draw_split("test", 2, part_maps=True)
    pictures = evaluate(ColourLabeller(), test_set, None, num_pictures=2, **SETTINGS).pictures
    plain = part_picture(pictures)
    assert plain.dtype == np.uint8 and plain.ndim == 3 and plain.shape[2] == 3
    renumbered = np.array([0, 3, 1, 4, 2], np.uint8)
    for one in pictures:
        one.predicted = renumbered[one.predicted]
    assert (part_picture(pictures) == plain).all()


def test_keypoints_and_training_crops_are_drawn_too():
    with_keypoints = evaluate(ColourLabeller(), draw_split("test", 2), None, num_pictures=2, **SETTINGS).pictures
    assert {one.shown.view for one in with_keypoints} == {"box"}
    hidden = part_picture(with_keypoints)
    for one in with_keypoints:
        one.shown.keypoints = one.shown.keypoints * [1, 1, 0]
    assert (part_picture(with_keypoints) != hidden).any()

    crops = [draw_split("training", 2).test_crop(sample, 32) for sample in draw_split("training", 2).samples]
    found = examples(ColourLabeller(), TrainBatch.collate(crops, step=0))
    assert [(one.predicted > 0).sum() for one in found] == [crop.foreground.sum() for crop in crops]
    assert part_picture(found).shape == hidden.shape


def test_parts_have_colours_of_their_own_up_to_sixteen():
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == len(PALETTE) == 17
    assert (colours(np.array([0, 17])) == PALETTE[[0, 1]]).all()


def test_metrics_are_written_with_what_produced_them(tmp_path):
    path = tmp_path / "new" / "metrics.json"
    write_metrics(path, {"FG-NMI": 46.03, "keypoint_error_all": 9.2}, {"checkpoint": "model.pth", "images": 50})
    assert json.loads(path.read_text()) == {
        "FG-NMI": 46.03,
        "keypoint_error_all": 9.2,
        "produced_by": {"checkpoint": "model.pth", "images": 50},
    }
    with pytest.raises(ValueError):
        write_metrics(path, {"FG-NMI": float("nan")}, {})


def test_the_table_fits_80_columns_and_shows_what_a_labeller_lacks_as_a_dash(capsys):
    metrics = {"FG-NMI": 46.03, "FG-NMI (keypoints)": 43.52, "keypoint_error_all": 9.16}
    rows = {label: metrics for label in ("trained", "untrained", "kmeans_features")} | {"kmeans_colours": {"FG-NMI": 5}}
    print_table(rows, Console(width=80))
    lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["FG-NMI", "46.0", "46.0", "46.0", "5.0"] in lines
    assert ["keypoint_error_all", "9.2", "9.2", "9.2", "-"] in lines
