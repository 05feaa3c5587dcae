"""Which row of the tables in ``conf/table`` says what was published of the same thing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf.app import CONF


@dataclass(frozen=True)
class Published:
    """A row: what it is of, and in which table.

    Attributes:
        figures: metric -> percent.
    """

    label: str
    table: str
    figures: Mapping[str, float]


def published(
    config: DictConfig, num_parts: int, baseline: str | None = None, checkpoint: Path | None = None
) -> Published | None:
    """The row of the same data, method or baseline, and K whose other keys, if it has any, the config has too.

    Of several the one that says most. A row's recipe is not compared: figures of a network that was trained otherwise
    are set beside those that were published.

    Args:
        config: of the evaluation.
        baseline: what it is of; None: the method of ``config``.
        checkpoint: what was evaluated: a row of that very file wins.
    """
    found = []
    for name, row, overrides, place in _rows(config.dataset_name):
        figures = {metric: own[place] if isinstance(own, list) else own for metric, own in row["published"].items()}
        figures = {metric: own for metric, own in figures.items() if own is not None}
        if not figures or row.get("baseline") != baseline:
            continue
        if (file := row.get("checkpoint")) is not None:
            asked = Path(file).parts
            if checkpoint is None or checkpoint.parts[-len(asked) :] != asked:
                continue
        elif not all(_holds(override, config) for override in overrides):
            continue
        given = dict(override.partition("=")[::2] for override in overrides)
        alone = row.get("sees") == [] and row.get("seeded") is False  # a trivial row has one landmark whatever K is
        if file is None and not alone and _num_parts(overrides, config.dataset_name) != num_parts:
            continue
        if baseline is None and file is None and config.method.name != given.get("method", _default("method")):
            continue
        if row.get("overrides") is None and row.get("baseline") is None and file is None:
            continue  # figures of another code, which nothing here is
        of_its_own = len(given.keys() - {"dataset_name", "num_parts"})
        found.append(((file is not None, of_its_own, len(figures)), Published(row["label"], name, figures)))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _rows(dataset_name: str) -> Iterator[tuple[str, dict[str, Any], list[str], int]]:
    """Table, row, overrides and place among the table's data of all that is published of a data set."""
    for file in sorted((CONF / "table").glob("*.yaml")):
        text = file.read_text()
        if "published:" not in text or f"dataset_name={dataset_name}" not in text:
            continue
        table = _content(file)["table"]
        for place, (data, of_data) in enumerate(table["data"].items()):
            if f"dataset_name={dataset_name}" not in of_data:
                continue
            for row in table["rows"].values():
                own = row.get("overrides") or []
                own = own.get(data, []) if isinstance(own, Mapping) else own
                if row.get("published"):
                    yield table["name"], row, [*of_data, *own], place


def _holds(override: str, config: DictConfig) -> bool:
    """Whether a config has what an override gives: a value, or all of an option of a group.

    One that only chooses others says nothing that could be compared, and does not hold.
    """
    key, _, value = override.partition("=")
    if key == "dataset_name" or not (CONF / key).is_dir():
        return str(OmegaConf.select(config, key)) == value
    if key == "method":
        return config.method.name == value
    leaves = [pair for option in _options(key, value) for pair in _leaves(option)]
    return bool(leaves) and all(OmegaConf.select(config, name) == own for name, own in leaves)


def _options(group: str, value: str) -> Iterator[dict[str, Any]]:
    """What each of the files that are chosen gives, below the config's root."""
    for name in value.strip("[]").split(","):
        file = CONF / group / f"{name.strip()}.yaml"
        content = {key: own for key, own in _content(file).items() if key != "defaults"}
        yield content if "@package _global_" in file.read_text() else {group: content}


def _num_parts(overrides: list[str], dataset_name: str) -> int:
    """That of a row."""
    places = [_content(CONF / "train.yaml"), _content(CONF / f"dataset_name/{dataset_name}.yaml")]
    for override in overrides:
        key, _, value = override.partition("=")
        places += [{"num_parts": int(value)}] if key == "num_parts" else []
        places += _options(key, value) if key == "experiment" else []
    return next(own["num_parts"] for own in reversed(places) if "num_parts" in own)


def _default(group: str) -> str:
    return next(entry[group] for entry in _content(CONF / "train.yaml")["defaults"] if group in entry)


@cache
def _content(file: Path) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(file))


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
