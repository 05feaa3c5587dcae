"""Training steps whose kernels are recorded once, and from then on started all at once: CUDA graphs.

On a fast GPU a step of a thousand small kernels waits for the host that starts them. A recorded step is one call of it,
with the same kernels on the same memory: what changes from step to step, views and learning rates, is copied there.

No GPU has run this module yet. What is recorded, and that nothing of the host's is in it, is tested on the CPU with a
stand-in that records operators (``tests/tape.py``).
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.optim import Optimizer

from utils.memory import release, shortage
from utils.transfers import Beside

STEPS_BEFORE = 3  # with which momenta come to be, constants are made, and cuDNN chooses its algorithms

Views, Done = TypeVar("Views"), TypeVar("Done")


def record(work: Callable[[], object]) -> Callable[[], None]:
    """Calls ``work`` once, of which nothing is computed; gives what computes it, as often as it is called.

    Raises:
        Exception: what ``work`` has met that cannot be recorded, such as waiting for the device.
    """
    graph, met = torch.cuda.CUDAGraph(), []
    try:
        # Afterwards on the stream of now, which PyTorch's older versions do not see to where a recording fails. Other
        # threads, such as the one that copies batches to page-locked memory, go on with their work.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, capture_error_mode="thread_local"),
        ):
            try:
                work()
            except Exception as error:
                met.append(error)
                raise
    except Exception as error:
        # Of a recording that has failed its end fails too, and says no more than that.
        raise (met[0] if met else error) from None
    return graph.replay


def cannot_record(device: torch.device, config: Any) -> str | None:
    """Why the steps of a run cannot be recorded, whatever its method; None if they can.

    Args:
        config: has ``devices``, ``num_nodes``, ``strategy`` and ``precision``.
    """
    if device.type != "cuda":
        return f"only those of a GPU can be recorded, and device is {device.type}"
    if config.devices * config.num_nodes > 1:
        return "several devices wait for each other in each"
    if config.strategy == "ddp":
        return "strategy=ddp keeps what belongs to the steps before"
    if config.precision == "16":
        return "the gradient scaler of precision=16 waits for the device in each"
    return None


class RecordedStep:
    """Does the first steps one by one, records the next one, and replays it from then on.

    Where it cannot be recorded all steps go one by one, and the log says why.

    Args:
        work: what the device does in a step, from views that are there to tensors; the same in every step, but for the
            numbers in the views and the optimiser's rates.
        optimizer: the one that ``work`` updates with.
        device: of views and weights.
    """

    def __init__(self, work: Callable[[Any], Done], optimizer: Optimizer, device: torch.device) -> None:
        self._work, self._optimizer, self._device = work, optimizer, device
        self._beside = Beside(device)
        self._rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self._left, self._refused = STEPS_BEFORE, False
        # Of the recorded step: what starts it, the form of what it sees, where it reads that, and where it writes.
        self._replay: Callable[[], None] | None = None
        self._layout: Any = None
        self._views: Any = None
        self._done: Any = None

    def beside(self, make: Callable[[], Views]) -> Views:
        """The views that ``make`` gives, on a stream of their own: the last step may still be computed meanwhile.

        All their tensors are on the device then: what is copied there later would be that of the recorded step.
        """
        return self._beside.make(lambda: apply_to_collection(make(), Tensor, self._uploaded), tensors_of)

    def __call__(self, views: Any, say: Callable[[str], None]) -> Done:
        """What ``work`` gives for a step's views; it holds until the next step.

        Args:
            say: a line of the log.
        """
        if self._left == 0 and self._replay is None and not self._refused:
            self._record(views, say)
        if self._replay is not None and layout(views) != self._layout:
            self._refuse("what it sees is not always of one form", say)
        if self._replay is None:
            self._left = max(0, self._left - 1)
            return self._work(views)
        for own, given in zip(tensors_of(self._views), tensors_of(views), strict=True):
            own.copy_(given)
        for own, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            own.fill_(group["lr"])
        self._replay()
        return self._done

    def _record(self, views: Any, say: Callable[[str], None]) -> None:
        def work() -> None:
            self._done = self._work(self._views)

        self._optimizer.zero_grad()  # where the gradients are it has to find none
        groups, reason = self._optimizer.param_groups, None
        before = [dict(group) for group in groups]
        try:
            self._layout, self._views = layout(views), apply_to_collection(views, Tensor, torch.clone)
            for group, rate in zip(groups, self._rates, strict=True):
                # What PyTorch asks for: rates on the device, and AdamW's consent.
                group.update({"lr": rate, **({"capturable": True} if "capturable" in group else {})})
            self._replay = record(work)
        except Exception as error:  # PyTorch, cuDNN and the compiler have many
            lacking = shortage(error, self._device)
            reason = f"memory does not suffice: {lacking}" if lacking else str(error).strip().partition("\n")[0]
        finally:
            for group, own in zip(groups, before, strict=True):
                group.update(own)
        if reason is not None:
            self._refuse(reason, say)
            with suppress(RuntimeError):  # PyTorch may still count the recording among those under way
                release(self._device)

    def _refuse(self, reason: str, say: Callable[[str], None]) -> None:
        self._refused, self._replay, self._views, self._done = True, None, None, None
        say(f"cuda_graph=true: steps go one by one from here on, since a step cannot be recorded: {reason}.")

    def _uploaded(self, tensor: Tensor) -> Tensor:
        return tensor if tensor.device == self._device else tensor.pin_memory().to(self._device, non_blocking=True)


def tensors_of(views: Any) -> list[Tensor]:
    """All tensors in nested dataclasses, mappings and lists, in their order."""
    found: list[Tensor] = []
    apply_to_collection(views, Tensor, found.append)
    return found


def layout(views: Any) -> Any:
    """Views with shapes and types in their tensors' place: where two are equal, one can be copied to the other."""
    return apply_to_collection(views, Tensor, lambda tensor: (tensor.shape, tensor.dtype))
