"""What users get wrong: how a row of the tables in this folder is written and tried.

A row is a command line, what is done to the folder of the test before, and pieces of text that the message must have.
``PLACE`` in the line and in the pieces stands for that folder. Every room of the code has its table in a file of its
own; a new data set, method or protocol brings one. The fixture ``refused`` (conftest.py) tries a row.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import hydra
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import datasets
import evaluate
import predict
import train
from conf import app
from datasets.check import check
from evaluation import compare
from models.segmenters.deeplab import Segmenter
from tests.composition import SCHEMAS
from tests.test_datasets import DRAWN, SMALL

Damage = Callable[[Path], object]


class Place:
    """The folder of a test, and what a row may put there."""

    def __init__(self, path: Path, made: Callable[[str], Path]) -> None:
        self.path, self._made = path, made

    def data(self, name: str) -> Path:
        """A copy of a small drawn data set of its own: its ``dataset_root``."""
        return Path(shutil.copytree(self._made(name), self.path / "data"))

    def checkpoint(self) -> Path:
        """A checkpoint that finds three parts."""
        return Path(shutil.copy(self._made("model_1.pth"), self.path))


def make(name: str, folder: Path) -> Path:
    """What tests copy: a drawn data set, or a checkpoint."""
    if name not in DRAWN:
        torch.save(segmenter_payload(), folder / name)
        return folder / name
    root = folder / "data"
    DRAWN[name][0](root)
    if name == "folder":
        (root / "test.txt").write_text("creature_001\ncreature_002\ncreature_003\n")
    return root


@cache
def segmenter_state(num_parts: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Segmenter(num_parts).state_dict()


def segmenter_payload(num_parts: int = 3, **more) -> dict:
    return {"iter": 1, "model_state_dict": segmenter_state(num_parts), "optimizer_state_dict": {}} | more


# --- rows


class Row(NamedTuple):
    """A mistake.

    Attributes:
        line: the command line; its first word is a key of ``PROGRAMS``.
        words: what the message must have.
        prepare: makes the folder in which the line is a mistake.
    """

    line: str
    words: tuple[str, ...]
    prepare: Callable[[Place], object] = lambda place: None


def row(id: str, line: str, *words: str, prepare: Callable[[Place], object] = lambda place: None):
    return pytest.param(Row(line, words, prepare), id=id)


class DataSet:
    """Rows of a data set: copies of it that are broken.

    Args:
        name: of the data set, as in ``DRAWN``.
        folder: under ``dataset_root``, which the damage is given.
        overrides: what its config needs to be told.
    """

    def __init__(self, name: str, folder: str, overrides: str) -> None:
        self.name, self.folder = name, folder
        self.config = " ".join([f"dataset_name={name} dataset_root=PLACE/data", *SMALL, overrides])

    def broken(self, id: str, damage: Damage, *words: str):
        """A copy that reading meets the damage of."""
        return self.row(id, "read", damage, *words)

    def row(self, id: str, line: str, damage: Damage, *words: str):
        """Another command on a damaged copy."""
        program, *more = line.split()
        line = " ".join([program, self.config, *more])
        return row(id, line, *words, prepare=lambda place: damage(place.data(self.name) / self.folder))


# --- programs


def read(config: DictConfig) -> None:
    """Every sample of both splits, as training and its evaluation read them."""
    for split, purpose in (("train", "training"), ("test", "evaluation")):
        dataset = datasets.build(config, split, purpose)
        assert len([dataset[index] for index in range(len(dataset))]) >= 2


# The name of each one's config, and its task; tests/composition.py knows the schemas.
PROGRAMS = {
    "train.py": ("train", train.train),
    "evaluate.py": ("evaluate", evaluate.evaluate),
    "predict.py": ("predict", predict.predict),
    "compare": ("evaluation_compare", compare.compare),
    "check": ("train", check),
    "read": ("train", read),
}


def ended(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, started: bool = True) -> int:
    """The status with which a command line ends in this process, which is faster than in one of its own.

    Args:
        started: the task does start. Then the config is composed once for all tests with the same line, since Hydra
            takes half a second for it, but for a resumed run, which asks Hydra for the values too. Else it must not
            start.
    """
    name, *arguments = shlex.split(line)
    config_name, task = PROGRAMS[name]
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # an earlier test's
    monkeypatch.setattr(sys, "argv", [name, *(argument.replace("PLACE", str(folder)) for argument in arguments)])
    if started and "resume=" not in line:
        composed = _composed(config_name, tuple(arguments))
        monkeypatch.setattr(HydraConfig.instance(), "cfg", composed)  # which keys are given
        config = _placed(OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"]), folder)
        monkeypatch.setattr(hydra, "main", lambda **_: lambda job: lambda: job(config))
    try:
        app.run(config_name, task if started else lambda _: pytest.fail("the task was started"), SCHEMAS[config_name])
    except SystemExit as end:
        return end.code
    return 0


@cache
def _composed(name: str, overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(app.CONF), version_base="1.3"):
        return compose(name, list(overrides), return_hydra_config=True)


def _placed(config: DictConfig, folder: Path) -> DictConfig:
    for key, value in config.items_ex(resolve=False):
        if OmegaConf.is_dict(value) and len(value):
            _placed(value, folder)
        elif isinstance(value, str) and "PLACE" in value:
            config[key] = value.replace("PLACE", str(folder))
        elif OmegaConf.is_list(value) and any("PLACE" in str(item) for item in value):
            config[key] = [str(item).replace("PLACE", str(folder)) for item in value]
    return config


def tree(folder: Path) -> dict[str, tuple[int, ...]]:
    """Everything in a folder, with what changes when a file is written."""
    found = {}
    for path in folder.rglob("*"):
        status = os.lstat(path)
        found[str(path.relative_to(folder))] = (
            (status.st_ino,) if path.is_dir() else (status.st_ino, status.st_size, status.st_mtime_ns)
        )
    return found
