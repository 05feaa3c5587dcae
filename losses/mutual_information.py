"""Mutual information of two views' clusters (IIC, Ji et al., ICCV 2019; AC, Ouali et al., ECCV 2020)."""

from typing import Any, Literal

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.autograd.function import once_differentiable

from losses.precision import full_precision

Shifts = Literal["summed", "separate"]

EPSILON = 2.220446e-16  # smaller entries count as this and get no gradient (release of IIC)
NO_OVERLAP = 1e-6  # of the largest sum that a shift's table can have: what is less is rounding
IMAGES_AT_ONCE = 8  # whose spectra are in memory


@full_precision
def mutual_information_loss(
    probabilities: Tensor,
    other_probabilities: Tensor,
    half_window: int = 0,
    mask: Tensor | None = None,
    shifts: Shifts = "summed",
    marginal_weight: float = 1.0,
) -> Tensor:
    """L = -sum_ij P_ij (log P_ij - lambda log P_i - lambda log P_j), minus the information that the clusters share.

    P_t[i, j] = sum_n,u x_n[i, u + t] y_n[j, u] for each shift t in [-T, T]^2, zeros outside the picture, x and y the
    two views times the mask. P is P_t divided by its sum and made symmetric, (P + P^T) / 2; P_i are its row sums.
    ``"separate"``: L of each shift, averaged (IIC's published runs); ``"summed"``: one L, of the sum of all P_t (the
    default of IIC's code).

    The gradient flows through the sum that a table is divided by. IIC's code holds it constant where shifts are summed;
    for a softmax, whose sum is 1 everywhere, that is the same.

    Args:
        probabilities: (N, K, H, W), x >= 0, 1 in sum over K.
        other_probabilities: (N, K, H, W), y, in x's frame: what warped its picture is undone.
        half_window: T, pixels, 0 <= T < H and W.
        mask: (N, H, W) or (N, 1, H, W) in [0, 1], the pixels that count; all without it.
        shifts: see above; without a window both are the same.
        marginal_weight: lambda; above 1 it asks for clusters of like size.

    Returns:
        Scalar, of the batch as a whole: the loss of a part of the batch is another one. With lambda = 1 it lies in
        [-log K, 0]; with another, (2 - 2 lambda) log K is that of independent uniform clusters, (1 - 2 lambda) log K
        that of uniform ones that agree. A shift at which the masks do not overlap counts as 0, with zero gradient.

    Raises:
        ValueError: unknown ``shifts``, or a window that does not fit into the picture.
    """
    if shifts not in ("summed", "separate"):
        raise ValueError(f"shifts must be 'summed' or 'separate', not {shifts!r}")
    height, width = probabilities.shape[2:]
    if not 0 <= half_window < min(height, width):
        raise ValueError(f"half_window must be at least 0 and less than the sides of {height} x {width}: {half_window}")
    x, y = probabilities, other_probabilities
    if mask is not None:
        mask = mask.reshape(len(x), 1, height, width)
        x, y = x * mask, y * mask
    if shifts == "separate" and half_window:
        tables = _Correlation.apply(x, y, half_window)
    else:
        if half_window:  # the sum over shifts is one over each pixel's neighbourhood
            x = _near(height, half_window, x) @ x @ _near(width, half_window, x)
        tables = (x.flatten(2) @ y.flatten(2).mT).sum(0)[..., None, None]

    totals = tables.sum((0, 1))
    least = NO_OVERLAP * (x.detach().sum(1).norm() * y.detach().sum(1).norm())
    joint = tables * (totals > least) / totals.clamp(min=least + EPSILON)
    joint = (joint + joint.transpose(0, 1)) / 2
    log_marginal = joint.sum(1).clamp(min=EPSILON).log()
    joint = joint.clamp(min=EPSILON)
    information = joint * (joint.log() - marginal_weight * (log_marginal[:, None] + log_marginal))
    return -information.sum((0, 1)).mean()


def _near(size: int, half_window: int, like: Tensor) -> Tensor:
    """(size, size): 1 where two places of an axis are at most ``half_window`` apart, else 0."""
    places = torch.arange(size, device=like.device)
    return ((places[:, None] - places).abs() <= half_window).to(like.dtype)


class _Correlation(torch.autograd.Function):
    """P[i, j, t] = sum_n,u x_n[i, u + t] y_n[j, u], t in [-T, T]^2, through the Fourier transforms of a few images.

    A function of its own for its memory: of the spectra nothing is kept for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, half_window: int) -> Tensor:
        ctx.save_for_backward(x, y)
        # So much of zeros keeps what is shifted out at one end from coming in at the other.
        ctx.size = [next_fast_len(side + half_window, real=True) for side in x.shape[2:]]
        shifts = torch.arange(-half_window, half_window + 1, device=x.device)
        ctx.places = (..., shifts[:, None] % ctx.size[0], shifts % ctx.size[1])
        spectrum = sum(_spectra(a, ctx.size) @ _spectra(b, ctx.size).mH for a, b in _pieces(x, y))
        return _maps(spectrum, ctx.size)[ctx.places]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y = ctx.saved_tensors
        height, width = x.shape[2:]
        table = gradient.new_zeros(*gradient.shape[:2], *ctx.size)
        table[ctx.places] = gradient
        spectrum = _spectra(table, ctx.size).mT  # (frequencies, i, j)
        gradients = torch.empty_like(x), torch.empty_like(y)
        for a, b, of_a, of_b in _pieces(x, y, *gradients):
            of_a[:] = _maps(spectrum @ _spectra(b, ctx.size), ctx.size).transpose(0, 1)[..., :height, :width]
            of_b[:] = _maps(spectrum.mH @ _spectra(a, ctx.size), ctx.size).transpose(0, 1)[..., :height, :width]
        return *gradients, None


def _pieces(*batches: Tensor) -> Any:
    return zip(*(batch.split(IMAGES_AT_ONCE) for batch in batches), strict=True)


def _spectra(maps: Tensor, size: list[int]) -> Tensor:
    """(frequencies, B, A) of maps (A, B, H, W), which zeros bring to ``size``."""
    return torch.fft.rfft2(maps, s=size).flatten(2).permute(2, 1, 0).contiguous()


def _maps(spectra: Tensor, size: list[int]) -> Tensor:
    """(A, B, *size) of spectra (frequencies, A, B)."""
    return torch.fft.irfft2(spectra.permute(1, 2, 0).unflatten(2, (size[0], -1)), s=size)
