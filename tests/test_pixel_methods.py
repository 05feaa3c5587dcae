"""AC and IIC: what their networks see, which orderings and heads learn, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from conf.modules import module
from datasets.batch import EvalBatch, TrainBatch
from models import autoregressive, methods
from models.autoregressive import opposite
from models.methods import ac
from tests.composition import composed
from utils.errors import UserError
from utils.optimizer import build_optimizer
from utils.seeding import Randomness, generator

COLOURS = ("segmenter.colour=rgb", "segmenter.sobel=false")
SMALL = ("dataset_name=textures", *COLOURS, "image_size=32", "batch_size=2", "num_parts=3", "method.half_window=1")
TINY = {"ac": ("segmenter.widths=[64]",), "iic": ("segmenter.widths=[4,6,8,10]", "method.auxiliary_clusters=7")}


def config(name: str, *overrides: str):
    return composed(f"method={name}", *SMALL, *TINY[name], *overrides)


def built(name: str, *overrides: str):
    return methods.build(config(name, *overrides), False, torch.device("cpu"))


def batch(num_images: int = 2, infrared: bool = False) -> TrainBatch:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (num_images, 3, 32, 32), np.uint8))
    fourth = torch.from_numpy(rng.integers(0, 256, (num_images, 1, 32, 32), np.uint8)) if infrared else None
    mask = torch.from_numpy((rng.random((num_images, 1, 32, 32)) > 0.3).astype(np.float32))
    return TrainBatch(image, mask, [""] * num_images, step=0, infrared=fourth)


def views(method, step: int = 0, **keys):
    return method.views(batch(**keys), Randomness(0, step, range(2)))


def naive(first, second, mask, half_window: int, weight: float, separate: bool) -> float:
    """The loss shift by shift."""
    first, second = (first * mask).double(), (second * mask).double()
    tables, reach = [], range(-half_window, half_window + 1)
    height, width = first.shape[2:]
    padded = nn.functional.pad(first, (half_window,) * 4)
    for dy in reach:
        for dx in reach:
            moved = padded[..., half_window + dy :, half_window + dx :][..., :height, :width]
            tables.append(torch.einsum("nihw,njhw->ij", moved, second))
    losses = []
    for table in tables if separate else [sum(tables)]:
        joint = table / table.sum()
        joint = (joint + joint.T) / 2
        marginal = joint.sum(1).log()
        losses.append(-(joint * (joint.log() - weight * (marginal[:, None] + marginal))).sum())
    return float(sum(losses) / len(losses))


# --- AC ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shifts", ["summed", "separate"])
def test_the_loss_of_ac_is_that_of_two_passes_in_two_orderings_undone(shifts):
    method = built("ac", "method.transformations=[jitter,flip,rotation]", f"method.shifts={shifts}").eval()
    seen = views(method)
    with torch.no_grad():
        found = method(seen)
        first = method.predictor(seen.pair.image, seen.orderings[0]).softmax(1)
        second = method.predictor(seen.pair.other, seen.orderings[1]).softmax(1)
    undone = []
    for own, mirrored, turns in zip(second, seen.pair.mirrored, seen.pair.turns, strict=True):
        own = own.rot90(-turns, (1, 2))
        undone.append(own.flip(2) if mirrored else own)
    expected = naive(first, torch.stack(undone), seen.pair.mask, 1, 1, shifts == "separate")
    assert found["information"].item() == pytest.approx(expected, abs=1e-5)
    shares = (first * seen.pair.mask).sum((0, 2, 3))
    shares = shares / shares.sum()
    assert found["cluster_entropy"].item() == pytest.approx(-(shares * shares.log()).sum().item(), abs=1e-5)


def test_only_the_pixels_that_count_decide():
    method = built("ac", "segmenter.stem=none", "segmenter.stride=1", "segmenter.widths=[4]").eval()
    seen = views(method)
    with torch.no_grad():
        before = method(seen)["information"]
        outputs = method.outputs
        # Whatever is said where no pixel counts.
        noise = 9 * (1 - seen.pair.mask) * torch.randn(2, 3, 32, 32)
        method.outputs = lambda shown: tuple(output + noise for output in outputs(shown))
        assert method(seen)["information"].item() == pytest.approx(before.item(), abs=1e-6)
        seen.pair.mask = torch.ones_like(seen.pair.mask)
        method.outputs = outputs
        assert method(seen)["information"].item() != pytest.approx(before.item(), abs=1e-6)


@pytest.mark.parametrize("pairs", ["random", "no_repetition", "hard"])
def test_pairs_of_orderings_are_drawn_as_named(pairs):
    orderings = [*range(1, 9)]
    found = [ac.draw_orderings(orderings, pairs, generator(0, "test", step)) for step in range(400)]
    alike = np.mean([first == second for first, second in found])
    assert {first for first, _ in found} == {second for _, second in found} == set(orderings)
    if pairs == "random":
        assert len(set(found)) > 55 and 0.07 < alike < 0.19  # 1 of 8
    if pairs == "no_repetition":
        assert len(set(found)) > 50 and alike == 0
    if pairs == "hard":
        assert all(opposite(first) == second for first, second in found)


def test_a_step_draws_its_orderings_once_whichever_device_asks():
    method = built("ac")
    first = method.views(batch(), Randomness(3, 5, range(0, 2))).orderings
    assert method.views(batch(), Randomness(3, 5, range(2, 4))).orderings == first
    assert len({method.views(batch(), Randomness(3, step, range(2))).orderings for step in range(30)}) > 15


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["segmenter.orderings=[1,99]"], r"segmenter\.orderings=\[1, 99\]: there is no ordering 99"),
        (["segmenter.orderings=[3,3]", "method.pairs=no_repetition"], r"needs two segmenter\.orderings or more"),
        (["segmenter.orderings=[1,2,7]", "method.pairs=hard"], r"has 2 without its opposite, 8: add it"),
        (["segmenter.infrared=true"], r"segmenter\.infrared=true: the pictures have no infrared"),
    ],
)
def test_what_ac_cannot_train_with_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        method = built("ac", *overrides)
        method(views(method))


def test_attention_without_the_memory_for_it_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(autoregressive, "memory_available", lambda device: 5 * 16**4 - 1)
    built("ac", "segmenter.stride=2")
    built("ac", "segmenter.attention_after=1", "segmenter.stride=4")
    with pytest.raises(UserError, match=r"16 x 16 cells takes .* GiB \(masks of 2 passes\), and .* GiB are free"):
        built("ac", "segmenter.attention_after=1", "segmenter.stride=2")


def test_a_network_of_another_kind_is_refused():
    with pytest.raises(UserError, match="method=ac needs a network with orderings, and segmenter=hourglass has none"):
        methods.build(
            composed("method=ac", "dataset_name=synthetic", "segmenter=hourglass"), False, torch.device("cpu")
        )
    with pytest.raises(UserError, match="method=iic needs segmenter=iic"):
        methods.build(
            composed("method=iic", "dataset_name=synthetic", "segmenter=hourglass"), False, torch.device("cpu")
        )


# --- IIC -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "main"), [(0, False), (3, False), (4, True), (7, True), (8, False)])
def test_the_heads_take_turns_a_pass_each_and_head_a_begins(step, main):
    method = built("iic", "method.pass_steps=4", "method.marginal_weight=1.5", "segmenter.sub_heads=2").eval()
    seen = views(method, step)
    with torch.no_grad():
        found = method(seen)
        head = method.predictor.head if main else method.auxiliary
        first = method.predictor.probabilities(seen.pair.image, head)
        second = method.predictor.probabilities(seen.pair.other, head)
    assert first.shape[1:3] == (2, 3 if main else 7) and found["main_head"] == main
    weight = 1.5 if main else 1
    expected = [
        naive(first[:, sub], seen.pair.undone(second[:, sub]), seen.pair.mask, 1, weight, True) for sub in (0, 1)
    ]
    assert found["information"].item() == pytest.approx(np.mean(expected), abs=1e-5)


@pytest.mark.parametrize(("step", "main"), [(0, False), (1, True)])
def test_a_head_learns_in_its_turn_alone_and_the_trunk_in_both(step, main):
    method = built("iic", "method.pass_steps=1")
    method(views(method, step))["information"].backward()
    reached = {
        name: float(sum(parameter.grad.abs().sum() for parameter in part.parameters()))
        for name, part in {"A": method.auxiliary, "B": method.predictor.head, "trunk": method.predictor.trunk}.items()
    }
    assert reached["trunk"] > 0 and (reached["B"] > 0) == main and (reached["A"] > 0) == (not main)


def test_head_a_is_saved_beside_the_network_and_learns_as_head_b():
    method = built("iic")
    assert [*method.trained_beside()] == ["auxiliary.convolution.weight"]
    groups = method.parameter_groups(config("iic", "optimizer.head_multiplier=3").optimizer)
    assert [group["multiplier"] for group in groups] == [1, 3, 3]
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(found) == len(set(found)) == len([*method.parameters()])
    assert build_optimizer(groups, config("iic").optimizer)


# --- both ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ac", "iic"])
def test_infrared_reaches_the_network_in_training_and_where_it_is_evaluated(name):
    method = built(name, "segmenter.infrared=true")
    losses = method(views(method, infrared=True))
    assert all(loss.isfinite() for loss in losses.values())
    labeller = module("labeller", method.labeller).of_predictor(method.predictor)
    crops = batch(infrared=True)
    with torch.no_grad():
        scores = [
            labeller.scores_of(EvalBatch(crops.image, crops.foreground, [], infrared=infrared))
            for infrared in (crops.infrared, 255 - crops.infrared)
        ]
    assert scores[0].shape == (2, 3, 32, 32) and not torch.equal(*scores) and method.predictor.training
    with pytest.raises(UserError, match="no infrared"):
        labeller.scores_of(EvalBatch(crops.image, crops.foreground, []))


@pytest.mark.parametrize("name", ["ac", "iic"])
def test_constant_rates_without_decay_are_the_published_ones(name):
    found = composed(f"method={name}", "dataset_name=CUB")
    optimizer = found.optimizer
    assert (optimizer.name, optimizer.weight_decay, optimizer.poly_power) == ("adamw", 0, 0)
    assert found.method.half_window == 10 and not found.segmenter.get("dropout")
    assert list(found.method.transformations) == ([] if name == "ac" else ["jitter", "flip"])
    jitter = found.augmentation
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.4, 0.4, 0.4, 0.125)


def test_the_information_falls_in_a_few_steps_on_one_batch():
    method = built("ac", "segmenter.stride=2")
    descent = torch.optim.Adam(method.parameters(), lr=1e-3)
    found = []
    for step in range(12):
        loss = method(views(method, step))["information"]
        descent.zero_grad()
        loss.backward()
        descent.step()
        found.append(loss.item())
    assert np.mean(found[-3:]) < np.mean(found[:3]) - 0.01


@pytest.mark.parametrize("name", ["ac", "arl", "iic"])
def test_a_window_past_the_pictures_is_refused_by_its_key(name):
    sizes, window = TINY.get(name, TINY["ac"]), "method.half_window=32"
    with pytest.raises(UserError, match=r"half_window=32 is past the sides of pictures of image_size=32 pixels"):
        methods.build(composed(f"method={name}", *SMALL[:-1], window, *sizes), False, torch.device("cpu"))
