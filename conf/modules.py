"""A name in the config is that of a module: ``method.name=scops`` is ``models/methods/scops.py``. Nobody lists them."""

import difflib
import pkgutil
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

from utils.errors import UserError

# For each kind of module its package, and what it has to define.
PACKAGES = {
    "method": ("models.methods", ("Options", "LossWeights", "Augmentation", "Method")),
    "segmenter": ("models.segmenters", ("Options", "build", "from_state")),
    "pretrained": ("models.pretrained", ("Options", "build")),
    "perceptual": ("models.perceptual", ("Options", "build")),
    "dataset": ("datasets", ("Options", "build")),
    "baseline": ("evaluation.labellers", ("Options", "build")),
    "labeller": ("evaluation.labellers", ("of_predictor",)),
    "protocol": ("evaluation.protocols", ("Protocol",)),
}


def module(kind: str, name: str) -> ModuleType:
    """The module ``name`` of a kind in ``PACKAGES``; UserError with the nearest name, and all, if there is none."""
    package, wanted = PACKAGES[kind]
    found = import_module(f"{package}.{name}") if name in _files(package) else None
    if found is None or (missing := [attribute for attribute in wanted if not hasattr(found, attribute)]):
        known = names(kind)
        if found is not None and name not in known and hasattr(found, wanted[0]):
            raise UserError(f"{found.__file__} is no {kind}: it does not define {', '.join(missing)}.")
        raise UserError(f"There is no {kind} '{name}'.{nearest(name, known)} There are {', '.join(known)}.")
    return found


def names(kind: str) -> list[str]:
    """All modules of a kind."""
    package, wanted = PACKAGES[kind]
    found = ((name, import_module(f"{package}.{name}")) for name in _files(package))
    return [name for name, defined in found if all(hasattr(defined, attribute) for attribute in wanted)]


def nearest(name: str, candidates: Iterable[str], cutoff: float = 0, separator: str = ".") -> str:
    """`` Did you mean ...?``: the candidates whose last part is the name, or else the most similar one.

    Args:
        cutoff: how similar that has to be, in [0, 1]; where a name may be of other things than the candidates.
        separator: of a name's parts.
    """
    inside = [candidate for candidate in candidates if candidate.startswith(name.rpartition(separator)[0] + separator)]
    last = {candidate: candidate.rpartition(separator)[2].lower() for candidate in inside or candidates}
    best = [candidate for candidate in last if last[candidate] == name.lower()]
    if not best:
        spelled = {spelling: candidate for candidate in last for spelling in (candidate.lower(), last[candidate])}
        best = [spelled[close] for close in difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=cutoff)]
    return f" Did you mean {' or '.join(repr(candidate) for candidate in best)}?" if best else ""


def _files(package: str) -> list[str]:
    """But ``base``, which has what the modules of a kind share."""
    found = pkgutil.iter_modules(import_module(package).__path__)
    return [file.name for file in found if file.name != "base"]
