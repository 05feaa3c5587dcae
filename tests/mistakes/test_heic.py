"""Photographs in HEIC, as iPhones write them, through checking, training and predicting."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.files import read_picture
from datasets.turns import turned
from tests.mistakes.harness import DataSet, Place

pillow_heif = pytest.importorskip("pillow_heif")

FOLDER = DataSet("folder", ".", "dataset.train_mask=gt dataset.eval_mask=gt")
TURNED = {6: 8, 8: 6, 5: 5, 7: 7, 3: 3}  # what undoes each


def save(path: Path, shown: np.ndarray, turn: int = 1) -> None:
    """As a phone does: stored otherwise, with a note, and a property of the file that says the same."""
    exif = Image.Exif()
    exif[274] = turn
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(turned(shown, TURNED.get(turn, turn))).save(path, exif=exif.tobytes(), quality=90)
    assert (b"irot" in path.read_bytes() or b"imir" in path.read_bytes()) == (turn != 1)


@pytest.mark.parametrize("turn", [1, *TURNED])
def test_a_photograph_is_read_as_viewers_show_it(tmp_path, turn):
    shown = np.zeros((48, 80, 3), np.uint8)
    shown[:20, :30] = 250, 200, 20
    shown[30:, 60:] = 20, 60, 220
    save(tmp_path / "a.heic", shown, turn)
    found = read_picture(tmp_path / "a.heic")
    assert found.shape == shown.shape and np.abs(found.astype(int) - shown).mean() < 4


def test_a_note_without_the_property_turns_nothing_as_in_viewers(tmp_path):
    exif, stored = Image.Exif(), np.zeros((48, 80, 3), np.uint8)
    exif[274], stored[:20, :30] = 6, 250
    Image.fromarray(stored).save(tmp_path / "a.heic", exif=exif, quality=90)  # which of an object makes none
    assert b"irot" not in (tmp_path / "a.heic").read_bytes() and b"Exif" in (tmp_path / "a.heic").read_bytes()
    assert np.abs(read_picture(tmp_path / "a.heic").astype(int) - stored).mean() < 4


@pytest.mark.slow
def test_a_folder_of_them_is_checked_trained_on_evaluated_and_predicted(place: Place, accepted, capsys):
    root = place.data("folder")
    for number, path in enumerate(sorted((root / "images").iterdir())):
        save(path.with_suffix(".HEIC"), read_picture(path), (1, 6, 8, 3)[number % 4])
        path.unlink()
    accepted(f"check {FOLDER.config}")
    options = "experiment=debug num_steps=2 logging.wandb=disabled output_dir=PLACE/run device=cpu"
    accepted(f"train.py {FOLDER.config} {options}")
    accepted("evaluate.py checkpoint=PLACE/run output_dir=PLACE/figures device=cpu loader.num_workers=0")
    assert "FG-NMI" in json.loads((place.path / "figures/metrics.json").read_text())
    options = "image_size=32 loader.num_workers=0 device=cpu images=PLACE/data/images masks=PLACE/data/masks"
    accepted(f"predict.py checkpoint=PLACE/run {options} output_dir=PLACE/out")
    maps = sorted((place.path / "out/label_maps").iterdir())
    assert len(maps) == len(list((root / "images").iterdir()))
    for path in maps:
        with Image.open(path) as labels:
            assert labels.size == read_picture(root / "images" / path.stem).shape[1::-1]
