"""Of each room one mistake through the real program, beside the same call without it, which has to succeed."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.mistakes.damage import cut, flip_bit, line, replace_file, save_picture
from tests.mistakes.harness import Place
from tests.test_datasets import SMALL

ROOT = Path(__file__).resolve().parents[2]
DATA = " ".join(["dataset_name=folder dataset_root=PLACE/data logging.wandb=disabled device=cpu", *SMALL])
TRAIN = f"train.py {DATA} experiment=debug num_steps=1 evaluation.every=0"
EVALUATE = f"evaluate.py {DATA} checkpoint=PLACE/model_1.pth"
PREDICT = "predict.py image_size=32 device=cpu checkpoint=PLACE/model_1.pth images=PLACE/data/images"


class Calls(NamedTuple):
    """A line that succeeds; what makes it a mistake, done to the folder or added to the line; the message's words."""

    line: str
    words: tuple[str, ...]
    damage: Callable[[Path], object] = lambda folder: None
    added: str = ""


CALLS = {
    "config": Calls(TRAIN, ("num_parts", "not 1"), added="num_parts=1"),
    "pictures": Calls(
        TRAIN,
        ("PLACE/data/images/creature_001.jpg", "truncated"),
        replace_file("data/images/creature_001.jpg", cut(0.5)),
    ),
    "masks": Calls(
        TRAIN,
        ("PLACE/data/masks/creature_001.png", "9 x 9", "PLACE/data/images/creature_001.jpg"),
        replace_file("data/masks/creature_001.png", lambda path: save_picture(path, np.ones((9, 9)))),
    ),
    "annotations": Calls(
        EVALUATE,
        ("PLACE/data/keypoints.csv", "line 4", "'one'"),
        line("data/keypoints.csv", 4, "creature_002,left eye,one,2,1"),
    ),
    "checkpoints": Calls(EVALUATE, ("PLACE/model_1.pth", "damaged"), replace_file("model_1.pth", flip_bit)),
    "paths": Calls(PREDICT, ("No folder PLACE/image.", "images=DIR"), added="images=PLACE/image"),
}


def program(arguments: str, place: Place) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    command = [sys.executable, *shlex.split(arguments.replace("PLACE", str(place.path)))]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("room", CALLS)
def test_a_program_ends_with_the_message_and_status_2_and_without_the_mistake_with_0(room, place):
    line, words, damage, added = CALLS[room]
    place.data("folder")
    place.checkpoint()
    good = program(f"{line} output_dir=PLACE/good", place)
    assert good.returncode == 0, good.stderr
    damage(place.path)
    bad = program(f"{line} output_dir=PLACE/bad {added}", place)
    assert bad.returncode == 2, bad.stderr
    assert "Traceback" not in bad.stderr and bad.stderr.splitlines()[-1].startswith("error: ")
    assert all(word.replace("PLACE", str(place.path)) in bad.stderr for word in words), bad.stderr
