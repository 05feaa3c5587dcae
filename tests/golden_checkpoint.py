"""A checkpoint in the published layout whose weights need no download: each tensor is drawn from its own name."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.labellers.segmenter import SegmenterLabeller, of_predictor
from models.predictor import load_predictor
from tests.composition import composed
from tests.shared import GOLDEN
from utils import checkpoints


def _tensor_for(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    noise = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return torch.from_numpy(np.abs(noise) * 0.5 + 0.75)
    if len(shape) == 4:
        return torch.from_numpy(noise * np.float32(np.sqrt(2.0 / np.prod(shape[1:]))))
    return torch.from_numpy(noise * 0.1 + 0.8 if name.endswith("weight") else noise * 0.05)


def golden_state(head: bool) -> dict[str, Tensor]:
    """State dict of the golden network (K = 4); ``head`` takes the head that uses all parts, else it is drawn too."""
    shapes = json.loads((GOLDEN / "release_checkpoint_keys.json").read_text())
    state = {name: _tensor_for(name, tuple(shape)) for name, shape in shapes.items()}
    if head:
        state |= {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / "head.npz").items()}
    return state


def write_golden_checkpoint(path: Path, head: bool = True) -> Path:
    """Write it in the published layout and return the path."""
    torch.save({"iter": 60000, "model_state_dict": golden_state(head), "optimizer_state_dict": {}}, path)
    return path


def golden_labeller(folder: Path) -> SegmenterLabeller:
    """What scores with the golden network, read from a file in ``folder``."""
    checkpoint = checkpoints.find(write_golden_checkpoint(folder / "golden.pth"))
    return of_predictor(load_predictor(checkpoint, composed()))
