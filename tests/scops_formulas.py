"""The losses of SCOPS as their formulas stand: image by image, part by part, features at the masks' size."""

import torch
from torch import Tensor

from benchmarks import formulas


def _q(mask: Tensor) -> Tensor:
    return (mask + 1e-3) / (mask + 1e-3).sum()


def _positions(mask: Tensor) -> tuple[Tensor, Tensor]:
    height, width = mask.shape
    rows, columns = torch.arange(height, dtype=mask.dtype), torch.arange(width, dtype=mask.dtype)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return 2 * x / width - 1, 2 * y / height - 1


def centre(mask: Tensor) -> Tensor:
    """(2,), of one mask (H, W)."""
    return torch.stack([(_q(mask) * position).sum() for position in _positions(mask)])


def centres(part_masks: Tensor) -> Tensor:
    return torch.stack([torch.stack([centre(mask) for mask in masks]) for masks in part_masks])


def concentration(part_masks: Tensor) -> Tensor:
    total = 0
    for masks in part_masks:
        for mask in masks:
            (x, y), (centre_x, centre_y) = _positions(mask), centre(mask)
            total = total + (_q(mask) * ((x - centre_x) ** 2 + (y - centre_y) ** 2)).sum()
    return total / len(part_masks) / len(part_masks)


def landmark_equivariance(of_warped: Tensor, warped: Tensor) -> Tensor:
    pairs = zip(of_warped.flatten(0, 1), warped.flatten(0, 1), strict=True)
    squares = [(centre(a) - centre(b)).square() for a, b in pairs]
    return sum(square.sum() for square in squares) / (2 * len(squares))


def equivariance(warped_logits: Tensor, of_warped: Tensor) -> Tensor:
    p, q = warped_logits.detach().softmax(1), of_warped.softmax(1)
    return (p * (p / q).log()).sum() / p.numel()


def semantic_consistency(part_masks: Tensor, features: list[Tensor], foreground: Tensor, basis: Tensor) -> Tensor:
    phi = torch.cat([formulas.upsample(maps, part_masks.shape[-2:]) for maps in features], dim=1)
    total = 0
    for masks, seen, m in zip(part_masks, phi, foreground, strict=True):
        rebuilt = sum(mask * row.relu()[:, None, None] for mask, row in zip(masks, basis, strict=True))
        total = total + (rebuilt - m * seen).square().sum()
    return total / phi.numel()


def orthonormality(basis: Tensor) -> Tensor:
    rows = [row.relu() / (row.relu().square().sum() + 1e-6).sqrt() for row in basis]
    return sum(((rows[k] * rows[j]).sum() - float(k == j)) ** 2 for k in range(len(rows)) for j in range(len(rows)))
