"""The paper's losses as their formulas stand: features brought up to the image's size, part by part, pixel by pixel.

What the tests hold ``losses/`` to, and the reference step of ``benchmarks/step.py``. Shapes as in ``losses/``; the
normalisations are the release's.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample(small: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, h, w) to (N, C, H, W), bilinear with the corners' centres aligned."""
    return F.interpolate(small, size=size, mode="bilinear", align_corners=True)


def descriptors(part_masks: Tensor, phi: Tensor, foreground: Tensor) -> Tensor:
    """z_k = sum_u m_u M_ku phi_u / sum_u m_u M_ku: (N, K, C), phi (N, C, H, W) at full size."""
    means = []
    for masks, x, m in zip(part_masks, phi, foreground, strict=True):
        means.append(torch.stack([(part * m * x).sum((1, 2)) / (part * m).sum() for part in masks]))
    return torch.stack(means)


def spread(part_masks: Tensor, pixels: Tensor, foreground: Tensor) -> Tensor:
    """1 / |Omega| sum_k sum_u m_u M_ku ||mean_k - x_u||^2 of each image: (N,), x (N, C, H, W) at full size."""
    values = []
    for masks, x, m in zip(part_masks, pixels, foreground, strict=True):
        value = torch.zeros((), dtype=x.dtype, device=x.device)
        for part in masks:
            weight = part * m[0]
            mean = (weight * x).sum((1, 2)) / (weight.sum() + 1e-5)
            value = value + (weight * (x - mean[:, None, None]).square().sum(0)).sum()
        values.append(value / (m.sum() + 1e-5))
    return torch.stack(values)


def contrastive(descriptors: Tensor, temperature: float, positives: Tensor, negatives: str) -> Tensor:
    """The contrastive loss, anchor by anchor."""
    num_images, num_parts = positives.shape
    z = F.normalize(descriptors, dim=2)
    terms = []
    for n, k in itertools.product(range(num_images), range(num_parts)):
        positive = torch.exp(z[n, k] @ z[int(positives[n, k]), k] / temperature)
        negative = sum(
            torch.exp(z[n, k] @ z[i, j] / temperature)
            for i, j in itertools.product(range(num_images), range(num_parts))
            if j != k and (negatives == "all_images" or i != n)
        )
        terms.append(-torch.log(positive / (positive + negative)))
    return sum(terms) / len(terms)


def equivariance(logits: Tensor, of_warped: Tensor, grid: Tensor, foreground: Tensor, formula: str) -> Tensor:
    """The equivariance loss, image by image."""
    p = F.grid_sample(logits if formula == "paper" else logits.detach(), grid, align_corners=True).softmax(1)
    q = of_warped.softmax(1)
    weight = F.grid_sample(foreground, grid, align_corners=True)
    divergence = (p * (p / q).log()).sum(1)
    if formula == "paper":
        divergence = divergence + (q * (q / p).log()).sum(1)
    return sum((w * d).sum() / w.sum() for w, d in zip(weight[:, 0], divergence, strict=True)) / len(logits)


def joint_table(x: Tensor, y: Tensor, down: int, right: int) -> Tensor:
    """P[i, j] = sum_n,u x_n[i, u + (down, right)] y_n[j, u]: (K, K) of maps (N, K, H, W), zeros outside."""
    height, width = x.shape[2:]
    moved = x[..., max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
    still = y[..., max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)]
    return torch.einsum("nihw,njhw->ij", moved, still)


def information_of(table: Tensor, weight: float) -> Tensor:
    """Minus the information of a joint table (K, K), which is divided by its sum and made symmetric."""
    joint = table / table.sum()
    joint = (joint + joint.T) / 2
    rows, columns = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    return -(joint * (joint.log() - weight * rows.log() - weight * columns.log())).sum()


def mutual_information(
    x: Tensor, y: Tensor, half_window: int, mask: Tensor | None, shifts: str, weight: float
) -> Tensor:
    """The loss of IIC and AC, shift by shift; mask (N, H, W)."""
    if mask is not None:
        x, y = x * mask[:, None], y * mask[:, None]
    window = range(-half_window, half_window + 1)
    tables = [joint_table(x, y, down, right) for down, right in itertools.product(window, window)]
    if shifts == "summed":
        return information_of(sum(tables), weight)
    return sum(information_of(table, weight) for table in tables) / len(tables)
