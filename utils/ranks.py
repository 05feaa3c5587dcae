"""One run on several devices: a process for each, called ranks, that end together and of which the first speaks.

Every rank runs the whole of ``train.py`` on its own share of each step's batch. Losses are those of the whole batch:
the gradient of a step is the mean over ranks of the gradients of their losses, and so is a logged loss.
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.devices import build_fabric
from utils.errors import Stopped, UserError

GROUP_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")  # what Fabric sets
PATIENCE = timedelta(days=2)  # of the ranks that wait while the first one evaluates or saves


def num_ranks() -> int:
    """How many processes share each step's batch; 1 outside of a run on several devices."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gathered(part: Tensor) -> Tensor:
    """All ranks' parts of equal shape, one after the other along the first axis.

    A loss of the result, which every rank computes, has the gradient of the whole batch after the mean over ranks:
    here it reaches this rank's own part alone, multiplied by the number of ranks.
    """
    if num_ranks() == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(num_ranks())]
    dist.all_gather(parts, part.detach().contiguous())
    own = part.view_as(part)
    if own.requires_grad:
        own.register_hook(lambda gradient: num_ranks() * gradient)
    parts[dist.get_rank()] = own
    return torch.cat(parts)


class Ranks:
    """This process among those of a run.

    Attributes:
        fabric: its device.
        notes: what the user should know about the numbers on these devices.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.notes: list[str] = []
        self.told = False  # every rank has heard of a mistake, and ends with it
        # A group of the hosts: waiting for the first rank neither blocks a device nor runs into its time limit.
        self._hosts = dist.new_group(backend="gloo", timeout=PATIENCE) if num_ranks() > 1 else None

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that prints, logs, saves and evaluates."""
        return self.fabric.is_global_zero

    def setup(self, method: nn.Module, optimizer: Optimizer) -> Any:
        """Fabric's ``setup``, once every rank has come so far; batch norm then works on the whole batch, if it can."""
        self.agree()
        if num_ranks() > 1 and self.fabric.device.type == "cuda":
            method = nn.SyncBatchNorm.convert_sync_batchnorm(method)
        elif num_ranks() > 1:
            self.notes.append(
                "Batch norm takes its statistics from each process's own part of the batch: PyTorch computes those of "
                "the whole batch on GPUs only, so that the figures of one process differ."
            )
        return self.fabric.setup(method, optimizer)

    def in_step(self, batches: Iterable[Any]) -> Iterator[Any]:
        """This rank's batches, as long as every rank has its next one.

        Args:
            batches: as many on every rank; ``skipped`` of each becomes what was skipped on all ranks.

        Raises:
            UserError: on all ranks, where the batches of one have raised it, or another rank has ended with it.
        """
        remaining = iter(batches)
        while True:
            batch = mistake = None
            try:
                batch = next(remaining, None)
            except UserError as error:
                mistake = error
            said = self._exchange(mistake or (batch and batch.skipped) or None)
            _raise_first(said)
            if batch is None:
                return
            batch.skipped = [message for messages in said for message in messages]
            yield batch

    def agree(self, mistake: UserError | Stopped | None = None) -> None:
        """Waits for all ranks.

        Raises:
            UserError: on all of them, the first rank's that has brought one.
        """
        _raise_first(self._exchange(mistake))

    def first_of(self, said: int | None) -> int | None:
        """What the first rank that has something to say says, on every rank; None where none has.

        Raises:
            UserError: on all ranks, where another has ended with it.
        """
        of_all = self._exchange(said)
        _raise_first(of_all)
        return of_all[0] if of_all else None

    def mean(self, scalars: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The means over ranks, on every rank: of losses, the losses of the whole batch."""
        values = torch.stack([value.detach() for value in scalars.values()])
        return dict(zip(scalars, self.fabric.all_reduce(values, reduce_op="mean"), strict=True))

    def _exchange(self, said: Any) -> list[Any]:
        """What the ranks say, in their order, those left out that say None; costs next to nothing while all do."""
        if self._hosts is None:
            return [] if said is None else [said]
        something = torch.tensor(said is not None, dtype=torch.uint8)
        dist.all_reduce(something, dist.ReduceOp.MAX, group=self._hosts)
        if not something:
            return []
        of_all = [None] * num_ranks()
        dist.all_gather_object(of_all, said, group=self._hosts)
        self.told = any(isinstance(one, UserError | Stopped) for one in of_all)
        return [one for one in of_all if one is not None]


@contextmanager
def launch(config: DictConfig) -> Iterator[Ranks]:
    """Starts the other processes of a run, unless ``torchrun`` or SLURM has; each runs the body.

    A mistake of the user's that any rank meets in the body ends all of them, and is raised on the first; so is a signal
    to end that they have agreed on.

    Args:
        config: ``device``, ``precision``, ``devices``, ``num_nodes``, ``strategy`` and ``batch_size``.

    Raises:
        UserError: as in ``build_fabric``; the batch cannot be shared evenly; the program was started as another number
            of processes.
    """
    fabric = build_fabric(config.device, config.precision, config.devices, config.num_nodes, config.strategy)
    _check_can_share(config)
    _check_started(config.devices, config.num_nodes)
    for greeting in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(greeting).setLevel(logging.WARNING)
    outside, mistake = dict(os.environ), None
    try:
        try:
            fabric.launch()
            ranks = Ranks(fabric)
            yield ranks
        except (UserError, Stopped) as error:
            mistake = error
        except BaseException:
            # A fault: the others may be waiting for this one where nothing can tell them.
            _end_processes(fabric)
            raise
        try:
            if mistake is not None and ranks.told:
                raise mistake  # nobody is left to agree with
            ranks.agree(mistake)
        except (UserError, Stopped):
            if ranks.is_first:
                raise
            # Any other status would make what has started the ranks end the first one before it has told the mistake.
            sys.exit(0)
    finally:
        # As it was, for the next run in this process: of a sweep, for example.
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
        for name in GROUP_VARIABLES:
            os.environ.pop(name, None)
            if name in outside:
                os.environ[name] = outside[name]


def _end_processes(fabric: Fabric) -> None:
    """Kills the processes that Fabric has started and has it forget them, or it would end this one for their sake."""
    processes = getattr(fabric.strategy.launcher, "procs", [])
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
    processes.clear()


def _check_can_share(config: DictConfig) -> None:
    """Raises UserError unless every device gets as many pictures of each step as the others."""
    total = config.devices * config.num_nodes
    if config.batch_size % total:
        raise UserError(
            f"batch_size={config.batch_size} cannot be shared evenly by {total} devices (devices={config.devices} on "
            f"num_nodes={config.num_nodes}): batch_size is that of a whole step, give a multiple of {total}."
        )


def _check_started(devices: int, num_nodes: int) -> None:
    """Raises UserError unless there are, or can be started, as many processes as devices."""
    for environment, starter in ((TorchElasticEnvironment, "torchrun"), (SLURMEnvironment, "SLURM")):
        if not environment.detect():
            continue
        if (started := environment().world_size()) != devices * num_nodes:
            raise UserError(
                f"{starter} runs {started} processes, but devices={devices} on num_nodes={num_nodes} are "
                f"{devices * num_nodes}: give the same numbers to both."
            )
        try:
            environment().validate_settings(devices, num_nodes)
        except ValueError as error:
            raise UserError(str(error)) from error
        return
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if devices * num_nodes > 1 and in_sweep and HydraConfig.get().runtime.choices["hydra/launcher"] != "basic":
        raise UserError(
            "Runs of a sweep that go on side by side cannot start the processes of several devices: leave out "
            f"hydra/launcher, or give hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node={devices}."
        )


def _raise_first(said: list[Any]) -> None:
    for one in said:
        if isinstance(one, UserError | Stopped):
            raise one
