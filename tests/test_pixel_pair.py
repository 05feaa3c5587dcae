"""Two views of a batch whose pixels are to get one cluster in both."""

import numpy as np
import pytest
import torch

from datasets.batch import TrainBatch
from datasets.transforms.pixel_pair import PixelTransformations, pixel_pair
from utils.seeding import Randomness

AUGMENTATION = PixelTransformations(
    jitter_probability=1,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.125,
    greyscale_probability=0,
    flip_probability=0.5,
)


def batch(count: int = 12, infrared: bool = False) -> TrainBatch:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (count, 3, 6, 6), np.uint8))
    fourth = torch.from_numpy(rng.integers(0, 256, (count, 1, 6, 6), np.uint8)) if infrared else None
    mask = torch.from_numpy(rng.integers(0, 2, (count, 1, 6, 6)).astype(np.float32))
    return TrainBatch(image, mask, [""] * count, step=0, infrared=fourth)


def drawn(*named: str, step: int = 0, **keys):
    return pixel_pair(batch(**keys), AUGMENTATION, named, Randomness(0, step, range(12)))


def test_without_transformations_both_views_are_the_crop():
    pair = drawn()
    assert torch.equal(pair.image, pair.other) and torch.equal(pair.image, batch().image / 255)
    assert torch.equal(pair.mask, batch().foreground) and pair.infrared is None


@pytest.mark.parametrize("named", [("flip",), ("rotation",), ("flip", "rotation")])
def test_what_moves_the_pixels_is_undone_exactly(named):
    pair = drawn(*named, infrared=True)
    moved = [place for place in range(12) if not torch.equal(pair.image[place], pair.other[place])]
    assert 3 < len(moved) <= 12
    assert torch.equal(pair.undone(pair.other), pair.image)
    assert torch.equal(pair.undone(pair.other_infrared), pair.infrared)
    assert any(pair.mirrored) == ("flip" in named) and (len({*pair.turns}) == 4) == ("rotation" in named)


def test_a_view_is_mirrored_first_and_then_turned():
    pair = drawn("flip", "rotation")
    for place, (mirrored, turns) in enumerate(zip(pair.mirrored, pair.turns, strict=True)):
        own = pair.image[place].numpy()
        own = own[:, :, ::-1] if mirrored else own
        assert np.array_equal(pair.other[place].numpy(), np.rot90(own, turns, (1, 2)))


def test_the_jitter_changes_colours_and_not_infrared():
    pair = drawn("jitter", infrared=True)
    assert not torch.equal(pair.image, pair.other) and torch.equal(pair.infrared, pair.other_infrared)
    assert torch.equal(pair.image, batch().image / 255)


def test_views_depend_on_seed_step_and_place_alone():
    whole = drawn("jitter", "flip", "rotation")
    again = drawn("jitter", "flip", "rotation")
    other_step = drawn("jitter", "flip", "rotation", step=1)
    assert torch.equal(whole.other, again.other) and not torch.equal(whole.other, other_step.other)
    part = batch()
    part = TrainBatch(part.image[6:], part.foreground[6:], [""] * 6, 0, first_place=6)
    shares = pixel_pair(part, AUGMENTATION, ("jitter", "flip", "rotation"), Randomness(0, 0, range(6, 12)))
    assert torch.equal(shares.other, whole.other[6:])
