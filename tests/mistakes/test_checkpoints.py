"""Files that are no checkpoints, or not those that are meant."""

import os
import pickle
import zipfile
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torchvision.models import resnet50

from tests.composition import composed
from tests.mistakes.damage import cut, flip_bit
from tests.mistakes.harness import Damage, Place, row, segmenter_payload, segmenter_state
from utils import checkpoints
from utils.errors import UserError

SMALL = {
    "iter": 5,
    "model_state_dict": {"weight": torch.arange(300.0)},
    "optimizer_state_dict": {"state": {}, "param_groups": [{"params": []}]},
    "format": checkpoints.FORMAT,
}
EVALUATE = "evaluate.py dataset_name=synthetic device=cpu checkpoint=PLACE/model_5.pth"
PREDICT = "predict.py device=cpu checkpoint=PLACE/model_5.pth images=PLACE/pictures output_dir=PLACE/out"


def broken(id: str, damage: Damage, *words: str):
    """A checkpoint that was whole."""

    def prepare(place: Place) -> None:
        damage(checkpoints.save(place.path / "model_5.pth", SMALL))

    return row(id, EVALUATE, "model_5.pth", *words, prepare=prepare)


def other(id: str, payload: dict | Callable[[], dict], *words: str, line: str = EVALUATE):
    """A whole file that holds something else."""

    def prepare(place: Place) -> None:
        torch.save(payload() if callable(payload) else payload, place.path / "model_5.pth")

    return row(id, line, "model_5.pth", *words, prepare=prepare)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "Dear Sir")


class RunsCode:
    """Once unpickled, there is a directory ``ran`` where the process works."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def with_tensor(name: str, tensor: torch.Tensor) -> dict:
    return segmenter_payload(model_state_dict=segmenter_state(3) | {name: tensor})


def trained_with(*overrides: str, num_parts: int = 3, **wrong) -> dict:
    """A run's checkpoint; values of ``wrong`` are put into its config, ``a__b`` in the place of ``a.b``."""
    config = composed("image_size=32", *overrides)
    container = OmegaConf.to_container(config)
    for key, value in wrong.items():
        *nodes, name = key.split("__")
        reduce(dict.__getitem__, nodes, container)[name] = value
    return segmenter_payload(num_parts, config=container)


BROKEN = [
    broken("no bytes", cut(0), "it is empty"),
    broken("first half", cut(0.5), "truncated"),
    broken("all but the end", cut(0.99), "truncated"),
    broken("a flipped bit", flip_bit, "damaged"),
    broken("a letter", lambda path: path.write_text("Dear Sir"), "another kind of file"),
    broken("an archive of a letter", zipped, "another kind of file"),
    broken("an old pickle that runs code", lambda path: path.write_bytes(pickle.dumps(RunsCode(), protocol=2))),
    row("none", EVALUATE.replace("model_5", "none"), "No checkpoint at", "none.pth"),
    row("a folder without any", EVALUATE.replace("/model_5.pth", ""), "No checkpoint in", "model_*.pth"),
]

OTHERS = [
    other("a pickle that runs code", {"model_state_dict": RunsCode()}, "could run code"),
    other("weights of a VGG", {"features.0.weight": torch.zeros(64, 3, 3, 3)}, "it has no layer5.conv2d_list.0.weight"),
    other(
        "a classifier",
        lambda: {"iter": 1, "model_state_dict": resnet50(weights=None).state_dict()},
        "it is no checkpoint of a segmenter",
        "layer5.conv2d_list.0.weight",
    ),
    other("tensors in a tuple", lambda: (segmenter_state(3),), "holds a tuple of 1", "torch.save(network.state_dict()"),
    other("words for weights", {"model_state_dict": {"weight": "heavy"}}, "no 'model_state_dict' of tensors"),
    other("other shapes", lambda: with_tensor("conv1.weight", torch.zeros(3)), "does not fit", "conv1.weight"),
    other(
        "weights that are no numbers",
        lambda: with_tensor("bn1.bias", torch.full((64,), torch.nan)),
        "bn1.bias",
        "not finite",
    ),
    other("more parts than label maps have", lambda: segmenter_payload(255), "255 parts", "254 parts at most"),
    other("a newer format", SMALL | {"format": checkpoints.FORMAT + 1}, "has the format 3", "up to 2"),
    other(
        "masks where parts are wanted",
        lambda: trained_with("method=foreground", num_parts=1),
        "was trained with method=foreground",
        "leave out method=contrastive_reconstruction",
        line=f"{PREDICT} method=contrastive_reconstruction",
    ),
    other(
        "parts where masks are wanted",
        trained_with,
        "was trained with method=contrastive_reconstruction",
        "leave out method=foreground",
        line=f"{PREDICT} method=foreground",
    ),
    other(
        "parts as masks of a data set",
        segmenter_payload,
        "was trained with method=contrastive_reconstruction and finds parts",
        "give images=DIR output_dir=OUT",
        line="predict.py device=cpu checkpoint=PLACE/model_5.pth",
    ),
    other(
        "other parts than are asked for", segmenter_payload, "3 parts", "num_parts=4", line=f"{EVALUATE} num_parts=4"
    ),
    other(
        "other parts than a bare state dict is taken for",
        lambda: segmenter_state(3),
        "3 parts",
        "not num_parts=4: give num_parts=3",
    ),
    other(
        "an unknown method",
        lambda: trained_with(method__name="unheard"),
        "another version of the code",
        "There is no method 'unheard'",
    ),
    other("an unknown segmenter", lambda: trained_with(segmenter__name="unheard"), "There is no segmenter 'unheard'"),
    other("a key that is none", lambda: trained_with(method__warmth=1), "another version of the code", "warmth"),
    other("half a config", lambda: segmenter_payload(config={"image_size": 32}), "another version", "is required"),
    other("a config of another version", lambda: trained_with(image_size="large"), "another version", "'large'"),
]


def out_of_range(place: Place) -> None:
    torch.save(trained_with(image_size=8), place.path / "model_5.pth")


def unknown_variant(place: Place) -> None:
    torch.save(trained_with(segmenter__variant="vgg"), place.path / "model_5.pth")


OTHERS += [
    row("a config out of range", EVALUATE, "image_size must be at least 32, not 8", prepare=out_of_range),
    row("an unknown variant", PREDICT, "segmenter.variant", "'vgg'", "caffe, torchvision", prepare=unknown_variant),
]


@pytest.mark.parametrize("row", BROKEN)
def test_a_broken_checkpoint_is_refused_by_name(row, refused):
    refused(row)


@pytest.mark.parametrize("row", OTHERS)
def test_a_file_that_is_not_what_is_meant_is_refused_with_what_it_is(row, refused):
    refused(row)


def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(tmp_path):
    path = checkpoints.save(tmp_path / "model_5.pth", SMALL)
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 11):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            found = checkpoints.find(path)
        except UserError as error:
            refused += "model_5.pth" in str(error)
            continue
        # In the padding between its records, nothing is lost.
        assert found.step == 5 and found.optimizer == SMALL["optimizer_state_dict"]
        torch.testing.assert_close(found.model, SMALL["model_state_dict"], rtol=0, atol=0)
    assert refused > 100
