"""Methods. A method knows networks and losses: its forward takes views and returns named scalar losses.

It is a module with the class attributes ``task`` (what its ``segmenter`` finds: ``"parts"`` or ``"foreground"``) and
``loss_names``, a class method ``from_config`` and ``parameter_groups(lr, head_multiplier)``.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from models.methods.contrastive_reconstruction import ContrastiveReconstruction
from models.methods.foreground import Foreground
from utils.errors import UserError

METHODS = {"contrastive_reconstruction": ContrastiveReconstruction, "foreground": Foreground}


def build_method(cfg: Any) -> ContrastiveReconstruction | Foreground:
    """The method ``cfg.method.name`` with its networks, on the CPU, in train mode.

    Raises:
        UserError: unknown method, a batch too small for it, or weights that cannot be had.
    """
    _require_known(cfg.method.name)
    return METHODS[cfg.method.name].from_config(cfg)


def task_of(name: str) -> str:
    """What the method ``name`` trains a segmenter to find: ``"parts"`` or ``"foreground"``.

    Raises:
        UserError: unknown method.
    """
    _require_known(name)
    return METHODS[name].task


def own_loss_weights(given: Mapping[str, float], loss_names: Iterable[str]) -> dict[str, float]:
    """The weights of a method's own losses. Others may be given: data set files bring those of the paper's method.

    Raises:
        UserError: a loss of the method has no weight, or a weight is of no method's loss.
    """
    known = {name for method in METHODS.values() for name in method.loss_names}
    if foreign := [name for name in given if name not in known]:
        raise UserError(f"loss_weights.{foreign[0]}: no method has such a loss; there are {', '.join(sorted(known))}.")
    if missing := [name for name in loss_names if name not in given]:
        raise UserError(f"loss_weights.{missing[0]} is required by the method: give +loss_weights.{missing[0]}=VALUE.")
    own = {name: given[name] for name in loss_names}
    if not any(own.values()):
        raise UserError(f"loss_weights.{', loss_weights.'.join(own)} are all 0: nothing would be learnt.")
    return own


def _require_known(name: str) -> None:
    if name not in METHODS:
        raise UserError(f"method.name={name}: known are {', '.join(METHODS)}.")
