import numpy as np
import pytest
from PIL import Image

from evaluation.figure import figure
from tests.composition import given
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
        (("part_names=[body]",), "part_names are 1, and part 4"),
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
