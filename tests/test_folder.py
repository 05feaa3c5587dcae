import os
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
import train
from datasets.example import draw_folder, main
from datasets.folder import Folder, Options
from datasets.synthetic import KEYPOINTS, PARTS
from evaluation.labellers import kmeans
from evaluation.labellers.kmeans_colours import KMeansColours
from evaluation.options import EvaluationOptions, Sets
from evaluation.run import evaluate
from tests.composition import composed
from utils.errors import UserError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("example") / "mine"
    draw_folder(root, count=10, size=48)
    return root


def folder(root, split="train", mask="gt", **options) -> Folder:
    settings = {"test_share": 0.2, "box_padding": 0.05, "box_jitter": 0.05, "flip_probability": 0.5}
    return Folder(root, split, mask, Options(**settings | options))


def names(dataset) -> list[str]:
    return [dataset[index].name for index in range(len(dataset))]


def sample(root, name, split="train"):
    dataset = folder(root, split)
    return dataset[names(dataset).index(name)]


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def test_the_example_holds_what_was_drawn(drawn):
    train, test = folder(drawn), folder(drawn, "test")
    assert (len(train), len(test)) == (8, 2)
    for dataset in (train, test):
        assert dataset.part_names == list(PARTS) and dataset.keypoint_names == list(KEYPOINTS)
        for index in range(len(dataset)):
            found = dataset[index]
            np.testing.assert_array_equal(found.part_map > 0, found.foreground == 1)
            rows, columns = np.nonzero(found.foreground)
            np.testing.assert_array_equal(found.box, [columns.min(), rows.min(), columns.max(), rows.max()])
            x, y, _ = found.keypoints[dataset.keypoint_names.index("belly")].astype(int)
            assert found.part_map[y, x] == 1 + PARTS.index("body")
            assert found.path == drawn / "images" / found.name and found.path in dataset.files(index)


def test_the_command_draws_into_a_new_folder_only(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["datasets.example"], "draw_folder", lambda root: draw_folder(root, 2, 48))
    main([str(tmp_path / "new")])
    assert f"python train.py dataset_name=folder dataset_root={tmp_path / 'new'}" in capsys.readouterr().out
    for arguments in ([str(tmp_path / "new")], [], ["--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        assert ended.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1


def test_pictures_and_masks_alone_are_enough(root):
    shutil.rmtree(root / "parts")
    (root / "keypoints.csv").unlink()
    dataset = folder(root)
    assert dataset.part_names is None and dataset.keypoint_names == [] == dataset.mirrored_keypoints
    found = dataset[0]
    assert found.part_map is None and found.keypoints is None
    assert dataset.train_crop(found, 32, np.random.default_rng(0)).image.shape == (32, 32, 3)


def test_names_are_matched_in_folders_and_whatever_the_ending(root):
    picture = np.full((20, 30, 3), 99, np.uint8)
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 10:20] = 255
    save(root / "images/deep/er/v1.2.PNG", picture)
    save(root / "masks/deep/er/v1.2.tif", mask)
    save(root / "parts/deep/er/v1.2.bmp", mask // 255)
    (root / "images/.hidden.jpg").write_bytes(b"")
    (root / "images/notes.txt").write_text("not a picture")
    (root / "test.txt").write_text("deep/er/v1.2\n")
    found = sample(root, "deep/er/v1.2.PNG", "test")
    np.testing.assert_array_equal(found.box, [10, 5, 19, 8])
    assert found.foreground.sum() == found.part_map.sum() == 40
    assert len(folder(root)) == 10


@pytest.mark.parametrize("value", [1, 7, 255])
def test_whatever_is_not_0_in_a_mask_is_object(root, value):
    mask = sample(root, "creature_001.jpg").foreground
    save(root / "masks/creature_001.png", mask * np.uint8(value))
    np.testing.assert_array_equal(sample(root, "creature_001.jpg").foreground, mask)


def test_the_noise_of_a_jpeg_mask_is_not_object(root):
    mask = np.zeros((64, 64), np.uint8)
    mask[19:45, 21:43] = 1
    noisy = mask * 255
    save(root / "images/square.png", np.stack([noisy] * 3, -1))
    save(root / "masks/square.jpg", noisy, quality=60)
    noise = np.asarray(Image.open(root / "masks/square.jpg"))
    assert ((noise > 0) != mask).any()
    (root / "train.txt").write_text("square\ncreature_001\n")
    (root / "test.txt").write_text("creature_002\n")
    assert np.abs(sample(root, "square.png").foreground.astype(int) - mask).mean() < 0.01


def test_an_empty_mask_has_the_whole_picture_for_a_box(root):
    blank = np.zeros_like(sample(root, "creature_001.jpg").foreground)
    save(root / "masks/creature_001.png", blank)
    dataset = folder(root)
    found = sample(root, "creature_001.jpg")
    np.testing.assert_array_equal(found.box, [0, 0, blank.shape[1] - 1, blank.shape[0] - 1])
    assert dataset.test_crop(found, 32).foreground.sum() == 0


def test_each_mask_choice_reads_its_own_folder(root):
    shutil.copytree(root / "masks", root / "supervisedlabels")
    full = np.ones_like(sample(root, "creature_001.jpg").foreground)
    save(root / "supervisedlabels/creature_001.png", full)
    assert folder(root, mask="supervised")[0].foreground.all() and not folder(root)[0].foreground.all()
    with pytest.raises(UserError, match="no folder .*pseudolabels for unsupervised masks; masks on disk: gt, super"):
        folder(root, mask="unsupervised")


def test_a_name_in_another_encoding_than_utf_8_is_a_name(root):
    (root / "keypoints.csv").unlink()
    for place, ending in (("images", "jpg"), ("masks", "png"), ("parts", "png")):
        new = os.fsencode(root / place) + b"/Fl\xfcgel." + ending.encode()
        os.rename(root / place / f"creature_001.{ending}", new)
    found = names(folder(root)) + names(folder(root, "test"))
    assert os.fsdecode(b"Fl\xfcgel.jpg") in found and len(found) == 10


def test_the_share_held_out_follows_the_names_alone(root):
    held_out = names(folder(root, "test"))
    assert len(names(folder(root, "test", test_share=0.5))) == 5 and len(held_out) == 2
    assert set(held_out) < set(names(folder(root, "test", test_share=0.5)))
    assert not set(held_out) & set(names(folder(root)))
    for name in held_out:
        (root / "images" / name).rename(root / "images/gone.jpg")
        assert name not in names(folder(root, "train", test_share=0.01))
        (root / "images/gone.jpg").rename(root / "images" / name)
    assert len(folder(root, "test", test_share=0.001)) == 1


@pytest.mark.parametrize(
    ("lists", "train", "test"),
    [
        ({"test": "creature_003\ncreature_001.jpg\n\n"}, 8, ["creature_001.jpg", "creature_003.jpg"]),
        ({"train": "creature_003\ncreature_004\n"}, 2, None),
        ({"train": "creature_003\ncreature_004\n", "test": "creature_009"}, 2, ["creature_009.jpg"]),
    ],
)
def test_lists_say_what_is_held_out(root, lists, train, test):
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text(lines)
    assert len(folder(root)) == train
    held_out = names(folder(root, "test"))
    assert held_out == test or (test is None and len(held_out) == 8)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"test": "creature_001", "train": "creature_001\ncreature_002"}, "in train.txt and in test.txt: creature_001"),
        ({"test": ""}, "no picture of the test split"),
        ({"train": ""}, "no picture of the train split"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(root, lists, message):
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text(lines)
    with pytest.raises(UserError, match=message):
        for split in ("train", "test"):
            folder(root, split)


def test_masks_with_names_of_their_own_are_refused_with_one_of_each(root):
    for path in list((root / "masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    with pytest.raises(UserError, match=r"No mask .* first mask is .*creature_\d+_mask.png, .*creature_\d+.jpg: give"):
        folder(root)


def test_masks_and_keypoints_without_a_picture_are_noted(root):
    (root / "images/creature_002.jpg").unlink()
    assert len(folder(root)) + len(folder(root, "test")) == 9
    notes = [note for note in folder(root).notes if "creature_002" in note]
    assert "1 masks in" in notes[0] and "keypoints.csv has 1 pictures that are not there" in notes[1]


def write_objects(root, columns: str, row: str) -> None:
    """``objects.csv`` with a row for each picture; ``row`` is a format of the picture's number and its evenness."""
    rows = [row.format(number=number, kind="ab"[number % 2]) for number in range(1, 11)]
    (root / "objects.csv").write_text("\n".join([columns, *rows]) + "\n")


def test_classes_and_boxes_of_one_s_own_are_those_of_the_samples(root):
    write_objects(root, "name,class,x,y,width,height", "creature_{number:03d}.jpg,{kind},2,3,{number},5")
    for split in ("train", "test"):
        data = folder(root, split)
        assert data.num_classes == 2
        for read in (data[index] for index in range(len(data))):
            number = int(read.path.stem[-3:])
            assert read.label == 1 + number % 2
            np.testing.assert_array_equal(read.box, [2, 3, 1 + number, 7])
    write_objects(root, "class,name", "{kind},creature_{number:03d}")
    read = folder(root)[0]
    np.testing.assert_array_equal(read.box, folder(root, mask="gt")[0].box)  # the mask's
    assert read.label in (1, 2) and read.box[2] > 20


def test_a_box_is_cut_off_at_the_picture_s_edges(root):
    write_objects(root, "name,x,y,width,height", "creature_{number:03d},-4,-4.5,500,20")
    read = folder(root)[0]
    np.testing.assert_array_equal(read.box, [0, 0, read.image.shape[1] - 1, 14.5])
    assert read.label is None


def test_keypoints_with_classes_and_boxes_are_evaluated_class_by_class(root):
    shutil.rmtree(root / "parts")
    (root / "test.txt").write_text("\n".join(f"creature_{number:03d}" for number in (7, 8, 9, 10)) + "\n")
    write_objects(root, "name,class,x,y,width,height", "creature_{number:03d}.jpg,{kind},4,4,30,30")
    config = composed(
        *("dataset_name=folder", f"dataset_root={root}", "image_size=48"),
        *("evaluation.size=48", "loader.num_workers=0"),
    )
    sets, device = Sets.of(config, "evaluation"), torch.device("cpu")
    labeller = KMeansColours(kmeans.Options(1000, 1, num_images=None, minibatch=None, epochs=1), 3, seed=0)
    metrics = evaluate(labeller, sets, ["keypoints"], EvaluationOptions.of(config), device).metrics
    errors = [name for name, value in metrics.items() if name.startswith("keypoint_error") and value is not None]
    assert errors == ["keypoint_error_all", "keypoint_error_001", "keypoint_error_002"] and "FG-NMI" in metrics


def test_a_listed_picture_that_is_not_there_is_missing_before_anything_is_read(root):
    (root / "train.txt").write_text("creature_001\ncreature_999.jpg\n")
    config = composed("dataset_name=folder", f"dataset_root={root}")
    with pytest.raises(UserError, match=r"2 of 5 files are missing: .*images/creature_999\.jpg, .*masks/creature_999"):
        datasets.build(config, "train", "training")
    with pytest.raises(UserError, match=r"Missing .*images/creature_999\.jpg"):
        folder(root)[1]
    config.dataset.on_error = "skip"
    assert len(datasets.build(config, "train", "training")) == 2


def test_two_pictures_of_one_name_are_refused(root):
    shutil.copy(root / "images/creature_001.jpg", root / "images/creature_001.png")
    with pytest.raises(UserError, match=r"creature_001\.\w+ and .*creature_001\.\w+ differ in their ending only"):
        folder(root)


@pytest.mark.parametrize("name", ["", "images", "masks"])
def test_a_missing_folder_is_named(root, name):
    shutil.rmtree(root / name)
    with pytest.raises(UserError, match=rf"[Nn]o (folder|masks in) {root / (name or 'images')}"):
        folder(root)


def test_parts_without_names_and_training_pictures_without_label_maps_are_fine(root):
    (root / "parts/parts.txt").unlink()
    (root / "parts/creature_001.png").unlink()
    assert len(folder(root).part_names) == 255
    assert sample(root, "creature_001.jpg").part_map is None
    assert sample(root, "creature_002.jpg").part_map.max() == 4


def test_a_held_out_picture_without_a_label_map_or_mask_is_named_before_anything_is_read(root):
    config = composed("dataset_name=folder", f"dataset_root={root}")
    name = names(folder(root, "test"))[0].removesuffix(".jpg")
    for place in ("parts", "masks"):
        (root / place / f"{name}.png").unlink()
        with pytest.raises(UserError, match=rf"missing: .*{place}/{name}\.png"):
            datasets.build(config, "test", "evaluation")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((4, 4), 9, np.uint8), "has labels from 9 to 9: they must be from 0 .background. to 4"),
        (np.full((4, 4), 300, np.uint16), "labels from 300 to 300"),
        (np.full((4, 4, 3), (1, 2, 3), np.uint8), "is a coloured picture"),
        (np.zeros((4, 5), np.uint8), "is 5 x 4 pixels, but its picture .* is 4 x 4"),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused_by_name(root, labels, message):
    save(root / "images/creature_001.jpg", np.zeros((4, 4, 3), np.uint8))
    save(root / "masks/creature_001.png", np.ones((4, 4), np.uint8))
    (root / "keypoints.csv").unlink()  # of the picture as it was
    save(root / "parts/creature_001.png", labels)
    with pytest.raises(UserError, match=rf"parts/creature_001\.png {message}|parts/creature_001\.png.*{message}"):
        folder(root)[0]


def test_a_picture_that_its_exif_turns_is_told_apart_from_a_wrong_mask(root):
    picture = Image.open(root / "images/creature_001.jpg")
    mask = Image.open(root / "masks/creature_001.png")
    assert picture.width != picture.height
    mask.transpose(Image.Transpose.ROTATE_90).save(root / "masks/creature_001.png")
    with pytest.raises(UserError, match="EXIF may say to turn it"):
        folder(root)[0]


def test_keypoints_without_a_row_are_hidden_and_the_column_visible_may_be_left_out(root):
    (root / "keypoints.csv").write_text(
        "name,keypoint,x,y\ncreature_001,left eye,3,4.5\ncreature_002.jpg,right eye,5,6\ncreature_003,left eye,7,8\n"
    )
    (root / "test.txt").write_text("creature_003\n")
    dataset = folder(root)
    assert dataset.keypoint_names == ["left eye", "right eye"] and dataset.mirrored_keypoints == [1, 0]
    np.testing.assert_array_equal(dataset[0].keypoints, [[3, 4.5, 1], [0, 0, 0]])
    np.testing.assert_array_equal(dataset[1].keypoints, [[0, 0, 0], [5, 6, 1]])
    np.testing.assert_array_equal(dataset[2].keypoints, np.zeros((2, 3)))
    mirrored = folder(root, flip_probability=1.0).train_crop(dataset[0], 32, np.random.default_rng(0))
    assert mirrored.keypoints[:, 2].tolist() == [0, 1]


def test_keypoints_of_no_held_out_picture_are_not_used_and_noted(root):
    (root / "keypoints.csv").write_text("name,keypoint,x,y\ncreature_001,eye,3,4\n")
    (root / "test.txt").write_text("creature_003\n")
    for split in ("train", "test"):
        dataset = folder(root, split)
        assert dataset.keypoint_names == [] and dataset[0].keypoints is None
        assert any("no visible keypoint of a held-out picture" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,keypoint,x,y\n", "line 1: no column name"),
        ("", "line 1: no column keypoint, name, x, y"),
        ("name,keypoint,x,y\ncreature_001,eye,3,nan\n", "line 2: expected numbers"),
        ("name,keypoint,x,y\ncreature_001,eye,3\n", "line 2: expected numbers"),
        ("name,keypoint,x,y,visible\ncreature_001,eye,3,4,yes\n", "line 2: expected numbers"),
        (
            "name,keypoint,x,y,visible\ncreature_001,eye,3,4,2\n",
            "line 2: .*visible 0 or 1 .COCO's 2 is 1 here, its 1, hidden, is",
        ),
        ("name,keypoint,x,y\ncreature_001,eye,3,4\ncreature_001.jpg,eye,3,4\n", "line 3: a second 'eye'"),
    ],
)
def test_a_malformed_table_of_keypoints_is_refused_with_its_line(root, text, message):
    (root / "keypoints.csv").write_text(text)
    with pytest.raises(UserError, match=rf"{re.escape(str(root / 'keypoints.csv'))}, {message}"):
        folder(root)


@pytest.mark.parametrize(
    "text",
    [
        "picture,name,x,y,visible\ncreature_001,eye,3,4,1.0\ncreature_001,beak,,,0.0\n",
        "picture,keypoint,x,y,visible\ncreature_001,eye,3,4,TRUE\ncreature_001,beak,,,FALSE\n",
    ],
)
def test_keypoints_are_read_as_other_programs_call_and_write_them(root, text):
    (root / "keypoints.csv").write_text("name,keypoint,x,y,visible\ncreature_001,eye,3,4,1\ncreature_001,beak,,,0\n")
    expected = folder(root)
    (root / "keypoints.csv").write_text(text)
    found = folder(root)
    assert found.keypoint_names == expected.keypoint_names
    assert all(np.array_equal(found[n].keypoints, expected[n].keypoints) for n in range(len(found)))


def test_a_table_from_a_spreadsheet_is_read(root):
    (root / "keypoints.csv").write_bytes(b"\xef\xbb\xbfname,keypoint,x,y,visible\r\ncreature_001,eye,1,2,\r\n")
    (root / "test.txt").write_bytes(b"\xef\xbb\xbfcreature_001\r\n")
    np.testing.assert_array_equal(folder(root, "test")[0].keypoints, [[1, 2, 1]])


@pytest.mark.parametrize(("separator", "point"), [(";", ","), (";", "."), ("\t", ","), (",", ".")])
def test_a_table_with_the_separator_and_the_words_of_another_language_is_read(root, separator, point):
    rows = [["name", "keypoint", "x", "y", "visible"], ["creature_001", "eye", f"1{point}5", "2", "WAHR"]]
    rows += [["creature_001", "ear", "3", f"4{point}25", "true"], ["creature_001", "tail", "3", "4", "False"]]
    (root / "keypoints.csv").write_text("\n".join(map(separator.join, rows)))
    boxes = [["name", "x", "y", "width", "height"], ["creature_001", f"1{point}5", "2", "9", "8"]]
    (root / "objects.csv").write_text("\n".join(map(separator.join, boxes)))
    (root / "test.txt").write_text("creature_001\n")
    sample = folder(root, "test")[0]
    np.testing.assert_array_equal(sample.keypoints, [[1.5, 2, 1], [3, 4.25, 1], [0, 0, 0]])
    np.testing.assert_array_equal(sample.box, [1.5, 2, 9.5, 9])


@pytest.mark.slow
def test_a_folder_without_annotation_trains_and_is_evaluated_to_pictures_and_figures_that_need_none(root, tmp_path):
    shutil.rmtree(root / "parts")
    (root / "keypoints.csv").unlink()
    run = tmp_path / "run"
    size = ("image_size=32", "evaluation.size=32", "batch_size=2", "loader.num_workers=0")
    options = (*size, "experiment=debug", "logging.wandb=disabled", "device=cpu", "evaluation.every=0")
    train.train(composed("dataset_name=folder", f"dataset_root={root}", f"output_dir={run}", *options))
    assert (run / "checkpoints/model_2.pth").is_file() and (run / "pictures/held_out_parts_2.png").is_file()
    assert (run / "evaluation.csv").read_text().startswith("step,warp_agreement,presence,")


def test_the_annotation_that_is_there_decides_the_figures(root):
    """First all of it, then keypoints of two held-out pictures alone."""
    figures = {"FG-NMI", "FG-ARI", "NMI", "ARI"}
    sizes = ("image_size=32", "evaluation.size=32", "loader.num_workers=0")
    config = composed("dataset_name=folder", f"dataset_root={root}", *sizes)

    def evaluated():
        labeller = KMeansColours(kmeans.Options(1000, 1, num_images=None, minibatch=None, epochs=1), 3, seed=0)
        sets = Sets.of(config, "evaluation")
        return evaluate(labeller, sets, ("part_maps", "keypoints"), EvaluationOptions.of(config), "cpu")

    result = evaluated()
    expected = figures | {f"{name} (keypoints)" for name in figures} | {"keypoint_error_all"}
    assert set(result.metrics) == expected and result.notes == []

    shutil.rmtree(root / "parts")
    held_out = names(folder(root, "test"))
    rows = [row for row in (root / "keypoints.csv").read_text().splitlines() if row.startswith(("name", *held_out))]
    (root / "keypoints.csv").write_text("\n".join(rows))
    result = evaluated()
    assert set(result.metrics) == figures
    assert result.notes == ["keypoint_error_all is left out: too few samples in the training or the test split."]
