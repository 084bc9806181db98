"""Slow and plain truths about small piecewise-linear networks, for the dual methods.

Exact, in rational arithmetic: the least value of a linear form over a box of inputs (every
activation pattern, and a linear programme in x on its region), and the dual bound g(lambda). By
HiGHS, in floating point: the linear relaxation over [l, u] and the mixed-integer programme.
Nothing under test is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import inf
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog, milp

from exact import Enclosure, Matrix, Piece, Vector, dot, pieces, to_fractions
from networks import Array, Network

Halfspace = tuple[Vector, Fraction]  # normal . x >= level
ZERO = Fraction(0)


class Form(NamedTuple):
    """`a^T z + d^T x + constant`."""

    a: Vector
    d: Vector
    constant: Fraction = ZERO

    def negated(self) -> Form:
        return Form([-v for v in self.a], [-v for v in self.d], -self.constant)

    def at(self, z: Vector, x: Vector) -> Fraction:
        return dot(self.a, z) + dot(self.d, x) + self.constant


class Least(NamedTuple):
    """The least value of a form over a box of inputs, and where it is taken."""

    value: Fraction
    x: Vector
    z: Vector


@dataclass(frozen=True)
class Problem:
    """`z_i = psi_i(r_i)`, `r = W_off z + U x + b`, over one box of inputs; everything exact."""

    W: Matrix
    U: Matrix
    b: Vector
    C: Matrix
    c: Vector
    activation: str
    lo: Vector
    hi: Vector

    @classmethod
    def of(cls, net: Network, lo: Any, hi: Any) -> Problem:
        W, U, b, C, c = (to_fractions(array) for array in net.arrays)
        return cls(W, U, b, C, c, net.activation, to_fractions(lo), to_fractions(hi))

    @property
    def states(self) -> int:
        return len(self.W)

    def margin(self, label: int, rival: int) -> Form:
        """`y_label - y_rival`."""
        a = [p - q for p, q in zip(self.C[label], self.C[rival], strict=True)]
        return Form(a, [ZERO] * len(self.lo), self.c[label] - self.c[rival])

    def preactivation(self, i: int) -> Form:
        """`r_i`, the off-diagonal one."""
        return Form([ZERO if j == i else w for j, w in enumerate(self.W[i])], self.U[i], self.b[i])

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces of phi, left to right."""
        return pieces(self.activation)

    def breakpoints(self, i: int) -> Vector:
        """Of psi_i: phi's kink at t is one at `r = t - W_ii phi(t)`."""
        kinks = [(p, Fraction(p.right)) for p in self.pieces[:-1]]
        return [t - self.W[i][i] * (p.slope * t + p.offset) for p, t in kinks]

    def psi(self, i: int, r: Fraction) -> Fraction:
        """The z with `z = phi(W_ii z + r)`."""
        piece = self.pieces[sum(r > kink for kink in self.breakpoints(i))]
        return (piece.slope * r + piece.offset) / (1 - piece.slope * self.W[i][i])

    def knots(self, i: int, ends: Enclosure) -> Vector:
        """l_i, the breakpoints of psi_i inside, u_i: between them psi_i is linear."""
        l, u = ends  # noqa: E741
        return [l, *(k for k in self.breakpoints(i) if l < k < u), u]


# The exact least value: patterns, and Seidel's linear programme in few variables.


def minimise(
    cost: Vector, lo: Vector, hi: Vector, halfspaces: Sequence[Halfspace]
) -> Vector | None:
    """The x in [lo, hi] and all half-spaces of least cost; None if there is none.

    Seidel: where the best x so far violates the next half-space, the new best lies on its boundary,
    which is a programme in one variable fewer over the half-spaces before it.
    """
    x = [low if c > 0 else high for c, low, high in zip(cost, lo, hi, strict=True)]
    for count, (normal, level) in enumerate(halfspaces):
        if dot(normal, x) >= level:
            continue
        k = max(range(len(x)), key=lambda i: abs(normal[i]), default=0)
        if not any(normal):
            return None
        # On the boundary x_k = shift + slope . (the others).
        shift, slope = level / normal[k], [-v / normal[k] for v in _without(normal, k)]
        before = [*halfspaces[:count], *_sides(k, lo[k], hi[k], len(x))]
        reduced = [
            (
                [v + row[k] * s for v, s in zip(_without(row, k), slope, strict=True)],
                bound - row[k] * shift,
            )
            for row, bound in before
        ]
        price = [v + cost[k] * s for v, s in zip(_without(cost, k), slope, strict=True)]
        rest = minimise(price, _without(lo, k), _without(hi, k), reduced)
        if rest is None:
            return None
        x = [*rest[:k], shift + dot(slope, rest), *rest[k:]]
    return x


def _without(v: Vector, k: int) -> Vector:
    return [*v[:k], *v[k + 1 :]]


def _sides(k: int, low: Fraction, high: Fraction, length: int) -> list[Halfspace]:
    unit = [Fraction(i == k) for i in range(length)]
    return [(unit, low), ([-v for v in unit], -high)]


@dataclass(frozen=True)
class Cell:
    """A region of one activation pattern, `z = J x + j` where all half-spaces hold in the box."""

    jacobian: Matrix  # (n, r)
    offset: Vector  # (n,)
    halfspaces: list[Halfspace]

    def least(self, problem: Problem, form: Form) -> Least | None:
        columns = list(zip(*self.jacobian, strict=True))
        cost = [v + dot(form.a, list(column)) for v, column in zip(form.d, columns, strict=True)]
        x = minimise(cost, problem.lo, problem.hi, self.halfspaces)
        if x is None:
            return None
        z = [dot(row, x) + end for row, end in zip(self.jacobian, self.offset, strict=True)]
        return Least(form.at(z, x), x, z)


def cells(problem: Problem) -> list[Cell]:
    """The regions of every activation pattern that meets the box; together they cover it.

    Needs a network whose every `1 - W_ii s` stays positive under elimination, which contracting and
    monotone ones promise: their fixed points are unique, so each x lies in the cell of its own.
    """
    rows = [
        [*w, *u, b] for w, u, b in zip(problem.W, problem.U, problem.b, strict=True)
    ]  # t_i in terms of the states not yet eliminated, x, and 1
    found = list(_descend(problem, rows, []))
    assert found, "no pattern meets the box: the network is not well-posed"
    return found


def _descend(problem: Problem, rows: Matrix, chosen: list[Piece]) -> Iterator[Cell]:
    """The cells whose first patterns are chosen; their states are gone from the rows."""
    n, k = problem.states, len(chosen)
    if not _possible(problem, rows, chosen):
        return
    if k == n:
        affine = [[p.slope * v for v in row[n:]] for p, row in zip(chosen, rows, strict=True)]
        offset = [row[-1] + p.offset for row, p in zip(affine, chosen, strict=True)]
        cell = Cell([row[:-1] for row in affine], offset, _region(n, rows, chosen))
        if minimise([ZERO] * len(problem.lo), problem.lo, problem.hi, cell.halfspaces) is not None:
            yield cell
        return
    for piece in problem.pieces:
        yield from _descend(problem, _eliminated(rows, k, piece), [*chosen, piece])


def _eliminated(rows: Matrix, k: int, piece: Piece) -> Matrix:
    """The rows with `z_k = s t_k + o` put in."""
    own = rows[k][k]
    pivot = 1 - piece.slope * own
    assert pivot > 0, "the network is not well-posed"
    t = [ZERO if j == k else v / pivot for j, v in enumerate(rows[k])]
    t[-1] += own * piece.offset / pivot
    state = [piece.slope * v for v in t]
    state[-1] += piece.offset
    return [
        t
        if i == k
        else row
        if not row[k]
        else [
            row[k] * s + (ZERO if j == k else v)
            for j, (v, s) in enumerate(zip(row, state, strict=True))
        ]
        for i, row in enumerate(rows)
    ]


def _possible(problem: Problem, rows: Matrix, chosen: list[Piece]) -> bool:
    """Whether each chosen pattern meets the box by itself, as far as x alone decides."""
    n = problem.states
    for row, piece in zip(rows, chosen, strict=False):
        if not any(row[:n]):
            low, high = _range(row[n:-1], row[-1], problem.lo, problem.hi)
            if high < piece.left or low > piece.right:
                return False
    return True


def _range(row: Vector, offset: Fraction, lo: Vector, hi: Vector) -> Enclosure:
    """Of `row . x + offset` over [lo, hi]."""
    ends = [sorted((v * p, v * q)) for v, p, q in zip(row, lo, hi, strict=True)]
    return offset + sum(e[0] for e in ends), offset + sum(e[1] for e in ends)


def _region(n: int, rows: Matrix, chosen: list[Piece]) -> list[Halfspace]:
    found: list[Halfspace] = []
    for row, piece in zip(rows, chosen, strict=True):
        slope, offset = row[n:-1], row[-1]
        if piece.left != -inf:
            found.append((slope, Fraction(piece.left) - offset))
        if piece.right != inf:
            found.append(([-v for v in slope], offset - Fraction(piece.right)))
    return found


def least(problem: Problem, form: Form, known: list[Cell] | None = None) -> Least:
    """The exact least value of the form over the box."""
    every = (cell.least(problem, form) for cell in known or cells(problem))
    return min((found for found in every if found is not None), key=lambda found: found.value)


def exact_bounds(problem: Problem, known: list[Cell]) -> list[Enclosure]:
    """The exact range of every r_i."""
    forms = [problem.preactivation(i) for i in range(problem.states)]
    return [
        (least(problem, form, known).value, -least(problem, form.negated(), known).value)
        for form in forms
    ]


def image_bounds(problem: Problem, states: Sequence[Enclosure]) -> list[Enclosure]:
    """The exact range of each r_i over a box of states and the box of inputs."""
    lo = [*(low for low, _ in states), *problem.lo]
    hi = [*(high for _, high in states), *problem.hi]
    forms = [problem.preactivation(i) for i in range(problem.states)]
    return [_range([*form.a, *form.d], form.constant, lo, hi) for form in forms]


# The dual bound and the two programmes that it lies between.


def dual(problem: Problem, form: Form, bounds: Sequence[Enclosure], multiplier: Any) -> Fraction:
    """g(lambda), exactly: a lower bound on the form over the box, for any multiplier.

    lambda^T b + sum_i min_{l_i <= r <= u_i} (p_i psi_i(r) - lambda_i r) + min_x (U^T lambda + d) x,
    p = a + W_off^T lambda.
    """
    y = to_fractions(multiplier)
    n = problem.states
    total = form.constant + dot(y, problem.b)
    for i, ends in enumerate(bounds):
        p = form.a[i] + sum(problem.W[j][i] * y[j] for j in range(n) if j != i)
        total += min(p * problem.psi(i, r) - y[i] * r for r in problem.knots(i, ends))
    column = [
        v + sum(problem.U[j][k] * y[j] for j in range(n) if y[j]) for k, v in enumerate(form.d)
    ]
    return total + _range(column, ZERO, problem.lo, problem.hi)[0]


class Relaxed(NamedTuple):
    """The optimum of the linear relaxation (plus infinity: infeasible) and its multiplier."""

    value: float
    multiplier: Array  # (n,)


def relaxed(problem: Problem, form: Form, bounds: Sequence[Enclosure]) -> Relaxed:
    """The linear programme over the convex hulls of the graphs of psi_i over [l_i, u_i].

    Variables x, z, r and one weight for each knot of each graph. The multiplier is HiGHS's, of
    `W_off z + U x - r = -b`, with the sign of `dual`.
    """
    model = _Model.of(problem, form, bounds)
    ends = [*model.box, *[(None, None)] * (2 * problem.states), *[(0, None)] * model.weights]
    found = linprog(model.cost, A_eq=model.equal, b_eq=model.level, bounds=ends, method="highs")
    if found.status == 2:
        return Relaxed(inf, np.zeros(problem.states))
    assert found.status == 0, found.message
    multiplier = -found.eqlin.marginals[: problem.states]
    return Relaxed(found.fun + float(form.constant), multiplier)


def refuted(problem: Problem, bounds: Sequence[Enclosure]) -> Relaxed:
    """How far `W_off z + U x + b - r` must stay from 0 in the 1-norm; positive: no state is left.

    The multiplier, of entries in [-1, 1], gives the zero form that value: a refutation.
    """
    n = problem.states
    model = _Model.of(problem, Form([ZERO] * n, [ZERO] * len(problem.lo)), bounds)
    slack = np.vstack([np.hstack([np.eye(n), -np.eye(n)]), np.zeros((3 * n, 2 * n))])
    found = linprog(
        np.append(model.cost, np.ones(2 * n)),
        A_eq=np.hstack([model.equal, slack]),
        b_eq=model.level,
        bounds=[*model.box, *[(None, None)] * (2 * n), *[(0, None)] * (model.weights + 2 * n)],
        method="highs",
    )
    assert found.status == 0, found.message
    return Relaxed(found.fun, -found.eqlin.marginals[:n])


def mixed(problem: Problem, form: Form, bounds: Sequence[Enclosure]) -> float:
    """The least value by HiGHS's mixed-integer programme: one binary for each piece in [l, u]."""
    model = _Model.of(problem, form, bounds)
    n, r = problem.states, len(problem.lo)
    knots = [len(problem.knots(i, ends)) for i, ends in enumerate(bounds)]
    binaries = sum(knots) - n
    size = len(model.cost) + binaries
    rows, totals = [], []
    weight, piece = r + 2 * n, len(model.cost)
    for count in knots:
        total = np.zeros(size)
        total[piece : piece + count - 1] = 1
        totals.append(total)
        for j in range(count):  # a weight is positive only at an end of the chosen piece
            row = np.zeros(size)
            row[weight + j] = 1
            row[piece + max(j - 1, 0) : piece + min(j + 1, count - 1)] = -1
            rows.append(row)
        weight, piece = weight + count, piece + count - 1
    padded = np.hstack([model.equal, np.zeros((len(model.equal), binaries))])
    lower = [*(p for p, _ in model.box), *[-inf] * (2 * n), *[0] * (model.weights + binaries)]
    upper = [*(q for _, q in model.box), *[inf] * (2 * n), *[1] * (model.weights + binaries)]
    found = milp(
        np.append(model.cost, np.zeros(binaries)),
        integrality=np.append(np.zeros(len(model.cost)), np.ones(binaries)),
        bounds=(lower, upper),
        constraints=[
            (padded, model.level, model.level),
            (np.array(totals), 1, 1),
            (np.array(rows), -inf, 0),
        ],
        options={"mip_rel_gap": 0.0},
    )
    assert found.status == 0, found.message
    return float(found.fun) + float(form.constant)


class _Model(NamedTuple):
    cost: Array
    equal: Array
    level: Array
    box: list[tuple[float, float]]
    weights: int

    @classmethod
    def of(cls, problem: Problem, form: Form, bounds: Sequence[Enclosure]) -> _Model:
        n, r = problem.states, len(problem.lo)
        knots = [problem.knots(i, ends) for i, ends in enumerate(bounds)]
        weights = sum(map(len, knots))
        equal, level = np.zeros((4 * n, r + 2 * n + weights)), np.zeros(4 * n)
        equal[:n, :r] = _floats(problem.U)
        equal[:n, r : r + n] = _floats(problem.W)
        np.fill_diagonal(equal[:n, r : r + n], 0)
        equal[:n, r + n : r + 2 * n] = -np.eye(n)
        level[:n] = -_floats(problem.b)
        equal[n : 3 * n, r : r + 2 * n] = np.eye(2 * n)
        at = r + 2 * n
        for i, own in enumerate(knots):
            span = slice(at, at + len(own))
            equal[n + i, span] = -_floats([problem.psi(i, knot) for knot in own])
            equal[2 * n + i, span] = -_floats(own)
            equal[3 * n + i, span] = level[3 * n + i] = 1
            at += len(own)
        cost = np.concatenate([_floats(form.d), _floats(form.a), np.zeros(n + weights)])
        box = list(zip(map(float, problem.lo), map(float, problem.hi), strict=True))
        return cls(cost, equal, level, box, weights)


def _floats(values: Any) -> Array:
    return np.array(
        [[float(v) for v in row] if isinstance(row, list) else float(row) for row in values]
    )
