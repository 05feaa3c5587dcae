"""Segmenters from checkpoints: the published ones and those of ``train.py``."""

from pathlib import Path
from typing import Literal

import torch

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
    path: str | Path, device: str | torch.device = "cpu", task: Literal["parts", "foreground"] = "parts"
) -> Segmenter:
    """The segmenter of a checkpoint, in eval mode.

    K is read from the head; the variant from the config saved with the checkpoint, ``"caffe"`` where there is none, as
    in the published ones.

    Args:
        path: checkpoint file, or a run directory, of which the last checkpoint is taken.
        device: where to put the network.
        task: what the segmenter is wanted for.

    Raises:
        UserError: no checkpoint there, a truncated or foreign file, one made for another task, or tensors that do not
            fit the network.
    """
    file = checkpoints.resolve(path)
    payload = checkpoints.read(file)
    state = payload["model_state_dict"]
    head = state.get(f"{HEAD}.conv2d_list.0.weight")
    if head is None:
        raise UserError(f"{file} is not a checkpoint of a segmenter: it has no {HEAD}.conv2d_list.0.weight.")
    config = payload.get("config") or {}
    method = config.get("method", {}).get("name", PUBLISHED_METHOD)
    if task_of(method) != task:
        raise UserError(f"{file} was trained with method={method}: it finds {_FINDS[task_of(method)]}. {_ADVICE[task]}")
    variant = config.get("segmenter", {}).get("variant", "caffe")
    if variant not in RESNET50:
        raise UserError(
            f"{file} holds the unknown segmenter variant {variant!r}; this version knows {', '.join(RESNET50)}."
        )
    segmenter = Segmenter(num_parts=head.shape[0], variant=variant)
    try:
        segmenter.load_state_dict(state)
    except RuntimeError as error:
        first_fault = str(error).splitlines()[1].strip()
        raise UserError(f"The checkpoint {file} does not fit the segmenter: {first_fault[:300]}") from error
    return segmenter.to(device).eval()
