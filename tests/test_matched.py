"""perceptual.scale=matched: features are brought to the scale that the losses' weights were made for."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import train
from conf.schema import validate
from conf.trained import resumed_config
from datasets.batch import TrainBatch
from losses.feature import feature_loss
from models.perceptual import PerceptualNetwork
from tests.composition import composed
from utils import checkpoints
from utils.errors import UserError


class Times(nn.Module):
    """Features of a drawn network, so many times larger."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 6, 5, stride=8)

    def forward(self, images):
        return [self.factor * self.convolution(images)]


def batches(count: int) -> list[TrainBatch]:
    rng = torch.Generator().manual_seed(1)
    made = []
    for step in range(count):
        image = torch.randint(0, 256, (3, 3, 40, 40), generator=rng, dtype=torch.uint8)
        foreground = (torch.rand(3, 1, 40, 40, generator=rng) > 0.4).float()
        foreground[0] *= step > 0  # a picture without any foreground counts for nothing
        made.append(TrainBatch(image, foreground, list("abc"), step))
    return made


def network(times: float, **changes: object) -> PerceptualNetwork:
    options = composed("perceptual=efficientnet_lite0").perceptual
    options.layers = {"0": 1.0}
    for key, value in changes.items():
        options[key] = value
    return PerceptualNetwork(Times(times), nn.Identity(), options)


def test_one_part_for_everything_has_the_loss_that_is_asked_for() -> None:
    found = network(3.0, matched_to=50.0, matched_on=2)
    assert found.measure(batches) == {"perceptual.factor": found.factor}
    losses = []
    for batch in batches(2):
        features = [features.double() for features in found(batch.image.float() / 255)]
        losses.append(feature_loss(torch.ones(3, 1, 40, 40).double(), features, batch.foreground.double()))
    assert float(sum(losses)) / 5 == pytest.approx(50.0, rel=1e-4)


def test_features_ten_times_as_large_change_nothing() -> None:
    image = batches(1)[0].image.float() / 255
    found = [network(factor) for factor in (1.0, 10.0)]
    factors = [one.measure(batches)["perceptual.factor"] for one in found]
    assert factors[0] == pytest.approx(10 * factors[1], rel=1e-5)
    torch.testing.assert_close(found[0](image)[0], found[1](image)[0], rtol=1e-5, atol=1e-4)
    published = [network(factor, scale="published") for factor in (1.0, 10.0)]
    assert not any(one.measure(batches) for one in published)
    torch.testing.assert_close(10 * published[0](image)[0], published[1](image)[0])


def test_a_factor_that_is_known_is_not_measured_again() -> None:
    found = network(1.0, factor=2.5)
    assert found.measure(lambda count: pytest.fail("measured")) == {}
    assert found.factor == 2.5


def test_features_without_any_difference_are_told() -> None:
    found = network(0.0)
    with pytest.raises(UserError, match="scale=matched: L_f of one part is 0.0 over the foreground of 23 pictures"):
        found.measure(batches)


def test_a_run_keeps_the_factor_in_its_config_and_its_checkpoints_and_goes_on_with_it(tmp_path, capsys) -> None:
    given = (
        *("dataset_name=synthetic", f"dataset_root={tmp_path}/data", "experiment=laptop", "logging.wandb=disabled"),
        *("dataset.drawing.num_train=16", "dataset.drawing.num_test=4", "image_size=64", "batch_size=4"),
        *("num_steps=1", "evaluation.size=48", f"output_dir={tmp_path}/run", "perceptual.matched_on=2"),
    )
    train.train(composed(*given))
    assert "perceptual.factor: " in capsys.readouterr().err
    factor = OmegaConf.load(tmp_path / "run" / "config.yaml").perceptual.factor
    assert factor > 0 and checkpoints.find(tmp_path / "run").config["perceptual"]["factor"] == factor
    more = ("num_steps=2", "optimizer.poly_steps=2", f"resume={tmp_path}/run")
    train.train(validate(resumed_config(composed(*more), [*more])))
    assert "perceptual.factor: " not in capsys.readouterr().err
    assert json.dumps(checkpoints.find(tmp_path / "run").config["perceptual"]["factor"]) == json.dumps(factor)
