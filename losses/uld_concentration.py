"""Concentration loss of ULD: a landmark's map is in one place."""

import math

from torch import Tensor

from losses.precision import full_precision


@full_precision
def uld_concentration_loss(deviations: Tensor) -> Tensor:
    """L = mean_n 2 pi e sum_k sigma_k^2: e to the entropy of the Gaussian, 17.08 sigma^2 (Zhang et al.'s release).

    Args:
        deviations: (N, K), sigma of ``losses.landmarks.landmarks``, shares of the picture's side.

    Returns:
        Scalar: a sum over landmarks, a mean over the images of the batch.
    """
    return 2 * math.pi * math.e * deviations.square().sum(1).mean()
