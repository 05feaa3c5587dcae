"""Broken copies of CUB-200-2011."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.mistakes.damage import cut, flat, line, missing, pixels, replace_file
from tests.mistakes.harness import Damage, DataSet
from tests.mistakes.stand_ins import STAND_INS
from tests.trees import draw_cub_tree

CUB = DataSet("CUB", "CUB", "dataset.train_mask=gt dataset.eval_mask=gt")
BOXES, KEYPOINTS = "CUB_200_2011/bounding_boxes.txt", "CUB_200_2011/parts/part_locs.txt"


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def all_train(root: Path) -> None:
    split = root / "CUB_200_2011/train_test_split.txt"
    split.write_text(split.read_text().replace(" 0\n", " 1\n"))


CLEANED = "CUB_200_2011/cachedir/cub/data/train_cub_cleaned.mat"


def cleaned(content: bytes | Damage) -> Damage:
    """A list of cleaned training pictures beside the others: bytes, or a whole one that is damaged."""

    def damage(root: Path) -> None:
        whole = draw_cub_tree(root.parent / "whole", cleaned=(1, 2)) / CLEANED
        (root / CLEANED).parent.mkdir(parents=True)
        shutil.copy(whole, root / CLEANED)
        replace_file(CLEANED, content)(root)

    return damage


def another(path: Path) -> None:
    savemat(path, {"pictures": 1})


def entry(**fields) -> Damage:
    """One training picture, of 64 x 48 pixels, of which something is not as it should be."""
    box = {"x1": 2.0, "y1": 3.0, "x2": 20.0, "y2": 30.0}
    image = {"rel_path": "002.Species_2/Bird_0001.jpg", "bbox": box, "mask": np.ones((48, 64))} | fields
    return cleaned(lambda path: savemat(path, {"images": image}))


def in_list(id: str, damage: Damage, *words: str):
    return CUB.broken(f"cleaned list: {id}", damage, "train_cub_cleaned.mat", *words)


ENTRIES = [
    in_list("no pictures", cleaned(lambda path: savemat(path, {"images": np.zeros((0, 0))})), "it lists no picture"),
    in_list("a box of nan", entry(bbox={"x1": np.nan, "y1": 3.0, "x2": 9.0, "y2": 9.0}), "the box of 002.", "nan"),
    in_list("a box upside down", entry(bbox={"x1": 2.0, "y1": 30.0, "x2": 9.0, "y2": 9.0}), "the box of 002.", "30."),
    in_list("no mask", entry(mask=np.zeros((0, 0))), "the mask of 002.Species_2/Bird_0001.jpg has the shape (0,"),
    in_list("a mask of colours", entry(mask=np.ones((48, 64, 3))), "has the shape (48, 64, 3)"),
    in_list("a mask of another size", entry(mask=np.ones((4, 6))), "is 6 x 4 pixels", "_0001.jpg is 64 x 48"),
]

BROKEN = [
    *ENTRIES,
    CUB.row(
        "a threshold that no value reaches",
        "read dataset.mask_threshold=300",
        lambda root: None,
        "dataset.mask_threshold=300 is above 255",
        "segmentations/",
    ),
    CUB.broken("picture missing", replace_file("**/Bird_0003.jpg", missing), "Bird_0003.jpg", "1 of"),
    CUB.broken("truncated JPEG", replace_file("**/*0002.jpg", cut(0.6)), "_0002.jpg", "truncated"),
    CUB.broken("a folder for a picture", replace_file("**/Bird_0002.jpg", folder_instead), "_0002.jpg", "directory"),
    # masks
    CUB.broken(
        "mask of 0 and 1",
        replace_file("**/segmentations/**/*0002.png", pixels(flat(1))),
        "segmentations/003.Species_3/Bird_0002.png has values up to 1",
        "255 is the object",
    ),
    CUB.broken(
        "mask of 16 bits",
        replace_file("**/segmentations/**/*0002.png", pixels(flat(65535, "uint16"))),
        "Bird_0002.png has values up to 65535",
    ),
    # lists
    *(
        CUB.broken(f"cleaned list: {kind}", cleaned(content), "train_cub_cleaned.mat is no cleaned list", words, "move")
        for kind, (content, words) in STAND_INS.items()
    ),
    CUB.broken("cleaned list: header", cleaned(cut(0.01)), "train_cub_cleaned.mat is no cleaned list", "It is cut off"),
    CUB.broken("cleaned list: half", cleaned(cut(0.5)), "train_cub_cleaned.mat is no cleaned list", "It is cut off"),
    CUB.broken("cleaned list: another", cleaned(another), "train_cub_cleaned.mat is no cleaned list", "'images'"),
    CUB.broken(
        "a page for a list", replace_file(BOXES, STAND_INS["page"][0]), "bounding_boxes.txt is no list: it is a"
    ),
    CUB.broken("list cut off", line("CUB_200_2011/images.txt", 9, None), "images.txt", "9"),
    CUB.broken("no picture held out", all_train, "train_test_split.txt has no picture of the test split"),
    CUB.broken("no box", line(BOXES, 3, None), "_boxes.txt", "3"),
    CUB.broken("box in words", line(BOXES, 3, "3 left 1 5 5"), "bounding_boxes.txt, line 3", "'3 left 1 5 5'"),
    CUB.broken("box without width", line(BOXES, 3, "3 1 1 0 5"), "bounding_boxes.txt, line 3", "'3 1 1 0 5'"),
    CUB.broken(
        "box beside the picture",
        line(BOXES, 3, "3 70 1 9 9"),
        "bounding_boxes.txt: the box (69, 0) to (77, 8)",
        "Bird_0003.jpg, 64 x 48",
    ),
    CUB.broken("box of a kilometre", line(BOXES, 3, "3 1 1 1e6 9"), "bounding_boxes.txt", "(999999, 8)", "_0003.jpg"),
    CUB.broken("two boxes", line(BOXES, 3, "3 1 1 9 9\n3 1 1 8 8"), "bounding_boxes.txt has 2 lines for image 3"),
    CUB.broken("keypoint twice", line(KEYPOINTS, 10, "3 1 5.0 5.0 1"), "part_locs.txt has two lines for part 1 of"),
    CUB.broken("keypoint missing", line(KEYPOINTS, 10, None), "part_locs.txt has 3 lines for image 3", "4 keypoints"),
    CUB.broken(
        "keypoint nowhere near",
        line(KEYPOINTS, 9, "3 1 5000 5 1"),
        "part_locs.txt: the beak at (4999, 4)",
        "Bird_0003.jpg, 64 x 48",
    ),
    CUB.broken("unknown keypoint", line(KEYPOINTS, 9, "3 7 5 5 1"), "part_locs.txt: image 3 has a part 7"),
    CUB.broken(
        "names out of order",
        line("CUB_200_2011/parts/parts.txt", 2, "3 left eye"),
        "parts.txt: the index of 'left eye' is 3, but 2 comes next",
    ),
]


@pytest.mark.parametrize("row", BROKEN)
def test_a_broken_copy_of_cub_is_refused_with_file_and_line(row, refused):
    refused(row)


def test_a_whole_copy_of_cub_is_read(read_whole):
    read_whole(CUB)
