"""The method SCOPS: what its two views give, what is trained, saved and clipped, and how its checkpoints evaluate."""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import evaluate
import train
from datasets.batch import TrainBatch
from models import methods
from models.methods import scops
from models.segmenters.deeplab import Segmenter
from tests import scops_formulas as formulas
from tests.composition import composed
from tests.trees import draw_cub_tree
from utils import checkpoints
from utils.optimizer import build_optimizer, clip_gradients, set_learning_rate
from utils.seeding import Randomness

SMALL = (
    "method=scops",
    "dataset_name=synthetic",
    "image_size=48",
    "batch_size=2",
    "num_parts=3",
    "dataset.drawing.num_train=6",
    "dataset.drawing.num_test=3",
    "dataset.drawing.size=48",
    "logging.wandb=disabled",
)
STILL = ("jitter_probability=0", "noise=0", "scale=[1,1]", "rotation=0", "translation=0")


def config(*overrides: str):
    return composed(*SMALL, *overrides)


def batch(num_images: int = 2, size: int = 48) -> TrainBatch:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (num_images, 3, size, size), np.uint8))
    foreground = torch.from_numpy(rng.random((num_images, 1, size, size), np.float32))
    return TrainBatch(image, foreground, [""] * num_images, step=0)


@pytest.fixture(scope="module")
def method() -> scops.Method:
    return methods.build(config(), True, torch.device("cpu"))


@pytest.mark.parametrize("dataset_name", ["CUB", "DF", "PP", "folder", "synthetic"])
def test_its_settings_are_the_released_ones_on_every_data_set(dataset_name):
    found = composed(
        "method=scops", f"dataset_name={dataset_name}", *(["dataset.category=cat"] * (dataset_name == "PP"))
    )
    assert OmegaConf.to_container(found.loss_weights) == {
        "concentration": 10,
        "equivariance": 1000,
        "landmarks": 100,
        "semantic": 10000,
        "orthonormal": 0.1,
    }
    assert found.perceptual.layers == {"relu5_2": 1.0, "relu5_4": 1.0}
    assert (found.augmentation.jitter_probability, found.augmentation.greyscale_probability) == (1, 0)
    assert found.dataset.flip_probability == 0
    if dataset_name != "synthetic":
        assert (found.method.basis_rate, found.perceptual.scale) == (0.01, "published")
        assert (found.optimizer.name, found.optimizer.lr, found.optimizer.poly_steps) == ("sgd", 1e-5, 100000)
        assert found.num_steps == {"CUB": 60000, "folder": 20000}.get(dataset_name, 100000)


def test_the_basis_starts_as_absolute_normal_numbers_of_the_seed(method):
    assert method.basis.shape == (3, 1024) and (method.basis >= 0).all()
    assert method.basis.mean().item() == pytest.approx((2 / np.pi) ** 0.5, rel=0.03)
    torch.manual_seed(7)
    assert torch.equal(methods.build(config(), True, torch.device("cpu")).basis, method.basis)
    assert not torch.equal(methods.build(config("seed=2"), True, torch.device("cpu")).basis, method.basis)


def test_the_first_view_is_clean_and_the_second_is_always_jittered_and_never_grey(method):
    views = method.views(batch(), Randomness(0, 0, range(2)))
    seen = []
    method.logits_of_views, original = lambda *given: seen.extend(given) or original(*given), method.logits_of_views
    try:
        method(views)
    finally:
        del method.logits_of_views
    assert torch.equal(seen[0], method.predictor.preprocess(views.image))
    assert all((views.jittered_to_warp[place] != views.image[place]).any() for place in range(2))
    assert all(views.jittered_to_warp[place].std(0).max() > 0.05 for place in range(2))


def test_losses_are_those_of_the_naive_formulas_with_soft_saliency(method):
    method.eval()
    views = method.views(batch(), Randomness(0, 0, range(2)))
    with torch.no_grad():
        found = method(views)
        logits = method.full_size_logits(method.predictor.preprocess(views.image)).double()
        warped = nn.functional.grid_sample(logits, views.grid.double(), align_corners=True)
        inputs = nn.functional.grid_sample(
            method.predictor.preprocess(views.jittered_to_warp), views.grid, align_corners=True
        )
        of_warped = method.full_size_logits(inputs).double()
        features = [small.double() for small in method.perceptual(views.image)]
        masks, warped_masks, masks_of_warped = (x.softmax(1)[:, 1:] for x in (logits, warped, of_warped))
        basis, foreground = method.basis.double(), views.foreground.double()
        expected = {
            "concentration": formulas.concentration(masks),
            "equivariance": formulas.equivariance(warped, of_warped),
            "landmarks": formulas.landmark_equivariance(masks_of_warped, warped_masks),
            "semantic": formulas.semantic_consistency(masks, features, foreground, basis),
            "orthonormal": formulas.orthonormality(basis),
        }
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(
        {name: loss.item() for name, loss in expected.items()}, rel=1e-4
    )


def test_with_a_still_second_view_both_equivariances_are_zero(method):
    method.eval()
    still = config(*(f"augmentation.{setting}" for setting in STILL)).augmentation
    moving, method.augmentation = method.augmentation, still
    try:
        with torch.no_grad():
            found = method(method.views(batch(), Randomness(0, 0, range(2))))
    finally:
        method.augmentation = moving
    assert found["equivariance"].item() == pytest.approx(0, abs=1e-6)
    assert found["landmarks"].item() == pytest.approx(0, abs=1e-8)


def test_the_basis_keeps_its_rate_and_is_clipped_apart_from_the_network(method):
    found = config()
    optimizer = build_optimizer(method.parameter_groups(found.optimizer), found.optimizer)
    set_learning_rate(optimizer, found.optimizer, 100)
    *network, basis = optimizer.param_groups
    assert (
        found.method.basis_rate == 0.3
        and basis["lr"] == np.float32(0.3)
        and all(group["lr"] < found.optimizer.lr for group in network)
    )
    assert [id(tensor) for tensor in basis["params"]] == [id(method.basis)]
    for group in network:
        for tensor in group["params"]:
            tensor.grad = torch.full_like(tensor, 100.0)
    method.basis.grad = torch.full_like(method.basis, 1e-3)
    norms = clip_gradients(optimizer, 5.0)
    assert norms["gradient_norm"] > 5 and (method.basis.grad == 1e-3).all()
    assert norms["gradient_norm_basis"].item() == pytest.approx(1e-3 * method.basis.numel() ** 0.5, rel=1e-4)
    method.zero_grad()


def test_a_run_saves_the_basis_goes_on_to_the_bit_and_evaluates_with_its_own_background(tmp_path):
    data = f"dataset_root={tmp_path / 'data'}"
    settings = (data, "num_steps=4", "evaluation.every=0", "evaluation.size=48", "optimizer.poly_steps=10")
    whole = config(*settings, "checkpointing.every=2", f"output_dir={tmp_path / 'whole'}")
    train.train(whole)
    train.train(config(*settings[:1], "num_steps=2", *settings[2:], f"output_dir={tmp_path / 'cut'}"))
    resumed = config(*settings, f"output_dir={tmp_path / 'cut'}")
    resumed.resume = str(tmp_path / "cut")
    train.train(resumed)
    first, second = (checkpoints.find(tmp_path / run) for run in ("whole", "cut"))
    assert first.step == second.step == 4 and torch.equal(first.beside["basis"], second.beside["basis"])
    assert all(torch.equal(first.model[name], second.model[name]) for name in first.model)
    earlier = checkpoints.find(tmp_path / "whole/checkpoints/model_2.pth")
    assert not torch.equal(earlier.beside["basis"], first.beside["basis"])

    evaluate.evaluate(
        composed(
            *SMALL, data, f"checkpoint={tmp_path / 'whole'}", f"output_dir={tmp_path / 'figures'}", name="evaluate"
        )
    )
    figures = json.loads((tmp_path / "figures/metrics.json").read_text())
    assert figures["produced_by"]["num_parts"] == 3 and "FG-NMI" in figures


def test_the_published_bare_state_dict_evaluates_with_k_parts_and_its_own_background(tmp_path):
    draw_cub_tree(tmp_path / "data/CUB")
    torch.manual_seed(0)
    torch.save(Segmenter(4, has_background=True).state_dict(), tmp_path / "model_60000.pth")
    settings = (f"dataset_root={tmp_path / 'data'}", f"checkpoint={tmp_path / 'model_60000.pth'}", "evaluation.size=48")
    settings += ("logging.wandb=disabled", "loader.num_workers=0")
    evaluate.evaluate(composed("method=scops", *settings, f"output_dir={tmp_path / 'figures'}", name="evaluate"))
    figures = json.loads((tmp_path / "figures/metrics.json").read_text())
    assert figures["produced_by"]["num_parts"] == 4 and {"FG-NMI", "NMI", "keypoint_error_all"} <= set(figures)
