"""InfoNCE between the features of two views: ARL (Ouali et al., ECCV 2020), after van den Oord et al., 2018."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from losses.precision import full_precision


def draw_places(num_images: int, num_places: int, rng: np.random.Generator) -> Tensor:
    """Draw where :func:`info_nce_loss` compares two views, and the positives' shifts.

    Returns:
        (N, P, 3) float32 in [0, 1), uniform: which of an image's places, and the shift down and to the right.
    """
    return torch.from_numpy(rng.random((num_images, num_places, 3), dtype=np.float32))


@full_precision
def info_nce_loss(
    features: Tensor,
    other_features: Tensor,
    places: Tensor,
    temperature: float,
    half_window: int = 0,
    mask: Tensor | None = None,
) -> Tensor:
    """L = mean_l -log [ e^f(y_l, y'_l) / (1/M sum_m e^f(y_l, y'_m)) ], minus the bound on the views' information.

    f is the cosine divided by the temperature. y_l is the feature at a drawn place of an image; its positive y'_l is
    the other view's at the same place moved by a drawn shift in [-T, T]^2, which ends at the picture's edge; the M
    candidates are this positive and those of the places drawn in all other images. Places of its own image are no
    negatives, as they may lie in its window. The bound is at most log M.

    The paper's slides have the formula alone: the form of f, the window's draw and the choice of candidates are ours.

    Args:
        features: (N, C, H, W), y, after the method's projection; normalised here.
        other_features: (N, C, H, W), y', in the frame of ``features``.
        places: (N, P, 3), see :func:`draw_places`; a matrix (N P, N P) is in memory.
        temperature: above 0.
        half_window: T, pixels.
        mask: (N, H, W) or (N, 1, H, W), places of which more than half counts are compared; all without it.

    Returns:
        Scalar in [-log M, infinity), a mean over the drawn places whose positive counts as well; 0 where there is none.

    Raises:
        ValueError: N = 1: there are no negatives.
    """
    num_images, _, height, width = features.shape
    if num_images < 2:
        raise ValueError("InfoNCE takes its negatives from other images: it needs a batch of 2 or more")
    places = places.to(features.device, non_blocking=True)
    counts = features.new_ones(num_images, height * width) if mask is None else mask.reshape(num_images, -1) > 0.5
    numbers = counts.long().cumsum(1)
    total = numbers[:, -1:]
    # The place whose number among those that count was drawn; an image without any is left out below.
    index = torch.searchsorted(numbers, (places[..., 0] * total).long() + 1).clamp(max=height * width - 1)
    down, right = ((places[..., 1:] * (2 * half_window + 1)).long() - half_window).unbind(2)
    row = (index.div(width, rounding_mode="floor") + down).clamp(0, height - 1)
    column = (index % width + right).clamp(0, width - 1)
    positive = row * width + column
    counted = ((total > 0) & counts.gather(1, positive).bool()).flatten()

    anchors, candidates = _rows(features, index), _rows(other_features, positive)
    similarity = anchors @ candidates.T / temperature
    image = torch.arange(num_images, device=features.device).repeat_interleave(places.shape[1])
    negatives = (image[:, None] != image) & counted
    own = torch.eye(len(image), dtype=torch.bool, device=features.device)
    cross_entropy = similarity.masked_fill(~(negatives | own), -torch.inf).logsumexp(1) - similarity.diagonal()
    minus_bound = cross_entropy - (1 + negatives.sum(1)).to(similarity).log()
    return torch.where(counted, minus_bound, 0).sum() / counted.sum().clamp(min=1)


def _rows(features: Tensor, index: Tensor) -> Tensor:
    """(N P, C) of length 1: features (N, C, H, W) at places (N, P) of the flattened picture."""
    chosen = features.flatten(2).gather(2, index[:, None].expand(-1, features.shape[1], -1))
    return F.normalize(chosen, dim=1).transpose(1, 2).flatten(0, 1)
