"""k-means on dense SIFT: the descriptors, the grid, and the labels of whole pictures."""

import numpy as np
import pytest
import torch

from conf.modules import module
from datasets.batch import EvalBatch
from tests.composition import composed
from tests.test_programs import program
from utils.errors import UserError


def built(*overrides: str, num_parts: int = 2):
    options = composed("baseline=[sift]", *overrides)
    return module("baseline", "sift").build(options.baselines.sift, options, num_parts, torch.device("cpu"))


def batch_of(images: np.ndarray, foreground: np.ndarray | None = None) -> EvalBatch:
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    mask = np.ones((len(images), 1, *images.shape[2:])) if foreground is None else foreground
    return EvalBatch(images, torch.from_numpy(mask).float(), [])


def noise(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype(np.uint8)


def naive_sift(grey: np.ndarray, row: int, column: int, bin_size: int) -> np.ndarray:
    """4 x 4 bins of 8 directions: each pixel's gradient goes to the bins around it, by its distance from them."""
    histogram = np.zeros((6, 6, 8))
    for y in range(max(row - 20, 1), min(row + 21, len(grey) - 1)):
        for x in range(max(column - 20, 1), min(column + 21, grey.shape[1] - 1)):
            down, right = (y - row) / bin_size, (x - column) / bin_size
            if max(abs(down), abs(right)) >= 2.5:
                continue
            across, up = grey[y, x + 1] - grey[y, x - 1], grey[y - 1, x] - grey[y + 1, x]
            weight = np.hypot(across, up) * np.exp(-(down**2 + right**2) / 8)
            direction = np.degrees(np.arctan2(up, across)) % 360 / 45
            for place in np.ndindex(6, 6, 8):
                turn = abs(direction - place[2])
                near = (1 - abs(down + 2.5 - place[0]), 1 - abs(right + 2.5 - place[1]), 1 - min(turn, 8 - turn))
                histogram[place] += weight * np.prod(np.clip(near, 0, None))
    found = histogram[1:5, 1:5].ravel()
    found = np.minimum(found, 0.2 * np.linalg.norm(found))
    return 512 * found / np.linalg.norm(found)


@pytest.mark.parametrize("bin_size", [3, 4])
def test_a_descriptor_has_the_gradients_of_the_grey_picture_around_its_cell(bin_size):
    images = noise(40, 50)
    described = built(f"baselines.sift.bin_size={bin_size}").describe(batch_of(images).images)[0]
    grey = np.rint(images[0] @ np.array([0.299, 0.587, 0.114]))
    middle = (3 * bin_size + 1) // 2
    for row, column in [(0, 0), (1, 2), (2, 1)]:
        expected = naive_sift(grey, 10 * row + middle, 10 * column + middle, bin_size)
        assert np.abs(described[:, row, column].numpy() - expected).max() < 3


def test_the_grid_is_the_published_one():
    for side, count in [(128, 12), (200, 20)]:
        described = built().describe(torch.zeros(1, 3, side, side, dtype=torch.uint8))
        assert described.shape == (1, 128, count, count)


def test_stripes_of_two_directions_are_told_apart_where_they_are_and_not_transposed():
    lines = 255 * (np.arange(60) // 3 % 2)
    picture = np.where(np.arange(60) < 40, lines[:, None], lines[None]).astype(np.uint8)
    picture = np.repeat(picture[None, :50, :, None], 3, axis=3)
    labeller = built()
    labeller.fit([batch_of(picture)])
    labels = labeller.scores_of(batch_of(picture))[0].argmax(0)
    assert labels.shape == (50, 60)
    left, right = labels[:, :35], labels[:, 45:]
    assert left.unique().numel() == right.unique().numel() == 1 and left[0, 0] != right[0, 0]


def test_every_pixel_has_the_scores_of_the_nearest_cell():
    images = batch_of(noise(37, 48))
    labeller = built(num_parts=5)
    labeller.fit([images])
    scores, described = labeller.scores_of(images)[0], labeller.describe(images.images)[0]
    for y, x in [(0, 0), (9, 12), (16, 26), (36, 47)]:
        row, column = (min(int(np.floor((place) / 10)), last) for place, last in ((y, 2), (x, 3)))
        distances = (described[:, row, column] - labeller.means).square().sum(1)
        assert torch.allclose(scores[:, y, x], -distances, rtol=1e-4)


def test_k_means_sees_the_cells_whose_middle_is_foreground():
    images, mask = noise(40, 40), np.zeros((1, 1, 40, 40))
    mask[0, 0, 15, [5, 25]] = mask[0, 0, 25, 35] = 1
    labeller = built(num_parts=3)
    labeller.fit([batch_of(images, mask)])
    described = labeller.describe(batch_of(images).images)[0]
    expected = torch.stack([described[:, 1, 0], described[:, 1, 2], described[:, 2, 3]])
    assert torch.cdist(labeller.means, expected).amin(0).max() < 0.1
    with pytest.raises(UserError, match="k-means needs 4 foreground cells, the training images have 3"):
        built(num_parts=4).fit([batch_of(images, mask)])


def test_a_descriptor_larger_than_the_picture_is_refused():
    with pytest.raises(UserError, match=r"bin_size=11: a descriptor has 34 pixels .*pictures have 32"):
        built("baselines.sift.bin_size=11").describe(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_the_row_is_evaluated_alone(tmp_path):
    done = program(
        *("evaluate.py", "method=iic", "dataset_name=textures", "baseline=[sift]", f"dataset_root={tmp_path}"),
        *("dataset.drawing.num_train=8", "dataset.drawing.num_test=4", f"output_dir={tmp_path / 'out'}"),
    )
    assert done.returncode == 0, done.stderr
    assert "k-means SIFT" in done.stdout and "pixel accuracy" in done.stdout
