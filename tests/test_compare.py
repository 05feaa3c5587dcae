from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from conf import early
from datasets.crops import pad_to_square
from datasets.example import draw_folder
from evaluation.compare import (
    Method,
    as_overrides,
    colour_alike,
    compare,
    distinct_titles,
    of_other_pictures,
    shared_pictures,
)
from evaluation.options import Sets
from evaluation.pages import comparison
from evaluation.pages.comparison import Column, painted, write
from evaluation.pages.measured import Figures
from evaluation.palette import PALETTE
from tests.composition import composed, given
from tests.quadrants import ColourLabeller, draw_split
from tests.test_predict import Recognised
from tests.test_report import Reader
from utils.checkpoints import Checkpoint
from utils.errors import UserError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of drawn pictures, and label maps of them: the true parts, the same by other numbers, and halves."""
    root = tmp_path_factory.mktemp("pictures") / "data"
    draw_folder(root, count=8, size=48)
    (root / "test.txt").write_text("".join(f"creature_{number:03}\n" for number in (1, 2, 3, 4)))
    renumbered = np.array([0, 3, 1, 4, 2], np.uint8)
    for path in (root / "parts").glob("*.png"):
        true = np.asarray(Image.open(path))
        halves = (true > 0) * (1 + (np.indices(true.shape)[1] > true.shape[1] / 2)).astype(np.uint8)
        for folder, labels in {"true": true, "renumbered": renumbered[true], "halves": halves}.items():
            (root.parent / folder).mkdir(exist_ok=True)
            Image.fromarray(labels).save(root.parent / folder / f"{path.stem}.jpg.png")
    return root


def compared(pictures, output, *overrides) -> dict[str, object]:
    """The page's elements and text, and the files that there are."""
    own = ("dataset_name=folder", f"dataset_root={pictures}", "image_size=32", "loader.num_workers=0", "device=cpu")
    with given(*own, f"output_dir={output}", *overrides, name="evaluation_compare") as config:
        compare(config)
    return Reader((output / "comparison.html").read_text())


def test_label_maps_that_differ_in_their_numbers_look_the_same(pictures, tmp_path):
    folders = [pictures.parent / name for name in ("true", "renumbered", "halves")]
    page = compared(pictures, tmp_path / "out", f"methods=[{','.join(map(str, folders))}]", "count=3")
    found = [own["src"] for tag, own in page.elements if tag == "img" and own.get("class") == "over"]
    assert len(found) == 3 * 4  # a column of true parts before them
    for row in range(3):
        known, same, renumbered, halves = found[4 * row : 4 * row + 4]
        assert known == same == renumbered != halves
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        f"comparison.{ending}" for ending in ("html", "pdf", "png")
    ]
    assert (tmp_path / "out/comparison.pdf").read_bytes().startswith(b"%PDF")
    assert Image.open(tmp_path / "out/comparison.png").info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert {"true parts", "renumbered", "halves"} <= {text.strip() for text in page.text}


def test_a_baseline_is_fitted_and_stands_beside_label_maps(pictures, tmp_path):
    methods = (f"methods=[{pictures.parent}/true,kmeans_colours]", "baseline=[kmeans_colours]", "count=2")
    page = compared(pictures, tmp_path / "out", *methods, "titles=[ours,colours]")
    texts = [own["alt"] for tag, own in page.elements if tag == "img" and own.get("class") == "over"]
    assert len(texts) == 2 * 3 and sum("colours: part" in text for text in texts) == 2
    assert {"ours", "colours"} <= {text.strip() for text in page.text}


def test_pictures_are_those_that_are_named(pictures, tmp_path):
    chosen = "pictures=[creature_004.jpg,creature_002.jpg]"
    page = compared(pictures, tmp_path / "out", f"methods=[{pictures.parent}/halves]", chosen)
    shown = [own["alt"] for _, own in page.elements if own.get("id", "").startswith("photograph-")]
    assert shown == ["creature_004.jpg", "creature_002.jpg"]


def test_of_more_parts_some_take_the_colours_of_fewer_and_no_two_are_alike():
    four = np.repeat(np.arange(1, 5, dtype=np.uint8), 6)[None]  # four stripes of six pixels
    eight = np.repeat(np.arange(1, 9, dtype=np.uint8), 3)[None][:, ::-1]
    six = np.repeat(np.array([2, 1, 3, 4, 5, 6], np.uint8), [6, 6, 5, 1, 5, 1])[None]
    columns = [Column(title, {"a": labels}) for title, labels in (("4", four), ("6", six), ("8", eight))]
    colour_alike(columns)
    assert columns[1].recolouring.tolist() == [0, 2, 1, 3, 5, 4, 6]
    of_eight = columns[2].recolouring
    assert sorted(of_eight.tolist()) == sorted(set(of_eight.tolist())) and set(of_eight) >= {1, 2, 3, 4}
    assert 5 in of_eight or 6 in of_eight


def test_methods_that_meet_nowhere_keep_their_colours():
    left, right = np.zeros((2, 1, 4), np.uint8)
    left[:, :2], right[:, 2:] = 1, 2
    columns = [Column("left", {"a": left}), Column("right", {"a": right})]
    colour_alike(columns)
    assert columns[1].recolouring.tolist() == [0, 1, 2]


def test_a_figure_has_the_photograph_where_nothing_was_found_and_colours_where_something_was():
    image = np.full((1, 2, 3), (200, 100, 0), np.uint8)
    labels = np.array([[0, 3]])
    assert (painted(image, labels, opacity=0) == image).all()
    full = painted(image, labels, opacity=1)
    assert full[0].tolist() == [[100] * 3, PALETTE[3].tolist()]


def test_what_stands_alone_is_a_method_and_baselines_get_their_options(tmp_path, monkeypatch):
    given = ["runs/a", "kmeans_features", "count=3", "my maps/it's"]
    assert as_overrides(given) == [
        r"methods=[runs/a,kmeans_features,'my maps/it\'s']",
        "count=3",
        "baseline=[kmeans_features]",
    ]
    config = composed(*as_overrides(given), name="evaluation_compare")
    assert list(config.methods) == ["runs/a", "kmeans_features", "my maps/it's"]
    given = ["läufe/größe", "模型"]
    assert list(composed(*as_overrides(given), name="evaluation_compare").methods) == given
    assert as_overrides(["--help"]) == ["--help"]
    monkeypatch.chdir(tmp_path)
    Path("runs/seed=1").mkdir(parents=True)
    assert as_overrides(["runs/seed=1", "count=3"]) == ["methods=['runs/seed=1']", "count=3"]
    assert list(composed(*as_overrides(["runs/seed=1"]), name="evaluation_compare").methods) == ["runs/seed=1"]
    assert early.mistake_in("evaluation_compare", ["runs/seed=1", "count=3"]) is None
    assert "unknown key 'runs/seed'" in early.mistake_in("evaluation_compare", ["runs/seed=2"])
    assert as_overrides(["a", "--cfg", "job"]) == ["methods=[a]", "--cfg", "job"]


def method_on(title: str, names: list[str]) -> Method:
    """Something whose held-out pictures have these names."""
    split = draw_split("test", len(names))
    for sample, name in zip(split.samples, names, strict=True):
        sample.name = name
    config = OmegaConf.create({"dataset_name": title.upper(), "dataset_root": "data"})
    return Method(title, ColourLabeller(), config, Sets(split, None))


def test_methods_of_one_name_are_told_apart_by_their_folders_or_steps(tmp_path):
    def at(step: int | None = None, baseline: str | None = None) -> Method:
        made = method_on("run", ["1"])
        made.checkpoint = step and Checkpoint(Path(f"model_{step}.pth"), {}, step=step)
        made.baseline = baseline
        return made

    runs = [tmp_path / "a/run", tmp_path / "b/run"]
    files = [runs[0] / f"checkpoints/model_{step}.pth" for step in (10, 1000)]
    of_folders = distinct_titles({str(run): at(10) for run in runs})
    assert [*of_folders.values()] == ["a/run", "b/run"]
    of_steps = distinct_titles({str(file): at(step) for file, step in zip(files, (10, 1000), strict=True)})
    assert [*of_steps.values()] == ["run, step 10", "run, step 1,000"]
    mixed = distinct_titles({str(files[0]): at(10), str(runs[0]): at(1000), str(runs[1]): at(10), "run": at(None, "x")})
    assert [*mixed.values()] == ["a/run, step 10", "a/run, step 1,000", "b/run", "run"]
    assert distinct_titles({str(runs[0]): at(10)}) == {str(runs[0]): "run"}


def test_of_different_splits_the_pictures_are_those_that_all_have_and_a_line_says_so(capsys):
    first, second = method_on("a", ["1", "2", "3", "4"]), method_on("b", ["5", "4", "2"])
    assert shared_pictures([first, first]) == ["1", "2", "3", "4"] and not capsys.readouterr().err
    assert shared_pictures([first, second]) == ["2", "4"]
    assert "a and b share 2 test pictures; the others are left out." in capsys.readouterr().err


def test_what_is_refused_leaves_no_folder_behind(pictures, tmp_path):
    with pytest.raises(UserError, match="elsewhere is no run, checkpoint, baseline or folder of label maps.$"):
        compared(pictures, tmp_path / "out", "methods=[elsewhere]")
    assert not (tmp_path / "out").exists()


def test_methods_on_different_data_are_refused_and_both_are_named():
    with pytest.raises(UserError, match=r"a \(A in data\) and b \(B in data\) share no test picture"):
        shared_pictures([method_on("a", ["1"]), method_on("b", ["2"])])


def test_methods_are_evaluated_on_request_and_the_page_has_their_figures(pictures, tmp_path, capsys):
    """The true parts are found without a mistake; maps that lack a test picture are shown, and have no figures."""
    few = tmp_path / "few"
    few.mkdir()
    for number in (1, 2, 3):
        (few / f"creature_{number:03}.jpg.png").write_bytes(
            (pictures.parent / f"halves/creature_{number:03}.jpg.png").read_bytes()
        )
    chosen = ("pictures=[creature_001.jpg,creature_003.jpg]", "matched_on=1")
    methods = f"methods=[{pictures.parent}/true,{few}]"
    page = compared(pictures, tmp_path / "out", methods, *chosen, "evaluate=true")
    text = " ".join(" ".join(page.text).split())
    assert "percent true FG-NMI 100.0 FG-ARI 100.0" in text and "test pictures 4" in text
    assert "few has no figures: 1 of 4 held-out pictures have no label map" in capsys.readouterr().err
    page = compared(pictures, tmp_path / "without", methods, *chosen)
    assert "With evaluate=true they are measured." in " ".join(page.text)


def test_figures_of_different_test_pictures_are_said_to_be_and_of_the_same_ones_not(pictures, tmp_path):
    first, second = method_on("a", ["1", "2", "3"]), method_on("b", ["2", "3"])
    own = Figures({"FG-NMI": 40.0}, 3)
    note = of_other_pictures([first, second], ["a", "b"], [own, own])
    assert note == ("The figures are of different lists of test pictures and cannot be compared: a on 3, b on 2.")
    assert not of_other_pictures([first, second], ["a", "b"], [own, None])
    assert not of_other_pictures([first, first], ["a", "c"], [own, own])
    maps = np.ones((8, 8), np.uint8)
    sample = first.sets.test.samples[0]
    columns = [Column(title, {sample.name: maps}, own) for title in "ab"]
    config = composed("methods=[a,b]", name="evaluation_compare")
    assert note not in (write(tmp_path / "without", config, [sample], columns)[0]).read_text()
    assert note in write(tmp_path / "with", config, [sample], columns, of_figures=note)[0].read_text()


def test_void_in_label_maps_of_others_is_left_out(pictures, tmp_path):
    """As evaluate.py does: nothing is painted there, and no colour goes by it."""
    void = tmp_path / "void"
    void.mkdir()
    for path in (pictures.parent / "renumbered").glob("*.png"):
        labels = np.asarray(Image.open(path)).copy()
        labels[:, : labels.shape[1] // 3] = 255
        Image.fromarray(labels).save(void / path.name)
    page = compared(pictures, tmp_path / "out", f"methods=[{void}]", "count=2", "evaluate=true")
    texts = [own["alt"] for tag, own in page.elements if tag == "img" and own.get("class") == "over"]
    assert len(texts) == 4 and not any("255" in text for text in texts)
    assert "part 5" not in " ".join(own.get("alt", "") for _, own in page.elements), "there are four parts"
    assert "FG-NMI 100.0" in " ".join(" ".join(page.text).split())
    with pytest.raises(UserError, match="has labels from 0 to 255"):
        compared(pictures, tmp_path / "none", f"methods=[{void}]", "count=2", "dataset.ignore_label=null")


@pytest.mark.parametrize(
    ("labeller", "whole", "told"),
    [(Recognised, False, True), (Recognised, True, False), (ColourLabeller, False, False)],
)
def test_parts_that_end_at_the_edge_of_a_crop_are_said_to(
    labeller, whole, told, pictures, tmp_path, monkeypatch, capsys
):
    def methods(*_) -> list[Method]:
        made = method_on("SCOPS", ["1", "2"])
        made.config = composed(
            "methods=[a]", "device=cpu", "image_size=32", "loader.num_workers=0", name="evaluation_compare"
        )
        made.labeller = labeller()
        if whole:
            monkeypatch.setattr(made.sets.test, "test_crop", pad_to_square)
        return [made]

    monkeypatch.setattr("evaluation.compare.methods_of", methods)
    drawn = []
    monkeypatch.setattr(
        comparison, "_figure", lambda *given, draw=comparison._figure: drawn.append(draw(*given)) or drawn[0]
    )
    page = compared(pictures, tmp_path / "out", "methods=[a]")
    note = "SCOPS sees a crop of each picture; beyond it there are no parts."
    assert any(note == text for text in page.text) == told
    assert (note in " ".join(capsys.readouterr().err.split())) == told
    (figure,) = drawn
    assert (" ".join(figure.get_supxlabel().split()) == note) == told
    if told:
        below, panel = (own.get_tightbbox(figure.canvas.get_renderer()) for own in (figure._supxlabel, figure.axes[-1]))
        assert figure.bbox.x0 <= below.x0 and below.x1 <= figure.bbox.x1 and below.y1 <= panel.y0
