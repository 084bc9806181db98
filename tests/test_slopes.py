"""The ascent in slopes: never below its start, at the relaxation's optimum when run long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracles
import small_networks
from equicert.activations import parse_activation
from equicert.bounds import Interval
from equicert.boxes import Box
from equicert.relaxation import Ascent, Lagrangian, PiecewiseLinear, Rows, adjoint_start
from equicert.relaxation.slopes import Slopes
from equicert.stored import StoredNetwork
from networks import Network
from oracles import Problem
from searches import as_one_block
from searches import stored as as_matrix

SEEDS = st.integers(0, 2**32)
PIECEWISE = ("relu", "leaky_relu(0.125)", "hard_tanh")
MISSED = 0.03  # of the optimum, after 100 steps; 0.0104 has been seen
SMOOTH = ("tanh", "sigmoid", "softplus", "elu(0.5)")  # ascends in lambda, and does so here, too


@pytest.fixture(autouse=True, scope="module")
def in_float64() -> Iterator[None]:
    """Proposals of structured networks are made in float32; their rounding is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lagrangian, "proposing", property(lambda self: self))
        yield


def stored(net: Network) -> StoredNetwork:
    """W as one block: a matrix of its own kind has another ascent."""
    return as_one_block(as_matrix(net))


def asked(net: Network, seed: int, splits: int = 0) -> tuple[Problem, Rows]:
    """All margins of class 0 over a box; a few neurons are on one side of a breakpoint only."""
    rng = np.random.default_rng(seed)
    lo, hi = small_networks.box_about(net, seed % 7, 0.75)
    held, problem = stored(net), Problem.of(net, lo, hi)
    box = Box(*(torch.tensor(v)[None] for v in (lo, hi)))
    state = Interval().state_box(held, box)
    low, high = held.off_diagonal.image(state.lo, state.hi, held.drive_bounds(box.lo, box.hi))
    for i in rng.permutation(net.states)[:splits]:
        inside = [k for k in problem.breakpoints(i) if low[0, i] < float(k) < high[0, i]]
        if inside:
            (low, high)[rng.integers(2)][0, i] = float(inside[0])  # few bits, and so exact
    a = torch.tensor(np.array([net.C[0] - row for row in net.C[1:]]))
    centre, half = (torch.tensor(v)[None] for v in ((lo + hi) / 2, (hi - lo) / 2))
    return problem, Rows(a, None, torch.zeros(1, 1).double(), low, high, centre, half)


def optimum(net: Network, problem: Problem, rows: Rows) -> list[float]:
    """Of the linear programme, for each margin without its constant."""
    ends = zip(rows.lo[0].tolist(), rows.hi[0].tolist(), strict=True)
    bounds = [(Fraction(p), Fraction(q)) for p, q in ends]
    found = []
    for rival in range(1, net.outputs):
        form = problem.margin(0, rival)
        found.append(oracles.relaxed(problem, form, bounds).value - float(form.constant))
    return found


@pytest.mark.parametrize("activation", ["relu", "hard_tanh"])
def test_it_comes_near_the_relaxation_and_is_never_above(activation: str) -> None:
    """Prices reach what no slope does: without them the bounds of split neurons are not used."""
    gained = 0
    for seed in (1, 3):
        for net, splits in (
            (small_networks.contracting(seed, 5, activation=activation), 3),
            (small_networks.feed_forward(seed, (3, 3), activation=activation), 0),
        ):
            problem, rows = asked(net, seed, splits)
            lagrangian = Lagrangian.of(stored(net))
            start = adjoint_start(lagrangian, rows)
            value, multiplier, _ = Ascent(100).run(lagrangian, rows, start)
            below = lagrangian.below(rows, multiplier)
            assert torch.allclose(below, value, rtol=1e-9, atol=1e-9)
            gained += int((value > start[0] + 0.05 * (1 + value.abs())).sum())
            for bound, most in zip(below.tolist(), optimum(net, problem, rows), strict=True):
                assert bound <= most + 1e-7 * (1 + abs(most))
                if most < np.inf:  # some splits leave no state, and a bound without end
                    assert bound >= most - MISSED * (1 + abs(most))
    assert gained > 2


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from(PIECEWISE + SMOOTH), st.integers(0, 3), st.integers(0, 12))
def test_no_ascent_ends_below_its_start(seed: int, activation: str, splits: int, n: int) -> None:
    """From any multiplier, also where W is far from contracting, and none is above the optimum."""
    rng = np.random.default_rng(seed)
    net = small_networks.contracting(seed, 4, activation="relu")
    problem, rows = asked(net, seed, splits)
    held = replace(stored(net), activation=parse_activation(activation))
    lagrangian = Lagrangian.of(held)
    start = torch.tensor(rng.normal(size=(len(rows), 4)) * 10.0 ** rng.integers(-3, 4))
    before = lagrangian.value(rows, start)
    ascent = Ascent(n, float(rng.choice([0.03, 3.0])))
    value, found, _ = ascent.run(lagrangian, rows, (before, start))
    assert bool((value >= before).all())
    assert torch.allclose(lagrangian.value(rows, found), value, rtol=1e-12, atol=1e-12)
    if activation == "relu":
        for bound, most in zip(value.tolist(), optimum(net, problem, rows), strict=True):
            assert bound <= most + 1e-7 * (1 + abs(most))


@pytest.mark.parametrize("shared", [True, False], ids=["one box of states", "each its own"])
def test_a_row_that_is_done_stops_and_the_others_go_on(shared: bool) -> None:
    net = small_networks.contracting(3, 5)
    _, rows = asked(net, 3)
    if not shared:
        spread = torch.tensor([[3.0], [1.0]]).double()  # what row 0 may do is no bound for row 1
        rows = replace(rows, lo=rows.lo - 1 + spread / 3, hi=rows.hi * spread)
    lagrangian = Lagrangian.of(stored(net))
    start = adjoint_start(lagrangian, rows)
    free, _, _ = Ascent(40).run(lagrangian, rows, start)
    enough = torch.tensor([-1e9, 1e9]).double()
    value, multiplier, _ = Ascent(40).run(lagrangian, rows, start, enough)
    assert float(value[0]) == float(start[0][0])
    assert torch.equal(multiplier[0], start[1][0])
    assert float(value[1]) == pytest.approx(float(free[1]), abs=1e-9)


@pytest.mark.parametrize("activation", PIECEWISE)
def test_y_is_the_derivative_of_the_bound(activation: str) -> None:
    """In beta, and in h times p, once p and y have come to rest."""
    net = small_networks.contracting(1, 5)
    _, rows = asked(net, 1)
    rows = rows[:1]
    lagrangian = Lagrangian.of(replace(stored(net), activation=parse_activation(activation)))
    W, generator = lagrangian.W.dense(), torch.Generator().manual_seed(0)
    h = torch.rand(5, generator=generator, dtype=torch.float64) * 0.4 + 0.1
    beta = 0.1 * torch.randn(5, generator=generator, dtype=torch.float64)

    def multiplier(h: Tensor, beta: Tensor) -> Tensor:
        p = torch.linalg.solve(torch.eye(5).double() - W.mT * h, rows.a[0] + W.mT @ beta)
        return (h * p + beta)[None]

    here = multiplier(h, beta)
    p = lagrangian.minimum(rows, here).p
    graph, size = lagrangian.graph, torch.ones(1, 1).double()
    assert isinstance(graph, PiecewiseLinear)
    slopes = Slopes.of(lagrangian, graph, lagrangian.prepared(rows), here, size, 0.0)
    assert torch.allclose(slopes.p, p)
    slopes.low = slopes.high = h[None]
    slopes.low_range = slopes.high_range = h.expand(2, 1, 5)
    slopes.beta, slopes.beta_range = beta[None], beta.expand(2, 1, 5)
    for _ in range(60):
        slopes.climb(lagrangian, rows, 1.0)
    step = 1e-7
    for i in range(5):
        unit = torch.eye(5).double()[i] * step
        for ahead, behind, expected in (
            (multiplier(h, beta + unit), multiplier(h, beta - unit), slopes.y[0, i]),
            (multiplier(h + unit, beta), multiplier(h - unit, beta), slopes.y[0, i] * p[0, i]),
        ):
            rise = lagrangian.value(rows, ahead) - lagrangian.value(rows, behind)
            assert float(rise / (2 * step)) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("activation", PIECEWISE)
def test_lines_of_slopes_in_range_bound_the_graph(activation: str) -> None:
    """The steepest and the flattest through the ends: of each face, those are its own."""
    phi = parse_activation(activation)
    d = torch.tensor([0.0, 0.5, -2.0]).double().repeat(8)
    graph = PiecewiseLinear(phi, d)
    ends = np.sort(np.random.default_rng(0).normal(size=(2, 30, 24)) * 3, axis=0)
    lo, hi = torch.tensor(ends[0]), torch.tensor(ends[1])
    z_lo, z_hi = graph.psi(lo), graph.psi(hi)
    low, high = graph.slopes(lo, hi, (z_lo, z_hi))
    assert bool((low[0] <= low[1]).all())
    assert bool((high[0] <= high[1]).all())
    spare = 1e-9
    for share in torch.linspace(0, 1, 41).tolist():
        r = torch.lerp(lo, hi, share)
        z = graph.psi(r)
        assert bool((z_lo + low[0] * (r - lo) <= z + spare).all())
        assert bool((z_hi + low[1] * (r - hi) <= z + spare).all())
        assert bool((z_lo + high[1] * (r - lo) >= z - spare).all())
        assert bool((z_hi + high[0] * (r - hi) >= z - spare).all())
    straight = ~graph.bent(lo, hi)
    assert bool(((low[1] - low[0])[straight] <= 1e-6).all())
    if activation in ("relu", "leaky_relu(0.125)"):  # the upper face is one line
        assert float((high[1] - high[0]).amax()) < 1e-9
        assert bool((~straight).any())


@pytest.mark.parametrize("diagonal", [0.0, 0.1, -3.7, -1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_that_a_split_has_set_are_known(diagonal: float, dtype: torch.dtype) -> None:
    double = torch.tensor([diagonal]).double()
    low, high = PiecewiseLinear(parse_activation("hard_tanh"), double).knot_bounds
    graph = PiecewiseLinear(parse_activation("hard_tanh"), double.to(dtype))
    for j in range(2):
        below, above = (v[j][None].to(dtype) for v in (high, low))
        wide = 3 * below.abs()
        assert [bool(v) for v in graph.at_knots(below - wide, below)] == [False, True]
        assert [bool(v) for v in graph.at_knots(above, above + wide)] == [True, False]
