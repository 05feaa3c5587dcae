"""What an evaluation costs: ``python benchmarks/evaluate.py dataset_name=CUB|DF|PP [checkpoint=PATH] [key=value]``.

Times ``evaluation.run.evaluate``, as ``evaluate.py`` calls it, and the reference in ``benchmarks/notebook.py``, with
the same weights in the same process, in turn, and compares their figures. Ends with status 1 if those differ. Without
a checkpoint the network is the untrained one of the seed. Keys are in conf/benchmark_evaluate.yaml.
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import conf.threads  # noqa: F401

# isort: split
import torch
from omegaconf import DictConfig
from rich.box import SIMPLE
from rich.table import Table

from benchmarks import notebook
from benchmarks.step import keep
from conf import app
from conf.fields import number, path
from conf.modules import module
from conf.schema import TrainConfig
from conf.trained import with_settings_of
from evaluation.labellers import untrained
from evaluation.options import EvaluationOptions, Sets
from evaluation.run import evaluate
from models.methods import method_class
from models.predictor import load_predictor
from utils import checkpoints
from utils.console import stdout
from utils.devices import build_fabric, memory_format
from utils.errors import UserError

OURS = "this code"


@dataclass
class BenchmarkEvaluateConfig(TrainConfig):
    checkpoint: str | None = path()
    repetitions: int = number(low=1)
    largest_difference: float = number(low=0)


@dataclass
class Timed:
    """One piece of work: seconds of each repetition, and how many pictures went through the network in one."""

    seconds: list[float] = field(default_factory=list)
    inputs: int = 0


def benchmark(config: DictConfig) -> None:
    """Both evaluations ``repetitions`` times; exit status 1 if their figures differ."""
    if config.dataset_name not in ("CUB", "DF", "PP"):
        raise UserError(f"dataset_name={config.dataset_name} has no published evaluation: give CUB, DF or PP.")
    device = build_fabric(config.device, config.precision).device
    if config.checkpoint is None:
        labeller = untrained.build(untrained.Options(), config, config.num_parts, device)
    else:
        checkpoint = checkpoints.find(config.checkpoint)
        config = with_settings_of(checkpoint.config, checkpoint.file, config)
        predictor = load_predictor(checkpoint, config, memory_format=memory_format(config.channels_last)).to(device)
        labeller = module("labeller", method_class(config).labeller).of_predictor(predictor)
    method = method_class(config)
    sets, options = Sets.of(config, method.test_masks), EvaluationOptions.of(config)
    published = copy.deepcopy(labeller.predictor).to(memory_format=torch.contiguous_format)
    passes = notebook.passes(published, sets.test, sets.fit, options)
    times = {name: Timed() for name in (*passes, OURS)}

    # The first kernels on a GPU are slow.
    for repetition in range(-1 if device.type == "cuda" else 0, config.repetitions):
        timed = times if repetition >= 0 else {name: Timed() for name in times}
        reference = {}
        for name, work in passes.items():
            reference |= run(work, timed[name], published)
        ours = run(
            lambda: evaluate(labeller, sets, method.protocols, options, device).metrics, timed[OURS], labeller.predictor
        )

    pictures = len(sets.test) + (len(sets.fit) if sets.test.keypoint_names else 0)
    console = stdout()
    print(f"{config.dataset_name}: {pictures} pictures, {describe(device)}, batches of {config.evaluation.batch_size}")
    console.print(table_of_times(times, pictures))
    console.print(table_of_figures(reference, ours))
    differences = [abs(ours[name] - reference[name]) if name in ours else float("inf") for name in reference]
    if config.output_dir:
        seconds = {name: timed.seconds for name, timed in times.items()}
        keep(
            Path(config.output_dir),
            {"seconds": seconds, "pictures": pictures, "largest_difference": max(differences)},
        )
    if not max(differences) <= config.largest_difference:
        print(f"The figures differ by more than {config.largest_difference}.")
        sys.exit(1)


def run(work: Callable[[], notebook.Figures], timed: Timed, segmenter: torch.nn.Module) -> notebook.Figures:
    """Do the work, which ends with figures on the host, and note its seconds and its network inputs."""
    timed.inputs = 0

    def count(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        timed.inputs += len(inputs[0])

    hook = segmenter.register_forward_pre_hook(count)
    start = time.perf_counter()
    figures = work()
    timed.seconds.append(time.perf_counter() - start)
    hook.remove()
    return figures


def describe(device: torch.device) -> str:
    """The device and, on a CPU, its threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def table_of_times(times: dict[str, Timed], pictures: int) -> Table:
    """The passes of the reference, their sum, and ours.

    ``inputs`` are those of the network, ``seconds`` the median of the repetitions, ``ratio`` that of their ratios.

    Args:
        pictures: how many there are on disk, training pictures for the keypoint error included.
    """
    ours = times[OURS]
    passes = {name: timed for name, timed in times.items() if name != OURS}
    total = Timed(
        [sum(seconds) for seconds in zip(*(timed.seconds for timed in passes.values()), strict=True)],
        sum(timed.inputs for timed in passes.values()),
    )
    ratio = statistics.median(one / other for one, other in zip(total.seconds, ours.seconds, strict=True))
    table = Table(box=SIMPLE)
    for column in ("", "inputs", "seconds", "from .. to", "pictures / s", "ratio"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, timed in {**passes, "reference, together": total, OURS: ours}.items():
        seconds = statistics.median(timed.seconds)
        spread = f"{min(timed.seconds):.2f} .. {max(timed.seconds):.2f}"
        rate = f"{pictures / seconds:.2f}" if timed is total or timed is ours else ""
        row = (name, str(timed.inputs), f"{seconds:.2f}", spread, rate, f"{ratio:.2f}" if timed is ours else "")
        table.add_row(*row)
    return table


def table_of_figures(reference: notebook.Figures, ours: notebook.Figures) -> Table:
    """Both evaluations' figures and their differences, in percent."""
    table = Table(title="figures, percent", box=SIMPLE)
    for column in ("", "reference", "this code", "difference"):
        table.add_column(column, justify="right" if column else "left")
    for name, value in reference.items():
        found = ours.get(name, float("nan"))
        table.add_row(name, f"{value:.3f}", f"{found:.3f}", f"{abs(found - value):.4f}")
    return table


if __name__ == "__main__":
    app.run("benchmark_evaluate", benchmark, BenchmarkEvaluateConfig)
