import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from datasets import build
from tests.composition import composed
from tests.shared import SHARED, needs_shared
from tests.trees import KEYPOINTS, cub, draw_cub_tree
from utils.errors import UserError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_cub_tree(tmp_path_factory.mktemp("drawn"), part_maps=True)


@pytest.fixture
def tree(tmp_path):
    """A tree that a test may break."""
    return draw_cub_tree(tmp_path / "CUB")


def first_picture(root):
    return next((root / "CUB_200_2011/images").glob("*/Bird_0001.jpg"))


def test_splits_follow_the_text_file(drawn):
    train, test = cub(drawn, "train", "gt"), cub(drawn, "test", "gt")
    assert (len(train), len(test)) == (6, 4)
    assert not {train[i].name for i in range(6)} & {test[i].name for i in range(4)}


def test_a_sample_holds_zero_based_annotation(drawn):
    dataset = cub(drawn, "train", "gt")
    sample = dataset[2]
    row = (drawn / "CUB_200_2011/bounding_boxes.txt").read_text().splitlines()[2]
    x, y, width, height = map(float, row.split()[1:])
    np.testing.assert_array_equal(sample.box, [x - 1, y - 1, x + width - 2, y + height - 2])
    rows, columns = np.nonzero(sample.foreground)
    np.testing.assert_array_equal(sample.box, [columns.min(), rows.min(), columns.max(), rows.max()])
    part_row = (drawn / "CUB_200_2011/parts/part_locs.txt").read_text().splitlines()[2 * len(KEYPOINTS)]
    np.testing.assert_allclose(sample.keypoints[0], np.array(part_row.split()[2:], float) - [1, 1, 0])
    np.testing.assert_array_equal(sample.keypoints[2], [0, 0, 0])
    assert sample.label == 1 + 3 % 3
    assert sample.image.dtype == sample.foreground.dtype == np.uint8
    assert sample.image.shape == (48, 64, 3) and set(np.unique(sample.foreground)) == {0, 1}


def test_each_mask_choice_reads_its_own_folder(drawn):
    areas = [int(cub(drawn, "test", mask)[0].foreground.sum()) for mask in ("gt", "supervised", "unsupervised")]
    assert areas[0] < areas[1] < areas[2]


def test_only_255_of_a_segmentation_is_object(tree):
    path = next((tree / "CUB_200_2011/segmentations").glob("*/Bird_0001.png"))
    pixels = np.zeros((48, 64), np.uint8)
    pixels[10, :3] = 51, 204, 255
    Image.fromarray(pixels).save(path)
    assert cub(tree, "train", "gt")[0].foreground.sum() == 1


def test_part_maps_are_read_where_they_are_drawn(drawn, tree):
    dataset = cub(drawn, "test", "supervised")
    sample = dataset[0]
    assert dataset.part_names == ["left half", "right half"]
    assert sample.part_map.shape == sample.image.shape[:2] and set(np.unique(sample.part_map)) == {0, 1, 2}
    without = cub(tree, "test", "gt")
    assert without.part_names is None and without[0].part_map is None


def test_a_part_map_with_an_unknown_label_is_refused(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "CUB")
    path = next((tmp_path / "CUB/part_maps").glob("*/Bird_0001.png"))
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(path)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))} has a label 7"):
        cub(tmp_path / "CUB", "train", "gt")[0]


def test_left_and_right_keypoints_mirror_each_other(drawn):
    dataset = cub(drawn, "train", "gt")
    assert dataset.keypoint_names == list(KEYPOINTS)
    assert dataset.mirrored_keypoints == [0, 2, 1, 3]


@needs_shared
def test_the_fifteen_keypoints_of_cub_mirror_as_published():
    dataset = cub(SHARED / "data/CUB", "train", "gt")
    assert dataset.mirrored_keypoints == [0, 1, 2, 3, 4, 5, 10, 11, 12, 9, 6, 7, 8, 13, 14]


@needs_shared
@pytest.mark.parametrize("split", ["train", "test"])
def test_real_photographs_are_read_with_both_masks(split):
    for mask in ("gt", "supervised"):
        dataset = cub(SHARED / "data/CUB", split, mask)
        assert len(dataset) == 50
        for index in range(0, 50, 10):
            sample = dataset[index]
            assert sample.label in (1, 2, 3, 17, 21)
            assert sample.keypoints.shape == (15, 3)
            assert 0.01 < sample.foreground.mean() < 0.95


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_every_mode_become_rgb(tree, mode):
    path = first_picture(tree)
    colour = Image.new("RGB", (64, 48), (200, 40, 90))
    picture = colour.convert(mode, palette=Image.Palette.ADAPTIVE)
    if mode in ("RGBA", "LA"):
        picture.putalpha(0)
    picture.save(path, format="TIFF")
    image = cub(tree, "train", "gt")[0].image
    assert image.shape == (48, 64, 3) and image.dtype == np.uint8
    if mode in ("RGBA", "P", "CMYK"):
        assert np.abs(image.astype(int) - (200, 40, 90)).max() <= 2
    else:
        assert (image == image[..., :1]).all()


def test_a_mask_with_alpha_or_one_bit_is_read(tree):
    dataset = cub(tree, "train", "gt")
    expected = dataset[0].foreground
    path = next((tree / "CUB_200_2011/segmentations").glob("*/Bird_0001.png"))
    for mode in ("LA", "RGBA", "1"):
        Image.fromarray(expected * 255).convert(mode).save(path)
        np.testing.assert_array_equal(dataset[0].foreground, expected)


@pytest.mark.parametrize(
    "name",
    ["images.txt", "train_test_split.txt", "image_class_labels.txt", "bounding_boxes.txt", "parts/parts.txt",
     "parts/part_locs.txt", "images"],
)  # fmt: skip
def test_a_missing_list_or_folder_is_named(tree, name):
    path = tree / "CUB_200_2011" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError) as error:
        cub(tree, "train", "gt")
    message = str(error.value)
    assert name in message and str(tree / "CUB_200_2011") in message and "docs/data/" in message


def test_all_that_is_missing_is_named_at_once(tree):
    for name in ("images.txt", "bounding_boxes.txt"):
        (tree / "CUB_200_2011" / name).unlink()
    with pytest.raises(UserError, match=r"images\.txt, bounding_boxes\.txt"):
        cub(tree, "train", "gt")


def test_a_missing_data_set_names_the_folder_and_the_key_to_set(tmp_path):
    with pytest.raises(UserError, match="no folder .*nowhere/CUB_200_2011.*dataset_root=.*docs/data/"):
        cub(tmp_path / "nowhere", "train", "gt")


def test_a_missing_mask_folder_names_the_other_choices(tmp_path):
    root = draw_cub_tree(tmp_path, masks=("segmentations", "pseudolabels"))
    with pytest.raises(UserError, match=r"supervisedlabels for supervised masks; masks on disk: gt, unsupervised"):
        cub(root, "test", "supervised")


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("images.txt", "three a/b.jpg"),
        ("train_test_split.txt", "3 yes"),
        ("train_test_split.txt", "3 2"),
        ("image_class_labels.txt", "3"),
        ("image_class_labels.txt", "3 0"),
        ("bounding_boxes.txt", "3 1.0 2.0 x 4.0"),
        ("bounding_boxes.txt", "3 1.0 2.0 0.0 4.0"),
        ("bounding_boxes.txt", "3 nan 2.0 3.0 4.0"),
        ("parts/part_locs.txt", "3 1 10.0"),
    ],
)
def test_a_malformed_line_is_refused_with_file_and_number(tree, name, bad):
    path = tree / "CUB_200_2011" / name
    lines = path.read_text().splitlines()
    lines[2] = bad
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}, line 3: .*{re.escape(bad)}"):
        cub(tree, "train", "gt")


@pytest.mark.parametrize("name", ["train_test_split", "image_class_labels", "bounding_boxes", "parts/part_locs"])
def test_a_list_that_was_cut_off_is_refused(tree, name):
    path = tree / "CUB_200_2011" / f"{name}.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[: len(lines) // 2]))
    with pytest.raises(UserError, match=rf"{name}\.txt has .* image \d+"):
        cub(tree, "test", "gt")


def test_a_keypoint_without_a_name_is_refused(tree):
    path = tree / "CUB_200_2011/parts/part_locs.txt"
    path.write_text(path.read_text().replace("1 4 ", "1 9 ", 1))
    with pytest.raises(UserError, match="image 1 has a part 9"):
        cub(tree, "train", "gt")


def test_a_mask_of_another_size_is_refused_with_both_sizes(tree):
    path = next((tree / "CUB_200_2011/segmentations").glob("*/Bird_0001.png"))
    Image.new("L", (10, 20)).save(path)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))} is 10 x 20 .*{first_picture(tree)} is 64 x 48"):
        cub(tree, "train", "gt")[0]


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "text", "folder"])
def test_a_broken_picture_is_named(tree, damage):
    path = first_picture(tree)
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"not a picture"}[damage])
    with pytest.raises(UserError, match=re.escape(str(path))):
        cub(tree, "train", "gt")[0]


def test_a_missing_mask_file_is_named(tree):
    path = next((tree / "supervisedlabels").glob("*/Bird_0001.png"))
    path.unlink()
    with pytest.raises(UserError, match=rf"Missing {re.escape(str(path))}"):
        cub(tree, "train", "supervised")[0]


def test_the_cleaned_list_selects_training_images_and_gives_box_and_mask(tmp_path):
    root = draw_cub_tree(tmp_path / "CUB", cleaned=(2, 5))
    plain = draw_cub_tree(tmp_path / "plain")
    dataset, whole = cub(root, "train", "gt"), cub(plain, "train", "gt")
    assert [dataset[i].name[-8:-4] for i in range(len(dataset))] == ["0002", "0005"]
    assert dataset.notes[0].startswith("CUB: 2 pictures, those of the cleaned list ")
    for index, original in ((0, whole[1]), (1, whole[4])):
        sample = dataset[index]
        rows = np.nonzero(sample.foreground)[0]
        np.testing.assert_array_equal(sample.box[[0, 1, 2]], original.box[[0, 1, 2]])
        assert sample.box[3] == rows.max() < original.box[3]
        np.testing.assert_array_equal(sample.foreground[: rows.max() + 1], original.foreground[: rows.max() + 1])
        np.testing.assert_array_equal(sample.keypoints, original.keypoints)
    assert cub(root, "train", "supervised")[0].foreground.sum() > dataset[0].foreground.sum()
    assert len(cub(root, "test", "gt")) == 4


def test_a_cleaned_list_of_one_image_is_read(tmp_path):
    assert len(cub(draw_cub_tree(tmp_path, cleaned=(3,)), "train", "gt")) == 1


def test_without_a_cleaned_list_the_notes_say_so(tree):
    assert cub(tree, "train", "gt").notes == ["CUB: 6 pictures, the whole train split."]


def test_evaluation_does_not_depend_on_the_cleaned_list(tmp_path):
    draw_cub_tree(tmp_path / "CUB", cleaned=(3,))
    for purpose, count in (("training", 1), ("evaluation", 6)):
        assert len(build(composed("dataset_name=CUB", f"dataset_root={tmp_path}"), "train", purpose)) == count


def test_a_broken_cleaned_list_is_named(tmp_path):
    root = draw_cub_tree(tmp_path, cleaned=(2,))
    path = root / "CUB_200_2011/cachedir/cub/data/train_cub_cleaned.mat"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=re.escape(str(path))):
        cub(root, "train", "gt")


def test_a_cleaned_list_of_other_images_is_refused(tmp_path):
    root = draw_cub_tree(tmp_path, num_train=6, cleaned=(2, 3))
    path = root / "CUB_200_2011/train_test_split.txt"
    path.write_text(path.read_text().replace("3 1", "3 0"))
    with pytest.raises(UserError, match="Bird_0003.jpg, which is no training image"):
        cub(root, "train", "gt")


def test_training_and_evaluation_read_the_masks_of_their_own(tree):
    config = composed("dataset_name=CUB", f"dataset_root={tree.parent}")
    areas = {
        (split, purpose): build(config, split, purpose)[0].foreground.sum()
        for split in ("train", "test")
        for purpose in ("training", "evaluation")
    }
    for split in ("train", "test"):
        assert areas[split, "training"] < areas[split, "evaluation"]


def test_the_drawn_set_is_drawn_and_read_as_cub(tmp_path):
    few = ("dataset.drawing.num_train=3", "dataset.drawing.num_test=2", "dataset.drawing.size=40")
    config = composed("dataset_name=synthetic", f"dataset_root={tmp_path}", *few)
    train, test = (build(config, split, "training") for split in ("train", "test"))
    assert (len(train), len(test)) == (3, 2) and train.name == "synthetic"
    sample = test[0]
    np.testing.assert_array_equal(sample.part_map > 0, sample.foreground == 1)
    assert sample.part_map.max() <= len(test.part_names)


def test_a_picture_is_opened_when_its_sample_is_asked_for_and_not_before(tree):
    for path in (tree / "CUB_200_2011/images").glob("*/*.jpg"):
        os.truncate(path, 0)
    dataset = cub(tree, "train", "gt")
    with pytest.raises(UserError, match="Bird_0001.jpg: it is empty"):
        dataset[0]
