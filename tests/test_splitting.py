"""Splitting methods: they agree with one another and with the truth, to within their radius."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import exact
from equicert.activations import parse_activation
from equicert.errors import ConfigError, NotConvergedError, NotMonotoneError
from equicert.network import ImplicitNetwork
from equicert.problems import MonotoneProblem
from equicert.solution import Solution
from equicert.solvers import (
    Anderson,
    Average,
    ForwardBackward,
    PeacemanRachford,
    Picard,
    Solver,
    solve,
)
from equicert.stored import StoredNetwork
from equicert.weights import Free
from monotone_networks import (
    MONOTONE,
    NOT_MONOTONE,
    STIFF,
    monotone_networks,
    stored,
    with_activation,
)
from networks import ACTIVATIONS, PIECEWISE_LINEAR, Network

SPLITTINGS = (ForwardBackward(), PeacemanRachford())
TABLE = pytest.mark.parametrize("net", MONOTONE.values(), ids=str)
SOLVERS = pytest.mark.parametrize("solver", SPLITTINGS, ids=repr)


def points(net: Network, count: int = 4) -> Tensor:
    return torch.linspace(-2, 2, count)[:, None] * torch.linspace(1, -0.5, net.inputs)


def assert_radius_holds(net: Network, x: Tensor, solution: Solution) -> None:
    for row in range(len(x)):
        radius = float(solution.radius[row])
        if not np.isfinite(radius):
            assert not solution.converged[row]
            continue
        truth = exact.fixed_point(net.W, net.U, net.b, x[row], net.activation)
        found = exact.to_fractions(solution.value[row])
        error = max(abs(a - b) for a, b in zip(found, truth, strict=True))
        assert error <= Fraction(radius), f"row {row}: {float(error):.6g} > {radius:.6g}"


@pytest.mark.parametrize("net", [*MONOTONE.values(), *STIFF.values()], ids=str)
@SOLVERS
@pytest.mark.parametrize("activation", PIECEWISE_LINEAR)
@pytest.mark.parametrize("max_steps", [1, 60])
def test_radius_bounds_the_error(
    net: Network, solver: Solver, activation: str, max_steps: int
) -> None:
    net, x = with_activation(net, activation), points(net)
    solution = stored(net).solve(x, 1e-9, max_steps, solver)
    assert_radius_holds(net, x, solution)


@settings(max_examples=15)
@given(monotone_networks(activations=PIECEWISE_LINEAR), st.integers(1, 60), st.integers(0, 1))
def test_radius_bounds_the_error_of_any_network(net: Network, max_steps: int, which: int) -> None:
    x = points(net, 2)
    solution = stored(net).solve(x, 1e-10, max_steps, SPLITTINGS[which])
    assert_radius_holds(net, x, solution)


@settings(max_examples=15)
@given(monotone_networks(activations=PIECEWISE_LINEAR), st.floats(-10, 10), st.floats(0.01, 5))
def test_no_start_and_no_step_size_makes_a_radius_false(
    net: Network, start: float, alpha: float
) -> None:
    network, x = stored(net), points(net, 2)
    problem = network.monotone_problem(x)
    begin = torch.full((2, net.states), start)
    for solver in (ForwardBackward(alpha), PeacemanRachford(alpha)):
        assert_radius_holds(net, x, solve(problem, solver, 1e-9, 5, begin))


@settings(max_examples=15)
@given(monotone_networks(activations=PIECEWISE_LINEAR))
def test_radius_in_float32_bounds_the_error(net: Network) -> None:
    made = module(net, torch.float32)
    x = points(net, 2).float()
    solution = made.solve(x)
    W, U, b = (p.detach().numpy() for p in (made.weight().dense(), made.U, made.b))
    single = dataclasses.replace(net, W=W, U=U, b=b)
    assert_radius_holds(single, x, solution)


@TABLE
@SOLVERS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_solver_converges_to_the_same_point(
    net: Network, solver: Solver, activation: str
) -> None:
    network, x = stored(net, activation), points(net)
    skew = network.splitting.largest / network.monotone.m
    if skew > (10 if solver == ForwardBackward() else 100):
        return  # thousands of steps and more, whose radii are tested above
    solution = network.solve(x, 1e-8, 3_000, solver)
    other = network.solve(x, 1e-8, 3_000, PeacemanRachford())
    assert bool(solution.converged.all() & other.converged.all())
    distance = (solution.value - other.value).abs().amax(1)
    assert bool((distance <= solution.radius + other.radius).all())
    assert solution.worst_radius <= 1e-6


@settings(max_examples=15)
@given(monotone_networks())
def test_solvers_of_both_forms_agree(net: Network) -> None:
    network, x = stored(net), points(net, 2)
    if not exact.exact_abscissa_below_one(net.W + 1e-6 * np.eye(net.states)):
        return
    one = network.solve(x, 1e-7, solver=Anderson())
    other = network.solve(x, 1e-7, solver=PeacemanRachford())
    assert bool(((one.value - other.value).abs().amax(1) <= one.radius + other.radius).all())


def test_dividing_the_residual_of_the_map_by_m_would_be_false() -> None:
    """Fact 4(b)'s trap, W = -19: at z = 1.2 the map's residual over m is 0.06, the error 0.2."""
    net = MONOTONE["trap of fact 4"]
    network = stored(net)
    problem = network.monotone_problem(torch.zeros(1, 2))
    problem = MonotoneProblem(
        problem.splitting, torch.tensor([[20.0]]), problem.u_error, problem.response
    )
    z, truth = torch.tensor([[1.2]]), 1.0
    image = problem.response.phi(problem.preactivation(z))
    false_radius = float((image - z).abs()) / network.monotone.m
    assert false_radius < abs(1.2 - truth)
    for t in (-3.0, 0.0, 0.9, 1.2, 40.0):
        landed, _, bound = problem.land(torch.tensor([[t]]))
        assert abs(float(landed) - truth) <= float(bound)
    for solver in SPLITTINGS:
        following, bound = solver.step(problem, z)
        assert abs(float(following) - truth) <= float(bound)


@TABLE
def test_the_proximal_operator_solves_its_equation(net: Network) -> None:
    """z = prox^alpha(v) says (v - z)/alpha + z = t with phi(t) = z."""
    v = torch.linspace(-6, 6, 4 * net.states).view(4, -1)
    for activation in ACTIVATIONS:
        problem = stored(net, activation).monotone_problem(points(net))
        for alpha in (0.02, 0.5, 1.0, 3.0):
            z = problem.prox(v, alpha)
            image = problem.response.phi(z + (v - z) / alpha)
            assert torch.allclose(image, z, atol=1e-9, rtol=1e-9), (activation, alpha)


def test_rates_bound_what_is_seen() -> None:
    """Each step shrinks the Lambda-distance of two starts at least by the stated rate."""
    net = MONOTONE["monotone"]
    network = stored(net)
    problem = network.monotone_problem(points(net))
    solver = ForwardBackward()
    one, other = torch.randn(4, 3), torch.randn(4, 3)
    before = torch.linalg.vector_norm(one - other, dim=1)
    after = torch.linalg.vector_norm(
        solver.step(problem, one)[0] - solver.step(problem, other)[0], dim=1
    )
    assert 0 < solver.rate(problem) < 1
    assert 0 < PeacemanRachford().rate(problem) < solver.rate(problem)
    assert bool((after <= solver.rate(problem) * before * (1 + 1e-9)).all())


def test_samples_do_not_depend_on_who_shares_the_batch() -> None:
    network, x = stored(MONOTONE["lben"]), points(MONOTONE["lben"], 5)
    x[2] *= 1e6
    for solver in SPLITTINGS:
        together = network.solve(x, 1e-8, solver=solver)
        for row in range(5):
            alone = network.solve(x[row], 1e-8, solver=solver)
            gap = (alone.value[0] - together.value[row]).abs().amax()
            assert float(gap) <= float(alone.radius[0] + together.radius[row])


@SOLVERS
def test_an_empty_batch_and_a_nan(solver: Solver) -> None:
    network = stored(MONOTONE["lben"])
    assert network.solve(torch.zeros(0, 2), solver=solver).worst_radius == 0
    problem = network.monotone_problem(torch.zeros(2, 2))
    u = problem.u.clone()
    u[0, 0] = torch.nan
    broken = MonotoneProblem(problem.splitting, u, lambda: torch.zeros_like(u), problem.response)
    solution = solve(broken, solver, 1e-6, 500)
    assert solution.converged.tolist() == [False, True]


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.nan, np.inf])
def test_step_sizes_that_are_none_are_refused(alpha: float) -> None:
    for kind in (ForwardBackward, PeacemanRachford):
        with pytest.raises(ConfigError, match="alpha must be positive"):
            kind(alpha)


def test_a_solver_of_the_other_form_is_refused() -> None:
    network = stored(MONOTONE["lben"])
    x = torch.zeros(1, 2)
    for solver in (Picard(), Anderson(), Average()):
        with pytest.raises(ConfigError, match="PeacemanRachford"):
            solve(network.monotone_problem(x), solver, 1e-6, 10)
    both = stored(MONOTONE["saw of fact 4"], "tanh")
    contracting = StoredNetwork.from_arrays(
        -np.eye(1), np.ones((1, 1)), np.zeros(1), np.ones((1, 1)), np.zeros(1)
    )
    for solver in SPLITTINGS:
        with pytest.raises(ConfigError, match="Picard"):
            solve(contracting.state_problem(torch.zeros(1, 1)), solver, 1e-6, 10)
        assert bool(both.solve(x, 1e-6, solver=solver).converged.all())


def test_a_splitting_of_what_is_not_monotone_is_refused() -> None:
    network = stored(NOT_MONOTONE["contracting at its eta only"])
    assert bool(network.solve(torch.zeros(1, 2)).converged.all())
    with pytest.raises(NotMonotoneError):
        network.solve(torch.zeros(1, 2), solver=PeacemanRachford())


def test_advice_names_what_helps() -> None:
    network = stored(MONOTONE["strong rotation"], "tanh")
    with pytest.raises(NotConvergedError, match="raise m"):
        ImplicitNetwork.from_stored(network, max_steps=2)(torch.ones(1, 2))


# The module: gradients.


def module(net: Network, dtype: torch.dtype = torch.float64) -> ImplicitNetwork:
    Lambda = np.ones(net.states) if net.eta is None else net.eta
    weight = Free(torch.tensor(net.W), Lambda=torch.tensor(Lambda))
    made = ImplicitNetwork(
        net.inputs,
        net.states,
        net.outputs,
        activation=parse_activation(net.activation),
        weight=weight,
        tolerance=1e-10 if dtype == torch.float64 else 1e-4,
        max_steps=3_000,
    ).to(dtype)
    with torch.no_grad():
        for name, value in zip("UbCc", net.arrays[1:], strict=True):
            getattr(made, name).copy_(torch.tensor(value))
    return made


SMALL = [MONOTONE[name] for name in ("rotation", "lben", "one state")]


@pytest.mark.parametrize("net", SMALL, ids=str)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gradients_agree_with_finite_differences(net: Network, activation: str) -> None:
    made = module(with_activation(net, activation))
    x = points(net, 2).add(0.037).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, W, U, b: torch.func.functional_call(made, {"weight.W": W, "U": U, "b": b}, (x,)),
        (x, made.weight.get_parameter("W"), made.U, made.b),
        eps=1e-5,
        atol=1e-4,
    )


@pytest.mark.parametrize("net", SMALL, ids=str)
@pytest.mark.parametrize("solver", [ForwardBackward(), PeacemanRachford()], ids=repr)
def test_gradients_agree_with_unrolled_autograd(net: Network, solver: Solver) -> None:
    made = module(net)
    made.solver = solver
    x = points(net, 3)
    made(x).square().sum().backward()
    implicit = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    made.zero_grad()
    alpha = ForwardBackward().size(stored(net).monotone_problem(x))
    W, z = made.weight().dense(), torch.zeros(3, net.states)
    for _ in range(1500):
        z = (z + alpha * (z @ W.mT + x @ made.U.mT + made.b - z)).relu()
    made.read_out(z).square().sum().backward()
    for name, p in made.named_parameters():
        assert p.grad is not None
        assert torch.allclose(p.grad, implicit[name], atol=1e-7, rtol=1e-6), name


@pytest.mark.parametrize("net", SMALL, ids=str)
def test_storing_and_loading_keep_weights_and_proof(net: Network) -> None:
    network = module(net).store()
    assert np.array_equal(network.W.dense().numpy(), net.W)
    assert network.Lambda is not None
    again = ImplicitNetwork.from_stored(network)
    x = points(net)
    assert torch.allclose(again(x), network.predict(x), atol=1e-7)


def test_the_foreign_network_classifies_as_published(
    foreign: StoredNetwork, mnist_test: tuple[Tensor, Tensor]
) -> None:
    x, labels = mnist_test
    y = foreign.predict(x, 1e-6)
    assert float((y.argmax(1) == labels).double().mean()) == pytest.approx(0.9560, abs=1e-12)
    few = x[:100]
    one = foreign.solve(few, 1e-9, solver=ForwardBackward())
    other = foreign.solve(few, 1e-9, solver=PeacemanRachford())
    assert bool(((one.value - other.value).abs().amax(1) <= one.radius + other.radius).all())
