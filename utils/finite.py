"""Losses and gradients that are not finite: kept from the weights on the device, told on the host, and kept on disk."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.errors import UserError
from utils.run_directory import to_resume


class NotFinite(UserError):
    """An update whose loss or gradient is not finite.

    Attributes:
        step: the update, from 0; the network and the optimiser are as they were before it.
        scalars: the step's losses, their sum and the gradient's norm.
    """

    def __init__(self, step: int, scalars: dict[str, float]) -> None:
        super().__init__(step, scalars)  # both, so that it can be sent to another process
        self.step, self.scalars = step, scalars

    def __str__(self) -> str:
        broken = ", ".join(name for name, value in self.scalars.items() if not math.isfinite(value))
        return f"The loss or its gradient is not finite at step {self.step} ({broken}); weights are as before it."


class FiniteUpdates:
    """Keeps network and optimiser as they are from the first step on whose loss or gradient is not finite.

    The flag lives on the device and stops the optimiser there; the host learns of it when it asks.

    Args:
        optimizer: the one of ``build_optimizer``, on its device. One that is not fused belongs to a gradient scaler,
            which meets gradients that are not finite as part of its work, and waits for the device in every step.
        network: what it trains, with the running statistics of its batch norms.
    """

    def __init__(self, optimizer: Optimizer, network: nn.Module) -> None:
        self._optimizer = optimizer
        self._fused = all(group["fused"] for group in optimizer.param_groups)
        self._buffers = list(network.buffers())
        self._kept = self._flat_buffers()
        self._first = torch.full((), -1, device=self._kept.device)
        self._names: list[str] = []
        self._values = torch.empty(0, device=self._kept.device)

    def watch(self, step: int, losses: Mapping[str, Tensor], total: Tensor, gradient_norm: Tensor) -> None:
        """To be called between the gradients of update ``step`` and the update itself; all values are scalars.

        Raises:
            NotFinite: see :meth:`require_finite`; with an optimiser that is not fused.
        """
        scalars = {**losses, "total": total, "gradient_norm": gradient_norm}
        self._names = list(scalars)
        values = torch.stack([value.detach().float() for value in scalars.values()])
        finite, before = values[-2].isfinite(), self._first < 0
        if self._fused:
            finite = finite & values[-1].isfinite()
        if not len(self._values):
            self._values = values
        self._first = torch.where(before & ~finite, step, self._first)
        self._values = torch.where(before, values, self._values)
        self._kept = torch.where(before & finite, self._flat_buffers(), self._kept)
        if self._fused:
            # The attribute by which PyTorch's own gradient scaler stops fused optimisers.
            self._optimizer.found_inf = (self._first >= 0).float()
        else:
            self.require_finite()

    def require_finite(self) -> None:
        """Waits for the device.

        Raises:
            NotFinite: an update was not finite.
        """
        if (first := int(self._first)) < 0:
            return
        self._first.fill_(-1)  # told
        # The forward passes since then have moved the running statistics, perhaps to what is no number.
        start = 0
        for buffer in self._buffers:
            buffer.copy_(self._kept[start : start + buffer.numel()].view_as(buffer))
            start += buffer.numel()
        raise NotFinite(first, dict(zip(self._names, self._values.tolist(), strict=True)))

    def _flat_buffers(self) -> Tensor:
        # Counts of batches become float32 here: exact up to 2^24.
        return torch.cat([buffer.detach().float().flatten() for buffer in self._buffers])


def require_finite_weights(network: nn.Module, step: int) -> None:
    """Waits for the device.

    Args:
        step: updates done, for the message.

    Raises:
        UserError: a weight is not finite, though every gradient was: the step was too long.
    """
    sizes = torch.stack([parameter.detach().abs().max().float() for parameter in network.parameters()])
    if not sizes.isfinite().all():
        raise UserError(
            f"After {step} steps the weights are not finite, though the gradients were: optimizer.lr is too high. They "
            "are not saved; earlier checkpoints stay."
        )


def record(run: Path, found: NotFinite, seed: int, pictures: Iterable[tuple[str, Path]]) -> UserError:
    """Writes what is needed to look into it, ``RUN/not_finite/step_STEP.json``; returns what to tell the user.

    Args:
        run: the run directory, with a checkpoint of the weights before the step.
        pictures: names and files of the step's batch.
    """
    path = run / "not_finite" / f"step_{found.step}.json"
    content = {
        "step": found.step,
        "seed": seed,
        "pictures": [{"name": name, "path": str(file)} for name, file in pictures],
        **{name: str(value) for name, value in found.scalars.items()},  # JSON has no word for what is no number
    }
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")
        where = f"Its pictures and losses: {path}."
    except OSError as error:
        where = f"Its pictures: {', '.join(one['path'] for one in content['pictures'])} ({path}: {error.strerror})."
    return UserError(
        f"{found} {where} To meet it again: python train.py {to_resume(run)} logging.every=1 -- to go on, lower "
        "optimizer.lr in that command, or mend the data; or delete the last checkpoint, to go on from the one before."
    )
