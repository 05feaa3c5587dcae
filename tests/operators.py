"""How many operators a training step dispatches: on a fast GPU each is a kernel to launch, whatever its size.

``python -m tests.operators [key=value ...]`` prints the table of docs/performance.md.
"""

import sys
from collections import Counter
from tempfile import TemporaryDirectory
from unittest.mock import patch

from rich.box import SIMPLE
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

import train
from evaluation.progress import Progress
from tests.composition import composed
from utils.console import stdout
from utils.training import Training

# The default recipe, small.
STEP = (
    *("dataset_name=synthetic", "dataset.drawing.num_train=8", "dataset.drawing.num_test=2", "optimizer=sgd"),
    *("segmenter.weights=none", "perceptual.weights=none", "image_size=64", "batch_size=4", "device=cpu"),
    *("precision=bf16", "logging.wandb=disabled", "logging.page=false", "logging.image_every=0"),
)
# They start no kernel: what they do is on the host.
IDLE = ("_unsafe_view", "lift_fresh", "empty", "_record_function_enter_new", "_record_function_exit")
# Functions, and what an operator belongs to that is called by one of them, the innermost if there are several.
PLACES = {
    "Method.views": "views",
    "TrainBatch.to": "views",
    "Segmenter.preprocess": "networks",
    "Segmenter.forward": "networks",
    "PerceptualNetwork.forward": "networks",
    "Method.forward": "losses",
    "Fabric.backward": "backward",
    "Training.update": "clipping, update and watching",
    "Training.scalars": "logging",
    "RunLogger.log": "logging",
    "train_batches": "reading",
}
ALL = tuple(dict.fromkeys([*PLACES.values(), "the rest"]))


class Operators(TorchDispatchMode):
    """Counts the operators that do work, all but views, by place and name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not (func.is_view or name in IDLE):
            self.counts[_place(), name] += 1
        return func(*args, **(kwargs or {}))


def _place() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        if (found := PLACES.get(frame.f_code.co_qualname)) is not None:
            return found
        frame = frame.f_back
    return "the rest"


def of_a_step(*overrides: str) -> Counter[tuple[str, str]]:
    """Of a run of five steps less a run of four, by place and name; reading of pictures is left out."""

    def run(num_steps: int) -> Counter[tuple[str, str]]:
        given = f"dataset_root={folder}", f"output_dir={folder}/{num_steps}", f"num_steps={num_steps}"
        with Operators() as operators:
            train.train(composed(*STEP, *given, *overrides))
        return operators.counts

    with (
        TemporaryDirectory() as folder,
        patch.object(Progress, "evaluate"),  # what comes after the last step takes longer than the steps
        patch.object(Training, "save"),
    ):
        run(1)  # draws the set, and makes constants
        few, step = run(4), run(5)
    step.subtract(few)
    return Counter({key: count for key, count in step.items() if count and key[0] != "reading"})


def main(*overrides: str) -> None:
    counts = of_a_step(*overrides)
    names = Counter()
    for (_, name), count in counts.items():
        names[name] += count
    places = [place for place in ALL if any(found == place for found, _ in counts)]
    table = Table(title="Operators of a step", box=SIMPLE, title_justify="left")
    for column in ("", *places, "all"):
        table.add_column(column, justify="right" if column else "left")
    for name, count in names.most_common():
        table.add_row(name, *(str(counts[place, name] or "") for place in places), str(count))
    sums = [sum(count for (found, _), count in counts.items() if found == place) for place in places]
    table.add_row("all", *map(str, sums), str(names.total()))
    stdout().print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
