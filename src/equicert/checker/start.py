"""Check 4: a box of states that holds the fixed points, for one box of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from operator import add, mul, sub

from equicert.checker.exact import Exact
from equicert.checker.files import NotValidError, UnreadableError
from equicert.checker.folder import Claim, Monotone
from equicert.checker.functions import Function, at_least, at_most, is_linear
from equicert.checker.integers import Box, aligned, dot, require_finite, scaled, show
from equicert.checker.records import Ball, StateBox

_DIGITS = 96  # binary digits that roots and quotients have at least


def states(exact: Exact, claim: Claim, start: StateBox | Ball, inputs: Box, where: str) -> Box:
    """The box of states that a start stands for, with what makes it one."""
    if isinstance(start, StateBox):
        if claim.eta is None:
            raise NotValidError(f"{where}a box of states needs an eta, and the folder has none")
        return _state_box(exact, start, inputs, where)
    if claim.monotone is None:
        raise NotValidError(f"{where}a ball needs a monotone network, which the folder has not")
    if not is_linear(exact.activation):
        raise UnreadableError(f"{where}no ball is checked for the activation {exact.activation}")
    return _ball(exact, claim.monotone, start, inputs, where)


def _state_box(exact: Exact, start: StateBox, inputs: Box, where: str) -> Box:
    """phi(W_ii lo_i + r_lo_i) >= lo_i and phi(W_ii hi_i + r_hi_i) <= hi_i."""
    require_finite(f"{where}a box of states", (*start.lo, *start.hi))
    ends, kz = scaled((*start.lo, *start.hi))
    lo, hi = ends[: exact.n], ends[exact.n :]
    for i, width in enumerate(map(sub, hi, lo)):
        if width < 0:
            low, high = start.lo[i], start.hi[i]
            raise NotValidError(f"{where}neuron {i}: lo = {low!r} > hi = {high!r}")
    box = list(map(add, lo, hi)), list(map(sub, hi, lo)), kz
    ranges, k = exact.ranges(box, inputs)
    w = k - exact.kW - kz
    for i, (low, high) in enumerate(ranges):
        for end, r, upper in ((lo[i], low, False), (hi[i], high, True)):
            t = Fraction(r + (exact.diagonal[i] * end << w + 1), 2 << k)
            wanted = Fraction(end, 1 << kz)
            if not (at_most if upper else at_least)(exact.phi, t, wanted):
                side = "phi(t) > hi" if upper else "phi(t) < lo"
                found = _values(exact.phi, t, wanted)
                raise NotValidError(f"{where}neuron {i}: {side}, t = {show(t)}, {found}")
    return box


def _values(phi: Function, t: Fraction, wanted: Fraction) -> str:
    value = phi(t, 256)[0]
    return f"phi(t) = {show(value)} against {show(wanted)}, by {show(abs(value - wanted))}"


# The ball.


def _ball(exact: Exact, claim: Monotone, start: Ball, inputs: Box, where: str) -> Box:
    """phi(t)_i -+ R / Lambda_i^(1/2) within the range of phi, rounded outwards."""
    require_finite(f"{where}a ball", start.t)
    c, kc = _images(exact, start.t)
    middle = _middle(inputs, where)
    residual, kv = _residual(exact, start.t, c, kc, middle)
    L, kL = scaled(claim.Lambda)
    squares = sum(weight * v * v for weight, v in zip(L, residual, strict=True))
    # R = (||v||_Lambda + norm ||h||_2) / m
    (norm,), kn = scaled([claim.norm])
    reach, kr = _root_above(*_squared_half_widths(inputs, middle))
    (near, far), k = aligned([_root_above(squares, kL + 2 * kv), (norm * reach, kn + kr)])
    (m,), km = scaled([claim.m])
    R = _quotient_above((near + far, k), (m, km))
    radii = [_quotient_above(R, _root_below(weight, kL)) for weight in L]
    (*widths, unit), k = aligned([*radii, (1 << kc, kc)])
    centre = [v << k - kc for v in c]
    lo, hi = list(map(sub, centre, widths)), list(map(add, centre, widths))
    if exact.activation == "relu":
        lo = [max(v, 0) for v in lo]
    elif exact.activation == "hard_tanh":
        lo, hi = [max(v, -unit) for v in lo], [min(v, unit) for v in hi]
    return list(map(add, lo, hi)), list(map(sub, hi, lo)), k


def _images(exact: Exact, t: Sequence[float]) -> tuple[list[int], int]:
    """phi(t), exact."""
    values = [exact.phi(Fraction(v), 0)[0] for v in t]
    return aligned([(v.numerator, v.denominator.bit_length() - 1) for v in values])


def _middle(inputs: Box, where: str) -> list[float]:
    """x0: the float64 numbers nearest to the middle of the box; a quotient of integers is that."""
    total, _, k = inputs
    try:
        return [v / (2 << k) for v in total]
    except OverflowError as error:
        raise NotValidError(f"{where}the middle of the box is beyond float64") from error


def _residual(
    exact: Exact, t: Sequence[float], c: list[int], kc: int, x0: list[float]
) -> tuple[list[int], int]:
    """W phi(t) + U x0 + b - t."""
    (x, kx), (t_, kt) = scaled(x0), scaled(t)
    k = max(exact.kW + kc, exact.kU + kx, exact.kb, kt)
    w, u, b, shift = k - exact.kW - kc, k - exact.kU - kx, k - exact.kb, k - kt
    own = map(mul, exact.diagonal, c)
    rows = zip(exact.W_off.times(c), own, exact.U.times(x), exact.b, t_, strict=True)
    return [(z + d << w) + (v << u) + (bias << b) - (s << shift) for z, d, v, bias, s in rows], k


def _squared_half_widths(inputs: Box, x0: list[float]) -> tuple[int, int]:
    """sum_k h_k^2, h_k = max(hi_k - x0_k, x0_k - lo_k) = (hi - lo + |lo + hi - 2 x0|)_k / 2."""
    total, width, kb = inputs
    x, kx = scaled(x0)
    k = max(kb, kx)
    each = zip(total, width, x, strict=True)
    doubled = [(w << k - kb) + abs((s << k - kb) - (v << k - kx + 1)) for s, w, v in each]
    return dot(doubled, doubled), 2 * k + 2


def _root_below(a: int, k: int) -> tuple[int, int]:
    """At most the root of a / 2^k, and no less than that by 2^-95."""
    shift = max(0, 2 * _DIGITS - a.bit_length())
    shift += (k + shift) % 2
    return math.isqrt(a << shift), (k + shift) // 2


def _root_above(a: int, k: int) -> tuple[int, int]:
    """At least the root of a / 2^k, and 0 only for 0."""
    root, k = _root_below(a, k)
    return (root + 1 if a else 0), k


def _quotient_above(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """At least a / b for a >= 0 and b > 0, and 0 only for 0."""
    (above, ka), (below, kb) = a, b
    shift = max(0, _DIGITS + below.bit_length() - above.bit_length())
    quotient, k = -(-(above << shift) // below), ka + shift - kb
    return (quotient, k) if k >= 0 else (quotient << -k, 0)
