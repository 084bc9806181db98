"""Check 3: the exact box of inputs, and points in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import add, sub

from equicert.checker.files import NotValidError
from equicert.checker.folder import Claim
from equicert.checker.integers import Box, require_finite, scaled
from equicert.checker.records import Record

_HUGE = 1.7976931348623157e308  # the greatest float64: only an infinity is beyond it


def input_box(record: Record, x: Sequence[float], claim: Claim, where: str) -> Box:
    """x is in its domain or between the endpoints; the box is not empty as x is in it."""
    require_finite(f"{where}the input", x)
    r = len(x)
    if record.ends is not None:
        low, high = record.ends
        require_finite(f"{where}an endpoint", (*low, *high))
        _require_between(where, "endpoints", low, x, high)
        ends, k = scaled((*low, *high))
        return list(map(add, ends[:r], ends[r:])), list(map(sub, ends[r:], ends[:r])), k
    eps = record.eps
    if eps is None or not (math.isfinite(eps) and eps >= 0):
        raise NotValidError(f"{where}eps is {eps!r}, not a finite number >= 0")
    if claim.domain is None:
        (*mid, e), k = scaled((*x, eps))
        return [2 * m for m in mid], [2 * e] * r, k
    low, high = claim.domain
    _require_between(where, "domain", low, x, high)
    # A side at infinity clips nothing: neither does x -+ eps, exactly, of any finite size.
    clipping = [v if math.isfinite(v) else 0.0 for v in (*low, *high)]
    (*ends, e), k = scaled((*x, *clipping, eps))
    mid, least, most = ends[:r], ends[r : 2 * r], ends[2 * r :]
    lo = [m - e if v < -_HUGE else max(m - e, d) for m, d, v in zip(mid, least, low, strict=True)]
    hi = [m + e if v > _HUGE else min(m + e, d) for m, d, v in zip(mid, most, high, strict=True)]
    return list(map(add, lo, hi)), list(map(sub, hi, lo)), k


def point_of(box: Box, x: Sequence[float], where: str) -> Box:
    """The box [x, x] of a point that must lie in another box."""
    require_finite(f"{where}the witness", x)
    total, width, kb = box
    point, kx = scaled(x)
    k = max(kb, kx)
    for j, (s, w, v) in enumerate(zip(total, width, point, strict=True)):
        if abs((v << k - kx + 1) - (s << k - kb)) > w << k - kb:
            raise NotValidError(f"{where}the witness is outside the box at input {j}: {x[j]!r}")
    return [2 * v for v in point], [0] * len(x), kx


def _require_between(
    where: str, what: str, low: Sequence[float], x: Sequence[float], high: Sequence[float]
) -> None:
    """Comparisons of floats are exact; they fail with a NaN."""
    for j, (a, v, b) in enumerate(zip(low, x, high, strict=True)):
        if not a <= v <= b:
            raise NotValidError(f"{where}input {j} is {v!r}, outside the {what} [{a!r}, {b!r}]")
