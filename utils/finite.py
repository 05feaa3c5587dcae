"""Losses and gradients that are not finite: kept from the weights on the device, told on the host, and kept on disk."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from utils.errors import UserError
from utils.run_directory import to_resume


class NotFinite(UserError):
    """An update whose loss or gradient is not finite.

    Attributes:
        step: the update, from 0; weights and optimiser are as they were before it, running statistics are not.
        scalars: the step's losses, their sum and the gradient's norms.
    """

    def __init__(self, step: int, scalars: dict[str, float]) -> None:
        super().__init__(step, scalars)  # both, so that it can be sent to another process
        self.step, self.scalars = step, scalars

    def __str__(self) -> str:
        broken = ", ".join(name for name, value in self.scalars.items() if not math.isfinite(value))
        return f"The loss or its gradient is not finite at step {self.step} ({broken})."


class FiniteUpdates:
    """Keeps weights and optimiser as they are from the first step on whose loss or gradient is not finite.

    The flag lives on the device and stops the optimiser there; the host learns of it when it asks. Running statistics
    of batch norms are not kept from what is no number: after such a step the network must not be saved.

    Args:
        optimizer: the one of ``build_optimizer``, on its device. One that is not fused belongs to a gradient scaler,
            which meets gradients that are not finite as part of its work, and waits for the device in every step.
        step: updates done.
    """

    def __init__(self, optimizer: Optimizer, step: int) -> None:
        self._optimizer = optimizer
        self._fused = all(group["fused"] for group in optimizer.param_groups)
        device = optimizer.param_groups[0]["params"][0].device
        # All of it stays where it is on the device, and is counted there: a recorded step has nothing of the host's.
        self._step, self._first = (torch.full((), value, device=device) for value in (step - 1, -1))
        self._names: list[str] = []
        self._values: Tensor | None = None

    @torch.no_grad()
    def watch(self, losses: Mapping[str, Tensor], total: Tensor, norms: Mapping[str, Tensor]) -> None:
        """To be called in each step between the gradients and the update; all values are scalars.

        Args:
            total: what the gradients are of; not finite wherever a loss in it is not.
            norms: of the gradients, by name: one for each set of parameters that is clipped apart from others.

        Raises:
            NotFinite: see :meth:`require_finite`; with an optimiser that is not fused.
        """
        scalars = {**losses, "total": total, **norms}
        self._names = list(scalars)
        values = torch.stack([value.float() for value in scalars.values()])
        finite = (values[len(losses) :] if self._fused else values[len(losses)]).isfinite().all()
        before = self._first < 0
        torch.where(before & ~finite, self._step.add_(1), self._first, out=self._first)
        if self._values is None:
            self._values = values
        torch.where(before, values, self._values, out=self._values)
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
        if (first := int(self._first)) >= 0:
            raise NotFinite(first, dict(zip(self._names, self._values.tolist(), strict=True)))


def require_finite_weights(weights: Iterable[Tensor], step: int) -> None:
    """Waits for the device.

    Args:
        weights: all that is trained.
        step: updates done, for the message.

    Raises:
        UserError: a weight is not finite, though every gradient was: the step was too long.
    """
    sizes = torch.stack([tensor.detach().abs().max().float() for tensor in weights])
    if not sizes.isfinite().all():
        raise UserError(
            f"After {step} steps the weights are not finite, though the gradients were: optimizer.lr is too high. They "
            "are not saved; earlier checkpoints stay."
        )


def record(run: Path, found: NotFinite, seed: int, pictures: Iterable[tuple[str, Path]]) -> UserError:
    """Writes ``RUN/not_finite/step_STEP.json``, with names and files of the step's pictures; returns what to tell."""
    path = run / "not_finite" / f"step_{found.step}.json"
    content = {
        "step": found.step,
        "seed": seed,
        "pictures": [{"name": name, "path": str(file)} for name, file in pictures],
        **{name: str(value) for name, value in found.scalars.items()},  # JSON has no word for what is no number
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    return UserError(
        f"{found} Its pictures and losses: {path}. No checkpoint has it. The run goes on from its last one, and meets "
        f"it again: python train.py {to_resume(run)} logging.every=1 -- to get past it, lower optimizer.lr in that "
        "command, or mend the data; or delete the last checkpoint, to go on from the one before."
    )
