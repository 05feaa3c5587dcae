"""Segmenters from checkpoints: the published ones and those of ``train.py``."""

from pathlib import Path

import torch

from models.segmenter import HEAD, Segmenter
from models.weights import RESNET50
from utils import checkpoints
from utils.errors import UserError


def load_segmenter(path: str | Path, device: str | torch.device = "cpu") -> Segmenter:
    """The segmenter of a checkpoint, in eval mode.

    K is read from the head; the variant from the config saved with the checkpoint, ``"caffe"`` where there is none, as
    in the published ones.

    Args:
        path: checkpoint file, or a run directory, of which the last checkpoint is taken.
        device: where to put the network.

    Raises:
        UserError: no checkpoint there, a truncated or foreign file, or tensors that do not fit the network.
    """
    file = checkpoints.resolve(path)
    payload = checkpoints.read(file)
    state = payload["model_state_dict"]
    head = state.get(f"{HEAD}.conv2d_list.0.weight")
    if head is None:
        raise UserError(f"{file} is not a checkpoint of a segmenter: it has no {HEAD}.conv2d_list.0.weight.")
    config = payload.get("config") or {}
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
