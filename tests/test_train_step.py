"""The method and its optimiser: two whole training steps against those of the release, and what a run relies on."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.batch import TrainBatch
from datasets.transforms.pair import Pair
from losses.contrastive import draw_positives
from models import methods
from models.methods.contrastive_reconstruction import Method, Views
from models.segmenters.deeplab import Segmenter
from tests.composition import composed
from tests.golden_checkpoint import golden_state
from tests.shared import GOLDEN
from utils.errors import UserError
from utils.optimizer import build_optimizer, clip_gradients, set_learning_rate
from utils.seeding import Randomness, generator

OPTIMIZER = SimpleNamespace(
    name="sgd",
    lr=1e-5,
    head_multiplier=10.0,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="poly",
    poly_power=0.9,
    poly_steps=100000,
)
METHOD = SimpleNamespace(
    temperature=0.19,
    negatives="all_images",
    positives="uniform",
    descriptors="contrastive",
    equivariance="release",
    normalisation="release",
)
WEIGHTS = {"feature": 5, "contrastive": 2300, "visual": 30, "equivariance": 5700}


def test_two_steps_give_the_losses_gradients_and_weights_of_the_release() -> None:
    golden = dict(np.load(GOLDEN / "train_step.npz"))
    segmenter = Segmenter(num_parts=4)
    segmenter.load_state_dict(golden_state(head=False))
    method = Method(segmenter, torch.nn.Identity(), METHOD, augmentation=None).train()
    optimizer = build_optimizer(method.parameter_groups(OPTIMIZER), OPTIMIZER)
    later_of_the_others = torch.tensor([2, 2, 1])[:, None].expand(3, 4)

    for step in range(2):
        case = {name[6:]: golden[name] for name in golden if name.startswith(f"step{step}_")}

        def tensor(name: str, case: dict = case) -> Tensor:
            return torch.from_numpy(case[name]).float()

        rate = set_learning_rate(optimizer, OPTIMIZER, step)
        losses = method.losses(
            view=tensor("view"),
            view_to_warp=tensor("view_to_warp"),
            features=[tensor("features_0"), tensor("features_1")],
            lab=tensor("lab"),
            foreground=tensor("foreground"),
            grid=tensor("grid"),
            positives=later_of_the_others,
        )
        total = sum(WEIGHTS[name] * loss for name, loss in losses.items())
        optimizer.zero_grad()
        total.backward()
        norm = clip_gradients(optimizer, 5.0)["gradient_norm"]
        optimizer.step()

        for name, loss in (losses | {"total": total}).items():
            assert loss.item() == pytest.approx(float(case[name]), rel=1e-4), f"{name}, step {step}"
        assert norm.item() == pytest.approx(float(case["gradient_norm"]), rel=1e-3)
        assert rate == pytest.approx(float(case["learning_rate"]), rel=1e-6)

    state, before = segmenter.state_dict(), golden_state(head=False)
    afterwards = [name for name in golden if name.startswith("after_")]
    assert len(afterwards) == 6
    for name in afterwards:
        expected = torch.from_numpy(golden[name])
        found, start = (weights[name.removeprefix("after_")].flatten()[: len(expected)] for weights in (state, before))
        assert (found - expected).norm() <= 1e-5 * expected.norm(), name
        # Two clipped steps move some weights by two units in the last place: the moves agree, but for rounding.
        assert (found - expected).norm() <= 0.2 * (expected - start).norm(), name


def views(num_images: int, size: int) -> Views:
    torch.manual_seed(1)
    grid = torch.nn.functional.affine_grid(
        0.9 * torch.eye(2, 3).expand(num_images, 2, 3), (num_images, 1, size, size), align_corners=True
    )
    image, jittered, jittered_to_warp = torch.rand(3, num_images, 3, size, size)
    foreground = (torch.rand(num_images, 1, size, size) > 0.3).float()
    pair = Pair(image, jittered, jittered_to_warp, foreground, grid)
    positives = draw_positives(num_images, 4, generator(0, "positives"), "uniform")
    return Views(pair, 100 * torch.rand(num_images, 3, size, size), positives)


def built(*overrides: str) -> Method:
    config = composed("dataset_name=synthetic", "batch_size=2", "perceptual.layers.relu5_4=1.0", *overrides)
    return methods.build(config, has_masks=True, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def method() -> Method:
    return built()


def test_a_method_gives_four_losses_that_train_the_segmenter_alone(method: Method) -> None:
    batches_before = int(method.predictor.bn1.num_batches_tracked)
    losses = method.train()(views(2, 64))
    sum(losses.values()).backward()
    assert set(losses) == set(WEIGHTS)
    assert all(loss.ndim == 0 and loss.isfinite() and loss > 0 for loss in losses.values())
    assert method.predictor.bn1.num_batches_tracked == batches_before + 2  # a view at a time
    assert all(parameter.grad is None for parameter in method.perceptual.parameters())
    trained = {id(p) for group in method.parameter_groups(OPTIMIZER) for p in group["params"]}
    assert trained == {id(p) for p in method.parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["l2", "l2_unnormalised", "same_image", "paper_formulas"])
def test_an_ablation_changes_the_losses_that_it_is_about(method: Method, name: str) -> None:
    own = composed(f"experiment=cub/{name}", "dataset_name=synthetic")
    seen = views(2, 64)
    if own.method.positives == "same_image":
        seen = replace(seen, positives=draw_positives(2, 4, generator(0, "positives"), "same_image"))
    before, method.options = method.options, own.method
    try:
        method.eval()
        losses = method(seen)
    finally:
        method.options = before
    usual, changed = method(views(2, 64)), WEIGHTS if name == "paper_formulas" else {"contrastive"}
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    assert {loss for loss in usual if not torch.equal(usual[loss], losses[loss])} == set(changed)


def test_positives_depend_on_seed_and_step_alone(method: Method) -> None:
    batch = TrainBatch(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.ones(4, 1, 8, 8), [""] * 4, step=3)

    def positives(seed: int, step: int) -> Tensor:
        return method.views(batch, Randomness(seed, step, range(4))).positives

    first = positives(1, 3)
    torch.manual_seed(99)
    assert torch.equal(positives(1, 3), first)
    assert not torch.equal(positives(1, 3), positives(1, 4)) and not torch.equal(positives(1, 3), positives(2, 3))


def test_mixed_precision_keeps_the_losses_in_float32(method: Method) -> None:
    method.eval()
    with torch.no_grad():
        exact = method(views(2, 64))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = method(views(2, 64))
    for name, loss in mixed.items():
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(exact[name]), rel=0.1), name


def test_new_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = built()
    torch.manual_seed(6)
    second, other = built(), built("seed=2")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first.predictor.conv1.weight, other.predictor.conv1.weight)
    assert not torch.equal(next(first.perceptual.parameters()), next(other.perceptual.parameters()))


def test_a_batch_too_small_for_the_choice_of_positives_is_refused_before_training() -> None:
    with pytest.raises(UserError, match="batch_size=2: method.positives=release .* 3 or more"):
        built("method.positives=release")


def test_data_without_masks_is_refused_before_training() -> None:
    with pytest.raises(UserError, match="trains on foreground masks.*dataset_name=synthetic has none"):
        methods.build(composed("dataset_name=synthetic"), has_masks=False, device=torch.device("cpu"))


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match="There is no method 'mine'.*There are .*contrastive_reconstruction, .*foreground"
    ):
        composed("method.name=mine")
