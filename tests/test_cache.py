"""Decoded pictures kept on disk; that no data set's crops change is in test_datasets.py."""

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.cache import cached
from datasets.cub import CUB
from datasets.loader import train_batches
from tests.test_loader import assert_same
from tests.trees import cub, draw_cub_tree
from utils.errors import UserError

STEPS = 9  # more than three epochs


@pytest.fixture
def root(tmp_path):
    return draw_cub_tree(tmp_path / "CUB", num_train=5)


def load(dataset, **changes):
    arguments = dict(image_size=32, batch_size=2, seed=5, first_step=0, num_steps=STEPS, num_workers=0) | changes
    return list(train_batches(dataset, **arguments))


@pytest.fixture
def decoded(monkeypatch):
    """The indices of the samples that are read from their files, in this process."""
    indices, read = [], CUB.__getitem__

    def reads(self, index):
        indices.append(index)
        return read(self, index)

    monkeypatch.setattr(CUB, "__getitem__", reads)
    return indices


def records(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def rewrite(path: Path, same: str) -> None:
    """Another picture in a file of the ``same`` size or time of change."""
    before = path.stat()
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    if same == "size":
        largest = max(before.st_size, path.stat().st_size)
        path.write_bytes(path.read_bytes().ljust(largest, b"\0"))
    else:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_share_what_is_kept(root, tmp_path, num_workers, decoded):
    dataset = cub(root, "train", "gt")
    kept = cached(dataset, "disk", tmp_path / "cache")
    assert_same(load(kept, num_workers=num_workers, num_steps=20), load(dataset, num_steps=20))
    decoded.clear()
    for index in range(len(kept)):
        kept[index]
    assert decoded == []


def test_a_later_run_reads_no_picture(root, tmp_path, decoded):
    first = load(cached(cub(root, "train", "gt"), "disk", tmp_path / "cache"))
    assert sorted(decoded) == [0, 1, 2, 3, 4]
    decoded.clear()
    assert_same(load(cached(cub(root, "train", "gt"), "disk", tmp_path / "cache")), first)
    assert decoded == []


@pytest.mark.parametrize("same", ["size", "time"])
@pytest.mark.parametrize("file", ["images/*/Bird_0002.jpg", "segmentations/*/Bird_0002.png"])
def test_a_picture_or_mask_that_has_changed_is_read_anew(root, tmp_path, decoded, file, same):
    path = next((root / "CUB_200_2011").glob(file))
    path.write_bytes(path.read_bytes() + bytes(2000))  # room for any other picture, which its readers do not mind
    load(cached(cub(root, "train", "gt"), "disk", tmp_path / "cache"))
    rewrite(path, same)
    decoded.clear()
    batches = load(cached(cub(root, "train", "gt"), "disk", tmp_path / "cache"))
    assert decoded == [1]
    assert_same(batches, load(cub(root, "train", "gt")))


@pytest.mark.parametrize(
    "change", [dict(mask="supervised"), dict(box_padding=0.3), dict(box_jitter=0.4)], ids=["mask", "padding", "jitter"]
)
def test_other_settings_use_records_of_their_own(root, tmp_path, change):
    options = dict(root=root, split="train", mask="gt")
    before = load(cached(cub(**options), "disk", tmp_path / "cache"))
    changed = cub(**options | change)
    assert_same(load(cached(changed, "disk", tmp_path / "cache")), load(changed))
    assert_same(load(cached(cub(**options), "disk", tmp_path / "cache")), before)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_another_box_in_the_lists_is_seen(root, tmp_path):
    load(cached(cub(root, "train", "gt"), "disk", tmp_path / "cache"))
    boxes = root / "CUB_200_2011/bounding_boxes.txt"
    boxes.write_text("".join(f"{number} 3.0 5.0 20.0 10.0\n" for number in range(1, 10)))
    dataset = cub(root, "train", "gt")
    assert_same(load(cached(dataset, "disk", tmp_path / "cache")), load(dataset))


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:20], lambda content: b""])
def test_a_truncated_record_is_made_anew(root, tmp_path, decoded, damage):
    dataset = cub(root, "train", "gt")
    expected = load(cached(dataset, "disk", tmp_path / "cache"))
    record = records(tmp_path / "cache")[3]
    whole = record.read_bytes()
    record.write_bytes(damage(whole))
    decoded.clear()
    assert_same(load(cached(dataset, "disk", tmp_path / "cache")), expected)
    assert len(decoded) == 1 and record.read_bytes() == whole


def test_two_runs_at_once_fill_one_cache(root, tmp_path):
    expected = load(cub(root, "train", "gt"))
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)

    def run() -> None:
        start.wait()
        assert_same(load(cached(cub(root, "train", "gt"), "disk", tmp_path / "cache")), expected)

    runs = [context.Process(target=run) for _ in range(2)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert [one.exitcode for one in runs] == [0, 0]
    assert [path.name for path in records(tmp_path / "cache")] == ["0", "1", "2", "3", "4"]


def test_what_cannot_be_read_is_skipped_and_told_as_without_a_cache(root, tmp_path):
    pictures = root / "CUB_200_2011/images"
    broken, lost = (next(pictures.glob(f"*/Bird_000{number}.jpg")) for number in (2, 4))
    broken.write_bytes(broken.read_bytes()[:600])
    lost.unlink()
    dataset = cub(root, "train", "gt")
    expected = load(dataset, on_error="skip")
    batches = load(cached(dataset, "disk", tmp_path / "cache"), on_error="skip")
    assert_same(batches, expected)
    assert [batch.skipped for batch in batches] == [batch.skipped for batch in expected]
    with pytest.raises(UserError, match=f"Cannot read {broken}|Missing {lost}"):
        load(cached(dataset, "disk", tmp_path / "cache"), on_error="raise")


def test_a_full_disk_is_told_once_and_reading_goes_on(root, tmp_path, monkeypatch, capfd):
    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    dataset = cub(root, "train", "gt")
    expected = load(dataset)
    monkeypatch.setattr(Path, "write_bytes", full)
    kept = cached(dataset, "disk", tmp_path / "cache")
    assert_same(load(kept), expected)
    told = capfd.readouterr().err
    (folder,) = (tmp_path / "cache").iterdir()
    assert told.startswith(f"warning: dataset.cache: cannot write to {folder}: No space left on device. From here on ")
    assert told.count("\n") == 1
    assert records(tmp_path / "cache") == []


def test_workers_tell_of_a_folder_that_cannot_be_written_once_together(root, tmp_path, capfd):
    (tmp_path / "cache").write_text("a file")
    dataset = cub(root, "train", "gt")
    expected = load(dataset)
    assert_same(load(cached(dataset, "disk", tmp_path / "cache"), num_workers=2), expected)
    assert capfd.readouterr().err.count(f"warning: dataset.cache: cannot write to {tmp_path}/cache/") == 1


def test_memory_is_a_folder_of_its_own(root):
    with pytest.raises(UserError, match="not 'memory'.*dataset.cache=disk dataset.cache_dir=/dev/shm/NAME"):
        cached(cub(root, "train", "gt"), "memory", "")


def test_no_more_is_kept_than_training_crops_can_show(root, tmp_path):
    dataset = cub(root, "train", "gt", box_jitter=0.0, box_padding=0.0)
    load(cached(dataset, "disk", tmp_path / "cache"))
    for index, record in enumerate(records(tmp_path / "cache")):
        sample = dataset[index]
        x0, y0, x1, y1 = sample.box
        side = max(x1 - x0, y1 - y0) + 3  # a pixel more on each side
        assert 4 * side**2 * 0.8 < record.stat().st_size < 4 * side**2 + 200 < sample.image.size


@pytest.mark.parametrize("fields", [("class_map",), ("infrared",), ("class_map", "infrared")])
def test_class_maps_and_infrared_are_kept(root, tmp_path, monkeypatch, fields):
    read = CUB.__getitem__

    def with_maps(self, index):
        sample, rng = read(self, index), np.random.default_rng(index)
        maps = {field: rng.integers(0, 256, sample.foreground.shape, dtype=np.uint8) for field in fields}
        return replace(sample, **maps)

    monkeypatch.setattr(CUB, "__getitem__", with_maps)
    dataset = cub(root, "train", "gt")
    kept = cached(dataset, "disk", tmp_path / "cache")
    wanted = dataset.train_crop(kept[2], 24, np.random.default_rng(4))
    monkeypatch.setattr(CUB, "__getitem__", None)  # nothing is read from here on
    again = kept.train_crop(kept[2], 24, np.random.default_rng(4))
    for field in ("class_map", "infrared"):
        assert (getattr(wanted, field) is not None) == (field in fields)
        np.testing.assert_array_equal(getattr(again, field), getattr(wanted, field))
    np.testing.assert_array_equal(again.foreground, wanted.foreground)
