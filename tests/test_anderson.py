"""Anderson acceleration: Picard's guarantees, and far fewer steps where Picard is slow."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import networks
from equicert.bounds import Interval
from equicert.boxes import Box
from equicert.contraction import prove_contraction
from equicert.errors import ConfigError
from equicert.operators import Dense
from equicert.problems import AdjointProblem, Sweep
from equicert.solvers import Anderson, Picard, solve
from equicert.stored import StoredNetwork
from networks import CONTRACTING, Network
from test_solvers import (
    TABLE,
    adjoint_problem,
    assert_radius_holds,
    exact_adjoint,
    points,
    state,
    state_problem,
    stored,
)

VARIANTS = [Anderson(delay=0), Anderson(memory=1, delay=2), Anderson(memory=5, delay=0)]
EVERY = pytest.mark.parametrize("solver", VARIANTS, ids=str)


def slow(gamma: float, n: int = 12) -> StoredNetwork:
    """Non-negative couplings whose row sums are gamma: they contract at that rate, no faster."""
    W = torch.rand(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W = gamma * W.fill_diagonal_(0) / W.sum(1, keepdim=True)
    U = torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    b = torch.zeros(n, dtype=torch.float64)
    return StoredNetwork.from_arrays(W, U, b, torch.eye(n)[:2].double(), b[:2])


@TABLE
@EVERY
@pytest.mark.parametrize(("tolerance", "max_steps"), [(1e-6, 300), (1e-3, 15), (1, 1)])
def test_radius_bounds_the_error(
    net: Network, solver: Anderson, tolerance: float, max_steps: int
) -> None:
    x = points(net)
    solution = solve(stored(net).state_problem(x), solver, tolerance, max_steps)
    assert_radius_holds(solution, lambda row: state(net, tuple(x[row].tolist())))


@given(
    networks.contracting_networks(activations=networks.PIECEWISE_LINEAR),
    st.sampled_from(VARIANTS),
    st.integers(1, 30),
)
def test_radius_of_drawn_networks(net: Network, solver: Anderson, max_steps: int) -> None:
    x = points(net)
    solution = solve(state_problem(net, x), solver, 1e-7, max_steps)
    assert_radius_holds(solution, lambda row: state(net, tuple(x[row].tolist())))


@TABLE
@EVERY
def test_adjoints_too(net: Network, solver: Anderson) -> None:
    problem = adjoint_problem(net, pair=True)
    truth = [exact_adjoint(net, problem, row) for row in range(len(problem.g))]
    assert_radius_holds(solve(problem, solver, 1e-6, 60), truth.__getitem__)


@EVERY
@pytest.mark.parametrize("gamma", [0.5, 0.99, 0.998])
def test_what_is_slow_becomes_fast(solver: Anderson, gamma: float) -> None:
    network, x = slow(gamma), torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    plain = network.solve(x, 1e-8, 30_000, Picard())
    mixed = network.solve(x, 1e-8, 500, solver)
    assert bool(plain.converged.all())
    assert bool(mixed.converged.all())
    gap = (plain.value - mixed.value).abs().amax(1)
    assert bool((gap <= plain.radius + mixed.radius).all())
    if gamma > 0.9:
        assert mixed.mean_steps < plain.mean_steps / 10


def test_slow_adjoints_become_fast() -> None:
    W = slow(0.999).W.dense()
    problem = AdjointProblem(
        Sweep(Dense(W).off_diagonal()).transposed,
        W.diagonal(),
        torch.randn(4, 12, generator=torch.Generator().manual_seed(0)).double(),
        torch.ones(4, 12, dtype=torch.float64),
        prove_contraction(Dense(W)),
    )
    plain, mixed = (solve(problem, s, 1e-8, 50_000) for s in (Picard(), Anderson()))
    assert bool(mixed.converged.all())
    assert mixed.mean_steps < plain.mean_steps / 10
    assert bool(((plain.value - mixed.value).abs().amax(1) <= plain.radius + mixed.radius).all())


def test_it_is_picard_until_its_delay_is_over() -> None:
    network, x = slow(0.99), torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    for steps in (1, 7, 12):
        one, other = (network.solve(x, 1e-12, steps, s) for s in (Picard(), Anderson(delay=12)))
        assert torch.equal(one.value, other.value)
        assert torch.equal(one.bound, other.bound)


@EVERY
def test_mates_change_values_within_the_radius_only(solver: Anderson) -> None:
    network, x = slow(0.99), torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    other = x.clone()
    other[1:] *= -100
    other[2] = torch.nan
    problems = [network.state_problem(x), network.state_problem(other.nan_to_num(1e6))]
    one, two = (solve(problem, solver, 1e-9, 500) for problem in problems)
    assert bool(one.converged.all())
    assert (one.value[0] - two.value[0]).abs().amax() <= one.radius[0] + two.radius[0]


@EVERY
def test_a_bad_sample_is_not_converged_and_disturbs_nobody(solver: Anderson) -> None:
    good = slow(0.9).state_problem(torch.ones(3, 3))
    u = good.u.clone()
    u[1] = torch.nan
    drive = good.drive._replace(centre=u)
    solution = solve(dataclasses.replace(good, drive=drive), solver, 1e-8, 400)
    assert solution.converged.tolist() == [True, False, True]


def test_certification_near_mu_1() -> None:
    """Where Picard would need about 10^6 steps, the box is found, and proved."""
    network = slow(0.99999)
    box = Box.around(torch.zeros(4, 3, dtype=torch.float64), 1e-3)
    state_box = Interval().state_box(network, box)
    assert bool(state_box.proved.all())
    assert state_box.reason == ("",) * 4


def test_the_memory_does_not_grow_with_the_steps() -> None:
    solver = Anderson(memory=2, delay=0)
    problem = CONTRACTING["softplus"]
    made = solver.stepper(stored(problem).state_problem(points(problem)))
    z = torch.zeros(3, problem.states, dtype=torch.float64)
    for _ in range(50):
        z, _ = made(z)
    assert len(made.history) == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(("memory", "delay"), [(0, 1), (-1, 1), (1, -1)])
def test_settings_are_checked(memory: int, delay: int) -> None:
    with pytest.raises(ConfigError, match="Anderson needs"):
        Anderson(memory, delay)
