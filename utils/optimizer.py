"""The optimiser and its learning-rate schedule, from the config node ``optimizer``."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from utils.errors import UserError


def build_optimizer(parameter_groups: list[dict[str, Any]], config: Any, fused: bool = True) -> Optimizer:
    """SGD with momentum, or AdamW.

    Args:
        parameter_groups: each with ``params``, ``lr`` and ``multiplier``, its rate relative to ``config.lr``.
        config: ``name`` (``"sgd"`` or ``"adamw"``), ``weight_decay`` and, read by SGD alone, ``momentum``.
        fused: update all weights in one kernel; gradient scaling with clipping cannot have it.

    Raises:
        ValueError: unknown name.
    """
    if config.name == "sgd":
        return SGD(parameter_groups, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused)
    if config.name == "adamw":
        return AdamW(parameter_groups, weight_decay=config.weight_decay, fused=fused)
    raise ValueError(f"optimizer.name must be 'sgd' or 'adamw', not {config.name!r}")


def learning_rate(config: Any, step: int) -> float:
    """lr (1 - step / poly_steps)^poly_power, 0 from poly_steps on; ``step`` is the number of updates done so far."""
    return config.lr * max(0.0, 1 - step / config.poly_steps) ** config.poly_power


def set_learning_rate(optimizer: Optimizer, config: Any, step: int) -> float:
    """Set every group's rate for the update after ``step`` updates; returns the base rate."""
    rate = learning_rate(config, step)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]
    return rate


def restore_optimizer(optimizer: Optimizer, state: Mapping[str, Any], source: str) -> None:
    """Load a saved state (momenta), but keep this optimiser's own options.

    ``load_state_dict`` alone would bring the saved options back over those that a resumed run was asked to change.

    Args:
        source: where the state is from, for the message.

    Raises:
        UserError: it is of another network or another optimiser.
    """
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(dict(state))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"The optimiser's state in {source} does not fit: {error}. Give the directory of the run it was made by."
        ) from error
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            # Fused updates go through memory in order: momenta have to lie as their weights do.
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)


class FiniteUpdates:
    """Keeps the weights as they are from the first step on whose loss or gradient is not finite.

    The flag lives on the device and stops the optimiser there; the host learns of it when it asks.

    Args:
        optimizer: the one of :func:`build_optimizer`. One that is not fused is left to the gradient scaler, which skips
            such updates itself.
        device: of the weights.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self._optimizer = optimizer
        self._fused = all(group["fused"] for group in optimizer.param_groups)
        self._first = torch.full((), -1, device=device)

    def watch(self, step: int, loss: Tensor, gradient_norm: Tensor) -> None:
        """To be called between the gradients of update ``step`` and the update itself; both values are scalars."""
        finite = loss.detach().isfinite()
        if self._fused:
            # A gradient scaler is meant to meet gradients that are not finite.
            finite = finite & gradient_norm.isfinite()
        self._first = torch.where(finite | (self._first >= 0), self._first, step)
        if self._fused:
            # The attribute by which PyTorch's own gradient scaler stops fused optimisers.
            self._optimizer.found_inf = (self._first >= 0).float()

    def require_finite(self) -> None:
        """Waits for the device.

        Raises:
            UserError: an update was not finite; the message has its step.
        """
        if (first := int(self._first)) >= 0:
            raise UserError(
                f"The loss or its gradient is not finite at step {first}, and the weights are still those before it: "
                "lower optimizer.lr, or check the data."
            )
