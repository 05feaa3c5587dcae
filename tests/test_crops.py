from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from datasets import crops
from datasets.cub import CUB
from datasets.sample import VOID, Sample
from tests.shared import SHARED, needs_shared
from tests.trees import cub, draw_cub_tree


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return cub(draw_cub_tree(tmp_path_factory.mktemp("crops"), part_maps=True), "train", "gt")


def sample_of(image: np.ndarray, **others) -> Sample:
    return Sample("sample", Path("sample.png"), image, (image[..., 0] > 0).astype(np.uint8), **others)


@needs_shared
@pytest.mark.parametrize("case", ["crop0", "crop1"])
def test_crops_agree_with_the_release(case):
    golden = np.load(SHARED / "golden/views.npz")
    dataset = cub(SHARED / "data/CUB", "train", "gt")
    test_set = cub(SHARED / "data/CUB", "test", "gt")
    samples = (part[i] for part in (dataset, test_set) for i in range(len(part)))
    sample = next(sample for sample in samples if sample.name == str(golden[f"{case}_name"]))
    box = crops.square_box(sample.box, 0.05, 0.05, golden[f"{case}_jitter"])
    cropped = crops.crop(sample, box, 96)
    np.testing.assert_array_equal(box, golden[f"{case}_square_box"])
    off = np.abs(cropped.image.astype(int) - golden[f"{case}_image"])
    assert off.max() <= 1 and off.mean() < 2e-4  # in doubles, as the release computes, there is no difference
    np.testing.assert_array_equal(cropped.foreground, golden[f"{case}_mask"])
    np.testing.assert_allclose(cropped.keypoints, golden[f"{case}_keypoints"])


def test_large_pictures_are_resized_with_less_memory_to_the_same_bytes(monkeypatch):
    sample = sample_of(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    at_once = crops.crop(sample, np.array([0, 0, 89, 89]), 41).image
    monkeypatch.setattr(crops, "LARGE", 1)
    np.testing.assert_array_equal(crops.crop(sample, np.array([0, 0, 89, 89]), 41).image, at_once)
    assert at_once.std() > 20


def test_the_box_is_padded_rounded_and_made_square_about_its_centre():
    box = np.array([10.0, 20.0, 109.0, 59.0])  # 100 x 40
    np.testing.assert_array_equal(crops.square_box(box, 0.05), [5, -15, 114, 94])
    draws = np.array([1, 0, -1, 0])
    np.testing.assert_array_equal(crops.square_box(box, 0.05, 0.05, draws), [0, -15, 109, 94])


def test_a_crop_of_its_own_size_copies_the_pixels():
    image = np.random.default_rng(0).integers(1, 256, (20, 30, 3), dtype=np.uint8)
    cropped = crops.crop(sample_of(image), np.array([4, 5, 15, 16]), 12)
    np.testing.assert_array_equal(cropped.image, image[5:17, 4:16])


@pytest.mark.parametrize("box", [(-3, -3, 12, 12), (20, 10, 35, 25), (-5, -5, 40, 40), (100, 100, 110, 110)])
def test_outside_the_picture_the_picture_is_one_and_masks_are_zero(box):
    image = np.full((20, 30, 3), 200, np.uint8)
    sample = sample_of(image, part_map=np.full((20, 30), 2, np.uint8))
    x0, y0, x1, y1 = box
    cropped = crops.crop(sample, np.array(box), x1 - x0 + 1)
    y, x = np.mgrid[y0 : y1 + 1, x0 : x1 + 1]
    inside = (x >= 0) & (x < 30) & (y >= 0) & (y < 20)
    np.testing.assert_array_equal(cropped.image, np.where(inside, 200, 1)[..., None].repeat(3, -1))
    np.testing.assert_array_equal(cropped.foreground, inside)
    np.testing.assert_array_equal(cropped.part_map, inside * 2)


def test_masks_keep_their_values_when_resized(dataset):
    sample = dataset[0]
    for size in (17, 64, 200):
        cropped = dataset.test_crop(sample, size)
        assert cropped.image.shape == (size, size, 3)
        assert set(np.unique(cropped.foreground)) <= {0, 1} and set(np.unique(cropped.part_map)) <= {0, 1, 2}
        np.testing.assert_array_equal(cropped.part_map > 0, cropped.foreground == 1)


def test_the_object_fills_the_test_crop_but_for_the_padding(dataset):
    sample = dataset[1]
    cropped = dataset.test_crop(sample, 220)
    rows, columns = np.nonzero(cropped.foreground)
    extents = columns.max() - columns.min() + 1, rows.max() - rows.min() + 1
    assert 190 <= max(extents) <= 210
    np.testing.assert_allclose(cropped.box[:2], [columns.min(), rows.min()], atol=5)
    again = dataset.test_crop(sample, 220)
    np.testing.assert_array_equal(again.image, cropped.image)


def test_keypoints_stay_on_their_pixels_through_crop_and_flip():
    image = np.zeros((40, 50, 3), np.uint8)
    image[12, 30] = 255
    keypoints = np.array([[30.0, 12.0, 1.0], [0.0, 0.0, 0.0]])
    sample = sample_of(image, keypoints=keypoints, box=np.array([28.0, 10.0, 31.0, 13.0]))
    cropped = crops.crop(sample, np.array([20, 5, 39, 24]), 20)
    mirrored = crops.flip(cropped, [0, 1])
    for moved in (cropped, mirrored):
        x, y, visible = moved.keypoints[0].astype(int)
        assert moved.image[y, x].tolist() == [255] * 3 and visible == 1
        assert moved.foreground[y, x] == 1
        assert moved.box[0] <= x <= moved.box[2] and moved.box[1] <= y <= moved.box[3]
        np.testing.assert_array_equal(moved.keypoints[1], 0)
    np.testing.assert_array_equal(sample.keypoints, keypoints)


def test_flipping_exchanges_left_and_right_keypoints(dataset):
    sample = dataset[0]
    mirrored = crops.flip(sample, dataset.mirrored_keypoints)
    np.testing.assert_array_equal(mirrored.keypoints[:, 2], [1, 0, 1, 1])
    assert mirrored.keypoints[2, 0] == 63 - sample.keypoints[1, 0]
    back = crops.flip(mirrored, dataset.mirrored_keypoints)
    for name in ("image", "foreground", "part_map", "keypoints", "box"):
        np.testing.assert_array_equal(getattr(back, name), getattr(sample, name))


def test_the_train_crop_depends_on_the_generator_alone(dataset):
    sample = dataset[0]
    first, same, other = (dataset.train_crop(sample, 64, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, same.image)
    assert (first.image != other.image).any()


def test_train_crops_move_each_side_by_up_to_the_jitter_and_flip_half_of_them(dataset, monkeypatch):
    boxes, flips = [], []
    square_box, flip = crops.square_box, crops.flip
    monkeypatch.setattr(crops, "square_box", lambda *args: boxes.append(args) or square_box(*args))
    monkeypatch.setattr(crops, "flip", lambda *args: flips.append(args) or flip(*args))
    for seed in range(300):
        dataset.train_crop(dataset_sample(dataset), 16, np.random.default_rng(seed))
    _, paddings, jitters, draws = zip(*boxes, strict=True)
    assert set(paddings) == set(jitters) == {0.05}
    draws = np.array(draws)
    assert draws.shape == (300, 4) and (draws.min(0) < -0.95).all() and (draws.max(0) > 0.95).all()
    assert 0.4 < len(flips) / 300 < 0.6


def dataset_sample(dataset: CUB) -> Sample:
    return replace(dataset[0], part_map=None)


def test_the_numbers_of_the_crop_can_be_set(dataset, tmp_path):
    still = cub(draw_cub_tree(tmp_path), "train", "gt", box_padding=0.2, box_jitter=0.0, flip_probability=0.0)
    sample = still[0]
    expected = crops.crop(sample, crops.square_box(sample.box, 0.2), 32)
    for seed in range(5):
        np.testing.assert_array_equal(still.train_crop(sample, 32, np.random.default_rng(seed)).image, expected.image)


def test_random_boxes_are_spread_like_those_of_torchvision():
    import torch
    from torchvision.transforms import RandomResizedCrop

    rng, area, aspect = np.random.default_rng(0), (0.5, 1.0), (3 / 4, 4 / 3)
    ours = np.array([crops.random_box(150, 220, area, aspect, rng) for _ in range(3000)])
    torch.manual_seed(0)
    picture = torch.zeros(1, 220, 150)
    top, left, height, width = np.array([RandomResizedCrop.get_params(picture, area, aspect) for _ in range(3000)]).T
    for mine, theirs in (
        (ours[:, 0], left),
        (ours[:, 1], top),
        (ours[:, 2] - ours[:, 0] + 1, width),
        (ours[:, 3] - ours[:, 1] + 1, height),
    ):
        quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
        np.testing.assert_allclose(np.quantile(mine, quantiles), np.quantile(theirs, quantiles), atol=6)


def test_where_no_random_box_fits_the_largest_central_one_is_taken():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(crops.random_box(300, 30, (0.9, 1.0), (0.75, 1.5), rng), [127, 0, 171, 29])
    np.testing.assert_array_equal(crops.random_box(30, 300, (0.9, 1.0), (0.5, 1.5), rng), [0, 120, 29, 179])


@pytest.mark.parametrize(
    "change",
    [
        lambda sample: crops.cut(sample, np.array([5, 3, 44, 32])),
        lambda sample: crops.resize(sample, 120, 80, "nearest"),
        lambda sample: crops.pad_to_square(sample, 200),
    ],
    ids=["cut", "resized", "padded"],
)
def test_keypoints_and_box_stay_on_their_pixels_in_whole_pictures(change):
    image = np.zeros((40, 60, 3), np.uint8)
    image[20:23, 30:34] = 250
    keypoints = np.array([[31.0, 21.0, 1.0], [0.0, 0.0, 0.0]])
    sample = sample_of(image, keypoints=keypoints, box=np.array([29.0, 19.0, 34.0, 23.0]))
    changed = change(sample)
    x, y, visible = changed.keypoints[0].round().astype(int)
    assert visible == 1 and changed.image[y, x].min() > 200 and changed.foreground[y, x] == 1
    rows, columns = np.nonzero(changed.foreground)
    x0, y0, x1, y1 = changed.box
    assert x0 <= columns.min() and columns.max() <= x1 + 4 and y0 <= rows.min() and rows.max() <= y1 + 4
    np.testing.assert_array_equal(changed.keypoints[1], 0)
    np.testing.assert_array_equal(sample.keypoints, keypoints)


@dataclass
class Classes(Sample):
    """What one line makes of a sample with a further map."""

    class_map: np.ndarray | None = field(default=None, metadata={"outside": 255})


@pytest.mark.parametrize(
    ("change", "reaches_out"),
    [
        (lambda sample: crops.crop(sample, np.array([-6, -6, 53, 53]), 60), True),
        (lambda sample: crops.cut(sample, np.array([-4, 2, 63, 45])), True),
        (lambda sample: crops.pad_to_square(sample, 90), True),
        (lambda sample: crops.resize(sample, 37, 23, "bilinear"), False),
        (lambda sample: crops.flip(sample, []), False),
    ],
    ids=["crop", "cut", "padded", "resized", "flipped"],
)
def test_a_further_map_moves_with_the_part_map_and_is_never_mixed(change, reaches_out):
    """Each class is one part, so that they must lie on the same pixels wherever nothing is mixed."""
    class_of_part = np.array([7, 200, 30], np.uint8)
    part_map = np.random.default_rng(0).integers(0, 3, (40, 60)).astype(np.uint8)
    image = np.full((40, 60, 3), 90, np.uint8)
    sample = Classes("drawn", Path("drawn.png"), image, np.ones((40, 60), np.uint8), class_map=class_of_part[part_map])
    changed = change(replace(sample, part_map=part_map))
    nearest = change(replace(sample, predicted=part_map)).predicted
    assert changed.part_map.shape == changed.class_map.shape == changed.foreground.shape
    beyond = changed.class_map == 255
    assert beyond.any() == reaches_out
    np.testing.assert_array_equal(changed.class_map[~beyond], class_of_part[nearest][~beyond])
    assert not nearest[beyond].any() and not changed.foreground[beyond].any()
    assert change(sample).part_map is None and change(replace(sample, class_map=None)).class_map is None


CHANGES = {
    "crop": lambda sample: crops.crop(sample, np.array([-4, -4, 35, 35]), 20),
    "cut": lambda sample: crops.cut(sample, np.array([-4, -4, 35, 35])),
    "resize": lambda sample: crops.resize(sample, 15, 10, "bilinear"),
    "pad": lambda sample: crops.pad_to_square(sample, 20),
    "flip": lambda sample: crops.flip(sample, []),
}


@pytest.mark.parametrize("change", CHANGES)
def test_class_maps_take_the_nearest_pixel_and_infrared_moves_as_the_picture_does(change):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    classes = rng.choice(np.array([0, 7, 14], np.uint8), (20, 30))
    image = np.repeat(grey[..., None], 3, -1)
    whole = np.ones_like(grey)
    sample = Sample("sample", Path("sample.png"), image, whole, class_map=classes, infrared=grey)
    moved = CHANGES[change](sample)
    assert moved.class_map.shape == moved.infrared.shape == moved.image.shape[:2] and moved.infrared.dtype == np.uint8
    inside = moved.foreground == 1
    np.testing.assert_array_equal(moved.infrared[inside], moved.image[..., 0][inside])
    assert set(np.unique(moved.class_map[inside])) == {0, 7, 14}
    assert (moved.class_map[~inside] == VOID).all()
    if change in ("crop", "cut", "pad"):
        assert not inside.all()
