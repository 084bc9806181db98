"""The graphs `{(r, psi_i(r)) : l_i <= r <= u_i}` of a layer, and minima of linear forms on them.

The dual bound (derived here, see `lagrangian`) asks for the least value of `p psi(r) - lambda r`
over an interval. Where psi is piecewise linear it is attained at an end or at a breakpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from equicert.activations import Activation
from equicert.rounding import UNIT, down, up

FLUSHED = 2.0**-960  # far more than a few underflows cost
_INSIDE = 1e-10  # of 1 + width: a breakpoint that is nearer to an end is not worth a split


@dataclass(frozen=True)
class Graph(ABC):
    """psi of each neuron, as the dual bound sees it.

    Attributes:
        activation: phi.
        diagonal: (n,) of W, below 1 in every entry.
    """

    activation: Activation
    diagonal: Tensor

    @abstractmethod
    def minimise(
        self,
        p: Tensor,  # (batch, n)
        multiplier: Tensor,  # (batch, n)
        lo: Tensor,  # (batch, n) or (1, n)
        hi: Tensor,
        ends: tuple[Tensor, Tensor],  # psi(lo), psi(hi)
    ) -> tuple[Tensor, Tensor, Tensor]:  # (batch, n) each
        """The least `p psi(r) - multiplier r`, its r and psi(r), in plain floating point."""

    @abstractmethod
    def minimum_below(
        self,
        p: Tensor,  # (batch, n)
        error: Tensor,  # (batch, n) the exact p is within it of p
        multiplier: Tensor,  # (batch, n) exact
        lo: Tensor,  # (batch, n) or (1, n), exact
        hi: Tensor,
    ) -> Tensor:  # (batch, n)
        """Rigorous lower bounds on it; NaN or minus infinity where nothing is known."""

    @abstractmethod
    def lines(
        self,
        lo: Tensor,  # (batch, n)
        hi: Tensor,
    ) -> tuple[Tensor, Tensor]:  # (batch, n) each
        """Slopes of good linear bounds on psi over the intervals, from below and from above."""

    @abstractmethod
    def psi(
        self,
        r: Tensor,  # (..., n)
    ) -> Tensor:
        """The value of psi in plain floating point."""

    @abstractmethod
    def cut(
        self,
        lo: Tensor,  # (..., n)
        hi: Tensor,
    ) -> Tensor:  # (breakpoints, ..., n)
        """How far psi at each breakpoint is from the secant over the interval; 0 if not inside.

        Plain floating point. Breakpoints that are hardly inside count as outside.
        """

    def bent(
        self,
        lo: Tensor,  # (..., n)
        hi: Tensor,
    ) -> Tensor:  # (..., n) bool
        """Whether psi bends inside the interval, so that tighter bounds would be of use."""
        return (self.cut(lo, hi) > 0).any(0)

    @property
    @abstractmethod
    def knot_bounds(self) -> tuple[Tensor, Tensor]:  # (breakpoints, n) each
        """Rigorous bounds on the breakpoints: where the parts of a split end."""


@final
@dataclass(frozen=True)
class PiecewiseLinear(Graph):
    """ReLU, leaky ReLU, hard-tanh and the identity: `psi(r) = min(max(k r, lower), upper)`.

    Attributes:
        activation: phi, with slopes.
        diagonal: (n,) of W, below 1 in every entry.
    """

    activation: Activation
    diagonal: Tensor

    @cached_property
    def knots(self) -> Tensor:  # (breakpoints, n)
        """Where psi bends, increasing, each within a unit of rounding of the exact number."""
        phi, d = self.activation, self.diagonal
        if phi.upper < torch.inf:  # hard-tanh: |t| = 1 is where |r| = 1 - d
            return torch.stack([phi.lower - d * phi.lower, phi.upper - d * phi.upper])
        slopes = phi.slopes or (1.0, 1.0)
        return torch.zeros_like(d)[None] if slopes[0] != slopes[1] else d.new_empty((0, len(d)))

    @cached_property
    def _values(self) -> Tensor:  # (breakpoints, 1), exact
        phi = self.activation
        values = [phi.lower, phi.upper] if phi.upper < torch.inf else [0.0] * len(self.knots)
        return self.diagonal.new_tensor(values)[:, None]

    @cached_property
    def steepness(self) -> tuple[Tensor, Tensor]:  # (n,) each
        """The slopes of psi for negative and for positive r, in plain floating point."""
        below, above = ((low + high) / 2 for low, high in self._slopes)
        return below, above

    @cached_property
    def _slopes(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:  # (n,) each
        """Bounds on `s / (1 - s d)` for either slope s of phi."""
        found = []
        for s in self.activation.slopes or (1.0, 1.0):
            if s == 0:
                found.append((torch.zeros_like(self.diagonal),) * 2)
                continue
            product = s * self.diagonal
            least = down(1 - up(product))
            most = up(1 - down(product))
            if s == 1:  # exact product
                least, most = down(1 - self.diagonal), up(1 - self.diagonal)
            steep = torch.where(least > 0, up(s / least), torch.full_like(least, torch.nan))
            found.append((down(s / most), steep))
        return found[0], found[1]

    def psi(
        self,
        r: Tensor,  # (..., n)
    ) -> Tensor:
        below, above = self.steepness
        value = torch.where(r > 0, r * above, r * below)
        phi = self.activation
        return value if phi.upper == torch.inf else value.clamp(phi.lower, phi.upper)

    def image(
        self,
        lo: Tensor,  # (..., n)
        hi: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Rigorous bounds on psi over [lo, hi]."""
        (least_below, most_below), (least_above, most_above) = self._slopes
        phi = self.activation
        low = down(torch.where(lo > 0, lo * least_above, lo * most_below))
        high = up(torch.where(hi > 0, hi * most_above, hi * least_below))
        return low.clamp(phi.lower, phi.upper), high.clamp(phi.lower, phi.upper)

    def minimise(
        self,
        p: Tensor,
        multiplier: Tensor,
        lo: Tensor,
        hi: Tensor,
        ends: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        best, r, z = least_at_ends(p, multiplier, (lo, hi), ends)
        for knot, value in zip(self.knots, self._values, strict=True):
            at_knot = torch.addcmul(p * value, multiplier, knot, value=-1)
            better = (at_knot < best) & (lo < knot) & (knot < hi)
            best = torch.where(better, at_knot, best)
            r, z = torch.where(better, knot, r), torch.where(better, value, z)
        return best, r, z

    def minimum_below(
        self, p: Tensor, error: Tensor, multiplier: Tensor, lo: Tensor, hi: Tensor
    ) -> Tensor:
        best = torch.minimum(
            form_below(p, error, multiplier, lo, self.image(lo, lo)),
            form_below(p, error, multiplier, hi, self.image(hi, hi)),
        )
        for knot, value in zip(self.knots, self._values, strict=True):
            at_knot = form_below(p, error, multiplier, knot, (value, value))
            inside = (lo < up(knot)) & (down(knot) < hi)
            best = torch.where(inside, torch.minimum(best, at_knot), best)
        return best

    def lines(self, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        below, above = self.steepness
        wide = hi - lo
        secant = torch.where(wide > 0, (self.psi(hi) - self.psi(lo)) / wide, below)
        if self.activation.upper < torch.inf:
            return secant, secant
        convex = torch.where(hi > -lo, above, below)  # the side with the smaller gap
        straight = (lo >= 0) | (hi <= 0)
        return torch.where(straight, secant, convex), secant

    def slopes(
        self,
        lo: Tensor,  # (batch, n) or (1, n)
        hi: Tensor,
        ends: tuple[Tensor, Tensor],  # psi(lo), psi(hi)
    ) -> tuple[Tensor, Tensor]:  # (2, batch or 1, n) each
        """Least and greatest slopes of the lower and of the upper face of the graph's convex hull.

        They are those at its ends: of the lower face, the least slope of a chord from the left end
        and the greatest of one to the right end; of the upper face, the other way round.
        """
        low, high = self.lines(lo, hi)
        least, most = [low, high], [low, high]
        for r, z in zip(self.knots, self._values, strict=True):
            inner = (lo < r) & (r < hi)
            left, right = (z - ends[0]) / (r - lo), (ends[1] - z) / (hi - r)
            left, right = (torch.where(inner, v, 0.5 * (low + high)) for v in (left, right))
            least = [torch.minimum(v, w) for v, w in zip(least, (left, right), strict=True)]
            most = [torch.maximum(v, w) for v, w in zip(most, (right, left), strict=True)]
        return torch.stack([least[0], most[0]]), torch.stack([least[1], most[1]])

    def at_knots(
        self,
        lo: Tensor,  # (batch, n) or (1, n)
        hi: Tensor,
    ) -> tuple[Tensor, Tensor]:  # (batch or 1, n) bool each
        """Which ends of intervals are at a breakpoint, as those that a split has set."""
        found = [torch.zeros_like(lo, dtype=torch.bool), torch.zeros_like(hi, dtype=torch.bool)]
        for low, high in zip(*self.knot_bounds, strict=True):
            near = 4 * torch.finfo(lo.dtype).eps * torch.maximum(low.abs(), high.abs())
            for k, end in enumerate((lo, hi)):
                found[k] |= (low - near <= end) & (end <= high + near)
        return found[0], found[1]

    def cut(
        self,
        lo: Tensor,  # (..., n)
        hi: Tensor,
    ) -> Tensor:  # (breakpoints, ..., n)
        bends = (len(self.knots),) + (1,) * (lo.ndim - 1)
        knots = self.knots.reshape((*bends, len(self.diagonal)))
        values = self._values.reshape((*bends, 1))
        # The parts of a split end a little beyond its breakpoint (`knot_bounds`), as far as this.
        spare = _INSIDE * (1 + hi - lo) + 16 * UNIT * knots.abs()
        inside = (lo < knots - spare) & (knots + spare < hi)
        low, high = self.psi(lo), self.psi(hi)
        slope = (high - low) / (hi - lo).clamp(min=_INSIDE)
        gap = (low + slope * (knots - lo) - values).abs()
        return torch.where(inside, gap.clamp(min=torch.finfo(gap.dtype).tiny), 0.0)

    @property
    def knot_bounds(self) -> tuple[Tensor, Tensor]:  # (breakpoints, n) each
        exact = self.knots == 0
        low = torch.where(exact, self.knots, down(self.knots))
        return low, torch.where(exact, self.knots, up(self.knots))


def least_at_ends(
    p: Tensor,  # (batch, n)
    multiplier: Tensor,  # (batch, n)
    r: tuple[Tensor, Tensor],  # (batch, n) or (1, n) each
    z: tuple[Tensor, Tensor],  # psi of them
) -> tuple[Tensor, Tensor, Tensor]:  # (batch, n) each
    """The lesser of `p z - multiplier r` at two points, its r and its z, in floating point."""
    at_lo = torch.addcmul(p * z[0], multiplier, r[0], value=-1)
    at_hi = torch.addcmul(p * z[1], multiplier, r[1], value=-1)
    lower = at_lo < at_hi
    return torch.minimum(at_lo, at_hi), torch.where(lower, *r), torch.where(lower, *z)


def form_below(
    p: Tensor,  # (batch, n)
    error: Tensor,  # (batch, n)
    multiplier: Tensor,  # (batch, n)
    r: Tensor,  # (batch, n) within a unit of rounding
    z: tuple[Tensor, Tensor],  # psi(r), enclosed
) -> Tensor:  # (batch, n)
    """A lower bound on `p z - multiplier r`."""
    centre = 0.5 * (z[0] + z[1])
    radius = up(torch.maximum(z[1] - centre, centre - z[0]))
    driven, moved = p * centre, multiplier * r
    lost = p.abs() * radius + error * (centre.abs() + radius)
    lost = lost + 8 * UNIT * (driven.abs() + moved.abs() + lost) + FLUSHED
    return down(down(driven - moved) - up(lost))
