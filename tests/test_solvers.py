"""Solvers: a stated radius really bounds the error, sample by sample, whatever was asked.

The truth is rational: exact fixed points of piecewise-linear networks; for smooth activations a
point improved in rational arithmetic, with an exact a posteriori bound on what it still misses.
"""

import dataclasses
import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import exact
import exact_functions
import networks
from equicert.activations import parse_activation
from equicert.contraction import prove_contraction
from equicert.errors import ConfigError
from equicert.network import ImplicitNetwork
from equicert.norms import weighted_norm
from equicert.operators import Dense
from equicert.problems import AdjointProblem, Drive, PrimalProblem, Problem, Sweep
from equicert.solution import Solution
from equicert.solvers import Average, Picard, Solver, advice, solve
from equicert.stored import StoredNetwork
from equicert.weights import Free
from networks import CONTRACTING, Network

SOLVERS: dict[str, Solver] = {"average": Average(), "picard": Picard()}
BOTH = pytest.mark.parametrize("solver", SOLVERS.values(), ids=list(SOLVERS))
TABLE = pytest.mark.parametrize("net", CONTRACTING.values(), ids=str)
GRID = Fraction(1, 2**200)

# What 300 steps cannot bring to a radius of 1e-6: hairline contraction, and numbers of 1e30.
HARD = {"gamma near 1", "gamma near 1, diagonal", "weights of 1e30", "nilpotent 1e30"}
# Steps of alpha = 1e-4 and 1/4; and rounding of 1e12 that keeps the residual from falling.
HARD_FOR_AVERAGE = HARD | {"softplus", "decoupled", "skewed eta"}


def points(net: Network) -> Tensor:
    """Three inputs in eighths, so that float32 holds them as well."""
    column = torch.tensor([[-1.0], [0.375], [2.0]])
    return column * torch.linspace(1, 0.5, net.inputs) if net.inputs < 3 else NotImplemented


def stored(net: Network) -> StoredNetwork:
    return StoredNetwork.from_arrays(*net.arrays, net.activation, net.eta)


def state_problem(net: Network, x: Tensor, dtype: torch.dtype = torch.float64) -> PrimalProblem:
    """The equation as the module states it, in either type."""
    hint = None if net.eta is None else torch.tensor(net.eta)
    module = ImplicitNetwork(
        net.inputs,
        net.states,
        net.outputs,
        activation=parse_activation(net.activation),
        weight=Free(torch.tensor(net.W), hint),
    )
    with torch.no_grad():
        module.U.copy_(torch.tensor(net.U))
        module.b.copy_(torch.tensor(net.b))
    module.to(dtype)
    return module.state_problem(x.to(dtype), module.materialise())


def in_float32(net: Network) -> Network:
    """The network whose weights are the float32 numbers nearest to those of net."""
    with np.errstate(over="ignore", under="ignore"):
        W, U, b, C, c = (array.astype(np.float32).astype(float) for array in net.arrays)
    return dataclasses.replace(net, W=W, U=U, b=b, C=C, c=c)


# The exact truth.


def improved(net: Network, x: list[Fraction], z: list[Fraction]) -> list[Fraction]:
    """A chord-Newton step in rational arithmetic; it needs no proof, `enclosure` proves."""
    W, U, b = (exact.to_fractions(array) for array in (net.W, net.U, net.b))
    t = exact.preactivation(W, U, b, z, x)
    slopes = parse_activation(net.activation).slope(torch.tensor([float(e) for e in t])).tolist()
    system = [
        [(i == j) - Fraction(slope) * w for j, w in enumerate(row)]
        for i, (row, slope) in enumerate(zip(W, slopes, strict=True))
    ]
    images = [exact_functions.activation(net.activation, entry) for entry in t]
    missing = [[(lo + hi) / 2 - old] for (lo, hi), old in zip(images, z, strict=True)]
    change = exact.solve(system, missing)
    assert change is not None
    return [round((old + row[0]) / GRID) * GRID for old, row in zip(z, change, strict=True)]


def enclosure(net: Network, x: list[Fraction], z: list[Fraction]) -> list[exact.Enclosure]:
    """Fact 4 (a), exactly: `|z - z*| <= eta ||N(z) - z||_{inf,[eta]^-1} / (1 - mu^+)`."""
    eta = exact.best_eta(net.W)
    assert eta is not None
    W, U, b = (exact.to_fractions(array) for array in (net.W, net.U, net.b))
    t = exact.preactivation(W, U, b, z, x)
    images = [exact_functions.activation(net.activation, entry) for entry in t]
    gap = 1 - max(exact.measure(net.W, eta), Fraction(0))
    residual = max(
        max(hi - old, old - lo) / e for (lo, hi), old, e in zip(images, z, eta, strict=True)
    )
    reach = [residual * e / gap for e in eta]
    return [(old - away, old + away) for old, away in zip(z, reach, strict=True)]


@cache
def state(net: Network, x: tuple[float, ...]) -> list[exact.Enclosure]:
    """Where z*(x) is: exactly, or to within 1e-30."""
    exact_x = exact.to_fractions(x)
    if net.piecewise_linear:
        z = exact.fixed_point(net.W, net.U, net.b, exact_x, net.activation)
        return [(entry, entry) for entry in z]
    z = exact.to_fractions(stored(net).solve(torch.tensor([x])).value[0])
    for _ in range(4):
        z = improved(net, exact_x, z)
    found = enclosure(net, exact_x, z)
    assert all(hi - lo < Fraction(1, 10**30) for lo, hi in found)
    return found


def error(value: Tensor, truth: list[exact.Enclosure]) -> Fraction:
    """The largest distance in the sup-norm that the truth leaves possible."""
    return max(
        max(abs(z - lo), abs(z - hi))
        for z, (lo, hi) in zip(exact.to_fractions(value), truth, strict=True)
    )


Truth = Callable[[int], list[exact.Enclosure]]  # of one sample


def assert_radius_holds(solution: Solution, truth: Truth) -> None:
    for row, radius in enumerate(solution.radius.tolist()):
        if np.isfinite(radius):
            off = error(solution.value[row], truth(row))
            holds = off <= Fraction(radius)
            assert holds, f"sample {row}: the error is {float(off):.6g}, the radius {radius:.6g}"
        else:
            assert not solution.converged[row]


def assert_stopped_on_its_radius(
    solution: Solution, solver: Solver, problem: Problem, tolerance: float, max_steps: int
) -> None:
    rounding = solver.rounding(problem, solution.value)
    slack = 1 + 64 * torch.finfo(rounding.dtype).eps
    met = solution.radius <= (tolerance + rounding) * slack
    assert bool((met | ~solution.converged).all())
    # Below the tolerance a sample has finished, so an unfinished one is above it.
    assert bool((solution.converged | ~(solution.radius <= tolerance)).all())
    assert bool((solution.converged | (solution.steps == max_steps)).all()) or not bool(
        solution.radius.isfinite().all()
    )


@TABLE
@BOTH
@pytest.mark.parametrize(("tolerance", "max_steps"), [(1e-6, 300), (1e-3, 15), (1, 1)])
def test_radius_bounds_the_error(
    net: Network, solver: Solver, tolerance: float, max_steps: int
) -> None:
    x = points(net)
    problem = stored(net).state_problem(x)
    solution = solve(problem, solver, tolerance, max_steps)
    assert_radius_holds(solution, lambda row: state(net, tuple(x[row].tolist())))
    assert_stopped_on_its_radius(solution, solver, problem, tolerance, max_steps)
    hard = HARD if solver == Picard() else HARD_FOR_AVERAGE
    if max_steps == 300 and net.name not in hard:
        assert bool(solution.converged.all())


@TABLE
@BOTH
@pytest.mark.parametrize(("tolerance", "max_steps"), [(1e-6, 60), (1, 1)])
def test_radius_includes_the_rounding_of_float32(
    net: Network, solver: Solver, tolerance: float, max_steps: int
) -> None:
    narrow = in_float32(net)
    if not exact.exact_abscissa_below_one(narrow.W):
        return  # 1 - 1e-9 is 1 in float32: no such network
    x = points(net)
    problem = state_problem(narrow, x, torch.float32)
    solution = solve(problem, solver, tolerance, max_steps)
    assert solution.value.dtype == solution.radius.dtype == torch.float32
    assert_radius_holds(solution, lambda row: state(narrow, tuple(x[row].tolist())))
    assert_stopped_on_its_radius(solution, solver, problem, tolerance, max_steps)


@given(
    networks.contracting_networks(activations=networks.PIECEWISE_LINEAR),
    st.sampled_from(list(SOLVERS.values())),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 30),
)
def test_radius_of_drawn_networks(
    net: Network, solver: Solver, dtype: torch.dtype, max_steps: int
) -> None:
    net = in_float32(net)
    if exact.best_eta(net.W) is None:
        return
    eta = exact.to_fractions([exact.best_eta(net.W)])[0]
    if not exact.measure(net.W, eta) < 1 - Fraction(1, 10**10):
        return  # float64 cannot be expected to prove it
    x = points(net)
    solution = solve(state_problem(net, x, dtype), solver, 1e-5, max_steps)
    assert_radius_holds(solution, lambda row: state(net, tuple(x[row].tolist())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ["identity", "relu", "softplus", "tanh", "elu(0.5)"])
@pytest.mark.parametrize("shortfall", [2.0**-7, 2.0**-13, 2.0**-20])
@BOTH
def test_radius_includes_the_rounding_of_a_diagonal_near_one(
    dtype: torch.dtype, activation: str, shortfall: float, solver: Solver
) -> None:
    """`W_ii z + u - z` loses what `z` is long: the error is that over `1 - W_ii`."""
    net = Network(
        "near one",
        np.array([[1 - shortfall]]),
        np.array([[1.0]]),
        np.array([0.3125]),
        np.eye(1),
        np.zeros(1),
        activation,
    )
    scales = 1 + torch.arange(-8, 9)[:, None] * torch.finfo(dtype).eps / shortfall / 8
    x = torch.full_like(scales, 0.6875 + 2.0**-20)
    truth = state(net, (x[0, 0].item(),))
    start = (float(truth[0][0]) * scales).to(dtype)
    for tolerance in (1e-30, 1e-9, 1e9):
        solution = solve(state_problem(net, x, dtype), solver, tolerance, 20, start)
        assert_radius_holds(solution, lambda _: truth)


def cancelling(activation: str, inputs_too: bool = True) -> Network:
    """Its third state is a small difference of large numbers, of states or of inputs as well."""
    return Network(
        "cancelling",
        np.array([[-2.0, 0.1, 0.0], [0.2, 0.25, 0.0], [0.3, -0.11, -0.5]]),
        np.array([[1000.1, 0.3], [0.7, 676.7], [333.3 * inputs_too, -333.3 * inputs_too]]),
        np.array([0.1, 0.7, 0.01]),
        np.eye(3),
        np.zeros(3),
        activation,
    )


@pytest.mark.parametrize("activation", networks.PIECEWISE_LINEAR)
@pytest.mark.parametrize("inputs_too", [False, True])
def test_rounding_of_one_evaluation_is_bounded_entry_by_entry(
    activation: str, inputs_too: bool
) -> None:
    """Both forms, in float32, against the exact map at the same z."""
    net = in_float32(cancelling(activation, inputs_too))
    x = torch.randn(20, 1, generator=torch.Generator().manual_seed(0)).float().double()
    x = torch.cat([x, (x * 1.0001).float().double()], 1)
    problem = state_problem(net, x, torch.float32)
    z = solve(problem, Picard(), 1e-3, 100).value
    bounds = problem.evaluation_error(z)
    W, U, b = (exact.to_fractions(array) for array in (net.W, net.U, net.b))
    diagonal = [row[i] for i, row in enumerate(W)]
    off = [[w if i != j else Fraction(0) for j, w in enumerate(row)] for i, row in enumerate(W)]
    for row in range(len(x)):
        state_row, x_row = exact.to_fractions(z[row]), exact.to_fractions(x[row])
        r = exact.preactivation(off, U, b, state_row, x_row)
        eliminated = [
            exact.fixed_point([[d]], [[]], [t], [], activation)[0]
            for d, t in zip(diagonal, r, strict=True)
        ]
        full = [
            exact.evaluate(activation, d * e + t)
            for d, e, t in zip(diagonal, state_row, r, strict=True)
        ]
        found = problem.eliminated(z)[row], problem.full(z)[row]
        for image, truth, bound in zip(found, (eliminated, full), bounds, strict=True):
            for one, other, allowed in zip(image, truth, bound[row], strict=True):
                off_by = abs(Fraction(one.item()) - other)
                assert off_by <= Fraction(allowed.item()), (row, float(off_by), allowed.item())


def test_rounding_of_one_adjoint_evaluation_is_bounded_entry_by_entry() -> None:
    W = in_float32(cancelling("identity")).W.T
    operator = Dense(torch.tensor(W, dtype=torch.float32))
    g = torch.randn(20, 1, generator=torch.Generator().manual_seed(0)).float()
    g = g * torch.tensor([1000.1, 676.7, 0.01], dtype=torch.float32)
    slope = torch.ones(20, 3, dtype=torch.float32)
    problem = AdjointProblem(
        Sweep(operator.off_diagonal()).transposed,
        operator.diagonal(),
        g,
        slope,
        prove_contraction(operator),
    )
    v = solve(problem, Picard(), 1e-3, 100).value
    bounds = problem.evaluation_error(v)
    diagonal = [Fraction(float(W[i, i])) for i in range(3)]
    for row in range(20):
        e, h = exact.to_fractions(v[row]), exact.to_fractions(g[row])
        t = [a + exact.dot(column, e) for a, column in zip(h, exact.to_fractions(W.T), strict=True)]
        off = [a - d * own for a, d, own in zip(t, diagonal, e, strict=True)]
        eliminated = [a / (1 - d) for a, d in zip(off, diagonal, strict=True)]
        found = problem.eliminated(v)[row], problem.full(v)[row]
        for image, truth, bound in zip(found, (eliminated, t), bounds, strict=True):
            for one, other, allowed in zip(image, truth, bound[row], strict=True):
                assert abs(Fraction(one.item()) - other) <= Fraction(allowed.item())


# The embedded network and the adjoints.


def embedded_problem(net: Network, low: Tensor, high: Tensor) -> PrimalProblem:
    return stored(net).embedded_problem(low, high)


@TABLE
@BOTH
@pytest.mark.parametrize(("tolerance", "max_steps"), [(1e-6, 300), (1, 2)])
def test_radius_of_the_embedded_network(
    net: Network, solver: Solver, tolerance: float, max_steps: int
) -> None:
    if not net.piecewise_linear or net.states > 3:
        return
    drive = torch.linspace(-1, 2, 3)[:, None] * torch.linspace(1, -0.5, net.states)
    low, high = drive - 0.25, drive + torch.linspace(0, 0.5, net.states)
    solution = solve(embedded_problem(net, low, high), solver, tolerance, max_steps)

    def truth(row: int) -> list[exact.Enclosure]:
        lo, hi = exact.embedded_fixed_point(
            net.W, np.eye(net.states), np.zeros(net.states), low[row], high[row], net.activation
        )
        return [(entry, entry) for entry in lo + hi]

    assert_radius_holds(solution, truth)


def adjoint_problem(net: Network, pair: bool, dtype: torch.dtype = torch.float64) -> AdjointProblem:
    """Slopes in [0, 1] and cotangents of every kind, for the state or for the pair of bounds."""
    W = Dense(torch.tensor(net.W)).to(dtype=dtype)
    off = W.off_diagonal()
    m = net.states * (2 if pair else 1)
    slope = (torch.arange(3 * m).reshape(3, m) % 5).to(dtype) / 4
    g = torch.linspace(-1, 1, 3 * m).reshape(3, m).to(dtype)
    g[2] = torch.eye(m, dtype=dtype)[0]
    hint = None if net.eta is None else torch.tensor(net.eta)
    contraction = prove_contraction(W, hint)
    sweep = Sweep(off, off.absolute() if pair else None).transposed
    return AdjointProblem(sweep, W.diagonal(), g, slope, contraction)


def exact_adjoint(net: Network, problem: AdjointProblem, row: int) -> list[exact.Enclosure]:
    """`v = g + J^T D v` by elimination, J = W or that of the embedded network."""
    W, b = exact.to_fractions(net.W), [Fraction(0)] * net.states
    pair = problem.g.shape[1] > net.states
    J = exact.embed(W, [[]] * net.states, b)[0] if pair else W
    slope, g = (exact.to_fractions(t[row]) for t in (problem.slope, problem.g))
    system = [[(i == j) - J[j][i] * slope[j] for j in range(len(J))] for i in range(len(J))]
    solved = exact.solve(system, [[entry] for entry in g])
    assert solved is not None
    return [(v[0], v[0]) for v in solved]


@TABLE
@BOTH
@pytest.mark.parametrize("pair", [False, True], ids=["state", "pair"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_radius_of_the_adjoint(
    net: Network, solver: Solver, pair: bool, dtype: torch.dtype, tolerance: float
) -> None:
    if dtype == torch.float32:
        net = in_float32(net)
        if not exact.exact_abscissa_below_one(net.W):
            return
    problem = adjoint_problem(net, pair, dtype)
    truth = [exact_adjoint(net, problem, row) for row in range(len(problem.g))]
    for max_steps in (1, 60):
        solution = solve(problem, solver, tolerance, max_steps)
        assert_radius_holds(solution, truth.__getitem__)
        assert_stopped_on_its_radius(solution, solver, problem, tolerance, max_steps)


# Which constant belongs to which residual (fact 4).


def saw() -> tuple[PrimalProblem, Tensor]:
    """W = [[-19, 19], [19, -19]] about its fixed point (20, 20)."""
    network = StoredNetwork.from_arrays(
        [[-19.0, 19.0], [19.0, -19.0]], [[1.0], [1.0]], [0.0, 0.0], [[1.0, 0.0]], [0.0]
    )
    return network.state_problem(torch.tensor([[20.0]])), torch.tensor([[20.0, 20.0]])


def test_the_eliminated_residual_has_its_own_constant() -> None:
    """An error of 1 leaves a residual of 1/20 there: over 1 - mu(W) = 1 it would prove 1/20."""
    problem, truth = saw()
    z = truth - 1
    residual = problem.eliminated(z) - z
    assert torch.allclose(residual, torch.full((1, 2), 0.05), rtol=1e-12)
    gap = problem.contraction.gap
    assert gap == pytest.approx(1)
    assert residual.abs().amax() / gap < 0.1  # the false bound, far below the error of 1
    assert problem.error_bound(residual).item() == pytest.approx(1, rel=1e-9)
    assert problem.error_bound(residual).item() >= 1 - 1e-12
    # The average iteration's residual is the other one, and 1 - mu(W) is its constant.
    full = problem.full(z) - z
    assert torch.allclose(full, torch.ones(1, 2), rtol=1e-12)
    assert problem.full_error_bound(full).item() == pytest.approx(1, rel=1e-9)


@BOTH
def test_one_step_from_the_counter_example(solver: Solver) -> None:
    problem, truth = saw()
    solution = solve(problem, solver, 1e-3, 1, truth - 1)
    assert (solution.value - truth).abs().amax().item() <= solution.radius.item()
    assert not bool(solution.converged.any())


# Rates.


def pairs(net: Network, m: int) -> tuple[Tensor, Tensor]:
    """Pairs of states: far apart, close, equal but for one entry, apart along eta."""
    generator = torch.Generator().manual_seed(0)
    eta = prove_contraction(Dense(torch.tensor(net.W))).eta.repeat(m // net.states)
    one = torch.randn(12, m, generator=generator) * eta
    other = one.clone()
    other[:5] += torch.randn(5, m, generator=generator) * eta
    other[5:9] += torch.eye(m)[torch.arange(4) % m] * eta
    other[9:] += torch.tensor([[1.0], [-2.0], [0.125]]) * eta
    return one, other


@TABLE
@BOTH
@pytest.mark.parametrize("embedded", [False, True], ids=["state", "embedded"])
def test_a_step_contracts_at_the_stated_rate(net: Network, solver: Solver, embedded: bool) -> None:
    if "1e30" in net.name or "denormal" in net.name:
        return  # differences of such states are rounding only
    one, other = pairs(net, net.states * (2 if embedded else 1))
    drive = torch.linspace(-2, 2, 12)[:, None] * torch.linspace(1, -0.5, net.states)
    network = stored(net)
    if embedded:
        problem: Problem = network.embedded_problem(drive - 0.25, drive + 0.5)
    else:
        problem = dataclasses.replace(network.state_problem(points(net)[:1]), drive=Drive(drive))
    eta = problem.contraction.eta.repeat(2 if embedded else 1)
    before = weighted_norm(one - other, eta)
    after = weighted_norm(solver.step(problem, one)[0] - solver.step(problem, other)[0], eta)
    rate = solver.rate(problem)
    assert 0 <= rate < 1
    slack = 1e-12 * (1 + weighted_norm(one, eta) + weighted_norm(other, eta))
    assert bool((after <= rate * before + slack).all())


@TABLE
@BOTH
def test_adjoint_steps_contract_in_the_dual_norm(net: Network, solver: Solver) -> None:
    """`sum_i eta_i |v_i|`, and in `(1 - W_ii D) v` for the eliminated form."""
    if "1e30" in net.name or "denormal" in net.name:
        return
    problem = adjoint_problem(net, pair=False)
    eta, rate = problem.contraction.eta, solver.rate(problem)
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 3, net.states, generator=generator) / eta
    scale = eta if solver == Average() else eta * (1 - problem.diagonal * problem.slope)
    before = ((one - other).abs() * scale).sum(1)
    difference = solver.step(problem, one)[0] - solver.step(problem, other)[0]
    after = (difference.abs() * scale).sum(1)
    assert bool((after <= rate * before * (1 + 1e-9) + 1e-12).all())


@pytest.mark.parametrize(
    ("W", "average", "picard"),
    [
        ([[0.0, 0.5], [0.5, 0.0]], 0.5, 0.5),
        ([[-3.0, 2.0], [2.0, -3.0]], 0.75, 0.5),  # mu = -1: alpha = 1/4, mu^+ = 0
        ([[-3.0, 3.5], [3.5, -3.0]], 0.875, 0.875),  # mu = 1/2
    ],
)
def test_rates_are_those_of_the_theorems(
    W: list[list[float]], average: float, picard: float
) -> None:
    network = StoredNetwork.from_arrays(
        W, [[1.0], [1.0]], [0.0, 0.0], [[1.0, 0.0]], [0.0], "identity", [1.0, 1.0]
    )
    problem = network.state_problem(torch.zeros(1, 1))
    assert Average().rate(problem) == pytest.approx(average, rel=1e-12)
    assert Picard().rate(problem) == pytest.approx(picard, rel=1e-12)
    half = Average(0.5 / (1 + max(0.0, -W[0][0])))
    assert half.rate(problem) == pytest.approx((1 + average) / 2, rel=1e-12)


def test_a_rate_can_be_attained() -> None:
    """Along eta, with W >= 0 and the identity, both theorems are equalities."""
    network = StoredNetwork.from_arrays(
        [[0.0, 4.0], [0.0625, 0.0]], [[1.0], [1.0]], [0.0, 0.0], [[1.0, 0.0]], [0.0], "identity",
        [8.0, 1.0],
    )  # fmt: skip
    problem = network.state_problem(torch.zeros(1, 1))
    eta = problem.contraction.eta
    assert torch.equal(eta, torch.tensor([8.0, 1.0]))
    for solver in SOLVERS.values():
        step = solver.step(problem, eta[None])[0] - solver.step(problem, 0 * eta[None])[0]
        assert weighted_norm(step[0], eta).item() == pytest.approx(solver.rate(problem), rel=1e-9)


# Average's step.


def scalar_problem(W: float) -> PrimalProblem:
    network = StoredNetwork.from_arrays([[W]], [[1.0]], [0.0], [[1.0]], [0.0])
    return network.state_problem(torch.tensor([[1.0]]))


@pytest.mark.parametrize("W", [0.5, 0.0, -1.0, -9.0])
def test_alpha_range_is_enforced(W: float) -> None:
    """The largest alpha is 1/(1 - min(W_ii, 0)): never above 1, however positive the diagonal."""
    problem = scalar_problem(W)
    largest = 1 / (1 - min(W, 0.0))
    z = torch.tensor([[3.0]])
    for alpha in (0.0, -0.1, largest * (1 + 1e-9), 2.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="alpha"):
            Average(alpha).step(problem, z)
        with pytest.raises(ConfigError, match="alpha"):
            Average(alpha).rate(problem)
    by_default, _ = Average().step(problem, z)
    assert torch.equal(Average(largest).step(problem, z)[0], by_default)
    expected = z + largest * ((W * z + 1).clamp(min=0) - z)
    assert torch.allclose(by_default, expected, rtol=1e-14)
    half, _ = Average(largest / 2).step(problem, z)
    assert torch.allclose(half, (z + expected) / 2, rtol=1e-14)


def test_a_larger_alpha_would_not_contract() -> None:
    """The bound on alpha is needed: at alpha = 1 and W = -9 the iteration diverges."""
    problem = scalar_problem(-9.0)
    z = torch.tensor([[0.1 + 1e-3]])
    assert (problem.full(z) - 0.1).abs().item() > 8.9e-3
    solution = solve(problem, Average(0.05), 1e-9, 1000)
    assert bool(solution.converged.all())
    assert solution.value.item() == pytest.approx(0.1, abs=1e-8)


# Solvers among themselves.


@TABLE
def test_average_and_picard_agree_to_their_radii(net: Network) -> None:
    network, x = stored(net), points(net)
    one = network.solve(x, 1e-5, 400, Average())
    other = network.solve(x, 1e-5, 400, Picard())
    gap = (one.value - other.value).abs().amax(1)
    bound = one.radius + other.radius
    assert bool(((gap <= bound) | ~bound.isfinite()).all())


@BOTH
def test_the_iterate_is_a_step_of_the_map(solver: Solver) -> None:
    """Steps count applications: k of them by hand lead to the same place."""
    problem = state_problem(CONTRACTING["elu"], points(CONTRACTING["elu"]))
    z = problem.start()
    assert torch.equal(z, problem.eliminated(torch.zeros(3, 3)))
    for k in range(1, 5):
        following, bound = solver.step(problem, z)
        solution = solve(problem, solver, 1e-30, k)
        assert torch.equal(solution.value, following)
        assert solution.steps.tolist() == [k] * 3
        change = solver.step(problem, following)[0] - following
        assert torch.equal(solution.residual, change.abs().amax(1))
        assert bool((solution.radius >= bound).all())
        z = following


# Samples of one batch.


@dataclasses.dataclass(frozen=True)
class Recorded(Solver):
    """Another solver, with every iterate that it was handed."""

    solver: Solver
    seen: list[Tensor] = dataclasses.field(default_factory=list)

    def step(self, problem: Problem, z: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(z.clone())
        return self.solver.step(problem, z)

    def resolution(self, problem: Problem, z: Tensor) -> Tensor:
        return self.solver.resolution(problem, z)

    def rounding(self, problem: Problem, z: Tensor) -> Tensor:
        return self.solver.rounding(problem, z)

    def rate(self, problem: Problem) -> float:
        return self.solver.rate(problem)


SLOW = StoredNetwork.from_arrays(
    [[0.0, 0.96875], [0.96875, 0.0]], [[1.0], [1.0]], [-1.0, -1.0], [[1.0, 0.0]], [0.0]
)  # z* = 0 for x <= 1, reached at once; above 1 it is 32 (x - 1), reached slowly
MIXED = torch.tensor([[0.5], [2.0], [-3.0], [1.03125], [1.0]])


@BOTH
def test_each_sample_stops_for_itself(solver: Solver) -> None:
    solution = SLOW.solve(MIXED, 1e-6, 5000, solver)
    assert bool(solution.converged.all())
    steps = solution.steps.tolist()
    assert steps[0] == steps[2] == steps[4] == 1
    assert steps[1] > steps[3] > 100  # the closer to 0 the earlier
    truth = 32 * (MIXED - 1).clamp(min=0).expand(5, 2)
    assert bool(((solution.value - truth).abs().amax(1) <= solution.radius).all())
    assert bool((solution.radius <= 1.001e-6).all())


@BOTH
def test_finished_samples_keep_their_bits(solver: Solver) -> None:
    recorded = Recorded(solver)
    solution = SLOW.solve(MIXED, 1e-6, 5000, recorded)
    assert len(recorded.seen) == int(solution.steps.max())
    for row, steps in enumerate(solution.steps.tolist()):
        for z in recorded.seen[steps:]:
            assert torch.equal(z[row], solution.value[row])
        if steps < len(recorded.seen):
            assert steps == 1 or not torch.equal(recorded.seen[steps - 1][row], solution.value[row])


@BOTH
def test_radius_and_residual_are_those_of_the_last_step_of_the_sample(solver: Solver) -> None:
    """Not of a step that a batch-mate needed after this sample had finished."""
    batch = SLOW.solve(MIXED, 1e-3, 5000, solver)
    for row in range(len(MIXED)):
        alone = SLOW.solve(MIXED[row : row + 1], 1e-3, 5000, solver)
        assert batch.steps[row] == alone.steps[0]
        assert batch.converged[row] == alone.converged[0]
        bound = batch.radius[row] + alone.radius[0]
        assert (batch.value[row] - alone.value[0]).abs().amax() <= bound
        assert batch.radius[row].item() == pytest.approx(alone.radius[0].item(), rel=1e-6)
        assert batch.residual[row].item() == pytest.approx(alone.residual[0].item(), rel=1e-6)


@BOTH
def test_mates_change_nothing(solver: Solver) -> None:
    net = CONTRACTING["feed-forward relu"]
    network = stored(net)
    x = torch.randn(6, net.inputs, generator=torch.Generator().manual_seed(3))
    other = x.clone()
    other[1:] = -100 * other[1:]
    one, two = (network.solve(rows, 1e-6, 500, solver) for rows in (x, other))
    assert torch.equal(one.value[0], two.value[0])
    assert one.steps[0] == two.steps[0]
    assert one.radius[0] == two.radius[0]


@BOTH
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_sample_never_converges_and_disturbs_nobody(solver: Solver, bad: float) -> None:
    """-inf drives both ReLUs to 0, a fixed point; NaN and +inf leave nothing to bound."""
    good = SLOW.state_problem(MIXED)
    u = good.u.clone()
    u[1] = bad
    clean = solve(good, solver, 1e-6, 5000)
    solution = solve(dataclasses.replace(good, drive=Drive(u)), solver, 1e-6, 5000)
    keep = torch.tensor([True, False, True, True, True])
    for part in ("value", "residual", "bound", "radius", "steps", "converged"):
        assert torch.equal(getattr(solution, part)[keep], getattr(clean, part)[keep])
    assert not bool(solution.radius[1] <= 1e300)
    if not bad < 0:
        assert not bool(solution.converged[1])
    assert not bool(solution.worst_radius <= 1e300)


@BOTH
def test_a_batch_of_nan_stops_at_once(solver: Solver) -> None:
    good = SLOW.state_problem(MIXED)
    solution = solve(
        dataclasses.replace(good, drive=Drive(good.u * torch.nan)), solver, 1e-6, 10**7
    )
    assert not bool(solution.converged.any())
    assert bool(solution.radius.isnan().all())
    assert int(solution.steps.max()) <= 2


@BOTH
def test_nan_that_appears_on_the_way_is_not_frozen_as_a_success(solver: Solver) -> None:
    start = torch.zeros(5, 2)
    start[3, 1] = torch.nan
    solution = solve(SLOW.state_problem(MIXED), solver, 1e-6, 5000, start)
    assert solution.converged.tolist() == [True, True, True, False, True]


@BOTH
def test_empty_batch(solver: Solver) -> None:
    solution = SLOW.solve(torch.zeros(0, 1), 1e-6, 10, solver)
    assert solution.value.shape == (0, 2)
    for part in (solution.radius, solution.residual, solution.steps, solution.converged):
        assert part.shape == (0,)
    assert solution.mean_steps == 0
    assert solution.worst_radius == 0
    assert bool(solution.converged.all())


# Limits and starts.


@BOTH
def test_a_single_step(solver: Solver) -> None:
    solution = SLOW.solve(MIXED, 1e-6, 1, solver)
    assert solution.steps.tolist() == [1] * 5
    assert solution.converged.tolist() == [True, False, True, False, True]
    truth = 32 * (MIXED - 1).clamp(min=0).expand(5, 2)
    assert bool(((solution.value - truth).abs().amax(1) <= solution.radius).all())
    assert solution.converged.dtype == torch.bool
    assert solution.steps.dtype == torch.int64


@TABLE
@BOTH
def test_a_warm_start_at_the_solution_stops_in_one_step(net: Network, solver: Solver) -> None:
    x = points(net)
    cold = stored(net).solve(x, 1e-7, 300, Picard())
    done = cold.converged
    problem = stored(net).state_problem(x[done])
    start = cold.value[done]
    before = start.clone()
    # The other form's residual may be larger, though by no more than 2 - W_ii in a row.
    widened = 1e-7 * float((2 - problem.diagonal).amax()) * 10
    eta = problem.contraction.eta
    widened *= float(eta.amax() / eta.amin()) / problem.contraction.gap
    warm = solve(problem, solver, widened, 300, start)
    assert torch.equal(start, before)
    assert warm.steps.tolist() == [1] * len(start)
    assert bool(warm.converged.all())


@BOTH
def test_a_start_far_away_leads_to_the_same_point(solver: Solver) -> None:
    problem = SLOW.state_problem(MIXED)
    far = torch.full((5, 2), 1e3)
    one, other = solve(problem, solver, 1e-6, 5000), solve(problem, solver, 1e-6, 5000, far)
    assert bool(other.converged.all())
    assert bool(((one.value - other.value).abs().amax(1) <= one.radius + other.radius).all())
    assert other.steps[0] > 1


@pytest.mark.parametrize("tolerance", [0.0, -1e-3, float("nan"), float("-inf")])
def test_a_tolerance_that_nothing_meets(tolerance: float) -> None:
    with pytest.raises(ConfigError, match="tolerance"):
        SLOW.solve(MIXED, tolerance)


@pytest.mark.parametrize("max_steps", [0, -3])
def test_at_least_one_step(max_steps: int) -> None:
    with pytest.raises(ConfigError, match="max_steps"):
        SLOW.solve(MIXED, 1e-3, max_steps)


def test_means_over_the_batch() -> None:
    solution = SLOW.solve(MIXED, 1e-3, 7, Picard())
    assert solution.steps.tolist() == [1, 7, 1, 7, 1]
    assert solution.mean_steps == pytest.approx(17 / 5)
    assert solution.worst_radius == solution.radius[1].item() > solution.radius[3].item()
    lost = dataclasses.replace(solution, bound=solution.bound * torch.nan)
    assert np.isnan(lost.worst_radius)


# Advice.


@BOTH
@pytest.mark.parametrize("tolerance", [1e-2, 1e-8])
def test_the_steps_advised_suffice(solver: Solver, tolerance: float) -> None:
    problem = SLOW.state_problem(MIXED)
    first = solve(problem, solver, tolerance, 20)
    hint = advice(problem, solver, first, tolerance)
    found = re.search(r"stopped after (\d+) steps .* at most about (\S+) more", hint)
    assert found is not None
    assert int(found[1]) == 20
    more = float(found[2])
    assert more < 3000
    again = solve(problem, solver, tolerance, 20 + int(1.01 * more) + 1)
    assert bool(again.converged.all())
    assert "tolerance" in hint
    assert "max_steps" in hint


@BOTH
def test_advice_on_a_lost_solve_looks_elsewhere(solver: Solver) -> None:
    good = SLOW.state_problem(MIXED)
    problem = dataclasses.replace(good, drive=Drive(good.u * torch.nan))
    hint = advice(problem, solver, solve(problem, solver, 1e-6, 10), 1e-6)
    assert "NaN" in hint
    assert "weights" in hint


@BOTH
def test_advice_where_the_rate_rounds_to_one(solver: Solver) -> None:
    """alpha = 1/(1 + 1e17): the average iteration's rate is 1 in float64."""
    network = StoredNetwork.from_arrays(
        [[-1e17, 5e16], [5e16, -1e17]], [[1.0], [1.0]], [1.0, 1.0], [[1.0, 0.0]], [0.0]
    )
    problem = network.state_problem(torch.tensor([[1.0]]))
    solution = solve(problem, solver, 1e-30, 1)
    assert not bool(solution.converged.any())
    assert "max_steps" in advice(problem, solver, solution, 1e-30)
