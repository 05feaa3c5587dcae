"""Rules of config keys, in the metadata of dataclass fields: what every module that brings options writes them with.

A field without a default has none anywhere but in the YAML files beside this one.
"""

import math
from collections.abc import Mapping
from dataclasses import Field, field
from typing import Any

from omegaconf import MISSING, OmegaConf

from utils.errors import UserError


def number(low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A finite number in [low, high] that is larger than ``above``; of a list or mapping of numbers, each of them."""
    return field(default=MISSING, metadata={"low": low, "high": high, "above": above})


def probability() -> Any:
    """A number in [0, 1]."""
    return number(low=0, high=1)


def numbers(length: int, increasing: bool = False, **bounds: float) -> Any:
    """So many numbers, with the bounds of :func:`number`."""
    return field(default=MISSING, metadata={"length": length, "increasing": increasing, **bounds})


def choice(*options: str) -> Any:
    """One of these words; of a list, each of them."""
    return field(default=MISSING, metadata={"options": options})


def reading(key: Field | None = None) -> Any:
    """A key of a data set, with its rules, that changes how pictures are read and cut, and not which ones there are."""
    return field(default=MISSING, metadata={**(key.metadata if key else {}), "reading": True})


def path(*words: str, below: str | None = None) -> Any:
    """A file or folder, or one of these words, which are none.

    Args:
        below: the key of the folder that it is in; None: it is seen from the working directory.
    """
    return field(default=MISSING, metadata={"path": words, "below": below})


def plain(node: Any) -> Any:
    """A typed node of a config as its dataclass, any other object as it is.

    To read a key of a config takes ten microseconds: what reads a hundred in each step reads them here.
    """
    return OmegaConf.to_object(node) if OmegaConf.is_config(node) else node


def check(key: str, value: Any, rules: Mapping[str, Any]) -> None:
    """Compare the value of a key, no mapping, with the rules of its field; None keeps every rule.

    Raises:
        UserError: it breaks one; the message names the key, the value and what is allowed.
    """
    if value is None:
        return
    values = list(value) if OmegaConf.is_list(value) else [value]
    if "length" in rules and len(values) != rules["length"]:
        raise UserError(f"{key} needs {rules['length']} values, not {len(values)}: {value}.")
    if rules.get("increasing") and values != sorted(values):
        raise UserError(f"{key} must be increasing, not {value}.")
    for item in values:
        if "options" in rules and item not in rules["options"]:
            raise UserError(f"{key} must be one of {', '.join(rules['options'])}, not {item!r}.")
        if not isinstance(item, float | int):
            continue
        if not math.isfinite(item):
            raise UserError(f"{key} must be finite, not {item}.")
        low, high, above = (rules.get(bound) for bound in ("low", "high", "above"))
        if low is not None and item < low:
            raise UserError(f"{key} must be at least {low:g}, not {item}.")
        if above is not None and item <= above:
            raise UserError(f"{key} must be greater than {above:g}, not {item}.")
        if high is not None and item > high:
            raise UserError(f"{key} must be at most {high:g}, not {item}.")
