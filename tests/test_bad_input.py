"""What users get wrong: every row of ``REFUSED`` is a mistake, and the words that its message must have.

The kinds are those of the files that a run reads (files: the pictures; masks, label maps too; annotations; checkpoints)
and of the command: config is a value or a combination that cannot be meant, paths are the files and folders that a
command names beside its data set (a run to resume, label maps, pictures to predict, weights, a place to write to).
What looks odd but is no mistake stands below the table, with the right result.
"""

import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image, PngImagePlugin
from torch import nn
from torchvision.models import resnet50

import datasets
import evaluate
import predict
import train
from datasets.check import check
from datasets.files import read_labels, read_picture
from evaluation import whole_pictures
from evaluation.held_out import HeldOut
from evaluation.labellers import KMeansColours
from evaluation.run import Result
from models import Segmenter, load_segmenter, restore_segmenter
from models.methods import own_loss_weights
from models.weights import read_weights
from tests.composition import composed
from tests.quadrants import ColourLabeller, draw_split
from tests.test_datasets import DRAWN, SMALL
from utils import app, checkpoints
from utils.app import run as run_command
from utils.errors import UserError
from utils.optimizer import build_optimizer, restore_optimizer
from utils.run_directory import RunDirectory, resumed_config

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("config", "files", "masks", "annotations", "checkpoints", "paths")
PLACES = {
    "CUB": "CUB",
    "DF": "DeepFashion/In-shop Clothes Retrieval Benchmark",
    "PP": "VOCdevkit_2010",
    "folder": ".",
}


class Workplace:
    """A folder of a test's own, and data sets to break in it."""

    def __init__(self, path: Path, drawn: Callable[[str], Path]) -> None:
        self.path, self._drawn = path, drawn

    def data(self, name: str) -> Path:
        """A fresh copy of a drawn data set: its ``dataset_root``."""
        return Path(shutil.copytree(self._drawn(name), self.path / "data"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    @cache
    def draw(name: str) -> Path:
        root = tmp_path_factory.mktemp(name) / "data"
        DRAWN[name][0](root)
        if name == "folder":
            (root / "test.txt").write_text("creature_001\ncreature_002\ncreature_003\n")
        return root

    return draw


@pytest.fixture
def work(tmp_path, drawn) -> Workplace:
    return Workplace(tmp_path, drawn)


class Row(NamedTuple):
    """A mistake.

    Attributes:
        id: names the row.
        kind: one of ``KINDS``.
        attempt: does what is refused; raises UserError, or ends a command with status 2.
        words: what the message must have.
    """

    id: str
    kind: str
    attempt: Callable[[Workplace], object]
    words: tuple[str, ...]


# --- commands


def command(*arguments: str, name: str = "train", prepare: Callable[[Path], object] = lambda _: None):
    """A command line that is refused before its task starts; ``{}`` in it is the test's folder."""

    def attempt(work: Workplace) -> None:
        prepare(work.path)
        sys.argv = [f"{name}.py", *(argument.format(work.path) for argument in arguments)]
        run_command(name, lambda _: pytest.fail("the task was started"))

    return attempt


def running(name: str, *arguments: str) -> Callable[[Workplace], object]:
    """A command line that is refused once its task runs; ``{}`` holds a checkpoint and a picture."""

    def attempt(work: Workplace) -> None:
        save_picture(work.path / "pictures/one.png", np.zeros((32, 32, 3)))
        checkpoints.save(work.path / "model_1.pth", segmenter_payload())
        sys.argv = [f"{name}.py", "device=cpu", *(argument.format(work.path) for argument in arguments)]
        run_command(name, {"train": train.train, "evaluate": evaluate.evaluate, "predict": predict.predict}[name])

    return attempt


def experiment(content: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / "more/experiment").mkdir(parents=True)
        (folder / "more/experiment/mine.yaml").write_text(f"# @package _global_\n{content}\n")

    return write


def settings(*overrides: str, name: str = "train") -> DictConfig:
    return composed("device=cpu", "loader.num_workers=0", *overrides, name=name)


def training(*overrides: str) -> Callable[[Workplace], object]:
    """train.py without its process, on the folder of drawn pictures."""

    def attempt(work: Workplace) -> None:
        own = (f"dataset_root={work.data('folder')}", f"output_dir={work.path / 'run'}")
        given = (override.format(work.path) for override in overrides)
        train.train(settings("dataset_name=folder", "experiment=debug", *SMALL, *own, *given))

    return attempt


def predicting(*overrides: str, prepare: Callable[[Path], object] = lambda _: None) -> Callable[[Workplace], object]:
    """predict.py without its process; ``{}/pictures`` holds one picture, ``{}/model_1.pth`` finds parts."""

    def attempt(work: Workplace) -> None:
        save_picture(work.path / "pictures/one.png", np.zeros((32, 32, 3)))
        checkpoints.save(work.path / "model_1.pth", segmenter_payload())
        prepare(work.path)
        given = [f"checkpoint={work.path}/model_1.pth", "task=parts", "image_size=32", *overrides]
        predict.predict(settings(*(one.format(work.path) for one in given), name="predict"))

    return attempt


def evaluating_maps(write: Callable[[Path, Path], object], *overrides: str) -> Callable[[Workplace], object]:
    """evaluate.py predictions=DIR without its process; ``write`` gets the data set and DIR."""

    def attempt(work: Workplace) -> None:
        root, maps = work.data("folder"), work.path / "maps"
        shutil.rmtree(root / "parts")  # without annotation that nothing looks at
        (root / "keypoints.csv").unlink()
        write(root, maps)
        own = (f"dataset_root={root}", f"predictions={maps}", f"output_dir={work.path / 'output'}")
        evaluate.evaluate(settings("dataset_name=folder", *SMALL, *own, *overrides, name="evaluate"))

    return attempt


def label_maps(labels: np.ndarray | int, spare: str | None = None) -> Callable[[Path, Path], object]:
    """A label map of every picture, each pixel ``labels``; none of the picture ``spare``."""

    def write(root: Path, maps: Path) -> None:
        maps.mkdir()
        for path in sorted((root / "images").iterdir()):
            if path.stem != spare:
                with Image.open(path) as picture:
                    pixels = np.full(picture.size[::-1], labels)
                Image.fromarray(pixels.astype(np.uint8)).save(maps / f"{path.name}.png")

    return write


def resuming(prepare: Callable[[Path], object], *overrides: str) -> Callable[[Workplace], object]:
    """train.py resume=RUN up to its config; ``prepare`` gets a directory with the config of a run."""

    def attempt(work: Workplace) -> None:
        RunDirectory.create(settings(*SMALL, f"output_dir={work.path / 'run'}"))
        prepare(work.path / "run")
        given = [f"resume={work.path / 'run'}", *overrides]
        resumed_config(composed(*given), given)

    return attempt


# --- data sets


@cache
def data_config(name: str) -> DictConfig:
    masks = ("dataset.train_mask=gt", "dataset.eval_mask=" + ("gt" if name in ("CUB", "folder") else "supervised"))
    return settings(f"dataset_name={name}", *SMALL, *DRAWN[name][1], *masks)


def config_of(name: str, root: Path) -> DictConfig:
    config = data_config(name).copy()
    config.dataset_root = str(root)
    return config


def read_all(name: str, root: Path) -> list:
    """Every sample of both splits, as training and its evaluation read them."""
    samples = []
    for split, purpose in (("train", "training"), ("test", "evaluation")):
        config = config_of(name, root)
        dataset = datasets.build(name, config.dataset, root, split, purpose)
        samples += [dataset[index] for index in range(len(dataset))]
    return samples


def data(name: str, damage: Callable[[Path], object]) -> Callable[[Workplace], object]:
    """Reading a data set that is broken; ``damage`` gets its own folder."""

    def attempt(work: Workplace) -> None:
        root = work.data(name)
        damage(root / PLACES[name])
        read_all(name, root)

    attempt.data_set = name
    return attempt


def scored(config: DictConfig) -> Result:
    """What an evaluation says of two clusters of colours, or of an untrained foreground network."""
    held_out = HeldOut.of(config)
    untrained = held_out.task == "foreground"
    labeller = held_out.labeller(Segmenter(1)) if untrained else KMeansColours(2, seed=0, max_points=1000, restarts=1)
    return held_out.evaluate(labeller, torch.device("cpu"))


def evaluating(name: str, damage: Callable[[Path], object], *overrides: str) -> Callable[[Workplace], object]:
    """Evaluating on a data set that reads well."""

    def attempt(work: Workplace) -> None:
        root = work.data(name)
        damage(root / PLACES[name])
        config = settings(f"dataset_name={name}", f"dataset_root={root}", *SMALL, *DRAWN[name][1], *overrides)
        scored(config)

    return attempt


def replace_file(pattern: str, content: bytes | str | Callable[[Path], object]) -> Callable[[Path], object]:
    """Gives the first file of a pattern another content."""

    def damage(root: Path) -> None:
        path = sorted(root.glob(pattern))[0]
        if callable(content):
            content(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def cut(share: float) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def pixels(values: Callable[[int, int], np.ndarray], mode: str | None = None, **options) -> Callable[[Path], object]:
    """Puts a picture of the same size in the place of a file: ``values`` of height and width."""

    def write(path: Path) -> None:
        with Image.open(path) as old:
            width, height = old.size
        picture = Image.fromarray(values(height, width))
        (picture if mode is None else picture.convert(mode)).save(path, **options)

    return write


def flat(value: float, dtype: str = "uint8", channels: tuple[int, ...] = ()):
    return lambda height, width: np.full((height, width, *channels), value, dtype)


def other_mask(name: str, values, mode: str | None = None, **options) -> Callable[[Path], object]:
    """The mask of the folder's first picture under another name, with other values."""

    def damage(root: Path) -> None:
        old = root / "masks/creature_001.png"
        old.rename(new := root / f"masks/{name}")
        pixels(values, mode, **options)(new)

    return damage


def save_picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def png(*chunks: tuple[bytes, bytes], width: int = 8, height: int = 8) -> bytes:
    """A PNG of grey pixels with chunks of its own before them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = (b"IDAT", zlib.compress(bytes(9 * 8)))
    parts = ((b"IHDR", header), *chunks, rows, (b"IEND", b""))
    written = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def missing(path: Path) -> None:
    path.unlink()


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def line(file: str, number: int, new: str | None) -> Callable[[Path], object]:
    """Replaces a line (from 1) of a list, or takes it out."""

    def damage(root: Path) -> None:
        lines = (root / file).read_text().splitlines()
        lines[number - 1 : number] = [] if new is None else new.splitlines()
        (root / file).write_text("\n".join(lines) + "\n")

    return damage


def write(file: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda root: (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def everywhere(pattern: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda root: [change(path) for path in sorted(root.glob(pattern))]


def substitute(file: str, old: str, new: str) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new))

    return damage


# --- checkpoints


@cache
def segmenter_state(num_parts: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Segmenter(num_parts).state_dict()


def segmenter_payload(num_parts: int = 3, **more) -> dict:
    return {"iter": 1, "model_state_dict": segmenter_state(num_parts), "optimizer_state_dict": {}} | more


SMALL_PAYLOAD = {
    "iter": 5,
    "model_state_dict": {"weight": torch.arange(300.0)},
    "optimizer_state_dict": {"state": {}, "param_groups": [{"params": []}]},
    "format": checkpoints.FORMAT,
}


def checkpoint(
    write: Callable[[Path], object], use: Callable[[Path], object] = checkpoints.read
) -> Callable[[Workplace], object]:
    """Reading (or another use of) ``model_5.pth`` once ``write`` is done with it."""

    def attempt(work: Workplace) -> None:
        path = checkpoints.save(work.path / "model_5.pth", SMALL_PAYLOAD)
        write(path)
        use(path)

    return attempt


def saved(payload: object) -> Callable[[Path], object]:
    return lambda path: torch.save(payload() if callable(payload) else payload, path)


def flip_bit(share: float) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(len(content) * share)] ^= 4
        path.write_bytes(content)

    return write


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "Dear Sir")


class RunsCode:
    """Once unpickled, a file ``ran`` is there."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def state_of(network: Callable[..., nn.Module]) -> dict[str, torch.Tensor]:
    return network(weights=None).state_dict()


def with_tensor(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return segmenter_state(3) | {name: tensor}


def resume_weights(path: Path) -> None:
    restore_segmenter(Segmenter(4), checkpoints.read_to_resume(path)[1]["model_state_dict"], path)


def resume_optimizer(path: Path) -> None:
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    optimizer = build_optimizer([{"params": weights, "lr": 1.0, "multiplier": 1.0}], composed().optimizer)
    restore_optimizer(optimizer, checkpoints.read_to_resume(path)[1]["optimizer_state_dict"], str(path))


def take_settings(path: Path) -> None:
    app.with_settings_of(checkpoints.read(path)["config"], settings(f"checkpoint={path}", name="evaluate"))


BOMB = png(width=30_000, height=30_000)
TEXT_BOMB = png((b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 23))))
LONG = "x" * 5000
SEARCH = "hydra.searchpath=[file://{}/more]"
ENDLESS: dict = {}
ENDLESS["method"] = ENDLESS
CSV = "name,keypoint,x,y\ncreature_001,eye,3,4\ncreature_004,eye,5,6\n"

REFUSED = [
    # config: values
    Row("one part", "config", command("num_parts=1"), ("num_parts must be at least 2, not 1",)),
    Row("more parts than bytes have", "config", command("num_parts=255"), ("num_parts", "at most 254, not 255")),
    Row("parts in words", "config", command("num_parts=four"), ("num_parts", "'four'", "a whole number")),
    Row("negative weight", "config", command("loss_weights.visual=-1"), ("loss_weights.visual", "at least 0, not -1")),
    Row(
        "all weights 0",
        "config",
        lambda _: own_loss_weights({"feature": 0, "visual": 0.0}, ("feature", "visual")),
        ("loss_weights.feature, loss_weights.visual are all 0",),
    ),
    Row("rate that is no number", "config", command("optimizer.lr=nan"), ("optimizer.lr must be finite, not nan",)),
    Row("crops too small", "config", command("image_size=31"), ("image_size must be at least 32, not 31",)),
    Row("crops too large", "config", command("image_size=100000"), ("image_size must be at most 4096, not 100000",)),
    Row("box of nothing", "config", command("dataset.box_jitter=0.8"), ("dataset.box_jitter", "at most 0.5, not 0.8")),
    Row("crop of a gigabyte", "config", command("dataset.box_padding=1e5"), ("dataset.box_padding", "not 100000")),
    Row("noise of a mile", "config", command("augmentation.noise=1e30"), ("augmentation.noise", "at most 1")),
    Row("warp to nowhere", "config", command("augmentation.translation=3"), ("augmentation.translation", "at most 2")),
    Row("warp to a point", "config", command("augmentation.scale=[1,1e30]"), ("augmentation.scale", "at most 100")),
    Row("seed below 0", "config", command("seed=-1"), ("seed must be at least 0, not -1",)),
    Row("unknown data set", "config", command("dataset_name=COCO"), ("dataset_name", "'COCO'", "Options: CUB, DF")),
    Row("a batch of the whole set", "config", training("batch_size=13"), ("12 training images", "batch_size=13")),
    Row(
        "a batch of a billion",
        "config",
        training("batch_size=1000000000"),
        ("12 training images, fewer than batch_size=1000000000",),
    ),
    Row(
        "a batch too small for its positives",
        "config",
        training("batch_size=2", "method.positives=release"),
        ("batch_size=2", "method.positives=release", "3 or more"),
    ),
    Row(
        "unknown layer",
        "config",
        training("+perceptual.layers.relu9_9=1"),
        ("perceptual.layers", "relu9_9", "relu5_4"),
    ),
    # config: combinations
    Row(
        "key of another data set",
        "config",
        command("dataset_name=DF", "dataset.box_padding=0.1"),
        ("dataset.box_padding is for CUB", "dataset_name=DF"),
    ),
    Row(
        "category of another data set",
        "config",
        command("dataset_name=folder", "dataset.category=dog"),
        ("dataset.category is for PP only, not for dataset_name=folder",),
    ),
    Row(
        "key that the data set needs",
        "config",
        command("dataset_name=folder", "dataset.test_share=null"),
        ("dataset.test_share is required by dataset_name=folder",),
    ),
    Row(
        "key of another optimiser",
        "config",
        command("optimizer=adamw", "optimizer.momentum=0.5"),
        ("optimizer.momentum is for sgd only, not for adamw",),
    ),
    Row("steps without a rate", "config", command("num_steps=200000"), ("200000", "optimizer.poly_steps (100000)")),
    Row("several values at once", "config", command("num_steps=3,4"), ("num_steps=3,4", "cannot compose")),
    Row("unknown experiment", "config", command("experiment=debugg"), ("experiment", "'debugg'", "'debug'")),
    Row(
        "typo in an experiment",
        "config",
        command(SEARCH, "experiment=mine", prepare=experiment("num_stepz: 3")),
        ("conf/experiment/mine.yaml", "'num_stepz'", "'num_steps'"),
    ),
    Row(
        "experiment that is no YAML",
        "config",
        command(SEARCH, "experiment=mine", prepare=experiment("num_steps: [")),
        ("experiment/mine.yaml", "cannot compose"),
    ),
    Row(
        "experiment with a value out of range",
        "config",
        command(SEARCH, "experiment=mine", prepare=experiment("batch_size: 0")),
        ("batch_size must be at least 2, not 0",),
    ),
    # files
    Row(
        "missing",
        "files",
        data("folder", replace_file("images/*1.jpg", missing)),
        ("images/creature_001", "1 of 9 files"),
    ),
    Row("missing in CUB", "files", data("CUB", replace_file("**/Bird_0003.jpg", missing)), ("Bird_0003.jpg", "1 of")),
    Row("empty", "files", data("folder", replace_file("images/*01.jpg", b"")), ("creature_001.jpg", "it is empty")),
    Row("text", "files", data("folder", replace_file("images/*01.jpg", "hi")), ("creature_001.jpg", "none of", "JPEG")),
    Row("truncated JPEG", "files", data("CUB", replace_file("**/*0002.jpg", cut(0.6))), ("_0002.jpg", "truncated")),
    Row("last bytes lost", "files", data("DF", replace_file("**/*front.jpg", cut(0.95))), ("front.jpg", "truncated")),
    Row("damaged in PP", "files", data("PP", replace_file("**/*car002.jpg", b"\xff\xd8\xff")), ("2010_car002.jpg",)),
    Row(
        "a program for a printer",
        "files",
        data("folder", replace_file("images/*01.jpg", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")),
        ("creature_001.jpg", "none of BMP"),
    ),
    Row("a folder", "files", data("CUB", replace_file("**/Bird_0002.jpg", folder_instead)), ("_0002.jpg", "directory")),
    Row(
        "32 bits",
        "files",
        data("folder", replace_file("images/*01.jpg", pixels(flat(70000, "int32"), format="TIFF"))),
        ("creature_001.jpg has 32 bits",),
    ),
    Row(
        "fractions",
        "files",
        data("folder", replace_file("images/*01.jpg", pixels(flat(0.5, "float32"), format="TIFF"))),
        ("creature_001.jpg has 32 bits", "8 or 16"),
    ),
    Row("bomb", "files", data("folder", replace_file("images/*01.jpg", BOMB)), ("creature_001.jpg", "900000000")),
    Row("bomb of text", "files", data("folder", replace_file("images/*01.jpg", TEXT_BOMB)), ("_001.jpg", "too large")),
    Row(
        "a strip",
        "files",
        evaluating(
            "folder",
            lambda root: odd_sizes(root, (1, 20_000)),
        ),
        ("creature_001.jpg is 20000 x 1 pixels",),
    ),
    Row(
        "two of one name",
        "files",
        data("folder", lambda root: shutil.copy(root / "images/creature_001.jpg", root / "images/creature_001.png")),
        ("creature_001.jpg", "creature_001.png", "differ in their ending only"),
    ),
    # masks
    Row("mask missing", "masks", data("folder", replace_file("masks/*01.png", missing)), ("masks/creature_001.png",)),
    Row("mask damaged", "masks", data("folder", replace_file("masks/*01.png", cut(0.5))), ("masks/creature_001.png",)),
    Row(
        "mask of another size",
        "masks",
        data("folder", other_mask("creature_001.png", lambda height, width: np.ones((20, 30), np.uint8))),
        ("masks/creature_001.png is 30 x 20 pixels", "images/creature_001.jpg"),
    ),
    Row(
        "mask of a turned picture",
        "masks",
        data("folder", other_mask("creature_001.png", lambda height, width: np.ones((width, height), np.uint8))),
        ("masks/creature_001.png", "EXIF"),
    ),
    Row(
        "JPEG mask of 0 and 1",
        "masks",
        data("folder", other_mask("creature_001.jpg", flat(1))),
        ("masks/creature_001.jpg has values up to 1", "128"),
    ),
    Row(
        "coloured mask",
        "masks",
        data("folder", other_mask("creature_001.png", lambda h, w: np.full((h, w, 3), (9, 0, 0), np.uint8))),
        ("masks/creature_001.png is a coloured picture",),
    ),
    Row(
        "CMYK mask",
        "masks",
        data("folder", other_mask("creature_001.tif", flat(0, channels=(3,)), "CMYK")),
        ("masks/creature_001.tif is a coloured picture (CMYK)",),
    ),
    Row(
        "soft mask",
        "masks",
        data("folder", other_mask("creature_001.tif", flat(0.5, "float32"))),
        ("masks/creature_001.tif has fractions",),
    ),
    Row(
        "0 and 1 for CUB's own masks",
        "masks",
        data("CUB", replace_file("**/segmentations/**/*0002.png", pixels(flat(1)))),
        ("segmentations/003.Species_3/Bird_0002.png has values up to 1", "255 is the object"),
    ),
    Row(
        "16 bits for CUB's own masks",
        "masks",
        data("CUB", replace_file("**/segmentations/**/*0002.png", pixels(flat(65535, "uint16")))),
        ("Bird_0002.png has values up to 65535",),
    ),
    Row(
        "unknown colour in DeepFashion",
        "masks",
        data("DF", replace_file("**/*_segment.png", pixels(flat(7, channels=(3,))))),
        ("01_1_front_segment.png", "colour 7 7 7", "x=0, y=0"),
    ),
    Row(
        "predicted mask of another size",
        "masks",
        data("PP", replace_file("supervisedlabels/car/*car007_1.png", pixels(lambda h, w: np.ones((5, 6), np.uint8)))),
        ("2010_car007_1.png is 6 x 5 pixels", "2010_car007.jpg"),
    ),
    Row("no predicted masks", "masks", data("DF", lambda r: shutil.rmtree(r / "supervisedlabels")), ("on disk: gt",)),
    Row(
        "masks with names of their own",
        "masks",
        data("folder", everywhere("masks/*.png", lambda path: path.rename(path.with_name(f"mask_{path.name}")))),
        ("mask_creature_001.png", "images/creature_001.jpg", "give masks the names"),
    ),
    Row(
        "label above the parts",
        "masks",
        data("folder", replace_file("parts/*01.png", pixels(flat(9)))),
        ("parts/creature_001.png has labels from 9 to 9", "to 4"),
    ),
    Row(
        "no foreground held out",
        "masks",
        evaluating("folder", everywhere("masks/*.png", pixels(flat(0))), "method=foreground"),
        ("No held-out picture has any foreground", "creature_001.jpg"),
    ),
    Row(
        "no part held out",
        "masks",
        evaluating("folder", everywhere("parts/*.png", pixels(flat(0)))),
        ("No held-out picture shows an annotated part", "creature_001.jpg"),
    ),
    # annotations
    Row("list cut off", "annotations", data("CUB", line("CUB_200_2011/images.txt", 9, None)), ("images.txt", "9")),
    Row("no box", "annotations", data("CUB", line("CUB_200_2011/bounding_boxes.txt", 3, None)), ("_boxes.txt", "3")),
    Row(
        "box in words",
        "annotations",
        data("CUB", line("CUB_200_2011/bounding_boxes.txt", 3, "3 left 1 5 5")),
        ("bounding_boxes.txt, line 3", "'3 left 1 5 5'"),
    ),
    Row(
        "box without width",
        "annotations",
        data("CUB", line("CUB_200_2011/bounding_boxes.txt", 3, "3 1 1 0 5")),
        ("bounding_boxes.txt, line 3", "'3 1 1 0 5'"),
    ),
    Row(
        "box beside the picture",
        "annotations",
        data("CUB", line("CUB_200_2011/bounding_boxes.txt", 3, "3 70 1 9 9")),
        ("bounding_boxes.txt: the box (69, 0) to (77, 8)", "Bird_0003.jpg, 64 x 48"),
    ),
    Row(
        "box of a kilometre",
        "annotations",
        data("CUB", line("CUB_200_2011/bounding_boxes.txt", 3, "3 1 1 1e6 9")),
        ("bounding_boxes.txt", "(999999, 8)", "Bird_0003.jpg"),
    ),
    Row(
        "two boxes",
        "annotations",
        data("CUB", line("CUB_200_2011/bounding_boxes.txt", 3, "3 1 1 9 9\n3 1 1 8 8")),
        ("bounding_boxes.txt has 2 lines for image 3",),
    ),
    Row(
        "keypoint twice",
        "annotations",
        data("CUB", line("CUB_200_2011/parts/part_locs.txt", 10, "3 1 5.0 5.0 1")),
        ("part_locs.txt has two lines for part 1 of image 3",),
    ),
    Row(
        "keypoint missing",
        "annotations",
        data("CUB", line("CUB_200_2011/parts/part_locs.txt", 10, None)),
        ("part_locs.txt has 3 lines for image 3", "4 keypoints"),
    ),
    Row(
        "keypoint nowhere near",
        "annotations",
        data("CUB", line("CUB_200_2011/parts/part_locs.txt", 9, "3 1 5000 5 1")),
        ("part_locs.txt: the beak at (4999, 4)", "Bird_0003.jpg, 64 x 48"),
    ),
    Row(
        "unknown keypoint",
        "annotations",
        data("CUB", line("CUB_200_2011/parts/part_locs.txt", 9, "3 7 5 5 1")),
        ("part_locs.txt: image 3 has a part 7",),
    ),
    Row(
        "names out of order",
        "annotations",
        data("CUB", line("CUB_200_2011/parts/parts.txt", 2, "3 left eye")),
        ("parts.txt: the index of 'left eye' is 3, but 2 comes next",),
    ),
    Row(
        "no picture held out",
        "annotations",
        data("CUB", substitute("CUB_200_2011/train_test_split.txt", " 0\n", " 1\n")),
        ("train_test_split.txt has no picture of the test split",),
    ),
    Row(
        "coordinate in words",
        "annotations",
        data("folder", write("keypoints.csv", CSV + "creature_002,eye,3,four\n")),
        ("keypoints.csv, line 4: expected numbers", "four"),
    ),
    Row(
        "a field without an end",
        "annotations",
        data("folder", write("keypoints.csv", CSV + "creature_002," + "eye" * 50_000 + ",3,4\n")),
        ("keypoints.csv, line 4: field larger than field limit",),
    ),
    Row(
        "a row without its last columns",
        "annotations",
        data("folder", write("keypoints.csv", "x,y,keypoint,name\n3,4,eye,creature_001\n3,4\n")),
        ("keypoints.csv, line 3: expected a value in each of the columns x, y, keypoint, name",),
    ),
    Row(
        "semicolons",
        "annotations",
        data("folder", write("keypoints.csv", CSV.replace(",", ";"))),
        ("keypoints.csv, line 1: no column", "name;keypoint;x;y"),
    ),
    Row(
        "another encoding",
        "annotations",
        data("folder", write("keypoints.csv", (CSV + "creature_002,Flügel,3,4\n").encode("latin-1"))),
        ("keypoints.csv is not in UTF-8",),
    ),
    Row(
        "keypoint of another scale",
        "annotations",
        data("folder", write("keypoints.csv", CSV.replace("3,4", "3,400"))),
        ("keypoints.csv: the eye at (3, 400)", "creature_001.jpg"),
    ),
    Row(
        "in both lists",
        "annotations",
        data("folder", write("train.txt", "creature_001\ncreature_004\ncreature_005\n")),
        ("in train.txt and in test.txt: creature_001",),
    ),
    Row("listed in vain", "annotations", data("folder", write("train.txt", "a\ncreature_004")), ("images/a",)),
    Row(
        "list that is no JSON",
        "annotations",
        data("DF", write("Anno/segmentation/DeepFashion_segmentation_query.json", '{"images": [')),
        ("DeepFashion_segmentation_query.json is no list of pictures",),
    ),
    Row(
        "list a thousand deep",
        "annotations",
        data("DF", write("Anno/segmentation/DeepFashion_segmentation_query.json", "[" * 100_000)),
        ("DeepFashion_segmentation_query.json is no list of pictures",),
    ),
    Row(
        "empty list",
        "annotations",
        data("DF", write("Anno/segmentation/DeepFashion_segmentation_train.json", '{"images": []}')),
        ("DeepFashion_segmentation_train.json: no pictures",),
    ),
    Row(
        "annotation of PP damaged",
        "annotations",
        data("PP", replace_file("Annotations_Part/*car001.mat", cut(0.5))),
        ("2010_car001.mat is no annotation",),
    ),
    Row(
        "list of PP in other numbers",
        "annotations",
        data("PP", line("VOC2010/ImageSets/Main/car_train.txt", 2, "2010_car000 2")),
        ("car_train.txt, line 2", "'2010_car000 2'"),
    ),
    Row(
        "no object to train on",
        "annotations",
        data("PP", write("VOC2010/ImageSets/Main/car_train.txt", "2010_car000 -1\n")),
        ("car_train.txt gives no object", "PASCAL-Part car"),
    ),
    # checkpoints
    Row("no bytes", "checkpoints", checkpoint(cut(0)), ("model_5.pth", "truncated")),
    Row("first half", "checkpoints", checkpoint(cut(0.5)), ("model_5.pth", "truncated")),
    Row("all but the end", "checkpoints", checkpoint(cut(0.99)), ("model_5.pth", "truncated")),
    Row("a flipped bit", "checkpoints", checkpoint(flip_bit(0.5)), ("model_5.pth", "damaged")),
    Row("a letter", "checkpoints", checkpoint(lambda path: path.write_text("Dear Sir")), ("model_5.pth", "another")),
    Row("an archive of a letter", "checkpoints", checkpoint(zipped), ("model_5.pth", "another kind of file")),
    Row(
        "a pickle that runs code",
        "checkpoints",
        checkpoint(lambda path: saved({"model_state_dict": RunsCode(path.parent / "ran")})(path)),
        ("model_5.pth is not read", "mkdir", "could run code"),
    ),
    Row(
        "an old pickle that runs code",
        "checkpoints",
        checkpoint(lambda path: path.write_bytes(pickle.dumps(RunsCode(path.parent / "ran"), protocol=2))),
        ("model_5.pth",),
    ),
    Row(
        "weights of a VGG",
        "checkpoints",
        checkpoint(saved({"features.0.weight": torch.zeros(64, 3, 3, 3)})),
        ("model_5.pth", "no 'model_state_dict'"),
    ),
    Row(
        "a classifier",
        "checkpoints",
        checkpoint(saved(lambda: {"iter": 1, "model_state_dict": state_of(resnet50)}), load_segmenter),
        ("model_5.pth is not a checkpoint of a segmenter", "layer5.conv2d_list.0.weight"),
    ),
    Row(
        "words for weights",
        "checkpoints",
        checkpoint(saved({"model_state_dict": {"weight": "heavy"}})),
        ("model_5.pth", "'weight' is no tensor"),
    ),
    Row(
        "other shapes",
        "checkpoints",
        checkpoint(
            saved(lambda: segmenter_payload(model_state_dict=with_tensor("conv1.weight", torch.zeros(3)))),
            load_segmenter,
        ),
        ("model_5.pth does not fit", "conv1.weight"),
    ),
    Row(
        "weights that are no numbers",
        "checkpoints",
        checkpoint(
            saved(lambda: segmenter_payload(model_state_dict=with_tensor("bn1.bias", torch.full((64,), torch.nan)))),
            load_segmenter,
        ),
        ("model_5.pth", "bn1.bias", "not finite"),
    ),
    Row(
        "masks where parts are wanted",
        "checkpoints",
        checkpoint(saved(lambda: segmenter_payload(1, config={"method": {"name": "foreground"}})), load_segmenter),
        ("model_5.pth was trained with method=foreground", "Give a checkpoint of method=contrastive"),
    ),
    Row(
        "parts where masks are wanted",
        "checkpoints",
        checkpoint(saved(segmenter_payload), partial(load_segmenter, task="foreground")),
        ("model_5.pth was trained with method=contrastive_reconstruction", "Give a checkpoint of method=foreground"),
    ),
    Row(
        "an unknown method",
        "checkpoints",
        checkpoint(saved(lambda: segmenter_payload(config={"method": {"name": "scops"}})), load_segmenter),
        ("model_5.pth was trained with method.name=scops",),
    ),
    Row(
        "an unknown variant",
        "checkpoints",
        checkpoint(saved(lambda: segmenter_payload(config={"segmenter": {"variant": "vgg"}})), load_segmenter),
        ("model_5.pth", "'vgg'", "caffe, torchvision"),
    ),
    *(
        Row(
            f"settings that are {what}",
            "checkpoints",
            checkpoint(saved(SMALL_PAYLOAD | {"config": config})),
            ("model_5.pth is not a checkpoint of this project", *words),
        )
        for what, config, words in (
            ("nothing", None, ("its config is None, not a mapping",)),
            ("a number", 5, ("its config is 5,",)),
            ("a word", "CUB", ("its config is 'CUB',",)),
            ("a list", [1], ("its config is [1],",)),
            ("a word for a group", {"method": "x"}, ("its config's method is 'x', not a mapping",)),
            ("nothing for the segmenter", {"segmenter": None}, ("its config's segmenter is None",)),
            ("nothing for the data set", {"dataset": None}, ("its config's dataset is None",)),
            ("a list for the method's name", {"method": {"name": ["x"]}}, ("method.name is ['x'], not text",)),
            ("a number for the variant", {"segmenter": {"variant": 1}}, ("segmenter.variant is 1, not text",)),
            ("a word for the padding", {"dataset": {"box_padding": "wide"}}, ("box_padding is 'wide', not a number",)),
            ("a padding of nothing", {"dataset": {"box_padding": float("nan")}}, ("box_padding is nan, not from 0",)),
            ("left out", {"seed": "???"}, ("its config cannot be read", "seed")),
            ("found nowhere", {"seed": "${elsewhere}"}, ("its config cannot be read", "elsewhere")),
            ("no plain values", {"seed": torch.zeros(2)}, ("its config cannot be read", "Tensor")),
            ("in themselves", ENDLESS, ("its config cannot be read",)),
        )
    ),
    Row(
        "a name of weights that is no text",
        "checkpoints",
        checkpoint(saved({"model_state_dict": {5: torch.zeros(2)}})),
        ("model_5.pth", "the name 5 is no text"),
    ),
    Row(
        "complex weights",
        "checkpoints",
        checkpoint(saved({"model_state_dict": {"weight": torch.zeros(2, dtype=torch.complex64)}})),
        ("model_5.pth", "'weight' has complex numbers"),
    ),
    Row(
        "more parts than label maps have",
        "checkpoints",
        checkpoint(saved(lambda: segmenter_payload(255)), load_segmenter),
        ("model_5.pth has 255 parts", "254 parts at most"),
    ),
    Row(
        "settings of another version",
        "checkpoints",
        checkpoint(saved(SMALL_PAYLOAD | {"config": {"image_size": "large"}}), take_settings),
        ("model_5.pth", "image_size='large'"),
    ),
    Row(
        "settings out of range",
        "checkpoints",
        checkpoint(saved(SMALL_PAYLOAD | {"config": {"image_size": 8}}), take_settings),
        ("image_size must be at least 32, not 8",),
    ),
    Row(
        "a newer format",
        "checkpoints",
        checkpoint(saved(SMALL_PAYLOAD | {"format": checkpoints.FORMAT + 1})),
        ("model_5.pth has the format 2", "up to 1"),
    ),
    Row(
        "other parts to go on with",
        "checkpoints",
        checkpoint(saved(lambda: segmenter_payload(optimizer_state_dict={"state": {1: 1}})), resume_weights),
        ("model_5.pth does not fit", "layer5.conv2d_list.0.weight"),
    ),
    Row(
        "no state to go on with",
        "checkpoints",
        checkpoint(saved({"iter": 5, "model_state_dict": {}}), checkpoints.read_to_resume),
        ("model_5.pth", "no optimizer_state_dict"),
    ),
    Row(
        "a step in words",
        "checkpoints",
        checkpoint(saved(SMALL_PAYLOAD | {"iter": "five"}), checkpoints.read_to_resume),
        ("its 'iter' is 'five'", "model_5.pth"),
    ),
    Row(
        "state of another network",
        "checkpoints",
        checkpoint(lambda path: None, resume_optimizer),
        ("optimiser's state in", "model_5.pth", "does not fit"),
    ),
    Row(
        "a folder without any",
        "checkpoints",
        checkpoint(missing, lambda path: checkpoints.read(path.parent)),
        ("No checkpoint in", "model_*.pth"),
    ),
    # paths
    Row("run that is not there", "paths", command("resume={}/run"), ("No run to resume in", "run/config.yaml")),
    Row(
        "run with a damaged config",
        "paths",
        resuming(lambda run: (run / "config.yaml").write_text("num_parts: [")),
        ("run/config.yaml does not fit",),
    ),
    *(
        Row(
            f"run with a config that {what}",
            "paths",
            resuming(replace_file("config.yaml", content)),
            (f"run/config.yaml {message}",),
        )
        for what, content, message in (
            ("is empty", b"", "has no augmentation, batch_size, channels_last ...: it is cut off"),
            ("is cut off", cut(0.8), "has no "),
            ("is no UTF-8", b"dataset_name: \xfc", "does not fit"),
            ("is a list", b"[1, 2]", "does not fit this version of the code: it is no mapping"),
            ("is a word", b"synthetic", "does not fit"),
            ("is a number", b"5", "(Invalid loaded object type"),
            ("is found nowhere", b"seed: ${elsewhere}", "does not fit"),
            ("is a thousand deep", b"[" * 10_000, "does not fit"),
        )
    ),
    Row(
        "run with other parts",
        "paths",
        resuming(lambda run: None, "num_parts=9"),
        ("num_parts=4", "num_parts=9", "Leave it out"),
    ),
    Row("run and experiment", "paths", resuming(lambda run: None, "experiment=debug"), ("with an experiment",)),
    Row(
        "a run to evaluate", "paths", command("resume={}/run", name="evaluate"), ("resume is for", "checkpoint={}/run")
    ),
    Row("nothing to evaluate", "paths", command(name="evaluate"), ("checkpoint is required", "predictions=DIR")),
    Row(
        "two things to evaluate",
        "paths",
        command("checkpoint=a.pth", "predictions=maps", name="evaluate"),
        ("checkpoint and predictions are two things",),
    ),
    Row(
        "checkpoint that is not there", "paths", predicting("checkpoint={}/none.pth"), ("No checkpoint at", "none.pth")
    ),
    Row("no label maps", "paths", evaluating_maps(lambda *_: None), ("predictions=", "maps is no directory")),
    Row(
        "one label map missing",
        "paths",
        evaluating_maps(label_maps(2, spare="creature_002")),
        ("1 of 3 held-out pictures", "maps/creature_002.jpg.png"),
    ),
    Row(
        "masks for label maps",
        "paths",
        evaluating_maps(label_maps(255)),
        ("largest label in", "is 255", "Masks of 0 and 255 are no label maps"),
    ),
    Row(
        "labels above the number of parts",
        "paths",
        evaluating_maps(label_maps(4), "predictions_num_parts=3"),
        ("maps/creature_001.jpg.png has labels from 4 to 4", "to 3"),
    ),
    Row(
        "no such pictures",
        "paths",
        predicting("images={}/none", "output_dir={}/out"),
        ("No folder", "none", "images=DIR"),
    ),
    Row(
        "no picture in them",
        "paths",
        predicting("images={}/empty", "output_dir={}/out", prepare=lambda folder: (folder / "empty").mkdir()),
        ("images=", "empty holds no picture"),
    ),
    Row("no place for what is found", "paths", predicting("images={}/pictures"), ("give output_dir=OUT",)),
    Row("parts of a data set", "paths", predicting("dataset_name=folder"), ("task=parts", "give images=DIR")),
    Row(
        "a picture without its mask",
        "paths",
        predicting(
            *("images={}/pictures", "masks={}/masks", "output_dir={}/out"),
            prepare=lambda folder: save_picture(folder / "masks/two.png", np.ones((32, 32))),
        ),
        ("1 of 1 pictures have no mask", "pictures/one.png"),
    ),
    Row(
        "files in the way",
        "paths",
        predicting(
            *("images={}/pictures", "output_dir={}/out"),
            prepare=lambda folder: save_picture(folder / "out/label_maps/one.png.png", np.ones((32, 32))),
        ),
        ("There already", "label_maps/one.png.png", "overwrite=true"),
    ),
    Row(
        "a file for a folder",
        "paths",
        predicting(
            *("images={}/pictures", "output_dir={}/out"),
            prepare=lambda folder: (folder / "out").write_text("a file"),
        ),
        ("Cannot write", "out/label_maps/one.png.png"),
    ),
    Row(
        "a full directory",
        "paths",
        training("output_dir={}/data"),
        ("output_dir", "data is not an empty directory"),
    ),
    Row("no data set", "paths", training("dataset_root={}/none"), ("No folder", "none/images", "dataset_root=")),
    Row(
        "no such weights",
        "paths",
        training("segmenter.weights={}/none.pth"),
        ("There is no weights file", "none.pth"),
    ),
    *(
        Row(
            f"too long a path for {arguments[-1].partition('=')[0]} of {name}",
            "paths",
            running(name, *arguments),
            ("The path ", "xxx...xxx", "is too long: give a shorter one"),
        )
        for name, *arguments in (
            ("train", "dataset_name=folder", f"dataset_root={LONG}"),
            ("train", "dataset_name=synthetic", *SMALL, f"segmenter.weights={LONG}"),
            ("evaluate", f"checkpoint={LONG}"),
            ("evaluate", "dataset_name=synthetic", *SMALL, f"predictions={LONG}"),
            ("evaluate", "checkpoint={}/model_1.pth", "dataset_name=synthetic", *SMALL, f"output_dir={LONG}"),
            ("predict", "task=parts", f"checkpoint={LONG}"),
            ("predict", "checkpoint={}/model_1.pth", "task=parts", "output_dir={}/out", f"images={LONG}"),
            (
                *("predict", "checkpoint={}/model_1.pth", "task=parts", "output_dir={}/out"),
                *("images={}/pictures", f"masks={LONG}"),
            ),
        )
    ),
    Row(
        "damaged weights",
        "paths",
        checkpoint(flip_bit(0.5), read_weights),
        ("Cannot read the weights file", "model_5.pth", "damaged"),
    ),
    Row(
        "weights of another network",
        "paths",
        lambda work: (
            torch.save({"features.0.weight": torch.zeros(1)}, work.path / "vgg.pth"),
            training("segmenter.weights={}/vgg.pth")(work),
        ),
        ("segmenter.weights=", "vgg.pth do not fit", "conv1.weight"),
    ),
]


def test_the_table_has_sixty_mistakes_and_eight_of_each_kind():
    kinds = Counter(row.kind for row in REFUSED)
    assert set(kinds) == set(KINDS) and min(kinds.values()) >= 8 and len(REFUSED) >= 60
    assert len({(row.kind, row.id) for row in REFUSED}) == len(REFUSED)
    assert all(row.words and all(row.words) for row in REFUSED)


@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row.kind}: {row.id}") for row in REFUSED])
def test_a_mistake_is_refused_with_what_and_where(row, work, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(work.path)
    with pytest.raises((UserError, SystemExit)) as ended:
        row.attempt(work)
    message = str(ended.value)
    if ended.type is SystemExit:
        message = capsys.readouterr().err
        assert ended.value.code == 2 and message.startswith("error: ") and "Traceback" not in message
    for word in row.words:
        assert word.replace("{}", str(work.path)) in message, message
    assert not (work.path / "ran").exists()
    # The check says the same of a data set, without ending at the first mistake.
    if name := getattr(row.attempt, "data_set", None):
        with pytest.raises(SystemExit) as checked:
            check(config_of(name, work.path / "data"))
        out = capsys.readouterr().out
        assert checked.value.code == 1 and "Training could not start" in out and row.words[0].split(": ")[0] in out


@pytest.mark.parametrize("name", PLACES)
def test_the_data_sets_that_are_broken_above_are_whole(name, work):
    assert len(read_all(name, work.data(name))) >= 8


# --- through the real programs


def program(*arguments: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


class Calls(NamedTuple):
    """A call that succeeds, what is done then, and the arguments that are added to the second call."""

    call: list[str]
    words: tuple[str, ...]
    mistake: Callable[[], object] = lambda: None
    added: tuple[str, ...] = ()


def calls(kind: str, work: Workplace) -> Calls:
    """Of each kind of mistake one, with the words of its message."""
    root = work.data("folder")
    picture, mask, keypoints = root / "images/creature_001.jpg", root / "masks/creature_001.png", root / "keypoints.csv"
    file = checkpoints.save(work.path / "model_1.pth", segmenter_payload())
    sizes = [f"dataset_root={root}", "dataset_name=folder", *SMALL, "logging.wandb=disabled", "device=cpu"]
    train_call = ["train.py", *sizes, "experiment=debug", "num_steps=1", "evaluation.every=0"]
    predict_call = ["predict.py", f"checkpoint={file}", "task=parts", "image_size=32", "device=cpu"]
    return {
        "config": Calls(train_call, ("num_parts", "not 1"), added=("num_parts=1",)),
        "files": Calls(train_call, (str(picture), "truncated"), partial(cut(0.5), picture)),
        "masks": Calls(train_call, (str(mask), "9 x 9", str(picture)), partial(save_picture, mask, np.ones((9, 9)))),
        "annotations": Calls(
            ["evaluate.py", *sizes, f"checkpoint={file}"],
            (str(keypoints), "line 4", "'one'"),
            partial(keypoints.write_text, CSV + "creature_002,eye,one,2"),
        ),
        "checkpoints": Calls(
            ["evaluate.py", *sizes, f"checkpoint={file}"], (str(file), "damaged"), partial(flip_bit(0.5), file)
        ),
        "paths": Calls(
            [*predict_call, f"images={root / 'images'}"],
            (f"No folder {root / 'image'}.", "images=DIR"),
            added=(f"images={root / 'image'}",),
        ),
    }[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_program_ends_with_the_message_and_status_2_and_without_the_mistake_with_0(kind, work):
    call, words, mistake, added = calls(kind, work)
    good = program(*call, f"output_dir={work.path / 'good'}")
    assert good.returncode == 0, good.stderr
    mistake()
    bad = program(*call, *added, f"output_dir={work.path / 'bad'}")
    assert bad.returncode == 2, bad.stderr
    assert "Traceback" not in bad.stderr and bad.stderr.splitlines()[-1].startswith("error: ")
    assert all(word in bad.stderr for word in words), bad.stderr


# --- odd, but no mistake


@pytest.fixture
def gradient() -> np.ndarray:
    """Colours that meet every value: (64, 48, 3)."""
    y, x = np.mgrid[:64, :48]
    return np.stack([x * 5, y * 4, 255 - x * 5], -1).astype(np.uint8)


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_a_cmyk_picture_has_its_colours(tmp_path, gradient, ending):
    Image.fromarray(gradient).convert("CMYK").save(tmp_path / f"one.{ending}", quality=100)
    assert np.abs(read_picture(tmp_path / f"one.{ending}").astype(int) - gradient).max() <= 8


@pytest.mark.parametrize("mode", ["P", "RGBA", "PA"])
def test_a_palette_or_alpha_channel_leaves_the_colours(tmp_path, mode):
    colours = np.kron(np.arange(256).reshape(16, 16), np.ones((2, 2)))[..., None] * np.ones(3) % 251
    picture = Image.fromarray(colours.astype(np.uint8))
    expected = np.asarray(picture)
    picture = picture.convert("P" if mode == "P" else "RGBA", **({"colors": 256} if mode == "P" else {}))
    if mode == "P":
        expected = np.asarray(picture.convert("RGB"))
    else:
        picture.putalpha(Image.fromarray(np.full((32, 32), 7, np.uint8)))
    picture.save(tmp_path / "one.png", **({"transparency": 3} if mode == "P" else {}))
    np.testing.assert_array_equal(read_picture(tmp_path / "one.png"), expected)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_a_grey_picture_of_16_bits_keeps_its_shades(tmp_path, ending):
    shades = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(shades).save(tmp_path / f"one.{ending}")
    found = read_picture(tmp_path / f"one.{ending}")
    np.testing.assert_array_equal(found, np.stack([shades >> 8] * 3, -1))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_label_map_of_16_bits_keeps_its_labels(tmp_path, ending):
    labels = np.arange(300, dtype=np.uint16).reshape(15, 20)
    Image.fromarray(labels).save(tmp_path / f"one.{ending}")
    np.testing.assert_array_equal(read_labels(tmp_path / f"one.{ending}"), labels)


def test_labels_in_colour_channels_of_16_bits_are_refused(tmp_path):
    """Their low bytes are not read."""
    rows = b"".join(b"\0" + struct.pack(">6H", *[1] * 6) for _ in range(2))
    content = bytearray(png(width=2, height=2))
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    (tmp_path / "one.png").write_bytes(content)
    with pytest.raises(UserError, match="one.png has several channels of 16 bits"):
        read_labels(tmp_path / "one.png")


def test_a_picture_under_another_ending_with_long_text_in_it_is_read(tmp_path, gradient):
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a" * 100_000, zip=True)
    Image.fromarray(gradient).save(tmp_path / "one.png", pnginfo=text)
    (tmp_path / "one.png").rename(tmp_path / "one.jpg")
    np.testing.assert_array_equal(read_picture(tmp_path / "one.jpg"), gradient)


def odd_sizes(root: Path, size: tuple[int, int]) -> None:
    """Gives two pictures of a folder, one of them held out, another size; all of each is object."""
    for name in ("creature_001", "creature_004"):
        save_picture(root / f"images/{name}.jpg", np.full((*size, 3), 90))
        save_picture(root / f"masks/{name}.png", np.full(size, 255))
        save_picture(root / f"parts/{name}.png", np.full(size, 1))
    kept = [row for row in (root / "keypoints.csv").read_text().splitlines() if name_of(row) not in NAMES]
    (root / "keypoints.csv").write_text("\n".join([*kept, "creature_001.jpg,belly,0,0,1\n"]))


NAMES = ("creature_001.jpg", "creature_004.jpg")


def name_of(row: str) -> str:
    return row.partition(",")[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (410, 20_000)])
def test_the_smallest_and_widest_pictures_are_trained_on_and_evaluated(work, size):
    root = work.data("folder")
    odd_sizes(root, size)
    config = config_of("folder", root)
    training_set = datasets.build("folder", config.dataset, root, "train", "training")
    sample = training_set[0]
    assert sample.image.shape == (*size, 3) and sample.foreground.all() and sample.path.stem == "creature_004"
    crop = training_set.train_crop(sample, 32, np.random.default_rng(0))
    assert crop.image.shape == (32, 32, 3) and crop.foreground.any()
    result = scored(config)
    assert result.counts["images"] == 3 and all(np.isfinite(value) for value in result.metrics.values())


def test_label_maps_of_large_pictures_are_the_same_piece_by_piece(monkeypatch):
    split = draw_split("pieces", 2)
    options = {"image_size": 32, "batch_size": 2, "num_workers": 0, "device": "cpu"}
    whole = [labels for *_, labels in whole_pictures.label_maps(ColourLabeller(), split, **options)]
    monkeypatch.setattr(whole_pictures, "PIXELS_AT_ONCE", 700)
    for at_once, (_, sample, labels) in zip(
        whole, whole_pictures.label_maps(ColourLabeller(), split, **options), strict=True
    ):
        assert labels.shape == sample.foreground.shape and labels.any()
        np.testing.assert_array_equal(labels, at_once)


def test_a_keypoint_just_outside_the_picture_is_counted_at_the_border(work):
    root = work.data("folder")
    rows = (root / "keypoints.csv").read_text().splitlines()
    moved = [row.rsplit(",", 3)[0] + ",-3,-2,1" if name_of(row) == "creature_001.jpg" else row for row in rows]
    (root / "keypoints.csv").write_text("\n".join(moved) + "\n")
    assert read_all("folder", root)
    result = scored(config_of("folder", root))
    assert all(np.isfinite(value) for value in result.metrics.values())


def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(tmp_path):
    path = checkpoints.save(tmp_path / "model_5.pth", SMALL_PAYLOAD)
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 11):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            found = checkpoints.read(path)
        except UserError as error:
            refused += "model_5.pth" in str(error)
            continue
        # In the padding between its records, nothing is lost.
        assert found["iter"] == 5 and set(found) == set(SMALL_PAYLOAD)
        torch.testing.assert_close(found["model_state_dict"], SMALL_PAYLOAD["model_state_dict"], rtol=0, atol=0)
    assert refused > 100


def test_k_is_the_checkpoints_own(tmp_path):
    path = checkpoints.save(tmp_path / "model_1.pth", segmenter_payload(7))
    assert load_segmenter(path).num_parts == 7
