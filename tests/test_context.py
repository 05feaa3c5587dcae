"""Doersch and Isola: the pairs of places, what the heads see, the losses, and how the features are evaluated."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import evaluate
import train
from conf.modules import module
from datasets.batch import EvalBatch
from losses.context import adjacency_loss, position_loss
from models import methods
from models.context import ContextHead, Pair, draw_dropout, draw_pair, window
from models.segmenters.iic_features import Segmenter
from tests.composition import composed
from tests.test_pixel_methods import batch
from utils import checkpoints
from utils.errors import UserError
from utils.seeding import Randomness, generator

TINY = ("method.patch_size=3", "method.head_width=4", "method.hidden_size=8", "segmenter.widths=[4,6,8,10]")
SMALL = ("dataset_name=textures", "image_size=32", "batch_size=2", "num_parts=5", *TINY)
NAMES = ["doersch", "isola"]


def config(name: str, *overrides: str):
    return composed(f"method={name}", *SMALL, *overrides)


def built(name: str, *overrides: str):
    method = methods.build(config(name, *overrides), False, torch.device("cpu"))
    if name == "doersch":
        method.colours[:] = torch.tensor([0.2, 0.4, 0.6])
    return method


def views(method, step: int = 0, **keys):
    return method.views(batch(**keys), Randomness(0, step, range(2)))


def pairs(name: str, *overrides: str, size: int = 128, count: int = 3000) -> list[Pair]:
    method = built(name, "method.patch_size=11", "image_size=128", *overrides)
    rng = generator(0, "test")
    return [draw_pair(size, 11, rng, lambda own: method.draw_offset(size, own)) for _ in range(count)]


# --- pairs of places -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_both_windows_lie_inside_and_the_centre_is_drawn_as_published(name):
    found = pairs(name)
    centres, others = (np.array([getattr(pair, key) for pair in found]) for key in ("centre", "other"))
    assert centres.min() == 16 and centres.max() == 111
    assert others.min() >= 5 and others.max() <= 122


@pytest.mark.parametrize("positions", [8, 9])
def test_a_position_is_a_direction_of_45_degrees_and_the_ninth_is_the_first(positions):
    found = pairs("doersch", f"method.positions={positions}")
    offsets = np.array([np.subtract(pair.other, pair.centre) for pair in found])
    targets = np.array([pair.target for pair in found])
    shares = np.bincount(targets, minlength=positions) / len(found)
    # Those which lead away from the middle are thrown away a little more often.
    assert len(shares) == positions and abs(shares - 1 / positions).max() < 0.03
    signs = {0: (0, 1), 1: (1, 1), 2: (1, 0), 3: (1, -1), 4: (0, -1), 5: (-1, -1), 6: (-1, 0), 7: (-1, 1), 8: (0, 1)}
    for target in range(positions):
        own = offsets[targets == target]
        assert (np.sign(own) == signs[target]).all()
        lengths = np.abs(own).max(1) * (2**0.5 if target % 2 else 1)
        assert lengths.min() >= 16.5 - 1.5 and lengths.max() <= 22


def test_half_of_the_batches_are_adjacent_which_is_diagonal_and_the_others_lie_two_windows_apart():
    found = pairs("isola")
    offsets = np.array([np.subtract(pair.other, pair.centre) for pair in found])
    adjacent = np.array([pair.target for pair in found]) == 1
    assert {tuple(own) for own in offsets[adjacent]} == {(a, b) for a in (-11, 11) for b in (-11, 11)}
    lengths = np.hypot(*offsets[~adjacent].T)
    assert lengths.min() > 22 - 1.5 and lengths.max() > 60
    # Pairs whose other place would be outside are drawn again, so that fewer than half are far apart.
    assert 0.5 < adjacent.mean() < 0.75


@pytest.mark.parametrize("name", NAMES)
def test_a_step_has_one_pair_whichever_device_asks(name):
    method = built(name)
    first = method.views(batch(), Randomness(3, 5, range(0, 2))).pair
    assert method.views(batch(), Randomness(3, 5, range(2, 4))).pair == first
    assert len({str(views(method, step).pair) for step in range(30)}) > 20


# --- the head ------------------------------------------------------------------------------------------------------


def test_a_window_is_cut_out_of_the_upsampled_map():
    features = torch.randn(2, 5, 13, 17)
    whole = F.interpolate(features, size=(32, 40), mode="bilinear", align_corners=False)
    for row, column in [(2, 2), (15, 20), (29, 37)]:
        found = window(features, (32, 40), (row, column), 5)
        assert torch.allclose(found, whole[:, :, row - 2 : row + 3, column - 2 : column + 3], atol=1e-5)


def test_the_published_head_has_its_size():
    with torch.device("meta"):
        head = ContextHead(512, 11, 1024, 1024, 9)
    assert head.hidden.weight.numel() + head.hidden.bias.numel() == 253_756_416
    assert head.convolution.weight.shape == (1024, 512, 3, 3) and head.convolution.bias is None


def test_the_head_scores_two_windows_that_batch_norm_sees_apart():
    torch.manual_seed(0)
    head, (first, second) = ContextHead(5, 3, 4, 8, 6), torch.randn(2, 7, 5, 3, 3)
    kept = torch.from_numpy(np.stack([draw_dropout(8, 0.5, generator(0, "d", n)) for n in range(7)]))
    assert set(kept.unique().tolist()) == {0, 2}
    described = []
    for seen in (first, second):
        maps = F.conv2d(seen, head.convolution.weight, padding=1)
        mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), unbiased=False, keepdim=True)
        described.append(((maps - mean) / (variance + 1e-5).sqrt()).relu().flatten(1))
    hidden = (torch.cat(described, 1) @ head.hidden.weight.T).relu() * kept
    assert torch.allclose(head(first, second, kept), hidden @ head.output.weight.T, atol=1e-5)


# --- losses --------------------------------------------------------------------------------------------------------


def test_the_losses_are_means_over_the_pictures_that_count():
    logits, counts = torch.tensor([[0.0, 1, 2], [5, 5, 5], [1, 0, 0]]), torch.tensor([True, False, True])
    shares = logits.softmax(1)
    expected = -(shares[0, 1].log() + shares[2, 1].log()) / 2
    assert position_loss(logits, 1, counts).item() == pytest.approx(expected.item(), abs=1e-6)
    single = torch.tensor([0.3, 9, -1])
    for adjacent, sign in ((True, 1), (False, -1)):
        expected = (np.log1p(np.exp(-sign * 0.3)) + np.log1p(np.exp(sign * 1))) / 2
        assert adjacency_loss(single, adjacent, counts).item() == pytest.approx(expected, abs=1e-6)


def test_hopeless_pictures_are_left_out_of_the_sum_and_not_of_the_count():
    logits = torch.tensor([0.0, -50], requires_grad=True)
    loss = adjacency_loss(logits, True, torch.tensor([True, True]))
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2) / 2)
    assert logits.grad.tolist() == pytest.approx([-0.25, 0])


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_which_no_picture_counts_changes_nothing(name):
    method = built(name)
    seen = views(method)
    seen.counts[:] = False
    (loss,) = method(seen).values()
    loss.backward()
    assert loss.item() == 0 and all((own.grad == 0).all() for own in method.parameters() if own.grad is not None)


# --- the methods -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_the_head_on_upsampled_features(name):
    method = built(name, "method.dropout=0.5").train()
    seen = views(method)
    seen.counts[:] = torch.tensor([True, False])
    (found,) = method(seen).values()
    features = method.predictor(seen.inputs)
    windows = [features[:, :, r - 1 : r + 2, c - 1 : c + 2] for r, c in (seen.pair.centre, seen.pair.other)]
    scores = method.head(*windows, seen.kept)
    if name == "doersch":
        expected = position_loss(scores, seen.pair.target, seen.counts)
    else:
        expected = adjacency_loss(scores[:, 0], bool(seen.pair.target), seen.counts)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_counts_where_either_place_does_in_the_mirrored_mask(name):
    method = built(name)
    crops = batch()
    crops.foreground = torch.zeros(2, 1, 32, 32)
    crops.foreground[..., :16] = 1
    seen_sides = set()
    for step in range(40):
        random = Randomness(0, step, range(2))
        seen = method.views(crops, random)
        mirrored = [rng.random(2)[0] < 0.5 for rng in random.of_each("mirror and turn")]
        for place, turned in enumerate(mirrored):
            inside = [(column >= 16) == turned for _, column in (seen.pair.centre, seen.pair.other)]
            assert seen.counts[place].item() == any(inside)
            seen_sides.add((bool(turned), any(inside), all(inside)))
    assert len(seen_sides) > 4


def test_one_colour_is_left_and_edges_and_infrared_are_of_the_whole_picture():
    overrides = ("segmenter.colour=bgr", "segmenter.sobel=true", "segmenter.infrared=true")
    doersch, isola = built("doersch", *overrides), built("isola", *overrides)
    left = set()
    for step in range(12):
        dropped, whole = (views(method, step, infrared=True).inputs for method in (doersch, isola))
        assert torch.equal(dropped[:, 3:], whole[:, 3:]) and dropped.shape == (2, 6, 32, 32)
        for own, full in zip(dropped, whole, strict=True):
            (kept,) = [place for place in range(3) if torch.equal(own[place], full[place])]
            left.add(kept)
            statistic = (0.6, 0.4, 0.2)[kept]  # blue is the network's first
            for place in {0, 1, 2} - {kept}:
                assert own[place].mean().item() == pytest.approx(statistic, abs=statistic / 1000)
                assert own[place].std().item() == pytest.approx(statistic / 100, rel=0.1)
    assert left == {0, 1, 2}


def test_the_colours_are_measured_once_on_jittered_pixels_that_count():
    method = methods.build(config("doersch", "method.measured_on=2"), False, torch.device("cpu"))
    batches = [batch(), batch(3)]
    batches[1].step = 1
    asked = []
    assert method.measure(lambda count: asked.append(count) or batches) == {}
    isola = built("isola")
    pixels = []
    for own in batches:
        isola.augmentation.flip_probability = 0
        random = Randomness(1234, own.step, own.places)
        image = isola.views(own, random).inputs.permute(0, 2, 3, 1)
        pixels.append(image[own.foreground[:, 0] > 0.5])
    pixels = torch.cat(pixels)
    assert asked == [2]
    assert torch.allclose(method.colours, torch.stack([pixels.mean(0), pixels.std(0, unbiased=False)]), atol=1e-4)
    other = methods.build(config("doersch"), False, torch.device("cpu"))
    other.load_beside(method.trained_beside(), "a file")
    other.measure(lambda count: pytest.fail("the checkpoint has them"))
    assert torch.equal(other.colours, method.colours)


@pytest.mark.parametrize("name", NAMES)
def test_trunk_and_head_learn_and_the_head_is_saved_beside_the_network(name):
    method = built(name)
    sum(method(views(method)).values()).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    beside = {"head", "colours"} if name == "doersch" else {"head"}
    assert {key.partition(".")[0] for key in method.trained_beside()} == beside
    groups = method.parameter_groups(config(name, "optimizer.head_multiplier=3").optimizer)
    assert [group["multiplier"] for group in groups] == [1, 3]
    assert len({id(own) for group in groups for own in group["params"]}) == len([*method.parameters()])


@pytest.mark.parametrize("name", NAMES)
def test_features_are_clustered_as_they_are_and_change_nothing_of_the_network(name):
    method = built(name)
    labeller = module("labeller", method.labeller).of_predictor(method.predictor)
    crops = batch()
    shown = EvalBatch(crops.image, crops.foreground, [])
    before = {key: own.clone() for key, own in method.predictor.state_dict().items()}
    with torch.no_grad():
        labeller.fit([shown])
        scores = labeller.scores_of(shown)
        method.predictor.eval()
        features = method.predictor(method.predictor.preprocess(crops.image / 255))
    assert features.shape == (2, 10, 32, 32) and features.min() == 0  # after the last ReLU
    distances = (features[:, None] - labeller.means[:, :, None, None]).square().sum(2)
    assert scores.shape == (2, 5, 32, 32) and torch.allclose(scores, -distances, atol=1e-3)
    assert all(torch.equal(own, before[key]) for key, own in method.predictor.state_dict().items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.patch_size=4"], r"method\.patch_size=4: a window has a middle, give an odd number"),
        (["method.patch_size=9"], r"image_size=32 has no room for pairs of windows of method\.patch_size=9: give"),
        (["segmenter=iic", "segmenter.widths=[4,6,8,10]"], "method=isola needs segmenter=iic_features"),
    ],
)
def test_what_cannot_be_trained_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        built("isola", *overrides)


def test_a_network_of_features_is_refused_where_parts_are_asked_for():
    given = composed("method=foreground", "dataset_name=synthetic", "segmenter=iic_features")
    with pytest.raises(UserError, match="segmenter=iic_features gives 512 features and no parts"):
        methods.build(given, True, torch.device("cpu"))


def test_a_checkpoint_of_another_network_is_refused_and_k_is_that_of_the_clusters():
    method = built("isola")
    found = type(method).predictor_of(config("isola", "num_parts=4"), method.predictor.state_dict())
    assert isinstance(found, Segmenter) and found.num_parts == 4
    with pytest.raises(UserError, match="no checkpoint of a segmenter=iic_features"):
        type(method).predictor_of(config("isola"), {"layer5.weight": torch.zeros(1)})


# --- as a user runs them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_it_is_trained_goes_on_to_the_bit_and_is_evaluated_on_textures(name, tmp_path):
    data = f"dataset_root={tmp_path / 'data'}", "dataset.drawing.num_train=4", "dataset.drawing.num_test=3"
    settings = (*data, "dataset.drawing.size=32", "method.num_points=500", "logging.wandb=disabled", "num_steps=4")
    settings = (*settings, "checkpointing.every=2", "evaluation.every=0", "logging.image_every=0")
    train.train(config(name, *settings, f"output_dir={tmp_path / 'whole'}"))
    if name == "doersch":  # what it measures at the start is in the checkpoint
        shutil.copytree(tmp_path / "whole", tmp_path / "cut")
        (tmp_path / "cut/checkpoints/model_4.pth").unlink()
        resumed = config(name, *settings, f"output_dir={tmp_path / 'cut'}")
        resumed.resume = str(tmp_path / "cut")
        train.train(resumed)
        first, second = (checkpoints.find(tmp_path / run) for run in ("whole", "cut"))
        assert first.step == second.step == 4 and "colours" in first.beside
        for own_state, others in ((first.model, second.model), (first.beside, second.beside)):
            assert all(torch.equal(own, others[key]) for key, own in own_state.items())
    given = f"checkpoint={tmp_path / 'whole'}", "baseline=[untrained]", f"output_dir={tmp_path / 'out'}"
    evaluate.evaluate(composed(f"method={name}", *SMALL, *settings, *given, name="evaluate"))
    figures = json.loads((tmp_path / "out/metrics.json").read_text())
    assert 20 < figures["pixel accuracy"] <= 100 and "untrained" in figures["produced_by"]["baselines"]
