"""What a run will take: of the disk, told before it starts, and of time, told once it is known how fast it goes."""

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from utils.run_directory import ROOT, argument

DAY = 24 * 60 * 60  # seconds


def storage(config: DictConfig, step: int, checkpoint_size: int, free: int | None) -> Iterator[str]:
    """Messages: what a run's checkpoints need, and what helps where that is too much.

    Args:
        config: of the run.
        step: updates done.
        checkpoint_size: bytes of one checkpoint.
        free: bytes on the run's disk; None where that is not known.
    """
    if not (count := len(checkpoints_to_come(config, step))):
        return
    needed = count * checkpoint_size
    space = "" if free is None else f"; the disk has {size(free)} left"
    yield f"Checkpoints need {size(needed)} ({count} of {size(checkpoint_size)}){space}."
    if free is not None and needed > free:
        yield (
            "warning: the disk will not hold the checkpoints: give checkpointing.keep=2 (now or with resume=), or "
            f"a higher checkpointing.every ({config.checkpointing.every} now)."
        )


def forecast(config: DictConfig, step: int, pace: float, on_cpu: bool) -> Iterator[str]:
    """Messages: how long the rest of a run takes, and what helps where that is too much.

    Args:
        config: of the run.
        step: updates done.
        pace: seconds a step.
        on_cpu: what it trains on.
    """
    if step == config.num_steps:
        return
    seconds = pace * (config.num_steps - step)
    yield (
        f"At {pace:.3g} s a step the {config.num_steps - step} to come take {duration(seconds)}, evaluations left out."
    )
    if on_cpu and seconds > DAY and (recipe := laptop_recipe(config.method.name)):
        same = f"dataset_name={config.dataset_name} {shlex.quote(argument('dataset_root', config.dataset_root))}"
        yield (
            "This is a recipe for a GPU, and the run is on a CPU. One that takes minutes there (docs/laptop.md): "
            f"python train.py {same} experiment={recipe}"
        )


def checkpoints_to_come(config: DictConfig, step: int) -> list[int]:
    """The steps from one on whose checkpoints will be there in the end, if no signal asks for more."""
    kept, last = config.checkpointing, config.num_steps
    saved = {last}
    for every in filter(None, (kept.every, config.evaluation.every)):
        saved |= {*range(every, last + 1, every)}
    of_run = sorted(saved)
    newest = {*of_run[-(kept.keep or 0) :]}
    milestone = kept.milestone_every or last + 1
    return [at for at in of_run if at > step and (at in newest or at % milestone == 0)]


def laptop_recipe(method: str) -> str | None:
    """The experiment that trains a method within minutes on a CPU, if there is one; see docs/laptop.md."""
    experiments, defaults = ROOT / "conf/experiment", OmegaConf.load(ROOT / "conf/train.yaml").defaults
    if (experiments / f"laptop_{method}.yaml").is_file():
        return f"laptop_{method}"
    return "laptop" if {"method": method} in defaults else None


def free_space(folder: Path) -> int | None:
    """Bytes that are left on a folder's disk; None where the system does not say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def size(count: float) -> str:
    """``512 MB``, ``5.3 GB``: of bytes."""
    in_unit, unit = (count / 1e9, "GB") if count >= 1e9 else (count / 1e6, "MB")
    return f"{in_unit:.3g} {unit}" if in_unit < 1000 else f"{in_unit:,.0f} {unit}"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h``, ``5 days``."""
    for unit, length in (("s", 1), ("min", 60), ("h", 3600)):
        if seconds < 100 * length:
            return f"{max(1, round(seconds / length))} {unit}"
    return f"{round(seconds / DAY)} days"
