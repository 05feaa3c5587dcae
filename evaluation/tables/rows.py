"""What the YAML file of a table says, and for each row on each data set the config that a run of it has."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import app
from conf.fields import number
from conf.modules import nearest
from conf.trained import FREE, MEASURED
from datasets.pascal_part import PAPER_NAMES
from evaluation.protocols import keypoints
from utils.console import say
from utils.errors import UserError

# What adds figures to an evaluation, and changes no other.
WITH_BACKGROUND, PROBE = "evaluation.ari_with_background", "evaluation.probe"
PROBES = f"{PROBE}.kinds"
# Keys that make no figure: runs that differ in them belong together.
NOT_COMPARED = (
    "seed",  # what a mean is over
    *("output_dir", "resume", "debug", "logging", "checkpointing", "baselines"),  # what is told, kept, set beside it
    *("dataset_root", *FREE),  # places, and whether a broken picture ends the training
    *("device", "devices", "num_nodes", "strategy", "loader"),  # who computes: a batch is that of all devices
    # Rounding alone; precision is compared.
    *("channels_last", "compile", "cuda_graph", "cudnn_search", "deterministic"),
    *("evaluation.every", "evaluation.batch_size", "evaluation.pictures"),  # when, how fast, and pictures
    "evaluation.report",  # a page of pictures
    *(WITH_BACKGROUND, PROBE),
)
# What an evaluation, and a baseline, which is not trained, depends on ...
OF_EVALUATION = ("dataset_name", "dataset", "image_size", "evaluation.size", "evaluation.label_resize")
# ... but these, which are about training crops.
OF_TRAINING_CROPS = (
    *("dataset.flip_probability", "dataset.box_jitter", "dataset.crop_area", "dataset.crop_aspect"),
    "dataset.saliency",
)
# Of keys that make figures those with paths, among other words.
PATHS = ("segmenter.weights", "perceptual.weights", "dataset.saliency")
# A row's value with which any of a run counts as the row's: it was measured, or added a figure to the others.
ANY = {**dict.fromkeys(MEASURED), WITH_BACKGROUND: False}


@dataclass
class Row:
    """A row of a table.

    What is measured is a training (``overrides`` alone), a baseline, or a checkpoint that is there already; with none
    of the three the row has published figures only. A figure is a number, or a list with one for each of the table's
    ``data``, null where there is none.

    Attributes:
        label: what readers see.
        overrides: of ``train.py``, or of ``evaluate.py``; a list, or for each of ``data`` a list. Empty: the default
            method.
        baseline: a module of ``evaluation/labellers``.
        sees: which networks' nodes, or other keys, the baseline depends on.
        seeded: a baseline's figures depend on the seed.
        checkpoint: a file, or a run.
        published: metric -> figure.
        five_seeds: metric -> mean over five seeds, where it is published.
        deviations: metric -> that of ``five_seeds``, or, of a metric that is not in it, of the published figure itself.
        note: what a reader has to know of it, for below the table; of published figures alone, why there are no others.
    """

    label: str = MISSING
    overrides: Any = None
    baseline: str | None = None
    sees: list[str] = field(default_factory=lambda: ["segmenter", "perceptual"])
    seeded: bool = True
    checkpoint: str | None = None
    published: dict[str, Any] = field(default_factory=dict)
    five_seeds: dict[str, Any] = field(default_factory=dict)
    deviations: dict[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass
class Options:
    """A table: ``conf/table/NAME.yaml``.

    Attributes:
        name, title: for files, and for readers.
        metrics: the columns, as ``metrics.json`` names them.
        data: name -> overrides. Each row is measured on each of them; they may be data sets, or categories of one.
        foreground_steps: where predicted masks are missing, a foreground network is trained for so many steps at most
            and writes them; null: they have to be there.
        rows: by name.
    """

    name: str = MISSING
    title: str = MISSING
    metrics: list[str] = MISSING
    data: dict[str, list[str]] = field(default_factory=dict)
    foreground_steps: int | None = number(low=1)
    rows: dict[str, Row] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A row on one of the table's data sets.

    Attributes:
        row, data: their names in the YAML file; the data set that the command line gives goes by its own.
        several: the table is of several data sets.
        label: of the row.
        spec: the row.
        data_keys: what programs are given for the data set, and for what the command line says.
        keys: the same, and for the row.
        config: that of a run of it; None where there is nothing to run, or the keys give no config.
        published: metric -> percent.
        deviations: metric -> that of the published figure, percent.
        five_seeds: metric -> mean and deviation, percent.
    """

    row: str
    data: str
    several: bool
    label: str
    spec: Row
    data_keys: list[str]
    keys: list[str]
    config: DictConfig | None
    published: dict[str, float]
    deviations: dict[str, float]
    five_seeds: dict[str, tuple[float, float]]

    @property
    def kind(self) -> str:
        """``training``, ``baseline``, ``checkpoint`` or ``published``."""
        if self.config is None:
            return "published"
        return "baseline" if self.spec.baseline else "checkpoint" if self.spec.checkpoint else "training"

    @property
    def title(self) -> str:
        """As messages name it."""
        return f"'{self.label}' ({self.data})"

    @property
    def folder(self) -> Path:
        """Of what is made of it, in that of the table."""
        return Path(self.row, self.data) if self.several else Path(self.row)

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The config as plain mappings."""
        return OmegaConf.to_container(self.config)

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """Every key that makes figures, with its value."""
        if self.kind == "training":
            return training_numbers(self.plain)
        if self.kind == "baseline":
            return baseline_numbers(self.plain, self.spec.baseline, self.spec.sees, self.plain["num_parts"])
        return evaluation_numbers(self.plain)


@dataclass
class Rows:
    """The entries of a table, in its order, and whether published figures are left out, being of other data."""

    entries: list[Entry]
    moved: bool


def rows_of(config: DictConfig, given: Sequence[str]) -> Rows:
    """The rows of ``config.table`` that ``config.rows`` and ``config.data`` choose.

    A row whose keys give no config is told, and keeps its published figures.

    Args:
        given: what the command line says for every row, as overrides.

    Raises:
        UserError: an unknown row, data set or metric is named; a row names a data set, or has another number of
            figures than the table has data sets; no row has a config; or ``given`` makes two rows the same.
    """
    table = OmegaConf.to_object(config.table)
    chosen_rows = chosen("rows", config.rows, table.rows)
    chosen_data = chosen("data", config.data, table.data)
    given_keys = dict(override.lstrip("+~").partition("=")[::2] for override in given)
    if keypoints.WITH_BACKGROUND in config.metrics and WITH_BACKGROUND not in given_keys:
        given = [*given, f"{WITH_BACKGROUND}=true"]  # else nothing has that figure
    instead = given_keys.get("dataset_name")
    if len(table.data) > 1:
        of_data = {override.partition("=")[0] for own in table.data.values() for override in own} - {"dataset_name"}
        if key := next((key for key in given_keys if key in of_data), None):
            raise UserError(
                f"{key} is what tells the columns of table={table.name} apart: leave it out, and give data=[...] with "
                f"some of {', '.join(table.data)}."
            )
    same = [data for data in chosen_data if instead in (None, _data_set(table.data[data]))]
    moved = not same
    chosen_data = same or chosen_data[:1]  # all are the same then
    entries, errors = [], []
    for row in chosen_rows:
        spec = table.rows[row]
        _check(table, row)
        for data in chosen_data:
            place = list(table.data).index(data)
            data_keys = merged([*table.data[data], *given])
            keys = merged([*table.data[data], *_overrides(spec, data), *given])
            means, deviations = (_figures(own, place) for own in (spec.five_seeds, spec.deviations))
            composed = None
            if _is_run(spec):
                try:
                    composed = _composed(spec, keys)
                except (UserError, OmegaConfBaseException, HydraException) as error:
                    errors.append(f"Row {row} of table={table.name}: {app.message(error)}")
            entry = Entry(
                row=row,
                data=instead if moved else data,
                several=len(table.data) > 1 and not moved,
                label=spec.label,
                spec=spec,
                data_keys=data_keys,
                keys=keys,
                config=composed,
                published={} if moved else _figures(spec.published, place),
                deviations={} if moved else {name: own for name, own in deviations.items() if name not in means},
                five_seeds={} if moved else {name: (means[name], deviations[name]) for name in means},
            )
            entries.append(entry)
    _require_told_apart(entries, given)
    errors = list(dict.fromkeys(errors))
    if errors and not any(entry.config for entry in entries):
        raise UserError(errors[0])
    for error in errors:
        say(f"{error} Its published figures stay.")
    return Rows(entries, moved)


def _require_told_apart(entries: Iterable[Entry], given: Sequence[str]) -> None:
    """Raises UserError if the command line made two rows one: either would then be shown under both labels."""
    labels: dict[str, str] = {}
    for entry in (own for own in entries if own.kind in ("training", "baseline")):
        label = labels.setdefault(repr((entry.data, entry.spec.baseline, entry.numbers)), entry.label)
        if label != entry.label:
            keys = " ".join(own for own in given if makes_figures(own.lstrip("+~").partition("=")[0]))
            raise UserError(
                f"With {keys} the rows '{label}' and '{entry.label}' are the same runs: leave out what "
                "tells them apart."
            )


def merged(overrides: Iterable[str]) -> list[str]:
    """Of a key that is given twice the last value; of experiments all, in their order."""
    experiments: list[str] = []
    others: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "experiment":
            experiments += [name.strip() for name in value.strip("[]").split(",")]
        else:
            others.pop(key.lstrip("+~"), None)
            others[key.lstrip("+~")] = override
    names = ",".join(name for name in dict.fromkeys(experiments) if name not in ("", "null"))
    chosen = [f"experiment=[{names}]" if "," in names else f"experiment={names}"] if names else []
    return [*others.values(), *chosen]


def makes_figures(key: str) -> bool:
    """Whether runs that differ in it are told apart."""
    return not is_in(key, NOT_COMPARED)


def training_numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every key of a run's config that makes figures, with its value."""
    numbers = {key: value for key, value in leaves(config) if makes_figures(key)}
    # A run keeps whole paths.
    whole = {key: os.path.abspath(numbers[key]) for key in PATHS if os.path.exists(numbers.get(key) or "")}
    return numbers | whole | _own_pictures(config)


def evaluation_numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those that an evaluation depends on."""
    numbers = {
        key: value
        for key, value in leaves(config)
        if is_in(key, (WITH_BACKGROUND, PROBE))
        or (makes_figures(key) and is_in(key, OF_EVALUATION) and not is_in(key, OF_TRAINING_CROPS))
    }
    return numbers | _own_pictures(config)


def baseline_numbers(config: Mapping[str, Any], name: str, sees: Sequence[str], num_parts: int) -> dict[str, Any]:
    """Those that a baseline depends on; K is that of what it stood beside."""
    options = leaves(config["baselines"].get(name) or {}, f"baselines.{name}.")
    networks = {key: value for key, value in training_numbers(config).items() if is_in(key, sees)}
    return {**evaluation_numbers(config), **networks, **dict(options), "num_parts": num_parts}


def data_of(config: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The data set, and the category of one that is used one at a time."""
    category = config["dataset"].get("category")
    return config["dataset_name"], PAPER_NAMES.get(category, category)


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> value found and value wanted, where they differ; a key that one lacks is ``???`` there.

    Where no probes are wanted, it plays no role which there are.
    """
    keys = dict.fromkeys([*wanted, *found])
    if not wanted.get(PROBES):
        keys = [key for key in keys if not is_in(key, [PROBE])]
    pairs = {key: (found.get(key, "???"), wanted.get(key, "???")) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and not (key in ANY and pair[1] == ANY[key])}


def root_of(config: Mapping[str, Any]) -> str:
    """Where the data lay."""
    return os.path.abspath(config["dataset_root"])


def data_read(config: Mapping[str, Any]) -> tuple[str, str | None]:
    """Where the data lay, and what tells the list of test pictures from others, if that is known."""
    return root_of(config), (config["dataset"].get("lists") or {}).get("test")


def _own_pictures(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a folder of anybody's pictures its place says which they are; of other data sets the name."""
    return {"dataset_root": root_of(config)} if config["dataset"]["name"] == "folder" else {}


def _composed(spec: Row, keys: Sequence[str]) -> DictConfig:
    baseline = [f"baseline=[{spec.baseline}]"] if spec.baseline else []
    return app.composed("train", [*keys, *baseline])


def _is_run(spec: Row) -> bool:
    return spec.overrides is not None or spec.baseline is not None or spec.checkpoint is not None


def _overrides(spec: Row, data: str) -> list[str]:
    own = spec.overrides or []
    return own.get(data, []) if isinstance(own, Mapping) else own


def _check(table: Options, row: str) -> None:
    spec, where = table.rows[row], f"table.rows.{row}"
    if not (spec.published or _is_run(spec)):
        others = [name for name in table.rows if name != row]
        raise UserError(f"{where} has neither published figures nor anything to run.{nearest(row, others)}")
    own = list(spec.overrides.values()) if isinstance(spec.overrides, Mapping) else [spec.overrides or []]
    for override in (override for overrides in own for override in overrides):
        if _data_set([override]):
            raise UserError(
                f"{where} gives {override}: all rows of a table are of the same data. Name data sets in table.data."
            )
    for node in ("published", "five_seeds", "deviations"):
        for name, value in getattr(spec, node).items():
            if name not in table.metrics:
                raise UserError(
                    f"{where}.{node} has {name}, which is none of table.metrics.{nearest(name, table.metrics)} "
                    "metrics=[...] chooses some of them."
                )
            if (isinstance(value, list) or len(table.data) > 1) and len(value or []) != len(table.data):
                raise UserError(f"{where}.{node}.{name} needs a list of {len(table.data)}: {', '.join(table.data)}.")
    means = spec.five_seeds.keys()
    if not means <= spec.deviations.keys() <= means | spec.published.keys():
        raise UserError(f"{where}: five_seeds have deviations, each its own; all others are of published figures.")


def _figures(own: Mapping[str, Any], place: int) -> dict[str, float]:
    values = {name: value[place] if isinstance(value, list) else value for name, value in own.items()}
    return {name: value for name, value in values.items() if value is not None}


def chosen(key: str, asked: Sequence[str], known: Iterable[str]) -> list[str]:
    """Those that are asked for, in the table's order; all where none is."""
    for name in asked:
        if name not in known:
            raise UserError(f"{key}: the table has no '{name}'.{nearest(name, known)} There are {', '.join(known)}.")
    return [name for name in known if not asked or name in asked]


def _data_set(overrides: Iterable[str]) -> str | None:
    return dict(override.partition("=")[::2] for override in overrides).get("dataset_name")


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a config, and its value."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, PAPER_NAMES.get(value, value) if prefix + key == "dataset.category" else value


def is_in(key: str, nodes: Iterable[str]) -> bool:
    """Whether a key is one of these, or of one of these nodes."""
    return any(f"{key}.".startswith(f"{node}.") for node in nodes)
