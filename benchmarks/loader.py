"""How many pictures one core prepares in a second: ``python benchmarks/loader.py dataset_name=CUB dataset_root=DIR``.

Takes every key of train.py. Beside our loader, with each kind of cache, stands one that works as the published code
does: for every picture it makes two colour jitters with PIL, Lab with scikit-image, and float tensors. Ours leaves
these to the device (datasets/transforms); what they cost there has rows of its own.

All work in this process, on one thread, on one epoch at a time; an epoch of each makes a round, so that whatever else
the machine does meets them all. Time is this process's own on the CPU.
"""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import conf.threads  # noqa: F401

# isort: split
import cv2
import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from skimage.color import rgb2lab
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ColorJitter, Compose, RandomApply, RandomGrayscale

import datasets
from conf import app
from datasets.base import Source
from datasets.cache import cached
from datasets.loader import Item, StepSampler, train_batches
from datasets.sample import Sample
from datasets.transforms.lab import rgb_to_lab
from datasets.transforms.pair import jittered_pair
from utils.console import stdout
from utils.devices import build_fabric
from utils.seeding import Randomness, generator

ROUNDS = 9
MEANS = np.array([104.00698793, 116.66876762, 122.67891434], np.float32)  # which the published loader takes off
REFERENCE, VIEWS = "reference", "views on {}"


def loader(config: DictConfig) -> None:
    """The table."""
    print_table(measure(config, ROUNDS), config)


def measure(config: DictConfig, rounds: int) -> dict[str, list[float]]:
    """Milliseconds a picture in each round, after one to warm up: of the reference, of our loaders, of the views."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    dataset = datasets.build(config, "train", "training")
    steps = len(dataset) // config.batch_size
    device = build_fabric(config.device, config.precision).device

    def ours(source: Source) -> Callable[[int, int], Iterable]:
        return lambda first, last: train_batches(
            source,
            image_size=config.image_size,
            batch_size=config.batch_size,
            seed=config.seed,
            first_step=first,
            num_steps=last,
            num_workers=0,
        )

    def reference(first: int, last: int) -> Iterable:
        sampler = StepSampler(len(dataset), config.batch_size, config.seed, first, last)
        return DataLoader(Reference(dataset, config), batch_sampler=sampler)

    some = list(ours(dataset)(0, steps))

    def views(_first: int, _last: int) -> Iterable:
        for batch in some:
            batch = batch.to(device)
            pair = jittered_pair(batch, config.augmentation, Randomness(config.seed, batch.step, batch.places))
            yield pair, rgb_to_lab(pair.image)
        if device.type == "cuda":
            torch.cuda.synchronize()

    with TemporaryDirectory() as folder:
        loaders = {REFERENCE: reference}
        for cache in ("none", "disk"):
            loaders[f"cache={cache}"] = ours(cached(dataset, cache, folder))
        loaders[VIEWS.format(device.type)] = views
        times = {name: [] for name in loaders}
        for epoch in range(rounds + 1):
            for name, batches in loaders.items():
                # The CPU waits busily for a GPU, so that its own time holds for both.
                start = time.process_time()
                for _ in batches(epoch * steps, (epoch + 1) * steps):
                    pass
                times[name].append((time.process_time() - start) * 1000 / (steps * config.batch_size))
    return {name: values[1:] for name, values in times.items()}


class Reference(Dataset):
    """Items as the published loader makes them: all that the losses need of a picture, on the CPU.

    Files are read as ours are. Crops around boxes are resized in double precision and cut off to bytes, as the release
    does.
    """

    def __init__(self, dataset: Source, config: DictConfig) -> None:
        """
        Args:
            dataset: has ``train_crop``.
            config: has ``image_size``, ``seed`` and ``augmentation``.
        """
        self._dataset, self._size, self._seed = dataset, config.image_size, config.seed
        numbers = config.augmentation
        colours = ColorJitter(numbers.brightness, numbers.contrast, numbers.saturation, numbers.hue)
        jitter = RandomApply([colours], numbers.jitter_probability)
        self._change = Compose([jitter, RandomGrayscale(numbers.greyscale_probability)])

    def crop(self, item: Item) -> Sample:
        """The crop, with its picture in bytes."""
        index, step, place = item
        sample = self._dataset[index]
        if sample.box is not None:
            sample.image = sample.image.astype(np.float64)
        sample = self._dataset.train_crop(sample, self._size, generator(self._seed, "crop", step, place))
        return replace(sample, image=sample.image.astype(np.uint8))

    def __getitem__(self, item: Item) -> dict[str, Tensor]:
        sample = self.crop(item)
        picture = Image.fromarray(sample.image)
        pixels = {
            "image": sample.image.astype(np.float32) / 255,
            "jittered": np.asarray(self._change(picture), np.float32) - MEANS,
            "jittered_to_warp": np.asarray(self._change(picture), np.float32) - MEANS,
            "lab": rgb2lab(sample.image).astype(np.float32),
            "foreground": sample.foreground[..., None].astype(np.float32),
        }
        return {name: torch.from_numpy(one.transpose(2, 0, 1).copy()) for name, one in pixels.items()}


def print_table(times: dict[str, list[float]], config: DictConfig, console: Console | None = None) -> None:
    """Print medians, lowest and highest of the rounds; the ratio is how many times as long the reference needs.

    Args:
        times: of ``measure``.
        console: standard output when None.
    """
    size = config.image_size
    table = Table(title=f"{config.dataset_name}, crops of {size} x {size}, one process, one thread", box=SIMPLE)
    table.add_column("", no_wrap=True)
    for column in ("ms a picture", "a second", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = {name: np.array(values) for name, values in times.items()}
    views = next(name for name in rows if name.startswith(VIEWS.format("")))
    rows[f"cache=none, and {views}"] = rows["cache=none"] + rows[views]
    for name, row in rows.items():
        figures = (row, 1000 / row, rows[REFERENCE] / row)
        table.add_row(name, *(_spread(values, digits) for values, digits in zip(figures, (1, 0, 1), strict=True)))
    (console or stdout()).print(table)


def _spread(values: np.ndarray, digits: int) -> str:
    median, low, high = (f"{value:.{digits}f}" for value in (np.median(values), values.min(), values.max()))
    return f"{median} ({low}-{high})"


if __name__ == "__main__":
    app.run("train", loader)
