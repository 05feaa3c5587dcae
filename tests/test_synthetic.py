"""The drawn data set."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from datasets.synthetic import HUES, HUES_OF_SPECIES, KEYPOINTS, PARTS, Drawing, draw_creature, ensure
from utils.errors import UserError

SMALL = Drawing(num_train=3, num_test=2, size=40, turn=50, seed=0)


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_no_hue_belongs_to_a_part():
    met = Counter((part, hue) for species in HUES_OF_SPECIES for part, hue in enumerate(species))
    assert set(met.values()) == {len(HUES_OF_SPECIES) // len(HUES)} and len(met) == len(PARTS) * len(HUES)
    assert all(sorted(species) == list(range(len(HUES))) for species in HUES_OF_SPECIES)


@pytest.mark.parametrize("species", range(len(HUES_OF_SPECIES)))
def test_every_creature_shows_all_its_parts_and_keypoints_lie_on_them(species):
    image, part_map, keypoints = draw_creature(species, 96, np.random.default_rng(species))
    assert image.shape == (*part_map.shape, 3) and image.dtype == part_map.dtype == np.uint8
    assert set(np.unique(part_map)) == set(range(len(PARTS) + 1))
    on = {"eye": "head", "belly": "body", "throat": "body"}
    for (name, _), (x, y, visible) in zip(KEYPOINTS.items(), keypoints, strict=True):
        if visible and name in on:
            assert PARTS[part_map[round(y), round(x)] - 1] == on[name], name


def test_a_set_is_drawn_the_same_everywhere(tmp_path):
    for name in ("first", "second"):
        ensure(tmp_path / name, SMALL)
    assert files(tmp_path / "first") == files(tmp_path / "second")


@pytest.mark.parametrize("turn", (0, 180))
def test_creatures_are_turned_by_at_most_so_many_degrees(turn):
    """The line from the belly to the back points up in a creature that is not turned."""
    names = list(KEYPOINTS)
    angles = []
    for seed in range(8):
        _, _, keypoints = draw_creature(0, 96, np.random.default_rng(seed), turn)
        belly, back = (np.array(keypoints[names.index(name)][:2]) for name in ("belly", "back"))
        angles.append(np.rad2deg(np.arctan2(*((back - belly) * (1, -1)))))
    assert np.allclose(angles, 0) if turn == 0 else np.ptp(angles) > 180


def test_a_set_that_is_there_is_not_drawn_again_and_another_one_replaces_it(tmp_path):
    root = tmp_path / "synthetic"
    ensure(root, SMALL)
    picture = next(root.rglob("images/*/*.png"))
    picture.write_bytes(b"mine")
    ensure(root, SMALL)
    assert picture.read_bytes() == b"mine"
    ensure(root, replace(SMALL, seed=1))
    assert picture.read_bytes() != b"mine"


def test_a_drawing_that_was_cut_off_is_not_taken_for_a_data_set(tmp_path, monkeypatch):
    root = tmp_path / "synthetic"

    def cut_off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("datasets.synthetic.draw_creature", cut_off)
        ensure(root, SMALL)
    assert not root.exists()
    ensure(root, SMALL)
    assert (root / "drawing.json").is_file()


def test_files_that_were_not_drawn_here_are_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="were not drawn here"):
        ensure(tmp_path, SMALL)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"
