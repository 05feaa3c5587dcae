"""Reconstruction losses of autoencoders: of pixels (Zhang et al., CVPR 2018), or of perceptual features."""

from torch import Tensor

from losses.precision import full_precision

EPSILON = 1e-8


@full_precision
def reconstruction_loss(rebuilt: Tensor, image: Tensor) -> Tensor:
    """L = mean_n 1/2 sum_u ||rebuilt_u - I_u||^2: the Gaussian likelihood of variance 1 (Zhang et al.'s release).

    Args:
        rebuilt: (N, 3, H, W), any number.
        image: (N, 3, H, W), RGB in [0, 1].

    Returns:
        Scalar: a sum over pixels and channels, so it grows with the picture; a mean over the images of the batch.
    """
    return (rebuilt - image).square().sum((1, 2, 3)).mean() / 2


@full_precision
def perceptual_reconstruction_loss(rebuilt: list[Tensor], features: list[Tensor]) -> Tensor:
    """L = mean_n mean_l ||rebuilt_l - phi_l||^2 / ||phi_l||^2, over layers l (after Jakab et al., NeurIPS 2018).

    They weigh a layer by the inverse of its loss so far; here it is the squared norm of the picture's features.

    Args:
        rebuilt: maps (N, C_l, h_l, w_l) of the picture that was rebuilt.
        features: maps of the picture, of the same shapes.

    Returns:
        Scalar: 0 where all features are those of the picture, 1 where there are none; a mean over the images.
    """
    pairs = zip(rebuilt, features, strict=True)
    shares = [(a - b).square().sum((1, 2, 3)) / (b.square().sum((1, 2, 3)) + EPSILON) for a, b in pairs]
    return sum(shares).mean() / len(shares)
