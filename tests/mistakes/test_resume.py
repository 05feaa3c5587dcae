"""Runs that cannot be gone on with."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.composition import composed
from tests.mistakes.harness import Damage, Place, row, segmenter_payload
from tests.test_datasets import SMALL


def run(place: Place) -> Path:
    """The directory of a run that has not saved yet."""
    place.data("folder")
    path = place.path / "run"
    path.mkdir()
    given = ("dataset_name=folder", f"dataset_root={place.path}/data", *SMALL, "device=cpu")
    given += ("segmenter.weights=none", "perceptual.weights=none", "logging.wandb=disabled")
    OmegaConf.save(composed(*given), path / "config.yaml")
    return path


def config(id: str, content: bytes | Damage, *words: str):
    """A run whose config.yaml is broken."""

    def prepare(place: Place) -> None:
        path = run(place) / "config.yaml"
        content(path) if callable(content) else path.write_bytes(content)

    return row(id, "train.py resume=PLACE/run", *words, prepare=prepare)


def of_other_data(place: Place) -> None:
    """A run whose training list had one name more."""
    path = run(place) / "config.yaml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(path), {"dataset": {"lists": {"train": "13 names, 00"}}}), path)


def with_a_checkpoint(place: Place) -> None:
    path = run(place) / "checkpoints/model_5.pth"
    path.parent.mkdir()
    path.touch()


def first_lines(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[: len(lines) * 4 // 5]))


def other_method(path: Path) -> None:
    path.write_text(path.read_text().replace("name: contrastive_reconstruction", "name: unheard"))


REFUSED_AT_ONCE = [
    row("no such run", "train.py resume=PLACE/run", "No run to resume in", "run/config.yaml"),
    row(
        "a run's file",
        "train.py resume=PLACE/run/checkpoints/model_5.pth",
        "in its directory, from its newest checkpoint: give resume=",
        "/run",
        prepare=with_a_checkpoint,
    ),
    row(
        "the folder of its files",
        "train.py resume=PLACE/run/checkpoints",
        "in its directory, from its newest checkpoint: give resume=",
        "/run",
        prepare=with_a_checkpoint,
    ),
    config("no YAML", b"num_parts: [", "run/config.yaml does not fit"),
    config("empty", b"", "run/config.yaml does not fit", "method is required"),
    config("cut off", first_lines, "run/config.yaml has no "),
    config("a module that is none", other_method, "run/config.yaml does not fit", "There is no method 'unheard'"),
    config("no UTF-8", b"dataset_name: \xfc", "run/config.yaml does not fit"),
    config("a list", b"[1, 2]", "run/config.yaml does not fit this version of the code"),
    row("other parts", "train.py resume=PLACE/run num_parts=9", "=4", "num_parts=9", "Leave it out", prepare=run),
    row(
        "another method", "train.py resume=PLACE/run method=foreground", "=contrastive_rec", "=foreground", prepare=run
    ),
    row(
        "a baseline", "train.py resume=PLACE/run baseline=[untrained]", "cannot be resumed with baseline=", prepare=run
    ),
    row(
        "an experiment", "train.py resume=PLACE/run experiment=debug", "cannot be resumed with experiment=", prepare=run
    ),
]


def saved(id: str, payload: dict | Callable[[], dict], *words: str):
    """A run whose checkpoint cannot be gone on from."""

    def prepare(place: Place) -> None:
        folder = run(place) / "checkpoints"
        folder.mkdir()
        torch.save(payload() if callable(payload) else payload, folder / "model_5.pth")

    return row(id, "train.py resume=PLACE/run", "run/checkpoints/model_5.pth", *words, prepare=prepare)


STATE = {"state": {}, "param_groups": [{"params": []}]}

REFUSED_BY_THE_CHECKPOINT = [
    saved("no optimiser's state", lambda: segmenter_payload(4), "cannot go on from", "no optimizer_state_dict"),
    saved(
        "other parts",
        lambda: segmenter_payload(3, optimizer_state_dict=STATE),
        "does not fit",
        "layer5.conv2d_list.0.weight",
    ),
    saved(
        "optimiser's state of another network",
        lambda: segmenter_payload(4, optimizer_state_dict=STATE),
        "optimiser's state in",
        "does not fit",
    ),
]


REFUSED_BY_THE_DATA = [
    row(
        f"other pictures, {given or 'its own root'}",
        f"train.py resume=PLACE/run {given}",
        *("trained on other data: its train list had 13 names, 00", "PLACE/data has 12 names", "dataset.lists=null"),
        prepare=of_other_data,
    )
    for given in ("", "dataset_root=./data")
]


@pytest.mark.parametrize("row", REFUSED_AT_ONCE)
def test_a_run_that_cannot_go_on_is_refused_before_anything_is_read(row, refused):
    refused(row, started=False)


@pytest.mark.parametrize("row", REFUSED_BY_THE_DATA)
def test_a_run_does_not_go_on_with_other_data_than_its_lists_name(row, refused):
    refused(row)


@pytest.mark.parametrize("row", REFUSED_BY_THE_CHECKPOINT)
def test_a_checkpoint_that_training_cannot_go_on_from_is_refused_by_name(row, refused):
    refused(row)
