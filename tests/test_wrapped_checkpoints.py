"""checkpoint= of a state dict in what others wrap it in: the same network is read, or the true reason is told."""

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from models.predictor import load_predictor
from models.segmenters.hourglass import Segmenter
from models.weights import copy_by_name, read_state
from tests.composition import composed
from utils import checkpoints
from utils.errors import UserError

SMALL = ("segmenter=hourglass", "segmenter.widths=[4,4]")


def network(seed: int = 0, num_parts: int = 4) -> Segmenter:
    torch.manual_seed(seed)
    return Segmenter([4, 4], num_parts)


def named(state: dict, name: str) -> dict:
    """With something in front of every name."""
    return {f"{name}{key}": tensor for key, tensor in state.items()}


OTHER = {"features.0.weight": torch.zeros(3, 3)}  # of a network beside it
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"params": [0]}]}

WRAPPED = {
    "bare": lambda state: state,
    "DataParallel": lambda state: named(state, "module."),
    "torch.compile": lambda state: named(state, "_orig_mod."),
    "both": lambda state: named(state, "_orig_mod.module."),
    "a part that is compiled": lambda state: {
        key.replace("hourglass.", "hourglass._orig_mod."): tensor for key, tensor in state.items()
    },
    "model.": lambda state: named(state, "model."),
    "net.module.": lambda state: named(state, "net.module."),
    "an attribute of any name": lambda state: named(state, "part_segmenter."),
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "net": lambda state: {"net": state, "optimizer": OPTIMIZER, "acc": 0.5},
    "model": lambda state: {"model": OrderedDict(state), "optimizer": OPTIMIZER, "args": "--lr 1"},
    "nested": lambda state: {"checkpoint": {"model": {"state_dict": named(state, "module.")}}},
    "Lightning": lambda state: {
        "state_dict": named(state, "model.") | named(OTHER, "perceptual."),
        "optimizer_states": [OPTIMIZER],
        "hyper_parameters": {"lr": 0.1},
        "pytorch-lightning_version": "2.0",
    },
    "beside its average": lambda state: {"model": state, "model_ema": network(1).state_dict()},
    "after its average": lambda state: {"state_dict_ema": network(1).state_dict(), "state_dict": state},
    "a teacher": lambda state: {"student": network(1).state_dict(), "teacher": named(state, "module.")},
    "an average": lambda state: named(state, "module.") | {"n_averaged": torch.tensor(3)},
    "this project's, in DataParallel": lambda state: {"iter": 7, "model_state_dict": named(state, "module.")},
    "this project's, in an attribute": lambda state: {"iter": 7, "model_state_dict": named(state, "model.")},
}


def loaded(path: Path, *overrides: str) -> nn.Module:
    """The network as evaluate.py and predict.py have it."""
    return load_predictor(checkpoints.find(path), composed(*SMALL, *overrides))


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    torch.testing.assert_close(dict(found.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_checkpoint_is_read_whatever_it_is_wrapped_in(wrapped, tmp_path):
    path = tmp_path / "own.ckpt"
    torch.save(WRAPPED[wrapped](network().state_dict()), path)
    assert_same(loaded(path), network())
    assert checkpoints.find(path).step == (7 if "project" in wrapped else None)
    # The same file as the weights to start from.
    started = network(2)
    copy_by_name(started, read_state(str(path), tmp_path, "segmenter.weights"), "a file", head="hourglass.head.")
    assert_same(started, network())


@pytest.mark.parametrize("ending", ["safetensors", "pth"])  # the content says what it is
@pytest.mark.parametrize("prefix", ["", "module.", "model.state_dict."])
def test_safetensors_are_read_under_any_ending(prefix, ending, tmp_path):
    path = tmp_path / f"own.{ending}"
    save_file(named(network().state_dict(), prefix), path)
    assert_same(loaded(path), network())
    assert set(read_state(str(path), tmp_path, "segmenter.weights")) == set(named(network().state_dict(), prefix))


def test_a_run_is_read_as_it_is_written(tmp_path):
    """With its config, K of another run than the command line's."""
    payload = {"iter": 3, "model_state_dict": network(num_parts=6).state_dict(), "optimizer_state_dict": {}}
    checkpoints.save(tmp_path / "model_3.pth", payload | {"config": OmegaConf.to_container(composed(*SMALL))})
    assert_same(loaded(tmp_path), network(num_parts=6))


def jit(path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(path)


def cut(path: Path) -> None:
    save_file(dict(network().state_dict()), path)
    path.write_bytes(path.read_bytes()[:-9])


def deeper(path: Path) -> None:
    state = network().state_dict() | {"hourglass.down.7.0.weight": torch.zeros(4, 4, 3, 3)}
    torch.save(named(state, "module."), path)


REFUSED = {
    "a whole network": (
        lambda path: torch.save(network(), path),
        "models.segmenters.hourglass.Segmenter), which could run code. Where you trust it, load it with weights_only=F",
    ),
    "a pickle of one": (lambda path: path.write_bytes(pickle.dumps(network())), "it is"),
    "a TorchScript program": (jit, "it is a TorchScript program, not tensors"),
    "safetensors that are cut off": (cut, "it is truncated, damaged"),
    "a web page": (lambda path: path.write_text("<html>"), "it is a web page"),
    "numbers alone": (lambda path: torch.save({"epoch": 3, "model": "resnet"}, path), "nor any others"),
    "two networks": (
        lambda path: torch.save({"a": network().state_dict(), "b": network(1).state_dict()}, path),
        "more than one network that fits, a, b: save the one that is meant",
    ),
    "another network": (
        lambda path: torch.save({"state_dict": named(OTHER, "module.")}, path),
        "it is no checkpoint of a segmenter=hourglass: it has no hourglass.head.weight",
    ),
    "a deeper one": (deeper, 'Unexpected key(s) in state_dict: "hourglass.down.7.0.weight"'),
    "other shapes": (
        lambda path: torch.save(
            named(network().state_dict(), "module.") | {"module.hourglass.head.bias": torch.zeros(9)}, path
        ),
        "size mismatch for hourglass.head.bias",
    ),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_a_checkpoint_that_cannot_be_read_is_refused_with_the_true_reason(damage, tmp_path):
    prepare, words = REFUSED[damage]
    prepare(tmp_path / "own.pth")
    with pytest.raises(UserError) as refused:
        loaded(tmp_path / "own.pth")
    assert words in str(refused.value) and "own.pth" in str(refused.value), refused.value
