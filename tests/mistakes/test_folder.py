"""Broken folders of one's own pictures, and pictures and masks of every kind that are none of ours to read."""

import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.mistakes.damage import cut, everywhere, flat, missing, pixels, png, replace_file, write
from tests.mistakes.harness import Damage, DataSet
from tests.mistakes.stand_ins import STAND_INS

FOLDER = DataSet("folder", ".", "dataset.train_mask=gt dataset.eval_mask=gt")
CSV = "name,keypoint,x,y\ncreature_001,eye,3,4\ncreature_004,eye,5,6\n"


def picture(content: bytes | str | Damage) -> Damage:
    """The first picture, with another content."""
    return replace_file("images/*01.jpg", content)


def mask(name: str, values, mode: str | None = None, **options) -> Damage:
    """The mask of the first picture under another name, with other values."""

    def damage(root: Path) -> None:
        new = (root / "masks/creature_001.png").rename(root / f"masks/{name}")
        pixels(values, mode, **options)(new)

    return damage


PIXELS = bytes(8 * 9)
BOMB = png(30_000, 30_000, 8, 0, PIXELS)
BOMB_OF_TEXT = png(8, 8, 8, 0, PIXELS, (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 23))))
PROGRAM_FOR_A_PRINTER = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n"

PICTURES = [
    FOLDER.broken("missing", picture(missing), "images/creature_001", "1 of 9 files"),
    FOLDER.broken("empty", picture(b""), "creature_001.jpg", "it is empty"),
    FOLDER.broken("text", picture("hi"), "creature_001.jpg", "none of", "JPEG"),
    FOLDER.broken("a program for a printer", picture(PROGRAM_FOR_A_PRINTER), "creature_001.jpg", "none of BMP"),
    FOLDER.broken("a page", picture(STAND_INS["page"][0]), "creature_001.jpg: it is a web page"),
    FOLDER.broken("a pointer", picture(STAND_INS["pointer"][0]), "creature_001.jpg: it is a Git LFS pointer"),
    FOLDER.broken("32 bits", picture(pixels(flat(70000, "int32"), format="TIFF")), "creature_001.jpg has 32 bits"),
    FOLDER.broken(
        "fractions",
        picture(pixels(flat(0.5, "float32"), format="TIFF")),
        "creature_001.jpg has 32 bits",
        "8 or 16",
    ),
    FOLDER.broken("bomb", picture(BOMB), "creature_001.jpg", "900000000"),
    FOLDER.broken("bomb of text", picture(BOMB_OF_TEXT), "creature_001.jpg", "too large"),
    FOLDER.broken(
        "two of one name",
        lambda root: shutil.copy(root / "images/creature_001.jpg", root / "images/creature_001.png"),
        "creature_001.jpg",
        "creature_001.png",
        "differ in their ending only",
    ),
]

THREE_WAYS = (
    "Three ways on",
    "python predict.py task=foreground pretrained=maskrcnn images=PLACE/data/images;",
    "python train.py method=foreground dataset_name=folder dataset_root=FEW",
    "python predict.py checkpoint=RUN images=PLACE/data/images only_missing=true;",
    "python train.py dataset_name=folder dataset_root=PLACE/data dataset.train_mask=none (and dataset.eval_mask=none",
)

MASKS = [
    FOLDER.broken("none at all", lambda root: shutil.rmtree(root / "masks"), "folder: no masks in PLACE", *THREE_WAYS),
    FOLDER.broken("an empty folder", everywhere("masks/*.png", missing), "folder: no masks in PLACE", *THREE_WAYS),
    FOLDER.broken(
        "under another choice",
        lambda root: (root / "masks").rename(root / "supervisedlabels"),
        "folder: no folder PLACE/data/masks for gt masks; masks on disk: supervised.",
    ),
    FOLDER.broken("missing", replace_file("masks/*01.png", missing), "masks/creature_001.png"),
    FOLDER.broken("damaged", replace_file("masks/*01.png", cut(0.5)), "masks/creature_001.png"),
    FOLDER.broken(
        "another size",
        mask("creature_001.png", lambda height, width: np.ones((20, 30), np.uint8)),
        "masks/creature_001.png is 30 x 20 pixels",
        "images/creature_001.jpg",
    ),
    FOLDER.broken(
        "of a turned picture",
        mask("creature_001.png", lambda height, width: np.ones((width, height), np.uint8)),
        "masks/creature_001.png",
        "EXIF",
    ),
    FOLDER.broken(
        "JPEG of 0 and 1",
        mask("creature_001.jpg", flat(1)),
        "masks/creature_001.jpg has values up to 1",
        "128",
    ),
    FOLDER.broken(
        "coloured",
        mask("creature_001.png", lambda height, width: np.full((height, width, 3), (9, 0, 0), np.uint8)),
        "masks/creature_001.png is a coloured picture",
    ),
    FOLDER.broken(
        "CMYK",
        mask("creature_001.tif", flat(0, channels=(3,)), "CMYK"),
        "masks/creature_001.tif is a coloured picture (CMYK)",
    ),
    FOLDER.broken("soft", mask("creature_001.tif", flat(0.5, "float32")), "masks/creature_001.tif has fractions"),
    FOLDER.broken(
        "names of their own",
        everywhere("masks/*.png", lambda path: path.rename(path.with_name(f"mask_{path.name}"))),
        "mask_creature_001.png",
        "images/creature_001.jpg",
        "give masks the names",
    ),
    FOLDER.broken(
        "label above the parts",
        replace_file("parts/*01.png", pixels(flat(9))),
        "parts/creature_001.png has labels from 9 to 9",
        "to 4",
    ),
]


def keypoints(content: str | bytes) -> Damage:
    return write("keypoints.csv", content)


def objects(content: str) -> Damage:
    return write("objects.csv", content)


LISTS = [
    FOLDER.broken(
        "coordinate in words",
        keypoints(CSV + "creature_002,eye,3,four\n"),
        "keypoints.csv, line 4: expected numbers",
        "four",
    ),
    FOLDER.broken(
        "a field without an end",
        keypoints(CSV + "creature_002," + "eye" * 50_000 + ",3,4\n"),
        "keypoints.csv, line 4: field larger than field limit",
    ),
    FOLDER.broken(
        "a row without its last columns",
        keypoints("x,y,keypoint,name\n3,4,eye,creature_001\n3,4\n"),
        "keypoints.csv, line 3: expected a value in each of the columns x, y, keypoint, name",
    ),
    FOLDER.broken(
        "bars between columns", keypoints(CSV.replace(",", "|")), "line 1: no column", "separated by commas, semicolons"
    ),
    FOLDER.broken(
        "another encoding",
        keypoints((CSV + "creature_002,Flügel,3,4\n").encode("latin-1")),
        "keypoints.csv is not in UTF-8",
    ),
    FOLDER.broken(
        "keypoint of another scale",
        keypoints(CSV.replace("3,4", "3,400")),
        "keypoints.csv: keypoints far outside of their pictures (1): line 2: eye of creature_001.jpg at (3, 400), not",
        "Mend the lines",
    ),
    FOLDER.broken(
        "keypoints of other pictures",
        keypoints(CSV.replace("creature", "kreature")),
        "/data/keypoints.csv is that of a picture",
        "kreature_001",
    ),
    FOLDER.broken("an object twice", objects("name,class\na,b\na,b\n"), "objects.csv, line 3: a second row of a"),
    FOLDER.broken("objects without anything", objects("name\ncreature_001\n"), "objects.csv, line 1: 'name' must be"),
    FOLDER.broken("half a box", objects("name,x,y\ncreature_001,1,2\n"), "objects.csv, line 1: 'name,x,y' must be"),
    FOLDER.broken(
        "an object without a class", objects("name,class\ncreature_001,\n"), "line 2: creature_001 has no class"
    ),
    FOLDER.broken("pictures without a class", objects("name,class\ncreature_001,b\n"), "pictures have no class"),
    FOLDER.broken(
        "a box in words",
        objects("name,x,y,width,height\ncreature_001,1,2,3,high\n"),
        "objects.csv, line 2: expected numbers x, y, width, height",
    ),
    FOLDER.broken(
        "a box beside the picture",
        objects("name,x,y,width,height\ncreature_001,1000,2,3,4\n"),
        "/images/creature_001.jpg is not in its",
    ),
    FOLDER.broken(
        "a picture in both lists",
        write("train.txt", "creature_001\ncreature_004\ncreature_005\n"),
        "in train.txt and in test.txt: creature_001",
    ),
    FOLDER.broken(
        "a page for keypoints", keypoints(STAND_INS["page"][0]), "keypoints.csv is no list: it is a web page"
    ),
    FOLDER.broken(
        "a pointer for a list", write("test.txt", STAND_INS["pointer"][0]), "test.txt is no list: it is a Git"
    ),
    FOLDER.broken(
        "an answer of a server for a list",
        write("test.txt", '{"message": "Not Found"}\n'),
        "test.txt is no list: it is JSON, as a server answers",
        'begins with \'{"message": "Not Found"}',
    ),
    FOLDER.broken(
        "UTF-16 without its mark",
        write("test.txt", "creature_001\n".encode("utf-16-le")),
        "test.txt is not in UTF-8: it has bytes of 0",
    ),
    FOLDER.broken("JSON for a table", keypoints('[\n {"name": "a"}]'), "keypoints.csv is no list: it is JSON"),
    FOLDER.broken(
        "another answer of a server",
        write("test.txt", "404: Not Found\n"),
        "The first is 404: Not Found, the first picture",
        "No name in PLACE/data/test.txt is that of a picture.",
    ),
    FOLDER.broken("listed in vain", write("train.txt", "a\ncreature_004"), "images/a"),
]


@pytest.mark.parametrize("row", PICTURES)
def test_a_picture_that_cannot_be_read_is_refused_by_name(row, refused):
    refused(row)


@pytest.mark.parametrize("row", MASKS)
def test_a_mask_that_cannot_be_meant_is_refused_by_name(row, refused):
    refused(row)


@pytest.mark.parametrize("row", LISTS)
def test_a_list_that_cannot_be_meant_is_refused_with_its_line(row, refused):
    refused(row)


def test_a_whole_folder_is_read(read_whole):
    read_whole(FOLDER)
