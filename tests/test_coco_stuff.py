"""COCO-Stuff: scaling, classes, curated lists."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from datasets import build, coco_stuff
from datasets.check import check
from datasets.coco_stuff import CLASSES, curate, is_curated, list_of, lookup
from datasets.sample import VOID, Sample
from datasets.windows import WindowCrops
from tests.composition import composed
from tests.trees import draw_coco_tree
from utils.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_coco_tree(tmp_path_factory.mktemp("coco") / "COCOStuff164k")


def config(root, *overrides, name="coco_stuff15"):
    return composed(f"dataset_name={name}", f"dataset_root={root.parent}", "loader.num_workers=0", *overrides)


def source(root, *overrides, split="train", name="coco_stuff15"):
    return build(config(root, *overrides, name=name), split, "training" if split == "train" else "evaluation")


def picture(root, name):
    """Picture and labels as they lie there."""
    image = np.asarray(Image.open(root / f"images/{name}.jpg"))
    return image.astype(float), np.asarray(Image.open(root / f"annotations/{name}.png"))


def scaled(image, step):
    """Bilinear, sampled with this step, written out."""
    sides = [round(side / step) for side in image.shape[:2]]
    places = [
        np.clip((np.arange(n) + 0.5) * step - 0.5, 0, side - 1) for n, side in zip(sides, image.shape, strict=False)
    ]
    (y, y0), (x, x0) = (
        (p, np.minimum(np.floor(p).astype(int), s - 2)) for p, s in zip(places, image.shape, strict=False)
    )
    fy, fx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    above = image[y0][:, x0] * (1 - fx) + image[y0][:, x0 + 1] * fx
    return above * (1 - fy) + (image[y0 + 1][:, x0] * (1 - fx) + image[y0 + 1][:, x0 + 1] * fx) * fy


def test_every_label_of_stuff_is_of_one_class():
    count = Counter(label for labels in CLASSES.values() for label in labels)
    assert sorted(count) == list(range(91, 182)) and set(count.values()) == {1} and len(CLASSES) == 15


def test_pictures_are_scaled_by_the_number_itself_and_fractions_of_training_pictures_are_cut(root):
    sets = [source(root), source(root, "dataset.fractions=round"), source(root, split="test")]
    off, values = 0, 0
    for index in range(len(sets[0])):
        cut, rounded, test = (data[index] for data in sets)
        image, labels = picture(root, cut.name)
        height, width = (round(0.33 * side) for side in labels.shape)
        assert cut.image.shape == (height, width, 3)
        wanted = scaled(image, 1 / 0.33)
        off += (cut.image != np.floor(wanted)).sum() + (rounded.image != np.rint(wanted)).sum()
        values += 2 * wanted.size
        np.testing.assert_array_equal(test.image, rounded.image)
        rows, columns = (
            np.minimum((np.arange(n) / 0.33).astype(int), s - 1)
            for n, s in zip((height, width), labels.shape, strict=True)
        )
        nearest = labels[rows][:, columns]
        np.testing.assert_array_equal(cut.class_map, lookup(list(CLASSES))[nearest])
    assert off < 0.002 * values  # where there is no fraction, or just a half, floats decide


def test_things_and_unlabelled_pixels_do_not_count(root):
    data = source(root)
    assert data.pixel_classes == list(CLASSES) and len(data) == 4
    for index in range(len(data)):
        sample = data[index]
        np.testing.assert_array_equal(sample.foreground, sample.class_map != VOID)
        present, counts = np.unique(sample.class_map, return_counts=True)
        assert (
            set(present) == {*range(15), VOID} and 0.09 < counts[-1] / counts.sum() < 0.15
        )  # two squares of seventeen


def test_coco_stuff_3_takes_unlabelled_pixels_for_sky_unless_told_not_to(root):
    published, repaired = (source(root, *more, name="coco_stuff3") for more in ((), ("dataset.unlabelled=void",)))
    assert published.pixel_classes == ["sky", "plant", "ground"]
    all_classes = source(root)
    for index in range(len(published)):
        fine = all_classes[index].class_map
        names = np.array([*CLASSES, *[""] * 240, ""], object)[fine]
        wanted = np.full(fine.shape, VOID)
        for place, name in enumerate(published.pixel_classes):
            wanted[names == name] = place
        np.testing.assert_array_equal(repaired[index].class_map, wanted)
        np.testing.assert_array_equal(repaired[index].foreground, wanted != VOID)
        differ = published[index].class_map != wanted
        assert differ.any() and (published[index].class_map[differ] == 0).all() and (wanted[differ] == VOID).all()
        assert published[index].foreground[differ].all()
        unlabelled = picture(root, published.sample_name(index))[1] == coco_stuff.UNLABELLED
        assert abs(differ.mean() - unlabelled.mean()) < 0.02
    with pytest.raises(UserError, match="dataset.unlabelled=sky needs sky among dataset.classes"):
        source(root, "dataset.classes=[wall]", "dataset.unlabelled=sky")


@pytest.mark.parametrize("side, rows", [(119, (5, 123)), (128, (0, 127)), (127, (1, 127))])
def test_small_pictures_are_centred_on_black_where_nothing_counts(side, rows):
    whole = np.full((side, 140), 7, np.uint8)
    sample = Sample("", "", np.full((side, 140, 3), 9, np.uint8), np.ones_like(whole), class_map=whole)
    crops = [
        WindowCrops(0).train_crop(sample, 128, np.random.default_rng(0)),
        WindowCrops(0).test_crop(sample, 128),
    ]
    for crop in crops:
        inside = np.zeros((128, 128), bool)
        inside[rows[0] : rows[1] + 1] = True
        np.testing.assert_array_equal(crop.foreground, inside)
        np.testing.assert_array_equal(crop.class_map, np.where(inside, 7, VOID))
        np.testing.assert_array_equal(crop.image, np.where(inside, 9, 0)[..., None].repeat(3, -1))


def test_windows_start_anywhere_in_training_and_in_the_middle_in_the_test():
    y, x = np.mgrid[:21, :30].astype(np.uint8)
    sample = Sample("", "", np.dstack([y, x, x]), np.ones((21, 30), np.uint8))
    crops = [WindowCrops(0).train_crop(sample, 16, np.random.default_rng(seed)) for seed in range(300)]
    starts = np.array([crop.image[0, 0, :2] for crop in crops])
    assert set(starts[:, 0]) == set(range(6)) and set(starts[:, 1]) == set(range(15))
    assert WindowCrops(0).test_crop(sample, 16).image[0, 0, :2].tolist() == [2, 7]  # floor(side / 2) - 8
    mirrored = [WindowCrops(1).train_crop(sample, 16, np.random.default_rng(seed)) for seed in range(3)]
    for crop, flipped in zip(crops, mirrored, strict=False):
        np.testing.assert_array_equal(flipped.image, crop.image[:, ::-1])


def test_the_rule_of_version_7():
    of_class = lookup(["wall"])
    labels = np.full((360, 400), 175, np.uint8)
    labels[:90] = coco_stuff.UNLABELLED
    assert is_curated(labels, of_class)
    assert not is_curated(labels[1:], of_class) and not is_curated(labels[:, 41:], of_class)
    labels[90, :1] = 3
    assert not is_curated(labels, of_class)


def test_the_lists_are_made_by_the_rule_and_their_lengths_compared(tmp_path, capsys):
    root = draw_coco_tree(tmp_path / "COCOStuff164k")
    with pytest.raises(UserError, match="is there already, and so is the other list: move them away"):
        curate(config(root))
    for folder in coco_stuff.FOLDERS:
        list_of(root, folder, "Coco164kFull_Stuff_Coarse_7").unlink()
    curate(config(root))
    kept = [list_of(root, folder, "Coco164kFull_Stuff_Coarse_7").read_text() for folder in coco_stuff.FOLDERS]
    assert kept == ["000000000001\n000000000002\n000000000003\n", "000000000004\n"]
    assert capsys.readouterr().out.endswith("4 pictures in all; published: 51,804\n")
    list_of(root, "val2017", "Coco164kFull_Stuff_Coarse_7").unlink()  # as if it had been stopped before
    curate(config(root))
    told = capsys.readouterr().out
    assert "is there already, and stays." in told and told.endswith("4 pictures in all; published: 51,804\n")
    # A fifth of the pixels is of these three.
    other = ["dataset.curated=Mine", "dataset.classes=[sky,plant,ground]", "dataset.unlabelled=void"]
    curate(config(root, *other))
    assert list_of(root, "train2017", "Mine").read_text() == ""
    assert capsys.readouterr().out.endswith("0 pictures in all\n")
    with pytest.raises(UserError, match="name no picture"):
        source(root, *other)


def test_missing_lists_say_where_they_are_to_be_had(tmp_path):
    root = draw_coco_tree(tmp_path / "COCOStuff164k")
    path = list_of(root, "val2017", "Coco164kFew_Stuff_6")
    path.unlink()
    with pytest.raises(
        UserError, match=r"missing .*/val2017/.*_6.txt. The curated lists are in https://.*; or make them"
    ) as e:
        source(root, name="coco_stuff3")
    assert "train2017" not in str(e.value)


def strange_label(root):
    path = root / "annotations/train2017/000000000002.png"
    labels = np.array(Image.open(path))
    labels[5, 5] = 200
    Image.fromarray(labels).save(path)


def add_line(text):
    def add(root):
        with list_of(root, "train2017", "Coco164kFull_Stuff_Coarse_7").open("a") as file:
            file.write(text)

    return add


BROKEN = {
    "absent picture": (
        add_line("000000000099\n"),
        "COCO-Stuff Coco164kFull_Stuff_Coarse_7: 2 of 10 files are missing: .*99",
    ),
    "no number": (add_line("99\n"), "Coarse_7.txt, line 4: expected '12 digits of a picture', found '99'"),
    "label": (strange_label, r"02.png has a label 200, but those of COCO-Stuff are 0 to 181, and 255"),
    "size": (
        lambda root: Image.new("L", (9, 9)).save(root / "annotations/train2017/000000000001.png"),
        "01.png is 9 x 9 pixels, but its picture",
    ),
    "no folder": (
        lambda root: (root / "images/val2017").rename(root / "images/val"),
        "no folder .*images/val2017. Set",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_not_right_is_named(tmp_path, capsys, fault):
    root = draw_coco_tree(tmp_path / "COCOStuff164k")
    damage, message = BROKEN[fault]
    damage(root)
    with pytest.raises(UserError, match=message):
        data = source(root)
        for index in range(len(data)):
            data[index]
    with pytest.raises(SystemExit):
        check(config(root, "batch_size=2"))
    assert "Training could not start" in capsys.readouterr().out
