"""Where the numbers are computed and in which precision."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from torch import nn

from utils.errors import UserError

# Losses stay in float32 in every case; "mixed" keeps the weights there too.
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}

ROOT = Path("/")  # of the files in which Linux says how much memory there is


def build_fabric(device: str, precision: str, devices: int = 1, num_nodes: int = 1, strategy: str = "auto") -> Fabric:
    """Lightning Fabric on one device or several; it starts no process yet.

    Args:
        device: ``auto`` (CUDA where there is one, else the CPU), ``cpu``, ``cuda`` or ``mps`` (Apple's: not
            tried).
        precision: ``32``, ``bf16`` or ``16``.
        devices: of each machine; on the CPU, processes.
        num_nodes: machines.
        strategy: ``ddp``, or ``auto``: that where there is more than one device in all.

    Raises:
        UserError: this machine has no such device or not as many, or the device no such precision.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if found else "cpu"
    if device == "cuda" and devices > found:
        raise UserError(
            f"device=cuda devices={devices}, but PyTorch finds {found} on this machine: check the driver, give "
            "devices= of one machine, or give device=cpu. (Under SLURM, ask for --gpus-per-node: --gpus-per-task "
            "hides each task's from the others.)"
        )
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("device=mps is Apple's, and PyTorch finds none on this machine: give device=cpu or cuda.")
    if device != "cuda" and precision == "16":
        raise UserError("precision=16 needs a CUDA device: give precision=bf16 or 32.")
    try:
        return Fabric(
            accelerator=device,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            plugins=[] if precision == "32" else _Autocast(PRECISIONS[precision], device),
        )
    except RuntimeError as error:  # what SLURM was asked for
        raise UserError(str(error)) from error


def memory_available(device: torch.device) -> int | None:
    """Bytes that can be had on a device now; None where it does not tell (the CPU, but on Linux).

    In a container no more than its control groups leave.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    memory = ROOT / "proc/meminfo"
    if device.type != "cpu" or not memory.is_file():
        return None
    kibibytes = next(line.split()[1] for line in memory.read_text().splitlines() if line.startswith("MemAvailable"))
    return min([int(kibibytes) * 1024, *_left_by_control_groups()])


def _left_by_control_groups() -> Iterator[int]:
    """Bytes below the limit of each group that this process is in; pages of files that can be dropped count as free."""
    groups, own = ROOT / "sys/fs/cgroup", ROOT / "proc/self/cgroup"
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, limit, used = (
            (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers  # version 1
            else (groups, "memory.max", "memory.current")
        )
        # A container may see its own group at the mount, whatever path the machine has for it.
        for folder in (mount / parent for parent in (path.strip("/"), *map(str, PurePath(path.strip("/")).parents))):
            if (folder / limit).is_file() and (most := (folder / limit).read_text().strip()) != "max":
                pages = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                files = pages.get("total_inactive_file", pages.get("inactive_file", 0))
                yield max(int(most) - int((folder / used).read_text()) + int(files), 0)


def memory_format(channels_last: bool) -> torch.memory_format:
    """The layout of the networks."""
    return torch.channels_last if channels_last else torch.contiguous_format


def set_determinism(deterministic: bool, search: bool = False) -> None:
    """Whether PyTorch may use algorithms that do not give the same bits twice (on CUDA; for the CPU it has none).

    Args:
        search: unless it is deterministic, cuDNN times its algorithms for each shape and takes the fastest.
    """
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = search and not deterministic
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA begins


def searches(config: Any) -> bool:
    """Whether cuDNN is to search, in training, whose steps have the same shapes: ``cudnn_search`` and ``precision``.

    A search tries algorithms with as much working memory as there is free, and PyTorch keeps it: steps of the published
    recipe peaked at 70,895 MiB in float32, and at 2,090 MiB in bfloat16 (H200). So ``auto`` searches in half precision.
    """
    return config.cudnn_search == "always" or config.cudnn_search == "auto" and config.precision != "32"


@contextmanager
def of_any_shape() -> Iterator[None]:
    """Without what is done once for each shape and pays only if it comes again: compiling, and cuDNN's trials."""
    trials = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.cudnn.benchmark = trials


class _Autocast(MixedPrecision):
    """Half precision inside the networks alone: Fabric would narrow the views too, a warp's grid to whole pixels."""

    def convert_input(self, data: Any) -> Any:
        return data


def compile_networks(method: nn.Module) -> None:
    """Compile every network of a method, where it stands: the names of its state stay.

    Raises:
        UserError: PyTorch cannot compile here.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(1))
    except Exception as error:  # of a missing compiler, a broken cache, an unsupported Python: many types
        reason = str(error).splitlines()[0]
        raise UserError(f"compile=true: PyTorch cannot compile here ({reason}). Give compile=false.") from error
    for network in method.children():
        network.compile()
