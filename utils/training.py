"""A method in training: on its device, restored, updated, saved; the same for ``train.py`` and the benchmark."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from utils import checkpoints
from utils.devices import compile_networks, memory_format
from utils.errors import Halted, Stopped, UserError
from utils.finite import FiniteUpdates, require_finite_weights
from utils.forecast import forecast, free_space, storage
from utils.graph import RecordedStep, cannot_record
from utils.logging import RunLogger
from utils.memory import release
from utils.optimizer import build_optimizer, clip_gradients, restore_optimizer, set_learning_rate
from utils.ranks import Ranks
from utils.run_directory import RunDirectory, to_resume
from utils.seeding import Randomness
from utils.signals import TO_STOP, Signals

STEPS_TO_FORETELL = 10


class Training:
    """Sets a method up, goes on from the run's last checkpoint if there is one to resume, and does the updates.

    Args:
        ranks: the processes of the run; every one has a ``Training`` of its own.
        config: of the run.
        method: on the CPU; see ``models.methods.base``. What of it is trained is what is saved, restored and watched.

    Attributes:
        step: updates done.
        method: as given, on its device.
        network: the method as Fabric wraps it: called, it gives the losses of the views.
        notes: what a log should say about where it begins.

    Raises:
        UserError: the checkpoint cannot be read or does not fit, or has come farther than the run is to go.
    """

    def __init__(self, ranks: Ranks, config: DictConfig, method: nn.Module) -> None:
        self.ranks, self.config, self.method = ranks, config, method
        method.to(memory_format=memory_format(config.channels_last))
        optimizer = build_optimizer(
            method.parameter_groups(config.optimizer), config.optimizer, fused=config.precision != "16"
        )
        checkpoint = None
        if config.resume is not None:
            checkpoint = checkpoints.find_to_resume(Path(config.resume), config.checkpointing.every)
        self.step = self._first = self._saved = checkpoint.step if checkpoint else 0
        if self.step > config.num_steps:
            raise UserError(f"The run has done {self.step} steps already: give num_steps={self.step} or more.")
        self.notes = []
        if checkpoint and self.step == config.num_steps:
            more = 2 * self.step
            rate = f" optimizer.poly_steps={more}" if config.optimizer.poly_steps < more else ""  # where it becomes 0
            self.notes.append(
                f"The run is finished: all {self.step} steps are done. To go on with it, for example to twice as many: "
                f"python train.py {to_resume(config.resume)} num_steps={more}{rate}"
            )
        if checkpoint:
            method.load(checkpoint)
            if checkpoint.precision:
                ranks.fabric.strategy.precision.load_state_dict(checkpoint.precision)
        if config.compile:
            compile_networks(method)
        self.network, self.optimizer = ranks.setup(method, optimizer)
        if checkpoint:
            restore_optimizer(self.optimizer.optimizer, checkpoint.optimizer, str(checkpoint.file))
        self.network.train()
        self._updates = FiniteUpdates(self.optimizer.optimizer, self.step)
        # What a step changes before its update, and whether that has begun.
        self._buffers, self._in_update = by_dtype(method.buffers()), False
        self._buffers_before = [[buffer.clone() for buffer in buffers] for buffers in self._buffers]
        self._recorded = None
        if config.cuda_graph:
            if reason := cannot_record(ranks.fabric.device, config) or method.not_recorded(config.method):
                self.notes.append(f"cuda_graph=true: steps go one by one all the same, since {reason}.")
            else:
                self._recorded = RecordedStep(self._learn, self.optimizer.optimizer, ranks.fabric.device)

    def views(self, batch: Any) -> Any:
        """What the losses see of this rank's part of a step, on the device.

        Args:
            batch: has ``step``, ``places`` and ``to``; see ``datasets.batch.TrainBatch``.
        """
        random = Randomness(self.config.seed, batch.step, batch.places)

        def make() -> Any:
            return self.method.views(batch.to(self.ranks.fabric.device), random)

        return self._recorded.beside(make) if self._recorded else make()

    def forget(self, parameters: Iterable[nn.Parameter]) -> None:
        """Their momenta: they begin anew."""
        for parameter in parameters:
            self.optimizer.optimizer.state.pop(parameter, None)

    def learn(self, views: Any, logger: RunLogger) -> dict[str, Any]:
        """One update with the weighted sum of the losses of views.

        Returns:
            What a log should have of it, which holds until the next step: the losses, ``total``, what the method has
            watched, ``learning_rate`` and ``gradient_norm`` (of each set of parameters that is clipped apart).

        Raises:
            NotFinite: see ``utils.finite``; with ``precision=16`` alone.
        """
        rate = set_learning_rate(self.optimizer, self.config.optimizer, self.step)
        scalars, norms = self._recorded(views, logger.say) if self._recorded else self._learn(views)
        self.step += 1
        return {**scalars, "learning_rate": rate, **norms}

    def _learn(self, views: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the device does of it: the same in every step, but for the views and the optimiser's rates."""
        fabric, config = self.ranks.fabric, self.config
        self._in_update = False
        losses = self.network(views)
        watched = {name: losses[name] for name in self.method.watched}
        losses = {name: loss for name, loss in losses.items() if name not in watched}
        if losses.keys() != config.loss_weights.keys():
            raise ValueError(f"the method gives the losses {[*losses]}, its LossWeights are {[*config.loss_weights]}")
        total = sum(config.loss_weights[name] * loss for name, loss in losses.items())
        self.optimizer.zero_grad()
        fabric.backward(total)
        fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        norms = clip_gradients(self.optimizer, config.optimizer.clip_norm)
        self._updates.watch(losses, total, norms)
        self._in_update = True
        self.optimizer.step()
        self._in_update = False
        for before, buffers in zip(self._buffers_before, self._buffers, strict=True):
            torch._foreach_copy_(before, buffers)
        return {name: value.detach() for name, value in {**losses, "total": total, **watched}.items()}, norms

    def due(self, every: int) -> bool:
        """Whether something is to be done after this step: after every so many (0: never), and after the last."""
        return self.step == self.config.num_steps or (every > 0 and self.step % every == 0)

    def scalars(self, done: Mapping[str, Any]) -> dict[str, Any]:
        """What :meth:`update` gave, losses and what is watched as those of the whole batch.

        Raises:
            NotFinite: an update so far was not finite.
        """
        names = [*self.config.loss_weights, "total", *self.method.watched]
        means = self.ranks.mean({name: done[name] for name in names})
        self._updates.require_finite()
        return {**done, **means}

    def save(self, run: RunDirectory | None, logger: RunLogger) -> None:
        """Saves a checkpoint unless there is one of this step; rows of the log before it are on disk by then.

        Args:
            run: None on ranks that save nothing.

        Raises:
            NotFinite: an update so far was not finite.
            UserError: weights are not finite, or the disk is full.
        """
        self._updates.require_finite()
        if run is None or self._saved == self.step:
            return
        beside = self.method.trained_beside()
        weights = [*self.method.predictor.parameters(), *(t for t in beside.values() if t.is_floating_point())]
        require_finite_weights(weights, self.step)
        logger.flush()
        payload = {
            "iter": self.step,
            "model_state_dict": self.method.predictor.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "precision_state_dict": self.ranks.fabric.strategy.precision.state_dict(),
            "format": checkpoints.FORMAT,
            "config": OmegaConf.to_container(self.config),
            "versions": run.versions,
        } | ({"method_state_dict": beside} if beside else {})
        options = self.config.checkpointing
        file = run.path / f"checkpoints/model_{self.step}.pth"
        checkpoints.save(file, payload, options.keep, options.milestone_every)
        self._saved = self.step

    def foretell(self, run: RunDirectory | None, logger: RunLogger) -> None:
        """Before the first step says what the run's checkpoints need, after ten how long it takes at this speed.

        Args:
            run: None on ranks that save nothing.
        """
        if run is None:
            return
        device = self.ranks.fabric.device
        if self.step == self._first:
            for line in storage(self.config, self.step, self._checkpoint_size(), free_space(run.path)):
                logger.say(line)
        elif self.step == self._first + STEPS_TO_FORETELL:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            for line in forecast(self.config, self.step, logger.seconds_per_step(), device.type == "cpu"):
                logger.say(line)

    def _checkpoint_size(self) -> int:
        """Bytes, with the moments that the optimiser will have of each trained weight."""
        trained = [(group, weight) for group in self.optimizer.param_groups for weight in group["params"]]
        moments = sum((2 if "betas" in group else bool(group["momentum"])) * _num_bytes(own) for group, own in trained)
        return moments + _num_bytes([self.method.predictor.state_dict(), self.method.trained_beside()])

    @torch.no_grad()
    def halt(self, lacking: str, run: RunDirectory | None, logger: RunLogger) -> Halted:
        """Saves what was reached before a step for which memory did not suffice; returns what to tell.

        Running statistics are put back as they were before it, so that the run goes on as if it had not been begun. An
        update that was left half-done is not saved.

        Args:
            lacking: what was needed and what there was, as ``utils.memory.shortage`` tells it.
            run: None on ranks that save nothing.
        """
        config = self.config
        release(self.ranks.fabric.device)
        for before, buffers in zip(self._buffers_before, self._buffers, strict=True):
            torch._foreach_copy_(buffers, before)
        if not self._in_update:
            self.save(run, logger)
        half, total = config.precision == "32", config.devices * config.num_nodes
        smaller = {
            "batch_size": max(config.batch_size // 2 // total * total, total, 2),
            "image_size": max(config.image_size * 3 // 4, 32),
        }
        less = [f"{key}={value} ({config[key]} now)" for key, value in smaller.items() if value < config[key]]
        another = f" Another run needs less with {' or '.join(less)}." if less else ""
        how = "in half precision, which needs about half of it" if half else "where there is more, or on more devices"
        command = f"python train.py {to_resume(run.path if run else 'RUN')}{' precision=bf16' * half}"
        return Halted(
            f"Out of memory after {self.step} steps, of which {self._saved} are saved: {lacking}.{another} "
            f"This one goes on {how}: {command}"
        )

    def heed(self, signals: Signals, run: RunDirectory | None, logger: RunLogger) -> None:
        """Saves, and ends the run, if a signal has asked any rank to.

        Raises:
            Stopped: one has asked to end.
        """
        if asked := self.ranks.exchange(signals.asked()):
            self.save(run, logger)
            if asked[0] in TO_STOP:
                command = f"python train.py {to_resume(run.path if run else 'RUN')}"
                raise Stopped(asked[0], f"saved after {self.step} steps. To go on: {command}")


def by_dtype(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Lists of one type each, which PyTorch copies in one kernel."""
    found: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.dtype, []).append(tensor)
    return [*found.values()]


def _num_bytes(state: Any) -> int:
    """Of the tensors in nested mappings and lists."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    held = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(map(_num_bytes, held))
