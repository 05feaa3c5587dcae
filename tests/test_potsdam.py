"""Potsdam: cutting the download into tiles, and reading them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from datasets import build, potsdam
from datasets.check import check
from datasets.loader import train_batches
from datasets.potsdam import COLOURS, TILE, Download, main, prepare
from datasets.sample import VOID
from evaluation.labellers.base import Labeller
from evaluation.whole_pictures import label_maps
from tests.composition import composed
from tests.trees import draw_potsdam_download, draw_potsdam_tree
from utils.errors import UserError

SMALL = Download(num_pictures=3, num_labelled=2, side=800)  # 2 x 2 tiles each


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    return draw_potsdam_download(tmp_path_factory.mktemp("potsdam"))


@pytest.fixture(scope="module")
def tiles(download, tmp_path_factory):
    root = tmp_path_factory.mktemp("tiles") / "Potsdam"
    prepare(download, root, SMALL, say=lambda line: None)
    return root


def config(root, *overrides, name="potsdam"):
    return composed(f"dataset_name={name}", f"dataset_root={root.parent}", "loader.num_workers=0", *overrides)


def listed(root, name):
    return (root / f"{name}.txt").read_text().split()


def files(root):
    return {path.relative_to(root): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_every_tile_is_a_patch_of_a_halved_picture_and_of_its_labels(download, tiles):
    patches, labels = {}, {}
    for path in download.rglob("*_RGBIR.tif"):
        with Image.open(path) as picture:
            raw = np.frombuffer(picture.tobytes("raw", "RGB"), np.uint8).reshape(800, 800, 3)
        halved = np.rint(raw.reshape(400, 2, 400, 2, 3).astype(int).sum((1, 3)) / 4 + 1e-6).astype(np.uint8)
        label_path = download / "5_Labels_for_participants" / path.name.replace("RGBIR", "label")
        every_other = np.asarray(Image.open(label_path))[::2, ::2] if label_path.is_file() else None
        for place in ((0, 0), (0, 200), (200, 0), (200, 200)):
            window = tuple(slice(start, start + TILE) for start in place)
            patches[halved[window].tobytes()] = path
            labels[halved[window].tobytes()] = None if every_other is None else every_other[window]
    found = {path.stem: loadmat(path)["img"] for path in (tiles / "imgs").iterdir()}
    assert sorted(map(int, found)) == list(range(12))
    assert {np.ascontiguousarray(tile[..., :3]).tobytes() for tile in found.values()} == set(patches)
    for name, tile in found.items():
        assert tile.shape == (TILE, TILE, 4) and tile.dtype == np.uint8
        truth = labels[np.ascontiguousarray(tile[..., :3]).tobytes()]
        path = tiles / f"gt/{name}.mat"
        assert path.is_file() == (truth is not None)
        if truth is not None:
            written = loadmat(path)["gt"]
            assert written.dtype == np.int32
            np.testing.assert_array_equal(np.array(COLOURS)[written], truth)


def test_the_infrared_channel_is_read_whatever_the_file_calls_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    for mode in ("RGBX", "RGBA"):
        Image.fromarray(pixels, mode).save(tmp_path / f"{mode}.tif")
        np.testing.assert_array_equal(potsdam._read_four_channels(tmp_path / f"{mode}.tif"), pixels)
    Image.fromarray(pixels[..., :3]).save(tmp_path / "three.tif")
    with pytest.raises(UserError, match="is no picture of four channels"):
        potsdam._read_four_channels(tmp_path / "three.tif")


def test_the_lists_part_the_tiles(tiles):
    test, train, unlabelled = (listed(tiles, name) for name in ("labelled_test", "labelled_train", "unlabelled_train"))
    assert (len(test), len(train), len(unlabelled)) == (1, 7, 4)  # a tenth of all, of those with labels
    assert sorted(map(int, test + train + unlabelled)) == list(range(12))
    assert {path.stem for path in (tiles / "gt").iterdir()} == {*test, *train}


def test_the_published_download_gives_the_published_numbers():
    tiles_of_picture = potsdam.PUBLISHED.tiles_of_picture
    assert tiles_of_picture == 225 and potsdam.PUBLISHED.num_pictures * tiles_of_picture == 8550
    assert potsdam.PUBLISHED.num_labelled * tiles_of_picture == 5400 and round(potsdam._TEST_SHARE * 8550) == 855


@pytest.mark.parametrize("stopped_at", [1, 5, 9, 17])
def test_a_cutting_that_was_stopped_goes_on_and_does_no_tile_twice(download, tiles, tmp_path, monkeypatch, stopped_at):
    root, written = tmp_path / "Potsdam", []

    def stops(file, *arguments, **options):
        written.append(file)
        file.write(b"half")
        if len(written) == stopped_at:
            raise KeyboardInterrupt
        file.seek(0)
        savemat(file, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(potsdam, "savemat", stops)
        prepare(download, root, SMALL, say=lambda line: None)
    before = files(root)
    assert sum(path.suffix == ".mat" for path in before) == stopped_at - 1
    with pytest.raises(UserError, match="has not come to its end: give the same command again"):
        build(config(root), "train", "training")

    lines = []
    prepare(download, root, SMALL, say=lines.append)
    after = files(root)
    assert all(after[path] == time for path, time in before.items() if path.suffix == ".mat")
    assert set(after) == set(files(tiles))
    for path in after:
        if path.suffix == ".mat":
            key = {"imgs": "img", "gt": "gt"}[path.parts[0]]
            np.testing.assert_array_equal(loadmat(root / path)[key], loadmat(tiles / path)[key])
        else:
            assert (root / path).read_bytes() == (tiles / path).read_bytes()
    again = []
    prepare(download, root, SMALL, say=again.append)
    assert len(again) == 2 and again[0].startswith("0 tiles and 0 label maps to cut")  # no picture is read
    assert len(lines) > 2 and {p: t for p, t in files(root).items() if p.suffix == ".mat"} == {
        p: t for p, t in after.items() if p.suffix == ".mat"
    }


def test_it_says_what_disk_it_needs_first_and_a_small_one_is_refused(download, tmp_path, monkeypatch):
    lines = []
    free = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(potsdam.shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match=r"0\.00 GB are free"):
        prepare(download, tmp_path / "Potsdam", SMALL, say=lines.append)
    assert len(lines) == 1 and lines[0].startswith("12 tiles and 8 label maps to cut into")
    assert not list((tmp_path / "Potsdam").rglob("*.mat"))


def drop(path):
    path.unlink()


def shrink(path):
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(path)


def recolour(path):
    pixels = np.array(Image.open(path))
    pixels[6, 4] = (1, 2, 3)
    Image.fromarray(pixels).save(path)


BROKEN = {
    "lost picture": ("4_Ortho_RGBIR/top_potsdam_6_7_RGBIR.tif", drop, r"2 files \*_RGBIR.tif, but 4_Ortho_RGBIR has 3"),
    "lost label": ("5_Labels_for_participants/top_potsdam_2_10_label.tif", drop, r"1 files \*_label.tif, but 5_Labels"),
    "size": (
        "5_Labels_for_participants/top_potsdam_2_10_label.tif",
        shrink,
        "is 30 x 40 pixels, but .*800 x",
    ),
    "colour": ("5_Labels_for_participants/top_potsdam_2_10_label.tif", recolour, r"at \(4, 6\), .* \(1, 2, 3\), which"),
    "bytes": ("4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif", lambda path: path.write_bytes(b"II*"), "Cannot read .*2_10"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_download_that_is_not_whole_is_refused(tmp_path, fault):
    file, damage, message = BROKEN[fault]
    damage(draw_potsdam_download(tmp_path / "download") / file)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "download", tmp_path / "Potsdam", SMALL, say=lambda line: None)


def test_what_others_put_there_is_left_alone(download, tmp_path):
    root = draw_potsdam_tree(tmp_path / "Potsdam")
    before = files(root)
    with pytest.raises(UserError, match="holds files that were not cut here"):
        prepare(download, root, SMALL, say=lambda line: None)
    assert files(root) == before
    (root / potsdam.STAMP).write_text(json.dumps({"version": 1, "pictures": ["other"]}))
    with pytest.raises(UserError, match="holds tiles of other pictures"):
        prepare(download, root, SMALL, say=lambda line: None)


def test_the_command_ends_with_one_message_after_a_mistake(capsys, tmp_path):
    for arguments in ([], ["prepare", "a"], ["cut", "a", "b"], ["prepare", str(tmp_path / "none"), "b"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
    out = capsys.readouterr().err.splitlines()
    assert len(out) == 4 and all(line.startswith("error: ") for line in out) and "No folder" in out[3]


@pytest.mark.parametrize("own", [True, False], ids=["cut here", "the author's archive"])
def test_training_sees_all_tiles_and_the_test_those_with_labels(tiles, tmp_path, own):
    root = tiles if own else draw_potsdam_tree(tmp_path / "Potsdam")
    train, test = build(config(root), "train", "training"), build(config(root), "test", "evaluation")
    names = [{data.sample_name(index) for index in range(len(data))} for data in (train, test)]
    labelled = {path.stem for path in (root / "gt").iterdir()}
    assert names[1] == labelled < names[0] == {path.stem for path in (root / "imgs").iterdir()}
    for index in range(len(train)):
        sample = train[index]
        pixels = loadmat(root / f"imgs/{sample.name}.mat")["img"]
        np.testing.assert_array_equal(np.dstack([sample.image, sample.infrared]), pixels)
        assert sample.foreground.all() and sample.class_map.dtype == np.uint8
        truth = loadmat(root / f"gt/{sample.name}.mat")["gt"] if sample.name in labelled else VOID
        assert (sample.class_map == truth).all()


def test_potsdam3_merges_the_classes_in_pairs(tiles):
    six, three = (build(config(tiles, name=name), "test", "evaluation") for name in ("potsdam", "potsdam3"))
    assert six.pixel_classes == ["roads", "buildings", "low vegetation", "trees", "cars", "clutter"]
    assert three.pixel_classes == ["roads and cars", "buildings and clutter", "vegetation and trees"]
    merged = np.array([0, 1, 2, 2, 0, 1])
    for index in range(len(six)):
        np.testing.assert_array_equal(three[index].class_map, merged[six[index].class_map])


def test_batches_have_infrared_and_class_maps(tiles):
    data = build(config(tiles), "train", "training")
    how = dict(image_size=120, batch_size=3, seed=0, first_step=0, num_steps=4, num_workers=0)
    for batch in train_batches(data, **how):
        assert batch.infrared.shape == batch.class_map.shape == (3, 1, 120, 120)
        for name, image, infrared in zip(batch.names, batch.image, batch.infrared, strict=True):
            pixels = loadmat(tiles / f"imgs/{name}.mat")["img"]
            window = np.dstack([image.permute(1, 2, 0), infrared[0]])
            places = np.argwhere((pixels[:81, :81] == window[0, 0]).all(-1))
            assert any((pixels[y : y + 120, x : x + 120] == window).all() for y, x in places)


def mat(key, values):
    return lambda path: savemat(path, {key: values})


ZEROS = np.zeros((TILE, TILE), np.int32)
TILES = {
    "no tile": ("imgs", drop, "1 of 10 files are missing: .*imgs"),
    "no labels": ("gt", drop, "1 of 10 files are missing: .*gt"),
    "size": ("imgs", mat("img", np.zeros((100, 100, 4), np.uint8)), "img is 100 x 100 x 4 uint8, but .* 200 x 200 x 4"),
    "size of labels": ("gt", mat("gt", ZEROS[:50]), "gt is 50 x 200 int32, but that of a tile is 200 x 200"),
    "label": ("gt", mat("gt", ZEROS + 6), "has labels from 6 to 6: they must be from 0 to 5"),
    "bytes": ("imgs", lambda path: path.write_bytes(b"no"), "is no tile of Potsdam"),
}


@pytest.mark.parametrize("fault", TILES)
def test_a_tile_that_is_not_right_is_named(tmp_path, capsys, fault):
    root = draw_potsdam_tree(tmp_path / "Potsdam")
    folder, damage, message = TILES[fault]
    path = root / folder / f"{listed(root, 'labelled_train')[0]}.mat"
    damage(path)
    with pytest.raises(UserError, match=message) as error:
        data = build(config(root), "train", "training")
        for index in range(len(data)):
            data[index]
    assert str(path) in str(error.value)
    with pytest.raises(SystemExit):
        check(config(root, "batch_size=2"))
    out = capsys.readouterr().out
    assert out.count(str(path)) == 1 and "training: 1 of 6 pictures cannot be read" in out


def test_a_set_that_is_right_passes_the_check(tiles, capsys):
    check(config(tiles, "batch_size=2"))
    out = capsys.readouterr().out
    assert out.endswith("Training can start.\n")
    (row,) = (line for line in out.splitlines() if "with a class map" in line)
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["8", "8", "8"]


def test_the_command_cuts(download, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(potsdam, "prepare", lambda *paths, say: prepare(*paths, SMALL, say=say))
    main(["prepare", str(download), str(tmp_path / "Potsdam")])
    assert capsys.readouterr().out.endswith("12 tiles, 8 with labels.\n")


def test_a_network_that_sees_infrared_labels_whole_tiles(tmp_path):
    draw_potsdam_tree(tmp_path / "Potsdam")
    tiles = build(config(tmp_path / "Potsdam"), "test", "prediction")

    class Infrared(Labeller):
        def scores_of(self, batch):
            return torch.cat([batch.infrared - 127.5, 127.5 - batch.infrared], dim=1)

    reading = {"image_size": TILE, "batch_size": 3, "num_workers": 0, "device": "cpu"}
    for _, sample, labels in label_maps(Infrared(), tiles, **reading):
        np.testing.assert_array_equal(labels, np.where(sample.infrared > 127, 1, 2))
