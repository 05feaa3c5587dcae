"""Non-negative matrix factorisation of more rows than fit in memory: V ~ W H, V (P, C), W (P, K), H (K, C), all >= 0.

Given H the rows of W do not depend on each other, and H needs of V only W^T V and W^T W, which are summed over chunks.
So V is read in chunks, once for each sweep; W, H and one chunk are in memory.

As a function of W, and of the transpose of H, the squared error is that of least squares: x Q x^T - 2 L x^T for each
row x, with Q = H H^T and L = V H^T for W, Q = W^T W and L = V^T W for H. A solver is a step that lowers it:

- ``mu``: multiplicative updates (Lee and Seung), as deep feature factorisation's release has them;
- ``hals``: coordinate descent, a factor after the other.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CHECKED_EVERY = 10  # sweeps, as the release
ZERO = 1e-7  # a denominator of 0 becomes this, as in the release
DEAD = 1e-14  # of ||V||^2: a factor with less than that rebuilds nothing that float32 can tell


@dataclass
class Factorisation:
    """V ~ W H.

    Attributes:
        activations: W (P, K).
        basis: H (K, C), its rows of length 1.
        errors: ||V - W H|| relative to ||V||, of the start and after each sweep.
    """

    activations: Tensor
    basis: Tensor
    errors: list[float]


def multiplicative(x: Tensor, linear: Tensor, quadratic: Tensor) -> None:
    """x <- x L / (x Q), in place; what is 0 stays 0.

    Args:
        x: (n, K), >= 0.
        linear: L (n, K).
        quadratic: Q (K, K).
    """
    denominator = x @ quadratic
    x.mul_(linear).div_(denominator.masked_fill_(denominator == 0, ZERO))


def coordinate(x: Tensor, linear: Tensor, quadratic: Tensor, factors: Iterable[int] | None = None) -> None:
    """x_k <- max(0, x_k + (L - x Q)_k / Q_kk), in place, for each of the factors, all without any given."""
    for k in range(x.shape[1]) if factors is None else factors:
        if quadratic[k, k] > 0:
            x[:, k] += (linear[:, k] - x @ quadratic[:, k]) / quadratic[k, k]
            x[:, k].clamp_(min=0)


SOLVERS = {"mu": multiplicative, "hals": coordinate}


def random_start(
    mean: float, num_rows: int, num_channels: int, num_factors: int, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """W (P, K) and H (K, C) as the release starts: |N(0, 1)| sqrt(mean of V / K)."""
    scale = (mean / num_factors) ** 0.5
    shapes = ((num_rows, num_factors), (num_factors, num_channels))
    activations, basis = (np.abs(random.standard_normal(shape, np.float32)) * np.float32(scale) for shape in shapes)
    return torch.from_numpy(activations), torch.from_numpy(basis)


def factorise(
    chunks: Iterable[Tensor], start: tuple[Tensor, Tensor], solver: str, iterations: int, tolerance: float
) -> Factorisation:
    """Lower ||V - W H|| from a start, in sweeps that update W and then H; it never rises.

    A factor that rebuilds nothing any more starts again at the row that is rebuilt worst, and is moved by coordinate
    descent too from then on: multiplicative updates leave at 0 what is 0.

    Args:
        chunks: gives V in pieces (p, C) of one device and type, the same each time that it is iterated over.
        start: W (P, K) and H (K, C); they stay as they are.
        solver: of ``SOLVERS``.
        iterations: the most sweeps.
        tolerance: it is left early where in ten sweeps the error fell by less than this, relative to that of the start.
    """
    step = SOLVERS[solver]
    activations, basis = start[0].clone(), start[1].double()
    norm, at_start, squared, errors = 0.0, 0.0, 0.0, []
    checked, dead, revived = None, [], []
    for sweep in range(1, iterations + 1):
        h, seed, first = None, None, 0
        for rows in chunks:
            if h is None:
                h = basis.to(rows).contiguous()  # rows @ h.T takes three times as long where h.T is contiguous
                gram = h @ h.T
                of_rows = torch.zeros_like(h, dtype=torch.float64)
                of_activations = torch.zeros_like(gram, dtype=torch.float64)
            projected = rows @ h.T
            w = activations[first : first + len(rows)].to(rows)
            if sweep == 1:
                norm += float(rows.double().square().sum())
                at_start += float(_less_norm(w.double(), projected.double(), gram.double()).sum())
            coordinate(w, projected, gram, revived)
            step(w, projected, gram)
            activations[first : first + len(rows)] = w
            first += len(rows)
            of_rows += w.T @ rows
            of_activations += w.T @ w
            if dead:
                seed = max(seed, _worst(rows, w, h), key=lambda found: found[0]) if seed else _worst(rows, w, h)
        if h is None:
            raise ValueError("there are no rows to factorise")
        basis = basis.to(of_rows)
        if sweep == 1:
            errors.append(_relative(norm + at_start, norm))
        transposed = basis.T.contiguous()
        coordinate(transposed, of_rows.T, of_activations, revived)
        step(transposed, of_rows.T, of_activations)
        basis = transposed.T
        gram = basis @ basis.T
        squared = norm + float((of_activations * gram).sum() - 2 * (of_rows * basis).sum())
        errors.append(_relative(squared, norm))

        rebuilt = of_activations.diagonal() * gram.diagonal()
        dead = torch.nonzero(rebuilt <= DEAD * norm).flatten().tolist()
        if dead and seed and seed[0] > 0:
            activations[:, dead[0]] = 0
            basis[dead[0]] = seed[1].double()
            revived = sorted({*revived, dead[0]})
        if sweep % CHECKED_EVERY == 0 and not dead:
            if (errors[0] if checked is None else checked) - errors[-1] < tolerance * errors[0]:
                break
            checked = errors[-1]
    lengths = basis.norm(dim=1)
    unit = basis / lengths.clamp(min=torch.finfo(torch.float64).tiny)[:, None]
    return Factorisation(activations * lengths.to(activations), unit.to(start[1]), errors)


def activations_of(rows: Tensor, basis: Tensor, solver: str, iterations: int) -> Tensor:
    """W (P, K) of rows (P, C) for a basis H (K, C) that stays as it is: each row for itself, so batches do not matter.

    They start at their projections on each factor: 0 only where 0 is best.
    """
    gram, projected = basis @ basis.T, rows @ basis.T
    activations = projected / gram.diagonal().clamp(min=ZERO)
    for _ in range(iterations):
        SOLVERS[solver](activations, projected, gram)
    return activations


def _less_norm(w: Tensor, projected: Tensor, gram: Tensor) -> Tensor:
    """Of each row ||v - w H||^2 - ||v||^2."""
    return (w * (w @ gram - 2 * projected)).sum(1)


def _worst(rows: Tensor, w: Tensor, h: Tensor) -> tuple[float, Tensor]:
    """The squared error of the row (C,) that is rebuilt worst, and that row."""
    errors = (rows - w @ h).square().sum(1)
    place = errors.argmax()
    return float(errors[place]), rows[place]


def _relative(squared: float, norm: float) -> float:
    return (max(squared, 0.0) / norm) ** 0.5 if norm else 0.0
