"""CIE Lab."""

from functools import lru_cache

import kornia
import torch
from torch import Tensor


def rgb_to_lab(image: Tensor) -> Tensor:
    """CIE Lab (D65) of RGB images (N, 3, H, W) in [0, 1], L in 0..100, as scikit-image has it.

    kornia's makes its constants on the host at each call, and the host would wait for the device to take them.
    """
    # In double precision: mixed precision, and TensorFloat-32 inside a float32 product, would leave three digits.
    linear = kornia.color.rgb_to_linear_rgb(image.double())
    xyz = (_relative_xyz(image.device) @ linear.flatten(2)).view_as(linear)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1).to(image.dtype)


@lru_cache(maxsize=4)
def _relative_xyz(device: torch.device) -> Tensor:
    """(3, 3): XYZ of linear sRGB, relative to the white of D65 (2 degrees)."""
    xyz = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
    white = (0.95047, 1.0, 1.08883)
    return (torch.tensor(xyz, dtype=torch.float64) / torch.tensor(white, dtype=torch.float64)[:, None]).to(device)
