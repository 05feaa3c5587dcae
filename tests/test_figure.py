import itertools
import json
import re

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox
from PIL import Image

import evaluate
from evaluation.compare import Method
from evaluation.figure import STYLE, colours_of_parts, draw, figure
from evaluation.options import Sets
from evaluation.pages.measured import Figures
from evaluation.pages.points import beside
from tests.composition import composed, given
from tests.quadrants import ColourLabeller, draw_split
from tests.test_compare import pictures  # noqa: F401
from tests.test_predict import Recognised
from utils.errors import UserError


def drawn(pictures, output, *overrides):  # noqa: F811
    own = ("dataset_name=folder", f"dataset_root={pictures}", f"predictions={pictures.parent}/true", "device=cpu")
    with given(*own, f"output_dir={output}", *overrides, name="evaluation_figure") as config:
        figure(config)


def test_a_figure_has_pictures_names_a_legend_and_keypoints(pictures, tmp_path):  # noqa: F811
    names = "part_names=[body,head,wing,tail]"
    drawn(pictures, tmp_path, "pictures=[creature_003.jpg,creature_001.jpg]", names, "keypoints=true", "formats=[svg]")
    text = (tmp_path / "figure.svg").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["figure.svg"]
    for word in ("creature_003.jpg", "creature_001.jpg", "1 body", "4 tail", "1 beak"):
        assert f">{word}</text>" in text
    assert text.index("creature_003.jpg") < text.index("creature_001.jpg")
    bare = tmp_path / "bare"
    drawn(pictures, bare, "count=1", "legend=false", "file_names=false", "formats=[svg]")
    assert "<text" not in (bare / "figure.svg").read_text()


def test_a_figure_is_as_wide_as_its_cells_and_shows_every_pixel(pictures, tmp_path):  # noqa: F811
    """One picture alone, a dot a pixel: the figure is the picture, painted."""
    with Image.open(pictures / "images/creature_001.jpg") as file:
        width = file.width
    keys = ("cell=0.5", f"dpi={2 * width}", "legend=false", "file_names=false", "formats=[png]", "opacity=0")
    drawn(pictures, tmp_path, "pictures=[creature_001.jpg]", *keys)
    picture = np.asarray(Image.open(tmp_path / "figure.png").convert("RGB")).astype(int)
    expected = np.asarray(Image.open(pictures / "images/creature_001.jpg").convert("RGB")).astype(int)
    assert picture.shape == expected.shape and np.abs(picture - expected).mean() < 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("pictures=[creature_01.jpg]",), "no test picture 'creature_01.jpg'. Did you mean 'creature_001.jpg'\\?"),
        (("pictures=[nix.jpg]",), "no test picture 'nix.jpg'.$"),
        (("part_names=[body]",), "part_names are 1, parts 4: name each, or none"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(pictures, tmp_path, overrides, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        drawn(pictures, tmp_path / "out", *overrides)
    assert not (tmp_path / "out").exists()


def test_a_figure_that_is_there_is_not_overwritten(pictures, tmp_path):  # noqa: F811
    (tmp_path / "figure.png").touch()
    with pytest.raises(UserError, match="There already: .*figure.png"):
        drawn(pictures, tmp_path)


def test_parts_of_other_numbers_have_the_colours_of_the_true_ones_and_the_legend_has_all(pictures, tmp_path):  # noqa: F811
    """Label maps whose numbers alone differ: the same picture, and other numbers beside the legend's colours."""
    keys = ("pictures=[creature_002.jpg]", "formats=[png]", "file_names=false", "legend=false")
    drawn(pictures, tmp_path / "true", *keys)
    drawn(pictures, tmp_path / "renumbered", *keys, f"predictions={pictures.parent}/renumbered")
    true, renumbered = (Image.open(tmp_path / name / "figure.png").tobytes() for name in ("true", "renumbered"))
    assert true == renumbered
    names = "part_names=[a,b,c,d,e,f]"
    drawn(pictures, tmp_path / "all", "count=1", "formats=[svg]", names, "predictions_num_parts=6")
    assert all(f">{text}</text>" in (tmp_path / "all/figure.svg").read_text() for text in ("5 e", "6 f"))


def test_label_maps_of_some_pictures_are_drawn(pictures, tmp_path):  # noqa: F811
    few = tmp_path / "few"
    few.mkdir()
    name = "creature_001.jpg.png"
    (few / name).write_bytes((pictures.parent / "true" / name).read_bytes())
    drawn(pictures, tmp_path / "out", "pictures=[creature_001.jpg]", f"predictions={few}", "formats=[png]")
    assert (tmp_path / "out/figure.png").is_file()


@pytest.mark.parametrize(("times", "cut"), [(1, False), (12, True)])
def test_names_have_the_room_there_is_and_no_two_texts_overlap(times, cut):
    samples = draw_split("test", 4).samples
    for place, sample in enumerate(samples):
        sample.name = f"folder/a_picture_with_a_rather_long_name_of_its_own_{place}.jpg"
    names = [f"the {side} wing{' with all its feathers' * times}" for side in ("left", "right", "upper", "lower")]
    config = composed("checkpoint=run", f"part_names=[{','.join(names)}]", "columns=4", name="evaluation_figure")
    found = [(sample, np.ones(sample.image.shape[:2], np.uint8)) for sample in samples]
    made = draw(config, found, np.arange(5), [])
    texts = [text.get_text() for text in made.texts]
    assert [text[0] + text[-6:] for text in texts[:4]] == [f"…_{place}.jpg" for place in range(4)]
    whole = [f"{part} {name}" for part, name in enumerate(names, 1)]
    assert (
        all(text[-1] == "…" and text[:-1] in own for text, own in zip(texts[4:], whole, strict=True))
        if cut
        else (texts[4:] == whole)
    )
    boxes = [text.get_window_extent() for text in made.texts]
    assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
    assert all(box.x1 <= made.bbox.x1 for box in boxes)


@pytest.mark.parametrize("dpi", [72, 300])
def test_a_long_name_ends_before_its_picture_does_at_any_resolution(dpi):
    samples = draw_split("test", 4).samples
    names = ("Black_Footed_Albatross_0001_796111_with_a_long_tail", "W" * 40, "il" * 60, "$^" * 40)
    for sample, name in zip(samples, names, strict=True):
        sample.name = f"folder/{name}.jpg"
    config = composed("checkpoint=run", "columns=4", "legend=false", name="evaluation_figure")
    found = [(sample, np.ones(sample.image.shape[:2], np.uint8)) for sample in samples]
    with matplotlib.rc_context(STYLE):
        made = draw(config, found, np.arange(5), [])
        texts = [text.get_text() for text in made.texts]
        assert all(text[0] == "…" and text.endswith(".jpg") for text in texts)
        made.dpi = dpi
        renderer = FigureCanvasAgg(made).get_renderer()
        widths = [text.get_window_extent(renderer).width / dpi for text in made.texts]
    assert max(widths) <= config.cell and min(widths) > 0.9 * config.cell


def test_a_figure_says_below_all_that_parts_end_where_a_crop_does(pictures, tmp_path, monkeypatch, capsys):  # noqa: F811
    def methods(_, config, *__) -> list[Method]:
        return [Method("SCOPS", Recognised(), config, Sets(draw_split("test", 2), None))]

    monkeypatch.setattr("evaluation.figure.methods_of", methods)
    keys = ("image_size=32", "loader.num_workers=0", "formats=[svg]", "cell=1", "count=2")
    drawn(pictures, tmp_path, *keys)
    svg = (tmp_path / "figure.svg").read_text()
    said = re.findall(">([^<]+)</", svg[svg.index("SCOPS") - 1 :])
    assert " ".join(" ".join(said).split()) == "SCOPS sees a crop of each picture; beyond it there are no parts."
    assert "SCOPS sees a crop of each picture" in " ".join(capsys.readouterr().err.split())
    config = composed("checkpoint=run", "columns=1", "cell=1", name="evaluation_figure")
    found = [(sample, np.ones(sample.image.shape[:2], np.uint8)) for sample in draw_split("test", 2).samples]
    made = draw(config, found, np.arange(5), [], "a sentence that is much longer than one picture is wide")
    boxes = [text.get_window_extent() for text in made.texts]
    assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
    assert all(made.bbox.x0 <= box.x0 and box.x1 <= made.bbox.x1 and made.bbox.y0 <= box.y0 for box in boxes)


def boxes_of(centres: np.ndarray, extents: np.ndarray) -> list[Bbox]:
    return [Bbox([centre - extent / 2, centre + extent / 2]) for centre, extent in zip(centres, extents, strict=True)]


def covered(first: Bbox, second: Bbox) -> bool:
    shared = Bbox.intersection(first, second)
    return shared is not None and min(shared.size) > 1e-9


@pytest.mark.parametrize("spread", [1, 6, 40])
def test_numbers_stand_apart_however_close_their_points_lie(spread):
    rng = np.random.default_rng(spread)
    points = np.concatenate([rng.normal((60, 45), spread, (9, 2)), [[0, 0], [119, 89], [119, 1]]]).clip(0, [119, 89])
    extents = np.tile([[7.0, 6.0], [12.0, 6.0]], (6, 1))
    labels = boxes_of(beside(points, extents, 2, (120, 90)), extents)
    dots = boxes_of(points, np.full((12, 2), 4.0))
    assert not any(covered(*pair) for pair in itertools.combinations(labels, 2))
    assert not any(covered(label, dot) for label in labels for dot in dots)
    assert all(box.min.min() >= 0 and box.x1 <= 120 and box.y1 <= 90 for box in labels)


def test_keypoints_that_lie_close_have_numbers_that_can_be_read_and_no_part_s_colour():
    (sample,) = draw_split("test", 1).samples
    names = [f"point {place}" for place in range(12)]
    rng = np.random.default_rng(0)
    middle = np.array(sample.image.shape[1::-1]) / 2
    sample.keypoints = np.column_stack([rng.normal(middle, 4, (12, 2)), np.arange(12) % 5 > 0])
    config = composed("checkpoint=run", "columns=1", "cell=2", name="evaluation_figure")
    made = draw(config, [(sample, np.ones(sample.image.shape[:2], np.uint8))], np.arange(5), names)
    (axes, *_) = made.axes
    numbers = [int(text.get_text()) for text in axes.texts]
    assert numbers == (np.flatnonzero(sample.keypoints[:, 2]) + 1).tolist() and len(numbers) < 12
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(covered(*pair) for pair in itertools.combinations(boxes, 2))
    (dots,) = (line for line in axes.lines if line.get_marker() == "o")
    assert dots.get_color() == "white" and len(dots.get_xdata()) == len(numbers)
    assert {f"{place} {name}" for place, name in enumerate(names, 1)} <= {text.get_text() for text in made.texts}


def test_a_figure_has_the_colours_of_the_report(pictures, tmp_path, monkeypatch):  # noqa: F811
    """Two parts that share each true part: which of them meets it more often depends on how it is counted."""
    maps = tmp_path / "maps"
    maps.mkdir()
    for path in (pictures.parent / "true").glob("*.png"):
        true = np.asarray(Image.open(path))
        y, x = np.indices(true.shape)
        labels = ((true > 0) * (1 + (x + 2 * y) % 2)).astype(np.uint8)
        Image.fromarray(labels).save(maps / path.name)
    keys = (f"predictions={maps}", "image_size=32", "loader.num_workers=0")
    data = ("dataset_name=folder", f"dataset_root={pictures}", "device=cpu")
    with given(*data, *keys, f"output_dir={tmp_path}/evaluated", name="evaluate") as config:
        evaluate.evaluate(config)
    kept = json.loads((tmp_path / "evaluated/metrics.json").read_text())["produced_by"]["colours"]
    drawn_in = []
    monkeypatch.setattr("evaluation.figure.draw", lambda *given: drawn_in.append(given[2]) or draw(*given))
    drawn(pictures, tmp_path / "out", *keys, "count=1", "formats=[png]")
    assert drawn_in[0].tolist() == kept and len(kept) == 3


def test_colours_that_a_run_s_evaluation_has_kept_are_taken_without_another(monkeypatch):
    split = draw_split("test", 3, part_maps=True)
    config = composed("checkpoint=run", "dataset_name=folder", name="evaluation_figure")
    method = Method("run", ColourLabeller(), config, Sets(split, None))
    monkeypatch.setattr("evaluation.figure.kept_figures", lambda _: [Figures({}, 3, colours=[0, 2, 1, 4, 3])])
    assert colours_of_parts(method, "cpu").tolist() == [0, 2, 1, 4, 3]
    assert split.reads == [0] * 3
