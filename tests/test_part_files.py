"""parts.csv and COCO files of label maps, against counts by NumPy and pycocotools."""

import csv
import json

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from evaluation.palette import save_label_map
from evaluation.part_files import PartTable, part_rows, run_lengths, write_coco


def drawn(seed: int, shape: tuple[int, int] = (37, 50)) -> np.ndarray:
    """Labels 0 to 4 of which 3 is nowhere, in patches."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 1, 2, 4], (9, 9)).astype(np.uint8)
    return np.kron(coarse, np.ones((8, 8), np.uint8))[: shape[0], : shape[1]]


def test_rows_are_what_numpy_counts():
    labels = drawn(1)
    certainty = np.random.default_rng(2).random(labels.shape).astype(np.float32)
    rows = part_rows("a.jpg", labels, certainty, num_parts=4)
    assert [row["part"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        mask = labels == row["part"]
        assert row["pixels"] == mask.sum() and row["share"] == pytest.approx(mask.sum() / (labels > 0).sum(), abs=1e-6)
        if not mask.any():
            assert row["part"] == 3 and row["certainty"] == row["centre_x"] == row["box_width"] == ""
            continue
        y, x = np.nonzero(mask)
        assert (row["centre_x"], row["centre_y"]) == pytest.approx((x.mean(), y.mean()), abs=1e-3)
        box = [row[f"box_{side}"] for side in ("x", "y", "width", "height")]
        assert box == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        assert row["certainty"] == pytest.approx(certainty[mask].mean(), abs=1e-5)
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-5)


def test_a_table_goes_on_after_an_interruption(tmp_path):
    def rows(name):
        return part_rows(name, drawn(3), np.ones((37, 50)), num_parts=4)

    path = tmp_path / "out/parts.csv"
    table = PartTable(path, 4)
    table.begin(["a", "b"])
    table.add(rows("a"))
    table.add(rows("b"))
    path.write_text(path.read_text()[:-20])  # cut off within the last row
    again = PartTable(path, 4)
    assert "a" in again and "b" not in again
    again.begin(["b", "c"])
    again.add(rows("b"))
    with path.open() as file:
        assert [(row["picture"], row["part"]) for row in csv.DictReader(file)] == [
            (name, str(part)) for name in "ab" for part in (1, 2, 3, 4)
        ]


@pytest.mark.parametrize(
    "mask",
    [drawn(seed) == 1 for seed in range(4)]
    + [np.zeros((5, 7), bool), np.ones((5, 7), bool), np.eye(200, dtype=bool), np.arange(40000).reshape(200, 200) > 9],
    ids=lambda mask: f"{mask.shape} {mask.sum()}",
)
def test_run_lengths_are_those_of_pycocotools(mask):
    theirs = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert run_lengths(mask) == theirs
    read = coco_masks.decode({"size": list(mask.shape), "counts": run_lengths(mask)})
    np.testing.assert_array_equal(read, mask)


def test_pycocotools_reads_the_label_maps_back(tmp_path, capsys):
    maps = {"a.jpg": drawn(5), "more/b.png": drawn(6, (20, 60)), "none.jpg": np.zeros((9, 9), np.uint8)}
    files = {name: tmp_path / f"{name}.png" for name in maps}
    for name, labels in maps.items():
        save_label_map(files[name], labels)
    rows = {"a.jpg": part_rows("a.jpg", maps["a.jpg"], np.full((37, 50), 0.75), 4)}
    write_coco(tmp_path / "coco.json", files, [f"part {part}" for part in (1, 2, 3, 4)], rows)
    coco = COCO(tmp_path / "coco.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == [
        "part 1",
        "part 2",
        "part 3",
        "part 4",
    ]
    for image in coco.loadImgs(coco.getImgIds()):
        labels = maps[image["file_name"]]
        assert (image["height"], image["width"]) == labels.shape
        found = np.zeros_like(labels)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            mask = coco.annToMask(annotation)
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == coco_masks.toBbox(coco.annToRLE(annotation)).tolist()
            assert annotation.get("score", 0.75) == 0.75 and ("score" in annotation) == (image["file_name"] == "a.jpg")
            found += mask * np.uint8(annotation["category_id"])
        np.testing.assert_array_equal(found, labels)
    assert json.loads((tmp_path / "coco.json").read_text())["annotations"]
