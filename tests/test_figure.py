import itertools

import numpy as np
import pytest
from PIL import Image

from evaluation.figure import colours_of_parts, draw, figure
from tests.composition import composed, given
from tests.quadrants import draw_split
from tests.test_compare import pictures  # noqa: F401
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
    for word in ("creature_003.jpg", "creature_001.jpg", "1 body", "4 tail", "beak"):
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
        (("pictures=[creature_9.jpg]",), "no test picture 'creature_9.jpg'"),
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
    drawn(pictures, tmp_path / "all", "count=1", "formats=[svg]", names)
    assert all(f">{text}</text>" in (tmp_path / "all/figure.svg").read_text() for text in ("5 e", "6 f"))


def test_label_maps_of_some_pictures_are_drawn(pictures, tmp_path):  # noqa: F811
    few = tmp_path / "few"
    few.mkdir()
    name = "creature_001.jpg.png"
    (few / name).write_bytes((pictures.parent / "true" / name).read_bytes())
    drawn(pictures, tmp_path / "out", "pictures=[creature_001.jpg]", f"predictions={few}", "formats=[png]")
    assert (tmp_path / "out/figure.png").is_file()


def test_a_part_without_a_true_one_has_a_colour_after_theirs():
    sample, found = draw_split("test", 1, part_maps=True).samples[0], np.array([0, 2, 3, 1, 5], np.uint8)
    assert colours_of_parts("abcd", 6, [(sample, found[sample.part_map])])[[1, 2, 3, 5]].tolist() == [3, 1, 2, 4]
    assert sorted(colours_of_parts("abcd", 6, [(sample, found[sample.part_map])])) == [*range(7)]
    assert colours_of_parts(None, 3, []).tolist() == [0, 1, 2, 3]


def test_long_names_are_shortened_and_no_two_texts_overlap():
    samples = draw_split("test", 4).samples
    for place, sample in enumerate(samples):
        sample.name = f"folder/a_picture_with_a_rather_long_name_of_its_own_{place}.jpg"
    names = [f"the {side} wing with all its feathers" for side in ("left", "right", "upper", "lower")]
    config = composed("checkpoint=run", f"part_names=[{','.join(names)}]", "columns=4", name="evaluation_figure")
    found = [(sample, np.ones(sample.image.shape[:2], np.uint8)) for sample in samples]
    made = draw(config, found, np.arange(5), [])
    texts = [text.get_text() for text in made.texts]
    assert [text[0] + text[-6:] for text in texts[:4]] == [f"…_{place}.jpg" for place in range(4)]
    assert [text[:3] + text[-1] for text in texts[4:]] == [f"{part} t…" for part in range(1, 5)]
    boxes = [text.get_window_extent() for text in made.texts]
    assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
    assert all(box.x1 <= made.bbox.x1 for box in boxes)
