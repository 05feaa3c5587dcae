"""Region grouping: prototypes, regions, occurrence, what it learns from classes, its settings, and runs of it."""

import csv
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_distribution
from torch import nn
from torchvision.models import ResNet, ResNet101_Weights, resnet101
from torchvision.models.resnet import Bottleneck as TorchvisionBottleneck

import datasets
import evaluate
import train
from datasets.batch import EvalBatch, TrainBatch
from datasets.cache import cached
from datasets.example import draw_folder
from evaluation.labellers.regions import RegionLabeller
from losses import part_occurrence_loss
from models import methods, segmenters
from models.region_grouping import Bottleneck, RegionClassifier, RegionGrouping
from models.segmenters import region_grouping
from tests.composition import composed, given
from tests.shared import GOLDEN
from utils import checkpoints
from utils.errors import UserError
from utils.optimizer import build_optimizer
from utils.seeding import Randomness

CPU = torch.device("cpu")
SMALL = (
    "method=region_grouping",
    "dataset_name=synthetic",
    "image_size=48",
    "batch_size=4",
    "num_parts=3",
    "segmenter.network=test_resnet",
    "dataset.drawing.num_train=16",
    "dataset.drawing.num_test=8",
    "dataset.drawing.size=48",
    "logging.wandb=disabled",
)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "region_grouping.npz") as file:
        return dict(file)


def inputs(golden) -> tuple[RegionGrouping, torch.Tensor]:
    grouping = RegionGrouping(10, 4)
    grouping.load_state_dict({name: torch.from_numpy(golden[name]) for name in ("centres", "smoothing")})
    return grouping, torch.from_numpy(golden["features"]).requires_grad_()


def check_gradients(golden, name, scalar, grouping, features):
    gradients = torch.autograd.grad(scalar, [features, grouping.centres, grouping.smoothing])
    for which, gradient in zip(("features", "centres", "smoothing"), gradients, strict=True):
        expected = golden[f"{name}_gradient_{which}"]
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def random_assignments(count: int, parts: int = 3, side: int = 7) -> torch.Tensor:
    return (2 * torch.randn(count, parts, side, side + 2, dtype=torch.float64)).softmax(1)


def occurrences(assignments: torch.Tensor, radius: int = 2, std: float = 0.4) -> np.ndarray:
    """(N, K): the Gaussian written cell by cell."""
    count, parts, height, width = assignments.shape
    steps = range(-radius, radius + 1)
    window = np.array([[np.exp(-(y * y + x * x) / (2 * std**2)) for x in steps] for y in steps])
    window /= window.sum()
    found = np.zeros((count, parts))
    for image in range(count):
        for part in range(parts):
            found[image, part] = max(
                (window * assignments[image, part, y : y + len(window), x : x + len(window)].numpy()).sum()
                for y in range(height - 2 * radius)
                for x in range(width - 2 * radius)
            )
    return found


def test_regions_and_assignments_are_the_released_ones(golden):
    grouping, features = inputs(golden)
    regions, assignments = grouping(features)
    np.testing.assert_allclose(regions.detach(), golden["regions"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(assignments.detach(), golden["assignments"], rtol=1e-4, atol=1e-5)
    check_gradients(golden, "regions", (regions * torch.from_numpy(golden["direction"])).sum(), grouping, features)


@pytest.mark.parametrize("case", [0, 1])
def test_the_occurrence_loss_is_the_released_one(golden, case):
    grouping, features = inputs(golden)
    alpha, beta = golden[f"occurrence{case}_alpha_beta"].tolist()
    loss = part_occurrence_loss(grouping(features)[1], alpha, beta)
    assert loss.item() == pytest.approx(float(golden[f"occurrence{case}"]), rel=1e-4)
    check_gradients(golden, f"occurrence{case}", loss, grouping, features)


def test_regions_are_those_of_the_naive_formula():
    torch.manual_seed(0)
    grouping = RegionGrouping(5, 3).double()
    nn.init.normal_(grouping.smoothing)
    features = torch.rand(2, 5, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        regions, assignments = grouping(features)
        beta = 1 / (1 + (-grouping.smoothing).exp())
        for image in range(2):
            for part in range(3):
                sums, mass = torch.zeros(5, dtype=torch.float64), 0.0
                for y in range(4):
                    for x in range(3):
                        cell = features[image, :, y, x]
                        scores = [-((cell - d) ** 2).sum() / b for d, b in zip(grouping.centres, beta, strict=True)]
                        share = torch.stack(scores).softmax(0)[part]
                        assert assignments[image, part, y, x].item() == pytest.approx(share.item(), rel=1e-9)
                        sums, mass = sums + share * cell, mass + share
                vector = (sums / mass - grouping.centres[part]) / (beta[part] / 2) ** 0.5
                assert torch.allclose(regions[image, part], vector / vector.norm(), rtol=1e-9)


def test_shares_of_a_cell_sum_to_one_and_regions_have_unit_length():
    torch.manual_seed(0)
    with torch.no_grad():
        regions, assignments = RegionGrouping(64, 5)(torch.rand(3, 64, 6, 5) * 4)
    assert torch.allclose(assignments.sum(1), torch.ones(3, 6, 5)) and (assignments >= 0).all()
    assert torch.allclose(regions.norm(dim=2), torch.ones(3, 5))


def test_with_little_smoothing_a_cell_goes_to_its_nearest_prototype():
    torch.manual_seed(0)
    grouping = RegionGrouping(8, 4)
    features = torch.rand(2, 8, 5, 5)
    with torch.no_grad():
        soft = grouping(features)[1].amax(1)
        grouping.smoothing.fill_(-15.0)
        assignments = grouping(features)[1]
    nearest = torch.cdist(features.permute(0, 2, 3, 1).flatten(0, 2), grouping.centres).argmin(1).view(2, 5, 5)
    assert soft.max() < 0.9 and torch.equal(assignments.argmax(1), nearest) and assignments.amax(1).min() > 0.999


def test_prototypes_start_positive_with_the_spread_of_he_and_half_smoothed():
    torch.manual_seed(0)
    grouping = RegionGrouping(1024, 50)
    centres = grouping.centres.detach()
    assert centres.min() == pytest.approx(1e-5) and (centres == centres.min()).float().mean() == pytest.approx(
        0.5, 0.02
    )
    assert centres[centres > 1e-4].square().mean().sqrt() == pytest.approx((2 / 1024) ** 0.5, rel=0.02)
    assert torch.equal(grouping.smoothing.sigmoid(), torch.full((50,), 0.5))


def test_half_precision_features_are_compared_in_full_precision():
    grouping = RegionGrouping(16, 3)
    features = (10 * torch.rand(1, 16, 6, 6)).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits, (regions, _) = grouping.logits(features), grouping(features)
    assert logits.dtype == regions.dtype == torch.float32
    assert torch.equal(logits, grouping.logits(features.float()))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.001), (2.0, 3.0), (0.5, 0.5)])
def test_the_occurrence_loss_is_that_of_the_naive_formula(alpha, beta):
    torch.manual_seed(0)
    assignments = random_assignments(6)
    found, expected = occurrences(assignments), 0.0
    for part in range(3):
        for i, t in enumerate(sorted(found[:, part]), start=1):
            quantile = beta_distribution.ppf((2 * i - 1) / 12, alpha, beta)
            expected += abs(np.log(t + 1e-5) - np.log(quantile + 1e-5)) / 18
    assert part_occurrence_loss(assignments, alpha, beta).item() == pytest.approx(expected, rel=1e-9)


def test_the_window_is_a_gaussian_of_sum_one():
    peak = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    for place, share in (((4, 4), 0.845), ((0, 0), 0.0)):  # of a corner the window inside the map sees nearly nothing
        peak.zero_()[0, 0, *place] = 1.0
        loss = part_occurrence_loss(peak, 1, 0.001).item()
        assert np.exp(-loss) == pytest.approx(share, abs=1e-3)
    full = torch.ones(1, 1, 9, 9, dtype=torch.float64)
    assert part_occurrence_loss(full, 1, 0.001).item() == pytest.approx(0, abs=1e-6)


def test_with_beta_of_a_thousandth_every_part_is_to_be_in_each_of_32_pictures():
    torch.manual_seed(0)
    assignments = random_assignments(32)
    expected = -np.log(occurrences(assignments) + 1e-5).mean()
    assert part_occurrence_loss(assignments, 1, 0.001).item() == pytest.approx(expected, abs=2e-5)


def test_the_occurrence_loss_is_zero_where_the_occurrences_are_the_quantiles():
    quantiles = beta_distribution.ppf((2 * np.arange(1, 9) - 1) / 16, 2, 3)
    assignments = torch.from_numpy(np.random.default_rng(0).permutation(quantiles))[:, None, None, None]
    assert part_occurrence_loss(assignments.expand(8, 2, 6, 6), 2, 3).item() == pytest.approx(0, abs=1e-9)
    assert part_occurrence_loss(assignments.expand(8, 2, 6, 6), 3, 2).item() > 0.1


def test_the_order_of_the_batch_does_not_matter():
    torch.manual_seed(0)
    assignments = random_assignments(5)
    loss = part_occurrence_loss(assignments, 2, 3)
    assert part_occurrence_loss(assignments[torch.randperm(5)], 2, 3).item() == pytest.approx(loss.item(), rel=1e-12)
    assert part_occurrence_loss(assignments[:2], 2, 3).item() != pytest.approx(loss.item(), rel=1e-3)


def test_the_gradients_are_those_of_differences():
    torch.manual_seed(0)
    grouping = RegionGrouping(4, 2).double()
    features = torch.rand(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)

    def of(features, centres, smoothing):
        regions, assignments = torch.func.functional_call(
            grouping, {"centres": centres, "smoothing": smoothing}, (features,)
        )
        return regions.sum(), part_occurrence_loss(assignments, 2, 3)

    assert torch.autograd.gradcheck(of, (features, *grouping.parameters()), atol=1e-6)


def test_a_window_larger_than_the_map_is_refused():
    with pytest.raises(ValueError, match="5 x 5 cells does not fit into 4 x 6"):
        part_occurrence_loss(torch.ones(2, 3, 4, 6), 1, 0.001)


def test_new_blocks_start_as_their_shortcut_and_attention_weighs_every_region():
    torch.manual_seed(0)
    vectors = torch.rand(2, 16, 3)
    assert torch.equal(Bottleneck(16, 4, 16)(vectors), vectors)
    classifier = RegionClassifier(16, 7).eval()
    for block in (module for module in classifier.modules() if isinstance(module, Bottleneck)):
        assert not block.residual[-1].weight.any()
    attention = classifier.attention_of(vectors.transpose(1, 2))
    assert attention.shape == (2, 3) and torch.allclose(attention.sum(1), torch.ones(2)) and (attention > 0).all()
    assert classifier(vectors.transpose(1, 2)).shape == (2, 7)


def test_with_resnet_101_the_blocks_have_the_released_sizes():
    with torch.device("meta"):
        classifier = RegionClassifier(1024, 200)
    shapes = [
        [tuple(module.weight.shape[:2]) for module in blocks.modules() if isinstance(module, nn.Conv1d)]
        for blocks in (classifier.attention, classifier.post)
    ]
    block = [(256, 1024), (256, 256), (1024, 256)]
    assert shapes[0] == [*block, *block, (1, 1024)]
    wide = [(512, 2048), (512, 512), (2048, 512)]
    assert shapes[1] == [(512, 1024), (512, 512), (2048, 512), (2048, 1024), *wide, *wide, *wide]
    assert classifier.classifier.weight.shape == (200, 2048)


def test_its_settings_are_the_released_ones_on_cub():
    found = composed("method=region_grouping", "dataset_name=CUB")
    assert (found.num_parts, found.image_size, found.batch_size, found.num_steps) == (5, 448, 16, 56100)
    optimizer = found.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.head_multiplier) == ("sgd", 5e-4, 20)
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.schedule) == (0.9, 5e-4, "cosine")
    assert optimizer.poly_steps == found.num_steps and found.dataset.flip_probability == 0.5
    assert found.loss_weights == {"classification": 1, "occurrence": 0.5}
    assert (found.method.occurrence_alpha, found.method.occurrence_beta) == (1, 0.001)
    assert (found.augmentation.brightness, found.augmentation.contrast, found.augmentation.hue) == (0.1, 0, 0)


def test_torchvisions_weights_fit_its_network_up_to_layer3_and_give_torchvisions_map(tmp_path, capsys):
    torch.manual_seed(0)
    published = ResNet(TorchvisionBottleneck, [2, 2, 2, 2])
    torch.save(published.state_dict(), tmp_path / "resnet26.pth")
    weights = f"segmenter.weights={tmp_path / 'resnet26.pth'}"
    options = composed("method=region_grouping", "segmenter.network=resnet26", weights).segmenter
    segmenter = segmenters.build(options, 5).eval()
    assert "left out layer4" in capsys.readouterr().err
    pictures = torch.rand(1, 3, 64, 80)
    published.eval()
    with torch.no_grad():
        x = published.maxpool(published.relu(published.bn1(published.conv1(pictures))))
        expected = published.layer3(published.layer2(published.layer1(x)))
        (found,) = segmenter.backbone(pictures)
        assert found.shape == (1, 1024, 4, 5) and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
        logits, (_, assignments) = segmenter(pictures), segmenter(pictures, with_regions=True)
    assert torch.equal(logits.softmax(1), assignments) and logits.shape == (1, 5, 4, 5)


def test_its_network_is_torchvisions_resnet_101_up_to_layer3_and_so_is_its_file():
    options = composed("method=region_grouping").segmenter
    with torch.device("meta"):
        segmenter, published = region_grouping.Segmenter(options, 5), resnet101()
    own = {name: tensor.shape for name, tensor in segmenter.backbone.model.state_dict().items()}
    of_file = {name: tensor.shape for name, tensor in published.state_dict().items()}
    assert own == {name: shape for name, shape in of_file.items() if not name.startswith(("layer4.", "fc."))}
    assert options.weights == ResNet101_Weights.IMAGENET1K_V1.url


def config(*overrides: str):
    return composed(*SMALL, *overrides)


@pytest.fixture(scope="module")
def method():
    return methods.build(config(), True, CPU, num_classes=8)


def batch(size: int = 48) -> TrainBatch:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (4, 3, size, size), np.uint8))
    labels = torch.tensor([1, 8, 3, 3])
    return TrainBatch(image, torch.ones(4, 1, size, size), [""] * 4, step=0, labels=labels)


def test_its_view_is_the_whole_crop_with_another_brightness_and_classes_from_zero(method):
    views = method.views(batch(), Randomness(0, 0, range(4)))
    assert views.classes.tolist() == [0, 7, 2, 2]
    factors = views.image.mean((1, 2, 3)) / (batch().image / 255).mean((1, 2, 3))
    assert ((factors > 0.89) & (factors < 1.11)).all() and factors.std() > 0.01


def test_the_losses_teach_every_part_of_the_method_and_new_layers_learn_faster(method):
    losses = method(method.views(batch(), Randomness(0, 0, range(4))))
    assert list(losses) == ["classification", "occurrence", "accuracy"] and not losses["accuracy"].requires_grad
    assert losses["classification"].item() == pytest.approx(np.log(8), rel=0.5) and 0 <= losses["accuracy"] <= 1
    found = composed("method=region_grouping", "dataset_name=CUB")
    groups = build_optimizer(method.parameter_groups(found.optimizer), found.optimizer).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert rates.keys() == {id(parameter) for parameter in method.parameters()}
    first = next(method.predictor.backbone.parameters())
    assert rates[id(first)] == pytest.approx(5e-4)
    for new in (method.predictor.head.centres, method.predictor.head.smoothing, method.classifier.classifier.weight):
        assert rates[id(new)] == pytest.approx(0.01)
    (0.0 * losses["classification"] + losses["occurrence"]).backward()
    assert method.predictor.head.centres.grad.any() and first.grad.any()
    method.zero_grad()


@pytest.mark.slow
def test_it_learns_the_species_of_held_out_pictures_from_a_few_hundred_crops(tmp_path):
    run = tmp_path / "run"
    settings = ("num_steps=60", "batch_size=8", "dataset.drawing.num_train=64", "dataset.drawing.num_test=24")
    settings += (f"dataset_root={tmp_path / 'data'}", "evaluation.every=0", "logging.every=5")
    train.train(config(*settings, f"output_dir={run}"))
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    logged = [[float(row[name]) for row in rows] for name in ("accuracy", "occurrence")]
    assert np.mean(logged[0][-4:]) > 0.6 > 0.4 > np.mean(logged[0][:2])
    assert np.mean(logged[1][-4:]) < np.mean(logged[1][:2])

    data = datasets.build(config(*settings), "test", "evaluation")
    held_out = TrainBatch.collate([data.test_crop(data[index], 48) for index in range(len(data))], step=0)
    trained = methods.build(config(*settings), True, CPU, data.num_classes)
    before = accuracy(trained.eval(), held_out)
    trained.load(checkpoints.find(run))
    assert accuracy(trained, held_out) > 0.5 > 0.3 > before  # 1 in 8 by chance


def accuracy(trained, pictures: TrainBatch) -> float:
    found = trained.class_scores(pictures.image.float() / 255).argmax(1)
    return (found == pictures.labels - 1).float().mean().item()


def test_a_run_knows_its_classes_goes_on_to_the_bit_and_is_evaluated_by_its_assignments(tmp_path):
    data = f"dataset_root={tmp_path / 'data'}"
    settings = (data, "num_steps=4", "evaluation.every=0", "optimizer.poly_steps=10", "logging.every=1")
    train.train(config(*settings, f"output_dir={tmp_path / 'whole'}"))
    train.train(config(*settings[:1], "num_steps=2", *settings[2:], f"output_dir={tmp_path / 'cut'}"))
    resumed = config(*settings, f"output_dir={tmp_path / 'cut'}")
    resumed.resume = str(tmp_path / "cut")
    train.train(resumed)
    first, second = (checkpoints.find(tmp_path / run) for run in ("whole", "cut"))
    assert first.config["method"]["num_classes"] == 8
    assert first.beside["classifier.classifier.weight"].shape[0] == 8
    for state, other in ((first.model, second.model), (first.beside, second.beside)):
        assert state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)

    overrides = (f"checkpoint={tmp_path / 'whole'}", "baseline=[untrained]", f"output_dir={tmp_path / 'figures'}")
    with given(*overrides, "logging.wandb=disabled", name="evaluate") as found:
        evaluate.evaluate(found)
    figures = json.loads((tmp_path / "figures/metrics.json").read_text())
    assert figures["produced_by"]["num_parts"] == 3 and {"FG-NMI", "keypoint_error_all"} <= set(figures)
    assert "untrained" in figures["produced_by"]["baselines"]


def test_keypoints_are_regressed_from_whole_regions_on_the_networks_own_map():
    logits, (height, width) = 3 * torch.randn(2, 3, 4, 6), (64, 96)
    batch = EvalBatch(torch.zeros(2, 3, height, width, dtype=torch.uint8), torch.zeros(2, 1, height, width), [])
    found = RegionLabeller(SimpleNamespace(num_parts=3, has_background=False)).centres(None, batch, logits)
    assert found.shape == (2, 3, 2)
    for n, k in itertools.product(range(2), range(3)):
        share = logits[n].double().softmax(0)[k]
        x, y = (
            sum(float(share[place]) * 16 * (1 + place[axis]) for place in itertools.product(range(4), range(6)))
            for axis in (1, 0)
        )
        assert found[n, k].tolist() == pytest.approx([x / float(share.sum()), y / float(share.sum())], rel=1e-5)


def test_pictures_kept_in_the_cache_keep_their_class(tmp_path):
    data = datasets.build(config(f"dataset_root={tmp_path}"), "train", "training")
    kept = cached(data, "disk", tmp_path / "cache")
    labels = [data[index].label for index in range(len(data))]
    assert data.num_classes == 8 and sorted(set(labels)) == list(range(1, 9))
    for _ in range(2):
        assert [kept[index].label for index in range(len(data))] == labels


def test_a_data_set_without_classes_or_with_other_ones_is_refused(tmp_path):
    with pytest.raises(UserError, match="trains on the pictures' classes, and dataset_name=folder has none: give"):
        methods.build(composed("method=region_grouping", "dataset_name=folder"), True, CPU)
    few = composed("method=region_grouping", "dataset_name=folder", f"dataset_root={tmp_path}", "batch_size=1000")
    draw_folder(tmp_path, count=10, size=48)
    with pytest.raises(UserError, match="has none: give"):
        train.inputs(few)  # and not another batch, which mends nothing
    with pytest.raises(UserError, match=r"method.num_classes=5: dataset_name=synthetic has 8. Leave it out"):
        methods.build(config("method.num_classes=5"), True, CPU, num_classes=8)


def test_another_segmenter_is_refused_and_a_map_smaller_than_the_window():
    with pytest.raises(UserError, match="trains a segmenter with a region grouping: give segmenter=region_grouping"):
        on_cub = composed("method=region_grouping", "segmenter=caffe", "segmenter.weights=none")
        methods.build(on_cub, True, CPU, num_classes=200)
    with pytest.raises(UserError, match="the map of test_resnet has 3 x 3 cells, and method.occurrence_radius=2"):
        methods.build(config("segmenter.output_stride=16"), True, CPU, num_classes=8)


def test_a_checkpoint_of_another_network_is_refused_by_the_segmenter(method):
    with pytest.raises(UserError, match="it has no head.centres of the shape"):
        segmenters.from_state(config().segmenter, {"layer5.conv2d_list.0.weight": torch.zeros(4, 1, 3, 3)})
    assert segmenters.from_state(config().segmenter, method.predictor.state_dict()).num_parts == 3
