"""Maximising the dual bound: the adjoint network's solution, then Adam from there.

A good start solves `p = a + W_off^T (h(p) + e)`, h_i of the slope that [Z18] would choose over
[l_i, u_i] for the sign of p_i: the adjoint of the network's own relaxation. Then lambda is moved
(`multipliers`), or where W has structure and psi breakpoints the slopes h_i (`slopes`). Whatever
comes out is a proposal; its bound is computed from it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equicert.operators import Dense
from equicert.relaxation.graphs import PiecewiseLinear
from equicert.relaxation.lagrangian import Lagrangian, Rows
from equicert.relaxation.multipliers import Multipliers
from equicert.relaxation.slopes import Slopes

_PICARD = 12  # steps of a sweep towards the adjoint solution
_CONVERGED = 1e-3  # of the largest |p|
_DIRECT_STATES = 256  # largest n for which the adjoint system of a matrix is factorised
_SWEEPS = 4  # more of them where it is not
_DECAY = 0.02  # of the step size from the first step to the last
_SPARE = 2.0**-16  # of the same: how far beyond enough is enough in float32
_CHECKED = 4  # steps between looks at which rows are done


def adjoint_start(
    lagrangian: Lagrangian,
    rows: Rows,
    known: Tensor | None = None,  # (batch, n)
) -> tuple[Tensor, Tensor]:  # (batch,), (batch, n)
    """lambda = h(p) at the adjoint solution, 0, or the one known: in each row the best of them.

    Behind the bound that it gives, in plain floating point.
    """
    fast, double = lagrangian.proposing, rows.a.dtype
    before = None if known is None else known.to(fast.b)
    value, multiplier = _start(fast, fast.prepared(rows.to(fast.b.dtype)), before)
    return value.to(double), multiplier.to(double)


def _start(
    lagrangian: Lagrangian,
    rows: Rows,
    known: Tensor | None,  # (batch, n)
) -> tuple[Tensor, Tensor]:  # (batch,), (batch, n)
    low, high = lagrangian.graph.lines(rows.lo, rows.hi)
    driven = rows.a if rows.e is None else lagrangian.pulled_back(rows.e, rows.a)
    p, stuck = _swept(lagrangian, driven, driven, low, high)
    if bool(stuck.any()):
        some = (part if len(part) == 1 else part[stuck] for part in (driven, low, high))
        p[stuck] = _solved(lagrangian, p[stuck], *some)
    multiplier = torch.where(p > 0, low, high) * p
    zero = torch.zeros_like(multiplier)
    value, at_zero = lagrangian.value(rows, multiplier), lagrangian.value(rows, zero)
    better = value > at_zero  # false where NaN
    value = torch.where(better, value, at_zero)
    multiplier = torch.where(better[:, None], multiplier, zero)
    if known is None:
        return value, multiplier
    before = lagrangian.value(rows, known)
    better = (before > value) | value.isnan()
    return torch.where(better, before, value), torch.where(better[:, None], known, multiplier)


def _swept(
    lagrangian: Lagrangian,
    p: Tensor,  # (batch, n), to begin with
    driven: Tensor,  # (batch, n)
    low: Tensor,  # (batch, n) or (1, n)
    high: Tensor,
) -> tuple[Tensor, Tensor]:  # (batch, n), (batch,) bool
    """`p = driven + W_off^T h(p)` by a few Picard steps, and which rows are not near it yet."""
    before = p
    for _ in range(_PICARD):
        before, p = p, lagrangian.pulled_back(torch.where(p > 0, low, high) * p, driven)
    return p, ~((p - before).abs().amax(1) <= _CONVERGED * p.abs().amax(1))


def _solved(
    lagrangian: Lagrangian,
    p: Tensor,  # (batch, n), swept
    driven: Tensor,  # (batch, n)
    low: Tensor,  # (batch, n) or (1, n)
    high: Tensor,
) -> Tensor:  # (batch, n)
    """p of rows that are not: by more sweeps, or where it is cheap by linear solves.

    Those take the signs from the p before; from driven, to begin with.
    """
    if not isinstance(lagrangian.W, Dense) or len(lagrangian.b) > _DIRECT_STATES:
        for _ in range(_SWEEPS):
            p, stuck = _swept(lagrangian, p, driven, low, high)
            if not bool(stuck.any()):
                break
        return p.nan_to_num(0.0, 0.0, 0.0)
    p, W = driven, lagrangian.W.A
    identity = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    for _ in range(3):
        slope = torch.where(p > 0, low, high)
        system = identity - W.mT * slope[:, None, :]
        p = torch.linalg.solve_ex(system, driven[:, :, None])[0][:, :, 0]
    return p.nan_to_num(0.0, 0.0, 0.0)


def _iterate(
    lagrangian: Lagrangian,
    rows: Rows,  # prepared
    multiplier: Tensor,  # (batch, n)
    size: Tensor,  # (batch, 1) of multipliers
    rate: float,  # of a first move of multipliers, relative to that
) -> Multipliers | Slopes:
    """What is moved: slopes where W has structure and psi breakpoints, else lambda itself."""
    graph = lagrangian.graph
    if isinstance(lagrangian.W, Dense) or not isinstance(graph, PiecewiseLinear):
        return Multipliers.of(multiplier, size, rate)
    return Slopes.of(lagrangian, graph, rows, multiplier, size, rate)


@final
@dataclass(frozen=True)
class Ascent:
    """Adam with a geometrically decaying step, the best multiplier kept.

    Attributes:
        steps: their number.
        rate: the first step, relative to the largest entry of the start (or of the form).
    """

    steps: int = 20
    rate: float = 0.03

    def run(
        self,
        lagrangian: Lagrangian,
        rows: Rows,
        start: tuple[Tensor, Tensor],  # (batch,), (batch, n): a multiplier and its bound
        enough: Tensor | None = None,  # (batch,) or (): rows above it stop
        deadline: float = math.inf,  # of time.monotonic: what is best then is the result
    ) -> tuple[Tensor, Tensor, Tensor]:  # (batch,), (batch, n), (batch, r)
        """The best bound found, its multiplier, and inputs that minimise near there."""
        fast, double = lagrangian.proposing, rows.a.dtype
        known = start[0].to(fast.b), start[1].to(fast.b)
        found = self._run(fast, rows.to(fast.b.dtype), known, enough, deadline)
        best, multiplier, inputs = (part.to(double) for part in found)
        return best, multiplier, inputs

    def _run(
        self,
        lagrangian: Lagrangian,
        rows: Rows,
        start: tuple[Tensor, Tensor],
        enough: Tensor | None,
        deadline: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same in the arithmetic of this Lagrangian."""
        best, multiplier = start[0].clone(), start[1].clone()
        inputs = rows.centre.expand(len(rows), -1).clone()
        size = torch.maximum(start[1].abs().amax(1), 0.1 * rows.a.abs().amax(1))
        if rows.e is not None:
            size = torch.maximum(size, 0.1 * rows.e.abs().amax(1))
        spare = size * (_SPARE if size.dtype == torch.float32 else 0.0)
        going = torch.arange(len(rows), device=best.device)
        part = lagrangian.prepared(rows)
        iterate = _iterate(lagrangian, part, start[1], size[:, None], self.rate)
        for t in range(self.steps):
            if time.monotonic() >= deadline:
                break
            if enough is not None and t % _CHECKED == 0:
                limit = enough if enough.ndim == 0 else enough[going]
                kept = ~(best[going] > limit + spare[going])
                if not bool(kept.any()):
                    break
                if not bool(kept.all()):
                    going, iterate = going[kept], iterate.kept(kept)
                    part = part[kept.nonzero()[:, 0]]
            value, here, x = iterate.climb(lagrangian, part, _DECAY ** ((t + 1) / self.steps))
            better = value >= best[going]  # the start itself, to begin with
            improved = going[better]
            best[improved], multiplier[improved] = value[better], here[better]
            inputs[improved] = x[better]
        return best, multiplier, inputs


def rounded(
    multiplier: Tensor,  # (batch, n)
    bits: int,
) -> Tensor:  # (batch, n)
    """Multiples of a power of two in each row, at most `bits` bits and a sign each."""
    largest = multiplier.abs().amax(1, keepdim=True)
    _, exponent = torch.frexp(largest)
    scale = torch.ldexp(torch.ones_like(largest), bits - exponent)
    kept = torch.isfinite(scale) & (largest > 0)
    scaled = torch.round(multiplier * torch.where(kept, scale, 1)).clamp_(1 - 2**bits, 2**bits - 1)
    return torch.where(kept, scaled / torch.where(kept, scale, 1), torch.zeros_like(multiplier))
