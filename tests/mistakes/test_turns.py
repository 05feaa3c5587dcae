"""Photographs that a note (EXIF) turns, as of phones, with annotation by programs that heed it or do not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from datasets import masks
from datasets.files import SizesDiffer, read_labels, read_picture
from datasets.masks import AS_STORED, LabelMap
from datasets.places import Places
from datasets.sample import Remark
from datasets.turns import UPRIGHT, swaps_sides, turned, turned_places
from tests.mistakes.damage import save_picture
from tests.mistakes.harness import Place
from tests.test_folder import folder
from tests.trees import cub, draw_cub_tree

TURNS = range(1, 9)
SWAPPING = [turn for turn in TURNS if swaps_sides(turn)]
# What undoes each: all but the quarter turns undo themselves.
UNDONE = {turn: {6: 8, 8: 6}.get(turn, turn) for turn in TURNS}


def with_note(path: Path, shown: np.ndarray, turn: int, **options) -> None:
    """Save what is to be shown as a phone does: stored otherwise, with a note that turns it back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noted(path, turned(shown, UNDONE[turn]), turn, **options)


def noted(path: Path, stored: np.ndarray, turn: int, **options) -> None:
    exif = Image.Exif()
    exif[274] = turn
    Image.fromarray(stored.astype(np.uint8)).save(path, exif=exif, **options)


@pytest.fixture
def shown() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("ending", ["png", "tif", "webp", "jpg"])
def test_a_picture_is_read_as_viewers_show_it(tmp_path, shown, turn, ending):
    path = tmp_path / f"a.{ending}"
    with_note(path, shown, turn, **({"lossless": True} if ending == "webp" else {}))
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    found = read_picture(path)
    np.testing.assert_array_equal(found, expected)
    assert found.shape == shown.shape and (ending == "jpg" or (found == shown).all())


@pytest.mark.parametrize("note", [b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0" + bytes(40), b"x" * 9])
def test_a_damaged_note_turns_nothing(tmp_path, shown, note):
    Image.fromarray(shown).save(tmp_path / "a.jpg", exif=note)
    assert read_picture(tmp_path / "a.jpg").shape == shown.shape
    noted(tmp_path / "b.png", shown, 99)
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png"), shown)


@pytest.mark.parametrize("turn", TURNS)
def test_places_move_with_the_pixels(shown, turn):
    stored = turned(shown, UNDONE[turn])
    places = np.array([[0, 0], [3, 7], [stored.shape[1] - 1, stored.shape[0] - 1]], float)
    found = turned_places(places, turn, shown.shape).astype(int)
    for (x, y), (new_x, new_y) in zip(places.astype(int), found, strict=True):
        np.testing.assert_array_equal(stored[y, x], shown[new_y, new_x])


# --- a folder with one turned picture among others


MASK = np.zeros((40, 60), bool)
MASK[5:20, 10:50] = True
PARTS = MASK * 1 + (MASK & (np.arange(60) > 30))
KEYPOINTS = [("eye", 14, 6), ("tail", 48, 18)]


def turned_folder(root: Path, turn: int, mask: str, parts: str, keypoints: str = "shown", shape=MASK.shape) -> dict:
    """The sample of the turned picture; mask, label map and keypoints are of the picture as "shown" or "stored"."""
    height, width = shape
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3))
    with_note(root / "images/turned.png", picture, turn)
    for name, how, labels in (("masks", mask, MASK[:height, :width] * 255), ("parts", parts, PARTS[:height, :width])):
        save_picture(root / f"{name}/turned.png", labels if how == "shown" else turned(labels, UNDONE[turn]))
    places = np.array([place for _, *place in KEYPOINTS], float)
    if keypoints == "stored":
        places = turned_places(places, UNDONE[turn], picture.shape[1::-1] if swaps_sides(turn) else picture.shape)
    rows = [f"turned,{name},{x:g},{y:g}" for (name, *_), (x, y) in zip(KEYPOINTS, places, strict=True)]
    (root / "keypoints.csv").write_text("\n".join(["name,keypoint,x,y", *rows]) + "\n")
    (root / "parts/parts.txt").write_text("1 left\n2 right\n")
    (root / "test.txt").write_text("turned\n")
    sample = folder(root, "test")[0]
    np.testing.assert_array_equal(sample.image, picture)
    return sample


def kinds(sample) -> set[str]:
    return {remark.kind for remark in sample.remarks}


@pytest.mark.parametrize("turn", SWAPPING)
@pytest.mark.parametrize("mask", ["shown", "stored"])
@pytest.mark.parametrize("parts", ["shown", "stored"])
def test_masks_and_label_maps_are_matched_with_a_turned_picture_by_their_sizes(tmp_path, turn, mask, parts):
    sample = turned_folder(tmp_path, turn, mask, parts)
    np.testing.assert_array_equal(sample.foreground, MASK)
    np.testing.assert_array_equal(sample.part_map, PARTS)
    np.testing.assert_array_equal(sample.box, [10, 5, 49, 19])
    assert (masks.AS_STORED in kinds(sample)) == ("stored" in (mask, parts))


@pytest.mark.parametrize("turn", SWAPPING)
@pytest.mark.parametrize("mask", ["shown", "stored"])
@pytest.mark.parametrize("keypoints", ["shown", "stored"])
def test_keypoints_are_where_they_were_marked(tmp_path, turn, mask, keypoints):
    """They reach beyond 40 pixels, the shorter side, so that one way only they lie in the picture."""
    sample = turned_folder(tmp_path, turn, mask, mask, keypoints)
    np.testing.assert_array_equal(sample.keypoints, [(x, y, 1) for _, x, y in KEYPOINTS])
    assert (masks.PLACES_AS_STORED in kinds(sample)) == (keypoints == "stored")


def test_places_that_may_lie_either_way_go_with_the_masks(tmp_path):
    near, path = np.array([[3.0, 4.0], [8.0, 30.0]]), tmp_path / "turned.png"
    with_note(path, np.zeros((40, 60, 3)), 6)
    file = Places({"turned": near}, {"turned": path})
    as_shown, as_stored = (LabelMap(MASK, None, remarks) for remarks in ((), (Remark(AS_STORED, path),)))
    assert file.shown(near, path, 6, (40, 60), [as_shown]) == (pytest.approx(near), ())
    found, (told,) = file.shown(near, path, 6, (40, 60), [as_stored])
    assert told.kind == masks.PLACES_AS_STORED
    np.testing.assert_array_equal(found, [[55, 3], [29, 8]])


@pytest.mark.parametrize(("turn", "shape"), [(2, (40, 60)), (3, (40, 60)), (4, (40, 60)), (6, (40, 40))])
def test_where_sizes_do_not_tell_annotation_is_taken_as_shown_and_that_is_told(tmp_path, turn, shape):
    sample = turned_folder(tmp_path, turn, "shown", "shown", shape=shape)
    np.testing.assert_array_equal(sample.foreground, MASK[: shape[0], : shape[1]])
    np.testing.assert_array_equal(sample.keypoints[:, :2], [place for _, *place in KEYPOINTS])
    assert kinds(sample) == {masks.UNTOLD}


LONG, NEAR, FLAT = (5, 20, 55, 30), (22, 6, 30, 30), (25, 2, 38, 9)  # x0, y0, x1, y1 in 60 x 40; the first tells


def annotated(root: Path, as_stored: bool, boxes: list[tuple], turns: list[int]) -> dict[str, np.ndarray]:
    """Turned pictures without masks: of each a box and two keypoints, its corners. The right boxes."""
    (root / "masks").mkdir(parents=True)
    rows, objects, names = ["name,keypoint,x,y"], ["name,x,y,width,height"], [f"p{i}" for i in range(len(boxes))]
    for name, box, turn in zip(names, boxes, turns, strict=True):
        with_note(root / f"images/{name}.png", np.random.default_rng(1).integers(0, 256, (40, 60, 3)), turn)
        corners = np.array(box, float).reshape(2, 2)
        if as_stored:
            corners = turned_places(corners, UNDONE[turn], (60, 40) if swaps_sides(turn) else (40, 60))
        rows += [f"{name},{end},{x:g},{y:g}" for end, (x, y) in zip(("first", "last"), corners, strict=True)]
        (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
        objects.append(f"{name},{x0:g},{y0:g},{x1 - x0 + 1:g},{y1 - y0 + 1:g}")
    (root / "keypoints.csv").write_text("\n".join(rows) + "\n")
    (root / "objects.csv").write_text("\n".join(objects) + "\n")
    (root / "test.txt").write_text("\n".join(names[1:]) + "\n")
    return dict(zip(names, np.array(boxes, float), strict=True))


@pytest.mark.parametrize("as_stored", [True, False])
@pytest.mark.parametrize("turn", [6, 8, 5, 7, 3, 2])
def test_one_program_marked_a_file_so_that_one_picture_tells_of_all(tmp_path, as_stored, turn):
    """That picture may be of the other split; the others fit either way, or are turned within their size."""
    boxes = annotated(tmp_path, as_stored, [LONG, NEAR, FLAT], [6, turn, turn])
    for split in ("train", "test"):
        dataset = folder(tmp_path, split, "none")
        for sample in (dataset[index] for index in range(len(dataset))):
            np.testing.assert_array_equal(sample.box, boxes[sample.name.removesuffix(".png")])
            np.testing.assert_array_equal(sample.keypoints[:, :2].ravel(), sample.box)
            assert kinds(sample) == ({masks.PLACES_AS_STORED} if as_stored else set())


@pytest.mark.parametrize("file", ["keypoints.csv", "objects.csv"])
def test_places_of_which_nothing_tells_are_taken_as_shown_and_counted(tmp_path, file):
    boxes = annotated(tmp_path, False, [NEAR, NEAR, FLAT], [6, 8, 3])
    (tmp_path / ({"keypoints.csv", "objects.csv"} - {file}).pop()).unlink()
    dataset = folder(tmp_path, "test", "none")
    for sample in (dataset[index] for index in range(len(dataset))):
        if file == "objects.csv":
            np.testing.assert_array_equal(sample.box, boxes[sample.name.removesuffix(".png")])
        else:
            np.testing.assert_array_equal(sample.keypoints[:, :2].ravel(), boxes[sample.name.removesuffix(".png")])
        assert kinds(sample) == {masks.UNTOLD_PLACES}


def test_a_mask_that_has_a_note_of_its_own_is_as_viewers_show_it_or_as_it_fits(tmp_path):
    turned_folder(tmp_path, 6, "shown", "shown")
    with_note(tmp_path / "masks/turned.png", MASK * 255, 6)
    np.testing.assert_array_equal(folder(tmp_path, "test")[0].foreground, MASK)
    noted(tmp_path / "masks/turned.png", MASK * 255, 6)  # turned by a program that has left the note
    np.testing.assert_array_equal(folder(tmp_path, "test")[0].foreground, MASK)
    assert folder(tmp_path, "test")[0].remarks == () and read_labels(tmp_path / "masks/turned.png").shape == (60, 40)


def test_what_fits_neither_way_is_refused_with_both_sizes(tmp_path):
    turned_folder(tmp_path, 6, "shown", "shown")
    save_picture(tmp_path / "masks/turned.png", np.ones((20, 30)))
    told = (
        r"masks/turned.png is 30 x 20 pixels, but .*images/turned.png is 60 x 40, stored as 40 x 60 and turned by its"
    )
    with pytest.raises(SizesDiffer, match=told):
        folder(tmp_path, "test")[0]


def test_the_check_counts_and_names_them(place: Place, accepted, capsys):
    root = place.data("folder")
    for name in ("creature_001", "creature_004"):
        with Image.open(root / f"images/{name}.jpg") as picture:
            noted(root / f"images/{name}.jpg", np.asarray(picture), 6)
    accepted(f"check dataset_name=folder dataset_root={root} image_size=32 batch_size=2 dataset.eval_mask=gt")
    out = capsys.readouterr().out
    assert f"{masks.AS_STORED.format(count=4)} For example {root}/" in out
    assert masks.PLACES_AS_STORED.format(count=2) in out


@pytest.mark.parametrize("turn", TURNS)
def test_a_tree_in_cubs_layout_that_was_annotated_as_stored_is_turned_as_a_whole(tmp_path, turn):
    root = draw_cub_tree(tmp_path / "CUB", part_maps=True)
    before = cub(root, "train", "gt")[0]
    with Image.open(before.path) as picture:
        noted(before.path, np.asarray(picture), turn, quality=95)
    after = cub(root, "train", "gt")[0]
    assert after.image.shape == turned(before.image, turn).shape
    if swaps_sides(turn):
        np.testing.assert_array_equal(after.foreground, turned(before.foreground, turn))
        np.testing.assert_array_equal(after.part_map, turned(before.part_map, turn))
        rows, columns = np.nonzero(after.foreground)
        np.testing.assert_array_equal(after.box, [columns.min(), rows.min(), columns.max(), rows.max()])
        for (x, y, seen), (new_x, new_y, still) in zip(before.keypoints, after.keypoints, strict=True):
            assert seen == still
            if seen:
                np.testing.assert_allclose([[new_x, new_y]], turned_places(np.array([[x, y]]), turn, after.image.shape))
    elif turn == UPRIGHT:
        assert after.remarks == ()


def in_list(path: Path, start: str, new: str) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join(new if line.startswith(start) else line for line in lines) + "\n")


def note(path: Path, turn: int) -> None:
    with Image.open(path) as picture:
        noted(path, np.asarray(picture), turn, quality=95)


@pytest.mark.parametrize("turn", [3, 6])
@pytest.mark.parametrize("as_stored", [True, False])
def test_a_list_in_cubs_layout_is_of_one_program_too(tmp_path, turn, as_stored):
    """One picture of the other split tells of all, of boxes and of keypoints."""
    root = draw_cub_tree(tmp_path / "CUB")
    before = cub(root, "train", "none")[0]
    note(cub(root, "test", "none")[0].path, 6)
    x, y = (60, 20) if as_stored else (20, 60)  # pictures are stored as 64 x 48
    in_list(root / "CUB_200_2011/bounding_boxes.txt", "7 ", f"7 {x - 9}.0 {y - 9}.0 9.0 9.0")
    for part in range(1, 5):
        in_list(root / "CUB_200_2011/parts/part_locs.txt", f"7 {part} ", f"7 {part} {x}.0 {y}.0 1")
    in_list(root / "CUB_200_2011/bounding_boxes.txt", "1 ", "1 11.0 6.0 20.0 30.0")
    for part, place in enumerate([(11, 6), (20, 12), (30, 20), (30, 35)], start=1):
        in_list(root / "CUB_200_2011/parts/part_locs.txt", f"1 {part} ", f"1 {part} {place[0]}.0 {place[1]}.0 1")
    note(before.path, turn)
    sample = cub(root, "train", "none")[0]
    places = np.array([(10, 5), (19, 11), (29, 19), (29, 34)], float)
    expected = turned_places(places, turn, sample.image.shape) if as_stored else places
    np.testing.assert_array_equal(sample.keypoints, np.column_stack([expected, np.ones(4)]))
    np.testing.assert_array_equal(sample.box, [*expected.min(0), *expected.max(0)])
    assert kinds(sample) == ({masks.PLACES_AS_STORED} if as_stored else set())


@pytest.mark.parametrize("mask", ["gt", "supervised", "none"])
def test_in_cubs_layout_lists_that_do_not_tell_go_with_the_masks(tmp_path, mask):
    root = draw_cub_tree(tmp_path / "CUB")
    in_list(root / "CUB_200_2011/bounding_boxes.txt", "1 ", "1 11.0 6.0 20.0 30.0")
    for part in range(1, 5):
        in_list(root / "CUB_200_2011/parts/part_locs.txt", f"1 {part} ", f"1 {part} 11.0 6.0 1")
    note(cub(root, "train", "none")[0].path, 6)
    sample = cub(root, "train", mask)[0]
    box, stored = [10, 5, 29, 34], {masks.AS_STORED, masks.PLACES_AS_STORED}
    np.testing.assert_array_equal(sample.box, box if mask == "none" else [13, 10, 42, 29])
    assert kinds(sample) == ({masks.UNTOLD_PLACES} if mask == "none" else stored)


def test_predictions_are_written_upright(place: Place, accepted):
    place.checkpoint()
    for turn in (1, 3, 6):
        with_note(place.path / f"pictures/{turn}.jpg", np.zeros((30, 50, 3)), turn)
        save_picture(place.path / f"masks/{turn}.png", turned(np.ones((30, 50)), UNDONE[turn]))
    options = "image_size=32 loader.num_workers=0 device=cpu images=PLACE/pictures masks=PLACE/masks"
    accepted(f"predict.py checkpoint=PLACE/model_1.pth {options} output_dir=PLACE/out")
    written = list((place.path / "out").rglob("*.png"))
    assert len(written) == 6
    for path in written:
        with Image.open(path) as picture:
            assert picture.size[0] == 50 and picture.getexif().get(274, 1) == 1
            assert picture.size[1] == 30 or "overlays" in path.parts  # which have a legend below
