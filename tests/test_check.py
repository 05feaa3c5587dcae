import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.check import FAULTS, check
from datasets.example import draw_folder
from tests.composition import composed
from tests.shared import SHARED, needs_shared
from tests.test_datasets import DRAWN
from tests.trees import draw_cub_tree


@pytest.fixture
def checked(monkeypatch, capsys):
    """Checks a data set; gives the exit status and what was printed."""

    def call(*overrides: str) -> tuple[int, str]:
        monkeypatch.setenv("COLUMNS", "80")
        try:
            check(composed("loader.num_workers=0", *overrides))
            status = 0
        except SystemExit as ended:
            status = ended.code
        out, err = capsys.readouterr()
        assert err == ""
        return status, out

    return call


def cub_tree(tmp_path):
    return draw_cub_tree(tmp_path / "CUB", num_train=12, num_test=8, part_maps=True)


def faults(out: str) -> list[tuple[str, str]]:
    return re.findall(rf"^({'|'.join(map(re.escape, FAULTS))}): (.*)$", out, re.MULTILINE)


def row(out: str, label: str) -> list[str]:
    line = next(line for line in out.splitlines() if line.startswith(f"│ {label}"))
    return line.strip("│").replace(label, "").replace("│", " ").split()


def test_a_whole_data_set_is_counted_and_passes(checked, tmp_path):
    cub_tree(tmp_path)
    status, out = checked("dataset_name=CUB", f"dataset_root={tmp_path}")
    assert status == 0 and out.endswith("Training can start.\n")
    assert row(out, "pictures") == ["12", "12", "8"]
    assert row(out, "with visible keypoints") == row(out, "with a part map") == ["12", "12", "8"]
    assert all(row(out, kind) == ["-", "-", "-"] for kind in FAULTS) and faults(out) == []
    assert max(map(len, out.splitlines())) <= 80


def plant_ten_faults(root: Path) -> list[tuple[str, str]]:
    """Breaks a tree in ten places; the kind of each and what it is called by."""
    pictures, masks, part_maps = (
        {int(path.stem[-4:]): path for path in (root / folder).rglob("Bird_*")}
        for folder in ("CUB_200_2011/images", "CUB_200_2011/segmentations", "part_maps")
    )

    def save(path: Path, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(path)

    blank = np.zeros((48, 64), np.uint8)
    corner = blank.copy()
    corner[0, 0] = 255
    pictures[1].unlink()
    pictures[2].write_bytes(pictures[2].read_bytes()[:500])
    pictures[3].write_text("not a picture")
    masks[4].unlink()
    masks[5].write_bytes(b"")
    save(masks[6], blank[:20, :20])
    save(masks[7], blank)
    save(masks[8], corner)
    keypoints = root / "CUB_200_2011/parts/part_locs.txt"
    keypoints.write_text(re.sub(r"^9 4 .*$", "9 4 64.6 10.0 1", keypoints.read_text(), flags=re.MULTILINE))
    save(part_maps[13], np.full((48, 64), 9, np.uint8))
    return [
        ("missing file", f"Missing {pictures[1]}"),
        ("unreadable file", str(pictures[2])),
        ("unreadable file", str(pictures[3])),
        ("missing file", f"Missing {masks[4]}"),
        ("unreadable file", str(masks[5])),
        ("mask of another size", f"{masks[6]} is 20 x 20 pixels, but its picture {pictures[6]} is 64 x 48"),
        ("empty mask", str(pictures[7])),
        ("mask outside the object's box", str(pictures[8])),
        ("keypoint outside the picture", f"tail of {pictures[9]} at (63.6, 9)"),
        ("other error", f"{part_maps[13]} has a label 9"),
    ]


def test_a_keypoint_that_few_pictures_show_is_seen_by_its_count(checked, tmp_path):
    annotation = cub_tree(tmp_path) / "CUB_200_2011/parts"
    _, out = checked("dataset_name=CUB", f"dataset_root={tmp_path}")
    (line,) = [line for line in out.splitlines() if line.startswith("Pictures that show each keypoint: ")]
    visible = Counter()
    names = dict(line.split(" ", 1) for line in (annotation / "parts.txt").read_text().splitlines())
    for row in (annotation / "part_locs.txt").read_text().splitlines():
        visible[names[row.split()[1]]] += row.endswith(" 1")
    told = dict(part.rsplit(" ", 1) for part in line.split(": ")[1].rstrip(".").split(", "))
    assert told == {name: str(count) for name, count in visible.items() if count}


def test_each_of_ten_planted_faults_is_named_once(checked, tmp_path):
    planted = plant_ten_faults(cub_tree(tmp_path))
    status, out = checked("dataset_name=CUB", f"dataset_root={tmp_path}")
    found = faults(out)
    assert len(found) == len(planted) == 10
    for kind, name in planted:
        assert sum(found_kind == kind and name in message for found_kind, message in found) == 1, (kind, name, found)
    assert status == 1
    assert row(out, "missing file") == ["2", "1", "-"] and row(out, "unreadable file") == ["3", "2", "-"]
    assert row(out, "other error") == ["-", "-", "1"] and row(out, "empty mask") == ["1", "-", "-"]
    assert "error: training: 6 of 12 pictures cannot be read" in out
    assert "error: held out: 1 of 8 pictures cannot be read" in out


def test_all_faults_of_one_picture_are_named(checked, tmp_path):
    root = cub_tree(tmp_path)
    for path in (next((root / "CUB_200_2011").glob(f"{kind}/*/Bird_0004.*")) for kind in ("images", "segmentations")):
        path.unlink()
    _, out = checked("dataset_name=CUB", f"dataset_root={tmp_path}")
    assert [kind for kind, _ in faults(out)] == ["missing file"] * 2
    assert {re.search(r"\w+/[\w.]+/Bird_0004\.\w+", message)[0].partition("/")[0] for _, message in faults(out)} == {
        "images",
        "segmentations",
    }


def test_what_harms_but_does_not_end_training_passes(checked, tmp_path):
    root = cub_tree(tmp_path)
    path = next((root / "CUB_200_2011/segmentations").glob("*/Bird_0001.png"))
    Image.new("L", (64, 48)).save(path)
    status, out = checked("dataset_name=CUB", f"dataset_root={tmp_path}")
    assert status == 0 and [kind for kind, _ in faults(out)] == ["empty mask"]


@pytest.mark.parametrize(("option", "status"), [("raise", 1), ("skip", 0)])
def test_a_broken_training_picture_is_no_obstacle_where_it_is_skipped(checked, tmp_path, option, status):
    root = cub_tree(tmp_path)
    # The masks of training alone: evaluation reads the training split too.
    next((root / "CUB_200_2011/segmentations").glob("*/Bird_0001.png")).unlink()
    found, out = checked("dataset_name=CUB", f"dataset_root={tmp_path}", f"dataset.on_error={option}")
    assert found == status and [kind for kind, _ in faults(out)] == ["missing file"]


def test_too_few_pictures_for_a_batch_are_an_obstacle_even_then(checked, tmp_path):
    root = cub_tree(tmp_path)
    shutil.rmtree(root / "CUB_200_2011/segmentations/001.Species_1")
    (root / "CUB_200_2011/segmentations").mkdir(exist_ok=True)
    options = ("dataset_name=CUB", f"dataset_root={tmp_path}", "dataset.on_error=skip")
    assert checked(*options, "batch_size=8")[0] == 0
    status, out = checked(*options, "batch_size=9")
    assert status == 1 and "error: training: 8 pictures can be read, fewer than batch_size=9" in out


@pytest.mark.parametrize("name", ["CUB", "DF", "folder"])
def test_a_data_set_that_is_not_there_is_told_with_status_1(checked, tmp_path, name):
    status, out = checked(f"dataset_name={name}", f"dataset_root={tmp_path}")
    assert status == 1 and out.startswith("error: ") and str(tmp_path) in out
    assert len(set(out.splitlines())) == len(out.splitlines()) <= 3


def test_a_folder_of_ones_own_is_checked(checked, tmp_path):
    draw_folder(tmp_path / "mine", count=15, size=48)
    root = f"dataset_root={tmp_path / 'mine'}"
    status, out = checked("dataset_name=folder", root)
    assert status == 0 and row(out, "pictures") == ["12", "12", "3"]
    (tmp_path / "mine/masks/creature_001.png").unlink()
    (tmp_path / "mine/images/creature_002.jpg").unlink()
    status, out = checked("dataset_name=folder", root)
    assert status == 1
    assert [message.split(".png")[0][-12:] for _, message in faults(out)] == ["creature_001"]
    assert "masks have no picture: creature_002" in re.sub(r"\S+/masks", "masks", out)


@needs_shared
def test_the_real_photographs_pass(checked):
    status, out = checked("dataset_name=CUB", f"dataset_root={SHARED / 'data'}")
    assert status == 0 and row(out, "pictures") == ["50", "50", "50"] and faults(out) == []


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_every_data_set_can_be_checked(checked, tmp_path, name):
    draw, overrides = DRAWN[name]
    draw(tmp_path / "data")
    small = ("image_size=32", "batch_size=2")
    status, out = checked(f"dataset_name={name}", f"dataset_root={tmp_path / 'data'}", *small, *overrides)
    assert status == 0 and int(row(out, "pictures")[2]) >= 2


def test_a_table_of_keypoints_in_another_scale_is_one_message_with_its_first_rows(checked, tmp_path):
    draw_folder(tmp_path / "mine", count=15, size=48)
    table = tmp_path / "mine/keypoints.csv"
    header, *rows = (line.split(",") for line in table.read_text().splitlines())
    scaled = [[name, keypoint, str(10 * float(x) + 200), y, seen] for name, keypoint, x, y, seen in rows]
    table.write_text("\n".join(",".join(row) for row in (header, *scaled)))
    status, out = checked("dataset_name=folder", f"dataset_root={tmp_path / 'mine'}")
    (message,) = [line for line in out.splitlines() if line.startswith("error: ")]
    assert status == 1 and f"{table}: keypoints far outside of their pictures ({len(rows)}): line 2: " in message
    assert f" and {len(rows) - 3} more. " in message and faults(out) == []
