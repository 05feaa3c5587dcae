"""What every data set gives. A new one is a module, a file in conf/dataset_name and an entry in ``DRAWN`` below."""

import math
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import datasets
from conf.app import CONF
from conf.modules import names
from conf.schema import typed, validate
from datasets import build
from datasets.batch import TrainBatch
from datasets.cache import cached
from datasets.check import check
from datasets.example import draw_folder
from datasets.loader import train_batches
from datasets.part_views import PartViewOptions
from datasets.sample import VOID, Sample
from datasets.transforms.pair import jittered_pair
from evaluation.labellers.kmeans import Options
from evaluation.labellers.kmeans_colours import KMeansColours
from evaluation.options import EvaluationOptions, Sets
from evaluation.run import evaluate
from tests.composition import composed
from tests.trees import draw_coco_tree, draw_cub_tree, draw_deepfashion_tree, draw_pascal_tree, draw_potsdam_tree
from utils.errors import UserError
from utils.seeding import Randomness

SMALL = ("image_size=32", "batch_size=2", "num_steps=3", "evaluation.size=32", "loader.num_workers=0")

# For each data set what draws a small one under a dataset_root, and what its config needs to be told.
DRAWN: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "CUB": (lambda root: draw_cub_tree(root / "CUB"), ()),
    "DF": (lambda root: draw_deepfashion_tree(root / "DeepFashion/In-shop Clothes Retrieval Benchmark"), ()),
    "PP": (lambda root: draw_pascal_tree(root / "VOCdevkit_2010"), ("dataset.category=car",)),
    "folder": (partial(draw_folder, count=15, size=48), ()),
    "synthetic": (
        lambda root: None,
        ("dataset.drawing.num_train=6", "dataset.drawing.num_test=3", "dataset.drawing.size=48"),
    ),
    "potsdam": (lambda root: draw_potsdam_tree(root / "Potsdam"), ()),
    "potsdam3": (lambda root: draw_potsdam_tree(root / "Potsdam"), ()),
    "coco_stuff15": (lambda root: draw_coco_tree(root / "COCOStuff164k"), ()),
    "coco_stuff3": (lambda root: draw_coco_tree(root / "COCOStuff164k"), ()),
    "textures": (
        lambda root: None,
        ("dataset.drawing.num_train=6", "dataset.drawing.num_test=3", "dataset.drawing.size=48"),
    ),
}


@pytest.fixture(scope="module", params=sorted(path.stem for path in (CONF / "dataset_name").glob("*.yaml")))
def config(request, tmp_path_factory):
    """The config of a data set that is there."""
    name = request.param
    assert name in DRAWN, f"{name} has no entry in DRAWN: every data set is tested here"
    draw, overrides = DRAWN[name]
    root = tmp_path_factory.mktemp(name) / "data"
    draw(root)
    return composed(f"dataset_name={name}", f"dataset_root={root}", *SMALL, *overrides)


def built(config, split="train", purpose="training"):
    return build(config, split, purpose)


def check_pixels(sample: Sample, shape: tuple[int, int], dataset) -> None:
    """Picture, mask and part map have one size, their types, and values that mean something."""
    assert sample.image.shape == (*shape, 3) and sample.image.dtype == np.uint8
    assert sample.foreground.shape == shape and sample.foreground.dtype == np.uint8
    assert set(np.unique(sample.foreground)) <= {0, 1}
    assert (sample.part_map is None) == (dataset.part_names is None)
    if sample.part_map is not None:
        assert sample.part_map.shape == shape and sample.part_map.dtype == np.uint8
        assert sample.part_map.max() <= len(dataset.part_names)
    assert (sample.class_map is None) == (not dataset.pixel_classes)
    if sample.class_map is not None:
        assert sample.class_map.shape == shape and sample.class_map.dtype == np.uint8
        assert set(np.unique(sample.class_map)) <= {*range(len(dataset.pixel_classes)), VOID}
    if sample.infrared is not None:
        assert sample.infrared.shape == shape and sample.infrared.dtype == np.uint8


def test_every_data_set_has_a_config():
    assert {composed(f"dataset_name={name}").dataset.name for name in DRAWN} == set(names("dataset"))


@pytest.mark.parametrize("split, purpose", [("train", "training"), ("train", "evaluation"), ("test", "evaluation")])
def test_every_split_gives_samples_of_one_kind(config, split, purpose):
    dataset = built(config, split, purpose)
    assert len(dataset) >= 2
    samples = [dataset[index] for index in range(len(dataset))]
    assert len({sample.name for sample in samples}) == len(samples)
    for sample in samples:
        assert type(sample) is Sample
        height, width = sample.foreground.shape
        check_pixels(sample, (height, width), dataset)
        if sample.box is not None:
            x0, y0, x1, y1 = sample.box
            assert 0 <= x0 <= x1 <= width - 1 and 0 <= y0 <= y1 <= height - 1
        if dataset.keypoint_names:
            assert sample.keypoints.shape == (len(dataset.keypoint_names), 3)
            x, y, visible = sample.keypoints.T
            assert set(visible) <= {0, 1} and ((0 <= x) & (x < width) & (0 <= y) & (y < height))[visible == 1].all()
        else:
            assert sample.keypoints is None


def test_training_and_test_pictures_are_different_ones(config):
    if config.dataset.name in ("potsdam", "coco_stuff"):
        pytest.skip("the published test is on the training pictures")
    train, test = built(config), built(config, "test", "evaluation")
    assert not {train[i].path for i in range(len(train))} & {test[i].path for i in range(len(test))}


def test_a_data_set_says_what_it_is_and_reads_the_same_again(config):
    dataset = built(config)
    assert dataset.name and all(isinstance(note, str) for note in dataset.notes) and dataset.notes
    again = pickle.loads(pickle.dumps(dataset))[1]
    np.testing.assert_array_equal(again.image, dataset[1].image)
    np.testing.assert_array_equal(again.foreground, dataset[1].foreground)


def test_training_crops_are_squares_that_depend_on_the_generator_alone(config):
    dataset = built(config)
    sample = dataset[0]
    before = sample.image.copy(), sample.foreground.copy()
    crops = [dataset.train_crop(sample, 32, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    for crop in crops:
        assert crop.name == sample.name and crop.foreground.any()
        check_pixels(crop, (32, 32), dataset)
    np.testing.assert_array_equal(crops[0].image, crops[1].image)
    np.testing.assert_array_equal(crops[0].foreground, crops[1].foreground)
    assert (crops[0].image != crops[2].image).any()
    np.testing.assert_array_equal(sample.image, before[0])
    np.testing.assert_array_equal(sample.foreground, before[1])


def test_test_crops_are_squares_that_show_the_object(config):
    dataset = built(config, "test", "evaluation")
    for index in range(len(dataset)):
        crop = dataset.test_crop(dataset[index], 40)
        check_pixels(crop, (40, 40), dataset)
        assert crop.name == dataset[index].name and 0.05 < crop.foreground.mean() < (0.95 if dataset.has_masks else 1.1)


def test_part_views_keep_name_and_pixels_together(config):
    dataset = built(config, "test", "evaluation")
    if dataset.part_names is None:
        pytest.skip("no part maps")
    views = dataset.part_views(PartViewOptions(image_size=32, size=40, labels="nearest"))
    assert len({view.name for view in views}) == len(views)
    assert sum(view.on_parts for view in views) == 1
    assert sum(view.everywhere or view.true_masks for view in views) == 1
    for view in pickle.loads(pickle.dumps(views)):
        prepared = view.prepare(dataset[0])
        check_pixels(prepared, prepared.foreground.shape, dataset)
        assert prepared.name == dataset[0].name and min(prepared.foreground.shape) in (32, 40)
        assert set(np.unique(prepared.part_map)) <= set(np.unique(dataset[0].part_map))


def test_training_batches_and_their_views_can_be_made(config):
    dataset = built(config)
    batches = list(
        train_batches(
            dataset, image_size=32, batch_size=2, seed=0, first_step=0, num_steps=3, num_workers=0, on_error="raise"
        )
    )
    assert [batch.step for batch in batches] == [0, 1, 2]
    for batch in batches:
        assert type(batch) is TrainBatch and len(batch.names) == 2
        assert batch.image.shape == (2, 3, 32, 32) and batch.image.dtype == torch.uint8
        assert batch.foreground.shape == (2, 1, 32, 32) and set(batch.foreground.unique().tolist()) <= {0.0, 1.0}
        pair = jittered_pair(batch, config.augmentation, Randomness(0, batch.step, batch.places))
        assert pair.jittered_to_warp.shape == (2, 3, 32, 32) and pair.foreground.equal(batch.foreground)


def test_cached_training_crops_are_equal_to_the_bit_and_decoded_once(config, tmp_path, monkeypatch):
    dataset = built(config)
    decoded, read = [], type(dataset).__getitem__
    monkeypatch.setattr(type(dataset), "__getitem__", lambda self, index: decoded.append(index) or read(self, index))
    kept = cached(dataset, "disk", tmp_path)
    for index in range(len(dataset)):
        for seed in range(20):
            crop, expected = (
                source.train_crop(source[index], 32, np.random.default_rng(seed)) for source in (kept, dataset)
            )
            assert (crop.name, crop.path) == (expected.name, expected.path)
            np.testing.assert_array_equal(crop.image, expected.image)
            np.testing.assert_array_equal(crop.foreground, expected.foreground)
            for field in ("class_map", "infrared") if dataset.pixel_classes else ():
                np.testing.assert_array_equal(getattr(crop, field), getattr(expected, field))
    assert len(kept) == len(dataset) and len(decoded) == 21 * len(dataset)


def test_every_data_set_can_be_evaluated_by_all_that_is_known_about_it(config):
    sets, labeller = (
        Sets.of(config, "evaluation"),
        KMeansColours(Options(num_points=1000, restarts=1, num_images=None, minibatch=None, epochs=1), 4, seed=0),
    )
    if sets.test.pixel_classes:
        pytest.skip("no parts")
    result = evaluate(labeller, sets, ("part_maps", "keypoints"), EvaluationOptions.of(config), "cpu")
    assert result.metrics and all(math.isfinite(value) for value in result.metrics.values())
    assert {"FG-NMI", "FG-ARI", "NMI", "ARI"} <= set(result.metrics)
    assert result.counts["images"] == len(sets.test) and result.pictures


def test_a_sample_s_files_are_listed_and_a_lost_one_is_named_before_the_first_step(config, request):
    dataset = built(config, "test", "evaluation")
    files = dataset.files(1)
    assert dataset[1].path in files and all(path.is_file() for path in files)
    moved = files[-1].with_suffix(".moved")
    files[-1].rename(moved)
    request.addfinalizer(lambda: moved.rename(files[-1]))
    with pytest.raises(UserError) as error:
        built(config, "test", "evaluation")
    assert str(files[-1]) in str(error.value)


def test_a_data_set_that_is_not_there_says_where_it_was_looked_for(config, tmp_path):
    if config.dataset_name in ("synthetic", "textures"):
        pytest.skip("draws itself")
    config = config.copy()
    config.dataset_root = str(tmp_path / "nowhere")
    with pytest.raises(UserError) as error:
        built(config)
    assert str(tmp_path / "nowhere") in str(error.value) and "docs/data/" in str(error.value)


def test_a_data_set_without_masks_is_a_module_whose_foreground_is_the_whole_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(Path(__file__).parent / "toys/datasets")])
    (tmp_path / "mine").mkdir()
    for place in range(6):
        pixels = np.random.default_rng(place).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"mine/{place}.png")
    values = OmegaConf.to_container(composed(*SMALL, f"dataset_root={tmp_path}"))
    keys = dict(
        flip_probability=0.5,
        lists=None,
        saliency=None,
        ignore_label=255,
        on_error="raise",
        cache="none",
        cache_dir=str(tmp_path / "cache"),
    )
    config = validate(typed(values | {"dataset": dict(name="plain_pictures", folder="mine", **keys)}))

    dataset = built(config)
    assert len(dataset) == 3 and not dataset.has_masks
    for source in (dataset, cached(dataset, "disk", tmp_path / "cache")):
        (batch,) = train_batches(source, image_size=32, batch_size=2, seed=0, first_step=0, num_steps=1, num_workers=0)
        assert batch.foreground.shape == (2, 1, 32, 32) and batch.foreground.all()
    check(config)
    out = capsys.readouterr().out
    assert out.endswith("Training can start.\n") and "\nmask of the whole picture:" not in out


def test_a_data_set_that_no_module_is_has_the_nearest_name_told():
    with pytest.raises(UserError, match="There is no dataset 'foldr'. Did you mean 'folder'?"):
        composed("dataset.name=foldr")
