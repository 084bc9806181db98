"""Block-triangular equations by stages: order, solutions, radii and adjoints, against the whole."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import exact
from equicert.activations import parse_activation
from equicert.bounds import Interval
from equicert.boxes import Box
from equicert.errors import ModelError
from equicert.operators import Blocks, Dense, stacked
from equicert.problems import AdjointProblem, ContractingProblem
from equicert.solution import Solution
from equicert.solvers import Anderson, Average, Picard, Solver, solve
from equicert.stored import StoredNetwork

SOLVERS: list[Solver] = [Picard(), Anderson(), Average()]
Place = tuple[int, int, int, int]  # row, column, size


def sixteenths(*shape: int, seed: int, bound: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-bound, bound + 1, shape, generator=generator).double() / 16


# Places of blocks; those on the diagonal make an implicit stage.
LAYOUTS: dict[str, tuple[list[Place], int]] = {  # and how many stages
    "lower": ([(0, 0, 2, 2), (2, 0, 2, 2), (2, 2, 2, 2), (4, 2, 1, 2)], 3),
    "upper": ([(0, 0, 2, 2), (0, 2, 2, 2), (2, 2, 2, 2), (2, 4, 2, 1)], 3),
    "skipping": ([(0, 0, 2, 2), (2, 0, 1, 2), (3, 0, 2, 2), (3, 2, 2, 1), (3, 3, 2, 2)], 3),
    "explicit only": ([(2, 0, 2, 2), (4, 2, 1, 2)], 3),
    "one stage": ([(0, 0, 5, 5)], 1),
    "alone at the end": ([(3, 3, 2, 2)], 2),
    "two rows of stages at once": ([(0, 0, 1, 1), (1, 1, 1, 1), (2, 0, 3, 2), (2, 2, 3, 3)], 3),
    "written in two stages": ([(0, 0, 1, 1), (1, 0, 4, 1), (1, 1, 2, 2), (3, 1, 2, 2)], 3),
    "a cycle": ([(0, 2, 2, 3), (2, 0, 3, 2)], 0),
    "read in part": ([(0, 0, 3, 3), (3, 1, 2, 2)], 0),
    "in an order of their own": ([(0, 1, 1, 1), (2, 1, 1, 1), (3, 4, 1, 1), (4, 2, 1, 1)], 0),
}
EACH = pytest.mark.parametrize("name", LAYOUTS)


def blocks(name: str, seed: int = 0) -> Blocks:
    """Row sums of what is not diagonal below 1/2 within a stage, and beyond 1 between stages."""
    made = []
    for k, (row, column, n, m) in enumerate(LAYOUTS[name][0]):
        strong = row != column and LAYOUTS[name][1]
        A = sixteenths(n, m, seed=seed + k, bound=16 if strong else 8 // m)
        if row == column:
            A -= torch.diag(torch.linspace(0.25, 1.5, n).mul(16).round() / 16)
        made.append((row, column, Dense(A)))
    return stacked((5, 5), made)


def network(W: Blocks | Dense, activation: str = "relu", seed: int = 0) -> StoredNetwork:
    U, b = sixteenths(5, 2, seed=seed + 90, bound=16), sixteenths(5, seed=seed + 91, bound=8)
    phi = parse_activation(activation)
    return StoredNetwork(W, Dense(U), b, torch.eye(2, 5), torch.zeros(2), phi)


def points(seed: int = 0) -> Tensor:
    return sixteenths(3, 2, seed=seed + 92, bound=16)


def unstaged(problem: ContractingProblem, solver: Solver, tolerance: float) -> Solution:
    return solve(problem, solver, tolerance, 10_000, start=problem.start())


@EACH
def test_every_block_is_read_once_when_its_states_are_known(name: str) -> None:
    W = blocks(name)
    stages = W.stages
    assert len(stages) == LAYOUTS[name][1]
    known: set[int] = set()
    seen = []
    for stage in stages:
        known |= set(range(stage.span.start, stage.span.stop))
        seen += [block.A for block in stage.after] + ([stage.own] if stage.own else [])
        for block in stage.after:
            assert set(range(block.columns.start, block.columns.stop)) <= known
            assert not known & set(range(block.rows.start, block.rows.stop))
    if stages:
        assert known == set(range(5))
        assert sorted(map(id, seen)) == sorted(id(block.A) for block in W.blocks)


def test_blocks_that_meet_the_diagonal_are_no_weights() -> None:
    """A file with them is refused when it is read, by name."""
    with pytest.raises(
        ModelError, match=r"the block at 1\+2 meets the diagonal without lying on it"
    ):
        network(stacked((5, 5), [(1, 2, Dense(torch.ones(2, 2)))]))


def test_one_operator_may_stand_in_two_places() -> None:
    A = Dense(sixteenths(2, 2, seed=3, bound=4))
    W = stacked((4, 4), [(0, 0, A), (2, 0, A), (2, 2, A)])
    first, second = W.stages
    assert first.own is A
    assert second.own is A
    assert [block[:2] for block in first.after] == [(2, 0)]


@EACH
@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.25)", "hard_tanh"])
def test_radii_bound_the_exact_error(name: str, activation: str) -> None:
    """Of a solve by stages and of one of all states at once, at every tolerance."""
    held, x = network(blocks(name), activation), points()
    W, U, b = held.W.dense().numpy(), held.U.dense().numpy(), held.b.numpy()
    truth = [exact.fixed_point(W, U, b, row.numpy(), activation) for row in x]
    problem = held.state_problem(x)
    for solver, tolerance in itertools.product(SOLVERS, (1e-1, 1e-5, 1e-13)):
        for found in (solve(problem, solver, tolerance, 10_000), unstaged(problem, solver, 1e-9)):
            assert bool(found.converged.all())
            for z, radius, z_exact in zip(found.value, found.radius, truth, strict=True):
                error = max(abs(Fraction(float(a)) - e) for a, e in zip(z, z_exact, strict=True))
                assert error <= Fraction(float(radius))
        staged = solve(problem, solver, tolerance, 10_000)
        assert bool((staged.bound <= tolerance * (1 + 1e-9)).all())


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_what_later_stages_magnify_is_in_the_radius(solver: Solver) -> None:
    """A block solved to a tenth, and a layer behind it that takes it 64 times."""
    W = stacked(
        (5, 5),
        [(0, 0, Dense(0.5 * torch.eye(2).flip(0))), (2, 0, Dense(torch.full((3, 2), 64.0)))],
    )
    held, x = network(W), points()
    u = torch.ones(1, 5)
    found = solve(held.driven_problem(u), solver, 0.1, 1000)
    error = (found.value - torch.tensor([[2.0, 2.0, 257.0, 257.0, 257.0]])).abs().amax(-1)
    assert bool((error <= found.radius).all())
    assert bool((error <= 0.1).all())
    assert float(solve(held.state_problem(x), solver, 0.1, 1000).bound.amax()) <= 0.1 + 1e-12


@given(
    name=st.sampled_from(list(LAYOUTS)),
    seed=st.integers(0, 2**16),
    solver=st.sampled_from(SOLVERS),
    activation=st.sampled_from(["tanh", "softplus", "leaky_relu(0.25)"]),
)
def test_stages_solve_pairs_and_adjoints_to_the_tolerance(
    name: str, seed: int, solver: Solver, activation: str
) -> None:
    """What is left of the error is within the radius, which keeps to what was asked for."""
    held = network(blocks(name, seed), activation, seed)
    whole = network(Dense(held.W.dense()), activation, seed)
    lo, hi = (held.drive_bounds(points(seed) + d, points(seed) + d)[0] for d in (-0.25, 0.25))
    low, high = torch.minimum(lo, hi), torch.maximum(lo, hi)
    problem, plain = (net.embedded_problem(low, high) for net in (held, whole))
    z = unstaged(plain, Anderson(), 1e-13)
    slope = plain.slope(z.value, image=True)
    g = sixteenths(*z.value.shape, seed=seed, bound=16)
    adjoints = [
        AdjointProblem(p.sweep.transposed, p.diagonal, g, slope, p.contraction)
        for p in (problem, plain)
    ]
    v = unstaged(adjoints[1], Anderson(), 1e-13)
    for form, truth in ((problem, z), (adjoints[0], v)):
        for tolerance in (1e-2, 1e-8):
            found = solve(form, solver, tolerance, 10_000)
            assert bool(found.converged.all())
            error = (found.value - truth.value).abs().amax(-1)
            assert bool((error <= found.radius + truth.radius).all())
            assert bool((found.bound <= tolerance * (1 + 1e-9)).all())


@EACH
def test_batch_mates_do_not_matter(name: str) -> None:
    held, x = network(blocks(name), "tanh"), points()
    together = held.solve(x, 1e-6)
    for row in range(3):
        alone = held.solve(x[row : row + 1], 1e-6)
        assert torch.allclose(alone.value[0], together.value[row], rtol=0, atol=1e-15)
        assert alone.steps[0] == together.steps[row]


@EACH
def test_state_boxes_are_those_of_the_matrix(name: str) -> None:
    held = network(blocks(name))
    whole = network(Dense(held.W.dense()))
    box = Box.around(points(), 0.125)
    found, wanted = (Interval().state_box(net, box) for net in (held, whole))
    assert bool(found.proved.all())
    torch.testing.assert_close(found.lo, wanted.lo, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.hi, wanted.hi, rtol=0, atol=1e-6)


def test_what_is_not_finite_or_not_done_is_not_converged() -> None:
    held = network(blocks("lower"))
    x = points()
    problem = held.driven_problem(torch.tensor([[torch.nan] * 5, [1.0] * 5]))
    found = solve(problem, Picard(), 1e-6, 1000)
    assert found.converged.tolist() == [False, True]
    assert found.radius.isnan().tolist() == [True, False]
    short = solve(held.state_problem(x), Average(), 1e-9, 1)
    assert not bool(short.converged.any())
    assert bool((short.bound > 1e-9).all())
    deep = network(blocks("explicit only")).driven_problem(torch.full((1, 5), torch.inf))
    lost = solve(deep, Picard(), 1e-6, 10)
    assert not bool(lost.converged.any())
    assert bool(lost.bound.isnan().all())


@EACH
def test_empty_batches_have_solutions(name: str) -> None:
    held, none = network(blocks(name)), points()[:0]
    assert solve(held.state_problem(none), Picard(), 1e-6, 10).value.shape == (0, 5)
    pair = held.embedded_problem(*held.drive_bounds(none, none))
    assert solve(pair, Picard(), 1e-6, 10).value.shape == (0, 10)
