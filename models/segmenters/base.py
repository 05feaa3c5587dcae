"""What segmenters share: starting from the weights of a file, and K of a checkpoint."""

from collections.abc import Mapping

from omegaconf import DictConfig
from torch import Tensor, nn

from models.weights import copy_by_name, read_state
from utils.errors import UserError


def with_weights(segmenter: nn.Module, options: DictConfig, head: str) -> nn.Module:
    """The same, with the weights of ``segmenter.weights`` unless that is ``"none"``.

    Args:
        options: the node ``segmenter``.
        head: before the names of what stays new where K is another one.

    Raises:
        UserError: they cannot be had or do not fit.
    """
    if options.weights != "none":
        state = read_state(options.weights, options.weights_dir, "segmenter.weights")
        copy_by_name(segmenter, state, f"segmenter.weights={options.weights}", head=head)
    return segmenter


def num_parts_of(
    options: DictConfig, state: Mapping[str, Tensor], has_background: bool, *names: str, shape: str, hint: str = ""
) -> int:
    """K of the weights of a checkpoint.

    Args:
        options: the node ``segmenter``.
        has_background: one channel more is the background's.
        names: what the head's weight may be called; the first axis of the first that is there has the channels.
        shape: its other axes, for the message: ``"C, 1, 1"``.
        hint: what to do, in a sentence.

    Raises:
        UserError: it is of another network.
    """
    weight = next((state[name] for name in names if name in state), None)
    if weight is None or weight.ndim != 2 + shape.count(",") or len(weight) <= has_background:
        others = f", or {', or '.join(names[1:])}," * (len(names) > 1)
        raise UserError(
            f"it is no checkpoint of a segmenter={options.name}: it has no {names[0]}{others} of the shape "
            f"({'1 + ' * has_background}K, {shape}).{hint and ' ' + hint}"
        )
    return len(weight) - has_background
