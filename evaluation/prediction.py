"""From a labeller's scores to part probabilities and label maps."""

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample(scores: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Bring scores (N, C, h', w') to ``size`` (h, w) bilinearly; most published figures are of align_corners=False."""
    return F.interpolate(scores.float(), size=size, mode="bilinear", align_corners=align_corners)


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


def predicted_labels(scores: Tensor, foreground: Tensor, has_background: bool = False) -> Tensor:
    """Label maps (N, h, w) uint8 at the mask's size: 0 is background, 1..K are the parts.

    Args:
        scores: as for :func:`part_probabilities`, at any size.
        foreground: (N, 1, h, w) mask.
        has_background: the scores hold a background channel.
    """
    scores = upsample(scores, foreground.shape[-2:])
    return part_probabilities(scores, foreground, has_background).argmax(1).to(torch.uint8)
