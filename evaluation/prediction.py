"""From a labeller's scores to part probabilities, label maps and centres."""

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample(scores: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Bring scores (N, C, h', w') to ``size`` (h, w) bilinearly; most published figures are of align_corners=False."""
    return F.interpolate(scores.float(), size=size, mode="bilinear", align_corners=align_corners)


def part_scores(scores: Tensor, has_background: bool) -> Tensor:
    """Those of the parts (N, K, h, w) among scores (N, K [+ 1], h, w)."""
    return scores[:, 1:] if has_background else scores


def part_probabilities(scores: Tensor, foreground: Tensor, has_background: bool = False) -> Tensor:
    """Probabilities (N, 1 + K, h, w) of background and parts, the background first.

    Args:
        scores: (N, K, h, w) part logits; with ``has_background`` (N, 1 + K, h, w), the background's first.
        foreground: (N, 1, h, w) mask m; without a background channel of its own the labeller is given one by the
            mask: [1 - m, m softmax(scores)].
        has_background: the scores hold a background channel, and the mask is not used.
    """
    if has_background:
        return scores.softmax(1)
    return torch.cat([1 - foreground, foreground * scores.softmax(1)], dim=1)


def largest(scores: Tensor) -> Tensor:
    """Labels (N, ...) int64: at each pixel the channel of scores (N, C, ...) that is largest, the first of equals."""
    return scores.max(1).indices  # argmax takes seven times as long on a CPU


def hard(part_masks: Tensor) -> Tensor:
    """All of a pixel's mass in (N, K, h, w) for its largest part: one-hot labels times the mask."""
    numbers = torch.arange(part_masks.shape[1], device=part_masks.device)[:, None, None]
    return (largest(part_masks)[:, None] == numbers) * part_masks.sum(1, keepdim=True)


def centres_of_mass(part_masks: Tensor) -> Tensor:
    """Centres (N, K, 2) of soft part masks (N, K, h, w): x and y, one-based pixels; NaN where a mask is empty."""
    height, width = part_masks.shape[-2:]
    rows = torch.arange(1, height + 1, device=part_masks.device, dtype=part_masks.dtype)
    columns = torch.arange(1, width + 1, device=part_masks.device, dtype=part_masks.dtype)
    moments = torch.stack([part_masks.sum(2) @ columns, part_masks.sum(3) @ rows], dim=-1)
    return moments / part_masks.sum((2, 3))[..., None]
