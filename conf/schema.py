"""Types, ranges and choices of every config key. The values are in the YAML files beside this one, and only there."""

import math
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from utils.errors import UserError


def _number(low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A finite number, or finite numbers, in [low, high], and larger than ``above``."""
    return field(default=MISSING, metadata={"low": low, "high": high, "above": above})


def _probability() -> Any:
    return _number(low=0, high=1)


def _choice(*options: str) -> Any:
    return field(default=MISSING, metadata={"options": options})


def _optional(**rules: Any) -> Any:
    """What only some options of a group have; None elsewhere.

    ``only`` names the one option of the node's ``name`` that has it, ``of`` the data sets that do. Unless ``required``
    is False, those need it.
    """
    return field(default=None, metadata=rules)


# PASCAL's names, in the order of the paper's table, and then the paper's where they differ.
PASCAL_CATEGORIES = (
    *("sheep", "horse", "cow", "motorbike", "aeroplane", "bus", "car", "bicycle", "dog", "cat"),
    *("mbike", "plane", "bike"),
)

MAX_PARTS = 254  # label maps hold bytes, and one more is needed
WITH_BOXES = ("CUB", "PP", "folder", "synthetic")  # data sets


@dataclass
class Drawing:
    num_train: int = _number(low=1)
    num_test: int = _number(low=1)
    size: int = _number(low=32)
    seed: int = _number(low=0)


@dataclass
class Dataset:
    folder: str = MISSING
    train_mask: str = _choice("gt", "supervised", "unsupervised")
    eval_mask: str = _choice("gt", "supervised", "unsupervised")
    box_padding: float | None = _optional(low=0, high=4, of=WITH_BOXES)
    box_jitter: float | None = _optional(low=0, high=0.5, of=WITH_BOXES)
    crop_area: list[float] | None = _optional(above=0, high=1, length=2, increasing=True, of=("DF",))
    crop_aspect: list[float] | None = _optional(above=0, length=2, increasing=True, of=("DF",))
    flip_probability: float = _probability()
    on_error: str = _choice("raise", "skip")
    cache: str = _choice("none", "memory", "disk")
    cache_dir: str = MISSING
    test_share: float | None = _optional(above=0, high=0.9, of=("folder",))
    # Not required here: the table of all categories gives each in its turn.
    category: str | None = _optional(options=PASCAL_CATEGORIES, of=("PP",), required=False)
    min_train_area: float | None = _optional(low=0, high=1, of=("PP",))
    min_test_area: float | None = _optional(low=0, high=1, of=("PP",))
    drawing: Drawing | None = None


@dataclass
class Segmenter:
    variant: str = _choice("caffe", "torchvision")
    weights: str = MISSING
    weights_dir: str = MISSING
    init: str = _choice("he", "normal")


@dataclass
class Perceptual:
    network: str = _choice("vgg19", "vgg16")
    weights: str = MISSING
    weights_dir: str = MISSING
    layers: dict[str, float] = _number(above=0)


@dataclass
class Method:
    name: str = _choice("contrastive_reconstruction", "foreground")
    temperature: float | None = _optional(above=0, only="contrastive_reconstruction")
    negatives: str | None = _optional(options=("all_images", "other_images"), only="contrastive_reconstruction")
    positives: str | None = _optional(options=("uniform", "release"), only="contrastive_reconstruction")
    equivariance: str | None = _optional(options=("release", "paper"), only="contrastive_reconstruction")


@dataclass
class Optimizer:
    name: str = _choice("sgd", "adamw")
    lr: float = _number(above=0)
    head_multiplier: float = _number(above=0)
    weight_decay: float = _number(low=0)
    poly_power: float = _number(low=0)
    poly_steps: int = _number(low=1)
    clip_norm: float = _number(above=0)
    momentum: float | None = _optional(low=0, high=1, only="sgd")


@dataclass
class Augmentation:
    jitter_probability: float = _probability()
    brightness: float = _number(low=0, high=1)
    contrast: float = _number(low=0, high=1)
    saturation: float = _number(low=0, high=1)
    hue: float = _number(low=0, high=0.5)
    greyscale_probability: float = _probability()
    control_points: int = _number(low=2, high=16)
    noise: float = _number(low=0, high=1)
    scale: list[float] = field(default=MISSING, metadata={"above": 0, "high": 100, "length": 2, "increasing": True})
    rotation: float = _number(low=0, high=180)
    translation: float = _number(low=0, high=2)  # at 2 nothing of the picture is left


@dataclass
class Logging:
    every: int = _number(low=1)
    image_every: int = _number(low=0)
    collapse_share: float = _number(low=0.5, high=1)
    collapse_checks: int = _number(low=1)
    wandb: str = _choice("auto", "online", "offline", "disabled")
    project: str = MISSING
    entity: str | None = MISSING
    group: str | None = MISSING
    name: str | None = MISSING
    tags: list[str] = MISSING


@dataclass
class Checkpointing:
    every: int = _number(low=1)
    keep: int | None = _number(low=1)
    milestone_every: int = _number(low=0)


@dataclass
class Evaluation:
    every: int = _number(low=0)
    batch_size: int = _number(low=1)
    size: int = _number(low=32, high=4096)
    label_resize: str = _choice("bilinear", "nearest")
    baselines: list[str] = _choice("untrained", "kmeans_features", "kmeans_colours")
    kmeans_points: int = _number(low=1)
    kmeans_restarts: int = _number(low=1)
    pictures: int = _number(low=0)


@dataclass
class Loader:
    num_workers: int = _number(low=0)


@dataclass
class TrainConfig:
    dataset_name: str = MISSING
    dataset_root: str = MISSING
    num_parts: int = _number(low=2, high=MAX_PARTS)
    image_size: int = _number(low=32, high=4096)
    batch_size: int = _number(low=2)
    num_steps: int = _number(low=1)
    seed: int = _number(low=0, high=2**32 - 1)  # what NumPy takes
    device: str = _choice("auto", "cpu", "cuda")
    devices: int = _number(low=1)
    num_nodes: int = _number(low=1)
    strategy: str = _choice("auto", "ddp")
    precision: str = _choice("32", "bf16", "16")
    channels_last: bool = MISSING
    deterministic: bool = MISSING
    compile: bool = MISSING
    output_dir: str | None = MISSING
    resume: str | None = MISSING
    debug: bool = MISSING
    loss_weights: dict[str, float] = _number(low=0)
    dataset: Dataset = MISSING
    segmenter: Segmenter = MISSING
    perceptual: Perceptual = MISSING
    method: Method = MISSING
    optimizer: Optimizer = MISSING
    augmentation: Augmentation = MISSING
    logging: Logging = MISSING
    checkpointing: Checkpointing = MISSING
    evaluation: Evaluation = MISSING
    loader: Loader = MISSING


@dataclass
class EvaluateConfig(TrainConfig):
    checkpoint: str | None = MISSING
    predictions: str | None = MISSING
    predictions_num_parts: int | None = _number(low=1, high=MAX_PARTS)
    predictions_background: bool = MISSING


@dataclass
class PredictConfig(TrainConfig):
    task: str = _choice("foreground", "parts")
    checkpoint: str = MISSING
    images: str | None = MISSING
    masks: str | None = MISSING
    overwrite: bool = MISSING
    only_missing: bool = MISSING


@dataclass
class PascalPartConfig(TrainConfig):
    categories: list[str] = _choice(*PASCAL_CATEGORIES)
    foreground_steps: int = _number(low=1)


@dataclass
class BenchmarkEvaluateConfig(TrainConfig):
    checkpoint: str | None = MISSING
    repetitions: int = _number(low=1)
    largest_difference: float = _number(low=0)


def validate(config: DictConfig) -> DictConfig:
    """A copy of a config with all interpolations resolved and every value checked against its range and choices.

    Args:
        config: a config of :class:`TrainConfig` or :class:`EvaluateConfig`.

    Raises:
        UserError: a value is missing, not finite, out of range, none of the choices, or of no use to the choice made;
            the message names the key, the value and what is allowed.
    """
    config = config.copy()
    for key, spec in list(walk(OmegaConf.get_type(config))):
        parent = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
        if parent is None:
            continue
        if spec.name not in parent or OmegaConf.is_missing(parent, spec.name):
            raise UserError(f"{key} is required: give {key}=VALUE.")
        try:
            value = parent[spec.name]
        except OmegaConfBaseException as error:
            raise UserError(f"{key}: {str(error).splitlines()[0]}") from error
        if is_dataclass(spec.type):
            if unknown := sorted(set(value or ()) - {inner.name for inner in fields(spec.type)}):
                raise UnknownKey(f"{key}.{unknown[0]}")
            continue
        owner = spec.metadata.get("only")
        if owner is not None and value is None and parent.name == owner:
            raise UserError(f"{key} is required by {owner}: give {key}=VALUE.")
        if owner is not None and value is not None and parent.name != owner:
            raise UserError(f"{key} is for {owner} only, not for {parent.name}.")
        owners = spec.metadata.get("of")
        if owners and value is None and config.dataset_name in owners and spec.metadata.get("required", True):
            raise UserError(f"{key} is required by dataset_name={config.dataset_name}: give {key}=VALUE.")
        if owners and value is not None and config.dataset_name not in owners:
            raise UserError(f"{key} is for {', '.join(owners)} only, not for dataset_name={config.dataset_name}.")
        if value is not None:
            _check(key, value, spec.metadata)
    if unknown := sorted(set(config) - {spec.name for spec in fields(OmegaConf.get_type(config))}):
        raise UnknownKey(unknown[0])
    if config.num_steps > config.optimizer.poly_steps:
        raise UserError(
            f"num_steps ({config.num_steps}) is larger than optimizer.poly_steps ({config.optimizer.poly_steps}), "
            f"after which the learning rate is 0: give optimizer.poly_steps={config.num_steps} or more."
        )
    if "only_missing" in config and config.only_missing and config.overwrite:
        raise UserError("only_missing and overwrite say opposite things of files that are there: give one of them.")
    if "predictions" in config and config.checkpoint is None and config.predictions is None:
        raise UserError("checkpoint is required: give checkpoint=PATH. For label maps: predictions=DIR.")
    if "predictions" in config and config.checkpoint is not None and config.predictions is not None:
        raise UserError("checkpoint and predictions are two things to evaluate: give one of them.")
    OmegaConf.resolve(config)
    return config


class UnknownKey(Exception):
    """A key that the schema does not have; its text is the dotted key."""


def walk(schema: type, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every dotted key of a schema with its field, nodes before what they hold; ``X | None`` is given as ``X``."""
    types = get_type_hints(schema)
    for spec in fields(schema):
        spec.type = next((one for one in get_args(types[spec.name]) if is_dataclass(one)), types[spec.name])
        yield prefix + spec.name, spec
        if is_dataclass(spec.type):
            yield from walk(spec.type, f"{prefix}{spec.name}.")


def _check(key: str, value: Any, rules: Any) -> None:
    if OmegaConf.is_dict(value):
        for name, one in value.items():
            _check(f"{key}.{name}", one, rules)
        return
    values = list(value) if OmegaConf.is_list(value) else [value]
    if "length" in rules and len(values) != rules["length"]:
        raise UserError(f"{key} needs {rules['length']} values, not {len(values)}: {value}.")
    if rules.get("increasing") and values != sorted(values):
        raise UserError(f"{key} must be increasing, not {value}.")
    for one in values:
        if "options" in rules and one not in rules["options"]:
            raise UserError(f"{key} must be one of {', '.join(rules['options'])}, not {one!r}.")
        if not isinstance(one, float | int):
            continue
        if not math.isfinite(one):
            raise UserError(f"{key} must be finite, not {one}.")
        low, high, above = (rules.get(bound) for bound in ("low", "high", "above"))
        if low is not None and one < low:
            raise UserError(f"{key} must be at least {low:g}, not {one}.")
        if above is not None and one <= above:
            raise UserError(f"{key} must be greater than {above:g}, not {one}.")
        if high is not None and one > high:
            raise UserError(f"{key} must be at most {high:g}, not {one}.")
