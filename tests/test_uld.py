"""The method ULD: what its networks see, what is trained and saved, and how its landmarks are evaluated."""

import json
import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

import evaluate
import predict
import train
from conf.modules import module
from datasets.batch import EvalBatch, TrainBatch
from datasets.transforms.warp import warp
from evaluation.labellers.landmarks import LandmarkLabeller
from evaluation.prediction import centres_of_mass
from evaluation.progress import examples
from models import methods, segmenters
from models.methods import uld
from models.segmenters.hourglass import Segmenter
from tests import uld_formulas as formulas
from tests.composition import composed, given
from utils import checkpoints
from utils.errors import UserError
from utils.optimizer import build_optimizer
from utils.seeding import Randomness

TINY = ("segmenter.widths=[4,6,8]", "method.descriptor_widths=[4,6]", "method.decoder_widths=[6,8]")
SMALL = (
    "method=uld",
    "dataset_name=synthetic",
    "image_size=32",
    "batch_size=2",
    "num_parts=3",
    "dataset.drawing.num_train=6",
    "dataset.drawing.num_test=3",
    "dataset.drawing.size=48",
    "logging.wandb=disabled",
)
STILL = ("jitter_probability=0", "noise=0", "scale=[1,1]", "rotation=0", "translation=0")


def config(*overrides: str):
    return composed(*SMALL, *TINY, *overrides)


def batch(num_images: int = 2, size: int = 32) -> TrainBatch:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (num_images, 3, size, size), np.uint8))
    foreground = torch.from_numpy(rng.random((num_images, 1, size, size), np.float32))
    return TrainBatch(image, foreground, [""] * num_images, step=0)


def built(*overrides: str) -> uld.Method:
    return methods.build(config(*overrides), False, torch.device("cpu"))


@pytest.fixture(scope="module")
def method() -> uld.Method:
    return built()


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset_name", ["CUB", "DF", "PP", "folder", "synthetic"])
def test_its_settings_are_the_released_ones_on_every_data_set(dataset_name):
    found = composed("method=uld", f"dataset_name={dataset_name}", *(["dataset.category=cat"] * (dataset_name == "PP")))
    weights = {"reconstruction": 0.1, "concentration": 100, "separation": 20, "equivariance": 10000}
    assert OmegaConf.to_container(found.loss_weights) == weights
    assert (found.method.separation_width, found.method.descriptor_size) == (0.08, 8)
    assert list(found.method.decoder_deviations) == pytest.approx([2 ** (i / 2) / 8 for i in range(5)], rel=1e-4)
    assert list(found.segmenter.widths) == [32, 64, 64, 64]
    assert (found.optimizer.name, found.optimizer.lr, found.optimizer.weight_decay) == ("adamw", 1e-3, 1e-6)
    assert found.dataset.flip_probability == 0
    if dataset_name != "synthetic":
        assert (found.image_size, found.batch_size, found.num_steps) == (96, 16, 220000)


def test_the_warps_uniform_numbers_have_the_deviations_of_the_released_normal_ones():
    found = composed("method=uld", "dataset_name=CUB").augmentation
    assert (found.control_points, found.translation, found.greyscale_probability) == (7, 0.3, 0)
    assert (found.noise / 3**0.5, found.rotation / 3**0.5) == pytest.approx((0.1, 10), rel=1e-3)
    low, high = (math.log(scale) / 3**0.5 for scale in found.scale)
    assert (low, high) == pytest.approx((-math.log(1.25), math.log(1.25)), rel=1e-3)


# --- the detector --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (48, 80), (37, 41)])
def test_the_detector_gives_background_first_and_k_maps_of_the_pictures_size(size):
    segmenter = Segmenter([4, 6, 8], 5, has_background=True)
    assert segmenter(segmenter.preprocess(torch.rand(2, 3, *size))).shape == (2, 6, *size)
    assert (segmenter.num_parts, segmenter.has_background) == (5, True)


def test_the_published_widths_are_two_convolutions_of_each_scale():
    found = composed("method=uld", "dataset_name=CUB", "num_parts=10")
    segmenter = segmenters.build(found.segmenter, 10, True)
    convolutions = [
        [layer.weight.shape[:2] for layer in scale if isinstance(layer, nn.Conv2d)]
        for scale in segmenter.hourglass.down
    ]
    assert [[tuple(shape) for shape in scale] for scale in convolutions] == [
        [(32, 3), (32, 32)],
        [(64, 32), (64, 64)],
        [(64, 64), (64, 64)],
        [(64, 64), (64, 64)],
    ]


def test_a_detector_sees_far_and_keeps_fine_detail():
    torch.manual_seed(0)  # of four channels all may be dead
    segmenter = Segmenter([4, 4, 4, 4], 2).eval()
    image = torch.rand(1, 3, 64, 64)
    for pixel in ((31, 31), (10, 50)):
        changed = image.clone()
        changed[..., pixel[0], pixel[1]] += 1
        moved = (segmenter(changed) - segmenter(image)).abs().sum(1)[0]
        assert moved[pixel] > 0 and (moved > 0).float().mean() > 0.2


def test_the_number_of_parts_is_read_from_a_checkpoint_and_another_network_is_refused():
    options = config().segmenter
    state = Segmenter([4, 6, 8], 7, has_background=True).state_dict()
    found = segmenters.from_state(options, state, has_background=True)
    assert found.num_parts == 7
    found.load_state_dict(state)
    with pytest.raises(UserError, match=r"no checkpoint of a segmenter=hourglass.*hourglass\.head\.weight"):
        segmenters.from_state(options, {"layer5.weight": torch.zeros(1)}, has_background=True)


def test_every_parameter_is_in_one_group_and_the_head_learns_as_fast_as_it_is_told(method):
    groups = method.parameter_groups(config("optimizer.head_multiplier=3").optimizer)
    found = [parameter for group in groups for parameter in group["params"]]
    assert len(found) == len({*map(id, found)}) == len([*method.parameters()])
    head = next(group for group in groups if group.get("multiplier") == 3)
    assert [id(tensor) for tensor in head["params"]] == [*map(id, method.predictor.hourglass.head.parameters())]
    assert build_optimizer(groups, config().optimizer)


# --- training ------------------------------------------------------------------------------------------------------


def test_masks_play_no_role_in_training(method):
    method.eval()
    first, second = batch(), batch()
    second.foreground[:] = 0
    with torch.no_grad():
        losses = [method(method.views(crops, Randomness(0, 0, range(2)))) for crops in (first, second)]
    assert losses[0] == losses[1]


def test_losses_are_those_of_the_naive_formulas(method):
    method.eval()
    views = method.views(batch(), Randomness(0, 0, range(2)))
    view = views.jittered
    warped_view = nn.functional.grid_sample(view, views.grid, padding_mode="border", align_corners=True)
    with torch.no_grad():
        found = method(views)
        (centres, deviations), (of_warped, _) = (
            formulas.landmarks(method.predictor(images).double().softmax(1)[:, 1:]) for images in (view, warped_view)
        )
        features, size = method.descriptors(view).double(), view.shape[-2:]
        masks = formulas.soft_masks(centres, deviations, *size)
        described = torch.stack([
            torch.stack([(mask * maps).sum((1, 2)) / mask.sum() for mask in own])
            for own, maps in zip(masks, features, strict=True)
        ])  # fmt: skip
        maps = [formulas.soft_masks(centres, torch.full_like(deviations, 2 ** (i / 2) / 8), *size) for i in range(5)]
        spread = [torch.einsum("nkhw,nkc->nchw", own, described) for own in maps]
        rebuilt = method.decoder(torch.cat([*maps, *spread], dim=1).float()).double()
    expected = {
        "reconstruction": 0.5 * ((rebuilt - view) ** 2).sum() / 2,
        "concentration": formulas.concentration(deviations),
        "separation": formulas.separation(centres, 0.08),
        "equivariance": formulas.equivariance(centres, of_warped, views.grid.double()),
    }
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(
        {name: loss.item() for name, loss in expected.items()}, rel=1e-4
    )


def test_without_a_warp_the_equivariance_is_zero():
    method = built(*(f"augmentation.{setting}" for setting in STILL)).eval()
    with torch.no_grad():
        found = method(method.views(batch(), Randomness(0, 0, range(2))))
    assert found["equivariance"].item() == pytest.approx(0, abs=1e-8)


def test_the_losses_of_a_batch_are_the_means_of_those_of_its_shares(method):
    method.eval()
    whole = batch(4)
    with torch.no_grad():
        found = method(method.views(whole, Randomness(0, 0, range(4))))
        shares = []
        for first in (0, 2):
            part = TrainBatch(
                whole.image[first : first + 2], whole.foreground[first : first + 2], ["", ""], 0, first_place=first
            )
            shares.append(method(method.views(part, Randomness(0, 0, range(first, first + 2)))))
    for name, loss in found.items():
        assert float(loss) == pytest.approx(float(shares[0][name] + shares[1][name]) / 2, rel=1e-4), name


@pytest.mark.parametrize("reconstruction", ["pixels", "perceptual"])
def test_every_network_but_the_perceptual_one_learns_from_the_reconstruction_alone(reconstruction):
    method = built(f"method.reconstruction={reconstruction}")
    method(method.views(batch(), Randomness(0, 0, range(2))))["reconstruction"].backward()
    for network in (method.predictor, method.descriptors, method.decoder):
        reached = [parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.parameters()]
        assert sum(reached) > 0.9 * len(reached)
    if reconstruction == "perceptual":
        assert all(parameter.grad is None for parameter in method.perceptual.parameters())
        assert {name.partition(".")[0] for name in method.trained_beside()} == {"descriptors", "decoder"}


def test_the_transferred_picture_is_drawn_from_places_of_one_view_and_looks_of_the_other():
    method = built("method.reconstruction=perceptual").eval()
    views = method.views(batch(), Randomness(0, 0, range(2)))
    seen = {}
    method.decoder.register_forward_pre_hook(lambda _, inputs: seen.update(maps=inputs[0]))
    with torch.no_grad():
        method(views)
        centres, _ = method.landmarks(warp(views.jittered, views.grid, outside="border"))
        looks = method.descriptors(views.jittered)
    expected = torch.stack([torch.stack([formulas.gaussian(c, 0.1, 32, 32) for c in own]) for own in centres])
    assert (seen["maps"][:, :3] - expected).abs().max() < 1e-5
    assert torch.allclose(seen["maps"][:, 3:], looks, atol=1e-6)


def test_a_warp_brings_in_the_edge_where_it_is_told_to():
    image = torch.rand(1, 3, 5, 5)
    grid = torch.full((1, 2, 2, 2), -3.0)
    assert (warp(image, grid) == 0).all()
    assert torch.equal(warp(image, grid, outside="border"), image[:, :, :1, :1].expand(1, 3, 2, 2))


# --- the labeller --------------------------------------------------------------------------------------------------


class Maps(nn.Module):
    """Gives the logits that it is told, whatever it sees."""

    has_background = True

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.num_parts = logits.shape[1] - 1
        self.calls = 0

    def preprocess(self, images):
        return images

    def forward(self, inputs):
        self.calls += 1
        return self.logits


@torch.no_grad()
def located(logits: torch.Tensor, foreground: torch.Tensor, size: tuple[int, int]):
    """Scores and landmarks of a batch."""
    labeller = LandmarkLabeller(Maps(logits))
    images = torch.zeros(len(foreground), 3, *size, dtype=torch.uint8)
    shown = EvalBatch(images, foreground, [])
    scores = labeller.scores_of(shown)
    centres = labeller.centres(foreground * scores.softmax(1), shown, scores)
    assert labeller.predictor.calls == 1 and not labeller.has_background
    return scores, centres


def test_landmarks_are_the_means_of_the_maps_times_the_mask_in_one_based_pixels():
    torch.manual_seed(0)
    logits, foreground = 3 * torch.randn(2, 5, 24, 36), (torch.rand(2, 1, 24, 36) > 0.4).float()
    _, centres = located(logits, foreground, (24, 36))
    expected = centres_of_mass((logits.double().softmax(1)[:, 1:]) * foreground)
    assert centres.shape == (2, 4, 2) and (centres - expected).abs().max() < 1e-3


def test_a_map_of_one_pixel_has_its_landmark_there():
    logits = torch.full((1, 3, 16, 20), -50.0)
    logits[:, 0] = 0
    logits[0, 1, 4, 7], logits[0, 2, 15, 0] = 50, 50
    scores, centres = located(logits, torch.ones(1, 1, 16, 20), (16, 20))
    assert (centres[0] - torch.tensor([[8.0, 5.0], [1.0, 16.0]])).abs().max() < 1e-3
    assert scores[0, 0].argmax() == 4 * 20 + 7 and scores[0, 1].argmax() == 15 * 20


def test_every_pixel_goes_to_the_nearest_landmark():
    torch.manual_seed(1)
    logits, foreground = 3 * torch.randn(1, 4, 16, 12), torch.ones(1, 1, 16, 12)
    logits[:, 1, :, :4], logits[:, 2, 10:], logits[:, 3, :5, 8:] = 9, 9, 9
    scores, centres = located(logits, foreground, (16, 12))
    for row, column in ((0, 0), (15, 11), (3, 9), (8, 5)):
        distances = (centres[0] - torch.tensor([column + 1.0, row + 1.0])).square().sum(1)
        assert scores[0, :, row, column].argmax() == distances.argmin()
        assert (scores[0, :, row, column] + distances).abs().max() < 1e-2


def test_maps_coarser_than_the_picture_are_brought_to_its_size_and_an_empty_mask_leaves_the_map_alone():
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 3, 6, 8)
    foreground = torch.ones(2, 1, 24, 32)
    foreground[1] = 0
    _, centres = located(logits, foreground, (24, 32))
    full = nn.functional.interpolate(logits, size=(24, 32), mode="bilinear").softmax(1)[:, 1:]
    assert (centres - centres_of_mass(full)).abs().max() < 1e-3


def test_the_untrained_baseline_is_seen_as_the_method_sees_its_network():
    found = config()
    labeller = module("baseline", "untrained").build(None, found, 3, torch.device("cpu"))
    assert isinstance(labeller, LandmarkLabeller) and labeller.title == "untrained"
    for name, own in methods.build(found, True, torch.device("cpu")).predictor.state_dict().items():
        assert torch.equal(labeller.predictor.state_dict()[name], own)
    scops = composed("method=scops", "dataset_name=synthetic", "image_size=32")
    assert module("baseline", "untrained").build(None, scops, 3, torch.device("cpu")).has_background


def test_training_pictures_show_the_nearest_landmarks_on_the_object(method):
    crops = batch()
    crops.foreground = (crops.foreground > 0.5).float()
    for found, mask in zip(examples(LandmarkLabeller(method.predictor), crops), crops.foreground, strict=True):
        assert ((found.predicted > 0) == (mask[0].numpy() > 0)).all() and found.predicted.max() <= 3


# --- through the programs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("uld")


def settings(root, *overrides: str):
    data = (f"dataset_root={root / 'data'}", "evaluation.every=0", "evaluation.size=32", "optimizer.poly_steps=10")
    return config(*data, "checkpointing.every=2", "logging.image_every=1", *overrides)


@pytest.fixture(scope="module")
def whole(root):
    train.train(settings(root, "num_steps=4", f"output_dir={root / 'whole'}"))
    return root / "whole"


def test_a_run_keeps_what_is_trained_beside_the_detector_and_goes_on_to_the_bit(root, whole):
    train.train(settings(root, "num_steps=2", f"output_dir={root / 'cut'}"))
    resumed = settings(root, "num_steps=4", f"output_dir={root / 'cut'}")
    resumed.resume = str(root / "cut")
    train.train(resumed)
    first, second = checkpoints.find(whole), checkpoints.find(root / "cut")
    assert first.step == second.step == 4
    assert {name.partition(".")[0] for name in first.beside} == {"descriptors", "decoder"}
    for kept in ("model", "beside"):
        ours, theirs = getattr(first, kept), getattr(second, kept)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    earlier = checkpoints.find(whole / "checkpoints/model_2.pth")
    assert not torch.equal(earlier.beside["decoder.head.weight"], first.beside["decoder.head.weight"])
    assert list((whole / "pictures").iterdir())


def test_a_run_is_evaluated_beside_the_untrained_network_and_each_input_is_seen_once(root, whole, monkeypatch):
    seen, original = [], Segmenter.forward
    monkeypatch.setattr(Segmenter, "forward", lambda self, inputs: seen.append(len(inputs)) or original(self, inputs))
    overrides = (f"checkpoint={whole}", "baseline=[untrained]", f"output_dir={root / 'figures'}")
    data = (f"dataset_root={root / 'data'}", "evaluation.size=32")
    evaluate.evaluate(composed(*SMALL, *data, *overrides, name="evaluate"))
    figures = json.loads((root / "figures/metrics.json").read_text())
    names = {"FG-NMI", "NMI", "keypoint_error_all"}
    assert names <= set(figures) and names <= set(figures["produced_by"]["baselines"]["untrained"])
    # Three held-out pictures: the part maps' crop, the whole, and the box; six training pictures, whole; two networks.
    assert sum(seen) == 2 * (3 * 3 + 6)


def test_a_run_predicts_parts_inside_the_masks_of_anyones_pictures(root, whole):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / "own" / folder).mkdir(parents=True)
    mask = np.zeros((40, 56), np.uint8)
    mask[8:30, 10:50] = 255
    Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8)).save(root / "own/images/a.png")
    Image.fromarray(mask).save(root / "own/masks/a.png")
    places = (f"images={root / 'own/images'}", f"masks={root / 'own/masks'}", f"output_dir={root / 'out'}")
    with given(f"checkpoint={whole}", "device=cpu", "loader.num_workers=0", *places, name="predict") as found:
        predict.predict(found)
    labels = np.asarray(Image.open(root / "out/label_maps/a.png.png"))
    assert labels.shape == (40, 56) and (labels[mask == 0] == 0).all()
    assert set(np.unique(labels[mask > 0])) <= {0, 1, 2, 3} and (labels[mask > 0] > 0).mean() > 0.95


def test_a_new_run_starts_from_another_ones_detector(root, whole, capsys):
    found = settings(root, "num_steps=4", f"segmenter.weights={whole}")
    predictor = methods.build(found, False, torch.device("cpu")).predictor
    assert "with its head (hourglass.head)" in "".join(capsys.readouterr())
    saved = checkpoints.find(whole).model
    assert all(torch.equal(saved[name], own) for name, own in predictor.state_dict().items())


def test_the_experiment_with_perceptual_reconstruction_does_a_step(root):
    run = f"output_dir={root / 'perceptual'}"
    train.train(settings(root, "experiment=uld_perceptual", "num_steps=1", run))
    assert checkpoints.find(root / "perceptual").step == 1
