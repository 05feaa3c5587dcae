"""Where the numbers are computed and in which precision."""

import torch
from lightning.fabric import Fabric

from utils.errors import UserError

# Losses stay in float32 in every case; "mixed" keeps the weights there too.
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def build_fabric(device: str, precision: str) -> Fabric:
    """Lightning Fabric on one device.

    Args:
        device: ``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda``.
        precision: ``32``, ``bf16`` or ``16``.

    Raises:
        UserError: this machine has no such device, or the device no such precision.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: PyTorch finds no CUDA device here. Check the driver, or give device=cpu.")
    if device == "cpu" and precision == "16":
        raise UserError("precision=16 needs a CUDA device: give precision=bf16 or 32.")
    return Fabric(accelerator=device, devices=1, precision=PRECISIONS[precision])
