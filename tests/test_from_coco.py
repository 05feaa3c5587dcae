"""python -m datasets.from_coco: what pycocotools says is in a COCO file is in the folder that is written."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

import datasets
from datasets.from_coco import convert, main, run_lengths
from evaluation.part_files import run_lengths as written_run_lengths
from tests.composition import composed
from utils.errors import UserError

HEIGHT, WIDTH = 40, 60


def compressed(mask: np.ndarray) -> dict:
    return {"size": [*mask.shape], "counts": written_run_lengths(mask)}


def uncompressed(mask: np.ndarray) -> dict:
    borders = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F").astype(int)])))
    return {"size": [*mask.shape], "counts": np.diff([0, *borders, mask.size]).tolist()}


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.hypot(columns - x, rows - y) < radius


def circle(x: float, y: float, radius: float) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).round(2).ravel().tolist()


CONTENT = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 9, "file_name": "more/b.png", "height": HEIGHT, "width": WIDTH},
    ],
    "categories": [
        {"id": 3, "name": "bird", "keypoints": ["beak", "tail", "eye"]},
        {"id": 1, "name": "body"},
        {"id": 4, "name": "head"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 4, "segmentation": compressed(disc(40, 15, 6))},
        {"id": 2, "image_id": 7, "category_id": 1, "segmentation": [circle(25, 20, 14), circle(50, 30, 5)]},
        {"id": 3, "image_id": 7, "category_id": 3, "keypoints": [46, 15, 2, 11, 20, 1, 0, 0, 0], "segmentation": []},
        {"id": 4, "image_id": 9, "category_id": 1, "segmentation": uncompressed(disc(30, 20, 12))},
        {"id": 5, "image_id": 9, "category_id": 3, "segmentation": [circle(30, 20, 15)]},
    ],
}


@pytest.fixture
def place(tmp_path) -> Path:
    for number, name in enumerate(("a.jpg", "more/b.png")):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(path)
    return tmp_path


def converted(place: Path, content: dict, *arguments: str) -> Path:
    (place / "coco.json").write_text(json.dumps(content))
    convert(place / "coco.json", place / "pictures", place / "out", *arguments)
    return place / "out"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def test_masks_parts_and_keypoints_are_those_that_pycocotools_reads(place, capsys):
    out = converted(place, CONTENT, "bird")
    coco = COCO(place / "coco.json")
    masks = {
        entry["id"]: coco.annToMask(entry).astype(bool) for entry in CONTENT["annotations"] if entry["segmentation"]
    }
    first, second = pixels(out / "parts/a.png"), pixels(out / "parts/more/b.png")
    assert (out / "parts/parts.txt").read_text() == "1 body\n2 head\n"
    np.testing.assert_array_equal(first == 2, masks[1])  # run lengths to the pixel, and the smaller lies on top
    np.testing.assert_array_equal(first == 1, masks[2] & ~masks[1])
    np.testing.assert_array_equal(second == 1, masks[4])
    np.testing.assert_array_equal(pixels(out / "masks/more/b.png") > 0, masks[4] | masks[5])
    np.testing.assert_array_equal(pixels(out / "masks/a.png") > 0, first > 0)
    rows = (out / "keypoints.csv").read_text().split()
    assert rows == ["name,keypoint,x,y,visible", "a.jpg,beak,46.0,15.0,1", "a.jpg,tail,11.0,20.0,0"]
    assert (out / "images/a.jpg").read_bytes() == (place / "pictures/a.jpg").read_bytes()
    data = composed("dataset_name=folder", f"dataset_root={out}", "dataset.test_share=1")
    read = datasets.build(data, "test", "evaluation")
    assert len(read) == 2 and read.part_names == ["body", "head"] and read.keypoint_names == ["beak", "tail"]
    np.testing.assert_array_equal(read[0].part_map, first)


def test_the_only_category_is_the_object(place):
    content = copy.deepcopy(CONTENT)
    content["categories"] = content["categories"][1:2]
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] == 1]
    out = converted(place, content)
    assert sorted(path.name for path in out.iterdir()) == ["images", "masks"]
    np.testing.assert_array_equal(pixels(out / "masks/more/b.png") > 0, disc(30, 20, 12))


def test_a_file_of_keypoints_alone_gives_no_empty_masks(place, capsys):
    content = copy.deepcopy(CONTENT)
    content["annotations"] = [entry | {"segmentation": []} for entry in content["annotations"]]
    out = converted(place, content, "bird")
    assert sorted(path.name for path in out.iterdir()) == ["images", "keypoints.csv"]


@pytest.mark.parametrize("seed", range(4))
def test_compressed_run_lengths_are_read_as_pycocotools_does(seed):
    mask = np.random.default_rng(seed).random((37, 53)) < (0.01, 0.2, 0.9, 1)[seed]
    text = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert run_lengths(text) == uncompressed(mask)["counts"]


def changed(key: str, place: int, **values: object) -> dict:
    content = copy.deepcopy(CONTENT)
    content[key][place] |= values
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("images", 1, file_name="gone.png"), "1 of the 2 pictures of .* are not in .*, for example gone.png"),
        (changed("categories", 2, name="body"), "1 categories repeat: name body"),
        (changed("categories", 2, id=1), "1 categories repeat: id 1"),
        (changed("images", 1, file_name="a.png"), "1 images repeat: file_name .but for its ending.* a. Make"),
        (changed("annotations", 1, segmentation=[circle(55, 20, 14)]), "annotation 2, in a.jpg, .* leaves the picture"),
        (
            changed("annotations", 1, segmentation=[[1, 2, 3]]),
            r"annotations\[1\], segmentation must be polygons .* not one of 3",
        ),
        (changed("annotations", 0, segmentation=compressed(np.eye(9))), "annotation 1, .* of another size"),
        (
            changed("annotations", 2, keypoints=[99, 1, 2, 0, 0, 0, 0, 0, 0]),
            "annotation 3: beak at 99, 1 is outside a.j",
        ),
        (changed("annotations", 2, keypoints=[9, 1, 2]), "annotation 3 has 1 keypoints for 3 names"),
        (changed("annotations", 0, category_id=8), "annotation 1 has the category 8, which is none"),
        (changed("annotations", 0, image_id=8), "annotation 1 is of a picture that is not in the file"),
        (
            changed("images", 0, width=61),
            "a.jpg has 60 x 40 pixels, and .*coco.json says 61 x 40: it was annotated in another size",
        ),
        (changed("annotations", 2, bbox=[99, 0, 5, 5]), "annotation 3 has a box outside a.jpg"),
        ({"images": CONTENT["images"]}, "no list 'categories'"),
        ([], "no list 'images'"),
    ],
)
def test_a_mistake_is_told_and_nothing_half_written_is_left(place, content, message):
    with pytest.raises(UserError, match=message):
        converted(place, content, "bird")
    assert sorted(path.name for path in place.iterdir()) == ["coco.json", "pictures"]


@pytest.mark.parametrize(
    ("key", "field", "values"),
    [
        ("images", "id", [[1], {}, True, 1.5, "", float("inf")]),
        ("images", "width", [1.5, "60", -60, 0, float("nan"), 10**400, True]),
        ("images", "file_name", [3, "", "a", "a\nb.jpg", "a.txt", ["a.jpg"]]),
        ("images", "file_name", ["/a.jpg", "../a.jpg", "more/../../a.jpg", "C:\\a.jpg", "..\\a.jpg"]),
        ("categories", "name", [3, "", " ", "a\nb", ["a"]]),
        ("categories", "keypoints", [["eye", "eye", "beak"], [1, 2, 3], "eye", [["eye"]]]),
        ("annotations", "image_id", [[7], 1.5]),
        ("annotations", "category_id", [[3], {}]),
        ("annotations", "segmentation", [{}, {"size": [40, 60]}, {"size": 40, "counts": []}, "a", 3]),
        ("annotations", "segmentation", [[1, 2, 3, 4, 5, 6], [["1", 2, 3, 4, 5, 6]], [[None] * 6], [[]]]),
        ("annotations", "segmentation", [[[float("nan"), 1, 2, 3, 4, 5]], {"size": [40, 60], "counts": ["1"]}]),
        (
            "annotations",
            "segmentation",
            [{"size": [40, None], "counts": "1"}, {"size": [40, 60], "counts": [-1, 2401]}],
        ),
        (
            "annotations",
            "keypoints",
            [["1", 2, 2], [1, 2], [1, 2, 3], [1, float("nan"), 2], "a", [1, 2, -1], [1, 2, []]],
        ),
        ("annotations", "bbox", [[1, 2], 3, [1, 2, "3", 4], [1, 2, float("nan"), 4]]),
    ],
)
def test_a_value_of_another_kind_is_told_with_its_entry_and_field(place, key, field, values):
    for value in values:
        with pytest.raises(UserError, match=rf"coco.json: {key}\[0\], {field} must be [^,]*.*: .*\. Mend the entry\.$"):
            converted(place, changed(key, 0, **{field: value}), "bird")
    assert sorted(path.name for path in place.iterdir()) == ["coco.json", "pictures"]


def test_what_is_missing_and_what_is_no_entry_is_told(place):
    for value, message in ((None, r"images\[0\] has no width"), ("x", r"annotations\[0\] must be an entry in braces")):
        content = changed("images", 0, width=None) if value is None else CONTENT | {"annotations": [value]}
        with pytest.raises(UserError, match=message):
            converted(place, content)


def test_whole_numbers_may_be_written_as_floats_and_null_is_nothing(place):
    content = changed("images", 0, width=60.0, height=40.0, id=7.0)
    content["annotations"][0]["keypoints"] = content["categories"][1]["keypoints"] = None
    assert (converted(place, content, "bird") / "keypoints.csv").is_file()


def test_names_with_the_separators_of_windows_are_read(place):
    found = converted(place, changed("images", 1, file_name="more\\b.png"), "bird")
    assert (found / "masks/more/b.png").is_file()


def test_nothing_is_written_outside_the_new_folder(place):
    before = (place / "pictures/a.jpg").read_bytes()
    for name in (str(place / "pictures/a.jpg"), "../pictures/a.jpg"):
        with pytest.raises(UserError, match="neither absolute nor with"):
            converted(place, changed("images", 0, file_name=name), "bird")
    assert (place / "pictures/a.jpg").read_bytes() == before


def test_a_file_that_is_no_picture_is_told(place):
    (place / "pictures/a.jpg").write_text("no picture")
    with pytest.raises(UserError, match="Cannot read .*a.jpg: it is none of"):
        converted(place, CONTENT, "bird")
    assert not (place / "out").exists()


def test_more_categories_than_label_maps_hold_are_refused(place):
    more = [{"id": number, "name": f"part {number}"} for number in range(100, 400)]
    with pytest.raises(UserError, match="302 categories of parts, and label maps hold 255"):
        converted(place, CONTENT | {"categories": CONTENT["categories"] + more}, "bird")


@pytest.mark.parametrize(
    "polygon", [[10, 5, 50, 5, 50, 30, 10, 30], [3, 3, 6.5, 3, 6.5, 6, 3, 6], [1.2, 2, 9, 4, 5, 8.7]]
)
def test_polygons_cover_the_pixels_that_pycocotools_gives_them(place, polygon):
    """A border of half a pixel more would make small parts larger by two thirds."""
    content = CONTENT | {"categories": CONTENT["categories"][1:2]}
    content["annotations"] = [{"id": 1, "image_id": 7, "category_id": 1, "segmentation": [polygon]}]
    found = pixels(converted(place, content) / "masks/a.png") > 0
    theirs = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects([polygon], HEIGHT, WIDTH)))
    np.testing.assert_array_equal(found, theirs > 0)
    corners = np.reshape(polygon, (-1, 2))
    x, y = corners.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert abs(found.sum() - area) <= max(np.ptp(corners, axis=0))  # within a row


def of_boxes(*boxes: tuple[int, int, list[float]]) -> dict:
    """COCO's of boxes alone: each with its picture and its category."""
    entries = [
        {"id": number, "image_id": picture, "category_id": category, "bbox": corners}
        for number, (picture, category, corners) in enumerate(boxes)
    ]
    return CONTENT | {"annotations": entries}


def test_boxes_alone_become_objects_with_their_classes(place, capsys):
    out = converted(place, of_boxes((7, 1, [10, 5, 20, 10]), (9, 4, [0, 0, 30.5, 30])))
    rows = (out / "objects.csv").read_text().split()
    assert rows == ["name,class,x,y,width,height", "a.jpg,body,10.0,5.0,20.0,10.0", "more/b.png,head,0.0,0.0,30.5,30.0"]
    data = composed("dataset_name=folder", f"dataset_root={out}", "dataset.test_share=1", "dataset.eval_mask=none")
    read = datasets.build(data, "test", "evaluation")
    assert [read[index].box.tolist() for index in range(2)] == [[10, 5, 29, 14], [0, 0, 29.5, 29]]
    assert [read[index].label for index in range(2)] == [1, 2]


def test_boxes_of_parts_and_of_several_objects_are_counted(place):
    content = of_boxes((7, 1, [10, 5, 20, 10]), (7, 4, [0, 0, 30, 30]), (9, 1, [0, 0, 9, 9]))
    (place / "coco.json").write_text(json.dumps(content))
    told = convert(place / "coco.json", place / "pictures", place / "out")
    assert "1 boxes of objects.\n2 boxes are left out: objects.csv has one of a whole object" in told
    assert (place / "out/objects.csv").read_text().split() == ["name,x,y,width,height", "more/b.png,0.0,0.0,9.0,9.0"]
    told = convert(place / "coco.json", place / "pictures", place / "other", "bird")
    assert "boxes of objects" not in told and "\n3 boxes are left out" in told
    assert not (place / "other/objects.csv").exists()


def test_the_command_tells_mistakes_and_what_it_wrote(place, capsys):
    with pytest.raises(UserError, match="has no category cat: it has bird, body, head"):
        converted(place, CONTENT, "cat")
    (place / "coco.json").write_text("{")
    for arguments, message in (
        ([], "error: give the file"),
        ([str(place / "coco.json"), str(place / "pictures"), str(place / "out")], "is no COCO file"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert message in capsys.readouterr().err
    (place / "coco.json").write_text(json.dumps(CONTENT))
    main([str(place / "coco.json"), str(place / "pictures"), str(place / "out"), "bird"])
    assert "2 pictures with masks, 2 parts, 2 keypoints" in capsys.readouterr().out
