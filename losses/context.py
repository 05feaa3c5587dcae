"""Losses of context prediction: the position of a place (Doersch et al., 2015), whether places are adjacent (Isola)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.precision import full_precision

SMALLEST = 2.220446e-16  # of a probability: below it a picture adds nothing (release)


@full_precision
def position_loss(logits: Tensor, position: int, counts: Tensor) -> Tensor:
    """L = mean_n -log softmax(x_n)[c], over the images that count; 0 where none does.

    Args:
        logits: (N, P), x, of the positions.
        position: c, that of all images.
        counts: (N,) bool.

    Returns:
        Scalar, log P by chance.
    """
    target = torch.full((len(logits),), position, device=logits.device)
    return _mean(F.cross_entropy(logits, target, reduction="none"), counts)


@full_precision
def adjacency_loss(logits: Tensor, adjacent: bool, counts: Tensor) -> Tensor:
    """L = mean_n -log q_n where the places are adjacent, and -log(1 - q_n) where not; q is the logistic function of x.

    A probability below 2.2e-16 is left out of the sum, not of the mean's count, and so has no gradient (release).

    Args:
        logits: (N,), x.
        adjacent: those of all images.
        counts: (N,) bool, the images that count.

    Returns:
        Scalar, log 2 by chance; 0 where no image counts.
    """
    probabilities = (logits if adjacent else -logits).sigmoid()
    losses = torch.where(probabilities < SMALLEST, 0, -probabilities.clamp(min=SMALLEST).log())
    return _mean(losses, counts)


def _mean(losses: Tensor, counts: Tensor) -> Tensor:
    return (losses * counts).sum() / counts.sum().clamp(min=1)
