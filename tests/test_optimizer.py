"""The optimiser: rates of its groups under the schedule, gradients clipped by set, momenta that are restored."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from utils.errors import UserError
from utils.optimizer import build_optimizer, clip_gradients, restore_optimizer, set_learning_rate

OPTIMIZER = SimpleNamespace(
    name="sgd", lr=1e-5, momentum=0.9, weight_decay=5e-4, schedule="poly", poly_power=0.9, poly_steps=100000
)


def parameters(*gradients: list[float]) -> list[torch.nn.Parameter]:
    """A parameter for each gradient, which it has."""
    made = [torch.nn.Parameter(torch.ones(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return made


def test_the_learning_rate_decays_to_zero_and_keeps_the_heads_multiple() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "multiplier": multiplier} for multiplier in (1.0, 10.0)]
    optimizer = build_optimizer(groups, OPTIMIZER)
    assert set_learning_rate(optimizer, OPTIMIZER, 50000) == pytest.approx(1e-5 * 0.5**0.9)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-5 * 0.5**0.9, 1e-4 * 0.5**0.9])
    assert set_learning_rate(optimizer, OPTIMIZER, 100001) == 0


@pytest.mark.parametrize(
    ("step", "share"), [(0, 1.0), (25000, (1 + 0.5**0.5) / 2), (50000, 0.5), (100000, 0), (100001, 0)]
)
def test_a_cosine_schedule_is_half_a_wave_to_zero(step: int, share: float) -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "multiplier": multiplier} for multiplier in (1.0, 20.0)]
    optimizer = build_optimizer(groups, OPTIMIZER)
    cosine = SimpleNamespace(**vars(OPTIMIZER) | {"schedule": "cosine"})
    assert set_learning_rate(optimizer, cosine, step) == pytest.approx(1e-5 * share)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-5 * share, 2e-4 * share])


def test_a_group_with_a_rate_of_its_own_keeps_it_under_the_schedule() -> None:
    groups = [{"params": parameters([1.0])}, {"params": parameters([1.0]), "constant_rate": 0.25}]
    optimizer = build_optimizer(groups, OPTIMIZER)
    for step in (0, 50000, 100001):
        assert np.float32(set_learning_rate(optimizer, OPTIMIZER, step)) == optimizer.param_groups[0]["lr"]
        assert optimizer.param_groups[1]["lr"] == 0.25
    optimizer.step()
    assert optimizer.param_groups[0]["params"][0] == 1 and optimizer.param_groups[1]["params"][0] != 1


def test_a_group_may_have_options_of_its_own() -> None:
    groups = [{"params": parameters([1.0])}, {"params": parameters([1.0]), "weight_decay": 0.0}]
    assert [group["weight_decay"] for group in build_optimizer(groups, OPTIMIZER).param_groups] == [5e-4, 0.0]


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="'sgd' or 'adamw', not 'lion'"):
        build_optimizer([{"params": parameters([1.0])}], SimpleNamespace(**vars(OPTIMIZER) | {"name": "lion"}))


def test_sets_of_gradients_are_clipped_apart() -> None:
    large, small, of_large = parameters([6.0, 0.0], [0.3, 0.4], [0.0, 8.0])
    groups = [{"params": [large]}, {"params": [small], "clip": "basis"}, {"params": [of_large], "multiplier": 10.0}]
    norms = clip_gradients(build_optimizer(groups, OPTIMIZER), 5.0)
    assert {name: float(norm) for name, norm in norms.items()} == pytest.approx(
        {"gradient_norm": 10.0, "gradient_norm_basis": 0.5}
    )
    assert small.grad.tolist() == pytest.approx([0.3, 0.4])
    assert large.grad.tolist() == pytest.approx([3.0, 0.0]) and of_large.grad.tolist() == pytest.approx([0.0, 4.0])
    small.grad *= 100
    norms = clip_gradients(build_optimizer(groups, OPTIMIZER), 5.0)
    assert float(norms["gradient_norm_basis"]) == pytest.approx(50) and float(small.grad.norm()) == pytest.approx(5)
    assert large.grad.tolist() == pytest.approx([3.0, 0.0])


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_one_set_is_clipped_to_the_bit_as_pytorch_clips_all_parameters(max_norm: float) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(size).tolist() for size in (1000, 7, 300)]
    ours, expected = parameters(*gradients), parameters(*gradients)
    optimizer = build_optimizer([{"params": ours[:2]}, {"params": ours[2:], "multiplier": 10.0}], OPTIMIZER)
    norms = clip_gradients(optimizer, max_norm)
    assert norms.keys() == {"gradient_norm"}
    assert torch.equal(norms["gradient_norm"], clip_grad_norm_(expected, max_norm))
    assert all(torch.equal(mine.grad, theirs.grad) for mine, theirs in zip(ours, expected, strict=True))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_restored_optimizer_goes_on_exactly_and_keeps_its_own_options(name: str) -> None:
    def trained(steps: range, value: float, state: dict | None, **changes: object) -> tuple[float, dict, Optimizer]:
        settings = SimpleNamespace(**vars(OPTIMIZER) | {"name": name, "lr": 0.1} | changes)
        parameter = torch.nn.Parameter(torch.tensor([value], dtype=torch.float64))
        optimizer = build_optimizer([{"params": [parameter]}], settings)
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
    optimizer = build_optimizer([{"params": [parameter]}], OPTIMIZER)
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
            optimizer = build_optimizer([{"params": [parameter]}], OPTIMIZER)
            if state is not None:
                restore_optimizer(optimizer, state, "saved")
            optimizer.step()
            weight, state = parameter.detach(), optimizer.state_dict()
        return weight

    expected = after_two_updates(torch.contiguous_format)
    assert torch.allclose(after_two_updates(torch.channels_last), expected, rtol=1e-6)
