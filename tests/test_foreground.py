"""The supervised foreground network: its loss, its training, and that its checkpoints are not taken for parts."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import train
from datasets.batch import EvalBatch
from evaluation.foreground import ForegroundProtocol
from evaluation.labellers import ForegroundLabeller
from evaluation.prediction import part_probabilities
from evaluation.report import part_picture
from evaluation.run import evaluate
from losses import foreground_loss
from models import Segmenter, load_segmenter, own_loss_weights, task_of
from models.methods.contrastive_reconstruction import ContrastiveReconstruction
from models.methods.foreground import Foreground
from tests.composition import composed
from tests.golden_checkpoint import write_golden_checkpoint
from tests.quadrants import draw_split
from tests.trees import draw_cub_tree
from utils import checkpoints
from utils.errors import UserError
from utils.run_directory import resumed_config

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
    losses = Foreground(Brightness())(views)
    assert set(losses) == set(Foreground.loss_names)

    def logits(scaled):
        small = nn.functional.avg_pool2d(scaled - 0.5, 4)
        return nn.functional.interpolate(small, (size, size), mode="bilinear", align_corners=True)

    expected = foreground_loss(logits(mask * 4), mask) + foreground_loss(logits(mask * 8).flip(-1), mask.flip(-1))
    assert losses["foreground"].item() == pytest.approx(expected.item() / 2, rel=1e-5)


def test_methods_tell_their_task_and_losses():
    assert (task_of("contrastive_reconstruction"), task_of("foreground")) == ("parts", "foreground")
    given = {"feature": 5.0, "contrastive": 2300.0, "visual": 30.0, "equivariance": 5700.0, "foreground": 1.0}
    assert own_loss_weights(given, Foreground.loss_names) == {"foreground": 1.0}
    del given["foreground"]
    assert own_loss_weights(given, ContrastiveReconstruction.loss_names) == given
    with pytest.raises(UserError, match=r"loss_weights\.foreground is required"):
        own_loss_weights(given, Foreground.loss_names)
    with pytest.raises(UserError, match=r"loss_weights\.visul: no method has such a loss; there are contrastive, "):
        own_loss_weights(given | {"visul": 1.0}, ContrastiveReconstruction.loss_names)


def test_the_recipe_is_that_of_supervised_networks_unless_the_data_set_brings_another():
    config = composed("method=foreground")
    assert (config.optimizer.name, config.optimizer.lr) == ("sgd", 2.5e-4)
    assert config.optimizer.poly_steps == config.num_steps
    assert composed("method=foreground", "dataset_name=synthetic").optimizer.name == "adamw"
    assert composed("method=foreground", "optimizer=sgd").optimizer.lr == 1e-5
    with pytest.raises(UserError, match="method.temperature is for contrastive_reconstruction only"):
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
    saved = checkpoints.read(trained)
    assert saved["model_state_dict"]["layer5.conv2d_list.0.weight"].shape[0] == 1
    assert saved["config"]["loss_weights"] == {"foreground": 1.0}
    assert saved["config"]["method"]["name"] == "foreground"


def test_a_run_goes_on_but_not_with_another_method(trained):
    overrides = [f"resume={trained}", "num_steps=3", "optimizer.poly_steps=3"]
    with pytest.raises(UserError, match="method.name=foreground: it cannot go on with .*contrastive_reconstruction"):
        resumed_config(
            composed(*overrides, "method=contrastive_reconstruction"),
            [*overrides, "method=contrastive_reconstruction"],
        )
    train.train(resumed_config(composed(*overrides), overrides))
    assert [row["step"] for row in rows(trained / "metrics.csv")] == ["1", "2", "3"]


def test_a_checkpoint_of_another_task_is_refused_by_name(trained, tmp_path):
    with pytest.raises(UserError, match="trained with method=foreground: it finds the foreground alone.*predict.py"):
        load_segmenter(trained)
    assert load_segmenter(trained, task="foreground").num_parts == 1
    published = write_golden_checkpoint(tmp_path / "model_60000.pth")
    assert load_segmenter(published).num_parts == 4
    with pytest.raises(UserError, match="model_60000.pth was trained with method=contrastive_reconstruction"):
        load_segmenter(published, task="foreground")
    payload = checkpoints.read(published) | {"config": {"method": {"name": "scops"}}}
    checkpoints.save(published, payload)
    with pytest.raises(UserError, match="method.name=scops: known are"):
        load_segmenter(published)


def test_the_foreground_probability_is_the_logistic_function_of_the_logit():
    labeller = ForegroundLabeller(Segmenter(1))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    scores = labeller.scores(images, None)
    with torch.no_grad():
        logits = labeller.segmenter.eval()(labeller.segmenter.preprocess(images / 255))
    probabilities = part_probabilities(scores, None, labeller.has_background)
    torch.testing.assert_close(probabilities[:, 1:], logits.sigmoid())
    assert labeller.num_parts == 1 and (labeller.has_background, scores.shape[1]) == (True, 2)


class Bright:
    """Takes for the object what is bright."""

    num_parts, has_background = 1, True

    def scores(self, images, foreground):
        logits = images.float().mean(1, keepdim=True) - 100
        return torch.cat([torch.zeros_like(logits), logits], dim=1)


def test_the_figures_are_over_all_pixels_of_the_test_crops():
    split = draw_split("test", 5, part_maps=True)
    settings = {"image_size": 40, "batch_size": 2, "num_workers": 0, "device": "cpu", "progress": False}
    result = evaluate(Bright(), split, None, task="foreground", num_pictures=2, **settings)
    crops = [split.test_crop(sample, 40) for sample in split.samples]
    predicted = np.stack([crop.image.mean(-1) > 100 for crop in crops])
    true = np.stack([crop.foreground > 0 for crop in crops])
    expected = {
        "foreground IoU": 100 * (predicted & true).sum() / (predicted | true).sum(),
        "pixel accuracy": 100 * (predicted == true).mean(),
    }
    assert result.metrics == pytest.approx(expected) and 5 < expected["foreground IoU"] < 95
    assert result.counts == {"images": 5}
    assert all(one.predicted.max() == 1 and one.shown.part_map is None for one in result.pictures)
    assert part_picture(result.pictures, "foreground").ndim == 3


def test_a_split_without_any_foreground_is_refused():
    split = draw_split("test", 2)
    for sample in split.samples:
        sample.foreground[:] = 0
    protocol = ForegroundProtocol(split, 32)
    inputs = [one for sample in split.samples for one in protocol.inputs(sample, fitted=False)]
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    protocol.update(EvalBatch(images, torch.zeros(2, 1, 32, 32), inputs), torch.zeros(2, 2, 4, 4))
    with pytest.raises(UserError, match="No held-out picture has any foreground"):
        protocol.metrics()
