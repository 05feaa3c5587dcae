"""Label maps that cannot be scored, and held-out pictures that leave nothing to score."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.mistakes.damage import everywhere, flat, maps, pixels, save_picture
from tests.mistakes.harness import DataSet

FOLDER = DataSet("folder", ".", "")
OWN = "output_dir=PLACE/run device=cpu"


def evaluating(id: str, damage: Callable[[Path], object], *words: str, overrides: str = ""):
    line = f"evaluate.py predictions=PLACE/maps {OWN} {overrides}"
    return FOLDER.row(id, line, damage, *words)


def no_part(root: Path) -> None:
    """Annotated as background alone."""
    maps(2)(root)
    everywhere("parts/*.png", pixels(flat(0)))(root)


def strip(root: Path) -> None:
    """A held-out picture of one row, all of it object."""
    size = (1, 2000)
    save_picture(root / "images/creature_001.jpg", np.full((*size, 3), 90))
    save_picture(root / "masks/creature_001.png", np.full(size, 255))
    save_picture(root / "parts/creature_001.png", np.full(size, 1))
    rows = (root / "keypoints.csv").read_text().splitlines()
    (root / "keypoints.csv").write_text("\n".join(row for row in rows if "creature_001" not in row) + "\n")
    maps(2)(root)


REFUSED = [
    evaluating("no label maps", lambda root: None, "predictions=", "maps is no directory"),
    evaluating(
        "one label map missing",
        maps(2, spare="creature_002"),
        "1 of 3 held-out pictures",
        "maps/creature_002.jpg.png",
    ),
    evaluating("masks for label maps", maps(255), "largest label in", "is 255", "Masks of 0 and 255 are no label maps"),
    evaluating(
        "labels above the number of parts",
        maps(4),
        "maps/creature_001.jpg.png has labels from 4 to 4",
        "to 3",
        overrides="predictions_num_parts=3",
    ),
    evaluating(
        "no part held out",
        no_part,
        "No held-out picture shows an annotated part",
        "creature_001.jpg",
    ),
    # evaluate.py is of parts; this is the evaluation in training.
    FOLDER.row(
        "no foreground held out",
        f"train.py method=foreground experiment=debug num_steps=1 logging.wandb=disabled {OWN}",
        everywhere("masks/*.png", pixels(flat(0))),
        "No held-out picture has any foreground",
        "creature_001.jpg",
    ),
    evaluating("a strip", strip, "creature_001.jpg is 2000 x 1 pixels"),
]


@pytest.mark.parametrize("row", REFUSED)
def test_what_cannot_be_scored_is_refused_by_name_and_leaves_nothing_before_the_first_label_map(row, refused, place):
    refused(row)
    known_at_the_end = row.words[0].startswith("No held-out picture")
    assert known_at_the_end or not (place.path / "run").exists()
