"""Probes: classifiers that are taught on a network's features, and what they leave alone."""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import datasets
from conf.modules import module
from datasets.sample import VOID
from evaluation.inputs import batch
from evaluation.options import EvaluationOptions, Sets
from evaluation.prediction import upsample
from evaluation.protocols.pixel_probe import Probe, Protocol, _EvenDraw, taught
from evaluation.run import evaluate
from models import methods
from tests.composition import composed
from tests.quadrants import ColourLabeller, Quadrants, draw_split, evaluated, evaluation_options
from tests.test_pixel_accuracy import SIZE, classes
from tests.trees import draw_potsdam_tree
from utils.errors import UserError
from utils.seeding import generator


def options(*kinds: str, **changes):
    how = {"hidden": 16, "num_points": 4000, "steps": 300, "batch_size": 256, "rate": 0.03}
    return OmegaConf.create({"kinds": list(kinds or ["linear", "non_linear"]), **how, **changes})


class Featured(ColourLabeller):
    """Its features (C, h, w) are a function of a crop's true classes (h, w) and of random numbers of its own."""

    has_features = True

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def features_of(self, batch):
        rngs = [generator(0, "features", shown.fitted, shown.place) for shown in batch.inputs]
        maps = [self.function(shown.class_map, rng) for shown, rng in zip(batch.inputs, rngs, strict=True)]
        return torch.from_numpy(np.stack(maps).astype(np.float32))


def told(labeller, split: Quadrants | None = None, kinds=(), seed: int = 0, protocols=("pixel_probe",), **changes):
    probe = {key: changes.pop(key) for key in ("steps", "num_points") if key in changes}
    split = split or classes()
    how = options(*kinds, **probe)
    return evaluated(labeller, split, split, protocols, image_size=SIZE, probe=how, seed=seed, **changes)


def perfect(true, rng):
    return np.stack([true == of_class for of_class in range(4)]) * rng.uniform(1, 3, true.shape)


def exclusive_or(true, rng):
    """Two numbers that are alike in the even classes."""
    first = rng.choice([-1, 1], true.shape)
    return np.stack([first, np.where(true % 2 == 0, first, -first)]) + rng.normal(0, 0.1, (2, *true.shape))


def with_two_classes() -> Quadrants:
    split = classes()
    for sample in split.samples:
        sample.class_map[sample.class_map != VOID] %= 2
    split.pixel_classes = ["a", "b"]
    return split


def shares(split: Quadrants) -> np.ndarray:
    """Of the classes among the crops' pixels with one, percent."""
    crops = np.stack([split.test_crop(sample, SIZE).class_map for sample in split.samples])
    return 100 * np.bincount(crops[crops != VOID]) / (crops != VOID).sum()


def test_features_that_tell_the_class_perfectly_give_all():
    result = told(Featured(perfect))
    assert result.metrics == {"linear_accuracy": 100, "nonlinear_accuracy": 100}
    crops = [classes().test_crop(sample, SIZE).class_map for sample in classes().samples]
    known = sum(int((crop != VOID).sum()) for crop in crops)
    assert result.counts == {"probe_images": 5, "probe_pixels": known, "probe_training_pixels": min(known, 4000)}


def test_features_that_say_nothing_give_the_share_of_the_largest_class():
    found = told(Featured(lambda true, rng: rng.normal(size=(2, *true.shape)))).metrics
    assert [*found.values()] == pytest.approx(2 * [shares(classes()).max()], abs=2.5)
    constant = told(Featured(lambda true, rng: np.ones((2, *true.shape)))).metrics
    assert [*constant.values()] == pytest.approx(2 * [shares(classes()).max()])


def test_the_non_linear_probe_learns_an_exclusive_or_and_the_linear_one_cannot():
    split = with_two_classes()
    found = told(Featured(exclusive_or), split).metrics
    assert found["nonlinear_accuracy"] > 99 and found["linear_accuracy"] < shares(split).max() + 5


def test_only_what_is_asked_for_is_measured_and_nothing_by_default():
    assert set(told(Featured(perfect), kinds=["non_linear"]).metrics) == {"nonlinear_accuracy"}
    split, labeller = classes(), Featured(perfect)
    assert composed("dataset_name=textures").evaluation.probe.kinds == []
    assert Protocol.of(split, labeller, evaluation_options(probe=options())) is not None
    silent = options()
    silent.kinds = []
    for wanted in (None, silent):
        assert Protocol.of(split, labeller, evaluation_options(probe=wanted)) is None
    assert Protocol.of(draw_split("test", 1), labeller, evaluation_options(probe=options())) is None  # no classes
    assert Protocol.of(split, ColourLabeller(), evaluation_options(probe=options())) is None  # no features


def test_figures_are_the_seeds_whatever_the_batches():
    def noisy(true, rng):
        return np.stack([true + rng.normal(0, 1.5, true.shape), rng.normal(size=true.shape)])

    few = {"num_points": 60, "steps": 30}
    first = told(Featured(noisy), **few).metrics
    assert told(Featured(noisy), **few).metrics == first
    assert told(Featured(noisy), batch_size=1, **few).metrics == pytest.approx(first, abs=0.05)
    assert told(Featured(noisy), seed=1, **few).metrics != first


def test_void_pixels_neither_teach_nor_count():
    def misleading(true, rng):
        features = perfect(true, rng)
        features[:, true == VOID] = perfect(np.roll(true, 7), rng)[:, true == VOID]
        return features

    split = classes()
    assert sum(int((sample.class_map == VOID).sum()) for sample in split.samples) > 0
    assert told(Featured(misleading), split).metrics == {"linear_accuracy": 100, "nonlinear_accuracy": 100}


def test_the_figures_stand_beside_those_of_the_clusters():
    both = told(Featured(perfect), protocols=("pixel_accuracy", "pixel_probe"), kinds=["linear"])
    alone = evaluated(Featured(perfect), classes(), protocols=("pixel_accuracy",), image_size=SIZE)
    assert both.metrics == {**alone.metrics, "linear_accuracy": 100}
    assert both.counts["images"] == alone.counts["images"]


@pytest.mark.parametrize("hidden", [None, 7])
def test_a_probe_of_a_map_is_that_of_the_pixels_it_is_brought_up_to(hidden):
    torch.manual_seed(0)
    probe = Probe(torch.randn(5), torch.rand(5) + 1, 3, hidden)
    features = torch.randn(2, 5, 4, 6)
    pixels = upsample(features, (16, 20)).permute(0, 2, 3, 1).flatten(0, 2)
    expected = probe(pixels).unflatten(0, (2, 16, 20)).permute(0, 3, 1, 2)
    assert torch.allclose(probe.of_map(features, (16, 20)), expected, atol=1e-5)


def test_features_of_any_scale_are_learnt_and_constant_ones_do_no_harm():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    points = np.stack([1e-4 * (labels + 0.1 * rng.normal(size=500)) + 1, np.full(500, 3e5)], axis=1).astype(np.float32)
    random = torch.get_rng_state()
    probe = taught(points, labels, 2, "linear", options(), 0, "cpu")
    assert torch.equal(torch.get_rng_state(), random)  # training goes on as if nothing had been taught
    assert (probe(torch.from_numpy(points)).argmax(1).numpy() == labels).mean() > 0.98


def test_the_draw_is_even_and_bounded():
    counts = np.zeros(40)
    for seed in range(300):
        rng, draw = np.random.default_rng(seed), _EvenDraw(10)
        for start in range(0, 40, 8):
            numbers = rng.random(8)
            (kept,) = np.nonzero(numbers < draw.below)
            draw.add(numbers[kept], start + kept)
            assert sum(len(own) for own, *_ in draw._waiting) <= 20
        (found,) = draw.found()
        assert len(found) == len(set(found)) == 10
        counts[found] += 1
    assert counts.min() > 45 and counts.max() < 110  # 75 expected, deviation 7.5


# --- which pictures ------------------------------------------------------------------------------------------------


def test_where_splits_share_pictures_those_held_out_are_tested_and_the_others_teach():
    split = classes()
    split.held_out = frozenset([split.samples[0].name, split.samples[3].name])
    protocol = Protocol(split, Featured(perfect), evaluation_options(image_size=SIZE, probe=options()))
    for fitted, wanted in ((False, [0, 3]), (True, [1, 2, 4])):
        assert [place for place, own in enumerate(split.samples) if protocol.inputs(own, fitted)] == wanted


def test_of_potsdam_the_labelled_lists_are_the_two_sides(tmp_path):
    draw_potsdam_tree(tmp_path / "Potsdam")
    config = composed("dataset_name=potsdam", f"dataset_root={tmp_path}", "image_size=32")
    test, train = (datasets.build(config, split, "evaluation") for split in ("test", "train"))
    protocol = Protocol(test, Featured(perfect), evaluation_options(image_size=32, probe=options()))
    for fitted, split, listed in ((False, test, "labelled_test"), (True, train, "labelled_train")):
        found = {split.sample_name(place) for place in range(len(split)) if protocol.inputs(split[place], fitted)}
        assert found == set((tmp_path / f"Potsdam/{listed}.txt").read_text().split())


def test_without_a_pixel_to_learn_from_or_to_test_on_that_is_said():
    split = classes(2)
    protocol = Protocol(split, Featured(perfect), evaluation_options(image_size=SIZE, probe=options("linear")))
    with pytest.raises(UserError, match="quadrants has no pixel with a class to teach probes with"):
        protocol.fit([])
    shown = batch([own for sample in split.samples for own in protocol.inputs(sample, fitted=True)])
    protocol.fit([shown])
    with pytest.raises(UserError, match="quadrants has no pixel with a class to test probes on"):
        protocol.metrics()
    split.samples[0].class_map[0, 0] = 9
    with pytest.raises(UserError, match=r"test/0\.jpg has no class map, or one with labels above 3"):
        protocol.inputs(split.samples[0])


# --- the networks --------------------------------------------------------------------------------------------------

TINY = {
    "ac": ("segmenter.widths=[64]", "method.half_window=1"),
    "arl": ("segmenter.widths=[64]", "method.half_window=0", "method.feature_size=6", "method.projection_size=4"),
    "iic": ("segmenter.widths=[4,6,8,10]", "method.auxiliary_clusters=7"),
}
QUICK = ("evaluation.probe.kinds=[linear,non_linear]", "evaluation.probe.steps=20", "evaluation.pictures=0")


@pytest.mark.parametrize("name", TINY)
def test_of_every_network_there_are_features_and_nothing_of_it_changes(name, tmp_path):
    drawing = [f"dataset.drawing.{key}" for key in ("num_train=4", "num_test=3", "size=32")]
    small = ("dataset_name=textures", f"dataset_root={tmp_path}", "image_size=32", "batch_size=2", *drawing)
    config = composed(f"method={name}", *small, *TINY[name], *QUICK)
    method = methods.build(config, False, torch.device("cpu"))
    labeller = module("labeller", method.labeller).of_predictor(method.predictor)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    result = evaluate(labeller, Sets.of(config, "evaluation"), method.protocols, EvaluationOptions.of(config), "cpu")
    assert set(result.metrics) == {"pixel accuracy", "NMI", "ARI", "linear_accuracy", "nonlinear_accuracy"}
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert method.predictor.training
    json.dumps([result.metrics, result.counts])


@pytest.mark.parametrize("how", ["plain", "mean"])
def test_the_features_of_ac_are_what_the_decoder_gets(how):
    config = composed("method=ac", "dataset_name=textures", *TINY["ac"], f"segmenter.inference={how}")
    predictor = methods.build(config, False, torch.device("cpu")).predictor.eval()
    inputs = predictor.preprocess(torch.rand(2, 3, 32, 32))
    with torch.no_grad():
        features = predictor.features(inputs)
        assert features.shape == (2, 64, 16, 16)
        assert torch.allclose(upsample(predictor.network.decoder(features), (32, 32)), predictor(inputs), atol=1e-5)
