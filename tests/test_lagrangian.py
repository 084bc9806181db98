"""`Lagrangian.below`: never above the exact g(lambda), whatever the numbers, hardly below it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equicert.activations import parse_activation
from equicert.bounds import Dual
from equicert.boxes import Box
from equicert.queries import Forms, Query
from equicert.relaxation import Lagrangian, Objectives, Rows, rounded
from equicert.relaxation.graphs import PiecewiseLinear
from equicert.stored import StoredNetwork
from networks import Array, Network
from oracles import Form, Problem, dual

ACTIVATIONS = ("relu", "leaky_relu(0.1)", "leaky_relu(1e-310)", "hard_tanh", "identity")
DIAGONALS = (0.0, 0.5, -1.0, -3.7, 0.1, -1e8, -1e300, 1 - 1e-12, 1 - 2.0**-53)
PLAIN, EXTREME = (0, 0, 0, 1, -1), (0, 0, -5, 5, 20, -20, -300, -160, 150, -310)
TINY = Fraction(2) ** -1022


@dataclass(frozen=True)
class Case:
    """A network, forms over their own bounds and boxes, and multipliers."""

    net: Network
    rows: Rows
    multiplier: torch.Tensor  # (batch, n)

    @property
    def lagrangian(self) -> Lagrangian:
        return Lagrangian.of(StoredNetwork.from_arrays(*self.net.arrays, self.net.activation))

    def bounds(self) -> list[float]:
        """What is tested."""
        return self.lagrangian.below(self.rows, self.multiplier).tolist()

    def exact(self, row: int, sign: int) -> Fraction:
        """g(lambda) at the form whose a is as far off as its error says, towards that sign."""
        part = self.rows
        each = [v.expand(len(part), -1)[row].tolist() for v in (part.centre, part.half)]
        centre, half = ([Fraction(v) for v in values] for values in each)
        lo = [c - h for c, h in zip(centre, half, strict=True)]
        hi = [c + h for c, h in zip(centre, half, strict=True)]
        problem = Problem.of(self.net, lo, hi)
        n = problem.states
        e = [0.0] * n if part.e is None else part.e[row].tolist()
        e = [Fraction(v) for v in e]
        error = part.error.expand(len(part), n)[row].tolist()
        a = [
            Fraction(v) + sign * Fraction(w)
            for v, w in zip(part.a[row].tolist(), error, strict=True)
        ]
        own = [problem.preactivation(i) for i in range(n)]
        form = Form(
            [a[j] + sum(e[i] * own[i].a[j] for i in range(n)) for j in range(n)],
            [sum((e[i] * own[i].d[k] for i in range(n)), Fraction(0)) for k in range(len(lo))],
            sum((e[i] * problem.b[i] for i in range(n)), Fraction(0)),
        )
        ends = [v.expand(len(part), -1)[row].tolist() for v in (part.lo, part.hi)]
        bounds = [(Fraction(p), Fraction(q)) for p, q in zip(*ends, strict=True)]
        return dual(problem, form, bounds, self.multiplier[row])

    def size(self, row: int) -> tuple[Fraction, Fraction]:
        """What rounding is relative to: the sum of all terms' magnitudes, and what underflow is."""
        part = self.rows
        W, U = (np.abs(v).tolist() for v in (self.net.W, self.net.U))
        n, r = self.net.states, self.net.inputs
        lam = [abs(Fraction(v)) for v in self.multiplier[row].tolist()]
        most = max(lam) + 1
        ends = [v.expand(len(part), -1)[row].abs().tolist() for v in (part.lo, part.hi)]
        far = [
            Fraction(max(p, q)) + abs(1 - Fraction(float(self.net.W[i, i])))
            for i, (p, q) in enumerate(zip(*ends, strict=True))
        ]
        box = [v.expand(len(part), -1)[row].abs().tolist() for v in (part.centre, part.half)]
        reach = [Fraction(p) + Fraction(q) for p, q in zip(*box, strict=True)]
        total = most * sum(Fraction(abs(v)) for v in self.net.b.tolist())
        for i in range(n):
            p = abs(Fraction(float(part.a[row, i])))
            p += most * sum(Fraction(W[j][i]) for j in range(n) if j != i)
            image = far[i] / (1 - Fraction(float(self.net.W[i, i])))
            total += p * image + lam[i] * far[i]
        total += most * sum(Fraction(U[i][k]) * reach[k] for i in range(n) for k in range(r))
        scale = max(
            [
                Fraction(1),
                *far,
                *(
                    v / (1 - Fraction(d))
                    for v, d in zip(far, self.net.W.diagonal().tolist(), strict=True)
                ),
            ]
        )
        return total, most * (1 + sum(reach)) * scale


def drawn(rng: np.random.Generator, shape: tuple[int, ...], powers: tuple[int, ...]) -> Array:
    """Entries whose magnitudes have nothing to do with each other, some of them 0."""
    values = rng.normal(size=shape) * 10.0 ** rng.choice(powers, size=shape)
    return np.where(rng.uniform(size=shape) < 0.1, 0.0 * rng.normal(size=shape), values)


def intervals(
    rng: np.random.Generator, net: Network, batch: int, powers: tuple[int, ...]
) -> tuple[Array, Array]:
    """Bounds on r: wide ones, points, and ends on the breakpoints and next to them."""
    lo, hi = np.sort(drawn(rng, (2, batch, net.states), powers), axis=0)
    kinks = [0.0, -0.0]
    for d in net.W.diagonal():
        kinks += [1 - d, d - 1]
    near = rng.choice(kinks, size=lo.shape)
    near = np.nextafter(near, rng.choice([-np.inf, np.inf], size=lo.shape))
    near = near + rng.choice([0.0, 2.0**-36, -(2.0**-36)], size=lo.shape)
    kind = rng.integers(0, 8, size=lo.shape)
    lo = np.select([kind == 0, kind == 1, kind == 2], [hi, rng.choice(kinks, lo.shape), near], lo)
    hi = np.select([kind == 3, kind == 4], [rng.choice(kinks, lo.shape), near], hi)
    return np.minimum(lo, hi), np.maximum(lo, hi)


def case(
    seed: int, activation: str, powers: tuple[int, ...], shared: bool = False, single: bool = False
) -> Case:
    """A random case; `shared`: one box and one pair of bounds for all forms."""
    rng = np.random.default_rng(seed)
    n, r, batch = int(rng.integers(1, 5)), int(rng.integers(1, 4)), 3
    W = drawn(rng, (n, n), powers)
    common = powers is PLAIN
    diagonal = rng.choice(DIAGONALS[:5] if common else DIAGONALS, size=n)
    W[np.diag_indices(n)] = diagonal
    U, b = drawn(rng, (n, r), powers), drawn(rng, (n,), powers)
    if rng.uniform() < 0.3:  # states that no input drives
        U[rng.integers(0, n)] = 0
    if single:
        with np.errstate(over="ignore", under="ignore"):
            W, U, b = (np.nan_to_num(v.astype(np.float32)).astype(np.float64) for v in (W, U, b))
        W[np.diag_indices(n)] = np.minimum(W.diagonal(), 1 - 2.0**-24)
    net = Network("drawn", W, U, b, np.ones((1, n)), np.zeros(1), activation)
    one = 1 if shared else batch
    lo, hi = intervals(rng, net, one, powers)
    half = np.abs(drawn(rng, (one, r), powers)) * rng.choice([0.0, 1.0], size=(one, r))
    a, centre = drawn(rng, (batch, n), powers), drawn(rng, (one, r), powers)
    e = None
    error = np.abs(a) * rng.choice([0.0, 2.0**-52, 2.0**-20], size=(batch, 1))
    if rng.uniform() < 0.5:
        a, error = np.zeros_like(a), np.zeros((1, 1))
        e = np.eye(n)[rng.integers(0, n, size=batch)] * rng.choice([-1.0, 1.0], size=(batch, 1))
    multiplier = torch.tensor(drawn(rng, (batch, n), powers))
    if rng.uniform() < 0.3:
        multiplier = rounded(multiplier, 15)
    return Case(net, rows_of(a, e, error, lo, hi, centre, half), multiplier)


def rows_of(a: Array, e: Array | None, *rest: Array) -> Rows:
    error, lo, hi, centre, half = (torch.tensor(v) for v in rest)
    signs = None if e is None else torch.tensor(e)
    return Rows(torch.tensor(a), signs, error, lo, hi, centre, half)


def cancelling(seed: int, activation: str) -> Case:
    """Products that all but vanish, of terms that do not: what is left is rounding, enlarged."""
    rng = np.random.default_rng(seed)
    made = case(seed, activation, (0, 0, 3, -3))
    n, r = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    large = 10.0 ** (6 * np.eye(3)[rng.integers(0, 3)])  # what is lost of one product is seen
    W = rng.normal(size=(n, n)) * (1 - np.eye(n)) * large[0] - np.diag(rng.choice([0.0, 3.0], n))
    U, b = rng.normal(size=(n, r)) * large[1], rng.normal(size=n) * large[2]
    y = rng.normal(size=n)
    off = W - np.diag(W.diagonal())
    U[-1] = -(y[:-1] @ U[:-1]) / y[-1]
    b[-1] = -(y[:-1] @ b[:-1]) / y[-1]
    net = Network("cancelling", W, U, b, np.ones((1, n)), np.zeros(1), activation)
    a = -(y @ off)
    centre, half = (
        rng.normal(size=(1, r)),
        np.abs(rng.normal(size=(1, r))) * 10.0 ** rng.integers(0, 6),
    )
    lo, hi = np.sort(rng.normal(size=(2, 1, n)), axis=0)
    which = rng.integers(0, 4)
    if which == 0:  # a box and bounds that are points, for which less is lost
        half, hi = 0 * half, lo
    if which == 1:  # the rest of the form of one neuron
        a = a + rng.normal(size=n) * 1e-3
    e, error = None, np.abs(a)[None] * rng.choice([0.0, 2.0**-52])
    if which == 2:
        e, a = np.eye(n)[:1], a + off[0]
        y[0] -= 1
    rows = rows_of(a[None], e, error, lo, hi, centre, half)
    return replace(made, net=net, rows=rows, multiplier=torch.tensor(y)[None])


SEEDS, PHI = st.integers(0, 2**32), st.sampled_from(ACTIVATIONS)


@settings(max_examples=150, deadline=None)
@given(SEEDS, PHI, st.booleans(), st.booleans())
def test_it_is_never_above_the_exact_value(
    seed: int, activation: str, shared: bool, single: bool
) -> None:
    """Weights of 1e-310 to 1e150, diagonals of -1e300 and next to 1, bounds at the bends."""
    drawn_case = case(seed, activation, EXTREME, shared, single)
    for row, bound in enumerate(drawn_case.bounds()):
        assert bound != math.inf
        if math.isfinite(bound):
            least = min(drawn_case.exact(row, sign) for sign in (-1, 0, 1))
            assert Fraction(bound) <= least


@settings(max_examples=200, deadline=None)
@given(SEEDS, PHI)
def test_it_is_not_above_what_cancellation_leaves(seed: int, activation: str) -> None:
    drawn_case = cancelling(seed, activation)
    [bound] = drawn_case.bounds()
    assert Fraction(bound) <= min(drawn_case.exact(0, sign) for sign in (-1, 0, 1))


ABSORBED = 2.0**-54  # 1 - 2^-54 rounds to 1, and so does every further one taken off


@pytest.mark.parametrize("which", ["W", "U", "b"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_long_sums_that_always_round_the_same_way(which: str, sign: float) -> None:
    """60 terms lose about 30 units of rounding, more than any short sum does."""
    n = 60
    column = np.full(n, -ABSORBED)
    column[0] = 1
    W = np.zeros((n, n))
    W[:-1, -1] = sign * column[:-1] * (which == "W")
    U, b = sign * column[:, None] * (which == "U"), sign * column * (which == "b")
    net = Network("long", W, U, b, np.ones((1, n)), np.zeros(1), "relu")
    zero, one = (torch.full((1, k), float(v)).double() for k, v in ((n, 0), (1, 1)))
    ends = zero.clone()
    ends[0, -1] = 2.0**-20  # of the state that W drives: small, since its own roundings count too
    rows = Rows(zero, None, 0 * one, ends, ends, sign * one, 0 * one)
    made = Case(net, rows, zero + 1)
    [bound] = made.bounds()
    assert Fraction(bound) <= made.exact(0, 0)


@settings(max_examples=120, deadline=None)
@given(SEEDS, PHI, st.booleans(), st.booleans())
def test_it_is_hardly_below_the_exact_value(
    seed: int, activation: str, shared: bool, single: bool
) -> None:
    drawn_case = case(seed, activation, PLAIN, shared, single)
    rows = replace(drawn_case.rows, error=torch.zeros(1, 1, dtype=torch.float64))
    drawn_case = replace(drawn_case, rows=rows)
    for row, bound in enumerate(drawn_case.bounds()):
        total, scale = drawn_case.size(row)
        exact = drawn_case.exact(row, 0)
        assert Fraction(bound) <= exact
        assert Fraction(bound) >= exact - 400 * Fraction(2) ** -53 * total - scale * 2**60 * TINY


@settings(max_examples=40, deadline=None)
@given(SEEDS, PHI)
def test_bounds_and_boxes_may_be_shared(seed: int, activation: str) -> None:
    """(1, n) and (batch, n) say the same, and so do the rows one by one."""
    shared = case(seed, activation, PLAIN, shared=True)
    part, batch = shared.rows, len(shared.rows)
    error, lo, hi, centre, half = (
        v.expand(batch, -1) for v in (part.error, part.lo, part.hi, part.centre, part.half)
    )
    apart = replace(shared, rows=Rows(part.a, part.e, error, lo, hi, centre, half))
    assert apart.bounds() == pytest.approx(shared.bounds(), rel=1e-9, abs=1e-9)
    for row, bound in enumerate(apart.bounds()):
        one = torch.tensor([row])
        for some in (shared.rows[one], apart.rows[one]):
            alone = replace(shared, rows=some, multiplier=shared.multiplier[one]).bounds()
            assert alone == pytest.approx([bound], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1.7e308])
def test_a_multiplier_that_is_no_number_proves_nothing(bad: float) -> None:
    for seed in range(20):
        good = case(seed, "hard_tanh", EXTREME)
        multiplier = good.multiplier.clone()
        multiplier[:, 0] = bad
        spoilt = replace(good, multiplier=multiplier)
        for row, bound in enumerate(spoilt.bounds()):
            assert bound != math.inf
            if math.isfinite(bound):
                assert math.isfinite(bad)
                assert Fraction(bound) <= min(spoilt.exact(row, sign) for sign in (-1, 1))


@settings(max_examples=150, deadline=None)
@given(SEEDS, PHI)
def test_psi_and_its_breakpoints_are_enclosed(seed: int, activation: str) -> None:
    net = case(seed, activation, EXTREME).net
    graph = PiecewiseLinear(parse_activation(activation), torch.tensor(net.W.diagonal().copy()))
    rng = np.random.default_rng(seed)
    lo, hi = intervals(rng, net, 4, EXTREME)
    problem = Problem.of(net, [0] * net.inputs, [0] * net.inputs)
    low, high = (v.numpy() for v in graph.image(torch.tensor(lo), torch.tensor(hi)))
    first, last = (v.numpy() for v in graph.knot_bounds)
    for i in range(net.states):
        knots = problem.breakpoints(i) if len(first) else []
        assert len(knots) == len(first)
        for j, knot in enumerate(knots):
            assert Fraction(float(first[j, i])) <= knot <= Fraction(float(last[j, i]))
        for row in range(4):
            if math.isnan(low[row, i]) or math.isnan(high[row, i]):
                continue
            least, most = (problem.psi(i, Fraction(float(v[row, i]))) for v in (lo, hi))
            assert low[row, i] == -math.inf or Fraction(float(low[row, i])) <= least
            assert high[row, i] == math.inf or Fraction(float(high[row, i])) >= most


@settings(max_examples=150, deadline=None)
@given(SEEDS, PHI)
def test_minima_on_graphs_are_bounded_below(seed: int, activation: str) -> None:
    """With p exact, and `p psi(r)` and `lambda r` nearly the same: nothing else hides roundings."""
    rng = np.random.default_rng(seed)
    net = case(seed, activation, PLAIN).net
    n, d = net.states, net.W.diagonal().copy()
    graph = PiecewiseLinear(parse_activation(activation), torch.tensor(d))
    y = drawn(rng, (4, n), (0, 0, 5, -300))
    p = y * (1 - d)
    p = np.where(rng.uniform(size=p.shape) < 0.5, p, drawn(rng, (4, n), (0, 0, 5, -300)))
    lo, hi = (torch.tensor(v) for v in intervals(rng, net, 4, PLAIN))
    found = graph.minimum_below(
        torch.tensor(p), torch.zeros(4, n).double(), torch.tensor(y), lo, hi
    )
    problem = Problem.of(net, [0] * net.inputs, [0] * net.inputs)
    for row in range(4):
        for i in range(n):
            ends = Fraction(float(lo[row, i])), Fraction(float(hi[row, i]))
            force, own = Fraction(float(p[row, i])), Fraction(float(y[row, i]))
            least = min(force * problem.psi(i, r) - own * r for r in problem.knots(i, ends))
            assert Fraction(float(found[row, i])) <= least


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.booleans())
def test_forms_in_y_are_forms_in_z(seed: int, margins: bool) -> None:
    """The exact rows are within their error, the constant is below the exact one."""
    rng = np.random.default_rng(seed)
    n, q, k = 2, 3, 4
    C, c = drawn(rng, (q, n), EXTREME), drawn(rng, (q,), EXTREME)
    A, d = drawn(rng, (k, q), (-5, 0, 5)), drawn(rng, (k,), EXTREME)
    if margins:
        A = rng.choice([-1.0, 0.0, 1.0], size=(k, q))
    network = StoredNetwork.from_arrays(np.zeros((n, n)), np.ones((n, 1)), np.zeros(n), C, c)
    found = Objectives.of(network, Forms(torch.tensor(A), torch.tensor(d)))
    for row in range(k):
        form = [Fraction(v) for v in A[row].tolist()]
        for j in range(n):
            exact = sum(v * Fraction(float(C[i, j])) for i, v in enumerate(form))
            error = Fraction(float(found.error[row, j]))
            assert abs(exact - Fraction(float(found.a[row, j]))) <= error
        exact = sum(v * Fraction(float(c[i])) for i, v in enumerate(form))
        assert Fraction(float(found.constant[row])) <= exact + Fraction(float(d[row]))


@pytest.mark.parametrize("diagonal", [0.0, -1e5, -1e8, -1e15, -1e300, 0.9])
def test_a_part_of_a_split_is_not_split_again_there(diagonal: float) -> None:
    """Else the search would cut the same neuron at the same breakpoint for ever."""
    graph = PiecewiseLinear(parse_activation("hard_tanh"), torch.tensor([diagonal]).double())
    low, high = graph.knot_bounds
    for j in range(2):
        for width in (1e-3, 1.0, 100.0, 1e10, 1e300):
            below = graph.cut(low[j] - width, high[j])
            above = graph.cut(low[j], high[j] + width)
            assert float(below[j].amax()) == 0
            assert float(above[j].amax()) == 0


@pytest.mark.parametrize("activation", ["identity", "leaky_relu(1.0)"])
def test_a_graph_without_bends_has_no_cuts(activation: str) -> None:
    graph = PiecewiseLinear(parse_activation(activation), torch.zeros(3, dtype=torch.float64))
    ends = torch.zeros(2, 3, dtype=torch.float64)
    assert graph.cut(ends - 1, ends + 1).shape == (0, 2, 3)


def test_the_dual_bound_of_what_overflows_is_minus_infinity() -> None:
    """-1e400 is below every float64."""
    net = StoredNetwork.from_arrays(
        np.zeros((1, 1)), np.array([[1e200]]), np.zeros(1), np.array([[-1e200], [0.0]]), np.zeros(2)
    )
    box = Box(torch.zeros(1, 1), torch.ones(1, 1))
    answer = Dual().answer(net, Query.of_margins(box, torch.tensor([0]), 2))
    assert answer.lower.tolist() == [[-math.inf]]
