"""Segmenters from checkpoints: the published ones and those of ``train.py``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from conf.schema import MAX_PARTS
from models.methods import task_of
from models.segmenter import HEAD, Segmenter
from models.weights import RESNET50
from utils import checkpoints
from utils.errors import UserError

# The published checkpoints do not say by which method they were made.
PUBLISHED_METHOD = "contrastive_reconstruction"

_FINDS = {"parts": "parts", "foreground": "the foreground alone"}
_ADVICE = {
    "parts": "Give a checkpoint of method=contrastive_reconstruction. "
    "Those of method=foreground are for predict.py task=foreground, which writes masks.",
    "foreground": "Give a checkpoint of method=foreground. "
    "Those of parts are for evaluate.py and for predict.py task=parts.",
}


def load_segmenter(
    path: str | Path,
    device: str | torch.device = "cpu",
    task: Literal["parts", "foreground"] = "parts",
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Segmenter:
    """The segmenter of a checkpoint, in eval mode.

    K is read from the head; the variant from the config saved with the checkpoint, ``"caffe"`` where there is none, as
    in the published ones.

    Args:
        path: checkpoint file, or a run directory, of which the last checkpoint is taken.
        device: where to put the network.
        task: what the segmenter is wanted for.
        memory_format: layout of its weights, which its activations follow.

    Raises:
        UserError: no checkpoint there, a truncated or foreign file, one made for another task, more parts than label
            maps have, or tensors that do not fit the network.
    """
    file, payload = checkpoints.find(path)
    state = payload["model_state_dict"]
    head = state.get(f"{HEAD}.conv2d_list.0.weight")
    if head is None or head.ndim != 4 or not len(head):
        raise UserError(
            f"{file} is not a checkpoint of a segmenter: it has no {HEAD}.conv2d_list.0.weight (K, C, 3, 3). Expected "
            "are the published checkpoints or those that train.py writes."
        )
    if len(head) > MAX_PARTS:
        raise UserError(f"{file} has {len(head)} parts: label maps hold bytes, for {MAX_PARTS} parts at most.")
    config = payload.get("config", {})
    method = config.get("method", {}).get("name", PUBLISHED_METHOD)
    try:
        found = task_of(method)
    except UserError as error:
        raise UserError(f"{file} was trained with {error}") from error
    if found != task:
        raise UserError(f"{file} was trained with method={method}: it finds {_FINDS[found]}. {_ADVICE[task]}")
    variant = config.get("segmenter", {}).get("variant", "caffe")
    if variant not in RESNET50:
        raise UserError(
            f"{file} holds the unknown segmenter variant {variant!r}; this version knows {', '.join(RESNET50)}."
        )
    segmenter = Segmenter(num_parts=head.shape[0], variant=variant)
    restore_segmenter(segmenter, state, file)
    return segmenter.to(device, memory_format=memory_format).eval()


def restore_segmenter(segmenter: Segmenter, state: Mapping[str, Tensor], file: Path | str) -> None:
    """Load the weights of a checkpoint.

    Args:
        file: the checkpoint, for the message.

    Raises:
        UserError: tensors that do not fit the network, or numbers that are not finite.
    """
    try:
        segmenter.load_state_dict(state)
    except RuntimeError as error:
        first_fault = str(error).splitlines()[1].strip()
        raise UserError(f"The checkpoint {file} does not fit the segmenter: {first_fault[:300]}") from error
    if broken := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise UserError(
            f"The checkpoint {file} is of no use: {broken[0]} has numbers that are not finite. Give an earlier one."
        )
