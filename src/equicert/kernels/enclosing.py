"""Boxes and their images rounded outwards: one pass over memory in place of a dozen.

Every operation is IEEE double, rounded to nearest, in the order written: what `rounding` and
`enclosures` prove of the tensor operations holds of these loops word for word. Each loop over a row
does one thing, which the compiler can do with vector instructions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from equicert.kernels.compiled import compiled, usable

_UNITS, _SLACK = 2.0**-51, 2.0**-1020  # of `rounding.up` and `rounding.down`
_SIZE = np.int64(2**63 - 1)  # all bits but the sign
_INFINITE = np.int64(0x7FF << 52)  # NaN and infinity are no less as integers


class Linear(NamedTuple):
    """phi(t) = min(max(s t, lower), upper), s = left for t < 0 and right for t > 0."""

    left: float
    right: float
    lower: float
    upper: float


def encloses(*tensors: Tensor) -> bool:
    """Whether the loops of this module take these tensors: `usable`, double, without gradients."""
    return usable(*tensors) and all(
        t.dtype == torch.float64 and not t.requires_grad for t in tensors
    )


def surround(
    x: Tensor,  # (batch, r) float64, finite
    eps: Tensor,  # (1, 1), (1, r), (batch, 1) or (batch, r)
    low: Tensor,  # (r,)
    high: Tensor,  # (r,)
) -> tuple[Tensor, Tensor, bool]:  # (batch, r) each
    """`max(x - eps, low)` and `min(x + eps, high)` rounded outwards, and whether all are finite."""
    lo, hi = torch.empty_like(x), torch.empty_like(x)
    ends = lo.numpy(), hi.numpy()
    bits = (end.view(np.int64) for end in ends)
    given = (t.numpy() for t in (x, eps, low, high))
    finite = compiled(_surround)(*given, *ends, *bits, np.empty((2, x.shape[1])))
    return lo, hi, bool(finite)


def farthest(
    x: Tensor,  # (batch, r) float64
    lo: Tensor,  # (batch, r)
    hi: Tensor,  # (batch, r)
) -> Tensor:  # (batch,)
    """`max_k max(hi_k - x_k, x_k - lo_k)`, x within the box; rounded to nearest, NaN if one is."""
    out, scratch = x.new_empty(len(x)), np.empty((2, x.shape[1]))
    given = (t.numpy() for t in (x, lo, hi))
    compiled(_farthest)(*given, scratch, scratch.view(np.int64), out.numpy().view(np.int64))
    return out


def halves(
    lo: Tensor,  # (batch, m) float64
    hi: Tensor,  # (batch, m) float64
    share: float,
) -> tuple[Tensor, Tensor, Tensor]:  # (batch, m) each, and (batch, 2)
    """The centres c, the radii `rho + share |c|`, and the largest entries of |c| and of those."""
    c, wide, most = torch.empty_like(lo), torch.empty_like(lo), lo.new_empty(len(lo), 2)
    found = c.numpy(), wide.numpy()
    bits = (array.view(np.int64) for array in (*found, most.numpy()))
    compiled(_halves)(lo.numpy(), hi.numpy(), share, *found, *bits)
    return c, wide, most


def outward(
    m: Tensor,  # (batch, n) the product of the centres
    p: Tensor,  # (batch, n) of the radii
    factor: float,
    flushed: tuple[Tensor, Tensor],  # (batch, 2) and (1, n) or (batch, n): cost of underflow
    plus: tuple[Tensor, Tensor] | None,  # (1, n) or (batch, n) each
) -> tuple[Tensor, Tensor]:  # (batch, n) each
    """Bounds on `m -+ factor p`, on what underflow cost, and on `plus`, all added up outwards."""
    low, high = torch.empty_like(m), torch.empty_like(m)
    ends = (None, None) if plus is None else (plus[0].numpy(), plus[1].numpy())
    given = (t.numpy() for t in (m, p, *flushed))
    compiled(_outward)(*given, factor, *ends, low.numpy(), high.numpy())
    return low, high


def widen(
    lo: Tensor,  # (batch, n)
    hi: Tensor,  # (batch, n)
    due: Tensor,  # (batch,)
    eta: Tensor,  # (n,)
    limits: tuple[float, float],
) -> tuple[Tensor, Tensor]:  # (batch, n) each
    """`lo - due eta` and `hi + due eta`, within the limits; rounded to nearest."""
    low, high = torch.empty_like(lo), torch.empty_like(hi)
    arrays = (t.numpy() for t in (lo, hi, due, eta, low, high))
    compiled(_widen)(*arrays, float(limits[0]), float(limits[1]))
    return low, high


def inward(
    r: tuple[Tensor, Tensor],  # (batch, n) each
    lo: Tensor,  # (batch, n)
    hi: Tensor,  # (batch, n)
    diagonal: Tensor,  # (n,)
    phi: Linear,
) -> Tensor:  # (batch,) bool
    """Whether `lo <= phi(d lo + r_lo)` and `phi(d hi + r_hi) <= hi`, in order and all finite."""
    passed = torch.empty(len(lo), dtype=torch.bool)
    arrays = (t.numpy() for t in (*r, lo, hi, diagonal))
    limits, slopes = (float(phi.lower), float(phi.upper)), (float(phi.left), float(phi.right))
    # Products with 0 and 1 are exact.
    units = (0.0 if s in (0.0, 1.0) else _UNITS for s in slopes)
    slack = (0.0 if s in (0.0, 1.0) else _SLACK for s in slopes)
    scratch = np.empty((2, lo.shape[1]))
    compiled(_inward)(*arrays, *slopes, *units, *slack, *limits, scratch, passed.numpy())
    return passed


def _surround(
    x: np.ndarray,
    eps: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    lo: np.ndarray,
    hi: np.ndarray,
    lo_bits: np.ndarray,  # the same memory as integers
    hi_bits: np.ndarray,
    error: np.ndarray,  # (2, r) scratch
) -> np.bool_:
    r = x.shape[1]
    radius, lost = error[0], error[1]
    most = np.int64(0)
    for i in range(len(x)):
        point, left, right, least, greatest = x[i], lo[i], hi[i], lo_bits[i], hi_bits[i]
        if i == 0 or len(eps) > 1:
            radius[:] = eps[i % len(eps)]
        for j in range(r):  # TwoSum: x - eps = left + lost
            a, e = point[j], radius[j]
            s = a - e
            part = s + e
            left[j] = s
            lost[j] = (a - part) - (e + (s - part))
        for j in range(r):  # neighbours are integers apart by one; a sum that is 0 is exact
            k = least[j]
            step = np.int64(-1) if k >= 0 else np.int64(1)
            least[j] = k + (step if lost[j] < 0 else np.int64(0))
        for j in range(r):
            value, end = left[j] + (lost[j] - lost[j]), low[j]  # NaN after an overflow
            left[j] = end if value < end else value
        for j in range(r):
            a, e = point[j], radius[j]
            s = a + e
            part = s - e
            right[j] = s
            lost[j] = (a - part) + (e - (s - part))
        for j in range(r):
            k = greatest[j]
            step = np.int64(1) if k >= 0 else np.int64(-1)
            greatest[j] = k + (step if lost[j] > 0 else np.int64(0))
        for j in range(r):
            value, end = right[j] + (lost[j] - lost[j]), high[j]
            right[j] = end if value > end else value
        for j in range(r):
            most = max(most, least[j] & _SIZE, greatest[j] & _SIZE)
    return most < _INFINITE


def _farthest(
    x: np.ndarray,
    lo: np.ndarray,
    hi: np.ndarray,
    scratch: np.ndarray,
    bits: np.ndarray,  # the same memory as integers
    out: np.ndarray,  # integers
) -> None:
    for i in range(len(x)):
        point, low, high = x[i], lo[i], hi[i]
        right, left, right_bits, left_bits = scratch[0], scratch[1], bits[0], bits[1]
        for j in range(x.shape[1]):
            right[j], left[j] = high[j] - point[j], point[j] - low[j]
        most = np.int64(0)
        for j in range(x.shape[1]):
            most = max(most, right_bits[j] & _SIZE, left_bits[j] & _SIZE)
        out[i] = most


def _halves(
    lo: np.ndarray,
    hi: np.ndarray,
    share: float,
    c: np.ndarray,
    wide: np.ndarray,
    c_bits: np.ndarray,  # the same memory as integers
    wide_bits: np.ndarray,
    most: np.ndarray,  # integers
) -> None:
    m = lo.shape[1]
    for i in range(len(lo)):
        low, high, middle, radius = lo[i], hi[i], c[i], wide[i]
        c_row, wide_row = c_bits[i], wide_bits[i]
        for j in range(m):  # as in `rounding.centre_radius`
            centre = low[j] * 0.5 + high[j] * 0.5
            right, left = high[j] - centre, centre - low[j]
            rho = (right if right > left else left) * (1 + 2.0**-50)
            middle[j] = centre
            radius[j] = rho + abs(centre) * share
        # Non-negative floats are ordered as integers are, NaN above all.
        c_most, wide_most = np.int64(0), np.int64(0)
        for j in range(m):
            c_most = max(c_most, c_row[j] & _SIZE)
            wide_most = max(wide_most, wide_row[j] & _SIZE)
        most[i, 0], most[i, 1] = c_most, wide_most


def _outward(
    m: np.ndarray,
    p: np.ndarray,
    by_row: np.ndarray,
    by_column: np.ndarray,
    factor: float,
    plus_low: np.ndarray | None,
    plus_high: np.ndarray | None,
    lo: np.ndarray,
    hi: np.ndarray,
) -> None:
    n = m.shape[1]
    for i in range(len(m)):
        centre, spread, low, high = m[i], p[i], lo[i], hi[i]
        lost_m, lost_p, lost = by_row[i, 0], by_row[i, 1], by_column[i % len(by_column)]
        for j in range(n):
            above = spread[j] + (lost_p + lost[j])
            above = (above + abs(above) * _UNITS + _SLACK) * factor
            radius = above + abs(above) * _UNITS + _SLACK + (lost_m + lost[j])
            radius = radius + abs(radius) * _UNITS + _SLACK
            a, b = centre[j] - radius, centre[j] + radius
            low[j] = a - abs(a) * _UNITS - _SLACK
            high[j] = b + abs(b) * _UNITS + _SLACK
        if plus_low is not None and plus_high is not None:
            left, right = plus_low[i % len(plus_low)], plus_high[i % len(plus_high)]
            for j in range(n):
                a, b = low[j] + left[j], high[j] + right[j]
                low[j] = a - abs(a) * _UNITS - _SLACK
                high[j] = b + abs(b) * _UNITS + _SLACK


def _widen(
    lo: np.ndarray,
    hi: np.ndarray,
    due: np.ndarray,
    eta: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    lower: float,
    upper: float,
) -> None:
    n = lo.shape[1]
    for i in range(len(lo)):
        left, right, less, more, t = lo[i], hi[i], low[i], high[i], due[i]
        for j in range(n):
            a, b = left[j] - t * eta[j], right[j] + t * eta[j]
            less[j] = lower if a < lower else a
            more[j] = upper if b > upper else b


def _inward(
    r_lo: np.ndarray,
    r_hi: np.ndarray,
    lo: np.ndarray,
    hi: np.ndarray,
    d: np.ndarray,
    left: float,
    right: float,
    left_units: float,
    right_units: float,
    left_slack: float,
    right_slack: float,
    lower: float,
    upper: float,
    scratch: np.ndarray,  # (2, n)
    passed: np.ndarray,
) -> None:
    n, t, image = len(d), scratch[0], scratch[1]
    for i in range(len(lo)):  # few arrays a loop: more are not proved disjoint
        low, high, least, greatest = lo[i], hi[i], r_lo[i], r_hi[i]
        for j in range(n):
            s = d[j] * low[j]
            s = (s - abs(s) * _UNITS - _SLACK) + least[j]
            t[j] = s - abs(s) * _UNITS - _SLACK
        for j in range(n):
            s = t[j]
            units = right_units if s > 0 else left_units
            slack = right_slack if s > 0 else left_slack
            v = s * (right if s > 0 else left)
            v = v - abs(v) * units - slack
            v = lower if v < lower else v
            image[j] = upper if v > upper else v
        good = 0
        for j in range(n):
            a, v, s = low[j], image[j], t[j]
            good += np.int64((a <= v) & (abs(a) < np.inf) & (abs(s) < np.inf))
        for j in range(n):
            s = d[j] * high[j]
            s = (s + abs(s) * _UNITS + _SLACK) + greatest[j]
            t[j] = s + abs(s) * _UNITS + _SLACK
        for j in range(n):
            s = t[j]
            units = right_units if s > 0 else left_units
            slack = right_slack if s > 0 else left_slack
            v = s * (right if s > 0 else left)
            v = v + abs(v) * units + slack
            v = lower if v < lower else v
            image[j] = upper if v > upper else v
        for j in range(n):
            a, b, v, s = low[j], high[j], image[j], t[j]
            good += np.int64((v <= b) & (a <= b) & (abs(b) < np.inf) & (abs(s) < np.inf))
        passed[i] = good == 2 * n
