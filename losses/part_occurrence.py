"""Part occurrence loss of Huang & Li (CVPR 2020): how surely a part is in a picture follows a Beta distribution."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

from losses.precision import full_precision

EPSILON = 1e-5  # inside the logarithms


@full_precision
def part_occurrence_loss(assignments: Tensor, alpha: float, beta: float, radius: int = 2, std: float = 0.4) -> Tensor:
    """L = mean_ik | log(t_(i)k + 1e-5) - log(b_i + 1e-5) |, the distance of two distributions in logarithms (release).

    t_k = max over places of (G * q_k), G a Gaussian window of sum 1 that lies inside the map, is how surely part k
    occurs in a picture; t_(1)k <= .. <= t_(N)k are its values in the batch, and b_i = B^-1((2i - 1) / 2N) the
    quantiles of the Beta distribution that they are to have. With alpha = 1 and beta = 0.001 every b_i is 1 up to
    N = 32: every part occurs in every picture.

    Args:
        assignments: (N, K, h, w), q in [0, 1].
        alpha, beta: of the Beta distribution, > 0.
        radius: of the window, cells: it has 2 radius + 1 a side.
        std: of the Gaussian, cells.

    Returns:
        Scalar, of the batch as a whole: the loss of a part of the batch is another one.

    Raises:
        ValueError: the window does not fit into the map.
    """
    height, width = assignments.shape[2:]
    if min(height, width) < 2 * radius + 1:
        raise ValueError(f"a window of {2 * radius + 1} x {2 * radius + 1} cells does not fit into {height} x {width}")
    places = torch.arange(-radius, radius + 1, device=assignments.device, dtype=assignments.dtype)
    line = (-places.square() / (2 * std**2)).exp()
    line = line / line.sum()
    maps = assignments.flatten(0, 1)[:, None]
    smoothed = F.conv2d(F.conv2d(maps, line[None, None, :, None]), line[None, None, None])
    occurrences = smoothed.flatten(1).amax(1).view(assignments.shape[:2])
    wanted = beta_quantiles(len(assignments), alpha, beta, occurrences.device, occurrences.dtype)
    distances = (occurrences.sort(0).values + EPSILON).log() - (wanted[:, None] + EPSILON).log()
    return distances.abs().mean()


@lru_cache(maxsize=64)
def beta_quantiles(count: int, alpha: float, beta: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(count,), increasing: B^-1((2i - 1) / 2 count), i = 1..count, of the Beta distribution."""
    # The tensor outlives the call: made as an inference tensor it could not be used in a later training step.
    with torch.inference_mode(False):
        shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return torch.from_numpy(betaincinv(alpha, beta, shares.numpy())).to(device=device, dtype=dtype)
