"""What a run or a checkpoint was trained with, under what the command line gives."""

from collections.abc import Collection, Iterator, Mapping
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
from utils.checkpoints import latest, run_of
from utils.console import say
from utils.errors import UserError
from utils.paths import read_path

CONF = Path(__file__).resolve().parent
# What a checkpoint knows better than the defaults; the command line wins over both.
FROM_CHECKPOINT = (
    *("method", "loss_weights", "augmentation", "segmenter", "perceptual", "num_parts", "image_size", "seed"),
    *("evaluation.size", "evaluation.label_resize"),
)  # fmt: skip
# The same, unless the command line names another data set.
DATA = ("dataset_name", "dataset_root", "dataset")
# A change of any of these makes another run. Where its data lie does not: their lists tell whether they are the same.
FIXED = (
    *("dataset_name", "dataset", "num_parts", "image_size", "batch_size", "seed"),
    *("segmenter", "perceptual", "method", "optimizer.name"),
)
# But of these nodes what makes no figure: a run that a broken picture ended may go on without it; the lists, which are
# compared once they are read (null compares none); places.
FREE = (
    *("dataset.on_error", "dataset.lists", "dataset.cache", "dataset.cache_dir"),
    *("segmenter.weights_dir", "perceptual.weights_dir"),
)
IN_CHECKPOINT = ("segmenter.weights",)  # nor of a run that goes on
ANYWHERE = ("dataset.folder",)  # nor where the lists are compared
# Places that may change as long as what is there has the name that it had.
OF_ONE_NAME = ("dataset.saliency", "perceptual.weights")
# Places of a run that need not be there on another machine.
PLACES = ("dataset_root", "dataset.cache_dir", "segmenter.weights_dir", "perceptual.weights_dir")
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
            Whether the lists of the data are the run's, :func:`require_own_lists` says once they are read.
    """
    run = Path(given.resume)
    file = run / "config.yaml"
    try:
        config = saved_config(file)
    except OSError as error:
        if own := run_of(run / "newest" if run.is_dir() else run):
            raise UserError(f"A run goes on in its directory, from its newest checkpoint: give resume={own}") from None
        if run.is_file():
            raise UserError(
                f"A run goes on in its directory, and {run} is a file: give resume=DIR. One to share (python -m "
                "utils.slim) has no optimiser's state: nothing goes on from it, but a new run starts from its network "
                f"with segmenter.weights={run}"
            ) from None
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
            same = before == value or name == "output_dir" and _same_place(before, value)
            is_free = name in (*FREE, *IN_CHECKPOINT, *ANYWHERE) or name in OF_ONE_NAME and _same_name(before, value)
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
    changed = {_key_of(override) for override in overrides}
    if config.dataset.lists is None and not changed.isdisjoint(("dataset_root", *ANYWHERE)):
        say("The run knows no lists of its data: whether what it goes on with is the same is not compared.")
    _settle(config, given, changed)
    return config


def require_own_lists(config: DictConfig, lists: Mapping[str, str]) -> None:
    """
    Args:
        config: of a run; of one that goes on, with the lists of its data, if it knows them.
        lists: what is there, as ``datasets.lists`` tells it.

    Raises:
        UserError: a run that goes on was trained on other ones.
    """
    if config.resume is None:
        return
    for split, before in (config.dataset.lists or {}).items():
        if lists.get(split, before) != before:
            raise UserError(
                f"The run to resume was trained on other data: its {split} list had {before}; that in "
                f"dataset_root={config.dataset_root} has {lists[split]} (digests of the names in their order). Give "
                "dataset_root= where its data lie, or put back what has changed. To go on with what is there, as "
                "another run would: dataset.lists=null"
            )


def with_settings_of(trained: Mapping[str, Any] | None, file: Path, config: DictConfig) -> DictConfig:
    """The config of a program with what the checkpoint was trained with where the command line says nothing else.

    So a run is evaluated on its own data, unless the command line names others; :func:`tells_own_data` then says so.

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
    _settle(own, config, given if same_set else [*given, "dataset_root"])
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
    return merged


def num_parts_asked(config: DictConfig, always: bool) -> int | None:
    """``num_parts`` if the command line gives it, or ``always``; else None: a checkpoint's network says it itself."""
    return config.num_parts if always or "num_parts" in given_keys() else None


def tells_own_data(trained: Mapping[str, Any] | None, config: DictConfig, lists: Mapping[str, str]) -> bool:
    """Whether a program works on the data that the checkpoint was trained on; where it does not, a line says so.

    These are known by their lists, wherever they lie; of runs that have kept none, by their root.

    Args:
        trained: the config in the checkpoint; None or empty for a published one, of which nothing is known.
        lists: what the program reads, as ``datasets.lists`` tells it.
    """
    if not trained:
        return False
    same_set = trained["dataset_name"] == config.dataset_name
    known = trained["dataset"].get("lists") or {}
    keys = _other_data(trained, config, bool(known)) if same_set else []
    other = [split for split in lists if same_set and lists[split] != known.get(split, lists[split])]
    if same_set and not keys and not other and (known or _same_place(trained["dataset_root"], config.dataset_root)):
        return True
    sides = []
    for data, own in ((trained, known), (config, lists)):
        values = [f"dataset_name={data['dataset_name']} dataset_root={data['dataset_root']}"]
        values += [f"dataset.{key}={data['dataset'][key]}" for key in keys]
        sides.append(" ".join(values + [f"({split} list: {own[split]})" for split in other]))
    print(f"Trained on {sides[0]}; now on {sides[1]}.")
    return False


def _other_data(trained: Mapping[str, Any], config: DictConfig, anywhere: bool) -> list[str]:
    """The keys of the data set, beside how its pictures are read and cut, that have another value.

    Args:
        anywhere: but its folder, where its lists are known.
    """
    own, used = trained["dataset"], config.dataset
    keys = [spec.name for spec in fields(OmegaConf.get_type(used)) if "reading" not in spec.metadata]
    keys = [key for key in keys if not (anywhere and f"dataset.{key}" in ANYWHERE)]
    return [key for key in keys if key in own and used[key] != own[key]]


def _settle(own: DictConfig, here: DictConfig, given: Collection[str]) -> None:
    """Where a place of a run's is not on this machine, or not any more, it becomes what a program has without it.

    Args:
        own: config of the run; it is changed.
        here: the program's.
        given: keys that the command line gives, and which stay.
    """
    for key in PLACES:
        before, instead = (OmegaConf.select(config, key) for config in (own, here))
        below = str(OmegaConf.select(own, "dataset.folder")) if key == "dataset_root" else ""
        if key in given or before is None or instead is None or Path(before, below).exists():
            continue
        if key == "dataset_root":
            if not Path(instead, below).exists():
                continue  # the message about what is missing is to name the run's
            if here.get("images") is None:  # pictures of one's own are in no data set
                say(f"The run's dataset_root={before} is not here: it is read from dataset_root={instead}.")
        OmegaConf.update(own, key, instead)


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
    key = "checkpoint" if config.get("resume") is None else "resume"
    place = Path(read_path(str(config.get(key)), key))
    if (place / "config.yaml").is_file():
        try:
            return saved_config(place / "config.yaml")
        except UserError:
            if key == "resume":
                raise  # what is used of a checkpoint is its own
    file = latest(place) if place.is_dir() else place
    try:
        trained = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["config"]
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


def _same_name(first: object, second: object) -> bool:
    return None not in (first, second) and Path(str(first)).name == Path(str(second)).name


def _same_place(first: object, second: object) -> bool:
    return Path(str(first)).resolve() == Path(str(second)).resolve()
