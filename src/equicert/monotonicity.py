"""Proofs of well-posedness: a diagonal Lambda > 0 with `sym(Lambda (I - W)) >= m Lambda`, m > 0.

With Lambda = I it is `mu_2(W) <= 1 - m` [WK20]; with another one, the condition of [R20], which
does not imply mu_2(W) < 1. Either way `z = phi(W z + u)` has one solution, and (derived here),
with `||v||_Lambda = sqrt(v^T Lambda v)`,

    ||phi(t) - z*||_Lambda <= ||W phi(t) + u - t||_Lambda / m      for any t,
    ||z*(u) - z*(u')||_Lambda <= ||u - u'||_Lambda / m.

Both follow from `(phi(t) - phi(t'))_i (t - t')_i >= (phi(t) - phi(t'))_i^2`, summed with weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from equicert.definiteness import deficit
from equicert.errors import NotMonotoneError
from equicert.operators import Operator, in_full
from equicert.rounding import UNIT, down, self_test, up

_CUTS = (1e-12, 1e-9, 1e-6, 1e-3, 0.5)  # of m, relative to the size of I - W
_LARGEST_SPREAD = 1e12  # of Lambda; beyond, its square roots lose too many digits


@dataclass(frozen=True)
class Monotone:
    """`sym(Lambda (I - W)) >= m diag(Lambda)` in exact arithmetic, for the stored W.

    Attributes:
        m: proved lower bound, positive: `mu_2(W) <= 1 - m` where Lambda is 1.
        Lambda: (n,) float64, positive, its least entry 1: the sup-norm is at most the weighted one.
    """

    m: float
    Lambda: Tensor

    @property
    def plain(self) -> bool:
        """Whether Lambda is 1: then `mu_2(W) <= 1 - m` itself is proved."""
        return bool((self.Lambda == 1).all())

    @cached_property
    def transposed(self) -> Monotone:
        """The same of W^T: `sym(Lambda^-1 (I - W^T)) >= m Lambda^-1`, scaled.

        For adjoint solves, whose radius is floating point: the reciprocals are rounded.
        """
        return Monotone(self.m, self.Lambda.amax() / self.Lambda)


def prove_monotone(
    W: Operator,  # (n, n)
    hint: Tensor | None = None,  # (n,) a stored Lambda: believed only if it passes
    m: float | None = None,  # what the parametrisation promises: tried first, for its speed
) -> Monotone:
    """The weights 1, then the hint, with nearly the largest m that float64 proves.

    A parametrisation that promises its m means it at its own hint, which then comes first.

    Raises:
        NotMonotoneError: neither passes the test in rounded arithmetic.
        TooLargeError: W has structure and too many states.
        RoundingError: this machine's arithmetic is not the one that the bounds assume.
    """
    self_test(str(W.device))
    A = in_full(W.detach().to(dtype=torch.float64), "a proof that the network is monotone")
    least = -math.inf
    ones, stored = A.new_ones(len(A)), _normalised(A, hint)
    for Lambda in (ones, stored) if m is None else (stored, ones):
        if Lambda is None:
            continue
        symmetric, error = symmetric_part(A, Lambda)
        if not bool(symmetric.isfinite().all()):
            continue
        for candidate in _moduli(symmetric, Lambda, m):
            least = max(least, candidate)
            proved = _test(symmetric, error, Lambda, candidate)
            if proved > 0:
                return Monotone(proved, Lambda)
    raise NotMonotoneError(1 - least)


def symmetric_part(
    W: Tensor,  # (n, n) float64
    Lambda: Tensor,  # (n,) float64, positive
) -> tuple[Tensor, Tensor]:  # (n, n) each
    """`sym(Lambda (I - W))` in floating point, and how far the exact matrix may be from it."""
    half = Lambda[:, None] * W
    error = up(4 * UNIT * (torch.diag(Lambda) + half.abs() + half.abs().mT) + 2.0**-1000)
    return torch.diag(Lambda) - 0.5 * (half + half.mT), error


def _normalised(
    A: Tensor,  # (n, n)
    hint: Tensor | None,
) -> Tensor | None:  # (n,)
    """The hint with least entry 1, if it is usable at all."""
    if hint is None or hint.shape != A.shape[:1]:
        return None
    hint = hint.detach().to(A)
    scaled = hint / hint.amin()
    usable = (hint > 0).all() & (scaled <= _LARGEST_SPREAD).all()  # false where NaN
    return scaled if bool(usable) else None


def _moduli(symmetric: Tensor, Lambda: Tensor, promised: float | None) -> Iterator[float]:
    """Candidates for m: a little below what was promised, then below the least eigenvalue."""
    root = Lambda.rsqrt()
    scaled = root[:, None] * symmetric * root
    size = float(scaled.diagonal().abs().amax())
    if promised is not None:
        yield from (promised - cut * size for cut in (1e-12, 1e-5) if cut * size < 0.5 * promised)
    # eigh, since eigvalsh loses six digits on some badly scaled matrices.
    least = float(torch.linalg.eigh(0.5 * (scaled + scaled.mT))[0][0])
    if not least > 0:
        yield least
        return
    yield from (least - cut * size for cut in _CUTS if cut * size < 0.5 * least)
    yield 0.5 * least


def _test(symmetric: Tensor, error: Tensor, Lambda: Tensor, m: float) -> float:
    """An exact lower bound on the modulus near m: `sym - m Lambda >= -k Lambda`; -inf if none."""
    shift = m * Lambda
    B = symmetric - torch.diag(shift)
    rounded = up(error + 4 * UNIT * (symmetric.abs() + torch.diag(shift.abs())))
    k = deficit(B, rounded, Lambda)
    return float(down(torch.tensor(m, dtype=torch.float64) - k)) if k < math.inf else -math.inf


def lambda_norm(
    v: Tensor,  # (..., n)
    Lambda: Tensor,  # (n,)
) -> Tensor:  # (...)
    """`||v||_Lambda = sqrt(sum_i Lambda_i v_i^2)`, plain floating point, safe from overflow."""
    return torch.linalg.vector_norm(v * Lambda.sqrt(), dim=-1)


def lambda_norm_above(
    v: Tensor,  # (..., n) float64, |v| is what counts
    Lambda: Tensor,  # (n,) float64
) -> Tensor:  # (...)
    """An upper bound on the exact `||v||_Lambda`: sums and roots, and what underflows in them."""
    n = v.shape[-1]
    sizes = v.abs()
    unit = sizes.amax(-1, keepdim=True).clamp_(min=2.0**-900)
    squares = Lambda * (sizes / unit).square()
    return up(up(squares.sum(-1).sqrt() * (1 + (n + 16) * 2 * UNIT) + 2.0**-500) * unit[..., 0])
