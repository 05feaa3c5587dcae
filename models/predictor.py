"""What a checkpoint predicts with: the published ones and those of ``train.py``."""

from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from conf.modules import module
from conf.schema import MAX_PARTS
from utils.checkpoints import Checkpoint
from utils.errors import UserError


def load_predictor(
    checkpoint: Checkpoint,
    config: DictConfig,
    *,
    num_parts: int | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> nn.Module:
    """The predictor of a checkpoint, on the CPU, in eval mode.

    Args:
        config: the whole config; ``method`` and ``segmenter`` say what the checkpoint was trained as. A published one
            does not say it itself.
        num_parts: K that it must have, where that is known; else it is read from the checkpoint.
        memory_format: layout of its weights, which its activations follow.

    Raises:
        UserError: the checkpoint is of another network, has another K or more parts than label maps have, or tensors
            that do not fit or are not finite; the message names the file.
    """
    method = module("method", config.method.name).Method
    try:
        predictor = method.predictor_of(config, checkpoint.model)
    except UserError as error:
        raise UserError(f"{checkpoint.file}: {error}") from error
    found = predictor.num_parts
    if found > MAX_PARTS:
        raise UserError(f"{checkpoint.file} has {found} parts: label maps hold bytes, for {MAX_PARTS} parts at most.")
    if num_parts is not None and found != num_parts:
        channels = found + method.has_background
        what = f"background and {found} parts" if method.has_background else f"{found} parts and no background"
        raise UserError(
            f"{checkpoint.file} has {channels} channels, with method={config.method.name} {what}, which is not "
            f"num_parts={num_parts}: give num_parts={found}, or the method that it was trained with."
        )
    restore(predictor, checkpoint.model, checkpoint.file)
    return predictor.to(memory_format=memory_format).eval()


def restore(predictor: nn.Module, state: Mapping[str, Tensor], file: Path | str) -> None:
    """Load the weights of a checkpoint.

    Args:
        file: the checkpoint, for the message.

    Raises:
        UserError: tensors that do not fit the network, or numbers that are not finite.
    """
    try:
        predictor.load_state_dict(state)
    except RuntimeError as error:
        first_fault = str(error).splitlines()[1].strip()
        raise UserError(f"The checkpoint {file} does not fit the network: {first_fault[:300]}") from error
    require_finite(state, file)


def require_finite(state: Mapping[str, Tensor], file: Path | str) -> None:
    """Raises UserError where a tensor of a checkpoint has numbers that are not finite; the message names both."""
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise UserError(
            f"The checkpoint {file} is of no use: {broken[0]} has numbers that are not finite. Give an earlier one."
        )
