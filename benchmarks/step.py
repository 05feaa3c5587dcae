"""What a training step costs beside its networks: ``python benchmarks/step.py [key=value ...]``.

Takes every key of train.py; pictures are noise and networks untrained, whatever the keys say of weights: neither
changes the work. The rows, measured in turn so that whatever else the machine does meets them all, the last one after
the others:

- networks alone: a pass of the segmenter over both views and one of the perceptual network, and back from the logits;
- data: the batch copied to the device, colour jitter, Lab and warps there;
- each loss, and all four, forward and back to full-size logits;
- the step: data, networks, losses, back, clipping, update; the same with 16 parts, and in bfloat16;
- the reference step: the same networks, data and update, losses as their formulas stand (``benchmarks/formulas.py``:
  features brought up to the image's size), all in float32.

Peak memory is of a process of its own for each row (on a GPU: of PyTorch's allocator), less what was there before the
networks were built. With ``output_dir=DIR`` the numbers are kept in ``DIR/measured.json``.
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import conf.threads  # noqa: F401

# isort: split
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor

from benchmarks import formulas
from benchmarks.peak import measured
from conf import app
from datasets.batch import TrainBatch
from losses.contrastive import contrastive_loss
from losses.descriptors import part_descriptors
from losses.equivariance import equivariance_loss
from losses.feature import feature_loss
from losses.visual import visual_consistency_loss
from models import methods
from models.methods import contrastive_reconstruction
from models.norms import of_views
from utils.console import stdout
from utils.devices import build_fabric, searches, set_determinism
from utils.errors import UserError
from utils.logging import Silence
from utils.ranks import Ranks
from utils.training import Training

ROUNDS, STEPS_OF_A_ROUND = {"cpu": 2, "cuda": 10}, {"cpu": 1, "cuda": 20}
MANY_PARTS = 16
NUM_CLASSES = 200
UNTRAINED = {"segmenter.weights": "none", "perceptual.weights": "none"}
NETWORKS, DATA, STEP = "networks alone", "data (copy, colour jitter, Lab, warps)", "step"
REFERENCE = "reference step, float32"


class Reference(contrastive_reconstruction.Method):
    """The paper's method with its losses as the formulas stand."""

    def losses(self, view, view_to_warp, features, lab, foreground, grid, positives, **_) -> dict[str, Tensor]:
        warped_view = torch.nn.functional.grid_sample(view_to_warp, grid, align_corners=True)
        logits, of_warped = self.full_size_logits(view), self.full_size_logits(warped_view)
        masks = logits.softmax(1)
        phi = torch.cat([formulas.upsample(small.float(), masks.shape[-2:]) for small in features], dim=1)
        descriptors = formulas.descriptors(masks, phi, foreground)
        options = self.options
        return {
            "feature": formulas.spread(masks, phi, foreground).sum(),
            # Anchor by anchor it would be thousands of tiny kernels, which nobody would write.
            "contrastive": contrastive_loss(descriptors, options.temperature, positives, options.negatives),
            "visual": formulas.spread(masks, lab, foreground).mean(),
            "equivariance": formulas.equivariance(logits, of_warped, grid, foreground, options.equivariance),
        }


class Said(Silence):
    """Keeps the lines of a log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Trainer:
    """One method on the device with a batch of noise: the work of ``train.py``'s loop.

    Attributes:
        log: has what a log would say of its steps.
    """

    def __init__(self, config: DictConfig, reference: bool = False) -> None:
        config = changed(config, **UNTRAINED, **({"precision": "32"} if reference else {}))
        self.config, self.fabric = config, build_fabric(config.device, config.precision)
        set_determinism(config.deterministic, searches(config))
        self.method = methods.build(config, True, self.fabric.device, num_classes=NUM_CLASSES)
        if reference:
            self.method.__class__ = Reference
        self.training, self.log = Training(Ranks(self.fabric), config, self.method), Said()
        self.log.lines += self.training.notes
        batch = noise(config.batch_size, config.image_size)
        self.batch = batch.pin_memory() if self.fabric.device.type == "cuda" else batch
        self.views = self.make_views()

    def make_views(self) -> Any:
        return self.training.views(self.batch)

    def networks(self) -> None:
        pair, predictor = self.views.pair, self.method.predictor
        with self.fabric.autocast():
            self.method.perceptual(pair.image)
            logits = of_views(predictor, [*map(predictor.preprocess, (pair.jittered, pair.jittered_to_warp))])
        self.fabric.backward(logits.float().square().mean())
        self.training.optimizer.zero_grad()

    def step(self) -> None:
        self.training.learn(self.make_views(), self.log)
        self.training.optimizer.zero_grad()
        self.training.step = 0  # a step costs the same at any rate, but for the last, at which it is 0

    def losses(self) -> dict[str, Callable[[], None]]:
        """Each loss, and all, forward and back to full-size logits."""
        views, config = self.views, self.config
        shape = (config.batch_size, config.num_parts, config.image_size, config.image_size)
        logits, of_warped = (torch.randn(shape, device=views.lab.device, requires_grad=True) for _ in range(2))
        features, foreground = self.method.perceptual(views.pair.image), views.pair.foreground
        forward = {
            "feature": lambda masks: feature_loss(masks, features, foreground),
            "contrastive": lambda masks: contrastive_loss(
                part_descriptors(masks, features, foreground),
                config.method.temperature,
                views.positives,
                config.method.negatives,
            ),
            "visual": lambda masks: visual_consistency_loss(masks, views.lab, foreground),
            "equivariance": lambda _: equivariance_loss(
                logits, of_warped, views.pair.grid, foreground, config.method.equivariance
            ),
        }

        def run(names: list[str]) -> None:
            masks = logits.softmax(1)
            total = sum(forward[name](masks) for name in names)
            torch.autograd.grad(total, [logits, of_warped], allow_unused=True)

        rows = {f"{name} loss": lambda name=name: run([name]) for name in forward}
        return rows | {"all four losses": lambda: run(list(forward))}


def noise(count: int, size: int) -> TrainBatch:
    """Pictures of noise with a disc for a foreground, and a class."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return TrainBatch(
        image=torch.from_numpy(rng.integers(0, 256, (count, 3, size, size), np.uint8)),
        foreground=torch.from_numpy((x**2 + y**2 < 0.6).astype(np.float32)).expand(count, 1, size, size).contiguous(),
        names=[str(place) for place in range(count)],
        step=0,
        labels=torch.from_numpy(rng.integers(1, NUM_CLASSES + 1, count)),
    )


def changed(config: DictConfig, **values: object) -> DictConfig:
    """A copy of the config with other values, by dotted key."""
    config = config.copy()
    for key, value in values.items():
        OmegaConf.update(config, key, value)
    return config


def step(config: DictConfig) -> None:
    """The tables.

    Raises:
        UserError: a method without these losses, or none of that device and precision.
    """
    if config.method.name != "contrastive_reconstruction":
        raise UserError(
            f"method={config.method.name}: the benchmark measures the losses of contrastive_reconstruction. "
            "Leave method= out."
        )
    # First: on Linux a process starts with the peak of the one that started it.
    memory = {name: peak_memory(config, name) for name in (NETWORKS, STEP, REFERENCE)}
    device = build_fabric(config.device, config.precision).device
    trainers = {
        STEP: Trainer(config),
        f"step, K = {MANY_PARTS}": Trainer(changed(config, num_parts=MANY_PARTS)),
    }
    if config.precision != "bf16":
        trainers["step, bf16"] = Trainer(changed(config, precision="bf16"))
    ours = trainers[STEP]
    rows = {NETWORKS: ours.networks, DATA: ours.make_views} | ours.losses()
    seconds = measure(rows | {name: trainer.step for name, trainer in trainers.items()}, device)
    del trainers, ours, rows
    gc.collect()
    # After the others: it fills the memory, and whoever comes next waits for it to be given back.
    seconds |= measure({REFERENCE: Trainer(config, reference=True).step}, device)
    print_times(seconds, config, device)
    print_memory(memory, config)
    if config.output_dir:
        keep(Path(config.output_dir), {"seconds": seconds, "memory": memory})


def measure(
    rows: dict[str, Callable[[], object]],
    device: torch.device,
    rounds: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each row in each round, the rows in turn, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for round_ in range((rounds or ROUNDS[device.type]) + 1):
        for name, function in rows.items():
            wait(device)
            start = clock()
            for _ in range(STEPS_OF_A_ROUND[device.type]):
                function()
            wait(device)
            if round_ > 0:
                seconds[name].append((clock() - start) / STEPS_OF_A_ROUND[device.type])
    return seconds


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def keep(folder: Path, measured: Mapping[str, Any]) -> None:
    """Writes ``measured.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "measured.json").write_text(json.dumps(measured))


def peak_memory(config: DictConfig, row: str) -> float:
    """MiB of two rounds of a row, the second with momenta, in a process of its own."""
    return measured(_two_rounds, config, row)[1]


def _two_rounds(config: DictConfig, row: str) -> None:
    trainer = Trainer(config, reference=row == REFERENCE)
    for _ in range(2):
        trainer.networks() if row == NETWORKS else trainer.step()


def print_times(seconds: dict[str, list[float]], config: DictConfig, device: torch.device) -> None:
    """The table of times, and of what a step without the reference's formulas costs beside its networks."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    title = (
        f"{machine}; PyTorch {torch.__version__}; batch {config.batch_size} at {config.image_size} px, "
        f"K = {config.num_parts}, precision {config.precision}, "
        f"channels_last {config.channels_last}, compile {config.compile}"
    )
    table = Table(title=title, box=SIMPLE, title_justify="left")
    for column in ("", "ms, median", "least", "most", "of the step"):
        table.add_column(column, justify="left" if not column else "right")
    whole = statistics.median(seconds[STEP])
    for name, values in seconds.items():
        figures = (f"{1000 * figure:.1f}" for figure in (statistics.median(values), min(values), max(values)))
        table.add_row(name, *figures, f"{statistics.median(values) / whole:.3f}")
    stdout().print(table)
    print(f"{1 / whole:.2f} steps a second: 60,000 steps in {60_000 * whole / 3600:.1f} hours.")


def print_memory(memory: dict[str, float], config: DictConfig) -> None:
    """The table of peak memory."""
    table = Table(title="Peak memory", box=SIMPLE, title_justify="left")
    for column in ("", "MiB", "of the networks'"):
        table.add_column(column, justify="left" if not column else "right")
    for name, value in memory.items():
        table.add_row(name, f"{value:,.0f}", f"{value / memory[NETWORKS]:.2f}")
    stdout().print(table)


if __name__ == "__main__":
    app.run("train", step)
