"""What of a mask is object: files as people, networks and paint programs write them, and the right mask of each."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets import masks
from datasets.base import forced
from datasets.files import UnreadableFile
from datasets.pictures import Pictures
from tests.mistakes.harness import DataSet, Place
from tests.test_folder import folder
from utils.errors import UserError

SHAPE = (48, 64)
OBJECT = np.zeros(SHAPE, bool)
OBJECT[10:35, 20:50] = True
PICTURE = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
SOFT = cv2.GaussianBlur(OBJECT.astype(np.uint8) * 255, (9, 9), 3)
RING = cv2.dilate(OBJECT.astype(np.uint8), np.ones((3, 3))) - cv2.erode(OBJECT.astype(np.uint8), np.ones((3, 3)))
WAVES = np.round(1.5 * (1 + np.sin(np.arange(SHAPE[1]) / 12))) * np.ones(SHAPE)  # 0 to 3, in areas
SMALL = np.zeros(SHAPE, bool)
SMALL[20:24, 30:34] = True
FRAMED = np.full(SHAPE, 255)
FRAMED[0] = 0
BORDER = cv2.dilate(SMALL.astype(np.uint8), np.ones((11, 11))) - SMALL
VOC = np.array([(0, 0, 0), *((i, 0, 255 - i) for i in range(1, 256))], np.uint8)
PASCAL = VOC.copy()
PASCAL[255] = 224, 224, 192
GREY = np.repeat(np.arange(256)[:, None], 3, axis=1)
FAR_GREY = np.repeat(np.array([0, 80, 160, *range(3, 256)])[:, None], 3, axis=1)
BLACK_AND_WHITE, RED = np.array([(0, 0, 0), (255, 255, 255)]), np.array([(0, 0, 0), (128, 0, 0)])


def noise(low: int, high: int) -> np.ndarray:
    return np.random.default_rng(low).integers(low, high, SHAPE)


# Grey photographs: of all shades; of dark ones, but for two highlights; of black and white hair
PHOTOGRAPH = cv2.GaussianBlur(PICTURE[..., 0], (5, 5), 2)
DARK = noise(0, 50)
DARK[20:22, 30:32] = 250
FUR = np.where(PICTURE[..., 1] < 128, noise(0, 40), noise(215, 256))


def grey(values: np.ndarray, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.asarray(values).astype(dtype))


def with_alpha(colours: np.ndarray | int, alpha: np.ndarray) -> Image.Image:
    """Grey if ``colours`` have no channels."""
    colours = np.broadcast_to(colours, SHAPE) if np.ndim(colours) < 3 else colours
    return Image.fromarray(np.dstack([colours, alpha]).astype(np.uint8))


def indexed(indices: np.ndarray, colours: np.ndarray) -> Image.Image:
    picture = grey(indices)
    picture.putpalette(np.asarray(colours, np.uint8).tobytes())
    return picture


def as_colours(picture: Image.Image, mode: str) -> Image.Image:
    """Converted with its palette; with alpha, index 0 is transparent."""
    if mode == "RGBA":
        picture.info["transparency"] = 0
    return picture.convert(mode)


LABELLED = OBJECT * 1 + (OBJECT & (np.arange(SHAPE[1]) > 30))
VOID_RING = np.where(RING, 255, LABELLED)  # label maps with void
VOID_AREA = np.where(np.arange(SHAPE[1]) >= 46, 255, LABELLED)
WIDE = cv2.dilate(OBJECT.astype(np.uint8), np.ones((13, 13))) > cv2.erode(OBJECT.astype(np.uint8), np.ones((5, 5)))
ALL, NONE = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)

# Ending, picture, the right mask, what is told of it; and how it is saved.
CASES: dict[str, tuple] = {
    # of two values
    "0 and 1": ("png", grey(OBJECT), OBJECT, None),
    "0 and 255": ("png", grey(OBJECT * 255), OBJECT, None),
    "0 and 7": ("png", grey(OBJECT * 7), OBJECT, None),
    "one bit": ("png", Image.fromarray(OBJECT), OBJECT, None),
    "16 bits": ("png", grey(OBJECT * 65535, np.uint16), OBJECT, None),
    "16 bits, 0 and 1": ("tif", grey(OBJECT, np.uint16), OBJECT, None),
    "empty": ("png", grey(NONE), NONE, None),
    "all object": ("png", grey(ALL * 255), ALL, None),
    "three grey channels": ("png", grey(OBJECT * 255).convert("RGB"), OBJECT, None),
    "1 and 2": ("png", grey(OBJECT + 1), OBJECT, masks.NO_ZERO),
    "3 and 250": ("png", grey(np.where(OBJECT, 250, 3)), OBJECT, masks.NO_ZERO),
    # shades
    "1 to 5 for background": ("png", grey(np.where(OBJECT, 255, noise(1, 6))), OBJECT, masks.SHADES),
    "0 to 5 for background": ("png", grey(np.where(OBJECT, 255, noise(0, 6))), OBJECT, masks.SHADES),
    "smooth, from 0, and 255": ("png", grey(np.where(OBJECT, 255, WAVES)), OBJECT, masks.WHITE_AREAS),
    "0 and 1 in areas, and 255": ("png", grey(np.where(OBJECT, 255, WAVES > 1)), OBJECT, masks.WHITE_AREAS),
    "labels, and void in areas": ("png", grey(VOID_AREA), VOID_AREA == 255, masks.WHITE_AREAS),
    "sigmoid": ("png", grey(np.where(OBJECT, noise(180, 256), noise(1, 40))), OBJECT, masks.SHADES),
    "soft edges": ("png", grey(SOFT), SOFT >= 128, masks.SHADES),
    "soft edges, 16 bits": ("png", grey(SOFT * 257.0, np.uint16), SOFT >= 128, masks.SHADES),
    "a ramp": (
        "png",
        grey(np.tile(np.linspace(0, 255, 64), (48, 1))),
        np.tile(np.arange(64) >= 32, (48, 1)),
        masks.SHADES,
    ),
    "JPEG": ("jpg", grey(OBJECT * 255), OBJECT, masks.SHADES, {"quality": 60}),
    "JPEG in colour": ("jpg", grey(OBJECT * 255).convert("RGB"), OBJECT, masks.SHADES, {"quality": 60}),
    "WebP": ("webp", grey(OBJECT * 255), OBJECT, masks.SHADES, {"quality": 60}),
    # labels
    "a small one, within a void border that is larger": (
        "png",
        grey(SMALL * 15 + BORDER * 255),
        SMALL,
        masks.LABELS,
    ),
    "labels": ("png", grey(LABELLED), OBJECT, masks.LABELS),
    "labels in greys": ("png", grey(LABELLED * 100), OBJECT, masks.LABELS),
    "a trimap": ("png", grey(np.where(RING, 128, OBJECT * 255)), OBJECT & (RING == 0), masks.TRIMAP),
    "a trimap, wide": ("png", grey(np.where(WIDE, 20, OBJECT * 255)), OBJECT & ~WIDE, masks.TRIMAP),
    "a trimap, 16 bits": (
        "png",
        grey(np.where(WIDE, 128, OBJECT * 255) * 257, np.uint16),
        OBJECT & ~WIDE,
        masks.TRIMAP,
    ),
    "labels, close ones and one above 127": (
        "png",
        grey(np.where(np.arange(SHAPE[1]) > 40, 140, 1 + (np.arange(SHAPE[1]) > 30)) * OBJECT),
        OBJECT,
        masks.LABELS,
    ),
    "labels, one close to another and one nearly white": (
        "png",
        grey(np.choose(np.arange(SHAPE[1]) // 10 % 3, [1, 140, 250]) * OBJECT),
        OBJECT,
        masks.LABELS,
    ),
    "close shades in areas, edges, and nearly white": (
        "png",
        grey(np.where(RING, 100, np.where(OBJECT, 250, WAVES > 1))),
        OBJECT & (RING == 0),
        masks.SHADES,
    ),
    "parts in black, grey and white": ("png", grey(np.minimum(LABELLED * 128, 255)), OBJECT, masks.LABELS),
    "VOC": ("png", indexed(np.where(RING, 255, LABELLED * 15), VOC), OBJECT & (RING == 0), masks.LABELS),
    "VOC in greys": ("png", grey(np.where(RING, 255, LABELLED)), OBJECT & (RING == 0), masks.LABELS),
    "0, 1 and void": ("png", grey(np.where(RING, 255, OBJECT)), OBJECT & (RING == 0), masks.LABELS),
    "VOC, background transparent": (
        "png",
        indexed(VOID_RING, PASCAL),
        OBJECT & (RING == 0),
        masks.TRANSPARENT,
        {"transparency": 0},
    ),
    "VOC as colours": ("png", as_colours(indexed(VOID_RING, PASCAL), "RGB"), OBJECT & (RING == 0), masks.COLOURS),
    "VOC as RGBA": ("png", as_colours(indexed(VOID_RING, PASCAL), "RGBA"), OBJECT & (RING == 0), masks.TRANSPARENT),
    "void in white": (
        "png",
        Image.fromarray(np.where(RING[..., None], np.uint8(255), VOC[LABELLED])),
        OBJECT & (RING == 0),
        masks.COLOURS,
    ),
    "VOC in a palette of greys": ("png", indexed(VOID_RING, GREY), OBJECT & (RING == 0), masks.LABELS),
    "VOC in greys far apart": (
        "png",
        indexed(VOID_RING, FAR_GREY),
        OBJECT & (RING == 0),
        masks.LABELS,
    ),
    "greys as RGB": ("png", as_colours(indexed(VOID_RING, GREY), "RGB"), OBJECT & (RING == 0), masks.LABELS),
    "greys as RGBA": ("png", as_colours(indexed(VOID_RING, GREY), "RGBA"), OBJECT & (RING == 0), masks.TRANSPARENT),
    "greys, RGBA, all opaque": ("png", indexed(VOID_RING, GREY).convert("RGBA"), OBJECT & (RING == 0), masks.LABELS),
    "VOC of 16 bits": (
        "png",
        grey(np.where(RING, 65535, LABELLED), np.uint16),
        OBJECT & (RING == 0),
        masks.LABELS,
    ),
    "VOC, 255 in 16 bits": ("png", grey(VOID_AREA, np.uint16), OBJECT & (VOID_AREA < 255), masks.LABELS),
    "VOC without background": ("png", indexed(np.where(RING, 255, 15), PASCAL), RING == 0, None),
    "VOC with nothing known": ("png", indexed(RING * 255, PASCAL), NONE, None),
    # alpha
    "white, shape in alpha": ("png", with_alpha(255, OBJECT * 255), OBJECT, masks.TRANSPARENT),
    "black, shape in alpha": ("png", with_alpha(0, OBJECT * 255), OBJECT, masks.TRANSPARENT),
    "a photograph cut out": ("png", with_alpha(PICTURE, OBJECT * 255), OBJECT, masks.TRANSPARENT),
    "a grey photograph cut out": ("png", with_alpha(PHOTOGRAPH, OBJECT * 255), OBJECT, masks.TRANSPARENT),
    "a grey photograph cut out, in RGB": (
        "png",
        with_alpha(np.repeat(PHOTOGRAPH[..., None], 3, -1), OBJECT * 255),
        OBJECT,
        masks.TRANSPARENT,
    ),
    "a dark photograph cut out": ("png", with_alpha(DARK, OBJECT * 255), OBJECT, masks.TRANSPARENT),
    "one of black and white fur": ("png", with_alpha(FUR, OBJECT * 255), OBJECT, masks.TRANSPARENT),
    "cut out with soft edges": ("png", with_alpha(PICTURE, SOFT), SOFT >= 128, masks.TRANSPARENT),
    "0 and 1 below alpha": ("png", with_alpha(OBJECT, FRAMED), OBJECT, masks.TRANSPARENT),
    "soft edges below alpha": ("png", with_alpha(SOFT, FRAMED), SOFT >= 128, masks.TRANSPARENT),
    "alpha of 0 and 1": ("png", with_alpha(255, OBJECT), OBJECT, masks.TRANSPARENT),
    "mask under alpha that is full": ("png", with_alpha(OBJECT * 255, ALL * 255), OBJECT, None),
    "mask under alpha that is 0": ("png", with_alpha(OBJECT * 255, NONE), OBJECT, None),
    "white below alpha that is 0": ("png", with_alpha(255, NONE), NONE, masks.TRANSPARENT),
    "black below alpha that is 0": ("png", with_alpha(0, NONE), NONE, None),
    "mask and border in alpha": (
        "png",
        with_alpha(OBJECT * 255, (np.arange(64) < 40) * ALL * 255),
        OBJECT & (np.arange(64) < 40),
        masks.TRANSPARENT,
    ),
    "a transparent index": ("png", indexed(~OBJECT, BLACK_AND_WHITE), OBJECT, masks.TRANSPARENT, {"transparency": 1}),
    "a transparent grey": ("png", grey(OBJECT * 9), OBJECT, masks.TRANSPARENT, {"transparency": 0}),
    # palettes
    "black is 0": ("png", indexed(OBJECT, BLACK_AND_WHITE), OBJECT, None),
    "white is 0": ("png", indexed(~OBJECT, BLACK_AND_WHITE[::-1]), OBJECT, masks.GREYS),
    "white is 0, GIF": ("gif", indexed(~OBJECT, BLACK_AND_WHITE[::-1]), OBJECT, None),
    "red is 1": ("png", indexed(OBJECT, RED), OBJECT, None),
    "red is 0": ("png", indexed(~OBJECT, RED[::-1]), OBJECT, masks.BLACK_INDEX),
    "red and white": ("png", indexed(OBJECT, [(255, 0, 0), (255, 255, 255)]), OBJECT, masks.NO_BLACK),
    "white is 2, black twice": (
        "png",
        indexed(np.where(OBJECT, 2, np.arange(64) > 55), [(0,) * 3, (0,) * 3, (255,) * 3]),
        OBJECT,
        masks.GREYS,
    ),
    "red is 0, black twice": (
        "png",
        indexed(np.where(OBJECT, 0, 1 + (np.arange(64) > 9)), [(128, 0, 0), (0, 0, 0), (0, 0, 0)]),
        OBJECT,
        masks.BLACK_INDEX,
    ),
    "all of one part": ("png", indexed(OBJECT * 14 + 1, VOC), ALL, None),
    "colours": ("png", Image.fromarray(VOC[LABELLED * 100]), OBJECT, masks.COLOURS),
}


def write(path: Path, name: str) -> Path:
    ending, picture, _, _, *options = CASES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.with_suffix(f".{ending}")
    picture.save(path, **({"lossless": True} if ending == "webp" and not options else {}), **(options or [{}])[0])
    return path


def read(path: Path, forced: masks.Forced = None, ignore_label: int | None = 255) -> masks.LabelMap:
    return masks.read_mask(path, Path("picture.jpg"), PICTURE, forced=forced, ignore_label=ignore_label)


@pytest.mark.parametrize("name", CASES)
def test_what_is_object_is_decided_by_what_is_in_the_file(tmp_path, name):
    found = read(write(tmp_path / "mask", name))
    _, _, expected, kind, *_ = CASES[name]
    np.testing.assert_array_equal(found.labels, expected)
    told = [remark.kind for remark in found.remarks]
    assert told == ([] if kind is None else [kind]) or (name == "white is 0, GIF" and told in ([], [masks.GREYS]))


def test_void_pixels_of_a_label_map_in_the_place_of_a_mask_are_known(tmp_path):
    with_void = [name for name in CASES if "VOC" in name or name.startswith("greys") or "void in white" in name]
    for name in ("0, 1 and void", "a trimap", *with_void):
        if name == "VOC, 255 in 16 bits":
            continue  # an area, below
        np.testing.assert_array_equal(read(write(tmp_path / "mask", name)).void, RING)
        assert read(write(tmp_path / "mask", name), ignore_label=None).void is None
    np.testing.assert_array_equal(read(write(tmp_path / "mask", "VOC, 255 in 16 bits")).void, VOID_AREA == 255)
    np.testing.assert_array_equal(read(write(tmp_path / "mask", "a trimap, wide")).void, WIDE)
    for name in ("0 and 255", "parts in black, grey and white", "JPEG", "0 to 5 for background"):
        assert read(write(tmp_path / "mask", name)).void is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.where(RING, 3, np.where(OBJECT, 1, 2)), "3 values from 1 to 3"),
        (SOFT // 3, r"\d+ values from 0 to 85"),
        (noise(1, 6), "5 values from 1 to 5"),
    ],
    ids=["pets", "faint", "nothing found"],
)
def test_where_nothing_says_what_is_object_a_threshold_is_asked_for(tmp_path, values, words):
    grey(values).save(tmp_path / "mask.png")
    with pytest.raises(
        UnreadableFile, match=f"mask.png has {words}.*dataset.mask_values=.1..*dataset.mask_threshold=VALUE"
    ):
        read(tmp_path / "mask.png")
    np.testing.assert_array_equal(read(tmp_path / "mask.png", 3).labels, values >= 3)


@pytest.mark.parametrize("name", ["1 to 5 for background", "labels", "soft edges", "0 and 255", "JPEG"])
@pytest.mark.parametrize("threshold", [1, 4, 200])
def test_a_threshold_takes_the_place_of_the_rule(tmp_path, name, threshold):
    path = write(tmp_path / "mask", name)
    found = read(path, threshold)
    np.testing.assert_array_equal(found.labels, np.asarray(Image.open(path)) >= threshold)
    assert found.remarks == ()


PETS = np.where(RING, 3, np.where(OBJECT, 1, 2))


@pytest.mark.parametrize(
    ("mask", "values", "expected"),
    [
        (grey(PETS), (1,), OBJECT & (RING == 0)),
        (grey(PETS), (1, 3), OBJECT | (RING > 0)),
        (grey(PETS, np.uint16), (1,), OBJECT & (RING == 0)),
        (grey(~OBJECT * 255), (0,), OBJECT),
        (Image.fromarray(~OBJECT), (0,), OBJECT),
        (indexed(LABELLED, VOC), (2,), LABELLED == 2),
        (with_alpha(~OBJECT * 255, FRAMED), (0,), OBJECT),
        (with_alpha(PICTURE, OBJECT * 255), (0,), OBJECT),
    ],
    ids=["pets", "pets with border", "16 bits", "black on white", "one bit", "palette", "below alpha", "cut out"],
)
def test_values_that_are_the_object_take_the_place_of_the_rule(tmp_path, mask, values, expected):
    mask.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read(tmp_path / "mask.png", values).labels, expected)


@pytest.mark.parametrize(
    ("mask", "values", "ignore_label", "void"),
    [
        (grey(VOID_RING), (1,), 255, RING > 0),
        (grey(VOID_AREA), (1, 2), 255, VOID_AREA == 255),
        (grey(np.where(RING, 65535, LABELLED), np.uint16), (2,), 255, RING > 0),
        (grey(PETS), (1,), 3, RING > 0),
        (indexed(VOID_RING, VOC), (1,), 255, RING > 0),
        (grey(VOID_RING), (1, 255), 255, None),
        (grey(VOID_RING), (1,), None, None),
        (grey(~OBJECT * 255), (0,), 255, None),
        (grey(255 - SOFT), (0, 1, 2), 255, None),
        (grey(LABELLED * 100 + RING), (100,), 255, None),
    ],
    ids=[
        *("labels", "in areas", "16 bits", "pets", "palette"),
        *("named", "no such label", "black on white", "shades", "not there"),
    ],
)
def test_void_beside_the_values_that_are_the_object_is_known(tmp_path, mask, values, ignore_label, void):
    mask.save(tmp_path / "mask.png")
    found = read(tmp_path / "mask.png", values, ignore_label)
    np.testing.assert_array_equal(found.labels, np.isin(np.asarray(mask), values))
    assert (found.void is None) if void is None else (found.void == void).all()


def test_values_in_a_palette_with_a_transparent_colour_are_its_indices(tmp_path):
    indexed(VOID_RING, PASCAL).save(tmp_path / "mask.png", transparency=0)
    for rule, expected in (((2,), VOID_RING == 2), (2, VOID_RING >= 2)):
        found = read(tmp_path / "mask.png", rule)
        np.testing.assert_array_equal(found.labels, expected)
    np.testing.assert_array_equal(read(tmp_path / "mask.png", (2,)).void, RING)


@pytest.mark.parametrize("name", ["colours", "VOC as colours", "VOC as RGBA"])
def test_a_coloured_mask_has_no_values_to_name(tmp_path, name):
    path = write(tmp_path / "mask", name)
    for rule, key in (((1,), r"mask_values=\[1\]"), (128, "mask_threshold=128")):
        if (name, rule) == ("VOC as RGBA", 128):
            np.testing.assert_array_equal(read(path, rule).labels, OBJECT | (RING > 0))  # its alpha's
            continue
        with pytest.raises(
            UserError, match=f"mask.png is a coloured picture, in which dataset.{key} means nothing: save"
        ):
            read(path, rule)


@pytest.mark.parametrize("mask", [grey(~OBJECT * 255), Image.fromarray(~OBJECT), grey(255 - SOFT)])
def test_an_object_all_around_the_picture_is_suspected_to_be_the_background(tmp_path, mask):
    mask.save(tmp_path / "mask.png")
    assert masks.INVERTED in [remark.kind for remark in read(tmp_path / "mask.png").remarks]
    assert read(tmp_path / "mask.png", (255,)).remarks == ()


def test_a_threshold_beside_values_is_refused_and_so_are_none():
    with pytest.raises(UserError, match="mask_values=.1. says .*mask_threshold=2 is given too"):
        forced(2, [1])
    with pytest.raises(UserError, match="names no value"):
        forced(None, [])
    assert (forced(3, None), forced(None, [1, 3]), forced(None, None)) == (3, (1, 3), None)


def test_values_that_no_file_can_have_are_refused(tmp_path):
    path = write(tmp_path / "mask", "0 and 255")
    with pytest.raises(UserError, match=r"dataset.mask_values=\[300\] is above 255, the largest value that .*mask.png"):
        read(path, (300,))


@pytest.mark.parametrize("name", ["0 and 255", "labels", "red is 1", "white, shape in alpha", "JPEG"])
def test_a_threshold_that_no_value_reaches_is_refused(tmp_path, name):
    path = write(tmp_path / "mask", name)
    with pytest.raises(UserError, match=f"dataset.mask_threshold=300 is above 255, the largest value that {path}"):
        read(path, 300)
    assert not read(write(tmp_path / "mask", "empty"), 255).labels.any()
    np.testing.assert_array_equal(read(write(tmp_path / "mask", "16 bits"), 300).labels, OBJECT)


# --- through the data sets and programs

FOLDER = DataSet("folder", ".", "dataset.train_mask=gt dataset.eval_mask=gt")


def masks_of_shades(root: Path) -> None:
    """Of the first two pictures, held out, and of the first of training: as a network might have given them."""
    for number in (1, 2, 4):
        path = root / f"masks/creature_00{number}.png"
        mask = np.asarray(Image.open(path)) > 0
        grey(np.where(mask, 255, np.random.default_rng(0).integers(1, 6, mask.shape))).save(path)


def test_shades_are_read_counted_and_named_by_the_check_and_a_threshold_silences_it(place: Place, accepted, capsys):
    root = place.data("folder")
    before = {split: [sample.foreground for sample in folder_samples(root, split)] for split in ("train", "test")}
    masks_of_shades(root)
    for split, masks_before in before.items():
        for mask, sample in zip(masks_before, folder_samples(root, split), strict=True):
            np.testing.assert_array_equal(sample.foreground, mask)
    accepted(f"check {FOLDER.config}")
    line = re.escape(masks.SHADES.format(count=3)) + " For example .*masks/creature_00[124].png"
    assert len(re.findall(line, capsys.readouterr().out)) == 1
    for rule in ("mask_threshold=128", "mask_values=[1,255]"):
        accepted(f"check {FOLDER.config} dataset.{rule}")
        assert "of shades" not in capsys.readouterr().out


def folder_samples(root: Path, split: str) -> list:
    dataset = folder(root, split)
    return [dataset[index] for index in range(len(dataset))]


def test_pictures_to_predict_have_the_same_masks(tmp_path):
    for name in ("1 to 5 for background", "a photograph cut out", "white is 0"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(PICTURE).save(tmp_path / f"images/{name}.png")
        write(tmp_path / "masks" / name, name)
    pictures = Pictures(tmp_path / "images", tmp_path / "masks", box_padding=0.05)
    for index in range(3):
        np.testing.assert_array_equal(pictures[index].foreground, OBJECT)
        assert len(pictures[index].remarks) == 1


def test_a_training_says_once_what_it_meets_and_at_its_end_how_often(place: Place, accepted, capsys):
    root = place.data("folder")
    for path in (root / "masks").iterdir():
        mask = np.asarray(Image.open(path)) > 0
        grey(np.where(mask, 250, 3)).save(path)
    options = "experiment=debug num_steps=2 evaluation.every=0 logging.wandb=disabled output_dir=PLACE/run device=cpu"
    accepted(f"train.py {FOLDER.config} {options}")
    found = re.findall(f"^(\\d+){re.escape(masks.NO_ZERO[7:])} For example .*creature_", capsys.readouterr().err, re.M)
    assert (found[0], found[-1]) == ("2", "4")  # of a batch, and of both; between them those that are held out
