"""Methods that cannot be compared."""

from pathlib import Path

import numpy as np
import pytest

from tests.mistakes.damage import maps, save_picture
from tests.mistakes.harness import DataSet

FOLDER = DataSet("folder", ".", "")
OWN = "output_dir=PLACE/run device=cpu"
TWO = maps(2)


def comparing(id: str, methods: str, *words: str, damage=TWO, overrides: str = ""):
    return FOLDER.row(id, f"compare methods=[{methods}] {OWN} {overrides}", damage, *words)


def another_size(root: Path) -> None:
    maps(2)(root)
    (first, *_) = sorted((root.parent / "maps").glob("*.png"))
    save_picture(first, np.ones((7, 9)))


def another_output(root: Path) -> None:
    maps(2)(root)
    (root.parent / "run").mkdir()
    (root.parent / "run/comparison.html").write_text("another")


REFUSED = [
    comparing("nothing", "", "Nothing to compare", "RUN_A RUN_B"),
    comparing(
        "no such thing",
        "PLACE/maps,kmeans_feature",
        "kmeans_feature is no run, checkpoint, baseline or folder of label maps",
        "Did you mean 'kmeans_features'?",
    ),
    comparing("a landmark", "midpoint", "midpoint finds a landmark and no parts", overrides="baseline=[midpoint]"),
    comparing(
        "label maps of another size", "PLACE/maps", "maps/creature_00", "9 x 7", "by the nearest", damage=another_size
    ),
    comparing(
        "an unknown picture",
        "PLACE/maps",
        "no test picture 'creature_2'",
        "Did you mean",
        overrides="pictures=[creature_2]",
    ),
    comparing("too few titles", "PLACE/maps,PLACE/maps", "titles are 1, methods 2", overrides="titles=[a]"),
    comparing("an output that exists", "PLACE/maps", "holds another comparison", damage=another_output),
    comparing("an empty name", r"PLACE/maps,\'\'", "One of what is to be compared is empty", "shell variable"),
    comparing("a key of evaluate.py", "PLACE/maps", "checkpoint=a is of evaluate.py", overrides="checkpoint=a"),
]


@pytest.mark.parametrize("row", REFUSED)
def test_what_cannot_be_compared_is_refused_by_name(row, refused):
    refused(row)
