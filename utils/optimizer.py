"""The optimiser and its learning-rate schedule, from the config node ``optimizer``."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW, Optimizer

from utils.errors import UserError


def build_optimizer(parameter_groups: list[dict[str, Any]], config: Any, fused: bool = True) -> Optimizer:
    """SGD with momentum, or AdamW.

    Args:
        parameter_groups: what a method trains; each has ``params`` and may have ``multiplier``, its rate relative to
            the scheduled one (1 where it is left out), or ``constant_rate``, a rate of its own that no schedule
            changes; ``clip``, the name of the set that its gradients are clipped with, apart from the others (see
            :func:`clip_gradients`); and options of PyTorch's optimiser, such as ``weight_decay``.
        config: the node ``optimizer``.
        fused: update all weights in one kernel; gradient scaling with clipping cannot have it.

    Raises:
        ValueError: unknown name.
    """
    groups = [{"multiplier": 1.0, "constant_rate": None, "clip": "", **group} for group in parameter_groups]
    for group in groups:
        group["lr"] = _rate_of(group, config.lr)
    if config.name == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused)
    if config.name == "adamw":
        return AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
    raise ValueError(f"optimizer.name must be 'sgd' or 'adamw', not {config.name!r}")


def set_learning_rate(optimizer: Optimizer, config: Any, step: int) -> float:
    """Set every group's rate for the update after ``step`` updates; returns the scheduled rate.

    With s = step / poly_steps that is lr (1 - s)^poly_power ("poly") or lr (1 + cos(pi s)) / 2 ("cosine"); 0 from
    poly_steps on.
    """
    left = max(0.0, 1 - step / config.poly_steps)
    shares = {"poly": left**config.poly_power, "cosine": (1 - math.cos(math.pi * left)) / 2}
    rate = config.lr * shares[config.schedule]
    for group in optimizer.param_groups:
        group["lr"] = _rate_of(group, rate)
    return rate


def _rate_of(group: Mapping[str, Any], rate: float) -> float:
    own = rate * group["multiplier"] if group["constant_rate"] is None else group["constant_rate"]
    with np.errstate(over="ignore"):  # a rate that is far too high: weights that are not finite are told
        # As a recorded step reads it from the device, and PyTorch's unfused updates have it.
        return float(np.float32(own))


def clip_gradients(optimizer: Optimizer, max_norm: float) -> dict[str, Tensor]:
    """Scale the gradients of each set of parameter groups down to a total norm.

    Args:
        optimizer: of :func:`build_optimizer`; its gradients are those of the losses, not scaled by a gradient scaler.

    Returns:
        The norms before, scalars: ``gradient_norm`` of the groups that name no set, ``gradient_norm_NAME`` of others.
    """
    sets: dict[str, list[Tensor]] = {}
    for group in optimizer.param_groups:
        sets.setdefault(group["clip"], []).extend(group["params"])
    return {
        f"gradient_norm_{name}" if name else "gradient_norm": clip_grad_norm_(parameters, max_norm)
        for name, parameters in sets.items()
    }


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
