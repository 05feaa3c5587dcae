import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from datasets.batch import EvalBatch, TrainBatch
from datasets.loader import StepSampler, train_batches
from evaluation import inputs
from tests.trees import cub, draw_cub_tree
from utils.errors import UserError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return cub(draw_cub_tree(tmp_path_factory.mktemp("loader"), num_train=7), "train", "gt")


def load(dataset, **changes):
    arguments = dict(image_size=32, batch_size=3, seed=5, first_step=0, num_steps=5, num_workers=0) | changes
    return list(train_batches(dataset, **arguments))


def assert_same(first: list[TrainBatch], second: list[TrainBatch]) -> None:
    assert [(batch.names, batch.step) for batch in first] == [(batch.names, batch.step) for batch in second]
    for batch, other in zip(first, second, strict=True):
        assert torch.equal(batch.image, other.image) and torch.equal(batch.foreground, other.foreground)


def test_batches_have_the_shapes_and_types_they_promise(dataset):
    batches = load(dataset)
    assert [batch.step for batch in batches] == [0, 1, 2, 3, 4]
    for batch in batches:
        assert batch.image.shape == (3, 3, 32, 32) and batch.image.dtype == torch.uint8
        assert batch.foreground.shape == (3, 1, 32, 32) and batch.foreground.dtype == torch.float32
        assert set(batch.foreground.unique().tolist()) == {0.0, 1.0} and len(batch.names) == 3


def test_the_loader_knows_how_many_steps_are_left(dataset):
    loader = train_batches(dataset, image_size=32, batch_size=3, seed=5, first_step=2, num_steps=5, num_workers=0)
    assert len(loader) == 3


def test_pixels_are_the_data_sets_own_crops(dataset):
    batch = load(dataset, num_steps=1)[0]
    names = [dataset[index].name for index in range(len(dataset))]
    still = cub(dataset._root, "train", "gt", box_jitter=0.0, flip_probability=0.0)
    batch = load(still, num_steps=1)[0]
    for place, name in enumerate(batch.names):
        expected = still.test_crop(still[names.index(name)], 32)
        np.testing.assert_array_equal(batch.image[place].permute(1, 2, 0).numpy(), expected.image)
        np.testing.assert_array_equal(batch.foreground[place, 0].numpy(), expected.foreground)


def test_workers_change_nothing(dataset):
    assert_same(load(dataset), load(dataset, num_workers=2))


def test_starting_late_gives_the_same_batches(dataset):
    assert_same(load(dataset)[3:], load(dataset, first_step=3))


def test_another_seed_gives_another_order_and_other_crops(dataset):
    assert [batch.names for batch in load(dataset)] != [batch.names for batch in load(dataset, seed=6)]


def test_an_epoch_shows_each_image_once_and_drops_the_rest():
    batches = list(StepSampler(num_samples=20, batch_size=6, seed=1, first_step=0, num_steps=9))
    epochs = [[index for batch in batches[i : i + 3] for index, _, _ in batch] for i in (0, 3, 6)]
    for epoch in epochs:
        assert len(set(epoch)) == 18 and set(epoch) <= set(range(20))
    assert epochs[0] != epochs[1] != epochs[2]
    assert {index for epoch in epochs for index in epoch} == set(range(20))
    assert [(step, place) for batch in batches for _, step, place in batch] == [
        (s, p) for s in range(9) for p in range(6)
    ]


def test_the_same_image_is_cropped_anew_in_each_epoch(dataset):
    batches = load(dataset, batch_size=7, num_steps=2)
    crops = [dict(zip(batch.names, batch.image, strict=True)) for batch in batches]
    assert crops[0].keys() == crops[1].keys()
    assert any(not torch.equal(crops[0][name], crops[1][name]) for name in crops[0])


def test_a_data_set_smaller_than_a_batch_is_refused(dataset):
    with pytest.raises(UserError, match="7 training images, fewer than batch_size=8: set batch_size=7"):
        load(dataset, batch_size=8)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_truncated_picture_ends_in_one_clean_message(tmp_path, num_workers):
    root = draw_cub_tree(tmp_path, num_train=6)
    path = next((root / "CUB_200_2011/images").glob("*/Bird_0004.jpg"))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UserError) as error:
        load(cub(root, "train", "gt"), num_workers=num_workers)
    message = str(error.value)
    assert message.startswith(f"Cannot read {path}") and "Traceback" not in message and "\n" not in message


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_picture_that_cannot_be_read_is_skipped_told_and_replaced_the_same_way_each_time(tmp_path, num_workers):
    root = draw_cub_tree(tmp_path, num_train=7)
    whole = load(cub(root, "train", "gt"), num_steps=8)
    broken = sorted((root / "CUB_200_2011/images").glob("*/Bird_0004.jpg")) + sorted(
        (root / "CUB_200_2011/segmentations").glob("*/Bird_0006.png")
    )
    broken[0].write_bytes(broken[0].read_bytes()[:600])
    broken[1].unlink()
    batches = load(cub(root, "train", "gt"), num_steps=8, num_workers=num_workers, on_error="skip")
    assert_same(batches, load(cub(root, "train", "gt"), num_steps=8, on_error="skip"))
    assert_same(batches[5:], load(cub(root, "train", "gt"), num_steps=8, first_step=5, on_error="skip"))

    bad = {name for batch in whole for name in batch.names if name[-8:-4] in ("0004", "0006")}
    assert len(bad) == 2 and not any(batch.skipped for batch in whole)
    for before, batch in zip(whole, batches, strict=True):
        lost = [place for place, name in enumerate(before.names) if name in bad]
        assert len(batch.skipped) >= len(lost) and bool(batch.skipped) == bool(lost)
        assert all(any(str(path) in message for path in broken) for message in batch.skipped)
        for place in range(3):
            assert batch.names[place] not in bad
            assert torch.equal(batch.image[place], before.image[place]) == (place not in lost)


def test_where_nothing_can_be_read_skipping_ends_too(tmp_path):
    root = draw_cub_tree(tmp_path, num_train=4)
    dataset = cub(root, "train", "gt")
    for path in (root / "CUB_200_2011/images").glob("*/*"):
        path.unlink()
    with pytest.raises(UserError, match=r"^No training picture of CUB can be read\. The first one: Missing .*/Bird_"):
        load(dataset, num_workers=1, on_error="skip")


def test_the_data_set_can_be_sent_to_a_spawned_worker(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy[0].image, dataset[0].image)


def test_moving_a_batch_moves_its_tensors_and_keeps_the_rest(dataset):
    batch = load(dataset, num_steps=1)[0]
    moved = batch.to("meta")
    assert moved.image.device.type == moved.foreground.device.type == "meta"
    assert (moved.names, moved.step) == (batch.names, batch.step) and batch.image.device.type == "cpu"
    known = [object()]
    evaluated = EvalBatch(batch.image, batch.foreground, known).to("meta")
    assert evaluated.images.device.type == "meta" and evaluated.inputs is known


def test_fabric_moves_batches(dataset):
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    loader = train_batches(dataset, image_size=32, batch_size=3, seed=5, first_step=0, num_steps=2, num_workers=0)
    assert_same(list(fabric.setup_dataloaders(loader)), load(dataset, num_steps=2))


def test_collating_keeps_names_in_place(dataset):
    samples = [dataset.test_crop(dataset[index], 16) for index in (2, 0)]
    batch = TrainBatch.collate([replace(sample, name=f"sample {i}") for i, sample in enumerate(samples)], step=4)
    assert batch.names == ["sample 0", "sample 1"] and batch.step == 4
    np.testing.assert_array_equal(batch.image[1].permute(1, 2, 0).numpy(), samples[1].image)


def test_class_maps_and_infrared_come_with_the_batch_where_every_sample_has_them(dataset):
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 256, (2, 2, 16, 16), dtype=np.uint8)
    samples = [
        replace(dataset.test_crop(dataset[index], 16), class_map=classes, infrared=infrared)
        for index, (classes, infrared) in enumerate(maps)
    ]
    batch = TrainBatch.collate(samples, step=0)
    np.testing.assert_array_equal(batch.class_map, maps[:, :1])
    np.testing.assert_array_equal(batch.infrared, maps[:, 1:])
    assert batch.to("meta").class_map.device.type == "meta"
    shown = inputs.batch([inputs.prepared(sample, "crop", lambda whole: whole) for sample in samples])
    np.testing.assert_array_equal(shown.class_map, maps[:, :1])
    np.testing.assert_array_equal(shown.infrared, maps[:, 1:])
    without = TrainBatch.collate([samples[0], replace(samples[1], class_map=None)], step=0)
    assert without.class_map is None and without.infrared is not None
