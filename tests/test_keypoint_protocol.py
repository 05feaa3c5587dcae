import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import center_of_mass

from evaluation.contingency import ari
from evaluation.inputs import batch
from evaluation.prediction import centres_of_mass
from evaluation.protocols.keypoints import WITH_BACKGROUND, Protocol
from evaluation.regression import Located, keypoint_error
from tests.golden_checkpoint import golden_labeller
from tests.quadrants import ColourLabeller, draw_split, evaluated, evaluation_options, quadrants
from tests.shared import GOLDEN, SHARED, needs_shared
from utils.errors import UserError


def protocol_of(labeller=None, size=64):
    return Protocol(draw_split("test", 1), labeller or ColourLabeller(), evaluation_options(size=size))


def score(protocol, samples, fitted=False):
    for sample in samples:
        for shown in protocol.inputs(sample, fitted):
            inputs = batch([replace(shown, fitted=fitted)])
            protocol.update(inputs, protocol.labeller.scores_of(inputs))


@needs_shared
@pytest.mark.slow
def test_golden_checkpoint_gives_the_published_evaluations_figures(tmp_path):
    from tests.trees import cub

    labeller = golden_labeller(tmp_path)
    test_set, fit_set = (cub(SHARED / "data/CUB", split, "supervised") for split in ("test", "train"))
    result = evaluated(labeller, test_set, fit_set, image_size=256, size=256)
    expected = json.loads((GOLDEN / "cub_metrics.json").read_text())
    assert result.metrics == pytest.approx(expected, abs=0.05)
    assert (result.counts["images"], result.counts["training_images"]) == (50, 50)


@pytest.mark.parametrize("shape, box", [((100, 163), (20, 11, 131, 70)), ((217, 90), (5, 40, 84, 211))])
def test_inputs_have_the_shorter_side_asked_for_and_borders_cut_evenly_to_multiples_of_16(shape, box):
    whole, in_box = protocol_of().inputs(quadrants("a", shape, box), fitted=False)
    assert (whole.view, in_box.view) == ("whole", "box")
    for shown, (height, width) in ((whole, shape), (in_box, (box[3] - box[1] + 1, box[2] - box[0] + 1))):
        scale = 64 / min(height, width)
        assert shown.image.shape[:2] == tuple(int(side * scale + 1e-9) // 16 * 16 for side in (height, width))
        assert shown.foreground.shape == shown.image.shape[:2]
        assert set(np.unique(shown.foreground)) <= {0, 1}
    extent = np.array([box[2] - box[0], box[3] - box[1]]) + 1
    np.testing.assert_allclose(whole.box[2:], extent * 64 / min(shape))
    long = int(np.argmax(shape))
    border = int(max(shape) * 64 / min(shape)) % 16 // 2
    corner = (box[1 - long] + 1) * 64 / min(shape) - border
    assert whole.box[1 - long] == pytest.approx(corner)


def test_keypoints_stay_on_the_pixels_they_mark():
    for sample in draw_split("marks", 12).samples:
        for shown in protocol_of().inputs(sample, fitted=False):
            columns, rows = np.round(shown.keypoints[:, :2] - 0.5).astype(int).T
            for colour, expected in zip(shown.image[rows, columns].astype(int), range(4), strict=True):
                x, y, _ = sample.keypoints[expected].astype(int)
                assert np.abs(colour - sample.image[y, x]).max() < 30


def test_a_perfect_labeller_gets_100_and_one_that_sees_a_single_part_gets_0():
    class Blind(ColourLabeller):
        def scores(self, images, foreground):
            return torch.tensor([0.0, 9.0, 0.0, 0.0])[None, :, None, None].expand(len(images), 4, 8, 8)

    samples = draw_split("perfect", 8).samples
    perfect, blind = protocol_of(), protocol_of(Blind())
    score(perfect, samples)
    score(blind, samples)
    assert {name: perfect.metrics()[name] for name in ("FG-NMI", "FG-ARI", "NMI", "ARI")} == pytest.approx(
        {"FG-NMI": 100, "FG-ARI": 100, "NMI": 100, "ARI": 100}
    )
    assert blind.metrics()["FG-NMI"] == blind.metrics()["FG-ARI"] == 0
    assert perfect.counts() == {"images": 8, "training_images": 0, "keypoints": 32}


def test_hidden_keypoints_do_not_count():
    sample = quadrants("a", (100, 100), (10, 10, 80, 80))
    sample.keypoints[1, 2] = 0
    protocol = protocol_of()
    score(protocol, [sample])
    assert protocol.in_box.counts.sum(1).tolist() == protocol.in_whole.counts.sum(1).tolist() == [1, 0, 1, 1]


def test_a_keypoint_off_the_mask_is_background_on_the_whole_picture_but_a_part_in_the_box():
    sample = quadrants("a", (100, 100), (10, 10, 80, 80))
    sample.foreground[:45] = 0
    protocol = protocol_of()
    score(protocol, [sample])
    assert protocol.in_whole.counts[:, 0].tolist() == [1, 1, 0, 0]
    assert protocol.in_box.counts.tolist() == np.eye(4, dtype=int).tolist()


def test_labels_with_background_have_an_index_of_their_own_on_request():
    sample = quadrants("a", (100, 100), (10, 10, 80, 80))
    sample.foreground[:45] = 0
    options = replace(evaluation_options(size=64), ari_with_background=True)
    protocol = Protocol(draw_split("test", 1), ColourLabeller(), options)
    score(protocol, [sample])
    assert WITH_BACKGROUND in protocol.metric_names
    assert protocol.in_box_with_background.counts[:, 0].tolist() == [1, 1, 0, 0]
    score(protocol, draw_split("test", 6).samples)
    metrics = protocol.metrics()
    assert metrics[WITH_BACKGROUND] == ari(protocol.in_box_with_background.counts)
    assert metrics[WITH_BACKGROUND] < metrics["FG-ARI"]
    assert WITH_BACKGROUND not in protocol_of().metric_names


def test_a_background_channel_of_the_labeller_replaces_the_mask():
    class WithBackground(ColourLabeller):
        has_background = True

        def scores(self, images, foreground):
            bright = images.amax(1, keepdim=True).float()
            return torch.cat([(128 - bright), super().scores(images, foreground)], dim=1)

    sample = quadrants("a", (100, 100), (10, 10, 80, 80))
    sample.foreground[:] = 0
    protocol = protocol_of(WithBackground())
    score(protocol, [sample])
    assert protocol.in_box.counts.tolist() == np.eye(4, dtype=int).tolist()
    assert protocol.in_whole.counts.tolist() == np.eye(4, 5, k=1, dtype=int).tolist()


def test_training_samples_are_only_located_never_counted():
    protocol = protocol_of()
    samples = draw_split("training", 3).samples
    assert [shown.view for shown in protocol.inputs(samples[0], fitted=True)] == ["whole"]
    score(protocol, samples, fitted=True)
    assert protocol.in_box.total == protocol.in_whole.total == 0
    assert protocol.counts()["training_images"] == 3
    with pytest.raises(UserError, match="No held-out sample shows a keypoint"):
        protocol.metrics()


def test_parts_that_follow_the_keypoints_locate_them():
    protocol = protocol_of()
    score(protocol, draw_split("training", 30).samples, fitted=True)
    score(protocol, draw_split("test", 9).samples)
    metrics = protocol.metrics()
    assert set(metrics) >= {"keypoint_error_all", "keypoint_error_001", "keypoint_error_002", "keypoint_error_003"}
    assert metrics["keypoint_error_all"] < 2


def test_a_labeller_that_knows_where_its_parts_are_is_asked():
    class Middle(ColourLabeller):
        """Whatever it sees, its parts are at the middle of the picture."""

        def centres(self, probabilities, batch, scores):
            height, width = probabilities.shape[-2:]
            return torch.tensor([(width + 1) / 2, (height + 1) / 2]).expand(*probabilities.shape[:2], 2)

    test, fit = draw_split("test", 9), draw_split("training", 24)
    for place, sample in enumerate((*test.samples, *fit.samples)):
        sample.keypoints[:, :2] += np.random.default_rng(place).uniform(-9, 9, (4, 2))
    by_mass, by_middle = (evaluated(labeller, test, fit, size=64).metrics for labeller in (ColourLabeller(), Middle()))
    assert abs(by_mass["keypoint_error_all"] - by_middle["keypoint_error_all"]) > 0.1
    assert all(by_mass[name] == by_middle[name] for name in by_mass if not name.startswith("keypoint_error"))

    # A regression on where the picture's middle is in the box.
    def middle(sample):
        height, width = np.array(sample.foreground.shape) * 64 / min(sample.foreground.shape)
        border, size = np.array([int(width) % 16 // 2, int(height) % 16 // 2]), np.array([width, height]).astype(int)
        scale = 64 / min(sample.foreground.shape)
        corner = np.maximum((sample.box[:2] + 1) * scale - border, 0)
        extent = np.minimum((sample.box[2:] - sample.box[:2] + 1) * scale, size // 16 * 16)
        points = (np.maximum(sample.keypoints[:, :2] + 1, 0) * scale - border - corner) / extent
        return Located(
            sample.name, 1, np.tile(((size // 16 * 16 + 1) / 2 - corner) / extent, (4, 1)), points, np.ones(4, bool)
        )

    expected = keypoint_error(*([middle(sample) for sample in split.samples] for split in (fit, test)))
    assert by_middle["keypoint_error_all"] == pytest.approx(expected, rel=1e-4)


def test_an_error_without_samples_in_both_splits_is_left_out_and_noted():
    protocol = protocol_of()
    score(protocol, [replace(sample, label=1) for sample in draw_split("training", 6).samples], fitted=True)
    score(protocol, draw_split("test", 6).samples)
    metrics = protocol.metrics()
    assert "keypoint_error_001" in metrics and "keypoint_error_all" in metrics
    assert "keypoint_error_002" not in metrics and "keypoint_error_003" not in metrics
    assert [note.split()[0] for note in protocol.notes] == ["keypoint_error_002", "keypoint_error_003"]


@pytest.mark.parametrize("box", [(-9, -4, 60, 70), (50, 40, 140, 130), (0, 0, 99, 79), (97, 77, 99, 79)])
def test_boxes_past_the_border_and_tiny_boxes_give_finite_numbers(box):
    sample = replace(quadrants("a", (80, 100), (10, 10, 60, 60)), box=np.array(box, float))
    protocol = protocol_of(size=32)
    score(protocol, [sample])
    assert protocol.in_box.total == 4
    (located,) = protocol.located(fitted=False)
    assert np.isfinite(located.centres).all() and np.isfinite(located.keypoints).all()


def test_an_empty_mask_puts_the_parts_at_the_middle_of_the_box():
    sample = quadrants("a", (80, 100), (10, 10, 60, 60))
    sample.foreground[:] = 0
    protocol = protocol_of(size=32)
    score(protocol, [sample])
    assert (protocol.located(fitted=False)[0].centres == 0.5).all()


def test_centres_of_mass_are_scipys_counted_from_one():
    masks = torch.rand(2, 3, 7, 11, dtype=torch.float64)
    expected = [[np.array(center_of_mass(mask))[::-1] + 1 for mask in image] for image in masks.numpy()]
    np.testing.assert_allclose(centres_of_mass(masks).numpy(), expected)


def test_keypoint_error_is_least_squares_on_standardised_positions():
    rng = np.random.default_rng(0)

    def located(name, visible):
        return Located(name, 1, rng.random((2, 2)), rng.random((3, 2)), np.array(visible))

    # Keypoint 2 is shown by no training picture, keypoint 1 by three of the eight.
    fitted = [located(f"t{i}", [True, i < 3, False]) for i in range(8)]
    held_out = [located("a", [True, True, True]), located("b", [False, True, True])]
    distances = []
    for point, tested in ((0, held_out[:1]), (1, held_out)):
        shown = [picture for picture in fitted if picture.visible[point]]
        inputs = np.stack([picture.centres.ravel() for picture in shown])
        outputs = np.stack([picture.keypoints[point] for picture in shown])
        standardised = (inputs - inputs.mean(0)) / inputs.std(0), (outputs - outputs.mean(0)) / outputs.std(0)
        weights = np.linalg.pinv(standardised[0]) @ standardised[1]
        for picture in tested:
            predicted = (picture.centres.ravel() - inputs.mean(0)) / inputs.std(0) @ weights * outputs.std(0)
            distances.append(np.linalg.norm(predicted + outputs.mean(0) - picture.keypoints[point]))
    assert keypoint_error(fitted, held_out) == pytest.approx(100 * np.mean(distances))
    assert keypoint_error(fitted[::-1], held_out[::-1]) == keypoint_error(fitted, held_out)
    assert keypoint_error([], held_out) is None and keypoint_error(fitted, []) is None


def test_samples_without_keypoints_and_sizes_too_small_are_refused():
    with pytest.raises(UserError, match="no keypoints"):
        protocol_of().inputs(replace(quadrants("a", (80, 100), (10, 10, 60, 60)), keypoints=None), False)
    with pytest.raises(UserError, match="evaluation.size=8"):
        protocol_of(size=8)
