"""What an evaluation costs: ``python benchmarks/evaluate.py dataset_name=CUB|DF|PP [checkpoint=PATH] [key=value]``.

Times ``evaluation.run.evaluate``, as ``evaluate.py`` calls it, and the reference in ``benchmarks/notebook.py``, with
the same weights in the same process, in turn, and compares their figures. Ends with status 1 if those differ. Without
a checkpoint the network is the untrained one of the seed. Keys are in conf/benchmark_evaluate.yaml.

Two more rows say what bounds it: the same inputs decoded and resized by the loader's workers, and nothing done with
them; and the evaluation by a network that costs next to nothing.
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import conf.threads  # noqa: F401

# isort: split
import torch
from omegaconf import DictConfig
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor

from benchmarks import notebook
from benchmarks.step import keep
from conf import app
from conf.fields import number, path
from conf.modules import module
from conf.schema import TrainConfig
from conf.trained import with_settings_of
from evaluation.labellers import untrained
from evaluation.labellers.base import Labeller
from evaluation.options import EvaluationOptions, Sets
from evaluation.run import chosen_protocols, evaluate, inputs_of, read
from models.methods import method_class
from models.predictor import load_predictor
from utils import checkpoints
from utils.console import stdout
from utils.devices import build_fabric, memory_format
from utils.errors import UserError

OURS, DECODING, WITHOUT = "this code", "decoding alone", "this code, a network for nothing"


@dataclass
class BenchmarkEvaluateConfig(TrainConfig):
    checkpoint: str | None = path()
    repetitions: int = number(low=1)
    largest_difference: float = number(low=0)


@dataclass
class Timed:
    """One piece of work: seconds of each repetition, and how many pictures went through the network in one.

    ``processor`` are those that this process, without its workers, had a processor for.
    """

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    inputs: int = 0


class Free(Labeller):
    """Has the parts of another labeller. Its scores are waves of the red of every eighth pixel, and cost nothing."""

    title = "no network"

    def __init__(self, labeller: Labeller) -> None:
        self.num_parts, self.has_background = labeller.num_parts, labeller.has_background
        self.predictor = torch.nn.Identity()  # which counts the inputs

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        small = self.predictor(images)[:, :1, ::8, ::8] / 25
        waves = torch.arange(1, self.num_parts + self.has_background + 1, device=small.device)
        return (small * waves[:, None, None]).sin()


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
    free = Free(labeller)
    beside = {
        DECODING: lambda: decode(labeller, sets, method.protocols, options),
        WITHOUT: lambda: evaluate(free, sets, method.protocols, options, device).metrics,
    }
    times = {name: Timed() for name in (*passes, OURS, *beside)}

    # The first kernels on a GPU are slow.
    for repetition in range(-1 if device.type == "cuda" else 0, config.repetitions):
        timed = times if repetition >= 0 else {name: Timed() for name in times}
        reference = {}
        for name, work in passes.items():
            reference |= run(work, timed[name], published)
        ours = run(
            lambda: evaluate(labeller, sets, method.protocols, options, device).metrics, timed[OURS], labeller.predictor
        )
        for name, work in beside.items():
            run(work, timed[name], free.predictor)

    pictures = len(sets.test) + (len(sets.fit) if sets.test.keypoint_names else 0)
    console = stdout()
    print(f"{config.dataset_name}: {pictures} pictures, {describe(device)}, batches of {config.evaluation.batch_size}")
    console.print(table_of_times(times, pictures))
    share = of_decoding(times[OURS].seconds, times[DECODING].seconds)
    print(f"{OURS}: {share:.2f} of the pictures a second that decoding alone gives (goal: 0.8)")
    console.print(table_of_figures(reference, ours))
    differences = [abs(ours[name] - reference[name]) if name in ours else float("inf") for name in reference]
    if config.output_dir:
        measured = {
            "seconds": {name: timed.seconds for name, timed in times.items()},
            "processor": {name: timed.processor for name, timed in times.items()},
            "pictures": pictures,
            "of_decoding": share,
            "largest_difference": max(differences),
        }
        keep(Path(config.output_dir), measured)
    if not max(differences) <= config.largest_difference:
        print(f"The figures differ by more than {config.largest_difference}.")
        sys.exit(1)


def decode(labeller: Labeller, sets: Sets, protocols: Sequence[str], options: EvaluationOptions) -> None:
    """Have workers make the inputs of an evaluation, and do nothing with them."""
    chosen = chosen_protocols(labeller, sets.test, protocols, options)
    for _ in read(inputs_of(labeller, sets, chosen), options):
        pass


def of_decoding(seconds: Sequence[float], decoding: Sequence[float]) -> float:
    """Pictures a second, of those that decoding alone gives: the median of the repetitions' shares."""
    return statistics.median(alone / whole for whole, alone in zip(seconds, decoding, strict=True))


def run(work: Callable[[], notebook.Figures | None], timed: Timed, segmenter: torch.nn.Module) -> notebook.Figures:
    """Do the work, which ends with figures on the host, and note its seconds and its network inputs."""
    timed.inputs = 0

    def count(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        timed.inputs += len(inputs[0])

    hook = segmenter.register_forward_pre_hook(count)
    start, busy = time.perf_counter(), time.process_time()
    figures = work()
    timed.seconds.append(time.perf_counter() - start)
    timed.processor.append(time.process_time() - busy)
    hook.remove()
    return figures


def describe(device: torch.device) -> str:
    """The device and, on a CPU, its threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def table_of_times(times: dict[str, Timed], pictures: int) -> Table:
    """The passes of the reference, their sum, ours, and what stands beside it.

    ``inputs`` are those of the network, ``seconds`` the median of the repetitions, ``ratio`` that of their ratios;
    ``main process`` the milliseconds of a processor that it has for a picture.

    Args:
        pictures: how many there are on disk, training pictures for the keypoint error included.
    """
    ours = times[OURS]
    beside = {name: times[name] for name in (OURS, DECODING, WITHOUT)}
    passes = {name: timed for name, timed in times.items() if name not in beside}
    total = Timed(
        [sum(seconds) for seconds in zip(*(timed.seconds for timed in passes.values()), strict=True)],
        [sum(seconds) for seconds in zip(*(timed.processor for timed in passes.values()), strict=True)],
        sum(timed.inputs for timed in passes.values()),
    )
    ratio = statistics.median(one / other for one, other in zip(total.seconds, ours.seconds, strict=True))
    table = Table(box=SIMPLE)
    for column in ("", "inputs", "seconds", "from .. to", "pictures / s", "ratio", "main process, ms"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, timed in {**passes, "reference, together": total, **beside}.items():
        seconds = statistics.median(timed.seconds)
        spread = f"{min(timed.seconds):.2f} .. {max(timed.seconds):.2f}"
        rate = "" if name in passes else f"{pictures / seconds:.2f}"
        busy = "" if name in passes else f"{1000 * statistics.median(timed.processor) / pictures:.2f}"
        row = (name, str(timed.inputs), f"{seconds:.2f}", spread, rate, f"{ratio:.2f}" if timed is ours else "", busy)
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
