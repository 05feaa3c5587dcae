"""CIE Lab."""

from functools import lru_cache

import torch
from torch import Tensor


def rgb_to_lab(image: Tensor) -> Tensor:
    """CIE Lab (D65) of RGB images (N, 3, H, W) in [0, 1], L in 0..100, as scikit-image has it."""
    to_xyz, to_lab, offset = _constants(image.device)
    # In double precision: mixed precision, and TensorFloat-32 inside a float32 product, would leave three digits.
    rgb = image.double()
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = to_xyz @ linear.flatten(2)
    response = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116)
    return (to_lab @ response + offset).view_as(image).to(image.dtype)


@lru_cache(maxsize=4)
def _constants(device: torch.device) -> tuple[Tensor, ...]:
    """XYZ of linear sRGB, relative to the white of D65 (2 degrees); Lab of the response to it, and what is added then.

    Made once: the host waits for the device to take them.
    """
    xyz = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
    lab = ((0, 116, 0), (500, -500, 0), (0, 200, -200))
    white, offset = ((0.95047,), (1,), (1.08883,)), ((-16,), (0,), (0,))
    xyz, white, lab, offset = (torch.tensor(rows, dtype=torch.float64) for rows in (xyz, white, lab, offset))
    return tuple(table.to(device) for table in (xyz / white, lab, offset))
