"""Crops: picture, masks, keypoints and box move together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from datasets import crops
from datasets.base import Boxed
from datasets.box_crops import BoxCrops
from datasets.deepfashion import DeepFashion, Options
from datasets.sample import Sample
from evaluation.protocols.keypoints import Protocol
from tests.properties import seeds, tried
from tests.quadrants import ColourLabeller, draw_split, evaluation_options
from tests.trees import draw_deepfashion_tree

KEYPOINTS = 25


class Drawn(Sample):
    """A sample that is told in a line where a test fails."""

    def __repr__(self) -> str:
        return f"<picture of {self.image.shape}, box {self.box}>"


class Boxes(BoxCrops):
    mirrored_keypoints = list(range(KEYPOINTS))


@pytest.fixture(scope="module")
def deepfashion(tmp_path_factory):
    return draw_deepfashion_tree(tmp_path_factory.mktemp("deepfashion"), num_train=1, num_test=0)


@st.composite
def coordinate_pictures(draw) -> Drawn:
    """Pictures that say where they are: red is twice x, green twice y, and the part map x or y; all is foreground.

    The keypoints lie on a grid over the object's box, every third is hidden.
    """
    width, height = draw(st.integers(12, 120)), draw(st.integers(12, 120))
    y, x = np.mgrid[:height, :width]
    image = np.stack([2 * x, 2 * y, 0 * x], -1).astype(np.uint8)
    across, down = (
        sorted(draw(st.lists(st.floats(0, side - 1), min_size=2, max_size=2, unique_by=round)))
        for side in (width, height)
    )
    grid = np.stack(np.meshgrid(np.linspace(*across, 5), np.linspace(*down, 5)), -1).reshape(-1, 2)
    keypoints = np.column_stack([grid, np.arange(KEYPOINTS) % 3 > 0])
    keypoints[keypoints[:, 2] == 0] = 0
    return Drawn(
        name="drawn",
        path=Path("drawn.png"),
        image=image,
        foreground=np.ones((height, width), np.uint8),
        box=np.array([across[0], down[0], across[1], down[1]]),
        keypoints=keypoints,
        part_map=draw(st.sampled_from([x, y])).astype(np.uint8),
    )


def assert_pixels_mask_and_keypoints_moved_together(before: Sample, after: Sample) -> None:
    """Each keypoint is on a pixel that says it came from the keypoint's place, and so is each pixel of the part map.

    As published, a keypoint at x of a picture enlarged s times is then at s x, while pixel r of it shows the place
    (r + 1/2) / s - 1/2. The rest is rounding: a picture of twice the place is half a level wide, OpenCV's fixed point a
    little more.
    """
    height, width = after.foreground.shape
    scale = (after.box[2:] - after.box[:2]) / (before.box[2:] - before.box[:2])
    level = 0.6
    # Two pixels away from whatever is no picture, at the resolution that is the coarser one.
    margin = np.ceil(2 * np.maximum(scale, 1)).astype(int)
    inside = np.zeros((height, width), bool)
    rows, columns = np.nonzero(after.foreground)
    inner = (
        slice(rows.min() + margin[1], rows.max() + 1 - margin[1]),
        slice(columns.min() + margin[0], columns.max() + 1 - margin[0]),
    )
    inside[inner] = True
    assume(inside[1:, 1:].any() and inside.sum() >= 4)
    assert after.foreground[inside].all()

    places = after.image[..., :2] / 2
    mirrored = places[rows[0], columns.min(), 0] > places[rows[0], columns.max(), 0]
    direction = np.array([-1 if mirrored else 1, 1])
    np.testing.assert_array_equal(after.keypoints[:, 2], before.keypoints[:, 2])
    for (x, y, visible), moved in zip(before.keypoints, after.keypoints, strict=True):
        if not visible:
            assert (moved == 0).all()
            continue
        column, row = np.rint(moved[:2]).astype(int)
        if 0 <= row < height and 0 <= column < width and inside[row, column]:
            expected = [x, y] + direction * ([column, row] - moved[:2]) / scale + (1 / scale - 1) / 2
            assert np.abs(places[row, column] - expected).max() <= level

    axis = 0 if (before.part_map[:, 0] == before.part_map[:, -1]).sum() < len(before.part_map) else 1
    difference = np.abs(places[..., axis] - after.part_map)[inside]
    assert difference.max() <= (0 if scale[axis] == 1 else 1 + abs(1 / scale[axis] - 1) / 2 + level)


def changes():
    """Each crop of the data sets, and flips of them: functions of a sample."""
    sizes = st.integers(8, 160)
    padding = st.floats(0, 0.5)

    def boxed(size, padding, jitter, seed):
        boxes = Boxes(Boxed(padding, jitter), flip_probability=0.5)
        return lambda sample: boxes.train_crop(sample, size, np.random.default_rng(seed))

    def whole(width, height):
        return lambda sample: crops.resize(sample, width, height, "nearest")

    return st.one_of(
        st.builds(boxed, sizes, padding, padding, seeds),
        st.builds(whole, sizes, sizes),
        sizes.map(lambda size: lambda sample: crops.pad_to_square(sample, size)),
        padding.map(lambda share: lambda sample: crops.cut(sample, crops.square_box(sample.box, share))),
    )


@tried(150)
@given(coordinate_pictures(), changes(), st.booleans())
def test_keypoints_and_masks_move_with_the_pixels(sample, change, mirrored):
    kept = replace(sample, image=sample.image.copy(), keypoints=sample.keypoints.copy(), box=sample.box.copy())
    after = change(sample)
    assert_pixels_mask_and_keypoints_moved_together(
        sample, crops.flip(after, Boxes.mirrored_keypoints) if mirrored else after
    )
    for name in ("image", "keypoints", "box"):
        np.testing.assert_array_equal(getattr(sample, name), getattr(kept, name))


@tried(60)
@given(coordinate_pictures(), st.integers(8, 100), st.tuples(*[st.floats(0.1, 1)] * 2), st.floats(1, 2), seeds)
def test_random_crops_of_deepfashion_move_all_together(deepfashion, sample, size, area, aspect, seed):
    options = Options(crop_area=sorted(area), crop_aspect=[1 / aspect, aspect], flip_probability=0.0)
    dataset = DeepFashion(deepfashion, "train", "gt", options)
    after = dataset.train_crop(sample, size, np.random.default_rng(seed))
    assert after.image.shape == (size, size, 3)
    assert_pixels_mask_and_keypoints_moved_together(sample, after)


@tried(60)
@given(coordinate_pictures(), changes(), seeds)
def test_crops_invent_no_labels_and_keep_mask_and_part_map_in_step(sample, change, seed):
    labels = np.random.default_rng(seed).integers(0, 4, sample.part_map.shape).astype(np.uint8) * 60
    after = change(replace(sample, part_map=labels, foreground=(labels > 0).astype(np.uint8)))
    assert set(np.unique(after.part_map)) <= {0, 60, 120, 180}
    np.testing.assert_array_equal(after.foreground, after.part_map > 0)


@tried(40)
@given(coordinate_pictures(), seeds)
def test_two_flips_are_none(sample, seed):
    order = np.random.default_rng(seed).permutation(KEYPOINTS)
    partners = np.arange(KEYPOINTS)
    partners[order[:10]], partners[order[10:20]] = order[10:20], order[:10]
    back = crops.flip(crops.flip(sample, partners.tolist()), partners.tolist())
    for name in ("image", "foreground", "part_map"):
        np.testing.assert_array_equal(getattr(back, name), getattr(sample, name))
    # last - (last - x) rounds twice.
    for name in ("keypoints", "box"):
        np.testing.assert_allclose(getattr(back, name), getattr(sample, name), rtol=0, atol=120 * np.finfo(float).eps)


@tried(60)
@given(
    coordinate_pictures(),
    *[st.tuples(st.integers(-30, 130), st.integers(-30, 130), st.integers(0, 60), st.integers(0, 60))] * 2,
)
def test_a_cut_of_a_cut_is_one_cut(sample, outer, inner):
    first = np.array([*outer[:2], outer[0] + outer[2], outer[1] + outer[3]])
    size = first[2:] - first[:2] + 1
    second = np.concatenate([np.abs(inner[:2]) % size, np.abs(inner[:2]) % size + inner[2:]]).clip(
        0, np.tile(size - 1, 2)
    )
    twice = crops.cut(crops.cut(sample, first), second)
    once = crops.cut(sample, second + np.tile(first[:2], 2))
    for name in ("image", "foreground", "part_map"):
        np.testing.assert_array_equal(getattr(twice, name), getattr(once, name))
    for name in ("keypoints", "box"):
        np.testing.assert_allclose(getattr(twice, name), getattr(once, name), rtol=0, atol=1e-12)


@tried(60)
@given(coordinate_pictures(), st.integers(8, 80), *[st.floats(0, 1)] * 2, seeds)
def test_a_training_crop_shows_nothing_beyond_its_region(sample, size, padding, jitter, seed):
    boxes = Boxes(Boxed(padding, jitter), flip_probability=0.5)
    height, width = sample.foreground.shape
    left, top, right, bottom = np.clip(boxes.train_region(sample) + [0, 0, 1, 1], 0, [width, height] * 2)
    blank = replace(sample, image=np.full_like(sample.image, 77), foreground=np.zeros_like(sample.foreground))
    blank.image[top:bottom, left:right] = sample.image[top:bottom, left:right]
    blank.foreground[top:bottom, left:right] = sample.foreground[top:bottom, left:right]
    expected, found = (boxes.train_crop(picture, size, np.random.default_rng(seed)) for picture in (sample, blank))
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.foreground, expected.foreground)


@tried(100)
@given(
    st.tuples(*[st.floats(-50, 300)] * 2),
    st.tuples(*[st.floats(1, 400)] * 2),
    st.tuples(*[st.floats(-1, 1)] * 4),
)
def test_every_box_becomes_a_square_around_it(corner, extent, draws):
    box = np.array([*corner, *np.add(corner, extent) - 1])
    square = crops.square_box(box, 0.05, 0.05, np.array(draws))
    assert square[2] - square[0] == square[3] - square[1] >= 0
    assert (square[:2] <= np.rint(box[:2])).all() and (square[2:] >= np.rint(box[2:])).all()


@tried(100)
@given(
    st.tuples(*[st.floats(-20, 200)] * 2),
    st.tuples(*[st.floats(1, 200)] * 2),
    st.tuples(*[st.floats(0, 1.5)] * 2),
    st.lists(st.tuples(*[st.floats(-1, 1)] * 4), min_size=1, max_size=20),
)
def test_no_jitter_leaves_the_reach_of_the_square(corner, extent, share, draws):
    box = np.array([*corner, *np.add(corner, extent)])
    reach = crops.reach(box, *share)
    for draw in draws:
        square = crops.square_box(box, *share, np.array(draw))
        assert (reach[:2] <= square[:2]).all() and (square[2:] <= reach[2:]).all()


@tried(100)
@given(
    st.tuples(*[st.integers(1, 300)] * 2),
    st.tuples(*[st.floats(0.05, 1)] * 2),
    st.tuples(*[st.floats(0.3, 3)] * 2),
    seeds,
)
def test_every_random_box_lies_in_the_picture(shape, area, aspect, seed):
    width, height = shape
    rng = np.random.default_rng(seed)
    x0, y0, x1, y1 = crops.random_box(width, height, sorted(area), sorted(aspect), rng)
    assert 0 <= x0 <= x1 < width and 0 <= y0 <= y1 < height


@tried(60)
@given(coordinate_pictures(), st.integers(16, 100))
def test_inputs_of_the_keypoint_protocol_move_keypoints_with_the_pixels(sample, size):
    extent = sample.box[2:] - sample.box[:2] + 1
    assume(extent.max() < 50 * np.floor(extent.min()))
    protocol = Protocol(draw_split("drawn", 1), ColourLabeller(), evaluation_options(size=size))
    picture = np.array(sample.foreground.shape[::-1])
    # As published, the file's corner counts from one and cuts a picture that counts from zero.
    start = np.minimum((sample.box[:2] + 1).astype(int), picture - 1)
    stop = np.clip((sample.box[:2] + 1).astype(int) + extent.astype(int), start + 1, picture)
    for found, shown in zip(protocol.inputs(sample, fitted=False), (picture, stop - start), strict=True):
        height, width = found.foreground.shape
        assert height % 16 == width % 16 == 0 and min(height, width) == size // 16 * 16
        # The enlarged picture has whole pixels, keypoints are multiplied by the exact scale.
        exact, scale = size / shown.min(), size * shown // shown.min() / shown
        margin = np.ceil(2 * scale)
        for (x, y, visible), moved in zip(sample.keypoints, found.keypoints, strict=True):
            column, row = np.round(moved[:2] - 0.5).astype(int)
            if visible and (margin <= [column, row]).all() and ([column, row] < [width, height] - margin).all():
                # Half a pixel of the picture for counting from one, half of the input for rounding, 8 bits.
                allowed = 0.5 + 0.5 / scale + (exact / scale - 1) * picture + 0.6
                assert (np.abs(found.image[row, column, :2] / 2 - [x, y]) <= allowed).all()
