"""The compiled loops against the tensor operations that do the same work elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import networks
from equicert import kernels
from equicert.activations import parse_activation
from equicert.network import ImplicitNetwork
from equicert.problems import AdjointProblem, Drive, Sweep
from equicert.problems.sweep import centres_and_widths
from equicert.solvers import Anderson, Average, Picard, Solver, solve
from equicert.stored import StoredNetwork

TYPES = (torch.float32, torch.float64)
KINDS = ("state", "pair", "both")
SOLVERS: dict[str, Solver] = {"picard": Picard(), "average": Average(), "anderson": Anderson(2, 1)}


def without_loops(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernels, "usable", lambda *_: False)


def module(activation: str, dtype: torch.dtype, solver: Solver | None = None) -> ImplicitNetwork:
    torch.manual_seed(len(activation))
    phi = parse_activation(activation)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    network = ImplicitNetwork(6, 9, 3, activation=phi, solver=solver, tolerance=tolerance).to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return network


def results(network: ImplicitNetwork, kind: str) -> list[Tensor]:
    """The rows of a fixed point of some kind, and the gradients of a mixture of them."""
    torch.manual_seed(7)
    x = torch.rand(5, 6).to(network.b)
    lo, hi = x - 0.1, x + 0.3
    if kind == "state":
        rows = (network.state(x, network.materialise()),)
    elif kind == "pair":
        rows = network.reach(lo, hi)
    else:
        rows = network.state_and_reach(x, lo, hi)
    mixture = sum((row * torch.randn_like(row)).sum() for row in rows)
    assert isinstance(mixture, Tensor)
    parameters = [p for name, p in network.named_parameters() if name not in ("C", "c")]
    return [*(row.detach() for row in rows), *torch.autograd.grad(mixture, parameters)]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", networks.ACTIVATIONS)
def test_solutions_and_gradients_are_those_of_tensor_operations(
    activation: str, kind: str, dtype: torch.dtype, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = module(activation, dtype, SOLVERS[solver])
    compiled = results(network, kind)
    without_loops(monkeypatch)
    plain = results(network, kind)
    # Both end within the tolerance of the truth, the gradients times what their sums amplify.
    for found, expected in zip(compiled, plain, strict=True):
        size = 1 + float(expected.abs().max())
        assert float((found - expected).abs().max()) <= 200 * network.tolerance * size


@pytest.mark.parametrize("activation", networks.PIECEWISE_LINEAR)
@pytest.mark.parametrize("name", networks.CONTRACTING)
def test_a_step_is_the_same_step(
    name: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Awkward networks: entries of 1e30 and 5e-324, skewed eta, a diagonal near 1."""
    net = networks.CONTRACTING[name]
    stored = StoredNetwork.from_arrays(*net.arrays, activation=activation)
    x = torch.linspace(-2, 2, 3 * net.inputs).reshape(3, -1)
    for problem in (
        stored.driven_problem(x @ stored.U.dense().mT + stored.b),
        stored.embedded_problem(*stored.drive_bounds(x, x + 0.25)),
    ):
        z = problem.start()
        following, bound = problem.stepper()(z)
        with monkeypatch.context() as patch:
            without_loops(patch)
            plain = type(problem)(**{f: getattr(problem, f) for f in problem.__match_args__})
            expected_start = plain.start()
            expected, expected_bound = plain.stepper()(z)
        torch.testing.assert_close(z, expected_start, rtol=1e-14, atol=0)
        torch.testing.assert_close(following, expected, rtol=1e-12, atol=1e-290)
        # A bound is a difference, multiplied: what rounding moves z by, it moves by that much more.
        size = problem.error_bound(expected.abs() + z.abs())
        assert bool(((bound - expected_bound).abs() <= 1e-12 * size + 1e-290).all())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("entry", [float("nan"), float("inf")])
def test_a_bad_entry_spoils_its_own_row_and_no_other(
    entry: float, kind: str, dtype: torch.dtype
) -> None:
    n, blocks = 7, {"state": 1, "pair": 2, "both": 3}[kind]
    torch.manual_seed(0)
    centre = torch.randn(4, n * max(1, blocks - 1)).to(dtype)
    radius = None if kind == "state" else torch.rand(4, n).to(dtype)
    pieces = kernels.pieces((0.5, 1.0), (-torch.inf, torch.inf), torch.zeros(n, dtype=dtype))
    finish = kernels.root(pieces, torch.ones(blocks * n, dtype=dtype))

    def bounds() -> Tensor:
        z, out = torch.zeros(4, blocks * n, dtype=dtype), torch.empty(4, blocks * n, dtype=dtype)
        bound = torch.empty(4, dtype=dtype)
        reach = None if radius is None else radius.numpy()
        finish(centre.numpy(), reach, z.numpy(), out.numpy(), bound.numpy())
        assert torch.equal(out.abs().amax(1).isfinite(), bound.isfinite())
        return bound

    clean = bounds()
    centre[2, -1] = entry
    spoilt = bounds()
    assert not bool(spoilt[2].isfinite())
    assert bool(spoilt[2].isnan()) or entry == float("inf")
    keep = [0, 1, 3]
    assert torch.equal(spoilt[keep], clean[keep])


def test_a_solve_freezes_each_row_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of very different speed: the same steps and values with and without the loops."""
    net = networks.CONTRACTING[next(iter(networks.CONTRACTING))]
    stored = StoredNetwork.from_arrays(*net.arrays, activation="leaky_relu(0.1)")
    drive = torch.tensor([[0.0], [1e-9], [1.0], [1e6]]) * torch.ones(1, net.states)
    found = solve(stored.driven_problem(drive), Picard(), 1e-7, 5000)
    alone = [solve(stored.driven_problem(row[None]), Picard(), 1e-7, 5000) for row in drive]
    assert bool(found.converged.all())
    assert found.steps.tolist() == [int(one.steps[0]) for one in alone]
    without_loops(monkeypatch)
    plain = solve(stored.driven_problem(drive), Picard(), 1e-7, 5000)
    assert found.steps.tolist() == plain.steps.tolist()
    torch.testing.assert_close(found.value, plain.value, rtol=1e-12, atol=1e-13)


@given(st.integers(0, 2**32 - 1), st.sampled_from(TYPES), st.booleans())
def test_splitting(seed: int, dtype: torch.dtype, with_state: bool) -> None:
    torch.manual_seed(seed)
    z, slope = torch.randn(2, 3, 4 * (2 + with_state)).to(dtype)
    for factor in (None, slope):
        compiled = centres_and_widths(z, 4, factor)
        with pytest.MonkeyPatch.context() as patch:
            without_loops(patch)
            plain = centres_and_widths(z, 4, factor)
        for found, expected in zip(compiled, plain, strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_unit_rows(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    rows = [
        [0.0, -0.0, 0.0],
        [1e-30, -4e-30, 2e-30],
        [float("nan"), 1, 2],
        [tiny, 0, 0],
        [-3, 1, 2],
    ]
    unit, size = kernels.unit_rows(torch.tensor(rows, dtype=dtype))
    assert size[:, 0].tolist()[0] == 1
    assert bool(unit[2].isnan().all())
    assert bool(size[2].isnan())
    keep = [1, 3, 4]
    assert torch.equal(unit[keep].abs().amax(1), torch.ones(3, dtype=dtype))
    torch.testing.assert_close(unit[keep] * size[keep], torch.tensor(rows, dtype=dtype)[keep])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_centres_see_every_inverted_or_undefined_end(dtype: torch.dtype) -> None:
    x = torch.rand(3, 11).to(dtype)
    lo, hi = x - 0.25, x + 0.5
    both, half, ordered = kernels.centres(x, lo, hi)
    assert ordered
    assert torch.equal(both[::2], x)
    assert torch.equal(both[1::2], 0.5 * (lo + hi))
    assert torch.equal(half, 0.5 * (hi - lo))
    assert kernels.centres(x, x, x)[2]
    for bad in (float("nan"), 9.0):
        spoilt = lo.clone()
        spoilt[2, 10] = bad
        assert not kernels.centres(x, spoilt, hi)[2]


def test_an_empty_batch() -> None:
    network = module("relu", torch.float32)
    x = torch.empty(0, 6, dtype=torch.float32)
    z, lo, hi = network.state_and_reach(x, x, x)
    assert z.shape == lo.shape == hi.shape == (0, 9)
    (z.sum() + lo.sum() + hi.sum()).backward()


def test_inputs_that_ask_for_gradients_get_them() -> None:
    network = module("relu", torch.float64)
    x = torch.rand(2, 6, requires_grad=True)
    z, lo, hi = network.state_and_reach(x, x - 0.1, x + 0.1)
    (found,) = torch.autograd.grad(z.sum() + lo.sum() + hi.sum(), x)
    y = x.detach().requires_grad_()
    at = network.materialise()
    apart = network.state(y, at).sum() + sum(b.sum() for b in network.reach(y - 0.1, y + 0.1, at))
    (expected,) = torch.autograd.grad(apart, y)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_what_is_strided_half_or_asks_for_gradients_is_left_to_tensors() -> None:
    z = torch.rand(4, 6)
    assert kernels.usable(z)
    assert not kernels.usable(z.mT)
    assert not kernels.usable(z, z.half())
    assert not kernels.usable(z.clone().requires_grad_())


def test_an_adjoint_problem_with_any_slopes_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    network = module("relu", torch.float64)
    at = network.materialise()
    torch.manual_seed(3)
    g, slope = torch.randn(4, 27), torch.rand(4, 27)
    sweep: Sweep = at.pair_sweep.transposed
    systems = [AdjointProblem(sweep, at.diagonal, g, slope, at.contraction) for _ in range(2)]
    found, bound = systems[0].stepper()(systems[0].start())
    without_loops(monkeypatch)
    expected, expected_bound = systems[1].stepper()(systems[1].start())
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(bound, expected_bound, rtol=1e-12, atol=1e-12)
    assert isinstance(sweep(g, sweep.split(g)), Drive)


_NOWHERE = """
import torch
from equicert import ImplicitNetwork
network = ImplicitNetwork(3, 4, 2)
print(network(torch.ones(2, 3)).sum().item())
"""


@pytest.mark.parametrize("found", [True, False], ids=["no folder to keep code", "no numba"])
def test_a_process_that_can_keep_nothing_or_lacks_numba(tmp_path: Path, found: bool) -> None:
    """The cache's folders refuse, or numba cannot be imported: slower, the same answers."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    program = _NOWHERE
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(blocked / "below")}
    if not found:
        program = "import sys; sys.modules['numba'] = None\n" + program
    run = subprocess.run(
        [sys.executable, "-c", "import torch; torch.manual_seed(0)\n" + program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        expected = ImplicitNetwork(3, 4, 2)(torch.ones(2, 3)).sum().item()
    finally:
        torch.set_default_dtype(before)
    assert float(run.stdout) == pytest.approx(expected, abs=1e-3)
