import copy
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.cluster import KMeans
from torch import nn

from conf.modules import module
from conf.upgrade import upgrade
from evaluation import cells
from evaluation.inputs import batch, prepared
from evaluation.labellers import kmeans, kmeans_features
from evaluation.labellers.kmeans import Options
from evaluation.labellers.kmeans_colours import KMeansColours
from evaluation.labellers.kmeans_features import KMeansFeatures
from evaluation.labellers.segmenter import of_predictor
from evaluation.prediction import centres_of_mass, upsample
from models import perceptual
from tests.composition import composed
from tests.quadrants import draw_split, evaluated
from utils.errors import UserError

DEFAULT = {"num_points": 10_000, "restarts": 2, "num_images": None, "minibatch": None, "epochs": 3}
OPTIONS = Options(**DEFAULT)


def options_of(**changes):
    return Options(**DEFAULT | changes)


def feature_options(**changes):
    return kmeans_features.Options(**DEFAULT | {"normalise": False} | changes)


def two_maps(images):
    """Features of a fourth and a sixteenth of the picture, of unlike lengths."""
    return [nn.functional.avg_pool2d(images, 4), 20 * nn.functional.avg_pool2d(images, 16) + 1]


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
    first, second, other = (KMeansColours(options_of(num_points=200), 4, seed=seed) for seed in (3, 3, 4))
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

    labeller = KMeansFeatures(perceptual, feature_options(), 4, seed=0)
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
    labeller = KMeansFeatures(perceptual.build(options), feature_options(), 2, seed=0)
    batches = training_batches(count=2, size=64)
    labeller.fit(batches)
    assert labeller.scores(batches[0].images, batches[0].foreground).shape == (1, 2, 16, 16)


def test_too_little_foreground_is_the_users_to_mend():
    batches = training_batches(count=1)
    batches[0].foreground.zero_()
    with pytest.raises(UserError, match="needs 4 foreground cells, the training images have 0"):
        KMeansColours(OPTIONS, 4, seed=0).fit(batches)


def test_scores_that_are_brought_up_have_the_labels_of_features_that_are():
    """Squared distances differ between means by something linear in the features: 2 c . phi - |c|^2."""
    labeller = KMeansFeatures(two_maps, feature_options(), 4, seed=0)
    batches = training_batches(size=64)
    labeller.fit(batches)
    images = batches[1].images
    of_scores = upsample(labeller.scores(images, None), (64, 64))
    features = upsample(labeller.describe(images), (64, 64))
    means = labeller.means
    naive = 2 * torch.einsum("kc,nchw->nkhw", means, features) - means.square().sum(1)[:, None, None]
    torch.testing.assert_close(of_scores - of_scores[:, :1], naive - naive[:, :1], rtol=1e-3, atol=1e-3)
    assert torch.equal(of_scores.argmax(1), naive.argmax(1)) and len(naive.argmax(1).unique()) > 1


@pytest.mark.parametrize("minibatch", [None, 50])
def test_cells_outside_the_mask_change_nothing_and_a_seed_gives_the_same_means(minibatch):
    batches, painted = training_batches(), training_batches()
    for batch_ in painted:
        inside = nn.functional.interpolate(nn.functional.avg_pool2d(batch_.foreground, 4), scale_factor=4) > 0.5
        batch_.images = torch.where(inside, batch_.images, 99)
        assert not inside.all()
    options = feature_options(minibatch=minibatch)
    first, same, other = (KMeansFeatures(lambda images: two_maps(images)[:1], options, 4, seed=2) for _ in range(3))
    for labeller, given in ((first, batches), (same, batches), (other, painted)):
        labeller.fit(given)
    assert torch.equal(first.means, same.means) and torch.equal(first.means, other.means)


def test_normalised_layers_have_length_1_before_they_are_brought_to_one_grid():
    labeller = KMeansFeatures(two_maps, feature_options(normalise=True), 4, seed=0)
    images = training_batches(size=64)[0].images
    fine, coarse = labeller.describe(images).split(3, dim=1)
    lit = images.float().mean(1, keepdim=True) > 0
    torch.testing.assert_close(fine.norm(dim=1)[lit[:, 0, ::4, ::4]].max(), torch.tensor(1.0))
    corners = coarse[:, :, :: fine.shape[-1] - 1, :: fine.shape[-1] - 1].norm(dim=1)  # cells of the coarse map
    torch.testing.assert_close(corners, torch.ones_like(corners))
    as_it_is = KMeansFeatures(two_maps, feature_options(), 4, seed=0).describe(images)
    assert as_it_is[:, 3:].norm(dim=1).max() > 10


def test_the_centres_of_normalised_features_are_those_of_labels_else_of_soft_masks():
    probabilities = torch.rand(2, 4, 6, 9).softmax(1)
    plain, normalised = (KMeansFeatures(two_maps, feature_options(normalise=flag), 4, 0) for flag in (False, True))
    assert torch.equal(plain.centres(probabilities, None, None), centres_of_mass(probabilities))
    labels = nn.functional.one_hot(probabilities.argmax(1), 4).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(normalised.centres(probabilities, None, None), centres_of_mass(labels))


def test_mini_batches_find_the_means_that_all_points_at_once_do():
    batches = training_batches(count=8)
    whole, parts = (KMeansColours(options_of(minibatch=size), 4, seed=0) for size in (None, 300))
    for labeller in (whole, parts):
        labeller.fit(batches)
    distances = torch.cdist(whole.means, parts.means)
    assert sorted(distances.argmin(1).tolist()) == [0, 1, 2, 3]
    spread = torch.cdist(whole.means, whole.means).max()
    assert distances.min(1).values.max() < 0.05 * spread


def test_mini_batches_are_of_the_same_draw_of_points(monkeypatch):
    seen = []

    class Spy(kmeans.MiniBatchKMeans):
        def partial_fit(self, points):
            seen.append(points)
            return super().partial_fit(points)

    monkeypatch.setattr(kmeans, "MiniBatchKMeans", Spy)
    batches = training_batches(count=6)
    options = options_of(minibatch=150, num_points=400, epochs=2)
    labeller = KMeansColours(options, 4, seed=3)
    drawn = KMeansColours(options, 4, seed=3)._foreground_points(batches)
    labeller.fit(batches)
    points = np.concatenate(seen)
    assert len(points) == 800, "each point is seen once in each of two epochs"
    for epoch in (points[:400], points[400:]):
        nearest = np.abs(epoch[:, None] - drawn[None]).max(2).min(1)
        assert nearest.max() < 0.1, "half precision of colours up to 100"


def test_the_evaluation_shows_k_means_training_pictures_alone_and_as_many_as_it_asks_for():
    class Spy(KMeansColours):
        def _found(self, batches):
            batches = list(batches)
            self.seen = [shown.name for batch_ in batches for shown in batch_.inputs]
            return super()._found(batches)

    test, train = draw_split("test", 4, part_maps=True), draw_split("training", 9, part_maps=True)
    for num_images, expected in ((None, range(9)), (2, (0, 8))):
        labeller = Spy(options_of(num_images=num_images), 4, seed=0)
        evaluated(labeller, test, train)
        assert labeller.seen == [train.sample_name(place) for place in expected]


def test_memory_of_mini_batches_is_that_of_one(monkeypatch):
    """Nothing but the file holds all points: blocks of it are mapped."""
    sizes = []
    mapped = cells.Cells._mapped
    monkeypatch.setattr(
        cells.Cells, "_mapped", lambda self, start, count: sizes.append(count) or mapped(self, start, count)
    )
    KMeansColours(options_of(minibatch=300, epochs=1), 4, seed=0).fit(training_batches(count=8))
    assert len(sizes) > 5 and max(sizes) == cells.BLOCK


@pytest.mark.parametrize("name", ["kmeans_features", "kmeans_colours"])
def test_configs_of_before_mini_batches_have_what_they_did(name):
    config = OmegaConf.to_container(composed(f"baseline=[{name}]"))
    before = copy.deepcopy(config)
    before["baselines"][name] = {"num_points": 77, "restarts": 3}
    assert upgrade(before) == config | {"baselines": {name: config["baselines"][name] | before["baselines"][name]}}
    assert config["baselines"][name]["minibatch"] is None and not config["baselines"][name].get("normalise")


def test_the_config_bounds_k_means():
    overrides = ("baselines.kmeans_colours.num_points=7", "baselines.kmeans_colours.restarts=2")
    config = composed("baseline=[kmeans_colours]", *overrides)
    options = config.baselines.kmeans_colours
    labeller = module("baseline", "kmeans_colours").build(options, config, 4, torch.device("cpu"))
    assert labeller.options == Options(num_points=7, restarts=2, num_images=None, minibatch=None, epochs=5)
