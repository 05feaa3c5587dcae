"""The rule of the house: a method, a data set, a baseline or a protocol is added without touching what is there.

The toys in tests/toys, a module and its YAML each, are put on the packages' paths and nothing else is changed; the
programs train the method, are killed, go on, and evaluate it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch

from conf.modules import module, names
from conf.schema import known_keys, owners
from datasets.base import Source
from evaluation.run import figure_names
from models import methods
from tests.composition import composed
from tests.toys.program import FOLDERS, ROOT, TOYS
from utils.errors import UserError

TOY = ("method=rebuild", "dataset_name=halves", "num_parts=2")
QUIET = ("logging.wandb=disabled", "logging.image_every=0", "evaluation.every=0", "checkpointing.every=20")
KEPT = ("checkpointing.keep=null",)


@pytest.fixture
def toys(monkeypatch):
    for package, folder in FOLDERS.items():
        found = import_module(package)
        monkeypatch.setattr(found, "__path__", [*found.__path__, str(TOYS / folder)])


def started(folder: Path, program: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, TOYS / "program.py", program, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **streams)


def done(folder: Path, program: str, *arguments: str) -> str:
    process = started(folder, program, *arguments)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def checkpoint(run: Path, step: int) -> dict:
    return torch.load(run / f"checkpoints/model_{step}.pth", weights_only=True)


def tensors(found: object, name: str = "") -> dict[str, torch.Tensor]:
    if isinstance(found, dict):
        return {
            key: tensor for inner, value in found.items() for key, tensor in tensors(value, f"{name}/{inner}").items()
        }
    return {name: found} if isinstance(found, torch.Tensor) else {}


@pytest.mark.slow
def test_modules_put_beside_the_others_train_are_killed_go_on_to_the_bit_and_are_evaluated(tmp_path):
    arguments = (*TOY, *QUIET, *KEPT, "num_steps=400")
    done(tmp_path, "train.py", *arguments, "output_dir=whole")

    killed = started(tmp_path, "train.py", *arguments, "output_dir=killed")
    while not list((tmp_path / "killed/checkpoints").glob("model_*.pth")):
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed/checkpoints/model_400.pth").exists()
    done(tmp_path, "train.py", "resume=killed")

    whole, resumed = (checkpoint(tmp_path / run, 400) for run in ("whole", "killed"))
    beside = whole["method_state_dict"]
    assert set(beside) == {
        "colours",
        "pictures_seen",
        *(f"decoder.0.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        *("decoder.1.weight", "decoder.1.bias"),
    }
    assert beside["pictures_seen"] == 400 * 4
    expected, found = tensors(whole), tensors(resumed)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    early = checkpoint(tmp_path / "whole", 20)["method_state_dict"]
    assert all(not torch.equal(beside[name], early[name]) for name in beside)

    out = done(
        tmp_path, "evaluate.py", "checkpoint=killed", "baseline=[brightness]", "logging.wandb=disabled", "output_dir=e"
    )
    figures = json.loads((tmp_path / "e/metrics.json").read_text())
    assert figures["FG-NMI"] > 80 and 0 < figures["largest part"] < 100 and figures["coverage/FG-ARI"] == 0
    assert figures["produced_by"]["dataset_name"] == "halves" and "brightness" in figures["produced_by"]["baselines"]
    assert "coverage/FG-ARI" in out and figures["produced_by"]["counts"]["covered pictures"] == 12


def test_a_module_beside_the_others_brings_its_keys(toys):
    keys = known_keys()
    assert {"method.colour_rate", "loss_weights.rebuilding", "augmentation.noise", "dataset.brightness"} < set(keys)
    assert "baselines.brightness.threshold" in keys
    assert owners("method.colour_rate") == ["method=rebuild"]
    for kind, name in (
        ("method", "rebuild"),
        ("dataset", "halves"),
        ("baseline", "brightness"),
        ("protocol", "coverage"),
    ):
        assert name in names(kind) and module(kind, name).__file__.startswith(str(TOYS))


def test_every_module_there_is_has_what_its_kind_needs():
    assert set(names("method")) >= {"contrastive_reconstruction", "foreground"} and "base" not in names("method")
    assert {"cub", "deepfashion", "pascal_part", "folder", "synthetic"} <= set(names("dataset"))
    for name in names("method"):
        method = module("method", name).Method
        assert module("labeller", method.labeller)
        assert all(module("protocol", protocol).Protocol.name == protocol for protocol in method.protocols)


def test_a_method_that_needs_masks_refuses_a_data_set_without_them(toys):
    data: Source = module("dataset", "halves").Halves("train", 200)
    with pytest.raises(UserError, match="method=foreground trains on foreground masks, and dataset_name=.* has none"):
        methods.build(composed("method=foreground", "experiment=debug"), data.has_masks, torch.device("cpu"))


def test_two_protocols_with_a_figure_of_one_name_are_refused_unless_one_gives_way(toys):
    protocol = module("protocol", "coverage").Protocol(None, 32)
    other = type("Protocol", (type(protocol),), {"name": "other", "gives_way_to": ()})(None, 32)
    protocol.gives_way_to = ()
    with pytest.raises(UserError, match="coverage and other both have a figure 'largest part'"):
        figure_names([protocol, other])
    protocol.gives_way_to = ("other",)
    found = figure_names([protocol, other])
    assert found["coverage", "FG-ARI"] == "coverage/FG-ARI" and found["other", "FG-ARI"] == "FG-ARI"
