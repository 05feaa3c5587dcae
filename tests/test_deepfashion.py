import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from datasets import build, crops
from datasets.deepfashion import DeepFashion, Options, read_part_map
from tests.composition import composed
from tests.shared import SHARED, needs_shared
from tests.trees import draw_deepfashion_tree
from utils.errors import UserError

# As published, written down once more.
COLOURS = """0: 0 0 0; 1: 0 100 0; 2: 16 78 139; 3: 50 205 50; 4: 70 130 180; 5: 127 255 212; 6: 144 238 144;
7: 211 211 211; 8: 220 220 220; 9: 245 222 179; 10: 250 235 215; 11: 255 0 0; 12: 255 140 0; 13: 255 250 205;
14: 255 250 250; 15: 255 255 0"""
LABEL_OF = {
    tuple(map(int, colour.split())): int(label) for label, colour in (entry.split(":") for entry in COLOURS.split(";"))
}
FOLDER = "DeepFashion/In-shop Clothes Retrieval Benchmark"


def deepfashion(root, split="train", mask="gt", **options) -> DeepFashion:
    published = {"crop_area": (0.5, 1.0), "crop_aspect": (3 / 4, 4 / 3), "flip_probability": 0.5}
    return DeepFashion(root, split, mask, Options(**published | options))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folders = ("supervisedlabels", "pseudolabels")
    return draw_deepfashion_tree(tmp_path_factory.mktemp("drawn"), masks=folders, masked="all")


@pytest.fixture
def tree(tmp_path):
    """A tree as published that a test may break, under a ``dataset_root``."""
    return draw_deepfashion_tree(tmp_path / FOLDER)


def listed(root, *names):
    lists = (
        json.loads((root / f"Anno/segmentation/DeepFashion_segmentation_{name}.json").read_text()) for name in names
    )
    return [image["file_name"] for listed in lists for image in listed["images"]]


def write(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_the_test_split_is_query_and_gallery(drawn):
    train, test = deepfashion(drawn), deepfashion(drawn, "test")
    assert [train[i].name for i in range(len(train))] == listed(drawn, "train")
    assert [test[i].name for i in range(len(test))] == listed(drawn, "query", "gallery")
    assert train.notes == ["DeepFashion: 4 pictures, the train split (train)."]
    assert test.notes == ["DeepFashion: 4 pictures, the test split (query and gallery)."]


def test_every_colour_of_the_palette_is_its_label(tmp_path):
    colours = np.array(list(LABEL_OF), np.uint8)
    pixels = colours[np.random.default_rng(0).integers(0, 16, (40, 30))]
    expected = np.array([[LABEL_OF[tuple(colour)] for colour in row] for row in pixels.tolist()])
    for mode in ("RGB", "RGBA"):
        Image.fromarray(pixels).convert(mode).save(tmp_path / "a_segment.png")
        found = read_part_map(tmp_path / "a_segment.png", tmp_path / "a.jpg", pixels)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 1), (255, 0, 1), (0, 100, 255)])
def test_any_other_colour_is_refused_with_file_pixel_and_colour(tree, colour):
    path = tree / "Anno/segmentation" / listed(tree, "train")[1].replace(".jpg", "_segment.png")
    pixels = np.array(Image.open(path))
    pixels[12, 7] = colour
    write(path, pixels)
    dataset = deepfashion(tree)
    assert dataset[0].part_map.max() == 13
    with pytest.raises(
        UserError, match=rf"{re.escape(str(path))}.*x=7, y=12 .*colour {colour[0]} {colour[1]} {colour[2]} "
    ):
        dataset[1]


def test_a_sample_holds_picture_labels_and_mask(drawn):
    for sample in map(deepfashion(drawn, "test").__getitem__, range(4)):
        assert sample.image.shape == (66, 45, 3) and sample.part_map.shape == sample.foreground.shape == (66, 45)
        assert set(np.unique(sample.part_map)) == {0, 2, 11, 13}
        np.testing.assert_array_equal(sample.foreground, sample.part_map != 0)
        assert sample.keypoints is None and sample.box is None
        np.testing.assert_array_equal(sample.image, np.array(Image.open(sample.path)))


def test_each_mask_choice_reads_its_own_folder(drawn):
    samples = [deepfashion(drawn, "train", mask)[2] for mask in ("gt", "supervised", "unsupervised")]
    areas = [int(sample.foreground.sum()) for sample in samples]
    assert areas[0] < areas[1] < areas[2] and set(np.unique(samples[2].foreground)) == {0, 1}
    assert all((sample.part_map == samples[0].part_map).all() for sample in samples)


def test_the_config_reads_true_masks_for_what_is_fitted_and_predicted_ones_for_what_is_tested(tree, tmp_path):
    config = composed("dataset_name=DF", f"dataset_root={tmp_path}")

    def grown(split, purpose):
        dataset = build(config, split, purpose)
        return [
            int(sample.foreground.sum()) - int((sample.part_map > 0).sum())
            for sample in map(dataset.__getitem__, range(4))
        ]

    assert grown("train", "training") == grown("train", "evaluation") == [0] * 4
    assert min(grown("test", "evaluation")) > 0


def test_the_published_recipe():
    config = composed("dataset_name=DF")
    assert config.num_steps == 100000
    assert dict(config.loss_weights) == {"feature": 5, "contrastive": 2300, "visual": 30, "equivariance": 5700}
    assert list(config.dataset.crop_area) == [0.5, 1] and list(config.dataset.crop_aspect) == pytest.approx(
        [3 / 4, 4 / 3]
    )
    assert (config.dataset.train_mask, config.dataset.eval_mask) == ("gt", "supervised")
    assert config.evaluation.label_resize == "bilinear"


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_training_crop_is_a_resized_box_of_the_picture(drawn, mirrored, monkeypatch):
    dataset = deepfashion(drawn, flip_probability=float(mirrored))
    monkeypatch.setattr(crops, "random_box", lambda width, height, *_: np.array([3, 10, 40, 52]))
    sample = dataset[1]
    cropped = dataset.train_crop(sample, 32, np.random.default_rng(0))

    def expected(pixels, how):
        resized = Image.fromarray(pixels[10:53, 3:41]).resize((32, 32), how)
        return np.array(resized)[:, ::-1] if mirrored else np.array(resized)

    np.testing.assert_array_equal(cropped.image, expected(sample.image, Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(cropped.part_map, expected(sample.part_map, Image.Resampling.NEAREST))
    np.testing.assert_array_equal(cropped.foreground, cropped.part_map != 0)
    assert cropped.image.flags.c_contiguous


def test_training_crops_follow_the_numbers_of_the_config_and_flip_half_of_them(drawn, monkeypatch):
    boxes, flips = [], []
    random_box, flip = crops.random_box, crops.flip
    monkeypatch.setattr(crops, "random_box", lambda *args: boxes.append(random_box(*args)) or boxes[-1])
    monkeypatch.setattr(crops, "flip", lambda *args: flips.append(args) or flip(*args))
    dataset = deepfashion(drawn, crop_area=(0.2, 0.3), crop_aspect=(0.5, 0.8))
    sample = dataset[0]
    for seed in range(300):
        dataset.train_crop(sample, 16, np.random.default_rng(seed))
    width, height = (np.array(boxes)[:, 2:] - np.array(boxes)[:, :2] + 1).T
    assert 0.18 < (width * height / (66 * 45)).min() < 0.22 and 0.28 < (width * height / (66 * 45)).max() < 0.32
    assert 0.45 < (width / height).min() < 0.55 and 0.75 < (width / height).max() < 0.85
    assert 0.4 < len(flips) / 300 < 0.6


@pytest.mark.parametrize("size, inner, corner", [((220, 150), (256, 175), (0, 40)), ((150, 220), (175, 256), (40, 0))])
def test_the_test_crop_is_the_whole_picture_padded_to_a_square(size, inner, corner, tmp_path):
    sample = deepfashion(draw_deepfashion_tree(tmp_path, num_train=1, size=size))[0]
    padded = deepfashion(tmp_path).test_crop(sample, 256)
    (height, width), (top, left) = inner, corner
    assert padded.image.shape == (256, 256, 3) and padded.part_map.shape == padded.foreground.shape == (256, 256)
    inside = np.zeros((256, 256), bool)
    inside[top : top + height, left : left + width] = True
    assert not padded.part_map[~inside].any() and not padded.foreground[~inside].any()
    assert set(np.unique(padded.part_map)) == set(np.unique(sample.part_map))
    np.testing.assert_array_equal(padded.part_map != 0, padded.foreground)
    clipped = padded.image[
        np.ix_(np.clip(range(256), top, top + height - 1), np.clip(range(256), left, left + width - 1))
    ]
    np.testing.assert_array_equal(padded.image, clipped)


def test_all_that_is_missing_is_named_in_one_message(tree):
    shutil.rmtree(tree / "Anno/segmentation/img_highres")
    (tree / "Anno/segmentation/DeepFashion_segmentation_query.json").unlink()
    with pytest.raises(UserError) as error:
        deepfashion(tree, "test", "supervised")
    message = str(error.value)
    for name in ("Anno/segmentation/img_highres", "Anno/segmentation/DeepFashion_segmentation_query"):
        assert name in message
    assert "gallery" not in message and "masks on disk" not in message
    assert f"looked in {tree}" in message and "dataset_root=" in message and "docs/data/" in message


def test_a_missing_mask_folder_does_not_hinder_the_others(tree):
    assert len(deepfashion(tree, "test", "gt")) == len(deepfashion(tree, "test", "supervised")) == 4
    with pytest.raises(UserError, match=r"pseudolabels for unsupervised masks; masks on disk: gt, supervised\."):
        deepfashion(tree, "test", "unsupervised")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"images": 3}', '{"images": [{"id": 3}]}', '{"images": ["a.jpg"]}', "\xff"]
)
def test_a_broken_list_is_named(tree, content):
    path = tree / "Anno/segmentation/DeepFashion_segmentation_train.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=re.escape(str(path))):
        deepfashion(tree)


def test_an_empty_split_is_refused(tree):
    (tree / "Anno/segmentation/DeepFashion_segmentation_train.json").write_text('{"images": []}')
    with pytest.raises(UserError, match=r"DeepFashion_segmentation_train\.json: no pictures"):
        deepfashion(tree)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("damage", ["missing", "truncated", "of another size"])
def test_a_damaged_file_is_named(tree, place, damage):
    dataset = deepfashion(tree, "test", "supervised")
    path = dataset.files(1)[place]
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:60])
    else:
        Image.new("RGB", (10, 20)).save(path)
    with pytest.raises(UserError, match=re.escape(str(path))):
        dataset[1]
    assert dataset[0].image.shape == (66, 45, 3)


@needs_shared
def test_the_tree_in_the_real_layout_is_read():
    root = SHARED / "data" / FOLDER
    train, test = deepfashion(root), deepfashion(root, "test", "supervised")
    assert (len(train), len(test)) == (12, 12)
    for dataset in (train, test):
        for sample in map(dataset.__getitem__, range(12)):
            agreement = (sample.foreground & (sample.part_map > 0)).sum() / (
                sample.foreground | (sample.part_map > 0)
            ).sum()
            assert agreement > 0.8 and 3 <= len(np.unique(sample.part_map)) <= 16
