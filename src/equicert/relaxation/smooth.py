"""The graph of psi for tanh, sigmoid, softplus and ELU, and minima of linear forms on it.

With the pre-activation t as parameter the graph needs no root (derived here): `z = phi(t)` and
`r = t - d phi(t)`, which increases in t since d < 1, so that

    p psi(r) - lambda r = q phi(t) - lambda t,    q = p + lambda d.

Where q phi is concave the minimum is at an end. Where it is convex, up to the turn of phi for
q > 0 and beyond it for q < 0, it is where `phi'(t) = lambda / q`, a closed form. What is rigorous
is not that point but the tangents at two points around it, below which no convex function falls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from equicert.activations import Activation
from equicert.relaxation.curves import Curve, curve_of
from equicert.relaxation.graphs import FLUSHED, Graph, form_below, least_at_ends
from equicert.rounding import UNIT, down, up

_AROUND = 2.0**-26  # of 1 + |t|: what the tangents lose between them is of second order in it
_DUE = 2.0**-43  # relative to what is added up: the stated error of phi, twice
_WIDENINGS = (1.0, 2.0**6, 2.0**14, 2.0**24, 2.0**34)  # of that; the first nearly always passes
_POLISHED = 2  # Newton steps on t, after those on z
_SAMPLED = 0.03, 0.25, 0.5, 0.75, 0.97  # of an interval of t
_BISECTIONS = 8  # for the slope of a tangent, which is a proposal
_POINT = 1e-9  # of 1 + |lo| + |hi|: a narrower interval has one slope
_STRAIGHT = 1e-9  # of width times change of slope: less is no bend


@final
@dataclass(frozen=True)
class Smooth(Graph):
    """psi_i(r), the root of z = phi(d_i z + r).

    Attributes:
        activation: phi, one that has a `Curve`.
        diagonal: (n,) of W, below 1 in every entry.
    """

    activation: Activation
    diagonal: Tensor

    @cached_property
    def curve(self) -> Curve:
        """The slopes of phi."""
        return curve_of(self.activation)

    def psi(
        self,
        r: Tensor,  # (..., n)
    ) -> Tensor:
        return self.activation.psi(r, self.diagonal)

    def minimise(
        self,
        p: Tensor,
        multiplier: Tensor,
        lo: Tensor,
        hi: Tensor,
        ends: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        best, r, z = least_at_ends(p, multiplier, (lo, hi), ends)
        t = self._stationary(torch.addcmul(p, multiplier, self.diagonal), multiplier)
        value = self.activation.phi(t)
        there = torch.addcmul(t, value, self.diagonal, value=-1)
        at_there = torch.addcmul(p * value, multiplier, there, value=-1)
        better = (at_there < best) & (lo < there) & (there < hi)  # false where NaN
        best = torch.where(better, at_there, best)
        return best, torch.where(better, there, r), torch.where(better, value, z)

    def _stationary(
        self,
        q: Tensor,  # (batch, n)
        multiplier: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch, n)
        """The t of least `q phi(t) - multiplier t` on the convex side; NaN where none is."""
        t = self.curve.rising(multiplier / q)
        beyond = 2 * self.curve.turn - t if self.curve.sigmoidal else torch.full_like(t, torch.nan)
        return torch.where(q > 0, t, beyond)

    def minimum_below(
        self, p: Tensor, error: Tensor, multiplier: Tensor, lo: Tensor, hi: Tensor
    ) -> Tensor:
        phi, turn = self.activation, self.curve.turn
        (first, other), (before, last) = self.preactivations(lo), self.preactivations(hi)
        least, most = phi.down(first), phi.up(last)
        best = torch.minimum(
            form_below(p, error, multiplier, lo, (least, phi.up(other))),
            form_below(p, error, multiplier, hi, (phi.down(before), most)),
        )
        driven = multiplier * self.diagonal
        q = p + driven
        # The exact form is this far from that of q: |phi| is at most what it is at an end.
        lost = up(error + 8 * UNIT * (p.abs() + driven.abs())) + FLUSHED
        lost = up(lost * torch.maximum(least.abs(), most.abs()))
        inner = self._convex_below(q, multiplier, first, last)
        if turn < torch.inf:
            at_turn = self._below(q, multiplier, torch.full_like(q, turn))
            inside = (first <= turn) & (turn <= last)
            inner = torch.where(inside, torch.minimum(inner, at_turn), inner)
        # Of the ends the exact form is known; that they matter follows from the shape of q's.
        return down(torch.minimum(down(best - lost), inner) - lost)

    def _convex_below(
        self,
        q: Tensor,  # (batch, n), exact
        multiplier: Tensor,  # (batch, n), exact
        first: Tensor,  # (batch, n) or (1, n), exact: bounds on t
        last: Tensor,
    ) -> Tensor:  # (batch, n)
        """A lower bound on `f(t) = q phi(t) - multiplier t` where it is convex.

        Infinite where that is nowhere, and where the minimum is shown to be at an end. For f convex
        on [A, B] and any c <= e inside, no f(t) is less than

            f(c) - [f'(c)]^+ (c - A),  f(c) - [f'(c)]^- (e - c)  or  f(e) - [f'(e)]^- (B - e).
        """
        turn, up_to = self.curve.turn, q >= 0
        A = torch.where(up_to, first, first.clamp(min=turn if self.curve.sigmoidal else torch.inf))
        B = torch.where(up_to, last.clamp(max=turn), last)
        t = self._stationary(q, multiplier)
        t = torch.where(
            t.isnan(), torch.where(multiplier > 0, B, A), t
        )  # f' has one sign: -lambda's
        t = torch.minimum(torch.maximum(t, A), B)
        room = _AROUND * (1 + t.abs())
        c, e = torch.maximum(t - room, A), torch.minimum(t + room, B)
        least, most = self._slopes(q, multiplier, c)
        least_e, most_e = self._slopes(q, multiplier, e)
        at_c, at_e = self._below(q, multiplier, c), self._below(q, multiplier, e)
        left = at_c - up(most.clamp(min=0) * up(c - A))
        middle = at_c + down(least.clamp(max=0) * up(e - c))
        right = at_e + down(least_e.clamp(max=0) * up(B - e))
        found = down(torch.minimum(torch.minimum(left, middle), right))
        nowhere = (A > B) | ((c == A) & (least >= 0)) | ((e == B) & (most_e <= 0))
        return torch.where(nowhere, torch.inf, found)

    def _slopes(self, q: Tensor, multiplier: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds on `q phi'(t) - multiplier`."""
        low, high = self.curve.slopes(t)
        flat, steep = torch.where(q >= 0, low, high), torch.where(q >= 0, high, low)
        return down(down(q * flat) - multiplier), up(up(q * steep) - multiplier)

    def _below(self, q: Tensor, multiplier: Tensor, t: Tensor) -> Tensor:
        """A lower bound on `q phi(t) - multiplier t`, all three exact."""
        z = torch.where(q >= 0, self.activation.down(t), self.activation.up(t))
        return down(down(q * z) - up(multiplier * t))

    def preactivations(
        self,
        r: Tensor,  # (..., n), exact
    ) -> tuple[Tensor, Tensor]:  # (..., n) each
        """Rigorous bounds on the t with `t - d phi(t) = r`; NaN where nothing is proved.

        Since the left side increases in t, t is at least any number where it is at most r.
        """
        phi, d = self.activation, self.diagonal
        t = torch.addcmul(r, d, self.psi(r))
        steepness = 1 - d * phi.slope(t)
        for _ in range(_POLISHED):
            t = t - (t - d * phi.phi(t) - r) / steepness
        size = t.abs() + (d * phi.phi(t)).abs() + r.abs()
        due = _DUE * size / steepness.clamp(min=UNIT) + FLUSHED
        low, high = torch.full_like(t, torch.nan), torch.full_like(t, torch.nan)
        for factor in _WIDENINGS:
            below, above = t - factor * due, t + factor * due
            passed = up(below - self._driven(below, upper=False)) <= r
            low = torch.where(low.isnan() & passed, below, low)
            passed = down(above - self._driven(above, upper=True)) >= r
            high = torch.where(high.isnan() & passed, above, high)
            if not bool((low.isnan() | high.isnan()).any()):
                break
        return low, high

    def _driven(self, t: Tensor, *, upper: bool) -> Tensor:
        """A bound on `d phi(t)`."""
        phi, d = self.activation, self.diagonal
        if upper:
            return up(d * torch.where(d >= 0, phi.up(t), phi.down(t)))
        return down(d * torch.where(d >= 0, phi.down(t), phi.up(t)))

    def lines(self, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        turn = self.curve.turn
        (t_lo, z_lo), (t_hi, z_hi) = self._point(lo), self._point(hi)
        wide = hi - lo
        tangent = self._steepness(0.5 * (t_lo + t_hi))
        point = ~(wide > _POINT * (1 + lo.abs() + hi.abs()))
        secant = torch.where(point, tangent, (z_hi - z_lo) / wide)
        if not self.curve.sigmoidal:
            return torch.where(t_lo >= turn, secant, tangent), secant
        from_hi = self._tangent(hi, z_hi, t_lo, t_hi.clamp(max=turn))
        from_lo = self._tangent(lo, z_lo, t_hi, t_lo.clamp(min=turn))
        low = torch.where(t_hi <= turn, tangent, torch.where(t_lo >= turn, secant, from_hi))
        high = torch.where(t_lo >= turn, tangent, torch.where(t_hi <= turn, secant, from_lo))
        return torch.where(point, tangent, low), torch.where(point, tangent, high)

    def inside(
        self, lo: Tensor, hi: Tensor, ends: tuple[Tensor, Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        first, last = (
            torch.addcmul(r, self.diagonal, z) for r, z in zip((lo, hi), ends, strict=True)
        )
        for share in _SAMPLED:
            t = torch.lerp(first, last, share)
            value = self.activation.phi(t)
            yield torch.addcmul(t, value, self.diagonal, value=-1), value

    def _tangent(
        self,
        r: Tensor,  # (batch, n)
        z: Tensor,  # (batch, n) psi(r)
        far: Tensor,  # (batch, n) t of the other end
        near: Tensor,  # (batch, n) t of the turn, if it lies between
    ) -> Tensor:  # (batch, n)
        """The slope of the line through (r, z) that touches psi beyond the turn, or of the secant.

        At the far end, or wherever psi is less steep than the chord from there to (r, z), the point
        of touch is nearer.
        """
        chord = torch.zeros_like(z)
        for _ in range(_BISECTIONS):
            t = 0.5 * (far + near)
            value = self.activation.phi(t)
            chord = (z - value) / (r - torch.addcmul(t, value, self.diagonal, value=-1))
            nearer = self._steepness(t) < chord
            far, near = torch.where(nearer, t, far), torch.where(nearer, near, t)
        return chord

    def _point(self, r: Tensor) -> tuple[Tensor, Tensor]:
        z = self.psi(r)
        return torch.addcmul(r, self.diagonal, z), z

    def _steepness(self, t: Tensor) -> Tensor:
        """The slope of psi, in plain floating point."""
        slope = self.activation.slope(t)
        return slope / (1 - self.diagonal * slope)

    def bent(self, lo: Tensor, hi: Tensor) -> Tensor:
        ends = self._steepness(self._point(lo)[0]), self._steepness(self._point(hi)[0])
        change = (ends[1] - ends[0]).abs()
        if self.curve.turn < torch.inf:
            t = self.curve.turn + 0 * self.diagonal
            r = t - self.diagonal * self.activation.phi(t)
            peak = self._steepness(t) - torch.minimum(*ends)
            change = torch.where((lo < r) & (r < hi), torch.maximum(change, peak), change)
        return change * (hi - lo) > _STRAIGHT

    def cut(self, lo: Tensor, hi: Tensor) -> Tensor:
        del hi
        return lo.new_empty((0, *lo.shape))

    @property
    def knot_bounds(self) -> tuple[Tensor, Tensor]:  # (0, n) each
        nothing = self.diagonal.new_empty((0, len(self.diagonal)))
        return nothing, nothing
