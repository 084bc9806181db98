"""Checks 2 to 5, in integers.

A binary floating-point number is m / 2^k. Numbers that are added to one another are brought to one
k at once, so that every sum and every product below is one of integers. The range of an inner
product `a . v` over a box lo <= v <= hi is `(a . (lo + hi) -+ |a| . (hi - lo)) / 2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from operator import add, mul, sub

from equicert.checker.files import NotValidError, UnreadableError
from equicert.checker.folder import Claim, Record
from equicert.checker.functions import Function, at_least, at_most
from equicert.checker.model import Model

_MEMORY = 1 << 31  # bytes that the integers of one list of numbers may take

Box = tuple[list[int], list[int], int]  # lo + hi and hi - lo, each times 2^k, and k


class Exact:
    """A model in integers; the last letter of `kW` tells whose k it is."""

    def __init__(self, model: Model) -> None:
        if model.q < 2:
            raise NotValidError("a network with one output has no label to certify")
        self.phi, self.n, self.q = model.phi, model.n, model.q
        W, self.kW = scaled(model.W)
        U, self.kU = scaled(model.U)
        C, self.kC = scaled(model.C)
        self.b, self.kb = scaled(model.b)
        self.c, self.kc = scaled(model.c)
        self.diagonal = W[:: model.n + 1]
        W[:: model.n + 1] = [0] * model.n
        self.W_off, self.U, self.C = _rows(W, model.n), _rows(U, model.r), _rows(C, model.n)
        self.W_abs = [list(map(abs, row)) for row in self.W_off]
        self.U_abs = [list(map(abs, row)) for row in self.U]

    def check_eta(self, values: Sequence[float]) -> None:
        """Check 2: eta > 0 and (M eta)_i < eta_i for every i, M the Metzler majorant of W."""
        _require_finite("eta", values)
        eta, k = scaled(values)
        for i, row in enumerate(self.W_abs):
            image, weight = self.diagonal[i] * eta[i] + _dot(row, eta), eta[i] << self.kW
            if eta[i] <= 0:
                raise NotValidError(f"eta: entry {i} is {values[i]!r}, not positive")
            if image >= weight:
                excess = _against(image, weight, self.kW + k)
                raise NotValidError(f"eta: (M eta)_i >= eta_i at i = {i}: {excess}")

    def check_record(self, record: Record, x: Sequence[float], claim: Claim) -> None:
        """Checks 3 to 5 of one certificate about the input x."""
        where = f"row {record.row}: "
        if record.label >= self.q:
            raise NotValidError(f"{where}label {record.label} of {self.q} outputs")
        box = input_box(record, x, claim, where)
        _require_finite(f"{where}a box of states", (*record.lo, *record.hi))
        ends, k = scaled((*record.lo, *record.hi))
        lo, hi = ends[: self.n], ends[self.n :]
        for i, width in enumerate(map(sub, hi, lo)):
            if width < 0:
                low, high = record.lo[i], record.hi[i]
                raise NotValidError(f"{where}neuron {i}: lo = {low!r} > hi = {high!r}")
        self._check_states(lo, hi, k, box, where)
        states = list(map(add, lo, hi)), list(map(sub, hi, lo)), k
        self._check_margins(record, states, where)

    def _check_states(self, lo: list[int], hi: list[int], kz: int, box: Box, where: str) -> None:
        """Check 4: phi(W_ii lo_i + r_lo_i) >= lo_i and phi(W_ii hi_i + r_hi_i) <= hi_i.

        `middle -+ radius` is `2 r_lo`, `2 r_hi` times 2^k.
        """
        z_sum, z_width = list(map(add, lo, hi)), list(map(sub, hi, lo))
        x_sum, x_width, kx = box
        k = max(self.kW + kz, self.kU + kx, self.kb)
        w, u, b = k - self.kW - kz, k - self.kU - kx, k - self.kb
        for i in range(self.n):
            middle = (_dot(self.W_off[i], z_sum) << w) + (_dot(self.U[i], x_sum) << u)
            middle += self.b[i] << b + 1
            radius = (_dot(self.W_abs[i], z_width) << w) + (_dot(self.U_abs[i], x_width) << u)
            for end, r, upper in ((lo[i], middle - radius, False), (hi[i], middle + radius, True)):
                t = Fraction(r + (self.diagonal[i] * end << w + 1), 2 << k)
                wanted = Fraction(end, 1 << kz)
                if not (at_most if upper else at_least)(self.phi, t, wanted):
                    side = "phi(t) > hi" if upper else "phi(t) < lo"
                    found = _values(self.phi, t, wanted)
                    raise NotValidError(f"{where}neuron {i}: {side}, t = {show(t)}, {found}")

    def _check_margins(self, record: Record, states: Box, where: str) -> None:
        """Check 5: (C_y - C_j) z + c_y - c_j >= the claimed margin > 0 over Z for all j != y."""
        z_sum, z_width, kz = states
        y = record.label
        k = max(self.kC + kz, self.kc)
        s, t = k - self.kC - kz, k - self.kc
        others = [j for j in range(self.q) if j != y]
        for j, claimed in zip(others, record.margins, strict=True):
            if not (math.isfinite(claimed) and claimed > 0):
                raise NotValidError(f"{where}the margin against {j} is {claimed!r}, not positive")
            row = list(map(sub, self.C[y], self.C[j]))
            least = _dot(row, z_sum) - _dot(map(abs, row), z_width) << s
            least += self.c[y] - self.c[j] << t + 1
            wanted = Fraction(claimed)
            margin = Fraction(least, 2 << k)
            if margin < wanted:
                found = f"{show(margin)} < {show(wanted)}, by {show(wanted - margin)}"
                raise NotValidError(f"{where}the margin against {j} is not as claimed: {found}")


def input_box(record: Record, x: Sequence[float], claim: Claim, where: str) -> Box:
    """Check 3: x is in its domain or between the endpoints; the box is not empty as x is in it."""
    _require_finite(f"{where}the input", x)
    r = len(x)
    if record.ends is not None:
        low, high = record.ends
        _require_finite(f"{where}an endpoint", (*low, *high))
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


_HUGE = 1.7976931348623157e308  # the greatest float64: only an infinity is beyond it


def scaled(values: Sequence[float]) -> tuple[list[int], int]:
    """Integers m and the least k >= 0 with value = m / 2^k for each of the finite values.

    Raises:
        UnreadableError: their exponents differ so much that the integers do not fit into memory.
    """
    used = [math.frexp(v)[1] for v in values if v]
    span = max(used, default=0) - min(0, min(used, default=0) - 53)
    if len(values) * (36 + span // 7) > _MEMORY:
        raise UnreadableError(f"{len(values)} numbers of {span} binary digits are too many")
    ratios = [v.as_integer_ratio() for v in values]
    k = max(d for _, d in ratios).bit_length() - 1
    return [m << k + 1 - d.bit_length() for m, d in ratios], k


def _rows(values: list[int], width: int) -> list[list[int]]:
    return [values[i : i + width] for i in range(0, len(values), width)]


def _dot(a: Sequence[int] | map[int], b: Sequence[int]) -> int:
    return sum(map(mul, a, b))


def _require_finite(what: str, values: Sequence[float]) -> None:
    for i, value in enumerate(values):
        if not math.isfinite(value):
            raise NotValidError(f"{what} has the entry {i} = {value!r}")


def _require_between(
    where: str, what: str, low: Sequence[float], x: Sequence[float], high: Sequence[float]
) -> None:
    """Comparisons of floats are exact; they fail with a NaN."""
    for j, (a, v, b) in enumerate(zip(low, x, high, strict=True)):
        if not a <= v <= b:
            raise NotValidError(f"{where}input {j} is {v!r}, outside the {what} [{a!r}, {b!r}]")


def show(x: Fraction) -> str:
    """x to 17 digits, or its order of magnitude where float64 has none."""
    magnitude = abs(x.numerator).bit_length() - x.denominator.bit_length()
    if x and not -1000 < magnitude < 1000:
        return f"about {'-' if x < 0 else ''}2^{magnitude}"
    return f"{float(x):.17g}"


def _against(a: int, b: int, k: int) -> str:
    unit = 1 << k
    found = (show(Fraction(v, unit)) for v in (a, b, a - b))
    return "{} against {}, by {}".format(*found)


def _values(phi: Function, t: Fraction, wanted: Fraction) -> str:
    value = phi(t, 256)[0]
    return f"phi(t) = {show(value)} against {show(wanted)}, by {show(abs(value - wanted))}"
