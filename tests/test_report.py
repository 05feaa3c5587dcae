import csv
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
from datasets.example import draw_folder
from datasets.sample import VOID
from evaluation.inputs import EvalInput, batch
from evaluation.labellers.label_maps import LabelMaps
from evaluation.matching import matching_order, recolouring
from evaluation.pages import plots, report
from evaluation.pages.published import published
from evaluation.pages.seen import Seen
from evaluation.palette import colours, tint
from evaluation.report import write_metrics
from tests.composition import composed, given
from tests.pages import checkpoint_of, seen_by_page
from tests.quadrants import ColourLabeller, Quadrants, draw_split, evaluated
from tests.test_foreground import Bright
from tests.test_pixel_accuracy import Shuffled, classes
from utils.errors import UserError


class Sloppy(ColourLabeller):
    """Takes the parts for others in the left half of some pictures, whatever batch they are in; is not too sure."""

    def scores(self, images, foreground):
        scores, half = super().scores(images, foreground), images.shape[-1] // 2
        some = images.sum((1, 2, 3)).remainder(3) == 0
        scores[some, :, :, :half] = scores[some, :, :, :half].roll(1, 1)
        return scores / 40


class Reader(HTMLParser):
    """The page's elements, as (name, attributes), and its text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements, self.text, self._inside = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._inside):
            self.text.append(data)


def both(count=9, **changes):
    return draw_split("test", count, part_maps=True), draw_split("training", 6, part_maps=True)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_figures_do_not_depend_on_who_looks():
    test, fit = both()
    assert seen_by_page(Sloppy(), test, fit).columns[0].result.metrics == evaluated(Sloppy(), *both()).metrics


def test_no_picture_goes_through_the_network_twice_and_none_is_read_twice():
    test, fit = both(7)
    labeller = Sloppy()
    seen_by_page(labeller, test, fit)
    assert sum(shape[0] for shape in labeller.seen) == 3 * 7 + 6 and test.reads == [1] * 7


def test_the_tables_are_those_of_the_label_maps_counted_one_by_one(tmp_path):
    """Every input is labelled again here, alone, and counted pixel by pixel."""
    test, fit = both()
    found = seen_by_page(Sloppy(), test, fit)
    report.write(tmp_path, found)
    maps, shown = [], []
    for sample in test.samples:
        crop = test.test_crop(sample, 32)
        image = torch.from_numpy(crop.image)[None].permute(0, 3, 1, 2)
        probability = Sloppy().scores(image, None).softmax(1)[0].numpy()
        maps.append(np.where(crop.foreground > 0, probability.argmax(0) + 1, 0))
        shown.append((sample, crop, probability.max(0)))

    overlap = np.zeros((5, 5), int)
    for labels, (_, crop, _) in zip(maps, shown, strict=True):
        np.add.at(overlap, (crop.part_map, labels), 1)
    best = max(permutations(range(4)), key=lambda order: sum(overlap[1:, 1:][t, p] for t, p in enumerate(order)))
    for row, labels, (sample, crop, sure) in zip(table(tmp_path / "per_picture.csv"), maps, shown, strict=True):
        assert row["name"] == sample.name and row["class"] == str(sample.label)
        right = sum(((crop.part_map == t + 1) & (labels == best[t] + 1)).sum() for t in range(4))
        assert float(row["agreement"]) == pytest.approx(100 * right / (crop.part_map > 0).sum(), abs=1e-3)
        assert float(row["found"]) == pytest.approx(100 * (labels > 0).mean(), abs=1e-3)
        for part in range(1, 5):
            where = labels == part
            assert float(row[f"area_part_{part}"]) == pytest.approx(100 * where.mean(), abs=1e-3)
            if where.any():
                rows, columns = np.nonzero(where)
                assert float(row[f"certainty_part_{part}"]) == pytest.approx(100 * sure[where].mean(), abs=1e-2)
                assert float(row[f"x_part_{part}"]) == pytest.approx((columns.mean() + 0.5) / 32, abs=1e-3)
                assert float(row[f"y_part_{part}"]) == pytest.approx((rows.mean() + 0.5) / 32, abs=1e-3)
            else:
                assert row[f"certainty_part_{part}"] == row[f"x_part_{part}"] == ""


def test_parts_by_keypoint_are_those_at_the_keypoints_of_whole_pictures(tmp_path):
    test, fit = draw_split("test", 9), draw_split("training", 6)
    found = seen_by_page(Sloppy(), test, fit)
    report.write(tmp_path, found)
    counts = np.zeros((4, 5), int)
    for sample in test.samples:
        whole = found.seen.protocol.inputs(sample)[0]
        image = torch.from_numpy(whole.image.copy())[None].permute(0, 3, 1, 2)
        labels = np.where(whole.foreground > 0, Sloppy().scores(image, None).argmax(1)[0].numpy() + 1, 0)
        h, w = labels.shape
        for point, (x, y, visible) in enumerate(whole.keypoints):
            row, column = (
                min(max(round(value - 0.5), 0), side - 1) for value, side in zip((y, x), labels.shape, strict=True)
            )
            counts[point, labels[row, column]] += int(visible)
    rows = table(tmp_path / "parts_by_keypoint.csv")
    assert [row["keypoint"] for row in rows] == ["a", "b", "c", "d"]
    for row, expected in zip(rows, counts, strict=True):
        found_counts = [int(row[name]) for name in ("background", "part_1", "part_2", "part_3", "part_4")]
        assert found_counts == expected.tolist() and int(row["visible"]) == expected.sum()


def test_a_keypoint_s_errors_make_the_error_of_all():
    found = seen_by_page(Sloppy(), draw_split("test", 9), draw_split("training", 9))
    (comparison,) = found.comparisons
    weights = comparison.counts.sum(1)
    mean = (comparison.errors * weights).sum() / weights.sum()
    assert mean == pytest.approx(found.columns[0].result.metrics["keypoint_error_all"])


def test_a_picture_agrees_by_its_keypoints_where_only_those_are_known():
    numbers = seen_by_page(ColourLabeller(), draw_split("test", 5), draw_split("training", 5)).numbers
    assert (numbers.agreement == 100).all()
    numbers = seen_by_page(Sloppy(), draw_split("test", 5), draw_split("training", 5)).numbers
    assert 0 < numbers.agreement.mean() < 100


def test_strips_run_from_the_surest_picture_and_from_the_least_sure_of_all(tmp_path):
    test, fit = both(30)
    found = seen_by_page(Sloppy(), test, fit, num_shown=3)
    certainty, areas = found.numbers.certainty[:, 2], found.numbers.areas
    there = areas[:, 2] >= 0.01 * areas[:, 1:].sum(1)
    names, certainty = np.array(found.numbers.names)[there], certainty[there]
    assert len(set(certainty)) > 8, "the case must not be trivial"
    surest, least = found.seen.strips()[1]
    assert [shown.name for shown in least] == names[np.argsort(certainty, stable=True)][:8].tolist()
    assert [shown.name for shown in surest] == names[np.argsort(-certainty, stable=True)][:8].tolist()


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_no_picture_of_a_few_stands_at_both_ends_of_a_strip(count):
    """Of areas that many share too: all pictures are one."""
    (sample,) = draw_split("test", 1, part_maps=True).samples
    split = Quadrants([replace(sample, name=f"{place}.jpg") for place in range(count)], part_maps=True)
    found = seen_by_page(AllSure(), split, draw_split("training", 3, part_maps=True))
    strips, names = found.seen.strips()[0], [f"{place}.jpg" for place in range(count)]
    shown = [[shown.name for shown in strip] for strip in strips]
    half = count // 2
    assert shown == ([names] if count < 4 else [names[:half], names[::-1][:half]])
    said = [text.strip() for text in Reader(report.rendered(found)).text]
    assert ("smallest" in said) == (count >= 4) and ("largest first" in said) == (count < 4)


class Speck(ColourLabeller):
    """Finds parts 1 and 2, of the other two a pixel or none, of many."""

    def scores(self, images, foreground):
        scores = torch.zeros(len(images), 4, *images.shape[-2:])
        scores[:, 0], scores[:, 1, :, ::2] = 1, 2
        height, width = images.shape[-2:]
        scores[:, 2, height // 2, width // 2] = 3
        return scores


def test_a_part_that_is_too_small_to_show_counts_as_nowhere_in_the_table_too():
    test, fit = both(6)
    found = seen_by_page(Speck(), test, fit, truth_free=True)
    areas = found.numbers.areas[:, 3]
    assert (areas > 0).any() and (areas < 0.01 * found.numbers.areas[:, 1:].sum(1)).all()
    page = " ".join(" ".join(Reader(report.rendered(found)).text).split())
    assert "Nowhere, or too small to show: part 3, part 4." in page
    rows = list(report._parts(found, np.arange(5)))
    presence = [part["presence"] for part in found.columns[0].result.parts]
    assert [row["presence"] for row in rows] == presence == [100, 100, 0, 0]
    assert "presence, % of pictures" in page and "in which the part holds 1 % or more of what is found" in page
    for name in ("presence", "compactness", "warp_agreement"):
        assert re.search(rf"{name}: [a-z' ]{{20}}", page), name


class AllSure(Sloppy):
    is_graded = False


def test_what_grades_nothing_is_shown_by_area_and_the_page_does_not_speak_of_certainty():
    test, fit = both(20)
    found = seen_by_page(AllSure(), test, fit)
    largest = np.array(found.numbers.names)[np.argmax(found.numbers.areas[:, 1])]
    assert found.seen.strips()[0][0][0].name == largest
    page = " ".join(Reader(report.rendered(found)).text)
    assert "largest" in page and "certain" not in page
    assert not LabelMaps.is_graded


def test_a_page_of_many_pictures_shows_some_and_its_tables_have_all(tmp_path):
    test, fit = both(40)
    found = seen_by_page(Sloppy(), test, fit, num_shown=5)
    report.write(tmp_path, found)
    assert len(table(tmp_path / "per_picture.csv")) == 40
    page = Reader((tmp_path / "report.html").read_text())
    shown = [attributes["data-name"] for tag, attributes in page.elements if tag == "li" and "data-name" in attributes]
    assert shown == [test.samples[place].name for place in (0, 10, 20, 29, 39)]
    assert "5 of the 40 held-out pictures" in " ".join(" ".join(page.text).split())


class Bare(Quadrants):
    """Nothing is known of its pictures."""

    keypoint_names: list[str] = []


def bare(count: int) -> Bare:
    return Bare(draw_split("test", count).samples)


def test_without_annotation_the_page_does_not_speak_of_a_truth(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["evaluate.py"])
    found = seen_by_page(Sloppy(), bare(6), num_shown=4)
    report.write(tmp_path, found)
    assert not (tmp_path / "parts_by_keypoint.csv").exists()
    rows = table(tmp_path / "per_picture.csv")
    assert len(rows) == 6 and "agreement" not in rows[0]
    page = Reader((tmp_path / "report.html").read_text())
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {"figures", "parts", "pictures", "made"} <= ids and not ids & {"known-1", "points"}
    said = " ".join(page.text[: next(place for place, text in enumerate(page.text) if "The whole config" in text)])
    lacking = "has no part maps and no keypoints: "
    assert lacking in said
    assert not re.search(
        "true|truth|agree|known|keypoint|error|against|published",
        said.replace(lacking, "").replace("warp_agreement", ""),
        re.I,
    )


def test_the_run_s_config_is_its_own_and_the_evaluation_s_has_no_default_of_training():
    found = seen_by_page(Sloppy(), *both(4))
    found.checkpoint = replace(found.checkpoint, config={"num_steps": 7, "optimizer": {"name": "adam"}})
    page = Reader(report.rendered(found)).text
    of_run, of_evaluation = (
        page[place + 2]
        for what in ("run", "evaluation")
        for place, text in enumerate(page)
        if text == f"The whole config of the {what}"
    )
    assert of_run == "num_steps: 7\noptimizer:\n  name: adam\n"
    keys = {line.partition(":")[0] for line in of_evaluation.splitlines()}
    assert {"dataset_name", "evaluation", "checkpoint", "seed"} <= keys
    assert not {"num_steps", "batch_size", "optimizer", "augmentation"} & keys
    made = evaluate.made_from(found.checkpoint, found.config)
    assert made["trained_with"] == {"num_steps": 7, "optimizer": {"name": "adam"}}


def test_every_picture_says_what_it_shows_and_nothing_comes_from_elsewhere():
    test, fit = both(4)
    page = Reader(report.rendered(seen_by_page(Sloppy(), test, fit)))
    alone = [
        attributes for tag, attributes in page.elements if tag == "img" and "over" not in attributes.get("class", "")
    ]
    pictures = [attributes for attributes in alone if attributes.get("class") != "chip"]
    assert len(pictures) >= 4 and all(attributes["alt"].startswith("test/") for attributes in pictures)
    places = [value for _, own in page.elements for name, value in own.items() if name in ("src", "href", "xlink:href")]
    assert places and all(place.startswith(("data:", "#")) for place in places)


def test_names_are_text_whatever_they_are(tmp_path):
    split = draw_split("test", 3)
    split.samples[0].name = '<script>alert("1")</script>.jpg'
    split.samples[1].name = b"caf\xe9.jpg".decode(errors="surrogateescape")
    report.write(tmp_path, seen_by_page(Sloppy(), split, draw_split("training", 3)))
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page and "caf\\udce9.jpg" in page
    assert b"caf\xe9.jpg" in (tmp_path / "per_picture.csv").read_bytes()


def test_the_page_has_what_made_it(tmp_path, monkeypatch):
    run = tmp_path / "my run"
    (run / "code").mkdir(parents=True)
    (run / "code/environment.txt").write_text("command: train.py dataset_name=CUB num_parts=5\ntorch: 2\n")
    monkeypatch.setattr("sys.argv", ["evaluate.py", f"checkpoint={run}"])
    page = report.rendered(seen_by_page(Sloppy(), draw_split("test", 3), draw_split("training", 3), run=run))
    assert "python train.py dataset_name=CUB num_parts=5" in page
    assert "python evaluate.py" in page and "<title>my run on CUB</title>" in page
    assert "image_size: 256" in page


def test_an_evaluation_of_a_run_lands_in_it_or_says_why_it_does_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run, config = tmp_path / "runs/mine", composed("checkpoint=runs/mine", "dataset_name=DF", name="evaluate")
    assert evaluate.output_directory(config, checkpoint_of(run)).parent == Path("runs")  # it is no run yet
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    found = evaluate.output_directory(config, checkpoint_of(run))
    assert found.parent == run / "evaluations" and found.name.endswith("_DF")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(os, "access", lambda path, mode: path != run)
    found = evaluate.output_directory(config, checkpoint_of(run))
    assert found.parent == Path("runs")
    assert capsys.readouterr().out == f"{run} cannot be written: the evaluation goes to {found}.\n"
    config.output_dir = "elsewhere"
    assert evaluate.output_directory(config, checkpoint_of(run)) == Path("elsewhere")
    assert capsys.readouterr().out == ""


def test_clusters_are_called_so_and_a_picture_agrees_in_the_pixels_of_their_classes():
    found = seen_by_page(Shuffled([2, 0, 3, 1]), classes(), protocols=("pixel_accuracy",))
    pixels = [(c.class_map != VOID).sum() for c in (classes().test_crop(own, 32) for own in classes().samples)]
    mean = np.average(found.numbers.agreement, weights=pixels)
    assert mean == pytest.approx(found.columns[0].result.metrics["pixel accuracy"])
    page = " ".join(Reader(report.rendered(found)).text)
    assert "Clusters against true classs" not in page and "Clusters against true classes" in page
    assert "cluster 4" in page and "part" not in page.partition("The whole config")[0].lower()


class Masks(Bright):
    gives_masks = True


def test_a_mask_is_called_the_object_and_a_picture_agrees_by_its_intersection_over_union():
    test = draw_split("test", 5, part_maps=True)
    found = seen_by_page(Masks(), test, protocols=("foreground",), num_parts=1)
    crops = [test.test_crop(sample, 32) for sample in test.samples]
    masks = [(crop.foreground > 0, crop.image.mean(-1) > 100) for crop in crops]
    expected = [100 * (true & mask).sum() / (true | mask).sum() for true, mask in masks]
    assert found.numbers.agreement.tolist() == pytest.approx(expected)
    page = Reader(report.rendered(found))
    said = " ".join(" ".join(page.text).split())
    assert "The object against masks" in said and "part 1" not in said
    assert "mask object background pixels" in said and "Where it is most and least certain" in said
    assert any(own.get("value") == "true" for tag, own in page.elements if tag == "input"), "the true mask can be seen"


def test_a_report_that_cannot_be_written_is_one_line_and_no_error(small_disk, capsys):
    test, fit = both(4)
    (small_disk / "full").write_bytes(bytes((2 << 20) - 4096 * 3))
    evaluate.write_report(small_disk, seen_by_page(Sloppy(), test, fit))
    said = capsys.readouterr()
    assert "The report is left out: cannot write" in said.err and "No space left" in said.err
    assert "Report:" not in said.out
    assert not [*small_disk.glob("*report.html*")], "what there is of it goes, and leaves room for the picture"


def test_a_folder_in_the_place_of_the_report_is_named_by_the_report_s_own_name(tmp_path, capsys):
    (tmp_path / "report.html").mkdir()
    evaluate.write_report(tmp_path, seen_by_page(Sloppy(), *both(4)))
    said = capsys.readouterr().err.replace("\n", "")
    assert f"The report is left out: cannot write {tmp_path}/report.html: Is a directory" in said


def test_label_maps_of_an_evaluation_are_named_where_its_folder_is_given(tmp_path, drawn_maps):
    (drawn_maps / "found").rename(drawn_maps / "label_maps")
    with pytest.raises(UserError, match=f"Did you mean predictions={drawn_maps}/label_maps\\?"):
        keys = (f"predictions={drawn_maps}", f"output_dir={tmp_path}/out")
        with given("dataset_name=folder", f"dataset_root={drawn_maps}", *keys, name="evaluate") as config:
            evaluate.evaluate(config)


def test_figures_that_cannot_be_written_are_a_message(small_disk):
    (small_disk / "full").write_bytes(bytes((2 << 20) - 4096))
    with pytest.raises(UserError, match="metrics.json: No space left on device. The figures are in the table above"):
        write_metrics(small_disk / "metrics.json", {"FG-NMI": 50.0}, {"config": "x" * 10_000})
    assert not [*small_disk.glob("*metrics.json*")]


def test_what_was_published_is_found_by_data_method_and_number_of_parts():
    ours = published(composed("dataset_name=CUB"), 4)
    assert ours.figures["FG-NMI"] == 46.0 and ours.figures["keypoint_error_all"] == 9.2
    six, scops = composed("dataset_name=CUB", "num_parts=6"), composed("dataset_name=CUB", "method=scops")
    assert published(six, 6).figures["FG-NMI"] == 47.2
    assert published(scops, 4).figures["FG-NMI"] == 39.1
    assert published(composed("dataset_name=DF"), 4).figures["FG-NMI"] == 44.8
    assert published(composed("dataset_name=CUB"), 5) is None
    assert published(composed("dataset_name=synthetic"), 4) is None


def test_published_baselines_are_of_the_same_features_and_trivial_ones_of_any_number_of_parts():
    kmeans = composed("dataset_name=CUB", "perceptual=vgg19_relu5", "baseline=[kmeans_features]")
    assert published(kmeans, 4, "kmeans_features").figures["FG-NMI"] == 34.9
    other = composed("dataset_name=CUB", "baseline=[kmeans_features]")
    assert published(other, 4, "kmeans_features") is None
    assert published(other, 8, "midpoint").figures["keypoint_error_all"] == 23.5


def test_a_published_checkpoint_is_set_beside_its_own_figures(tmp_path):
    file = tmp_path / "checkpoints/CUB/model_60000.pth"
    assert published(composed("dataset_name=CUB"), 4, checkpoint=file).figures["FG-NMI"] == 46.03


def test_an_ablation_is_set_beside_its_own_row():
    ablated = composed("dataset_name=CUB", "experiment=cub/no_visual")
    assert "visual" in published(ablated, 4).label


def test_the_order_that_matches_best_lies_along_the_diagonal():
    counts = np.array([[0, 0, 9, 1], [8, 0, 1, 0], [0, 0, 0, 5]])
    rows, columns = matching_order(counts)
    assert rows.tolist() == [0, 1, 2] and columns.tolist() == [2, 0, 3, 1]  # the second column meets nothing
    rows, columns = matching_order(np.array([[1, 9], [8, 2], [0, 5], [9, 1]]))
    assert columns.tolist() in ([1, 0], [0, 1])
    assert (np.diff(np.array([[1, 9], [8, 2], [0, 5], [9, 1]])[rows][:, columns].argmax(1)) >= 0).all()


def test_labels_without_a_partner_get_colours_that_no_other_has():
    assert recolouring(np.array([1, -1, 0, -1]), 2).tolist() == [0, 2, 3, 1, 4]


def test_labels_that_share_a_colour_differ_in_their_stripes():
    patches = {tint(np.full((24, 24), label)).tobytes() for label in range(1, 255)}
    assert len(patches) == 254
    plain = tint(np.array([[0, 3]]))
    assert plain[0, 0, 3] == 0 and plain[0, 1].tolist() == [*colours(np.array(3)).tolist(), 255]


def test_parts_that_share_a_colour_are_told_apart_in_the_plots_too():
    labels, rng = np.arange(1, 41), np.random.default_rng(0)
    names = [f"part {label}" for label in labels]
    areas = plots.areas(rng.random((9, 40)), labels, names, "part")
    # A pattern is named by its stripes and both colours: of these one has those of parts 17 to 32, eight the next.
    assert len(set(re.findall(r"fill: (url\(#\w+\))", areas))) == 24
    centres = plots.centres(rng.random((9, 40, 2)), labels)
    assert set(re.findall(r">(\d+)</text>", centres)) == {str(label) for label in labels}


def test_as_many_parts_as_there_can_be_fit_on_a_page():
    class Many(ColourLabeller):
        num_parts = 254

        def scores(self, images, foreground):
            return torch.rand(len(images), 254, *images.shape[-2:], generator=torch.Generator().manual_seed(0))

    page = report.rendered(seen_by_page(Many(), draw_split("test", 6), draw_split("training", 6), num_parts=254))
    assert len(page) < 15e6 and "part 254" in page


def test_two_hundred_photographs_take_less_than_fifteen_megabytes():
    """Noise, which no picture's compression makes small, at the size of the page."""
    rng = np.random.default_rng(0)
    seen = Seen(ColourLabeller(), range(200))
    protocol = SimpleNamespace(dataset=bare(1), known=lambda shown: None, compared=lambda *_: None, agreement_is="")
    foreground = np.ones((256, 256), np.uint8)
    photograph = rng.integers(0, 256, (64, 64, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    for place in range(200):
        image = np.roll(photograph, place, axis=0) // 2 + rng.integers(0, 100, (256, 256, 3), np.uint8)
        shown = EvalInput(f"{place}.jpg", None, image, foreground, place=place)
        seen.update(protocol, batch([shown]), torch.rand(1, 5, 8, 8).repeat_interleave(32, 2).repeat_interleave(32, 3))
    config = composed("predictions=maps", name="evaluate")
    result = SimpleNamespace(metrics={}, notes=[], comparisons=[], parts=[], colours=np.arange(5))
    page = report.rendered(report.Evaluated(config, [report.Column("", None, result)], seen, 200, None, 4))
    assert 1e6 < len(page) < 15e6


def test_parts_have_their_names_in_every_table_strip_and_legend():
    test, fit = both(4)
    names = "part_names=[brow,'<ear>',chin,nose]"
    page = Reader(report.rendered(seen_by_page(Sloppy(), test, fit, overrides=(names,))))
    said = [text.strip() for text in page.text]
    # The table of parts, the plot of areas, the strip and the legend; the heat maps of parts and of keypoints.
    assert said.count("part 2: <ear>") == 4 and said.count("area of part 2: <ear>") == 1
    assert said.count("2 <ear>") == 2
    texts = [own["alt"] for tag, own in page.elements if tag == "img"]
    assert any(text.startswith("test/0.jpg: part 1: brow ") for text in texts)


@pytest.fixture
def drawn_maps(tmp_path):
    """A folder of drawn pictures with label maps, their true parts."""
    root = tmp_path / "data"
    draw_folder(root, count=4, size=48)
    for path in (root / "parts").glob("*.png"):
        (root / "found").mkdir(exist_ok=True)
        (root / "found" / f"{path.stem}.jpg.png").write_bytes(path.read_bytes())
    return root


@pytest.mark.parametrize("rows", [2, 3])
def test_without_annotation_the_picture_has_no_row_of_it_and_the_line_no_word(tmp_path, drawn_maps, capsys, rows):
    masks = ("dataset.eval_mask=none",) if rows == 2 else ()
    if masks:
        for path in drawn_maps.iterdir():
            if path.name not in ("images", "found"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    keys = (f"predictions={drawn_maps}/found", f"output_dir={tmp_path}/out", "image_size=32", "loader.num_workers=0")
    with given("dataset_name=folder", f"dataset_root={drawn_maps}", *keys, *masks, name="evaluate") as config:
        evaluate.evaluate(config)
    said = capsys.readouterr().out.replace("\n", "")
    assert ("what was found in them, and what is known: " in said) == (rows == 3)
    assert ("what was found in them: " in said) == (rows == 2)
    with Image.open(tmp_path / "out/parts.png") as picture:
        lines = {2: 2, 3: 4}[rows]  # of the legend, which is narrower without true names
        assert picture.height == 6 + rows * 166 + 26 + lines * 22 + 7


def test_names_that_are_too_few_or_too_many_are_refused_before_anything_is_read(tmp_path, drawn_maps):
    for names in ("[a,b]", "[a,b,c,d,e]"):
        with pytest.raises(UserError, match=r"part_names are \d, parts 4: name each, or none"):
            keys = (f"predictions={drawn_maps}/found", f"output_dir={tmp_path}/out", f"part_names={names}")
            with given("dataset_name=folder", f"dataset_root={drawn_maps}", *keys, name="evaluate") as config:
                evaluate.evaluate(config)
    assert not (tmp_path / "out").exists()


def test_figures_of_each_part_that_need_no_truth_stand_in_the_table_of_parts():
    found = seen_by_page(Sloppy(), bare(6))
    own = next(part["compactness"] for part in found.columns[0].result.parts if "compactness" in part)
    page = " ".join(" ".join(Reader(report.rendered(found)).text).split())
    assert "certainty, % compactness, % warp_agreement, % centre, x" in page and f"{own:.1f}" in page
    assert "compactness, %" not in report.rendered(seen_by_page(Sloppy(), *both(4)))
