"""The method and its optimiser: two whole training steps against those of the release, and what a run relies on."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from models import Segmenter, build_method
from models.methods.contrastive_reconstruction import ContrastiveReconstruction
from tests.golden_checkpoint import golden_state
from tests.shared import GOLDEN
from utils.errors import UserError
from utils.optimizer import build_optimizer, restore_optimizer, set_learning_rate

OPTIMIZER = SimpleNamespace(
    name="sgd", lr=1e-5, head_multiplier=10.0, momentum=0.9, weight_decay=5e-4, poly_power=0.9, poly_steps=100000
)
METHOD = SimpleNamespace(temperature=0.19, negatives="all_images", positives="uniform", equivariance="release")
WEIGHTS = {"feature": 5, "contrastive": 2300, "visual": 30, "equivariance": 5700}


def test_two_steps_give_the_losses_gradients_and_weights_of_the_release() -> None:
    golden = dict(np.load(GOLDEN / "train_step.npz"))
    segmenter = Segmenter(num_parts=4)
    segmenter.load_state_dict(golden_state(head=False))
    method = ContrastiveReconstruction(segmenter, perceptual=torch.nn.Identity(), config=METHOD, seed=0).train()
    optimizer = build_optimizer(method.parameter_groups(OPTIMIZER.lr, OPTIMIZER.head_multiplier), OPTIMIZER)
    later_of_the_others = torch.tensor([2, 2, 1])[:, None].expand(3, 4)

    for step in range(2):
        case = {name[6:]: golden[name] for name in golden if name.startswith(f"step{step}_")}

        def tensor(name: str, case: dict = case) -> Tensor:
            return torch.from_numpy(case[name]).float()

        rate = set_learning_rate(optimizer, OPTIMIZER, step)
        losses = method.losses(
            view=tensor("view"),
            view_to_warp=tensor("view_to_warp"),
            features=[tensor("features_0"), tensor("features_1")],
            lab=tensor("lab"),
            foreground=tensor("foreground"),
            grid=tensor("grid"),
            positives=later_of_the_others,
        )
        total = sum(WEIGHTS[name] * loss for name, loss in losses.items())
        optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(method.parameters(), 5.0)
        optimizer.step()

        for name, loss in (losses | {"total": total}).items():
            assert loss.item() == pytest.approx(float(case[name]), rel=1e-4), f"{name}, step {step}"
        assert norm.item() == pytest.approx(float(case["gradient_norm"]), rel=1e-3)
        assert rate == pytest.approx(float(case["learning_rate"]), rel=1e-6)

    state, before = segmenter.state_dict(), golden_state(head=False)
    afterwards = [name for name in golden if name.startswith("after_")]
    assert len(afterwards) == 6
    for name in afterwards:
        expected = torch.from_numpy(golden[name])
        found, start = (weights[name.removeprefix("after_")].flatten()[: len(expected)] for weights in (state, before))
        assert (found - expected).norm() <= 1e-5 * expected.norm(), name
        # Two clipped steps move some weights by two units in the last place: the moves agree, but for rounding.
        assert (found - expected).norm() <= 0.2 * (expected - start).norm(), name


def views(num_images: int, size: int, step: int = 0) -> SimpleNamespace:
    torch.manual_seed(1)
    grid = torch.nn.functional.affine_grid(
        0.9 * torch.eye(2, 3).expand(num_images, 2, 3), (num_images, 1, size, size), align_corners=True
    )
    return SimpleNamespace(
        image=torch.rand(num_images, 3, size, size),
        jittered=torch.rand(num_images, 3, size, size),
        jittered_to_warp=torch.rand(num_images, 3, size, size),
        lab=100 * torch.rand(num_images, 3, size, size),
        foreground=(torch.rand(num_images, 1, size, size) > 0.3).float(),
        grid=grid,
        step=step,
    )


def config(**changes: object) -> SimpleNamespace:
    nodes = {
        "num_parts": 4,
        "batch_size": 2,
        "seed": 1,
        "segmenter": SimpleNamespace(variant="caffe", weights="none", weights_dir="none", init="he"),
        "perceptual": SimpleNamespace(network="vgg19", layers={"relu3_2": 0.33}, weights="none", weights_dir="none"),
        "method": SimpleNamespace(name="contrastive_reconstruction", **vars(METHOD)),
    }
    return SimpleNamespace(**nodes | changes)


@pytest.fixture(scope="module")
def method() -> ContrastiveReconstruction:
    return build_method(config())


def test_a_method_gives_four_losses_that_train_the_segmenter_alone(method: ContrastiveReconstruction) -> None:
    batches_before = int(method.segmenter.bn1.num_batches_tracked)
    losses = method.train()(views(2, 64))
    sum(losses.values()).backward()
    assert set(losses) == set(WEIGHTS)
    assert all(loss.ndim == 0 and loss.isfinite() and loss > 0 for loss in losses.values())
    assert method.segmenter.bn1.num_batches_tracked == batches_before + 2  # two separate passes
    assert all(parameter.grad is None for parameter in method.perceptual.parameters())
    trained = {id(p) for group in method.parameter_groups(1.0, 10.0) for p in group["params"]}
    assert trained == {id(p) for p in method.parameters() if p.grad is not None}


def test_positives_depend_on_seed_and_step_alone(method: ContrastiveReconstruction) -> None:
    method.eval()
    with torch.no_grad():
        first, again, later = (float(method(views(4, 32, step))["contrastive"]) for step in (3, 3, 4))
    assert first == again != later


def test_mixed_precision_keeps_the_losses_in_float32(method: ContrastiveReconstruction) -> None:
    method.eval()
    with torch.no_grad():
        exact = method(views(2, 64))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = method(views(2, 64))
    for name, loss in mixed.items():
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(exact[name]), rel=0.1), name


def test_new_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = build_method(config())
    torch.manual_seed(6)
    second, other = build_method(config()), build_method(config(seed=2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first.segmenter.conv1.weight, other.segmenter.conv1.weight)
    assert not torch.equal(next(first.perceptual.parameters()), next(other.perceptual.parameters()))


def test_a_batch_too_small_for_the_choice_of_positives_is_refused_before_training() -> None:
    release = SimpleNamespace(**vars(config().method) | {"positives": "release"})
    with pytest.raises(UserError, match="batch_size=2, method.positives=release.*batch of 3 or more"):
        build_method(config(method=release))


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="method.name=scops: known are contrastive_reconstruction"):
        build_method(config(method=SimpleNamespace(name="scops")))


def test_the_learning_rate_decays_to_zero_and_keeps_the_heads_multiple() -> None:
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 1e-5 * multiplier, "multiplier": multiplier}
        for multiplier in (1.0, 10.0)
    ]
    optimizer = build_optimizer(groups, OPTIMIZER)
    assert set_learning_rate(optimizer, OPTIMIZER, 50000) == pytest.approx(1e-5 * 0.5**0.9)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-5 * 0.5**0.9, 1e-4 * 0.5**0.9])
    assert set_learning_rate(optimizer, OPTIMIZER, 100001) == 0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_restored_optimizer_goes_on_exactly_and_keeps_its_own_options(name: str) -> None:
    def trained(steps: range, value: float, state: dict | None, **changes: object) -> tuple[float, dict, Optimizer]:
        settings = SimpleNamespace(**vars(OPTIMIZER) | {"name": name} | changes)
        parameter = torch.nn.Parameter(torch.tensor([value], dtype=torch.float64))
        optimizer = build_optimizer([{"params": [parameter], "lr": 0.1, "multiplier": 1.0}], settings)
        if state is not None:
            restore_optimizer(optimizer, state, source="run")
        for step in steps:
            optimizer.zero_grad()
            ((step + 1) * parameter.square()).sum().backward()
            optimizer.step()
        return parameter.item(), optimizer.state_dict(), optimizer

    whole, _, _ = trained(range(4), 1.0, None)
    half, state, _ = trained(range(2), 1.0, None)
    assert trained(range(2, 4), half, state)[0] == whole
    assert trained(range(2, 4), half, None)[0] != whole
    _, _, changed = trained(range(0), half, state, weight_decay=0.25)
    assert changed.param_groups[0]["weight_decay"] == 0.25


@pytest.mark.parametrize("momentum", [torch.zeros(2), torch.full((3,), torch.nan), torch.zeros(3, 1)])
def test_momenta_of_other_weights_and_those_that_are_no_numbers_are_refused(momentum: Tensor) -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = build_optimizer([{"params": [parameter], "lr": 0.1, "multiplier": 1.0}], OPTIMIZER)
    parameter.grad = torch.ones(3)
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["momentum_buffer"] = momentum
    with pytest.raises(UserError, match=r"saved does not fit: a momentum_buffer of shape .* for weights of \(3,\)"):
        restore_optimizer(optimizer, state, "saved")


def test_momenta_saved_in_another_memory_layout_belong_to_the_same_weights() -> None:
    def after_two_updates(second_layout: torch.memory_format) -> Tensor:
        torch.manual_seed(0)
        weight, gradients = torch.randn(3, 4, 3, 3), torch.randn(2, 3, 4, 3, 3)
        state = None
        for gradient, layout in zip(gradients, (torch.contiguous_format, second_layout), strict=True):
            parameter = torch.nn.Parameter(weight.contiguous(memory_format=layout))
            parameter.grad = gradient.contiguous(memory_format=layout)
            optimizer = build_optimizer([{"params": [parameter], "lr": 0.1, "multiplier": 1.0}], OPTIMIZER)
            if state is not None:
                restore_optimizer(optimizer, state, "saved")
            optimizer.step()
            weight, state = parameter.detach(), optimizer.state_dict()
        return weight

    expected = after_two_updates(torch.contiguous_format)
    assert torch.allclose(after_two_updates(torch.channels_last), expected, rtol=1e-6)
