"""DeepCluster: when clusters are found, what is called by them, and what a run that goes on has of it."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

import evaluate
import train
from losses.pseudo_labels import pseudo_label_loss
from models import methods
from tests.composition import composed
from tests.test_pixel_methods import batch
from utils.errors import UserError
from utils.seeding import Randomness, generator

TINY = (
    *("segmenter.widths=[4,6,8,10]", "segmenter.projection=6", "method.num_clusters=4", "method.pass_steps=3"),
    *("method.cluster_batches=2", "method.cluster_points=300"),
)
SMALL = ("method=deepcluster", "dataset_name=textures", "image_size=32", "batch_size=2", "num_parts=5", *TINY)


def built(*overrides: str):
    torch.manual_seed(0)
    return methods.build(composed(*SMALL, *overrides), False, torch.device("cpu"))


def begun(*overrides: str):
    method = built(*overrides)
    method.before_step(0, lambda count: [batch()] * count)
    return method


def features_of(network, images: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) of images in [0, 1], by a network in eval mode."""
    cells = network.trunk(images)
    convolution, norm = network.projection
    cells = F.conv2d(cells, convolution.weight)
    shape = (1, -1, 1, 1)
    cells = (cells - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + 1e-5).sqrt()
    cells = cells * norm.weight.view(shape) + norm.bias.view(shape)
    return F.interpolate(cells, size=images.shape[-2:], mode="bilinear")


def test_clusters_are_found_where_a_pass_begins_in_pixels_that_count_of_the_next_batches():
    method, crops, asked = built(), batch(3), []
    crops.foreground[:] = 0
    crops.foreground[:, :, :5, :20] = 1  # 300 pixels, all of which are drawn
    found = method.before_step(0, lambda count: asked.append(count) or [crops])
    assert asked == [2] and found == [method.classes.weight]
    with torch.no_grad():
        features = features_of(method.before, crops.image / 255)
    points = features.permute(0, 2, 3, 1)[:, :5, :20].reshape(300, 6)
    # A share of 300 for two batches: 150 of the first's.
    drawn = points[generator(1234, "points", 0, 0).permutation(300)[:150]].numpy()
    state = int(generator(1234, "clusters", 0).integers(2**31))
    expected = KMeans(4, n_init=1, max_iter=20, random_state=state).fit(drawn).cluster_centers_
    assert np.abs(method.means.numpy() - expected).max() < 1e-4
    for step in (1, 2, 4):
        assert method.before_step(step, lambda count: pytest.fail("not now")) == []
    assert method.before_step(3, lambda count: [crops] * count)


def test_a_pass_has_a_new_class_layer_that_depends_on_seed_and_step_alone():
    first, second = begun(), begun()
    weights = [first.classes.weight.clone()]
    assert torch.equal(weights[0], second.classes.weight)
    first.before_step(3, lambda count: [batch()] * count)
    assert not torch.equal(weights[0], first.classes.weight)
    first.before_step(0, lambda count: [batch()] * count)
    assert torch.equal(weights[0], first.classes.weight)
    assert first.classes.weight.std().item() == pytest.approx((2 / 6) ** 0.5, rel=0.5)


def test_a_pixel_has_the_cluster_of_its_features_before_the_pass_mirrored_with_the_picture():
    method = begun().train()
    with torch.no_grad():
        for parameter in method.predictor.parameters():
            parameter.add_(torch.randn_like(parameter))
    crops, mirrors = batch(), set()
    with torch.no_grad():
        features = features_of(method.before, crops.image / 255)
    distances = (features[:, None] - method.means[:, :, None, None]).square().sum(2)
    for step in range(6):
        random = Randomness(0, step, range(2))
        seen = method.views(crops, random)
        for place, rng in enumerate(random.of_each("mirror and turn")):
            turned = rng.random(2)[0] < 0.5
            mirrors.add(bool(turned))
            expected, mask = distances[place].argmin(0), crops.foreground[place, 0]
            assert torch.equal(seen.labels[place, 0], expected.flip(1) if turned else expected)
            assert torch.equal(seen.mask[place, 0], mask.flip(1) if turned else mask)
    assert mirrors == {False, True} and seen.labels.unique().numel() > 1


def test_the_loss_is_the_cross_entropy_of_pixels_that_count():
    method = begun().train()
    seen = method.views(batch(), Randomness(0, 1, range(2)))
    found = method(seen)["classification"].item()
    logits = method.classes(method.predictor.features(seen.inputs).relu())
    chances = F.interpolate(logits, size=(32, 32), mode="bilinear").softmax(1)
    losses = [
        -chances[n, seen.labels[n, 0, y, x], y, x].log().item()
        for n, y, x in np.ndindex(2, 32, 32)
        if seen.mask[n, 0, y, x] == 1
    ]
    assert found == pytest.approx(np.mean(losses), abs=1e-4)
    logits = torch.randn(2, 4, 32, 32)
    whole = pseudo_label_loss(logits, seen.labels, torch.ones(2, 1, 32, 32)).item()
    assert whole == pytest.approx(F.cross_entropy(logits, seen.labels[:, 0], reduction="sum").item(), rel=1e-5)


def test_network_and_class_layer_learn_and_the_earlier_network_stays_and_is_saved():
    method = begun()
    method(method.views(batch(), Randomness(0, 0, range(2))))["classification"].backward()
    trained = [*method.predictor.parameters(), *method.classes.parameters()]
    assert all(parameter.grad is not None for parameter in trained)
    assert not any(parameter.requires_grad for parameter in method.before.parameters())
    kept = method.trained_beside()
    assert {name.partition(".")[0] for name in kept} == {"before", "classes", "means"}
    other = built("seed=3")
    other.load_beside({name: own.clone() for name, own in kept.items()}, "a file")
    assert all(torch.equal(own, kept[name]) for name, own in other.trained_beside().items())
    groups = method.parameter_groups(composed(*SMALL).optimizer)
    assert {id(own) for group in groups for own in group["params"]} == set(map(id, trained))


def test_too_few_pixels_are_refused():
    method, crops = built(), batch()
    crops.foreground[:] = 0
    with pytest.raises(UserError, match=r"method\.num_clusters=4 need as many pixels .* after step 0 have 0"):
        method.before_step(0, lambda count: [crops])


def test_it_is_trained_goes_on_to_the_bit_and_is_evaluated_on_textures(tmp_path):
    data = f"dataset_root={tmp_path / 'data'}", "dataset.drawing.num_train=4", "dataset.drawing.num_test=3"
    settings = (*data, "dataset.drawing.size=32", "method.num_points=500", "logging.wandb=disabled", "num_steps=6")
    settings = (*settings, "checkpointing.every=1", "checkpointing.keep=null")
    settings = (*settings, "evaluation.every=0", "logging.image_every=0")
    run = tmp_path / "whole"
    train.train(composed(*SMALL, *settings, f"output_dir={run}"))
    whole = torch.load(run / "checkpoints/model_6.pth", weights_only=True)
    for start in (2, 3):  # in the middle of a pass, and between two
        cut = tmp_path / f"from_{start}"
        shutil.copytree(run, cut)
        for step in range(start + 1, 7):
            (cut / f"checkpoints/model_{step}.pth").unlink()
        resumed = composed(*SMALL, *settings, f"output_dir={cut}")
        resumed.resume = str(cut)
        train.train(resumed)
        again = torch.load(cut / "checkpoints/model_6.pth", weights_only=True)
        for state in ("model_state_dict", "method_state_dict"):
            assert all(torch.equal(own, again[state][key]) for key, own in whole[state].items())
        momenta, others = (found["optimizer_state_dict"]["state"].values() for found in (whole, again))
        for own, other in zip(momenta, others, strict=True):
            assert all(torch.equal(value, other[key]) for key, value in own.items())
    # The class layer's momenta are those of its own pass, the others' of all.
    assert sorted({int(own["step"]) for own in momenta}) == [3, 6]
    evaluate.evaluate(
        composed(*SMALL, *settings, f"checkpoint={run}", f"output_dir={tmp_path / 'out'}", name="evaluate")
    )
    assert 20 < json.loads((tmp_path / "out/metrics.json").read_text())["pixel accuracy"] <= 100
