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
from utils.errors import Halted, Stopped, UserError

GROUP_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")  # what Fabric sets
PATIENCE = timedelta(days=2)  # of the ranks that wait while the first one evaluates or saves


def num_ranks() -> int:
    """How many processes share each step's batch; 1 outside of a run on several devices."""
    return dist.get_world_size() if dist.is_initialized() else 1


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


def copy_of_first(tensors: Iterable[Tensor]) -> None:
    """Give tensors on every rank the numbers that they have on the first."""
    if num_ranks() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


class Ranks:
    """This process among those of a run.

    Attributes:
        fabric: its device.
        is_first: whether this is the rank that prints, logs, saves and evaluates.
        notes: what the user should know about the numbers on these devices.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.is_first = fabric.is_global_zero
        self.notes: list[str] = []
        self.told = False  # every rank has heard of a mistake, and ends with it
        # A group of the hosts: waiting for the first rank neither blocks a device nor runs into its time limit.
        self._hosts = dist.new_group(backend="gloo", timeout=PATIENCE) if num_ranks() > 1 else None

    def setup(self, method: nn.Module, optimizer: Optimizer) -> Any:
        """Fabric's ``setup``, once every rank has come so far; batch norm then works on the whole batch, if it can."""
        self.exchange()
        if num_ranks() > 1 and self.fabric.device.type == "cuda":
            from timm.layers import convert_sync_batchnorm  # PyTorch's loses the activations that timm's norms hold

            method = convert_sync_batchnorm(method)
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
            try:
                batch = next(remaining, None)
                said = batch.skipped or None if batch else None
            except UserError as error:
                batch, said = None, error
            skipped = self.exchange(said)
            if batch is None:
                return
            batch.skipped = [message for messages in skipped for message in messages]
            yield batch

    def mean(self, scalars: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The means over ranks, on every rank: of losses, the losses of the whole batch."""
        values = torch.stack([value.detach() for value in scalars.values()])
        return dict(zip(scalars, self.fabric.all_reduce(values, reduce_op="mean"), strict=True))

    def exchange(self, said: Any = None) -> list[Any]:
        """What the ranks say, in their order, without those that say None; costs next to nothing while all do.

        Raises:
            UserError, Stopped: on all ranks, the first that one has said.
        """
        of_all = [said]
        if self._hosts is not None:
            something = torch.tensor(said is not None, dtype=torch.uint8)
            dist.all_reduce(something, dist.ReduceOp.MAX, group=self._hosts)
            if not something:
                return []
            of_all = [None] * num_ranks()
            dist.all_gather_object(of_all, said, group=self._hosts)
        for message in of_all:
            if isinstance(message, UserError | Stopped):
                self.told = True
                raise message
        return [message for message in of_all if message is not None]


def leave_to_first(several: bool) -> None:
    """Ends a process that meets what all of its run meet before they are launched, if another one is to tell it.

    Args:
        several: the program may have been started as several processes on this machine.
    """
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    # Without either of them this process has started the others, if there are any.
    place = "LOCAL_RANK" if by_torchrun else "SLURM_LOCALID" if "LOCAL_RANK" not in os.environ else ""
    if several and os.environ.get(place, "0") != "0":
        # After a failure torchrun would end the other one before it has told it.
        sys.exit(0)


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
    total = config.devices * config.num_nodes
    fabric = build_fabric(config.device, config.precision, config.devices, config.num_nodes, config.strategy)
    if config.batch_size % total:
        raise UserError(
            f"batch_size={config.batch_size} cannot be shared evenly by {total} devices (devices={config.devices} on "
            f"num_nodes={config.num_nodes}): batch_size is that of a whole step, give a multiple of {total}."
        )
    _check_started(config.devices, config.num_nodes)
    for greeting in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(greeting).setLevel(logging.WARNING)
    outside, mistake = {name: os.environ[name] for name in GROUP_VARIABLES if name in os.environ}, None
    try:
        try:
            fabric.launch()
            ranks = Ranks(fabric)
            yield ranks
        except (UserError, Stopped) as error:
            if isinstance(error, Halted) and num_ranks() > 1:
                _end(fabric)
                raise
            mistake = error
        except BaseException:
            _end(fabric)
            raise
        try:
            if mistake is not None and ranks.told:
                raise mistake  # nobody is left to agree with
            ranks.exchange(mistake)
        except (UserError, Stopped):
            if ranks.is_first:
                raise
            # Any other status would make what has started the ranks end the first one before it has told the mistake.
            sys.exit(0)
    finally:
        # As it was, for the next run in this process: of a sweep, for example.
        if dist.is_initialized():
            dist.destroy_process_group()
        for name in GROUP_VARIABLES:
            os.environ.pop(name, None)
        os.environ.update(outside)


def _end(fabric: Fabric) -> None:
    """Ends the processes that Fabric has started: they may be waiting for this one where nothing can tell them.

    Fabric is to forget them, or it would end this one for their sake.
    """
    processes = getattr(fabric.strategy.launcher, "procs", [])
    for process in processes:
        process.kill()
        process.wait()
    processes.clear()


def _check_started(devices: int, num_nodes: int) -> None:
    """Raises UserError if other processes than Fabric's were started, and not as many as devices."""
    for environment, starter in ((TorchElasticEnvironment, "torchrun"), (SLURMEnvironment, "SLURM")):
        if environment.detect():
            if (started := environment().world_size()) != devices * num_nodes:
                raise UserError(
                    f"{starter} runs {started} processes, but devices={devices} on num_nodes={num_nodes} are "
                    f"{devices * num_nodes}: give the same numbers to both."
                )
            try:
                environment().validate_settings(devices, num_nodes)
            except ValueError as error:
                raise UserError(str(error)) from error
            return  # torchrun may have been started under SLURM
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if devices * num_nodes > 1 and in_sweep and HydraConfig.get().runtime.choices["hydra/launcher"] != "basic":
        raise UserError(
            "Runs of a sweep that go on side by side cannot start the processes of several devices: leave out "
            f"hydra/launcher, or give hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node={devices}."
        )
