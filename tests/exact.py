"""Exact rational arithmetic: it decides the truth on tiny networks, for tests.

Standard library only; nothing under test is imported. Arrays (NumPy, torch, nested lists) are taken
exactly, as the rationals their floats are. Piecewise-linear activations are solved exactly, pattern
by pattern; `exact_functions.py` has the smooth ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, product
from math import inf
from typing import Any

Vector = list[Fraction]
Matrix = list[Vector]
Enclosure = tuple[Fraction, Fraction]


def to_fractions(array: Any) -> Any:
    """The same nesting with every entry an exact Fraction; infinities and NaN raise."""
    if hasattr(array, "tolist"):
        array = array.tolist()
    if isinstance(array, Sequence):
        return [to_fractions(entry) for entry in array]
    return Fraction(array)


def dot(x: Vector, y: Vector) -> Fraction:
    return sum((a * b for a, b in zip(x, y, strict=True)), Fraction(0))


def times(A: Matrix, x: Vector) -> Vector:
    return [dot(row, x) for row in A]


def solve(A: Matrix, B: Matrix) -> Matrix | None:
    """The X with A X = B by Gauss-Jordan elimination; None if A is singular."""
    n = len(A)
    rows = [list(a) + list(b) for a, b in zip(A, B, strict=True)]
    for k in range(n):
        pivot = next((i for i in range(k, n) if rows[i][k]), None)
        if pivot is None:
            return None
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [entry / rows[k][k] for entry in rows[k]]
        for i in range(n):
            if i != k and rows[i][k]:
                factor = rows[i][k]
                rows[i] = [a - factor * p for a, p in zip(rows[i], rows[k], strict=True)]
    return [row[n:] for row in rows]


# Contraction: M is the Metzler majorant, M_ii = W_ii and M_ij = |W_ij|.


def majorant(W: Any) -> Matrix:
    return [
        [entry if i == j else abs(entry) for j, entry in enumerate(row)]
        for i, row in enumerate(to_fractions(W))
    ]


def measure(W: Any, eta: Any) -> Fraction:
    """mu_{inf,[eta]^-1}(W) = max_i (M eta)_i / eta_i."""
    eta = to_fractions(eta)
    return max(m / e for m, e in zip(times(majorant(W), eta), eta, strict=True))


def contracts(W: Any, eta: Any) -> bool:
    """Whether this very eta proves mu < 1: eta > 0 and (M eta)_i < eta_i in every row."""
    return all(e > 0 for e in to_fractions(eta)) and measure(W, eta) < 1


def best_eta(W: Any) -> Vector | None:
    """(I - M)^-1 1 where it exists and is positive, otherwise None."""
    M = majorant(W)
    n = len(M)
    gap = [[Fraction(i == j) - M[i][j] for j in range(n)] for i in range(n)]
    solved = solve(gap, [[Fraction(1)]] * n)
    if solved is None or any(row[0] <= 0 for row in solved):
        return None
    return [row[0] for row in solved]


def exact_abscissa_below_one(W: Any) -> bool:
    """Whether the spectral abscissa of M is < 1.

    A positive eta with M eta = eta - 1 < eta bounds the abscissa below 1. Conversely an abscissa
    below 1 makes I - M a nonsingular M-matrix, whose inverse is non-negative without a zero row.
    """
    return best_eta(W) is not None


# Monotonicity: sym(Lambda (I - W)) >= m Lambda.


def is_semidefinite(A: Matrix) -> bool:
    """Whether the symmetric A is >= 0, by elimination: a zero pivot needs a zero row."""
    rows = [list(row) for row in A]
    for k in range(len(rows)):
        if rows[k][k] < 0 or (rows[k][k] == 0 and any(rows[k][k:])):
            return False
        for i in range(k + 1, len(rows)):
            if rows[i][k]:
                factor = rows[i][k] / rows[k][k]
                rows[i] = [a - factor * p for a, p in zip(rows[i], rows[k], strict=True)]
    return True


def is_monotone(W: Any, Lambda: Any, m: Any) -> bool:
    """Whether sym(Lambda (I - W)) >= m Lambda, Lambda > 0 diagonal."""
    W, Lambda, m = to_fractions(W), to_fractions(Lambda), Fraction(m)
    n = len(W)
    shifted = [
        [
            (1 - m) * Lambda[i] * (i == j) - (Lambda[i] * W[i][j] + Lambda[j] * W[j][i]) / 2
            for j in range(n)
        ]
        for i in range(n)
    ]
    return all(weight > 0 for weight in Lambda) and is_semidefinite(shifted)


# Piecewise-linear activations.


@dataclass(frozen=True)
class Piece:
    """phi(t) = slope t + offset on left <= t <= right."""

    left: Fraction | float
    right: Fraction | float
    slope: Fraction
    offset: Fraction

    def holds(self, t: Fraction) -> bool:
        return self.left <= t <= self.right


def _split(activation: str) -> tuple[str, Fraction | None]:
    name, _, argument = activation.rstrip(")").partition("(")
    return name.replace("_", ""), Fraction(float(argument)) if argument else None


def pieces(activation: str) -> tuple[Piece, ...]:
    """The linear pieces of "relu", "leaky_relu(slope)", "hard_tanh", "identity", left to right."""
    zero, one = Fraction(0), Fraction(1)
    name, slope = _split(activation)
    if name in ("relu", "leakyrelu"):
        left = zero if name == "relu" else slope if slope is not None else Fraction(0.01)
        return Piece(-inf, zero, left, zero), Piece(zero, inf, one, zero)
    if name == "hardtanh":
        return (
            Piece(-inf, -one, zero, -one),
            Piece(-one, one, one, zero),
            Piece(one, inf, zero, one),
        )
    if name == "identity":
        return (Piece(-inf, inf, one, zero),)
    raise ValueError(f"{activation} is not piecewise linear")


def evaluate(activation: str, t: Fraction) -> Fraction:
    piece = next(piece for piece in pieces(activation) if piece.holds(t))
    return piece.slope * t + piece.offset


def preactivation(W: Matrix, U: Matrix, b: Vector, z: Vector, x: Vector) -> Vector:
    return [wz + ux + offset for wz, ux, offset in zip(times(W, z), times(U, x), b, strict=True)]


def _affine(W: Matrix, U: Matrix, b: Vector, pattern: Sequence[Piece]) -> Matrix | None:
    """[P p] with z = P x + p wherever unit i sits on pattern[i]: (I - S W) z = S (U x + b) + a."""
    n = len(W)
    left = [
        [Fraction(i == j) - piece.slope * W[i][j] for j in range(n)]
        for i, piece in enumerate(pattern)
    ]
    right = [
        [piece.slope * u for u in U[i]] + [piece.slope * b[i] + piece.offset]
        for i, piece in enumerate(pattern)
    ]
    return solve(left, right)


def fixed_point(W: Any, U: Any, b: Any, x: Any, activation: str = "relu") -> Vector:
    """The z = phi(W z + U x + b) of a well-posed network with a piecewise-linear activation.

    Tries the pattern of the last guess first (it settles in a few steps), then every pattern;
    a returned z is a fixed point exactly. ValueError if there is none.
    """
    W, U, b, x = (to_fractions(array) for array in (W, U, b, x))
    kinds = pieces(activation)
    bias = preactivation(W, U, b, [Fraction(0)] * len(W), x)
    no_input: Matrix = [[] for _ in W]

    def attempt(pattern: Sequence[Piece]) -> tuple[Vector, Vector, bool] | None:
        affine = _affine(W, no_input, bias, pattern)
        if affine is None:
            return None
        z = [row[0] for row in affine]
        t = preactivation(W, no_input, bias, z, [])
        return z, t, all(piece.holds(entry) for piece, entry in zip(pattern, t, strict=True))

    t = bias
    for _ in range(4 * len(W)):
        found = attempt([next(kind for kind in kinds if kind.holds(entry)) for entry in t])
        if found is None:
            break
        z, t, holds = found
        if holds:
            return z
    for pattern in product(kinds, repeat=len(W)):
        found = attempt(pattern)
        if found is not None and found[2]:
            return found[0]
    raise ValueError("no activation pattern has a fixed point: the network is not well-posed")


@dataclass(frozen=True)
class Vertex:
    """A vertex of a linear region of x -> z*(x), met with the box."""

    x: Vector
    z: Vector


@dataclass(frozen=True)
class Region:
    """Where z* is one affine map, z = J x + j, met with a box: the hull of its vertices."""

    jacobian: Matrix  # (n, r)
    vertices: list[Vertex]

    def solid(self) -> bool:
        """Whether it has an inside."""
        if not self.vertices:
            return False
        first, *rest = [vertex.x for vertex in self.vertices]
        edges = [[a - b for a, b in zip(x, first, strict=True)] for x in rest]
        return any(
            solve(list(chosen), [[] for _ in chosen]) is not None
            for chosen in combinations(edges, len(first))
        )


def regions(W: Any, U: Any, b: Any, lo: Any, hi: Any, activation: str = "relu") -> list[Region]:
    """Every linear region of z* over the box lo <= x <= hi, flat and empty ones too.

    On a region z* is affine and the region is a bounded polytope, so any linear form in (x, z)
    has its extremes over the whole box among these points. A vertex makes r independent
    constraints tight; all choices of r are tried, hence only for tiny n and r.
    """
    W, U, b, lo, hi = (to_fractions(array) for array in (W, U, b, lo, hi))
    n, r = len(W), len(lo)
    unit = [[Fraction(i == j) for j in range(r)] for i in range(r)]
    box = [(unit[i], lo[i]) for i in range(r)] + [
        ([-entry for entry in unit[i]], -hi[i]) for i in range(r)
    ]
    found: list[Region] = []
    for pattern in product(pieces(activation), repeat=n):
        affine = _affine(W, U, b, pattern)
        if affine is None:
            raise ValueError("I - S W is singular: the network is not well-posed")
        # normal . x >= level, the region of this pattern
        region = list(box)
        for i, piece in enumerate(pattern):
            slope = [U[i][k] + dot(W[i], [row[k] for row in affine]) for k in range(r)]
            offset = b[i] + dot(W[i], [row[r] for row in affine])
            if piece.left != -inf:
                region.append((slope, Fraction(piece.left) - offset))
            if piece.right != inf:
                region.append(([-s for s in slope], offset - Fraction(piece.right)))
        corners: list[Vertex] = []
        for tight in combinations(region, r):
            solved = solve([normal for normal, _ in tight], [[level] for _, level in tight])
            if solved is None:
                continue
            x = [row[0] for row in solved]
            if all(dot(normal, x) >= level for normal, level in region):
                corners.append(Vertex(x, [dot(row[:r], x) + row[r] for row in affine]))
        found.append(Region([row[:r] for row in affine], corners))
    return found


def vertices(W: Any, U: Any, b: Any, lo: Any, hi: Any, activation: str = "relu") -> list[Vertex]:
    """The vertices of all linear regions of z* over the box."""
    return [v for region in regions(W, U, b, lo, hi, activation) for v in region.vertices]


def lipschitz_constants(
    W: Any, U: Any, b: Any, C: Any, lo: Any, hi: Any, activation: str = "relu"
) -> Vector:
    """The exact sup-norm Lipschitz constant of each row of C z*(x) over the box.

    The greatest 1-norm of its gradients over the regions that have an inside.
    """
    found = [Fraction(0) for _ in C]
    for region in regions(W, U, b, lo, hi, activation):
        if region.solid():
            columns = list(zip(*region.jacobian, strict=True))
            for i, row in enumerate(to_fractions(C)):
                gradient = [dot(row, list(column)) for column in columns]
                found[i] = max(found[i], sum(map(abs, gradient), Fraction(0)))
    return found


def exact_range(
    W: Any, U: Any, b: Any, C: Any, c: Any, lo: Any, hi: Any, activation: str = "relu"
) -> list[Enclosure]:
    """The exact (min, max) over the box of each output coordinate y = C z*(x) + c.

    One row of C is one linear form: rows of differences give margins, the identity the states.
    """
    C, c = to_fractions(C), to_fractions(c)
    corners = vertices(W, U, b, lo, hi, activation)
    values = [[dot(row, v.z) + offset for v in corners] for row, offset in zip(C, c, strict=True)]
    return [(min(each), max(each)) for each in values]


# The embedded network (6) is a network of twice the size, over the input (xlo, xhi).


def embed(W: Any, U: Any, b: Any) -> tuple[Matrix, Matrix, Vector]:
    """W, U, b of the embedded network: lo = N^E(lo, hi, xlo, xhi), hi = N^E(hi, lo, xhi, xlo)."""
    W, U, b = (to_fractions(array) for array in (W, U, b))

    def doubled(A: Matrix, keep: Callable[[int, int, Fraction], bool]) -> Matrix:
        zero = Fraction(0)
        kept = [
            [a if keep(i, j, a) else zero for j, a in enumerate(row)] for i, row in enumerate(A)
        ]
        rest = [[a - k for a, k in zip(*rows, strict=True)] for rows in zip(A, kept, strict=True)]
        return [k + o for k, o in zip(kept, rest, strict=True)] + [
            o + k for k, o in zip(kept, rest, strict=True)
        ]

    metzler = doubled(W, lambda i, j, a: i == j or a >= 0)
    return metzler, doubled(U, lambda _i, _j, a: a >= 0), b + b


def embedded_fixed_point(
    W: Any, U: Any, b: Any, lo: Any, hi: Any, activation: str = "relu"
) -> tuple[Vector, Vector]:
    """The exact state box (zlo, zhi) of (6) for the input box [lo, hi]."""
    stacked = list(to_fractions(lo)) + list(to_fractions(hi))
    z = fixed_point(*embed(W, U, b), stacked, activation)
    return z[: len(z) // 2], z[len(z) // 2 :]


def is_post_fixed_point(
    W: Any, U: Any, b: Any, z: tuple[Any, Any], x: tuple[Any, Any], activation: str = "relu"
) -> bool:
    """The exact test of fact 8: N^E(lo, hi, xlo, xhi) >= lo and N^E(hi, lo, xhi, xlo) <= hi."""
    zlo, zhi, xlo, xhi = (to_fractions(end) for end in (*z, *x))
    t = preactivation(*embed(W, U, b), list(zlo) + list(zhi), list(xlo) + list(xhi))
    image = [evaluate(activation, entry) for entry in t]
    lower, upper = image[: len(zlo)], image[len(zlo) :]
    return all(a >= b for a, b in zip(lower, zlo, strict=True)) and all(
        a <= b for a, b in zip(upper, zhi, strict=True)
    )
