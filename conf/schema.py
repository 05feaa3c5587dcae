"""Types and ranges of every config key; the values are in the YAML files beside this one, and only there.

The nodes in ``NODES`` are typed by the module that their name stands for, so that what a method or a data set can be
told is written beside its code. One mechanism types all configs: of command lines, run directories and checkpoints.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.fields import check, choice, number, path
from conf.modules import module, names
from utils.errors import UserError
from utils.paths import read_path

MAX_PARTS = 254  # label maps hold bytes, and one more is needed
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

# Node -> the kind of module that types it, which is named in the node of that kind, and which of its dataclasses does.
NODES = {
    "method": ("method", "Options"),
    "loss_weights": ("method", "LossWeights"),
    "augmentation": ("method", "Augmentation"),
    "segmenter": ("segmenter", "Options"),
    "perceptual": ("perceptual", "Options"),
    "dataset": ("dataset", "Options"),
}


@dataclass
class Optimizer:
    name: str = choice("sgd", "adamw")
    lr: float = number(above=0)
    head_multiplier: float = number(above=0)
    weight_decay: float = number(low=0)
    schedule: str = choice("poly", "cosine")
    poly_power: float = number(low=0)
    poly_steps: int = number(low=1)
    clip_norm: float = number(above=0)


@dataclass
class SGD(Optimizer):
    momentum: float = number(low=0, high=1)


OPTIMIZERS = {"sgd": SGD, "adamw": Optimizer}


@dataclass
class Logging:
    every: int = number(low=1)
    image_every: int = number(low=0)
    page: bool = MISSING
    collapse_share: float = number(low=0.5, high=1)
    collapse_checks: int = number(low=1)
    wandb: str = choice("auto", "online", "offline", "disabled")
    project: str = MISSING
    entity: str | None = MISSING
    group: str | None = MISSING
    name: str | None = MISSING
    tags: list[str] = MISSING


@dataclass
class Checkpointing:
    every: int = number(low=1)
    keep: int | None = number(low=1)
    milestone_every: int = number(low=0)


@dataclass
class Probe:
    kinds: list[str] = choice("linear", "non_linear")
    hidden: int = number(low=1)
    num_points: int = number(low=1)
    steps: int = number(low=1)
    batch_size: int = number(low=1)
    rate: float = number(above=0)


@dataclass
class Evaluation:
    every: int = number(low=0)
    batch_size: int = number(low=1)
    size: int = number(low=32, high=4096)
    label_resize: str = choice("bilinear", "nearest")
    ari_with_background: bool = MISSING
    truth_free: bool = MISSING
    pictures: int = number(low=0)
    report: int = number(low=0)
    probe: Probe = MISSING


@dataclass
class Loader:
    num_workers: int = number(low=0)


@dataclass
class TrainConfig:
    dataset_name: str = MISSING
    dataset_root: str = path()
    num_parts: int = number(low=2, high=MAX_PARTS)
    image_size: int = number(low=32, high=4096)
    batch_size: int = number(low=2)
    num_steps: int = number(low=1)
    seed: int = number(low=0, high=2**32 - 1)  # what NumPy takes
    device: str = choice("auto", "cpu", "cuda", "mps")
    devices: int = number(low=1)
    num_nodes: int = number(low=1)
    strategy: str = choice("auto", "ddp")
    precision: str = choice("32", "bf16", "16")
    channels_last: bool = MISSING
    deterministic: bool = MISSING
    compile: bool = MISSING
    cuda_graph: bool = MISSING
    cudnn_search: str = choice("auto", "always", "never")
    output_dir: str | None = path()
    resume: str | None = path()
    debug: bool = MISSING
    loss_weights: Any = MISSING
    dataset: Any = MISSING
    segmenter: Any = MISSING
    perceptual: Any = MISSING
    method: Any = MISSING
    optimizer: Any = MISSING
    augmentation: Any = MISSING
    logging: Logging = MISSING
    checkpointing: Checkpointing = MISSING
    evaluation: Evaluation = MISSING
    baselines: dict[str, Any] = field(default_factory=dict)
    loader: Loader = MISSING

    @staticmethod
    def check(config: DictConfig) -> None:
        """Raises UserError if several keys contradict each other."""
        if not any(config.loss_weights.values()):
            raise UserError(f"loss_weights.{', loss_weights.'.join(config.loss_weights)} are all 0: nothing is learnt.")
        if config.num_steps > config.optimizer.poly_steps:
            raise UserError(
                f"num_steps ({config.num_steps}) is larger than optimizer.poly_steps ({config.optimizer.poly_steps}), "
                f"after which the learning rate is 0: give optimizer.poly_steps={config.num_steps} or more."
            )


@dataclass
class EvaluateConfig(TrainConfig):
    checkpoint: str | None = path()
    predictions: str | None = path()
    predictions_num_parts: int | None = number(low=1, high=MAX_PARTS)
    predictions_background: bool = MISSING
    part_names: list[str] = MISSING

    @staticmethod
    def check(config: DictConfig) -> None:
        TrainConfig.check(config)
        if config.checkpoint is None and config.predictions is None and not config.baselines:
            raise UserError(
                "checkpoint is required: give checkpoint=PATH. For label maps: predictions=DIR; for baselines alone: "
                "baseline=[NAME]."
            )
        if config.checkpoint is not None and config.predictions is not None:
            raise UserError("checkpoint and predictions are two things to evaluate: give one of them.")


@dataclass
class PredictConfig(TrainConfig):
    checkpoint: str | None = path()
    pretrained: Any = None
    task: str | None = choice("foreground", "parts")
    images: str | None = path()
    masks: str | None = path()
    foreground: str | None = path()
    format: str = choice("png", "coco")
    probabilities: bool = MISSING
    overwrite: bool = MISSING
    only_missing: bool = MISSING

    @staticmethod
    def check(config: DictConfig) -> None:
        TrainConfig.check(config)
        if config.checkpoint is not None and config.pretrained is not None:
            raise UserError(
                f"checkpoint={config.checkpoint} and pretrained={config.pretrained.name} are two networks to predict "
                "with: give one of them."
            )
        if config.checkpoint is None and config.pretrained is None:
            raise UserError(
                "One of two is required: checkpoint=PATH, of a run or a published one, or pretrained=NAME, a network "
                f"that finds the foreground ({', '.join(names('pretrained'))})."
            )
        if config.foreground is not None and config.masks is not None:
            raise UserError("masks and foreground are two sources of masks: give one of them.")
        for key, default in (("masks", None), ("foreground", None), ("format", "png"), ("probabilities", False)):
            if config.images is None and config[key] != default:
                raise UserError(f"{key} is for pictures of your own: give images=DIR output_dir=OUT, or leave it out.")


def typed(raw: DictConfig | Mapping[str, Any], schema: type = TrainConfig) -> DictConfig:
    """A config whose nodes have the types of the modules they name; nothing but paths is resolved or checked yet.

    Here, and nowhere else, paths are read, those of every program: see ``utils.paths``.

    Args:
        raw: composed by Hydra, or read from a file; without ``hydra``. Keys may be missing.

    Raises:
        UserError: a node has no ``name``, or one that stands for no module; or a path is empty.
        OmegaConfBaseException: a key that is none, or a value of another type; it has ``full_key``.
    """
    config = OmegaConf.structured(schema)
    raw = _with_text_keys(OmegaConf.to_container(OmegaConf.create(raw)))
    for node, (kind, dataclass_name) in NODES.items():
        config[node] = OmegaConf.structured(getattr(module(kind, _name(raw, kind)), dataclass_name))
    config.optimizer = OmegaConf.structured(OPTIMIZERS.get(_name(raw, "optimizer"), SGD))
    for name in raw.get("baselines") or {}:
        config.baselines[name] = OmegaConf.structured(module("baseline", name).Options)
    if raw.get("pretrained"):
        config.pretrained = OmegaConf.structured(module("pretrained", _name(raw, "pretrained")).Options)
    nodes = {node: raw[node] for node in NODES if node in raw}
    nodes |= {f"baselines.{name}": own for name, own in (raw.get("baselines") or {}).items()}
    for node, value in nodes.items():
        if not isinstance(value, Mapping):
            raise UserError(f"{node} has keys of its own: it cannot be {value}.")
    OmegaConf.set_struct(config.baselines, True)
    config = OmegaConf.merge(config, raw)
    for key, node, name, _ in _paths(config):
        if (read := read_path(node[name], key)) != node[name]:
            node[name] = read
    return config


def anchored(config: DictConfig) -> DictConfig:
    """A copy whose paths to what a run reads are whole ones, which hold from any working directory."""
    config = config.copy()
    for key, node, name, rules in _paths(config):
        words, value = rules["path"], node[name]
        is_path = not words or (value not in words and os.path.exists(value))
        if is_path and rules["below"] is None and key not in ("output_dir", "resume"):
            node[name] = os.path.abspath(value)
    return config


def validate(config: DictConfig) -> DictConfig:
    """A copy of a typed config with all interpolations resolved and every value checked against its range and choices.

    Raises:
        UserError: a value is missing, not finite, out of range or none of the choices; the message names the key, the
            value and what is allowed. Or several keys contradict each other.
        OmegaConfBaseException: a value interpolates a key that is none.
    """
    config = config.copy()
    OmegaConf.resolve(config)
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{missing[0]} is required: give {missing[0]}=VALUE{_or_in_file(config, missing[0])}.")
    _check_node(config, "", {})
    OmegaConf.get_type(config).check(config)
    return config


def wrong_word(schema: type, key: str, text: str) -> str | None:
    """What is wrong with a number or word that the command line gives a key, but for those that modules bring.

    It is what merging and :func:`validate` say of it, from this module alone.

    Args:
        text: without quotes, brackets and interpolations.
    """
    node, _, name = key.rpartition(".")
    owner = {"": schema, "optimizer": SGD}.get(node) or _keys_of(schema).get(node)
    rules = {spec.name: spec.metadata for spec in fields(owner)} if is_dataclass(owner) else {}
    kind = _keys_of(owner)[name] if name in rules else None
    if get_origin(kind) in (list, dict) or KINDS.keys().isdisjoint((kind, *get_args(kind))):
        return None
    own = OmegaConf.structured(owner)
    try:
        own[name] = _read_word(text)
        check(key, own[name], rules[name])
    except UserError as error:
        return str(error)
    except OmegaConfBaseException as error:
        return of_another_type(key, kind, str(error))
    return None


def of_another_type(key: str, kind: Any, text: str, where: str = "") -> str:
    """What is said of a value that is none of a key's type ``kind``, after OmegaConf's ``text``."""
    must = f"; it must be {KINDS[kind]}" if kind in KINDS else ""
    return f"{key}{where}: {text.splitlines()[0].rstrip('.')}{must}."


def _read_word(text: str) -> int | float | bool | str:
    """As Hydra reads it."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def known_keys(schema: type = TrainConfig) -> dict[str, Any]:
    """Every dotted key of a schema, and those that modules bring, each with its type."""
    keys, nodes = _keys_of(schema), {own.name for own in fields(schema)}
    for prefix, _, options in _brought():
        if prefix.partition(".")[0] in nodes:
            keys |= _keys_of(options, prefix)
    return keys


def owners(key: str) -> list[str]:
    """What brings a key, as ``method=scops``; nothing where the schema itself has it, or nobody does."""
    return [owner for prefix, owner, options in _brought() if key in _keys_of(options, prefix)]


def group_of(kind: str) -> str:
    """The config group whose options choose modules of a kind."""
    return "dataset_name" if kind == "dataset" else kind


def _chosen_by(kind: str, name: str) -> str:
    if kind == "method":
        return f"method={name}"
    if kind == "dataset":
        return " or ".join(f"dataset_name={file.stem}" for file in _files_naming(kind, name))
    return f"{kind}.name={name}"


def _or_in_file(config: DictConfig, key: str) -> str:
    """``, or a value in conf/method/NAME.yaml``: where a key that a module brings is to get its value."""
    kind, _ = NODES.get(key.partition(".")[0], (None, None))
    files = _files_naming(kind, config[kind].name) if kind and "." in key else []
    return ", or a value in " * bool(files) + " or ".join(f"conf/{file.parent.name}/{file.name}" for file in files)


def _files_naming(kind: str, name: str) -> list[Path]:
    """The options, YAML files, that choose a module."""
    files = (Path(__file__).parent / group_of(kind)).glob("*.yaml")
    return sorted(file for file in files if re.search(rf"^ *name: {name}$", file.read_text(), re.MULTILINE))


def _brought() -> Iterator[tuple[str, str, type]]:
    """Prefixes of keys, what on the command line chooses who brings them, and the dataclass that has them."""
    for node, (kind, dataclass_name) in NODES.items():
        for name in names(kind):
            yield f"{node}.", _chosen_by(kind, name), getattr(module(kind, name), dataclass_name)
    for name, options in OPTIMIZERS.items():
        yield "optimizer.", f"optimizer.name={name}", options
    for name in names("pretrained"):
        yield "pretrained.", f"pretrained={name}", module("pretrained", name).Options
    for name in names("baseline"):
        yield f"baselines.{name}.", f"baseline=[{name}]", module("baseline", name).Options


def _with_text_keys(value: Any) -> Any:
    """``{2: 1.5}`` and ``{"2": 1.5}`` are one mapping: layers have indices or names."""
    return {str(key): _with_text_keys(own) for key, own in value.items()} if isinstance(value, Mapping) else value


def _name(raw: Mapping[str, Any], node: str) -> str:
    name = raw[node].get("name") if isinstance(raw.get(node), Mapping) else None
    if not isinstance(name, str):
        raise UserError(f"{node} is required: give {group_of(node)}=OPTION.")
    return name


def _keys_of(schema: type, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a schema with its type, nodes before what they hold; ``X | None`` of a node is ``X``."""
    keys = {}
    for name, kind in get_type_hints(schema).items():
        if get_origin(kind) is not dict:
            kind = next((inner for inner in get_args(kind) if is_dataclass(inner)), kind)
        keys[prefix + name] = kind
        if is_dataclass(kind):
            keys |= _keys_of(kind, f"{prefix}{name}.")
    return keys


def _paths(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig, str, Mapping[str, Any]]]:
    """Each key that has a path, with its node, its name in it, and its rules."""
    kind = OmegaConf.get_type(node)
    rules = {spec.name: spec.metadata for spec in fields(kind)} if is_dataclass(kind) else {}
    for name in node:
        if OmegaConf.is_missing(node, name):
            continue
        if "path" in rules.get(name, {}):
            if node[name] is not None:
                yield f"{prefix}{name}", node, name, rules[name]
        elif not OmegaConf.is_interpolation(node, name) and OmegaConf.is_dict(node[name]):
            yield from _paths(node[name], f"{prefix}{name}.")


def _check_node(node: DictConfig, prefix: str, rules_of_all: Mapping[str, Any]) -> None:
    kind = OmegaConf.get_type(node)
    rules = {spec.name: spec.metadata for spec in fields(kind)} if is_dataclass(kind) else {}
    for name in node:
        key = prefix + name
        if OmegaConf.is_dict(node[name]):
            _check_node(node[name], f"{key}.", rules.get(name, {}))
        else:
            check(key, node[name], rules.get(name, rules_of_all))
