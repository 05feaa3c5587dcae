"""Soft saliency maps in the place of training masks."""

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
import train
from datasets.cache import cached
from datasets.loader import train_batches
from tests.composition import composed
from tests.test_datasets import DRAWN, SMALL
from utils.errors import UserError

NAMES = sorted(DRAWN)


@pytest.fixture
def config(request, tmp_path):
    """The config of a small data set, with a saliency map for each of its training pictures."""
    draw, overrides = DRAWN[request.param]
    draw(tmp_path / "data")
    saliency = f"dataset.saliency={tmp_path / 'saliency'}"
    plain = composed(f"dataset_name={request.param}", f"dataset_root={tmp_path / 'data'}", *SMALL, *overrides)
    split = datasets.build(plain, "train", "training")
    for index in range(len(split)):
        height, width = split[index].foreground.shape
        path = tmp_path / "saliency" / f"{split.sample_name(index)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        ramp = np.linspace(0, 255, width).astype(np.uint8)
        Image.fromarray(np.repeat(ramp[None], height, axis=0)).save(path)
    return composed(f"dataset_name={request.param}", f"dataset_root={tmp_path / 'data'}", saliency, *SMALL, *overrides)


def batches(config, source) -> list:
    return list(train_batches(source, image_size=32, batch_size=2, seed=0, first_step=0, num_steps=3, num_workers=0))


@pytest.mark.parametrize("config", NAMES, indirect=True)
def test_a_batch_has_the_maps_values_over_255_cropped_with_the_picture_from_files_and_from_the_cache(config, tmp_path):
    split = datasets.build(config, "train", "training")
    sample = split[0]
    crop = split.train_crop(sample, 32, np.random.default_rng(0))
    assert crop.saliency.shape == (32, 32) and 1 < len(np.unique(crop.saliency)) <= 256
    found = batches(config, split)
    for batch in found:
        assert batch.foreground.dtype == torch.float32 and 0 <= batch.foreground.min() < batch.foreground.max() <= 1
        assert ((batch.foreground > 0) & (batch.foreground < 1)).any()
        assert torch.equal((batch.foreground * 255).round() / 255, batch.foreground)
    kept = cached(split, "disk", tmp_path / "cache")
    for _ in range(2):
        assert all(
            torch.equal(first.foreground, second.foreground) and torch.equal(first.image, second.image)
            for first, second in zip(found, batches(config, kept), strict=True)
        )


@pytest.mark.parametrize("config", ["folder"], indirect=True)
def test_evaluations_read_masks_and_a_missing_map_is_named(config, tmp_path):
    assert datasets.build(config, "test", "training")[0].saliency is None
    assert datasets.build(config, "train", "evaluation")[0].saliency is None
    path = tmp_path / "saliency" / f"{datasets.build(config, 'train', 'training').sample_name(2)}.png"
    path.unlink()
    with pytest.raises(UserError, match=str(path)):
        datasets.build(config, "train", "training")
    config.dataset.saliency = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="dataset.saliency: no folder .*nowhere"):
        datasets.build(config, "train", "training")


@pytest.mark.parametrize("config", ["synthetic"], indirect=True)
def test_training_runs_on_them(config, tmp_path):
    config.num_steps, config.output_dir = 1, str(tmp_path / "run")
    config.logging.wandb, config.segmenter.weights, config.perceptual.weights = "disabled", "none", "none"
    train.train(config)
    assert (tmp_path / "run/checkpoints/model_1.pth").is_file()
