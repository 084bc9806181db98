"""Multipliers as slopes: what the ascent moves where W has structure and psi bends (derived here).

At its best, lambda_i is a slope h_i of psi_i times p_i: of the lower face of the convex hull of the
graph where p_i > 0, of the upper one where p_i < 0. Where psi_i is straight over [l_i, u_i] there
is one such slope. Moved by itself lambda_i would miss `h_i p_i` with every step of the others, and
lose up to `|lambda_i - h_i p_i| max(|l_i|, |u_i|)`, at most neurons of a large sparse network,
where steps in lambda (`multipliers`) are spoilt by that. So

    lambda = h p + beta,    p = a + W_off^T (lambda + e):

the adjoint network of slopes h, as alpha-CROWN's are in layers ([X21]). beta is a price on the end
of an interval that a split has set at a breakpoint, which no slope reaches; elsewhere it is 0. (The
price is that of dense networks: bounds of straight neurons are not used.)

Let z, r and x be where the bound of lambda is attained. `W_off z + U x + b - r` is a supergradient
in lambda, and `d lambda = (I - H W_off^T)^-1 (p dh + d beta)`, `H = diag(h)`, so the one in
`p dh + d beta` is

    y = (I - W_off H)^-1 (W_off z + U x + b - r),   or   y = W_off (z + h y) + U x + b - r.

Both equations are followed by a few averaged Picard steps for each step of the ascent. Every lambda
on the way has a bound of its own; that p lags behind costs tightness at most.

[X21] K. Xu et al., Fast and complete: enabling complete verification with rapid and massively
parallel incomplete verifiers, 2021 (slopes); beta as in S. Wang et al., Beta-CROWN, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from equicert.relaxation.graphs import PiecewiseLinear
from equicert.relaxation.lagrangian import Lagrangian, Rows
from equicert.relaxation.multipliers import Adam

_FOLLOWED = 2  # Picard steps of p, and of y, in each step
_SHARE = 0.7  # of the new iterate in each: some networks are monotone, and do not contract
_RATE = 10.0  # steps of slopes relative to their range, over those of multipliers to their size
_SEEN = 1e-6  # of the largest |lambda|: a smaller p_i tells no slope


@final
@dataclass
class Slopes:
    """h, beta and what follows them, of some rows.

    Attributes:
        low, high: (batch, n) the slopes for positive and for negative p.
        low_range, high_range: (2, batch or 1, n) between which they lie.
        beta: (batch, n).
        beta_range: (2, batch or 1, n) 0, and infinite where there may be a price.
        p, y: (batch, n) iterates.
        size: (batch, 1) of multipliers.
        rate: the first step of h relative to its range, and of beta relative to that size.
        adam: of y.
    """

    low: Tensor
    high: Tensor
    low_range: Tensor
    high_range: Tensor
    beta: Tensor
    beta_range: Tensor
    p: Tensor
    y: Tensor
    size: Tensor
    rate: float
    adam: Adam

    @classmethod
    def of(
        cls,
        lagrangian: Lagrangian,
        graph: PiecewiseLinear,  # the Lagrangian's
        rows: Rows,  # prepared
        multiplier: Tensor,  # (batch, n)
        size: Tensor,  # (batch, 1) of multipliers
        rate: float,  # of a first move of multipliers, relative to that
    ) -> Self:
        """Those that come nearest to a multiplier."""
        lo, hi = rows.lo, rows.hi
        low_range, high_range = graph.slopes(lo, hi, lagrangian.ends(rows))
        p = lagrangian.pulled_back(multiplier if rows.e is None else multiplier + rows.e, rows.a)
        low, high = graph.lines(lo, hi)
        told = torch.where(p.abs() > _SEEN * size, multiplier / p, torch.nan)
        low = torch.where((p > 0) & told.isfinite(), told, low).clamp(*low_range)
        high = torch.where((p < 0) & told.isfinite(), told, high).clamp(*high_range)
        at_lo, at_hi = graph.at_knots(lo, hi)
        zero = torch.zeros_like(lo)
        beta_range = torch.stack([zero.where(~at_lo, -torch.inf), zero.where(~at_hi, torch.inf)])
        beta = (multiplier - torch.where(p > 0, low, high) * p).clamp(*beta_range)
        ranges = low_range, high_range, beta, beta_range
        return cls(low, high, *ranges, p, torch.zeros_like(p), size, _RATE * rate, Adam.like(p))

    def kept(
        self,
        rows: Tensor,  # (batch,) bool
    ) -> Self:
        """Some of the rows."""
        several = ("low", "high", "beta", "p", "y", "size")
        parts = {name: getattr(self, name)[rows] for name in several}
        for name in ("low_range", "high_range", "beta_range"):
            part = getattr(self, name)
            parts[name] = part if part.shape[1] == 1 else part[:, rows]
        return replace(self, adam=self.adam.kept(rows), **parts)

    def climb(
        self,
        lagrangian: Lagrangian,
        rows: Rows,
        shrunk: float,  # of the first step
    ) -> tuple[Tensor, Tensor, Tensor]:  # (batch,), (batch, n), (batch, r)
        """The bound of lambda, lambda, and the minimising x; then a move from there.

        Along y, in units of how far slopes can go, and of the size of lambda.
        """
        for _ in range(_FOLLOWED - 1):
            own = self._multiplier
            mu = own if rows.e is None else own + rows.e
            self.p.lerp_(lagrangian.pulled_back(mu, rows.a), _SHARE)
        here = self._multiplier
        at = lagrangian.minimum(rows, here)
        self.p.lerp_(at.p, _SHARE)
        slope, rest = self._slope, lagrangian.from_inputs(at.x, lagrangian.b - at.r)
        for _ in range(_FOLLOWED):
            moved = torch.addcmul(at.z, slope, self.y)
            self.y.lerp_(lagrangian.W.affine(moved, rest), _SHARE)
        self._move(self.adam.along(self.y, self.rate * shrunk))
        return at.value, here, at.x

    @property
    def _slope(self) -> Tensor:  # (batch, n)
        """h."""
        return torch.where(self.p > 0, self.low, self.high)

    @property
    def _multiplier(self) -> Tensor:  # (batch, n)
        """lambda."""
        return torch.addcmul(self.beta, self._slope, self.p)

    def _move(
        self,
        along: Tensor,  # (batch, n)
    ) -> None:
        """Of the slopes in use, and of beta."""
        least, most = self.low_range
        low = torch.addcmul(self.low, along, most - least).clamp_(least, most)
        self.low = torch.where(self.p > 0, low, self.low)
        least, most = self.high_range
        high = torch.addcmul(self.high, along, most - least, value=-1).clamp_(least, most)
        self.high = torch.where(self.p > 0, self.high, high)
        self.beta = torch.addcmul(self.beta, along, self.size).clamp_(*self.beta_range)
