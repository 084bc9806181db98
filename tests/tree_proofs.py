"""Records of trees and witnesses, for tests of the checker, and a naive judge of their bytes.

The writer puts down any steps, right or wrong. `Judge` reads the layout of docs/certificates.md
again and decides in plain fractions; it shares nothing with the checker or the library.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exact import (
    Matrix,
    Vector,
    contracts,
    dot,
    evaluate,
    is_monotone,
    is_semidefinite,
    pieces,
    times,
    to_fractions,
)
from proofs import Folder

Array = NDArray[np.float64]
Ranges = list[tuple[Fraction, Fraction]]


# Writing.


@dataclass
class Tree:
    """A record of kind 2; steps are what the functions below return."""

    row: int
    label: int
    eps: float
    start: bytes
    chain: list[bytes]
    margins: Sequence[float]
    trees: list[list[bytes]]
    ends: tuple[Array, Array] | None = None

    def body(self) -> bytes:
        parts = [_common(2, self.row, self.label, self.eps, self.ends), self.start]
        parts += [struct.pack("<I", len(self.chain)), *self.chain, floats(self.margins)]
        return b"".join([*parts, *(step for tree in self.trees for step in tree)])


@dataclass
class Witnessed:
    """A record of kind 3."""

    row: int
    label: int
    eps: float
    rival: int
    x: Array
    start: bytes
    ends: tuple[Array, Array] | None = None

    def body(self) -> bytes:
        head = _common(3, self.row, self.label, self.eps, self.ends)
        return head + struct.pack("<I", self.rival) + floats(self.x) + self.start


def _common(kind: int, row: int, label: int, eps: float, ends: tuple[Array, Array] | None) -> bytes:
    head = struct.pack("<BBII", kind, ends is not None, row, label)
    return head + (floats([eps]) if ends is None else floats(ends[0]) + floats(ends[1]))


def floats(values: Any) -> bytes:
    return np.asarray(values, "<f8").tobytes()


def state_start(lo: Array, hi: Array) -> bytes:
    return b"\0" + floats(lo) + floats(hi)


def ball_start(t: Array) -> bytes:
    return b"\1" + floats(t)


def multiplier(values: Sequence[float]) -> bytes:
    """As m 2^e with 16, or 32, digits where that is exact; else as float64."""
    bitmap = sum(1 << i for i, v in enumerate(values) if v).to_bytes(-(-len(values) // 8), "little")
    used = [Fraction(v) for v in values if v]
    e = -1074
    e = e if used else 0
    while used and all((v / Fraction(2) ** (e + 1)).denominator == 1 for v in used):
        e += 1
    for width, code in ((2, "h"), (4, "i")):
        whole = [v / Fraction(2) ** e for v in used]
        if all(-(1 << 8 * width - 1) <= v < 1 << 8 * width - 1 for v in whole) and e <= 960:
            packed = struct.pack(f"<{len(whole)}{code}", *map(int, whole))
            return struct.pack("<Bh", width, e) + bitmap + packed
    return b"\x08" + bitmap + floats([float(v) for v in used])


def lemma(neuron: int, upper: bool, value: float, values: Sequence[float]) -> bytes:
    return struct.pack("<IBd", neuron, upper, value) + multiplier(values)


def inner(neuron: int, upper: bool, value: float, values: Sequence[float]) -> bytes:
    """A lemma inside a tree."""
    return b"\3" + lemma(neuron, upper, value, values)


def leaf(values: Sequence[float]) -> bytes:
    return b"\0" + multiplier(values)


def nothing(values: Sequence[float]) -> bytes:
    """An infeasible leaf."""
    return b"\1" + multiplier(values)


def split(neuron: int, kink: int) -> bytes:
    return struct.pack("<BIB", 2, neuron, kink)


# The dual, as naively as it is written.


@dataclass
class Problem:
    """A network over a box of inputs, in fractions."""

    W: Matrix
    U: Matrix
    b: Vector
    C: Matrix
    c: Vector
    activation: str
    box: Ranges

    @classmethod
    def of(cls, arrays: Iterable[Any], activation: str, box: Ranges) -> Problem:
        """From W, U, b, C, c, in floats or fractions."""
        W, U, b, C, c = (to_fractions(array) for array in arrays)
        return cls(W, U, b, C, c, activation, box)

    def psi(self, i: int, r: Fraction) -> Fraction:
        """The z with z = phi(W_ii z + r)."""
        d = self.W[i][i]
        for piece in pieces(self.activation):
            z = (piece.slope * r + piece.offset) / (1 - piece.slope * d)
            if piece.holds(d * z + r):
                return z
        raise AssertionError("no piece holds")

    def kinks(self, i: int) -> list[Fraction]:
        ends = [Fraction(p.left) for p in pieces(self.activation)[1:]]
        return [t - self.W[i][i] * evaluate(self.activation, t) for t in ends]

    def ranges(self, Z: Ranges) -> Ranges:
        """Of r_i over states and inputs."""
        found = []
        for i, row in enumerate(self.W):
            off = [w if j != i else Fraction(0) for j, w in enumerate(row)]
            least = self.b[i] + _least(off, Z) + _least(self.U[i], self.box)
            most = (
                self.b[i] - _least([-w for w in off], Z) - _least([-u for u in self.U[i]], self.box)
            )
            found.append((least, most))
        return found

    def g(self, a: Vector, d: Vector, c: Fraction, bounds: Ranges, lam: Vector) -> Fraction:
        """lambda^T b + sum_i min (p_i psi_i(r) - lambda_i r) + min (U^T lambda + d)^T x + c."""
        n = len(self.b)
        value = dot(lam, self.b) + c
        for i, (low, high) in enumerate(bounds):
            p = a[i] + sum((self.W[j][i] * lam[j] for j in range(n) if j != i), Fraction(0))
            points = [low, high, *(k for k in self.kinks(i) if low <= k <= high)]
            value += min(p * self.psi(i, r) - lam[i] * r for r in points)
        q = [
            d[k] + sum((self.U[i][k] * lam[i] for i in range(n)), Fraction(0))
            for k in range(len(d))
        ]
        return value + _least(q, self.box)

    def of_neuron(self, i: int, upper: bool, bounds: Ranges, lam: Vector) -> Fraction:
        """A bound on r_i: from below, or from above if `upper`."""
        sign = -1 if upper else 1
        off = [sign * w if j != i else Fraction(0) for j, w in enumerate(self.W[i])]
        found = self.g(off, [sign * u for u in self.U[i]], sign * self.b[i], bounds, lam)
        return sign * found

    def of_margin(self, y: int, j: int, bounds: Ranges, lam: Vector) -> Fraction:
        row = [v - w for v, w in zip(self.C[y], self.C[j], strict=True)]
        return self.g(row, [Fraction(0)] * len(self.box), self.c[y] - self.c[j], bounds, lam)

    def of_nothing(self, bounds: Ranges, lam: Vector) -> Fraction:
        zero = Fraction(0)
        return self.g([zero] * len(self.b), [zero] * len(self.box), zero, bounds, lam)


def _least(row: Vector, box: Ranges) -> Fraction:
    return sum((min(w * lo, w * hi) for w, (lo, hi) in zip(row, box, strict=True)), Fraction(0))


def root_above(value: Fraction) -> Fraction:
    """At least the root, by less than 2^-300 (relative, of sizable numbers)."""
    top = value.numerator * value.denominator
    return Fraction(math.isqrt(top << 1200) + (top > 0), value.denominator << 600)


def ball_box(
    problem: Problem, t: Vector, Lambda: Vector, m: Fraction, norm: Fraction, wider: Fraction
) -> Ranges:
    """The box about phi(t) of a ball whose radius is taken `wider` times."""
    middle = [Fraction(float((lo + hi) / 2)) for lo, hi in problem.box]
    c = [evaluate(problem.activation, v) for v in t]
    rows = zip(times(problem.W, c), times(problem.U, middle), problem.b, t, strict=True)
    v = [wz + ux + bias - s for wz, ux, bias, s in rows]
    h = [max(hi - x, x - lo) for x, (lo, hi) in zip(middle, problem.box, strict=True)]
    near = root_above(dot(Lambda, [e * e for e in v]))
    R = wider * (near + norm * root_above(dot(h, h))) / m
    low, high = _range_of(problem.activation)
    return [
        (max(low, e - w), min(high, e + w))
        for e, w in zip(c, (root_above(R * R / weight) for weight in Lambda), strict=True)
    ]


def _range_of(activation: str) -> tuple[Any, Any]:
    if activation == "hard_tanh":
        return Fraction(-1), Fraction(1)
    return (Fraction(0) if activation == "relu" else -math.inf), math.inf


# Judging.


class MalformedError(Exception):
    """Bytes that are not a record."""


@dataclass
class Reader:
    """Reads a body; `numbers` notes where each float64 begins."""

    body: bytes
    n: int
    r: int
    q: int
    at: int = 0
    numbers: list[int] = field(default_factory=list)

    def unpack(self, layout: str) -> tuple[Any, ...]:
        size = struct.calcsize(layout)
        if self.at + size > len(self.body):
            raise MalformedError
        found = struct.unpack_from(layout, self.body, self.at)
        self.at += size
        return found

    def floats(self, count: int) -> list[float]:
        self.numbers += range(self.at, self.at + 8 * count, 8)
        return list(self.unpack(f"<{count}d"))

    def start(self) -> tuple[int, list[float]]:
        (tag,) = self.unpack("<B")
        if tag not in (0, 1):
            raise MalformedError
        return tag, self.floats(self.n if tag else 2 * self.n)

    def multiplier(self) -> Vector:
        (width,) = self.unpack("<B")
        if width not in (2, 4, 8):
            raise MalformedError
        e = self.unpack("<h")[0] if width < 8 else 0
        bits = self.unpack(f"<{-(-self.n // 8)}B")
        chosen = [i for i in range(8 * len(bits)) if bits[i // 8] & 1 << i % 8]
        if not -1074 <= e <= 960 or (chosen and chosen[-1] >= self.n):
            raise MalformedError
        values = self.unpack(f"<{len(chosen)}{ {2: 'h', 4: 'i', 8: 'd'}[width] }")
        if not all(v and math.isfinite(v) for v in values):
            raise MalformedError
        lam = [Fraction(0)] * self.n
        for i, v in zip(chosen, values, strict=True):
            lam[i] = Fraction(v) * Fraction(2) ** e
        return lam

    def lemma(self) -> tuple[int, bool, Fraction, Vector]:
        neuron, upper = self.unpack("<IB")
        (value,) = self.floats(1)
        if neuron >= self.n or upper > 1 or not math.isfinite(value):
            raise MalformedError
        return neuron, upper == 1, Fraction(value), self.multiplier()


class Judge:
    """Decides whether a record is right, about one folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.arrays = [to_fractions(folder.arrays[name]) for name in "WUbCc"]
        found = folder.monotone
        self.monotone = (
            None
            if found is None
            else (
                [Fraction(float.fromhex(v)) for v in found["Lambda"]],
                Fraction(float.fromhex(found["m"])),
                Fraction(float.fromhex(found["norm"])),
            )
        )

    def folder_holds(self) -> bool:
        """What all records share."""
        W, U, *_ = self.arrays
        if self.folder.eta is not None and not contracts(W, to_fractions(self.folder.eta)):
            return False
        if self.monotone is None:
            return self.folder.eta is not None
        Lambda, m, norm = self.monotone
        gap = [
            [
                norm**2 * Lambda[i] * (i == j) - Lambda[i] * Lambda[j] * dot(U[i], U[j])
                for j in range(len(U))
            ]
            for i in range(len(U))
        ]
        return m > 0 and norm >= 0 and is_monotone(W, Lambda, m) and is_semidefinite(gap)

    def holds(self, body: bytes) -> bool | None:
        """Whether the record holds; None where it turns on how the ball is rounded."""
        try:
            told = {self._holds(body, Fraction(1)), self._holds(body, 1 + Fraction(1, 1 << 79))}
        except MalformedError:
            return False
        return told.pop() if len(told) == 1 else None

    def _holds(self, body: bytes, wider: Fraction) -> bool:
        n, r, q = self.folder.sizes
        reader = Reader(body, n, r, q)
        kind, form, row, label = reader.unpack("<BBII")
        if kind not in (1, 2, 3) or form not in (0, 1):
            raise MalformedError
        ends = reader.floats(1) if form == 0 else reader.floats(2 * r)
        x, rival = None, -1
        if kind == 3:
            (rival,) = reader.unpack("<I")
            x = reader.floats(r)
        start = (0, reader.floats(2 * n)) if kind == 1 else reader.start()
        box = self._box(form, ends, row)
        if label >= q or box is None or not all(map(math.isfinite, (*start[1], *(x or ())))):
            return False
        if x is not None:
            if not all(lo <= v <= hi for v, (lo, hi) in zip(x, box, strict=True)):
                return False
            box = [(Fraction(v), Fraction(v)) for v in x]
        problem = Problem.of(self.arrays, self.folder.activation, box)
        Z = self._states(problem, start, wider)
        if Z is None:
            return False
        if kind == 2:
            return self._tree(problem, reader, label, Z)
        if kind == 3:
            done = reader.at == len(body) and rival < q and rival != label
            return done and -self._margin(problem, rival, label, Z) < 0
        margins = reader.floats(q - 1)
        others = [j for j in range(q) if j != label]
        return reader.at == len(body) and all(
            math.isfinite(v) and 0 < v <= self._margin(problem, label, j, Z)
            for v, j in zip(margins, others, strict=True)
        )

    @staticmethod
    def _margin(problem: Problem, y: int, j: int, Z: Ranges) -> Fraction:
        row = [v - w for v, w in zip(problem.C[y], problem.C[j], strict=True)]
        return _least(row, Z) + problem.c[y] - problem.c[j]

    def _box(self, form: int, ends: list[float], row: int) -> Ranges | None:
        if row >= len(self.folder.inputs) or not all(map(math.isfinite, ends)):
            return None
        x, domain = to_fractions(self.folder.inputs[row]), self.folder.domain
        if form == 1:
            low, high = ends[: len(x)], ends[len(x) :]
            box = [(Fraction(a), Fraction(b)) for a, b in zip(low, high, strict=True)]
            return box if all(a <= v <= b for v, (a, b) in zip(x, box, strict=True)) else None
        eps = Fraction(ends[0])
        low, high = ([-math.inf], [math.inf]) if domain is None else domain
        pairs = [(low[k % len(low)], high[k % len(high)]) for k in range(len(x))]
        if eps < 0 or not all(a <= v <= b for v, (a, b) in zip(x, pairs, strict=True)):
            return None
        return [
            (Fraction(max(v - eps, a)), Fraction(min(v + eps, b)))
            for v, (a, b) in zip(x, pairs, strict=True)
        ]

    def _states(
        self, problem: Problem, start: tuple[int, list[float]], wider: Fraction
    ) -> Ranges | None:
        tag, values = start
        numbers = to_fractions(values)
        if tag == 1:
            return self.monotone and ball_box(problem, numbers, *self.monotone, wider)
        if self.folder.eta is None:
            return None
        n = len(numbers) // 2
        Z = list(zip(numbers[:n], numbers[n:], strict=True))
        if any(lo > hi for lo, hi in Z):
            return None
        for i, (least, most) in enumerate(problem.ranges(Z)):
            d, (lo, hi) = problem.W[i][i], Z[i]
            if evaluate(problem.activation, d * lo + least) < lo:
                return None
            if evaluate(problem.activation, d * hi + most) > hi:
                return None
        return Z

    def _tree(self, problem: Problem, reader: Reader, label: int, Z: Ranges) -> bool:
        """Recursion on copies of the bounds. Everything is read, right or wrong."""
        bounds = problem.ranges(Z)
        (count,) = reader.unpack("<I")
        good = True
        for _ in range(count):
            good &= self._lemma(problem, reader.lemma(), bounds)
        margins = reader.floats(len(problem.c) - 1)
        others = [j for j in range(len(problem.c)) if j != label]
        for claimed, j in zip(margins, others, strict=True):
            good &= math.isfinite(claimed) and claimed > 0
            good &= self._node(problem, reader, (label, j, claimed), list(bounds))
        return good and reader.at == len(reader.body)

    def _node(
        self, problem: Problem, reader: Reader, form: tuple[int, int, float], bounds: Ranges
    ) -> bool:
        good = True
        while True:
            (tag,) = reader.unpack("<B")
            if tag == 3:
                good &= self._lemma(problem, reader.lemma(), bounds)
            elif tag in (0, 1):
                lam = reader.multiplier()
                y, j, claimed = form
                if tag:
                    return good and problem.of_nothing(bounds, lam) > 0
                margin = problem.of_margin(y, j, bounds, lam)
                return good and math.isfinite(claimed) and margin >= claimed
            elif tag == 2:
                return self._split(problem, reader, form, bounds) and good
            else:
                raise MalformedError

    def _split(
        self, problem: Problem, reader: Reader, form: tuple[int, int, float], bounds: Ranges
    ) -> bool:
        i, kink = reader.unpack("<IB")
        if i >= len(bounds):
            raise MalformedError
        kinks, (low, high) = problem.kinks(i), bounds[i]
        good = kink < len(kinks) and low < kinks[kink] < high
        k = kinks[kink] if good else low
        lower, upper = list(bounds), list(bounds)
        lower[i], upper[i] = (low, k), (k, high)
        good &= self._node(problem, reader, form, lower)
        return self._node(problem, reader, form, upper) and good

    @staticmethod
    def _lemma(problem: Problem, made: tuple[int, bool, Fraction, Vector], bounds: Ranges) -> bool:
        i, upper, value, lam = made
        shown = problem.of_neuron(i, upper, bounds, lam)
        low, high = bounds[i]
        bounds[i] = (low, min(high, value)) if upper else (max(low, value), high)
        crossed = bounds[i][0] > bounds[i][1]
        if crossed:
            bounds[i] = low, high  # what follows is read, and no longer matters
        return not crossed and (shown <= value if upper else shown >= value)
