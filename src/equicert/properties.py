"""Properties in exact rational numbers: boxes of inputs, half-spaces of outputs.

A property names its unsafe set: a union of cases, each a box of inputs with a disjunction of
clauses, each clause a conjunction of half-spaces of y. It holds when no point of a box is mapped
into a clause of its case. The half-spaces are closed: a point on the boundary is a counterexample.
Files give decimals, which float64 holds only to rounding: what is handed to proofs is rounded so
that they stay proofs, and counterexamples are tested against the rationals themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equicert.boxes import Box
from equicert.errors import InputError
from equicert.queries import Forms, Query
from equicert.stored import StoredNetwork


@dataclass(frozen=True)
class HalfSpace:
    """`{y : sum_j a_j y_j + d <= 0}`.

    Attributes:
        a: the coefficients that are not 0, by output.
        d: the constant.
    """

    a: tuple[tuple[int, Fraction], ...]
    d: Fraction

    def least(self, lo: Sequence[Fraction], hi: Sequence[Fraction]) -> Fraction:
        """The least value of `a y + d` over lo <= y <= hi."""
        return sum((a * (lo[j] if a > 0 else hi[j]) for j, a in self.a), self.d)

    def greatest(self, lo: Sequence[Fraction], hi: Sequence[Fraction]) -> Fraction:
        """The greatest value of `a y + d` over lo <= y <= hi."""
        return sum((a * (hi[j] if a > 0 else lo[j]) for j, a in self.a), self.d)

    def times(self, scale: Fraction) -> HalfSpace:
        """The same half-space of y for outputs that are `scale y`, scale > 0."""
        return HalfSpace(self.a, self.d * scale)

    def by(self, factor: Fraction) -> HalfSpace:
        """The same half-space, both sides of it multiplied by a number > 0."""
        return HalfSpace(tuple((j, a * factor) for j, a in self.a), self.d * factor)

    def floats(
        self,
        y: NDArray[np.float64],  # (s, q)
    ) -> NDArray[np.float64]:  # (s,)
        """`a y + d`, in plain floating point.

        Raises:
            InputError: a number is beyond the largest float64.
        """
        total = np.full(len(y), _nearest(self.d))
        for j, a in self.a:
            total += _nearest(a) * y[:, j]
        return total

    def plus(self, other: HalfSpace) -> HalfSpace:
        """The half-space of the sum of both values: it holds the intersection of the two."""
        sums = dict(self.a)
        for j, a in other.a:
            sums[j] = sums.get(j, Fraction(0)) + a
        kept = tuple((j, a) for j, a in sorted(sums.items()) if a)
        return HalfSpace(kept, self.d + other.d)


Clause = tuple[HalfSpace, ...]


@dataclass(frozen=True)
class Case:
    """A box of inputs, and the clauses of which none may be met over it.

    Attributes:
        lo, hi: the ends of the box, lo <= hi, one an input.
        clauses: at least one, each of at least one half-space.
    """

    lo: tuple[Fraction, ...]
    hi: tuple[Fraction, ...]
    clauses: tuple[Clause, ...]

    def around(self) -> Box:
        """The box rounded outwards: for proofs.

        Raises:
            InputError: an end is beyond the largest float64.
        """
        lo, hi = [float_down(v) for v in self.lo], [float_up(v) for v in self.hi]
        return Box(torch.tensor(lo, dtype=torch.float64), torch.tensor(hi, dtype=torch.float64))

    def within(self) -> Box:
        """The box rounded inwards: its points lie in the exact box, for searches.

        Where no float64 lies between the ends of an input, it has the nearest one instead;
        `clamp` then gives the point that is meant.

        Raises:
            InputError: as `around`.
        """
        ends = [(float_up(lo), float_down(hi)) for lo, hi in zip(self.lo, self.hi, strict=True)]
        ends = [(lo, hi) if lo <= hi else (hi, hi) for lo, hi in ends]
        lo, hi = torch.tensor(ends, dtype=torch.float64).unbind(-1)
        return Box(lo, hi)

    def clamp(
        self,
        x: Tensor,  # (r,) float64, finite
    ) -> tuple[Fraction, ...]:
        """The nearest point of the exact box."""
        ends = zip(x.tolist(), self.lo, self.hi, strict=True)
        return tuple(min(max(Fraction(v), lo), hi) for v, lo, hi in ends)

    def met(self, lo: Sequence[Fraction], hi: Sequence[Fraction]) -> bool:
        """Whether every y with lo <= y <= hi lies in one and the same clause."""
        return any(all(h.greatest(lo, hi) <= 0 for h in clause) for clause in self.clauses)

    def query(self, forms: Forms) -> Query:
        """The question of these forms over this box, for the methods of `bounds`."""
        which = torch.zeros(1, dtype=torch.int64)
        return Query(self.around(), (forms,), which, inner=self.within())


@dataclass(frozen=True)
class Property:
    """The unsafe set of a network: see this module.

    Attributes:
        inputs, outputs: numbers of x and of y that it speaks of.
        cases: at least one.
    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]

    def check(self, network: StoredNetwork) -> None:
        """Raise InputError unless the network has these numbers of inputs and outputs."""
        for name, asked, found in (
            ("inputs", self.inputs, network.inputs),
            ("outputs", self.outputs, network.outputs),
        ):
            if asked != found:
                raise InputError(
                    f"the property speaks of {asked} {name}, the network has {found}: they do not"
                    " belong together"
                )

    def times(self, scale: Fraction) -> Property:
        """The same property for a network whose outputs are `scale` times as large."""
        if scale == 1:
            return self
        cases = (
            Case(c.lo, c.hi, tuple(tuple(h.times(scale) for h in clause) for clause in c.clauses))
            for c in self.cases
        )
        return Property(self.inputs, self.outputs, tuple(cases))

    def contains(self, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
        """Whether the pair lies in the unsafe set, decided exactly."""
        return any(
            all(lo <= v <= hi for v, lo, hi in zip(x, case.lo, case.hi, strict=True))
            and case.met(y, y)
            for case in self.cases
        )


def forms_of(
    clauses: Sequence[Clause],
    outputs: int,
    size: Sequence[float] | None = None,  # (q,) bounds on |y_j|
) -> Forms:
    """Forms in float64 of which a positive lower bound excludes the half-space it was made of.

    Each row is `c (a y + d)`, c > 0 chosen so that the coefficients are whole numbers, which
    float64 mostly holds; d is rounded down. What rounding takes from coefficients that it does
    not hold is charged to d: `|a_j - fl(a_j)| size_j`.

    Raises:
        InputError: a coefficient is not held and no `size` is given, or a number is beyond the
            largest float64.
    """
    A, d, numbers = [], [], []
    for number, clause in enumerate(clauses):
        for h in clause:
            coefficients, constant = _rounded(_whole(h), outputs, size)
            A.append(coefficients)
            d.append(constant)
            numbers.append(number)
    return Forms(
        torch.from_numpy(np.array(A).reshape(len(A), outputs)),
        torch.tensor(d, dtype=torch.float64),
        torch.tensor(numbers, dtype=torch.int64),
    )


def held(clauses: Sequence[Clause]) -> bool:
    """Whether float64 holds every coefficient of `forms_of`: then it needs no `size`."""
    return all(
        Fraction(_nearest(a)) == a for clause in clauses for h in clause for _, a in _whole(h).a
    )


def float_down(value: Fraction) -> float:
    """The largest float64 not above the value.

    Raises:
        InputError: it is beyond the largest float64.
    """
    near = _nearest(value)
    return near if Fraction(near) <= value else _finite(math.nextafter(near, -math.inf))


def float_up(value: Fraction) -> float:
    """The mirror image of `float_down`.

    Raises:
        InputError: as `float_down`.
    """
    return -float_down(-value)


def _nearest(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise InputError("a number of the property is beyond the largest float64") from error


def _finite(value: float) -> float:
    if math.isinf(value):
        raise InputError("a number of the property is beyond the largest float64")
    return value


def _whole(h: HalfSpace) -> HalfSpace:
    """The half-space with whole coefficients that have no common divisor."""
    common = math.lcm(*(a.denominator for _, a in h.a))
    divisor = math.gcd(*(int(a * common) for _, a in h.a)) or 1
    return h.by(Fraction(common, divisor))


def _rounded(h: HalfSpace, outputs: int, size: Sequence[float] | None) -> tuple[list[float], float]:
    coefficients, lost = [0.0] * outputs, Fraction(0)
    for j, a in h.a:
        coefficients[j] = _nearest(a)
        rest = abs(a - Fraction(coefficients[j]))
        if rest and (size is None or not math.isfinite(size[j])):
            raise InputError(
                f"float64 does not hold the coefficient {float(a):.17g} of Y_{j} in the property,"
                " and no bound on that output is known to charge its rounding to"
            )
        lost += rest * Fraction(size[j]) if rest and size is not None else 0
    return coefficients, float_down(h.d - lost)
