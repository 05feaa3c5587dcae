"""The supervised foreground network: its loss, its training, and that its checkpoints are not taken for parts."""

import csv
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from torch import nn

import train
from conf import trained as trained_config
from conf.modules import module
from conf.trained import resumed_config, with_settings_of
from datasets.batch import EvalBatch
from evaluation.labellers.base import Labeller
from evaluation.labellers.foreground import of_predictor
from evaluation.prediction import part_probabilities
from evaluation.protocols.foreground import Protocol
from evaluation.report import part_picture
from losses.foreground import foreground_loss
from models.methods import foreground
from models.predictor import load_predictor
from models.segmenters.deeplab import Segmenter
from tests.composition import composed
from tests.golden_checkpoint import write_golden_checkpoint
from tests.quadrants import draw_split, evaluated, evaluation_options
from tests.trees import draw_cub_tree
from utils import checkpoints
from utils.errors import UserError

SMALL = (
    "method=foreground",
    "image_size=32",
    "batch_size=2",
    "num_steps=2",
    "segmenter.weights=none",
    "optimizer=adamw",
    "logging.wandb=disabled",
    "logging.every=1",
    "logging.image_every=2",
    "checkpointing.every=1",
    "loader.num_workers=0",
    "device=cpu",
)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_loss_is_the_mean_binary_cross_entropy():
    logits, foreground = torch.randn(3, 1, 5, 4, dtype=torch.float64), torch.rand(3, 1, 5, 4, dtype=torch.float64)
    expected = 0.0
    for x, m in zip(logits.flatten().tolist(), foreground.flatten().tolist(), strict=True):
        p = 1 / (1 + np.exp(-x))
        expected -= (m * np.log(p) + (1 - m) * np.log(1 - p)) / logits.numel()
    assert foreground_loss(logits, foreground).item() == pytest.approx(expected)
    assert foreground_loss(logits.bfloat16(), foreground.float()).dtype == torch.float32


class Brightness(nn.Module):
    """A segmenter whose logit is the mean of the colours, times a weight, at a quarter of the size."""

    num_parts = 1

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def preprocess(self, images):
        return images - 0.5

    def forward(self, inputs):
        return self.weight * nn.functional.avg_pool2d(inputs.mean(1, keepdim=True), 4)


def test_both_views_are_compared_with_their_own_masks():
    size = 16
    mask = torch.zeros(2, 1, size, size)
    mask[:, :, :, : size // 2] = 1
    mirrored = torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3)
    views = SimpleNamespace(
        jittered=mask.expand(-1, 3, -1, -1) * 4,
        jittered_to_warp=mask.expand(-1, 3, -1, -1) * 8,
        foreground=mask,
        grid=nn.functional.affine_grid(mirrored, (2, 1, size, size), align_corners=True),
    )
    losses = foreground.Method(Brightness(), augmentation=None)(views)
    assert set(losses) == {field.name for field in fields(foreground.LossWeights)} == {"foreground"}

    def logits(scaled):
        small = nn.functional.avg_pool2d(scaled - 0.5, 4)
        return nn.functional.interpolate(small, (size, size), mode="bilinear", align_corners=True)

    expected = foreground_loss(logits(mask * 4), mask) + foreground_loss(logits(mask * 8).flip(-1), mask.flip(-1))
    assert losses["foreground"].item() == pytest.approx(expected.item() / 2, rel=1e-5)


def test_methods_tell_their_labeller_their_protocols_and_losses():
    found = [module("method", name).Method for name in ("contrastive_reconstruction", "foreground")]
    assert [method.labeller for method in found] == ["segmenter", "foreground"]
    assert [method.protocols for method in found] == [("part_maps", "keypoints"), ("foreground",)]
    assert [composed(f"method={name}").loss_weights for name in ("contrastive_reconstruction", "foreground")] == [
        {"feature": 5.0, "contrastive": 2300.0, "visual": 30.0, "equivariance": 5700.0},
        {"foreground": 1.0},
    ]
    with pytest.raises(UserError, match=r"loss_weights\.foreground is required"):
        composed("method=foreground", "~loss_weights.foreground")
    for method, weight in (("foreground", "visual"), ("contrastive_reconstruction", "visul")):
        with pytest.raises(OmegaConfBaseException, match=f"'{weight}' not in 'LossWeights'"):
            composed(f"method={method}", f"+loss_weights.{weight}=1")


def test_the_recipe_is_that_of_supervised_networks_unless_the_data_set_brings_another():
    config = composed("method=foreground")
    assert (config.optimizer.name, config.optimizer.lr) == ("sgd", 2.5e-4)
    assert config.optimizer.poly_steps == config.num_steps
    assert composed("method=foreground", "dataset_name=synthetic").optimizer.name == "adamw"
    assert composed("method=foreground", "optimizer=sgd").optimizer.lr == 1e-5
    with pytest.raises(HydraException, match="Could not override 'method.temperature'"):
        composed("method=foreground", "method.temperature=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two steps on a CUB tree without the masks that it is to give."""
    folder = tmp_path_factory.mktemp("foreground")
    draw_cub_tree(folder / "CUB", masks=("segmentations",))
    values = ("dataset_name=CUB", "dataset.eval_mask=supervised", f"dataset_root={folder}")
    train.train(composed(*SMALL, *values, f"output_dir={folder / 'run'}"))
    return folder / "run"


def test_a_run_needs_training_masks_alone_and_reports_masks(trained):
    last = rows(trained / "evaluation.csv")[-1]
    assert set(last) == {"step", "foreground IoU", "pixel accuracy"}
    assert 0 <= float(last["foreground IoU"]) <= float(last["pixel accuracy"]) <= 100
    assert {"foreground", "total", "gradient_norm"} < set(rows(trained / "metrics.csv")[0])
    assert not {"feature", "visual"} & set(rows(trained / "metrics.csv")[0])
    assert (trained / "pictures/training_foreground_2.png").is_file()
    assert (trained / "pictures/held_out_foreground_2.png").is_file()
    saved = checkpoints.find(trained)
    assert saved.model["layer5.conv2d_list.0.weight"].shape[0] == 1
    assert saved.config["loss_weights"] == {"foreground": 1.0}
    assert saved.config["method"]["name"] == "foreground"


def test_a_run_goes_on_but_not_with_another_method(trained):
    overrides = [f"resume={trained}", "num_steps=3", "optimizer.poly_steps=3"]
    with pytest.raises(UserError, match="method.name=foreground: it cannot go on with .*contrastive_reconstruction"):
        resumed_config(
            composed(*overrides, "method=contrastive_reconstruction"),
            [*overrides, "method=contrastive_reconstruction"],
        )
    train.train(resumed_config(composed(*overrides), overrides))
    assert [row["step"] for row in rows(trained / "metrics.csv")] == ["1", "2", "3"]


def loaded(path: Path, *overrides: str) -> nn.Module:
    """What a program with this command line predicts with."""
    checkpoint = checkpoints.find(path)
    config = with_settings_of(checkpoint.config, checkpoint.file, composed(*overrides))
    return load_predictor(checkpoint, config)


def test_a_checkpoint_of_another_method_is_refused_by_name(trained, tmp_path, monkeypatch):
    assert loaded(trained).num_parts == 1
    published = write_golden_checkpoint(tmp_path / "model_60000.pth")
    assert loaded(published).num_parts == 4
    with pytest.raises(UserError, match="model_60000.pth: it has 4 channels: it finds parts"):
        loaded(published, "method=foreground")
    monkeypatch.setattr(trained_config, "given_keys", lambda: ["method"])
    with pytest.raises(UserError, match=r"\.pth was trained with method=foreground: leave out method=contrastive_rec"):
        loaded(trained, "method=contrastive_reconstruction")
    checkpoints.save(published, torch.load(published) | {"config": {"method": {"name": "heard_of_by_nobody"}}})
    with pytest.raises(UserError, match="model_60000.pth.*no method 'heard_of_by_nobody'.*There are .*foreground"):
        loaded(published)


def test_the_foreground_probability_is_the_logistic_function_of_the_logit():
    labeller = of_predictor(Segmenter(1))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    scores = labeller.scores(images, None)
    with torch.no_grad():
        logits = labeller.predictor.eval()(labeller.predictor.preprocess(images / 255))
    probabilities = part_probabilities(scores, None, labeller.has_background)
    torch.testing.assert_close(probabilities[:, 1:], logits.sigmoid())
    assert labeller.num_parts == 1 and (labeller.has_background, scores.shape[1]) == (True, 2)


class Bright(Labeller):
    """Takes for the object what is bright."""

    num_parts, has_background = 1, True

    def scores(self, images, foreground):
        logits = images.float().mean(1, keepdim=True) - 100
        return torch.cat([torch.zeros_like(logits), logits], dim=1)


def test_the_figures_are_over_all_pixels_of_the_test_crops():
    split = draw_split("test", 5, part_maps=True)
    result = evaluated(Bright(), split, protocols=("foreground",), image_size=40, batch_size=2, num_pictures=2)
    crops = [split.test_crop(sample, 40) for sample in split.samples]
    predicted = np.stack([crop.image.mean(-1) > 100 for crop in crops])
    true = np.stack([crop.foreground > 0 for crop in crops])
    expected = {
        "foreground IoU": 100 * (predicted & true).sum() / (predicted | true).sum(),
        "pixel accuracy": 100 * (predicted == true).mean(),
    }
    assert result.metrics == pytest.approx(expected) and 5 < expected["foreground IoU"] < 95
    assert result.counts == {"images": 5}
    for example, crop in zip(result.pictures, (crops[0], crops[-1]), strict=True):
        assert example.predicted.max() == 1 and example.known.caption == "true mask"
        assert (example.known.labels == (crop.foreground > 0)).all() and (example.known.image == crop.image).all()
    assert part_picture(result.pictures, "predicted mask").ndim == 3


def test_a_split_without_any_foreground_is_refused():
    split = draw_split("test", 2)
    for sample in split.samples:
        sample.foreground[:] = 0
    protocol = Protocol(split, Bright(), evaluation_options())
    inputs = [shown for sample in split.samples for shown in protocol.inputs(sample)]
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    protocol.update(EvalBatch(images, torch.zeros(2, 1, 32, 32), inputs), torch.zeros(2, 2, 4, 4))
    with pytest.raises(UserError, match="No held-out picture has any foreground"):
        protocol.metrics()
