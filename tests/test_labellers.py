from functools import partial

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from conf.modules import module
from evaluation.inputs import batch, prepared
from evaluation.labellers import kmeans
from evaluation.labellers.kmeans import Options
from evaluation.labellers.kmeans_colours import KMeansColours
from evaluation.labellers.kmeans_features import KMeansFeatures
from evaluation.labellers.segmenter import of_predictor
from models import perceptual
from tests.composition import composed
from tests.quadrants import draw_split
from utils.errors import UserError

OPTIONS = Options(num_points=10_000, restarts=2)


def training_batches(count=4, size=32):
    split = draw_split("training", count)
    return [batch([prepared(sample, "crop", partial(split.test_crop, size=size))]) for sample in split.samples]


class TinySegmenter(nn.Module):
    num_parts, has_background = 3, False

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.9))

    def preprocess(self, images):
        assert images.min() >= 0 and images.max() <= 1
        return images * 2 - 1

    def forward(self, inputs):
        return self.body(inputs)


@pytest.mark.parametrize("training", [True, False])
def test_a_checkpoint_is_scored_in_eval_mode_and_left_in_the_mode_it_was_in(training):
    segmenter = TinySegmenter().train(training)
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    first, second = (of_predictor(segmenter).scores(images, None) for _ in range(2))
    assert torch.equal(first, second) and first.shape == (2, 3, 8, 8)
    assert segmenter.training is training and segmenter.body.training is training
    assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_even_when_scoring_fails(training):
    segmenter = TinySegmenter().train(training)
    with pytest.raises(RuntimeError):
        of_predictor(segmenter).scores(torch.zeros(1, 5, 4, 4, dtype=torch.uint8), None)
    assert segmenter.training is training and segmenter.body.training is training


def test_k_means_on_colours_finds_the_four_colours_of_the_foreground():
    labeller = KMeansColours(OPTIONS, 4, seed=0)
    labeller.fit(training_batches())
    crop = training_batches()[2]
    parts = labeller.scores(crop.images, crop.foreground).argmax(1)[0].numpy()
    true = crop.inputs[0].part_map
    assert parts.shape == true.shape
    found = [np.bincount(parts[true == part], minlength=4) for part in (1, 2, 3, 4)]
    assert sorted(count.argmax() for count in found) == [0, 1, 2, 3]
    assert all(count.max() > 0.9 * count.sum() for count in found)


def test_scores_are_negative_squared_distances_so_that_labels_are_k_means_own():
    labeller = KMeansColours(OPTIONS, 3, seed=1)
    batches = training_batches()
    labeller.fit(batches)
    points = labeller.describe(batches[0].images)[0].flatten(1).T.double().numpy()
    clusters = KMeans(3, n_init=1).fit(points)
    clusters.cluster_centers_ = labeller.means.double().numpy()
    scores = labeller.scores(batches[0].images, batches[0].foreground)[0].flatten(1).T
    assert (scores.argmax(1).numpy() == clusters.predict(points)).all()
    np.testing.assert_allclose(scores.numpy(), -(clusters.transform(points) ** 2), rtol=1e-3, atol=1e-2)


def test_the_points_are_bounded_even_and_repeatable(monkeypatch):
    seen = []

    class Spy(KMeans):
        def fit(self, points):
            seen.append(points)
            return super().fit(points)

    monkeypatch.setattr(kmeans, "KMeans", Spy)
    batches = training_batches(count=6)
    first, second, other = (KMeansColours(Options(num_points=200, restarts=2), 4, seed=seed) for seed in (3, 3, 4))
    for labeller in (first, second, other):
        labeller.fit(batches)
    assert [len(points) for points in seen] == [200, 200, 200]
    assert torch.equal(first.means, second.means)
    assert not np.array_equal(seen[0], seen[2])
    everything = [first.describe(crop.images)[0, 0][crop.foreground[0, 0] > 0] for crop in batches]
    lightness = np.concatenate(everything).astype(float)
    assert len(lightness) > 2000
    assert seen[0][:, 0].mean() == pytest.approx(lightness.mean(), abs=4 * lightness.std() / 200**0.5)


def test_features_are_concatenated_at_the_size_of_the_finest_map():
    def perceptual(images):
        assert images.min() >= 0 and images.max() <= 1
        fine = nn.functional.avg_pool2d(images, 4)
        return [nn.functional.avg_pool2d(images, 16), fine, fine[:, :1]]

    labeller = KMeansFeatures(perceptual, OPTIONS, 4, seed=0)
    crop = training_batches(size=64)[0]
    described = labeller.describe(crop.images)
    assert described.shape == (1, 7, 16, 16)
    torch.testing.assert_close(described[:, 3:6], nn.functional.avg_pool2d(crop.images / 255, 4))
    torch.testing.assert_close(described[..., 0, 0][:, :3], (crop.images / 255)[..., :16, :16].mean((2, 3)))
    labeller.fit([crop])
    assert labeller.scores(crop.images, crop.foreground).shape == (1, 4, 16, 16)


def test_k_means_on_the_perceptual_network_gives_k_scores():
    options = composed("perceptual.weights=none").perceptual
    options.layers = {"relu3_2": 0.33, "relu4_1": 1.0}
    labeller = KMeansFeatures(perceptual.build(options), OPTIONS, 2, seed=0)
    batches = training_batches(count=2, size=64)
    labeller.fit(batches)
    assert labeller.scores(batches[0].images, batches[0].foreground).shape == (1, 2, 16, 16)


def test_too_little_foreground_is_the_users_to_mend():
    batches = training_batches(count=1)
    batches[0].foreground.zero_()
    with pytest.raises(UserError, match="needs 4 foreground cells, the training images have 0"):
        KMeansColours(OPTIONS, 4, seed=0).fit(batches)


def test_the_config_bounds_k_means():
    overrides = ("baselines.kmeans_colours.num_points=7", "baselines.kmeans_colours.restarts=2")
    config = composed("baseline=[kmeans_colours]", *overrides)
    options = config.baselines.kmeans_colours
    labeller = module("baseline", "kmeans_colours").build(options, config, 4, torch.device("cpu"))
    assert labeller.options == Options(num_points=7, restarts=2)
