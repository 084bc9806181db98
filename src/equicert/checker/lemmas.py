"""The dual bound of the second theorem, decided in integers.

A number that is added to another is brought to its k by a shift. The quotients `psi_i(r)` have the
denominators `1 - W_ii`, which no k serves: each `p_i psi_i(r)` is rounded down, and where that
leaves a comparison open (the claim lies within n units of the sum), fractions decide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import sub

from equicert.checker.exact import Exact
from equicert.checker.functions import slope
from equicert.checker.integers import Box, dot
from equicert.checker.records import Multiplier

Value = tuple[int, int, int]  # r, and psi(r) as a fraction, r and the numerator times 2^k


class Psi:
    """psi_i, the root z of `z = phi(W_ii z + r)`, for piecewise linear phi; r is r 2^k here.

    With d = W_ii < 1: where phi(t) = a t on the side of t, `z = a r / (1 - a d)`, of the sign of r;
    phi(t) = t at -1 and 1, too, so that hard_tanh's is `min(max(r / (1 - d), -1), 1)`.
    """

    def __init__(self, exact: Exact, k: int) -> None:
        """k is at least that of W."""
        self.k, self.kW, self.clipped = k, exact.kW, exact.activation == "hard_tanh"
        a = slope(exact.activation)
        self.a, self.unit = a.numerator, a.denominator
        one = 1 << exact.kW
        self.above = [one - d for d in exact.diagonal]  # (1 - d) 2^kW
        self.below = [self.unit * one - self.a * d for d in exact.diagonal]  # ... times the unit
        self.kinked = exact.activation != "identity"

    def breakpoints(self, i: int) -> tuple[int, ...]:
        """Where psi_i changes its slope, in increasing order."""
        if self.clipped:
            end = self.above[i] << self.k - self.kW
            return -end, end
        return (0,) if self.kinked else ()

    def at(self, i: int, r: int) -> Value:
        """psi_i(r)."""
        if self.clipped and abs(r) >= self.above[i] << self.k - self.kW:
            return r, (1 if r > 0 else -1) << self.k, 1
        if r >= 0 or self.clipped:
            return r, r << self.kW, self.above[i]
        return r, self.a * r << self.kW, self.below[i]


@dataclass(frozen=True)
class Form:
    """What is bounded from below: `sign r_neuron` where sign is not 0, or else `a . z + c`."""

    a: Sequence[int] | None = None  # times 2^kC
    c: int = 0  # times 2^kc
    neuron: int = 0
    sign: int = 0


class Node:
    """Bounds l <= r <= u over one box of inputs, which may be tightened, and the dual over them."""

    def __init__(self, exact: Exact, states: Box, inputs: Box, k: int) -> None:
        """At first l and u are the exact ranges of r; bounds to come are to fit into k, too."""
        ranges, least = exact.ranges(states, inputs)
        self.exact, self.inputs, self.k = exact, inputs, max(least + 1, k)
        self.psi = Psi(exact, self.k)
        shift = self.k - least - 1
        self.bounds = [(low << shift, high << shift) for low, high in ranges]
        self._points = [self._of(i) for i in range(exact.n)]

    def set(self, i: int, bounds: tuple[int, int]) -> None:
        """Other bounds for one neuron."""
        self.bounds[i] = bounds
        self._points[i] = self._of(i)

    def _of(self, i: int) -> list[Value]:
        """Where `p psi_i(r) - lambda r` can have its least value: both ends, and breakpoints."""
        low, high = self.bounds[i]
        inside = [r for r in self.psi.breakpoints(i) if low < r < high]
        return [self.psi.at(i, r) for r in (low, *inside, high)]

    def shortfall(
        self, form: Form, multiplier: Multiplier, wanted: Fraction, strict: bool = False
    ) -> Fraction | None:
        """None where g(lambda) >= wanted (> if strict), or else `wanted - g(lambda)`.

        For the form `sign r_i` it is p = W_off^T mu, d + U^T lambda = U^T mu, and the constants
        are mu^T b, with mu = lambda + sign e_i.
        """
        exact, (indices, weights, kl) = self.exact, multiplier
        own = [0] * exact.n
        for i, weight in zip(indices, weights, strict=True):
            own[i] = weight
        if form.sign:
            mu = list(own)
            mu[form.neuron] += form.sign << kl
            indices = [i for i, weight in enumerate(mu) if weight]
            weights = [mu[i] for i in indices]
        p, kp = exact.W_off.combination(indices, weights), kl + exact.kW
        if form.a is not None:
            most = max(kp, exact.kC)
            p = [(v << most - kp) + (a << most - exact.kC) for v, a in zip(p, form.a, strict=True)]
            kp = most
        rest = (
            self._constants(form, indices, weights, kl),
            self._inputs(exact.U.combination(indices, weights), kl),
        )
        return self._compare(p, [v << kp - kl for v in own], kp, rest, wanted, strict)

    def _constants(
        self, form: Form, indices: list[int], weights: list[int], kl: int
    ) -> tuple[int, int]:
        exact = self.exact
        total, k = dot(weights, [exact.b[i] for i in indices]), kl + exact.kb
        most = max(k, exact.kc)
        return (total << most - k) + (form.c << most - exact.kc), most

    def _inputs(self, q: list[int], kl: int) -> tuple[int, int]:
        """The least q . x over the box."""
        x_sum, x_width, kx = self.inputs
        return dot(q, x_sum) - dot(map(abs, q), x_width), kl + self.exact.kU + kx + 1

    def _compare(
        self,
        p: list[int],
        own: list[int],
        kp: int,
        rest: tuple[tuple[int, int], ...],
        wanted: Fraction,
        strict: bool,
    ) -> Fraction | None:
        """Add what the neurons contribute: `min_r (p_i psi_i(r) - lambda_i r)` times 2^(kp + k)."""
        contributed = sum(
            min([v * top // bottom - w * r for r, top, bottom in points])
            for v, w, points in zip(p, own, self._points, strict=True)
        )
        k = max(kp + self.k, *(own_k for _, own_k in rest))
        missing = Fraction(sum(v << k - own_k for v, own_k in rest), 1 << k) - wanted
        least = missing + Fraction(contributed, 1 << kp + self.k)
        most = least + Fraction(len(p), 1 << kp + self.k)
        if least > 0 or (least == 0 and not strict):
            return None
        if most <= 0:
            return -least
        least = missing + self._fractions(p, own) / (1 << kp + self.k)
        return None if least > 0 or (least == 0 and not strict) else -least

    def _fractions(self, p: list[int], own: list[int]) -> Fraction:
        """The same sum without rounding."""
        each = zip(p, own, self._points, strict=True)
        return sum(
            (min(Fraction(v * top, b) - w * r for r, top, b in points) for v, w, points in each),
            Fraction(0),
        )


def difference(exact: Exact, y: int, j: int) -> Form:
    """The margin of y against j."""
    return Form(list(map(sub, exact.C[y], exact.C[j])), exact.c[y] - exact.c[j])
