"""Rigorous bounds on eigenvalues of symmetric matrices and on norms, from floating-point factors.

A factor proves itself (derived here). For symmetric B and any R at all, `R^T R >= 0`, so

    B >= -E,   E = R^T R - B,

and E is bounded entrywise in rounded arithmetic by one product of |R|. For weights w > 0 and any
v > 0, `|E| v <= k w v` entrywise gives `-E >= -k diag(w)`: the spectral radius of the non-negative
`diag(w)^-1 |E|` is at most k, and it is similar to a symmetric matrix. Cholesky proposes R; that it
ran to its end proves nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equicert.rounding import TINY, UNIT, gamma, up

_LIFTS = (1e-13, 1e-10, 1e-7, 1e-4)  # relative, above the floating-point norm


def deficit(
    B: Tensor,  # (n, n) float64, symmetric up to rounding
    error: Tensor,  # (n, n) >= 0: the exact symmetric matrix lies in B +- error
    weights: Tensor,  # (n,) float64, positive
) -> float:
    """A k >= 0 such that the exact matrix is at least `-k diag(weights)`.

    Of the order of rounding where B has a Cholesky factor; else infinite.
    """
    L, failed = torch.linalg.cholesky_ex(B)
    if int(failed) != 0 or not bool(L.isfinite().all()):
        return math.inf
    return factor_gap(L, B, error, weights)


def factor_gap(
    F: Tensor,  # (n, n) float64, any matrix at all
    B: Tensor,  # (n, n) float64, symmetric up to rounding
    error: Tensor,  # (n, n) >= 0: the exact symmetric matrix lies in B +- error
    weights: Tensor,  # (n,) float64, positive
) -> float:
    """A k such that `F F^T` is the exact matrix up to `k diag(weights)`, above and below."""
    n = len(B)
    product, size = F @ F.mT, F.abs()
    size = size @ size.mT
    # Products of n terms, and what underflows in them.
    lost = up(gamma(2 * n + 8) * size + 4 * n * TINY * (1 + F.abs().amax()))
    excess = up(up((product - B).abs() * (1 + 4 * UNIT)) + up(lost + error))
    v = weights.rsqrt()
    flushed = 4 * TINY * (n + v.sum() + excess.sum(1))
    spread = up(up(excess @ v) * (1 + 2 * gamma(n + 2)) + flushed)
    k = float(up(spread / (weights * v * (1 - 8 * UNIT))).amax())
    return k if k >= 0 else math.inf  # NaN


def norm_above(
    F: Tensor,  # (n, k) float64
    weights: Tensor,  # (n,) float64, positive
) -> float:
    """A proved upper bound on `sup ||F^T v||_2 / ||diag(weights)^(1/2) v||_2`.

    With weights 1 it is `||F||_2`. Proved by `s diag(weights) - F F^T >= 0`; infinite where float64
    does not show it.
    """
    terms = F.shape[1]
    gram, size = F @ F.mT, F.abs()
    size = size @ size.mT
    error = up(gamma(terms + 8) * size + 4 * terms * TINY * (1 + F.abs().amax()))
    root = weights.rsqrt()
    scaled = root[:, None] * gram * root
    if not bool(scaled.isfinite().all()):
        return math.inf
    largest = max(float(torch.linalg.eigvalsh(scaled)[-1]), TINY)
    for lift in _LIFTS:
        s = largest * (1 + lift) + 2.0**-900
        diagonal = s * weights
        B = torch.diag(diagonal) - gram
        rounded = up(4 * UNIT * (torch.diag(diagonal) + gram.abs()) + error)
        k = deficit(B, rounded, weights)
        if k <= 1e-3 * s:
            return math.nextafter(math.sqrt(math.nextafter(s + k, math.inf)), math.inf)
    return math.inf
