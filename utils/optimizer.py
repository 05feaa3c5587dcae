"""The optimiser and its learning-rate schedule, from the config node ``optimizer``."""

from collections.abc import Mapping
from typing import Any

import torch
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
        optimizer: its weights are on their device already: the state follows them.
        source: where the state is from, for the message.

    Raises:
        UserError: it is of another network or another optimiser, or not finite.
    """
    try:
        # The options decide where PyTorch puts counts of steps: this optimiser's have to be there from the start.
        groups = [
            {**own, "params": saved["params"]}
            for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
        ]
        optimizer.load_state_dict({**state, "param_groups": groups})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"The optimiser's state in {source} does not fit: {error}. Give the directory of the run it was made by."
        ) from error
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if torch.is_tensor(value) and (value.ndim and value.shape != parameter.shape or not value.isfinite().all()):
                raise UserError(
                    f"The optimiser's state in {source} does not fit: a {name} of shape {tuple(value.shape)} for "
                    f"weights of {tuple(parameter.shape)}, or numbers that are not finite. Give another checkpoint."
                )
            # Fused updates go through memory in order: momenta have to lie as their weights do.
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)
