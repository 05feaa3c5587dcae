"""What a run or a checkpoint was trained with, under what the command line gives."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.schema import NODES, group_of, typed, validate
from conf.upgrade import upgrade
from utils.errors import UserError

CONF = Path(__file__).resolve().parent
# What a checkpoint knows better than the defaults; the command line wins over both.
FROM_CHECKPOINT = (
    *("method", "loss_weights", "augmentation", "segmenter", "perceptual", "num_parts", "image_size", "seed"),
    *("evaluation.size", "evaluation.label_resize"),
)  # fmt: skip
# The same, unless the command line names another data set.
DATA = ("dataset_name", "dataset_root", "dataset")
# A change of any of these makes another run.
FIXED = (*DATA, "num_parts", "image_size", "batch_size", "seed", "segmenter", "perceptual", "method", "optimizer.name")
# But of these nodes what makes no figure: a run that a broken picture ended may go on without it; places.
FREE = (
    *("dataset.on_error", "dataset.cache", "dataset.cache_dir"),
    *("segmenter.weights_dir", "perceptual.weights_dir"),
)
IN_CHECKPOINT = ("segmenter.weights",)  # nor of a run that goes on
# null: what the run has measured itself, or read from its data.
MEASURED = ("perceptual.factor", "method.num_classes")
# Groups without a node of their name: the run's own config holds what they gave.
NO_NODE = ("experiment", "recipe", "baseline")


def command_line_keys() -> list[str]:
    """The keys and groups that the command line gives values for."""
    return [_key_of(override) for override in (HydraConfig.get().overrides.task if HydraConfig.initialized() else [])]


def given_keys() -> list[str]:
    """The same, and those that the experiments which it chooses do: ``experiment=a`` or ``experiment=[a,b]``."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    values = [override.partition("=")[2] for override in overrides if _key_of(override) == "experiment"]
    experiments = [name.strip("[]'\" ") for value in values for name in value.split(",")]
    return command_line_keys() + [key for name in experiments for key in _keys_of_experiment(name)]


def on_modules_of_run(config: DictConfig) -> DictConfig:
    """A composed config, not typed yet, in which the keys are those of the run or checkpoint that is named.

    Where keys of modules are given and the modules are not, their nodes become the run's, under what is given.

    Raises:
        UserError: the run's config is damaged, or of another version of the code.
    """
    given = given_keys()
    own = _own_of_run(config) if any(key.partition(".")[0] in NODES and "." in key for key in given) else None
    for node, (kind, _) in NODES.items() if own else ():
        if node in given or group_of(kind) in given:
            continue
        defaults, config[node] = config[node], OmegaConf.to_container(own[node])
        for key in given:
            if key.startswith(f"{node}."):
                value = OmegaConf.select(defaults, key.removeprefix(f"{node}."), default=MISSING)
                OmegaConf.update(config, key, value, force_add=True, merge=False)
    return config


def resumed_config(given: DictConfig, overrides: list[str]) -> DictConfig:
    """The config of the run ``given.resume`` with what the command line gives, and nothing else, changed.

    Args:
        given: the typed config composed from the command line.
        overrides: the command line's overrides.

    Raises:
        UserError: no run is there, or its config is damaged or lacks a key that is not given; or a change of network,
            data, or whatever makes it another run; the message names the key, the run's value and the one given.
    """
    run = Path(given.resume)
    file = run / "config.yaml"
    try:
        config = saved_config(file)
    except OSError as error:
        raise UserError(f"No run to resume in {run}: cannot read {file} ({error.strerror or error}).") from error
    config.resume = config.output_dir = str(run)

    for override in overrides:
        key = _key_of(override)
        if key == "resume" or key.startswith("hydra"):
            continue
        if key in NO_NODE:
            raise UserError(f"A run cannot be resumed with {key}=: leave it out, the run's own config holds it.")
        if override.startswith("~"):
            raise UserError(f"A run cannot be resumed without {key}: leave out {override}.")
        is_group = key != "dataset_name" and (CONF / key).is_dir()
        for name in [f"{key}.{inner}" for inner in given[key]] if is_group else [key]:
            before, value = (OmegaConf.select(configs, name) for configs in (config, given))
            if value is None and name in MEASURED:
                continue
            same = before == value or name in ("dataset_root", "output_dir") and _same_place(before, value)
            is_free = name in (*FREE, *IN_CHECKPOINT)
            if not same and name == "output_dir":
                raise UserError(f"The run goes on in {run}: leave out output_dir={value}.")
            if not same and not is_free and any(f"{name}.".startswith(f"{fixed}.") for fixed in FIXED):
                raise UserError(
                    f"The run to resume was trained with {name}={before}: it cannot go on with {name}={value}. "
                    "Leave it out, or start a new run."
                )
            OmegaConf.update(config, name, value)
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(
            f"{file} has no {', '.join(missing)}: it is cut off, or of another version of the code. Give what is "
            "missing, or put a whole one there."
        )
    return config


def with_settings_of(trained: Mapping[str, Any] | None, file: Path, config: DictConfig) -> DictConfig:
    """The config of a program with what the checkpoint was trained with where the command line says nothing else.

    So a run is evaluated on its own data, unless the command line names another data set or root; the output then says
    so.

    Args:
        trained: the config in the checkpoint; None or empty for a published one, which leaves ``config`` as it is.
        file: the checkpoint, for messages.

    Raises:
        UserError: the checkpoint's config is of another version of the code, or out of range, or the command line gives
            another method.
        OmegaConfBaseException: it gives a key that the checkpoint's modules do not have.
    """
    if not trained:
        return config
    own, given = saved_config(file, trained), given_keys()
    if "method" in given and config.method.name != own.method.name:
        raise UserError(f"{file} was trained with method={own.method.name}: leave out method={config.method.name}.")
    same_set = "dataset_name" not in given or config.dataset_name == own.dataset_name
    keys = FROM_CHECKPOINT + DATA if same_set else FROM_CHECKPOINT
    merged = config.copy()
    OmegaConf.set_struct(merged, False)
    for key in keys:
        if key not in given or key == "method":
            OmegaConf.update(merged, key, OmegaConf.select(own, key), merge=False)
    for key in given:
        if "." in key and key.partition(".")[0] in keys:
            OmegaConf.update(merged, key, OmegaConf.select(config, key), merge=False)
    try:
        merged = validate(typed(merged, OmegaConf.get_type(config)))
    except UserError as error:
        raise UserError(f"With what {file} was trained with: {error}") from error
    if not is_on_own_data(own, merged):
        keys = _other_data(own, merged) if same_set else []
        places = [
            " ".join(
                [f"dataset_name={data.dataset_name} dataset_root={data.dataset_root}"]
                + [f"dataset.{key}={data.dataset[key]}" for key in keys]
            )
            for data in (own, merged)
        ]
        print(f"Trained on {places[0]}; now on {places[1]}.")
    return merged


def num_parts_asked(config: DictConfig, always: bool) -> int | None:
    """``num_parts`` if the command line gives it, or ``always``; else None: a checkpoint's network says it itself."""
    return config.num_parts if always or "num_parts" in given_keys() else None


def is_on_own_data(trained: Mapping[str, Any], config: DictConfig) -> bool:
    """Whether a program works on the data that the checkpoint was trained on."""
    same_set = trained.get("dataset_name") == config.dataset_name
    return same_set and _same_place(trained["dataset_root"], config.dataset_root) and not _other_data(trained, config)


def _other_data(trained: Mapping[str, Any], config: DictConfig) -> list[str]:
    """The keys of the data set, beside how its pictures are read and cut, that have another value."""
    own, used = trained["dataset"], config.dataset
    keys = [spec.name for spec in fields(OmegaConf.get_type(used)) if "reading" not in spec.metadata]
    return [key for key in keys if key in own and used[key] != own[key]]


def _keys_of_experiment(name: str) -> Iterator[str]:
    """The keys that it, and the experiments in its defaults, give values, and the groups that it overrides."""
    folders = [source.path for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]
    for file in filter(Path.is_file, (Path(folder, f"experiment/{name}.yaml") for folder in folders)):
        content = OmegaConf.to_container(OmegaConf.load(file))
        for entry in content.pop("defaults", []):
            if isinstance(entry, dict):
                yield next(iter(entry)).split()[-1].lstrip("/")  # "override /group"
            else:
                beside = str(PurePosixPath("/experiment", name).parent / entry)  # entry alone if it begins with a slash
                yield from _keys_of_experiment(beside.removeprefix("/experiment/"))
        yield from _leaves(content)
        return


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield from _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [prefix + key]


def _own_of_run(config: DictConfig) -> DictConfig | None:
    """That of the run directory or checkpoint that a config names; None where it has none, or cannot be read."""
    place = Path(str(config.get("resume") or config.get("checkpoint")))
    if (place / "config.yaml").is_file():
        return saved_config(place / "config.yaml")
    try:
        trained = torch.load(place, map_location="cpu", weights_only=True, mmap=True)["config"]
    except Exception:  # whoever reads all of it says what is wrong
        return None
    return saved_config(place, trained) if trained else None


def saved_config(file: Path, config: Mapping[str, Any] | None = None) -> DictConfig:
    """The config that a checkpoint has, or else a YAML file, typed and resolved; keys that it lacks are missing.

    Raises:
        UserError: it is damaged, or of another version of the code.
        OSError: there is no such file, or it cannot be read.
    """
    try:
        own = typed(upgrade(config or OmegaConf.to_container(OmegaConf.load(file))))
        OmegaConf.resolve(own)
    except (OmegaConfBaseException, yaml.YAMLError, UserError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} does not fit this version of the code: {str(error).splitlines()[0].rstrip('.')}. It is damaged, "
            "or of another version of the code: use that one."
        ) from error
    return own


def _key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _same_place(first: object, second: object) -> bool:
    return Path(str(first)).resolve() == Path(str(second)).resolve()
