import re
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass, make_dataclass
from typing import get_type_hints

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from conf.app import CONF, replacing
from conf.modules import module, names
from conf.schema import NODES, OPTIMIZERS, EvaluateConfig, TrainConfig, known_keys, owners
from tests.composition import composed
from utils.errors import UserError

OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))
EXPERIMENTS = sorted(
    str(path.relative_to(CONF / "experiment").with_suffix("")) for path in CONF.glob("experiment/**/*.yaml")
)
# What an option does not say itself.
ASKED = {
    "perceptual=timm": ("perceptual.network=resnet18", "perceptual.layers={4: 1}"),
    "segmenter=timm": ("segmenter.network=resnet18",),
    "augmentation=brightness": ("method=region_grouping",),
    "augmentation=pixels": ("method=ac",),
    "recipe=uld_synthetic": ("method=uld",),
    "recipe=scops_synthetic": ("method=scops",),
    "recipe=region_grouping_synthetic": ("method=region_grouping",),
}
ASKED |= {
    option: (f"method={method}",)
    for option in OPTIONS
    for method in ("ac", "arl", "iic", "doersch", "isola", "deepcluster")
    if option.startswith(f"recipe={method}_")
}
DATASETS = sorted(path.stem for path in (CONF / "dataset_name").glob("*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_group_option_composes_and_is_valid(option):
    programs = {"table": "evaluation_table", "pretrained": "predict"}
    name = programs.get(option.partition("=")[0], "train")
    composed(option, *ASKED.get(option, ()), name=name)


@pytest.mark.parametrize("dataset_name", DATASETS)
def test_every_data_set_brings_its_own_node(dataset_name):
    config = composed(f"dataset_name={dataset_name}")
    assert config.dataset_name == dataset_name and config.dataset.folder


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_goes_with_every_data_set(experiment):
    """With each where both may speak of one thing, the optimizer or the data; else with two, which take turns."""
    text = (CONF / f"experiment/{experiment}.yaml").read_text()
    place = EXPERIMENTS.index(experiment)
    some = {DATASETS[(place + half) % len(DATASETS)] for half in (0, len(DATASETS) // 2)}
    # Those of DeepFashion have the keys of CUB's.
    some = {"DF"} if experiment.startswith("deepfashion/") else some
    for dataset_name in DATASETS if re.search("/optimizer:|^optimizer:|^dataset:", text, re.M) else some:
        if "_mask:" in text and "train_mask" not in composed(f"dataset_name={dataset_name}").dataset:
            continue
        assert composed(f"dataset_name={dataset_name}", f"experiment={experiment}").dataset_name == dataset_name


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("no_feature", "loss_weights.feature", 0),
        ("no_contrastive", "loss_weights.contrastive", 0),
        ("no_visual", "loss_weights.visual", 0),
        ("no_equivariance", "loss_weights.equivariance", 0),
        ("l2", "method.descriptors", "l2"),
        ("l2_unnormalised", "method.descriptors", "l2_unnormalised"),
        ("same_image", "method.positives", "same_image"),
        ("6_parts", "num_parts", 6),
        ("8_parts", "num_parts", 8),
    ],
)
def test_an_ablation_changes_one_key_on_whatever_data(name, key, value):
    for folder, data in (("cub", "CUB"), ("deepfashion", "DF")):
        full, own = composed(f"dataset_name={data}"), composed(f"experiment={folder}/{name}")
        OmegaConf.update(full, key, value)
        assert own == full
    assert OmegaConf.select(composed(f"experiment=cub/{name}", "dataset_name=synthetic"), key) == value


def test_the_default_is_the_published_recipe():
    config = composed()
    assert config.dataset_name == "CUB"
    assert (config.num_parts, config.image_size, config.batch_size) == (4, 256, 6)
    assert (config.num_steps, config.seed) == (60000, 1234)
    weights = dict(config.loss_weights)
    assert weights == {"feature": 5, "contrastive": 2300, "visual": 30, "equivariance": 5700}
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.head_multiplier) == ("sgd", 1e-5, 10)
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.clip_norm) == (0.9, 5e-4, 5)
    assert (optimizer.poly_power, optimizer.poly_steps) == (0.9, 100000)
    assert (config.segmenter.variant, config.perceptual.layers) == ("caffe", {"relu3_2": 0.33, "relu5_4": 1.0})
    assert config.augmentation.scale == pytest.approx([1 / 2.0, 1 / 0.7])


def test_the_command_line_wins_over_the_experiment_and_that_over_the_data_set():
    config = composed("dataset_name=synthetic", "experiment=debug", "batch_size=3")
    assert config.optimizer.name == "adamw"
    assert config.num_steps == 2
    assert config.batch_size == 3
    assert composed("dataset_name=synthetic", "optimizer=sgd").optimizer.name == "sgd"


def test_debug_needs_no_download_and_no_account():
    config = composed("experiment=debug")
    assert config.segmenter.weights == config.perceptual.weights == "none"
    assert config.logging.wandb in ("offline", "disabled")


def test_evaluation_takes_every_key_of_training_and_needs_a_checkpoint():
    config = composed("checkpoint=x.pth", "dataset_name=synthetic", name="evaluate")
    assert config.checkpoint == "x.pth"
    own = {"checkpoint", "predictions", "predictions_num_parts", "predictions_background", "part_names"}
    assert set(config) == set(composed()) | own
    with pytest.raises(UserError, match="checkpoint is required"):
        composed(name="evaluate")


def test_no_value_is_given_in_the_schema():
    """Nor in what modules bring: the YAML files have them all."""
    values = OmegaConf.to_container(OmegaConf.structured(TrainConfig))
    assert values.pop("baselines") == {} and set(values.values()) == {"???"}
    brought = [getattr(module(kind, name), options) for kind, options in NODES.values() for name in names(kind)]
    baselines = [module("baseline", name).Options for name in names("baseline")]
    for options in (TrainConfig, *OPTIMIZERS.values(), *brought, *baselines):
        for spec in specs(options):
            assert spec.default == "???" or spec.name == "baselines", f"{options}: {spec.name}"


def specs(schema: type) -> Iterator[Field]:
    for spec in fields(schema):
        yield spec
        inner = get_type_hints(schema)[spec.name]
        if is_dataclass(inner):
            yield from specs(inner)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=1", "batch_size must be at least 2"),
        ("optimizer.lr=0", "optimizer.lr must be greater than 0"),
        ("loss_weights.visual=inf", "loss_weights.visual must be finite"),
        ("augmentation.greyscale_probability=1.5", "augmentation.greyscale_probability must be at most 1"),
        ("augmentation.scale=[2,1]", "augmentation.scale must be increasing"),
        ("augmentation.scale=[1]", "augmentation.scale needs 2 values"),
        ("device=gpu", "device must be one of auto, cpu, cuda, mps, not 'gpu'"),
        ("dataset.eval_mask=truth", "dataset.eval_mask must be one of gt, supervised, unsupervised"),
        ("+perceptual.layers.relu1_1=-1", "perceptual.layers.relu1_1 must be greater than 0"),
        ("method.name=magic", "There is no method 'magic'"),
        ("optimizer.name=magic", "optimizer.name must be one of sgd, adamw, not 'magic'"),
        ("~perceptual", "perceptual is required"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(override, message):
    with pytest.raises(UserError, match=message):
        composed(override)


@pytest.mark.parametrize(
    "key", ["nothing", "optimizer.nothing", "dataset.nothing", "method.nothing", "dataset.category"]
)
def test_a_key_added_by_force_is_refused(key):
    with pytest.raises(ConfigKeyError) as caught:
        composed(f"+{key}=1")
    assert caught.value.full_key == key


@pytest.mark.parametrize("key", ["optimizer.momentum", "dataset.test_share", "dataset.box_padding", "method.name"])
def test_a_value_that_is_needed_cannot_be_taken_away(key):
    with pytest.raises((OmegaConfBaseException, UserError)) as caught:
        composed("dataset_name=folder", f"{key}=null")
    assert key.partition(".")[0] in str(caught.value)


def test_a_key_of_a_module_without_a_value_is_refused_with_the_file_that_lacks_it(monkeypatch):
    losses = module("method", "scops").LossWeights
    monkeypatch.setattr(
        module("method", "scops"), "LossWeights", make_dataclass("L", [("new", float, "???")], bases=(losses,))
    )
    message = "loss_weights.new is required: give loss_weights.new=VALUE, or a value in conf/method/scops.yaml."
    with pytest.raises(UserError, match=re.escape(message)):
        composed("method=scops")
    assert composed("method=scops", "+loss_weights.new=2").loss_weights.new == 2
    with pytest.raises(UserError, match="dataset.test_share=VALUE, or a value in conf/dataset_name/folder.yaml"):
        composed("dataset_name=folder", "~dataset.test_share")


def test_a_value_that_is_to_be_that_of_no_key_is_refused():
    with pytest.raises(OmegaConfBaseException, match="'nothing' not found"):
        composed("num_parts=${nothing}")


def test_a_baseline_is_a_module_and_is_refused_by_name_where_there_is_none():
    assert list(composed("baseline=[kmeans_colours,untrained]").baselines) == ["kmeans_colours", "untrained"]
    assert "baselines.magic" not in known_keys()
    with pytest.raises(UserError, match="There is no baseline 'magik'.*There are dff, keypoint, .*, untrained"):
        composed("+baselines.magik.restarts=1")


def test_a_baselines_keys_reach_it():
    config = composed("baseline=[kmeans_features,untrained]", "baselines.kmeans_features.num_points=5")
    own = {"num_images": None, "minibatch": None, "epochs": 5, "normalise": False}
    assert config.baselines.kmeans_features == {"num_points": 5, "restarts": 10, **own}
    with pytest.raises(UserError, match="baselines.kmeans_features.restarts must be at least 1, not 0"):
        composed("baseline=[kmeans_features]", "baselines.kmeans_features.restarts=0")


def test_the_keys_of_all_modules_are_known_and_whose_they_are():
    keys = known_keys()
    wanted = {
        *("num_parts", "evaluation.size", "optimizer.momentum", "method.temperature", "loss_weights.equivariance"),
        *("loss_weights.foreground", "augmentation.noise", "segmenter.variant", "dataset.test_share"),
        *("dataset.category", "dataset.drawing.size", "baselines.kmeans_colours.restarts"),
    }
    assert wanted <= set(keys)
    assert (keys["num_parts"], keys["dataset.drawing.size"], keys["optimizer.momentum"]) == (int, int, float)
    assert set(composed("baseline=[untrained]")) <= set(keys)
    assert "checkpoint" not in keys and "checkpoint" in known_keys(EvaluateConfig)
    assert owners("optimizer.momentum") == ["optimizer.name=sgd"]
    assert owners("dataset.test_share") == ["dataset_name=folder"]
    assert owners("loss_weights.foreground") == ["method=foreground"]
    assert owners("baselines.kmeans_colours.restarts") == ["baseline=[kmeans_colours]"]
    assert owners("num_parts") == owners("dataset.nothing") == []


def test_variables_of_the_environment_are_used_where_the_key_is_not_given(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_RUN_GROUP", "ours")
    config = composed("logging.project=given")
    assert (config.logging.project, config.logging.group) == ("given", "ours")
    assert composed().logging.project == "mine"


@pytest.mark.parametrize("image_size", [64, 512])
@pytest.mark.parametrize("num_parts", [2, 16])
def test_sizes_and_numbers_of_parts_are_free(image_size, num_parts):
    config = composed(f"image_size={image_size}", f"num_parts={num_parts}", "batch_size=2")
    assert (config.image_size, config.num_parts, config.batch_size) == (image_size, num_parts, 2)


def test_pascal_part_has_its_weights_limits_and_categories():
    with pytest.raises(UserError, match="dataset.category must be one of .*, not 'lion'"):
        composed("dataset_name=PP", "dataset.category=lion")
    config = composed("dataset_name=PP", "dataset.category=mbike")
    weights = dict(config.loss_weights)
    assert weights == {"feature": 5, "contrastive": 2300, "visual": 30, "equivariance": 57000}
    assert (config.dataset.min_train_area, config.dataset.min_test_area) == (0.1, 0.2)


@pytest.mark.parametrize("given", ["perceptual=vgg19", "experiment=laptop", "perceptual=dino_vits8", "perceptual=timm"])
def test_layers_in_braces_stand_for_all_layers(given):
    network = ("perceptual.network=resnet18",) if given == "perceptual=timm" else ()
    arguments = replacing([given, "perceptual.layers={1: 2, 3: 0.5}", "num_parts=5", *network])
    assert composed(*arguments).perceptual.layers == {"1": 2, "3": 0.5}
    assert replacing(["perceptual.layers.2=3", "+perceptual.layers.3=1"]) == [
        "perceptual.layers.2=3",
        "+perceptual.layers.3=1",
    ]
