"""The drawn set of textures."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier

from datasets import build
from datasets.loader import train_batches
from datasets.sample import VOID
from datasets.textures import CLASSES, draw_textures
from tests.composition import composed
from utils.errors import UserError

SMALL = ("dataset.drawing.num_train=4", "dataset.drawing.num_test=2", "dataset.drawing.size=48", "image_size=48")


@pytest.fixture(scope="module")
def pixels():
    """Colours (N, 3) and classes (N,) of the pixels of forty pictures, void left out."""
    pictures = [draw_textures(64, np.random.default_rng(seed)) for seed in range(40)]
    colours = np.concatenate([image.reshape(-1, 3) for image, _ in pictures])
    classes = np.concatenate([class_map.ravel() for _, class_map in pictures])
    assert set(np.unique(classes)) == {*range(len(CLASSES)), VOID} and 0.01 < (classes == VOID).mean() < 0.05
    return colours[classes != VOID][::7], classes[classes != VOID][::7]


def test_colour_says_something_about_the_class_of_a_pixel_and_far_from_all(pixels):
    colours, classes = pixels
    clusters = KMeans(len(CLASSES), n_init=3, random_state=0).fit_predict(colours.astype(float))
    table = np.zeros((len(CLASSES),) * 2, int)
    np.add.at(table, (classes, clusters), 1)
    accuracy = table[linear_sum_assignment(-table)].sum() / table.sum()
    largest = np.bincount(classes).max() / len(classes)
    assert largest + 0.02 < accuracy < 0.5

    half = len(classes) // 2  # other pictures
    taught = RandomForestClassifier(30, min_samples_leaf=20, random_state=0).fit(colours[:half], classes[:half])
    assert taught.score(colours[half:], classes[half:]) < 0.5


def test_the_two_colours_of_a_texture_are_about_as_frequent():
    dark = {of_class: [] for of_class in range(len(CLASSES))}
    for seed in range(40):
        image, class_map = draw_textures(64, np.random.default_rng(seed))
        grey = image.max(-1)
        for of_class in np.unique(class_map[class_map != VOID]):
            values = grey[class_map == of_class]
            dark[of_class].append((values < (values.min() / 2 + values.max() / 2)).mean())
    assert all(0.4 < np.mean(shares) < 0.6 for shares in dark.values())


def test_void_is_where_nothing_counts_and_classes_come_with_the_batches(tmp_path):
    data = build(composed("dataset_name=textures", f"dataset_root={tmp_path}", *SMALL), "train", "training")
    assert data.pixel_classes == list(CLASSES) and len(data) == 4
    for index in range(len(data)):
        sample = data[index]
        np.testing.assert_array_equal(sample.foreground == 0, sample.class_map == VOID)
    how = dict(image_size=48, batch_size=2, seed=0, first_step=0, num_steps=1, num_workers=0)
    (batch,) = train_batches(data, **how)
    assert batch.class_map.shape == (2, 1, 48, 48) and batch.infrared is None
    assert batch.class_map.eq(VOID).equal(batch.foreground == 0)
    # Larger windows than the pictures: black around them, and nothing counts there.
    (padded,) = train_batches(data, **how | {"image_size": 64})
    assert padded.image[..., :8, :].eq(0).all() and padded.class_map[..., :8, :].eq(VOID).all()
    assert (
        padded.class_map[..., 8:56, 8:56].equal(batch.class_map) and padded.foreground.sum() == batch.foreground.sum()
    )


def test_the_same_textures_are_drawn_everywhere_and_other_numbers_draw_others(tmp_path):
    def image(root, *more):
        config = composed("dataset_name=textures", f"dataset_root={tmp_path / root}", *SMALL, *more)
        return build(config, "test", "evaluation")[1].image

    first = image("first")
    np.testing.assert_array_equal(image("second"), first)
    assert (image("first", "dataset.drawing.seed=1") != first).any()
    (tmp_path / "third/textures").mkdir(parents=True)
    (tmp_path / "third/textures/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="were not drawn here"):
        image("third")
