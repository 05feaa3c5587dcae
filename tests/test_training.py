"""A method in training: what it trains beside its predictor is saved, restored and watched like the predictor."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from models.methods import base
from tests.composition import composed
from utils import checkpoints
from utils.devices import build_fabric
from utils.errors import UserError
from utils.finite import NotFinite
from utils.logging import Silence
from utils.ranks import Ranks
from utils.run_directory import RunDirectory
from utils.seeding import Randomness
from utils.training import Training

NAMES = [
    *("basis", "mean", "decoder.scale", "decoder.0.weight", "decoder.0.bias", "decoder.1.weight", "decoder.1.bias"),
    *("decoder.1.running_mean", "decoder.1.running_var", "decoder.1.num_batches_tracked"),
]


class Predictor(nn.Conv2d):
    num_parts, has_background = 2, False

    def __init__(self) -> None:
        super().__init__(3, 2, 3)


class Method(base.Method):
    """Compares pictures decoded from scores, and from a trained basis, with the pictures; keeps their running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.predictor, self.frozen = Predictor(), nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.decoder = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
        self.decoder.register_buffer("scale", torch.ones(()))
        self.basis = nn.Parameter(torch.randn(2, 3))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("made_anew", torch.ones(3), persistent=False)

    def parameter_groups(self, optimizer: DictConfig) -> list[dict]:
        beside = [self.basis, *self.decoder.parameters()]
        return [{"params": [*self.predictor.parameters()]}, {"params": beside, "constant_rate": 0.01, "clip": "beside"}]

    def views(self, batch: SimpleNamespace, random: Randomness) -> Tensor:
        return torch.stack([torch.from_numpy(rng.random((3, 8, 8))).float() for rng in random.of_each("picture")])

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        scores, target = self.predictor(views), self.frozen(views)[:, :, 1:-1, 1:-1]
        with torch.no_grad():
            self.mean.lerp_(views.mean((0, 2, 3)), 0.5)
            self.decoder.scale.mul_(0.9)
        decoded = self.decoder(scores) * self.decoder.scale + self.mean[:, None, None]
        coded = torch.einsum("nkhw,kc->nchw", scores, self.basis)
        return {"decoded": (decoded - target).square().mean(), "coded": (coded - target).square().mean()}


class PredictorAlone(Method):
    """Trains nothing beside it."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.predictor, self.frozen = Predictor(), nn.Conv2d(3, 3, 1).requires_grad_(False)

    def parameter_groups(self, optimizer: DictConfig) -> list[dict]:
        return [{"params": [*self.predictor.parameters()]}]

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        return {"decoded": self.predictor(views).square().mean(), "coded": self.frozen(views).square().mean()}


def training_of(method: type[Method] = Method, resume: Path | None = None, seed: int = 0) -> Training:
    """Of two images a step, with weights drawn by ``seed`` or those of the run to resume."""
    config = composed("dataset_name=synthetic", "device=cpu", "num_steps=9", "optimizer.lr=0.01")
    config._set_flag("struct", False)
    config.loss_weights, config.resume = {"decoded": 1.0, "coded": 2.0}, resume and str(resume)
    torch.manual_seed(seed)
    return Training(Ranks(build_fabric("cpu", "32")), config, method())


def trained(training: Training, last: int) -> Training:
    while training.step < last:
        step(training)
    return training


def step(training: Training) -> dict:
    """One, of a batch of which a method takes nothing but its place."""
    batch = SimpleNamespace(step=training.step, places=range(2))
    batch.to = lambda device: batch
    return training.learn(training.views(batch), Silence())


def saved(training: Training, path: Path) -> Path:
    """A run directory with a checkpoint of the training as it is."""
    path.mkdir()
    training.save(RunDirectory(path), Silence())
    return path


def test_a_run_goes_on_to_the_bit_with_all_that_is_trained_beside_the_predictor(tmp_path):
    whole = trained(training_of(), 5)
    half = saved(trained(training_of(), 3), tmp_path / "run")
    begun = training_of(seed=1)
    assert not any(torch.equal(begun.method.state_dict()[name], whole.method.state_dict()[name]) for name in NAMES[:2])

    resumed = training_of(resume=half, seed=1)
    assert resumed.step == 3
    # Nobody trains it: it is a function of the seed.
    resumed.method.frozen.load_state_dict(whole.method.frozen.state_dict())
    trained(resumed, 5)
    expected, found = whole.method.state_dict(), resumed.method.state_dict()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    for parameter, state in enumerate(whole.optimizer.state_dict()["state"].values()):
        for name, value in state.items():
            assert torch.equal(resumed.optimizer.state_dict()["state"][parameter][name], value), (parameter, name)
    # And it would not, without what is beside the predictor.
    assert not torch.equal(expected["basis"], trained(training_of(), 3).method.state_dict()["basis"])


def test_a_checkpoint_has_what_is_trained_beside_the_predictor_and_nothing_frozen(tmp_path):
    training = trained(training_of(), 1)
    run = saved(training, tmp_path / "run")
    content = torch.load(run / "checkpoints/model_1.pth", weights_only=True)
    assert sorted(content["method_state_dict"]) == sorted(NAMES)
    assert sorted(content["model_state_dict"]) == ["bias", "weight"]
    assert content["format"] == checkpoints.FORMAT == 2
    found = checkpoints.find(run).beside
    assert all(torch.equal(found[name], training.method.state_dict()[name]) for name in NAMES)
    alone = saved(trained(training_of(PredictorAlone), 1), tmp_path / "alone")
    assert "method_state_dict" not in torch.load(alone / "checkpoints/model_1.pth", weights_only=True)
    assert training_of(PredictorAlone, resume=alone).step == 1


def lacking(beside: dict[str, Tensor]) -> None:
    del beside["decoder.0.bias"]


def unknown(beside: dict[str, Tensor]) -> None:
    beside["encoder.weight"] = torch.zeros(3)


def of_another_shape(beside: dict[str, Tensor]) -> None:
    beside["basis"] = torch.zeros(4, 3)


def not_finite(beside: dict[str, Tensor]) -> None:
    beside["decoder.1.running_var"][1] = torch.inf


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lacking, r"decoder.0.bias has the shape none there and \(3,\) here"),
        (dict.clear, r"has the shape none there"),
        (unknown, r"encoder.weight has the shape \(3,\) there and none here"),
        (of_another_shape, r"basis has the shape \(4, 3\) there and \(2, 3\) here"),
        (not_finite, "decoder.1.running_var has numbers that are not finite"),
    ],
)
def test_a_checkpoint_that_does_not_fit_what_is_trained_beside_is_refused_by_name(tmp_path, damage, message):
    run = saved(trained(training_of(), 1), tmp_path / "run")
    file = run / "checkpoints/model_1.pth"
    content = torch.load(file, weights_only=True)
    damage(content["method_state_dict"])
    checkpoints.save(file, content)
    with pytest.raises(UserError, match=f"model_1.pth.*{message}"):
        training_of(resume=run)


@pytest.mark.parametrize("name", ["basis", "decoder.0.weight", "decoder.1.running_mean", "mean", "predictor.weight"])
def test_numbers_that_are_not_finite_are_not_saved_wherever_they_are(tmp_path, name):
    training = trained(training_of(), 1)
    tensor = training.method.state_dict()[name]
    tensor[(0,) * tensor.ndim] = torch.nan
    with pytest.raises(UserError, match="After 1 steps the weights are not finite"):
        saved(training, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def broken(method: Method, _: tuple, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**losses, "coded": losses["coded"] + (0 * method.basis.sum()).sqrt()}  # 0, of slope 0 times infinity


def test_a_gradient_that_is_not_finite_beside_the_predictor_stops_both_and_is_named():
    training = trained(training_of(), 1)
    before = {name: tensor.clone() for name, tensor in training.method.named_parameters()}
    training.method.register_forward_hook(broken)
    done = step(training)
    assert done["total"].isfinite() and done["gradient_norm"].isfinite()
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.method.named_parameters())
    with pytest.raises(NotFinite, match=r"at step 1 \(gradient_norm_beside\)"):
        training.scalars(done)


def test_the_sets_that_are_clipped_apart_have_a_figure_each_and_their_own_rates():
    training = training_of()
    done = step(training)
    assert list(done) == ["decoded", "coded", "total", "learning_rate", "gradient_norm", "gradient_norm_beside"]
    assert done["total"].item() == pytest.approx(done["decoded"].item() + 2 * done["coded"].item())
    assert done["learning_rate"] == 0.01 and training.scalars(done).keys() == done.keys()
    trained(training, 4)
    scheduled, constant = (group["lr"] for group in training.optimizer.param_groups)
    assert scheduled < 0.0099 < constant == pytest.approx(0.01)
