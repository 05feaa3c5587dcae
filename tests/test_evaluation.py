import itertools
import json
from collections import Counter
from dataclasses import replace
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import ImageColor
from rich.console import Console
from scipy.optimize import linear_sum_assignment

from conf.modules import module, names
from datasets.batch import TrainBatch
from evaluation.contingency import ContingencyTable
from evaluation.examples import Known
from evaluation.inputs import batch, batches_of_equal_shape, prepared
from evaluation.labellers import kmeans_colours
from evaluation.labellers.kmeans import Options
from evaluation.matching import known_by_number
from evaluation.options import Sets
from evaluation.palette import INK, PALETTE, colours, font_of, shortened, with_legend
from evaluation.prediction import largest, part_probabilities, upsample
from evaluation.progress import Progress, examples
from evaluation.protocols import base, keypoints
from evaluation.report import held_out_picture, legend, part_picture, print_table, write_metrics
from evaluation.run import figure_names
from tests.composition import composed
from tests.quadrants import SIZES, ColourLabeller, draw_split, evaluated, evaluation_options
from utils.errors import UserError
from utils.signals import Signals

KMEANS = Options(num_points=1000, restarts=1, num_images=None, minibatch=None, epochs=1)


class HalfRight(ColourLabeller):
    """Takes the parts for others in the left third of the picture; the same for a picture whatever batch it is in."""

    def scores(self, images, foreground):
        scores, third = super().scores(images, foreground), images.shape[-1] // 3
        return torch.cat([scores.flip(1)[..., :third], scores[..., third:]], dim=-1)


def test_each_file_is_read_once_and_each_input_goes_through_the_network_once():
    test_set, fit_set = draw_split("test", 7, part_maps=True), draw_split("training", 5, part_maps=True)
    labeller = ColourLabeller()
    result = evaluated(labeller, test_set, fit_set)
    assert test_set.reads == [1] * 7 and fit_set.reads == [1] * 5
    # Crop, box and whole of each held-out picture, the whole of each training picture.
    assert sum(shape[0] for shape in labeller.seen) == 3 * 7 + 5
    assert max(shape[0] for shape in labeller.seen) == 4
    assert result.counts["images"] == 7 and result.counts["training_images"] == 5 and result.counts["keypoints"] == 28


def test_the_figures_depend_neither_on_batches_nor_on_workers():
    test_set, fit_set = draw_split("test", 9, part_maps=True), draw_split("training", 9, part_maps=True)
    reference = evaluated(HalfRight(), test_set, fit_set)
    assert reference.metrics["FG-NMI (keypoints)"] < 100, "the case must not be trivial"
    for changed in ({"batch_size": 1}, {"batch_size": 64}, {"num_workers": 2}):
        result = evaluated(HalfRight(), test_set, fit_set, **changed)
        assert result.metrics == pytest.approx(reference.metrics, abs=1e-3)
        assert result.counts == reference.counts
        names, expected = ([example.shown.name for example in found.pictures] for found in (result, reference))
        assert names == expected


def test_a_set_with_keypoints_alone_has_the_published_names():
    result = evaluated(HalfRight(), draw_split("test", 6), draw_split("training", 9))
    assert list(result.metrics) == [
        *("FG-NMI", "FG-ARI", "NMI", "ARI"),
        *("keypoint_error_all", "keypoint_error_001", "keypoint_error_002", "keypoint_error_003"),
    ]


def test_part_maps_take_the_plain_names_and_keypoints_say_so():
    test_set, fit_set = draw_split("test", 6, part_maps=True), draw_split("training", 9, part_maps=True)
    both = evaluated(HalfRight(), test_set, fit_set).metrics
    alone = evaluated(HalfRight(), draw_split("test", 6), fit_set).metrics
    assert list(both) == [
        *("FG-NMI", "FG-ARI", "NMI", "ARI"),
        *("FG-NMI (keypoints)", "FG-ARI (keypoints)", "NMI (keypoints)", "ARI (keypoints)"),
        *("keypoint_error_all", "keypoint_error_001", "keypoint_error_002", "keypoint_error_003"),
    ]
    assert both["FG-NMI (keypoints)"] == alone["FG-NMI"]
    assert both["keypoint_error_all"] == pytest.approx(alone["keypoint_error_all"])
    assert both["FG-NMI"] != alone["FG-NMI"]


class Named(base.Protocol):
    """A protocol of which nothing but its figures' names is asked."""

    def __init__(self, name, *metric_names, gives_way_to=()):
        self.name, self.metric_names, self.gives_way_to = name, metric_names, gives_way_to


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_figure_s_name_does_not_depend_on_the_order_of_the_protocols(order):
    protocols = [
        Named("pixels", "NMI", "ARI"),
        Named("points", "NMI", "error", gives_way_to=("pixels",)),
        Named("clusters", "NMI", "ARI", "error", gives_way_to=("pixels", "points")),
    ]
    assert figure_names([protocols[place] for place in order]) == {
        ("pixels", "NMI"): "NMI",
        ("pixels", "ARI"): "ARI",
        ("points", "NMI"): "points/NMI",
        ("points", "error"): "error",
        ("clusters", "NMI"): "clusters/NMI",
        ("clusters", "ARI"): "clusters/ARI",
        ("clusters", "error"): "clusters/error",
    }
    alone = figure_names([protocols[2]])
    assert all(name == metric for (_, metric), name in alone.items()), "nobody to give way to"


def test_two_figures_of_one_name_are_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(keypoints.Protocol, "gives_way_to", ())
    split = draw_split("test", 2, part_maps=True)
    with pytest.raises(UserError, match="part_maps and keypoints both have a figure 'FG-NMI'"):
        evaluated(ColourLabeller(), split)
    assert split.reads == [0, 0]


def test_a_protocol_gives_no_figure_that_it_has_not_named():
    split, labeller = draw_split("test", 2, part_maps=True), ColourLabeller()
    labeller.has_features, labeller.features_of = True, labeller.scores_of
    split.pixel_classes = list("abcd")
    for sample in split.samples:
        sample.class_map = np.minimum(sample.part_map, 3)
    probe = composed("evaluation.probe.kinds=[linear]", "evaluation.probe.steps=1").evaluation.probe
    for name in names("protocol"):
        protocol = module("protocol", name).Protocol.of(split, labeller, evaluation_options(probe=probe))
        assert protocol.name == name
        if protocol.needs_fit:
            protocol.fit([batch([shown for sample in split.samples for shown in protocol.inputs(sample)])])
        for sample in split.samples:
            for shown in protocol.inputs(sample):
                inputs = batch([shown])
                scores = labeller.scores_of(inputs)
                protocol.update(inputs, scores[:, :2] if name == "foreground" else scores)
        assert set(protocol.metrics()) <= set(protocol.metric_names)


class MatchedPixels(base.Protocol):
    """Every pixel of the test crop compared, clusters matched with labels one to one: no file knows of it."""

    name = "matched_pixels"
    metric_names = ("pixel accuracy (matched)",)

    def __init__(self, dataset, num_parts, image_size):
        self.dataset, self.image_size = dataset, image_size
        self.table = ContingencyTable(len(dataset.part_names) + 1, num_parts + 1)

    @classmethod
    def of(cls, dataset, labeller, options):
        return None if dataset.part_names is None else cls(dataset, labeller.num_parts, options.image_size)

    def inputs(self, sample, fitted=False, predicted=None):
        return [prepared(sample, "crop", partial(self.dataset.test_crop, size=self.image_size), predicted)]

    def update(self, batch, scores):
        probabilities = part_probabilities(upsample(scores, batch.images.shape[-2:]), batch.foreground)
        self.table.update(torch.stack([torch.from_numpy(s.part_map) for s in batch.inputs]), probabilities.argmax(1))
        return probabilities

    def metrics(self):
        rows, columns = linear_sum_assignment(self.table.counts, maximize=True)
        return {self.metric_names[0]: 100 * self.table.counts[rows, columns].sum() / self.table.total}

    def counts(self):
        return {"pixels": self.table.total}

    def known(self, shown):
        return Known("classes", shown.image, labels=shown.part_map)


class Renumbered(HalfRight):
    """Right up to a permutation in two thirds of each picture; learns nothing, but asks for the training pictures."""

    needs_fit, title, caption = True, "renumbered", "clusters"

    def fit(self, batches):
        self.pictures_seen = sum(len(crops.inputs) for crops in batches)

    def scores(self, images, foreground):
        return super().scores(images, foreground)[:, [2, 0, 3, 1]]


def test_a_new_labeller_and_a_new_protocol_are_modules_that_no_other_knows_of(monkeypatch):
    found = ModuleType("evaluation.protocols.matched_pixels")
    found.Protocol = MatchedPixels
    monkeypatch.setattr("evaluation.run.module", lambda kind, name: found if name == found.Protocol.name else None)
    split, labeller = draw_split("test", 5, part_maps=True), Renumbered()
    result = evaluated(labeller, split, draw_split("training", 3), ("matched_pixels",), num_pictures=2)
    assert labeller.pictures_seen == 3 and result.counts == {"pixels": 5 * 32 * 32}
    assert 80 < result.metrics["pixel accuracy (matched)"] < 95
    assert [example.known.caption for example in result.pictures] == ["classes"] * 2
    assert part_picture(result.pictures, labeller.caption).ndim == 3


def test_without_a_training_split_the_keypoint_error_is_left_out():
    result = evaluated(HalfRight(), draw_split("test", 3))
    assert list(result.metrics) == ["FG-NMI", "FG-ARI", "NMI", "ARI"]
    assert any("keypoint_error_all" in note for note in result.notes)


def test_labellers_that_learn_are_fitted_on_the_training_split():
    test_set, fit_set = draw_split("test", 4, part_maps=True), draw_split("training", 4, part_maps=True)
    result = evaluated(kmeans_colours.KMeansColours(KMEANS, 4, seed=0), test_set, fit_set)
    assert result.metrics["FG-NMI"] > 80


class Broken:
    name, keypoint_names, part_names, has_masks = "broken", ["a"], None, True

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise UserError("Cannot read /pictures/7.jpg")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_file_is_one_message_even_from_a_worker(num_workers):
    with pytest.raises(UserError) as caught:
        evaluated(ColourLabeller(), Broken(), num_workers=num_workers)
    assert str(caught.value) == "Cannot read /pictures/7.jpg"


def test_a_set_without_annotation_gives_pictures_figures_that_need_none_and_a_note():
    split = draw_split("test", 9)
    split.keypoint_names = []
    result = evaluated(ColourLabeller(), split, num_pictures=3)
    assert [*result.metrics] == ["warp_agreement", "presence", "compactness", "largest_share", "smallest_share"]
    assert "quadrants has no part maps and no keypoints" in result.notes[0]
    assert [example.shown.place for example in result.pictures] == [0, 4, 8]
    assert split.reads == [1] * 9 and result.counts == {"images": 9}
    for example in result.pictures:
        crop = split.test_crop(split.samples[example.shown.place], SIZES["image_size"])
        assert ((example.predicted > 0) == crop.foreground).all() and (example.predicted == crop.part_map).mean() > 0.9


def test_batches_hold_one_view_and_size_and_nothing_is_lost_or_held_back():
    protocol = keypoints.Protocol(draw_split("test", 1), ColourLabeller(), evaluation_options(size=32))
    inputs = [("k", shown) for sample in draw_split("test", 20).samples for shown in protocol.inputs(sample, False)]
    taken = []

    def stream():
        for pair in inputs:
            taken.append(pair)
            yield pair

    names, waiting_at_most = Counter(), len({(shown.view, shown.image.shape) for _, shown in inputs}) * 2
    for key, full in batches_of_equal_shape(stream(), 3):
        assert key == "k" and 1 <= len(full.inputs) <= 3
        assert len({(shown.view, shown.image.shape) for shown in full.inputs}) == 1
        assert full.images.shape == (len(full.inputs), 3, *full.inputs[0].image.shape[:2])
        names.update((shown.name, shown.view) for shown in full.inputs)
        assert len(taken) == len(inputs) or len(taken) - names.total() <= waiting_at_most
    assert names == Counter((shown.name, shown.view) for _, shown in inputs)


def test_background_comes_from_the_mask_or_from_the_labeller():
    scores, foreground = torch.randn(2, 3, 4, 5), (torch.rand(2, 1, 4, 5) > 0.5).float()
    masked = part_probabilities(scores, foreground)
    torch.testing.assert_close(masked.sum(1), torch.ones(2, 4, 5))
    torch.testing.assert_close(masked[:, 1:], scores.softmax(1) * foreground)
    assert ((masked.argmax(1) == 0) == (foreground[:, 0] == 0)).all()
    torch.testing.assert_close(part_probabilities(scores, foreground, has_background=True), scores.softmax(1))


def test_pictures_are_spread_over_the_test_set_and_show_what_was_found():
    test_set = draw_split("test", 9, part_maps=True)
    result = evaluated(ColourLabeller(), test_set, num_pictures=3)
    assert [example.shown.place for example in result.pictures] == [0, 4, 8]
    for example in result.pictures:
        assert example.predicted.shape == example.shown.part_map.shape == (32, 32)
        assert (example.predicted == example.shown.part_map).mean() > 0.9


class Untied(ColourLabeller):
    """Between two colours that are as near it takes the later one."""

    def scores(self, images, foreground):
        return super().scores(images, foreground) + 1e-3 * torch.arange(4)[:, None, None]


class OtherNumbers(Untied):
    """The same parts by other numbers."""

    def scores(self, images, foreground):
        return super().scores(images, foreground)[:, [1, 3, 0, 2]]


def test_the_picture_paints_a_part_like_the_true_part_that_it_matches():
    test_set = draw_split("test", 2, part_maps=True)
    plain, renumbered = (
        evaluated(labeller(), test_set, num_pictures=2).pictures for labeller in (Untied, OtherNumbers)
    )
    assert any((own.predicted != other.predicted).any() for own, other in zip(plain, renumbered, strict=True))
    picture = part_picture(plain, "parts")
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 4
    assert (part_picture(renumbered, "parts") == picture).all()


def test_while_training_a_part_has_the_colour_of_its_number_in_held_out_pictures_too():
    told = {}

    class Logger:
        def log_pictures(self, step, pictures):
            told.update(pictures)

        def log_test_pictures(self, step, rows):
            told["row"] = rows[0]["picture"]

        log_evaluation = say = lambda *_: None

    sets = Sets(draw_split("test", 2, part_maps=True), draw_split("training", 2, part_maps=True))
    settings = composed("evaluation.size=32", "image_size=32", "loader.num_workers=0", "evaluation.pictures=2")
    progress = Progress(settings, OtherNumbers(), sets, ("part_maps",), torch.device("cpu"), None)
    progress.evaluate(1, Logger(), Signals())
    matched = evaluated(OtherNumbers(), sets.test, sets.fit, num_pictures=2)
    assert matched.colours.tolist() == [0, 2, 4, 1, 3]
    part_of = np.array([0, 3, 1, 4, 2])  # of each true part the one that matches it
    by_number = [
        replace(own, recolouring=None, known=replace(own.known, labels=part_of[own.known.labels]))
        for own in matched.pictures
    ]
    expected = part_picture(by_number, OtherNumbers.caption)
    height, width = expected.shape[:2]
    assert (told["held_out_parts"][:height] == expected).all()
    assert (told["row"] == expected[:, 26 : 26 + told["row"].shape[1]]).all()


def test_the_legend_of_a_picture_says_which_colour_is_which_part_and_what_it_matches(monkeypatch):
    said = []
    monkeypatch.setattr("evaluation.report.with_legend", lambda image, texts, size: said.append(texts) or image)
    result = evaluated(OtherNumbers(), draw_split("test", 2, part_maps=True), num_pictures=2)
    a, b, c, d = result.comparisons[0].names
    held_out_picture(result, OtherNumbers(), "part")
    held_out_picture(result, OtherNumbers(), "part", given=["e", "f", "g", "h"])
    held_out_picture(result, OtherNumbers(), "part", by_number=True)
    assert said[0] == {1: f"part 3 = {a}", 2: f"part 1 = {b}", 3: f"part 4 = {c}", 4: f"part 2 = {d}"}
    assert said[1][1] == f"part 3: g = {a}"
    assert said[2] == {1: f"part 1 = {b}", 2: f"part 2 = {d}", 3: f"part 3 = {a}", 4: f"part 4 = {c}"}
    many = legend(np.array([0, 1, 1, 4]), np.arange(4), ["sky", "sea", "sand"], "cluster")
    assert many == {1: "clusters 1, 2 = sky", 2: "no cluster = sea", 3: "no cluster = sand", 4: "cluster 3"}


def test_a_known_label_takes_the_colour_of_the_part_that_meets_it_most():
    counts = np.array([[0, 5, 7, 0], [3, 1, 1, 9], [0, 0, 0, 2]])
    assert known_by_number(np.array([0, 1, 1, 2]), counts).tolist() == [0, 2, 3, 4]


def test_a_picture_has_its_file_s_name_below_it_and_a_name_that_is_too_long_keeps_its_end():
    (found, *_) = evaluated(ColourLabeller(), draw_split("test", 2, part_maps=True), num_pictures=2).pictures
    renamed = [replace(found, shown=replace(found.shown, name=name)) for name in ("a/long.jpg", 50 * "W" + "end.jpg")]
    pictures = [part_picture([own], "parts") for own in renamed]
    assert not any(picture[0, :, 3].any() for picture in pictures), "there is no ground, which a dark page would show"
    short, long = (picture[-26:, :, 3] > 0 for picture in pictures)
    assert short.any() and long.sum() > short.sum() and not long[:, :26].any()
    font = font_of(18)
    text = shortened(50 * "W" + "end.jpg", font, 160, keeps_end=True)
    assert text[0] == "…" and text.endswith("Wend.jpg") and 140 < font.getlength(text) <= 160
    assert shortened("end.jpg", font, 160) == "end.jpg" and shortened("bad\udcff.jpg", font, 160) == "bad?.jpg"


@pytest.mark.parametrize("width", [60, 1354])
def test_a_legend_has_every_colour_no_ground_and_no_text_that_is_cut(width):
    picture = np.zeros((10, width, 4), np.uint8)
    strip = with_legend(picture, {label: f"part {label} = {'name ' * 40}" for label in (1, 2, 20)}, 18)[10:]
    assert strip.shape[1] == width and not strip[:, -1, 3].any() and (strip[..., 3] == 0).mean() > 0.5
    dark = colours(np.array(20)) // 3  # it has stripes
    found = {tuple(pixel) for pixel in strip[..., :3].reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in [*colours(np.array([1, 2, 20])).tolist(), dark.tolist()]} <= found


def test_letters_beyond_ascii_are_drawn_each_as_its_own():
    masks = {letter: bytes(font_of(18).getmask(letter)) for letter in "eéêüßжλ\uffff"}
    assert len(set(masks.values())) == len(masks), "one that is missing looks like any other that is"


def test_what_is_written_in_pictures_is_read_on_a_dark_page_as_on_a_light_one():
    red, green, blue = ImageColor.getrgb(INK)
    assert red == green == blue
    light = ((red / 255 + 0.055) / 1.055) ** 2.4
    assert (1 + 0.05) / (light + 0.05) > 4 and (light + 0.05) / (0.009 + 0.05) > 4  # contrasts


def test_keypoints_and_training_crops_are_drawn_too():
    with_keypoints = evaluated(ColourLabeller(), draw_split("test", 2), num_pictures=2).pictures
    assert {example.shown.view for example in with_keypoints} == {"box"}
    hidden = part_picture(with_keypoints, "parts")
    for example in with_keypoints:
        example.known.points = example.known.points * [1, 1, 0]
    assert (part_picture(with_keypoints, "parts") != hidden).any()

    crops = [draw_split("training", 2).test_crop(sample, 32) for sample in draw_split("training", 2).samples]
    found = examples(ColourLabeller(), TrainBatch.collate(crops, step=0))
    assert [(example.predicted > 0).sum() for example in found] == [crop.foreground.sum() for crop in crops]
    assert part_picture(found, "parts").shape == hidden.shape


def test_parts_have_colours_of_their_own_up_to_sixteen():
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == len(PALETTE) == 17
    assert (colours(np.array([0, 17])) == PALETTE[[0, 1]]).all()


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    """As WCAG defines it, of two sRGB colours: from 1 to 21."""
    dark, light = sorted(
        float(np.where((c := np.array(rgb) / 255) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ LUMINANCE)
        for rgb in (first, second)
    )
    return (light + 0.05) / (dark + 0.05)


LUMINANCE = (0.2126, 0.7152, 0.0722)


def test_the_eighth_part_is_seen_on_light_and_dark_pages_and_apart_from_the_other_seven():
    eighth = colours(np.array(8))
    assert contrast(eighth, (255, 255, 255)) > 3 and contrast(eighth, (0x15, 0x17, 0x1A)) > 3
    distances = np.linalg.norm(PALETTE[1:8].astype(float) - eighth, axis=1)
    assert distances.min() > 100
    assert 255 * 3 not in PALETTE.sum(1, dtype=int), "white is on no page, and on no white bird, seen"


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


def test_the_table_fits_80_columns_and_shows_what_a_labeller_lacks_as_a_dash(monkeypatch, capsys):
    metrics = {"FG-NMI": 46.03, "FG-NMI (keypoints)": 43.52, "keypoint_error_all": 9.16}
    rows = {label: metrics for label in ("trained", "untrained", "kmeans_features")} | {"kmeans_colours": {"FG-NMI": 5}}
    monkeypatch.setattr("evaluation.report.stdout", lambda: Console(width=80))
    print_table(rows)
    lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["FG-NMI", "46.0", "46.0", "46.0", "5.0"] in lines
    assert ["keypoint_error_all", "9.2", "9.2", "9.2", "-"] in lines


def test_the_label_of_a_pixel_is_its_largest_score_the_first_of_equals():
    scores = torch.randint(0, 4, (2, 5, 6, 7), generator=torch.Generator().manual_seed(0)).float()
    found = largest(scores)
    for picture, row, column in itertools.product(range(2), range(6), range(7)):
        of_pixel = scores[picture, :, row, column].tolist()
        assert found[picture, row, column] == of_pixel.index(max(of_pixel))
