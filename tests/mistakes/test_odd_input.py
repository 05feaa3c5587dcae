"""Pictures, label maps and keypoints that are odd, but no mistakes: read for what they are."""

import json
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import datasets
from datasets.files import read_labels, read_picture
from evaluation import whole_pictures
from tests.composition import composed
from tests.mistakes.damage import maps, png, save_picture
from tests.mistakes.harness import DataSet, Place
from tests.quadrants import ColourLabeller, draw_split
from utils.errors import UserError


@pytest.fixture
def gradient() -> np.ndarray:
    """Colours that meet every value: (64, 48, 3)."""
    y, x = np.mgrid[:64, :48]
    return np.stack([x * 5, y * 4, 255 - x * 5], -1).astype(np.uint8)


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_a_cmyk_picture_has_its_colours(tmp_path, gradient, ending):
    Image.fromarray(gradient).convert("CMYK").save(tmp_path / f"one.{ending}", quality=100)
    assert np.abs(read_picture(tmp_path / f"one.{ending}").astype(int) - gradient).max() <= 8


@pytest.mark.parametrize("mode", ["P", "RGBA", "PA"])
def test_a_palette_or_alpha_channel_leaves_the_colours(tmp_path, mode):
    colours = np.kron(np.arange(256).reshape(16, 16), np.ones((2, 2)))[..., None] * np.ones(3) % 251
    picture = Image.fromarray(colours.astype(np.uint8))
    expected = np.asarray(picture)
    picture = picture.convert("P" if mode == "P" else "RGBA", **({"colors": 256} if mode == "P" else {}))
    if mode == "P":
        expected = np.asarray(picture.convert("RGB"))
    else:
        picture.putalpha(Image.fromarray(np.full((32, 32), 7, np.uint8)))
    picture.save(tmp_path / "one.png", **({"transparency": 3} if mode == "P" else {}))
    np.testing.assert_array_equal(read_picture(tmp_path / "one.png"), expected)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_a_grey_picture_of_16_bits_keeps_its_shades(tmp_path, ending):
    shades = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(shades).save(tmp_path / f"one.{ending}")
    found = read_picture(tmp_path / f"one.{ending}")
    np.testing.assert_array_equal(found, np.stack([shades >> 8] * 3, -1))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_label_map_of_16_bits_keeps_its_labels(tmp_path, ending):
    labels = np.arange(300, dtype=np.uint16).reshape(15, 20)
    Image.fromarray(labels).save(tmp_path / f"one.{ending}")
    np.testing.assert_array_equal(read_labels(tmp_path / f"one.{ending}"), labels)


def test_labels_in_colour_channels_of_16_bits_are_refused(tmp_path):
    """Their low bytes are not read."""
    row = b"\0" + struct.pack(">6H", *[1] * 6)
    (tmp_path / "one.png").write_bytes(png(2, 2, 16, 2, row * 2))
    with pytest.raises(UserError, match="one.png has several channels of 16 bits"):
        read_labels(tmp_path / "one.png")


def test_a_picture_under_another_ending_with_long_text_in_it_is_read(tmp_path, gradient):
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a" * 100_000, zip=True)
    Image.fromarray(gradient).save(tmp_path / "one.png", pnginfo=text)
    (tmp_path / "one.png").rename(tmp_path / "one.jpg")
    np.testing.assert_array_equal(read_picture(tmp_path / "one.jpg"), gradient)


def test_label_maps_of_large_pictures_are_the_same_piece_by_piece(monkeypatch):
    split = draw_split("pieces", 2)
    options = {"image_size": 32, "batch_size": 2, "num_workers": 0, "device": "cpu"}
    whole = [labels for *_, labels in whole_pictures.label_maps(ColourLabeller(), split, **options)]
    monkeypatch.setattr(whole_pictures, "PIXELS_AT_ONCE", 700)
    for at_once, (_, sample, labels) in zip(
        whole, whole_pictures.label_maps(ColourLabeller(), split, **options), strict=True
    ):
        assert labels.shape == sample.foreground.shape and labels.any()
        np.testing.assert_array_equal(labels, at_once)


FOLDER = DataSet("folder", ".", "dataset.train_mask=gt dataset.eval_mask=gt")


def figures(place: Place, accepted) -> dict:
    """What evaluate.py says of label maps of one part."""
    maps(1)(place.path / "data")
    accepted(f"evaluate.py {FOLDER.config} predictions=PLACE/maps output_dir=PLACE/run device=cpu")
    found = json.loads((place.path / "run/metrics.json").read_text())
    assert all(np.isfinite(value) for value in found.values() if isinstance(value, float))
    return found


def name_of(row: str) -> str:
    return row.partition(",")[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (41, 2000), pytest.param((410, 20_000), marks=pytest.mark.slow)])
def test_the_smallest_and_widest_pictures_are_trained_on_and_evaluated(place, accepted, size):
    root = place.data("folder")
    for name in ("creature_001", "creature_004"):  # the first held out and the first of training; all is object
        save_picture(root / f"images/{name}.jpg", np.full((*size, 3), 90))
        save_picture(root / f"masks/{name}.png", np.full(size, 255))
        save_picture(root / f"parts/{name}.png", np.full(size, 1))
    rows = (root / "keypoints.csv").read_text().splitlines()
    kept = [row for row in rows if name_of(row) not in ("creature_001.jpg", "creature_004.jpg")]
    (root / "keypoints.csv").write_text("\n".join([*kept, "creature_001.jpg,belly,0,0,1\n"]))

    training_set = datasets.build(composed("dataset_name=folder", f"dataset_root={root}"), "train", "training")
    sample = training_set[0]
    assert sample.image.shape == (*size, 3) and sample.foreground.all() and sample.path.stem == "creature_004"
    crop = training_set.train_crop(sample, 32, np.random.default_rng(0))
    assert crop.image.shape == (32, 32, 3) and crop.foreground.any()
    assert figures(place, accepted)["produced_by"]["counts"]["images"] == 3


def test_a_keypoint_just_outside_the_picture_is_counted_at_the_border(place, accepted):
    root = place.data("folder")
    rows = (root / "keypoints.csv").read_text().splitlines()
    moved = [row.rsplit(",", 3)[0] + ",-3,-2,1" if name_of(row) == "creature_001.jpg" else row for row in rows]
    (root / "keypoints.csv").write_text("\n".join(moved) + "\n")
    accepted(f"read {FOLDER.config}")
    assert "keypoint_error_all" in figures(place, accepted)
