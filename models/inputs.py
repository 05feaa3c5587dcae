"""What networks are shown: floats in [0, 1], and nothing that only looks like it."""

from weakref import WeakSet

import torch
from torch import Tensor, nn

ROUNDING = 1e-3  # what interpolation may add

_trained: WeakSet[nn.Module] = WeakSet()  # networks in train mode whose first pictures were looked at


def of_bytes(images: Tensor) -> Tensor:
    """Images uint8 as floats in [0, 1], whose numbers nobody has to look at: the host would wait for the device."""
    floats = images.float() / 255
    if images.dtype == torch.uint8:
        floats.of_bytes = True
    return floats


def require_pictures(images: Tensor, network: nn.Module) -> None:
    """Refuses what a segmenter's ``preprocess`` cannot mean: bytes, 0..255, NaN, another order of the axes.

    What kind of tensor it is costs nothing to ask. Its numbers are looked at in eval mode, unless :func:`of_bytes` has
    made them; in train mode the first time alone, since the host would wait for the device in every step.

    Args:
        images: what is to be (N, 3, H, W) float in [0, 1].
        network: which is to see them.

    Raises:
        TypeError: they are no tensor, or no floats; the message says what to do.
        ValueError: they have another shape, are none, or have numbers outside of [0, 1].
    """
    if not isinstance(images, Tensor):
        kind = type(images)
        raise TypeError(
            f"images are {kind.__module__}.{kind.__name__}, and not a tensor: of an array (N, 3, H, W) make "
            "torch.from_numpy(images)."
        )
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise TypeError(f"images are {kind}, and not floats in [0, 1]: give images.float() / 255.")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images have the shape {tuple(images.shape)}, and not (N, 3, H, W): of one picture (H, W, 3) as files "
            "give it, make picture.permute(2, 0, 1)[None]."
        )
    if 0 in images.shape:
        raise ValueError(f"images have the shape {tuple(images.shape)}: there are no pictures in them.")
    if torch.compiler.is_compiling() or (network.training and network in _trained) or hasattr(images, "of_bytes"):
        return
    low, high = (float(bound) for bound in images.detach().aminmax())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN is neither
        advice = "have NaN: look at where they come from."
        if low == low:
            scaled = "divide by 255" if high > 2 and low >= 0 else "clamp, or undo a normalisation: that is done here"
            advice = f"reach from {low:.4g} to {high:.4g}, and not from 0 to 1: {scaled}."
        raise ValueError(f"images {advice}")
    if network.training:
        _trained.add(network)
