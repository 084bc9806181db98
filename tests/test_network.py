"""`ImplicitNetwork`, the module: its manners in PyTorch, and what it says of a wrong use."""

import copy
import io
import pickle
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import exact
from equicert.activations import HardTanh, Identity, ReLU, Tanh
from equicert.errors import ConfigError, InputError, NotContractingError, NotConvergedError
from equicert.network import ImplicitNetwork
from equicert.norms import metzler_split
from equicert.policies import ConvergenceWarning, Tally, WarnAndCount
from equicert.problems import Problem
from equicert.solution import Solution
from equicert.solvers import Average, Picard, Solver
from equicert.weights import Contracting, Free

R, N, Q = 3, 6, 2
SOLVERS = pytest.mark.parametrize("solver", [Average(), Picard()], ids=["average", "picard"])


def network(
    seed: int = 0,
    *,
    solver: Solver | None = None,
    tolerance: float = 1e-10,
    dtype: torch.dtype = torch.float64,
) -> ImplicitNetwork:
    """tanh, with couplings and an eta that matter."""
    torch.manual_seed(seed)
    made = ImplicitNetwork(
        R, N, Q, activation=Tanh(), gamma=-0.5, solver=solver, tolerance=tolerance
    )
    with torch.no_grad():
        assert isinstance(made.weight, Contracting)
        made.weight.T.mul_(3)
        made.weight.log_eta.copy_(torch.linspace(-1, 1, N))
    return made.to(dtype)


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, R, generator=torch.Generator().manual_seed(seed))


def equation_misses(made: ImplicitNetwork, x: Tensor, z: Tensor) -> float:
    """How far z is from `phi(W z + U x + b)`, in plain arithmetic."""
    W = made.weight().dense()
    right = made.activation.phi(z @ W.mT + x @ made.U.mT + made.b)
    return (right - z).abs().max().item() if len(z) else 0.0


# The map.


@SOLVERS
def test_forward_is_the_readout_of_the_fixed_point(solver: Solver) -> None:
    made, x = network(solver=solver), inputs(5)
    solution = made.solve(x)
    assert bool(solution.converged.all())
    assert equation_misses(made, x, solution.value) < 1e-9
    expected = solution.value @ made.C.mT + made.c
    assert torch.allclose(made(x), expected, rtol=0, atol=1e-12)
    assert torch.equal(made.read_out(solution.value), expected)


@pytest.mark.parametrize(
    "leading", [(), (1,), (4,), (2, 3), (1, 2, 2), (0,), (0, 3), (3, 0)], ids=str
)
def test_leading_dimensions(leading: tuple[int, ...]) -> None:
    made, x = network(), inputs(*leading)
    y = made(x)
    assert y.shape == (*leading, Q)
    rows = [made(row[None])[0] for row in x.reshape(-1, R)]
    if rows:
        assert torch.allclose(y.reshape(-1, Q), torch.stack(rows), rtol=0, atol=1e-9)
    y.sum().backward()
    assert made.U.grad is not None
    assert bool(made.U.grad.isfinite().all())
    assert bool(made.U.grad.any()) == bool(rows)


def test_strides_do_not_matter() -> None:
    made, x = network(), inputs(4)
    spread = torch.randn(R, 8)
    spread[:, ::2] = x.mT
    assert torch.equal(made(spread[:, ::2].mT), made(x))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 4, 1), (5, 1, 3)])
def test_the_smallest_sizes(sizes: tuple[int, int, int]) -> None:
    made = ImplicitNetwork(*sizes)
    assert made(torch.ones(2, sizes[0])).shape == (2, sizes[2])


def test_defaults_solve_and_start_random() -> None:
    torch.manual_seed(0)
    one, other = ImplicitNetwork(R, N, Q), ImplicitNetwork(R, N, Q)
    assert (one.activation, one.solver) == (ReLU(), Picard())
    for (name, p), p_other in zip(one.named_parameters(), other.parameters(), strict=True):
        assert name == "weight.log_eta" or not torch.equal(p, p_other)
    bound = R**-0.5
    assert bool((one.U.abs() <= bound).all() & (one.b.abs() <= bound).all())
    assert bool((one.C.abs() <= N**-0.5).all() & (one.c.abs() <= N**-0.5).all())
    assert one.materialise().contraction.mu <= 1e-9


def test_gamma_reaches_the_weight() -> None:
    made = ImplicitNetwork(R, N, Q, gamma=-0.5)
    assert made.materialise().contraction.mu <= -0.5 + 1e-9
    with pytest.raises(ConfigError, match="gamma"):
        ImplicitNetwork(R, N, Q, gamma=1.0)


# Manners in PyTorch.


def test_in_sequential_it_learns() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, R), ImplicitNetwork(R, N, Q), nn.Tanh(), nn.Linear(Q, 1))
    x = torch.randn(64, 2)
    target = torch.sign(x[:, :1] * x[:, 1:])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.any()), name


def test_train_eval_and_no_grad_agree() -> None:
    made, x = network(), inputs(4)
    trained = made.train()(x)
    evaluated = made.eval()(x)
    for p in made.parameters():
        (one,) = torch.autograd.grad(trained.sum(), p, retain_graph=True)
        (other,) = torch.autograd.grad(evaluated.sum(), p, retain_graph=True)
        assert torch.equal(one, other)
    with torch.no_grad():
        frozen = made(x)
        low, high = made.reach(x - 0.1, x + 0.1)
    with torch.inference_mode():
        inferred = made(x)
    assert not any(y.requires_grad for y in (frozen, low, high))
    for y in (evaluated, frozen, inferred):
        assert torch.equal(y, trained)
    assert not made.solve(x).value.requires_grad


def test_gradients_reach_the_input_of_a_frozen_network() -> None:
    """An attack does no more: parameters fixed, x not."""
    made, x = network().requires_grad_(False), inputs(4).requires_grad_()
    made(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad != 0).any(1).all())
    assert all(p.grad is None for p in made.parameters())
    assert not made(inputs(4)).requires_grad


def test_backward_accumulates_as_autograd_does() -> None:
    made, x = network(), inputs(4)
    made(x).sum().backward()
    assert made.U.grad is not None
    once = made.U.grad.clone()
    made(x).sum().backward()
    assert torch.allclose(made.U.grad, 2 * once, rtol=1e-9)
    y = made(x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert torch.allclose(made.U.grad, 4 * once, rtol=1e-9)


def test_a_second_derivative_is_refused_not_wrong() -> None:
    made, x = network(), inputs(2).requires_grad_()
    (slope,) = torch.autograd.grad(made(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable"):
        slope.square().sum().backward()


def test_state_dict_round_trip() -> None:
    made, other, x = network(0), network(1), inputs(3)
    assert set(made.state_dict()) == {"U", "b", "C", "c", "weight.T", "weight.log_eta"}
    assert not torch.equal(made(x), other(x))
    stream = io.BytesIO()
    torch.save(made.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(made(x), other(x))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_whole_and_apart(how: str) -> None:
    made, x = network(), inputs(3)
    if how == "deepcopy":
        other = copy.deepcopy(made)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own bytes
    else:
        stream = io.BytesIO()
        torch.save(made, stream)
        stream.seek(0)
        other = torch.load(stream, weights_only=False)
    y = made(x)
    assert torch.equal(other(x), y)
    assert (other.activation, other.solver, other.tolerance) == (Tanh(), Picard(), 1e-10)
    with torch.no_grad():
        other.b.add_(1)
    assert torch.equal(made(x), y)
    assert not torch.equal(other(x), y)


def test_changes_of_parameters_are_seen_at_once() -> None:
    """Nothing is kept from one call to the next: neither W nor its proof."""
    made, x = network(), inputs(3)
    first = made(x)
    with torch.no_grad():
        assert isinstance(made.weight, Contracting)
        made.weight.T.mul_(-0.5)
    second = made(x)
    assert not torch.allclose(first, second)
    assert equation_misses(made, x, made.solve(x).value) < 1e-9


def test_one_materialisation_serves_a_whole_step() -> None:
    made, x = network(), inputs(3)
    at = made.materialise()
    assert torch.equal(made.read_out(made.state(x, at)), made(x))
    one, other = made.reach(x - 0.1, x + 0.1, at), made.reach(x - 0.1, x + 0.1)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_types_and_back() -> None:
    made, x = network(), inputs(4)
    y = made(x)
    made.to(torch.float32).tolerance = 1e-5
    narrow = made(x.float())
    assert narrow.dtype == torch.float32
    assert torch.allclose(narrow.double(), y, rtol=0, atol=1e-4)
    low, high = made.reach(x.float(), x.float())
    assert low.dtype == high.dtype == torch.float32
    narrow.sum().backward()
    assert made.b.grad is not None
    assert made.b.grad.dtype == torch.float32


# Stored and back.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("free", [False, True], ids=["contracting", "free"])
def test_store_holds_exactly_the_weights(dtype: torch.dtype, free: bool) -> None:
    made = network(dtype=dtype)
    if free:
        made.weight = Free(made.weight().dense(), made.weight.eta())
    stored = made.store()
    pairs = {
        "W": (stored.W.dense(), made.weight().dense()),
        "U": (stored.U.dense(), made.U),
        "b": (stored.b, made.b),
        "C": (stored.C, made.C),
        "c": (stored.c, made.c),
    }
    for name, (kept, own) in pairs.items():
        assert kept.dtype == torch.float64
        assert not kept.requires_grad
        assert exact.to_fractions(kept) == exact.to_fractions(own), name
    assert stored.activation == made.activation
    assert (stored.states, stored.inputs, stored.outputs) == (N, R, Q)
    assert stored.eta is not None
    assert exact.contracts(stored.W.dense(), stored.eta)


@pytest.mark.parametrize("free", [False, True], ids=["contracting", "free"])
def test_what_is_stored_is_not_trained_any_more(free: bool) -> None:
    """A proof is about the weights of that moment."""
    made, x = network(), inputs(3)
    if free:
        made.weight = Free(made.weight().dense(), made.weight.eta())
    stored = made.store()
    digest, y, mu = stored.digest, stored.predict(x), stored.contraction.mu
    with torch.no_grad():
        for p in made.parameters():
            p.fill_(0.5)
    fresh = type(stored)(
        stored.W, stored.U, stored.b, stored.C, stored.c, stored.activation, stored.eta
    )
    assert fresh.digest == digest
    assert fresh.contraction.mu == mu
    assert torch.equal(fresh.predict(x), y)


def test_from_stored_gives_the_same_outputs() -> None:
    made, x = network(), inputs(5)
    stored = made.store()
    again = ImplicitNetwork.from_stored(stored)
    assert again.U.dtype == torch.float64
    assert torch.allclose(again(x), made(x), rtol=0, atol=1e-7)
    assert torch.equal(again(x).detach(), stored.predict(x))
    assert again.store().digest == stored.digest
    with torch.no_grad():
        for p in again.parameters():
            p.fill_(0.5)
    assert stored.digest == made.store().digest


def test_from_stored_takes_its_solver_and_policy() -> None:
    policy, x = WarnAndCount(), inputs(4)
    again = ImplicitNetwork.from_stored(
        network().store(), solver=Average(), tolerance=1e-6, max_steps=1, on_unconverged=policy
    )
    assert (again.solver, again.tolerance, again.max_steps) == (Average(), 1e-6, 1)
    with pytest.warns(ConvergenceWarning):
        again(x)
    assert policy.missed == {"forward solve": 4}


# The embedded network.


@SOLVERS
def test_reach_solves_the_embedded_equation(solver: Solver) -> None:
    """(6) in its four products."""
    made, x = network(solver=solver), inputs(4)
    lo, hi = x - 0.1, x + torch.tensor([0.0, 0.2, 0.05])
    zlo, zhi = made.reach(lo, hi)
    ceil, floor = metzler_split(made.weight().dense())
    positive, negative = made.U.clamp(min=0), made.U.clamp(max=0)

    def embedded(z: Tensor, z_other: Tensor, x: Tensor, x_other: Tensor) -> Tensor:
        drive = x @ positive.mT + x_other @ negative.mT + made.b
        return made.activation.phi(z @ ceil.mT + z_other @ floor.mT + drive)

    assert torch.allclose(zlo, embedded(zlo, zhi, lo, hi), rtol=0, atol=1e-9)
    assert torch.allclose(zhi, embedded(zhi, zlo, hi, lo), rtol=0, atol=1e-9)
    assert bool((zlo <= zhi).all())
    for t in torch.linspace(0, 1, 5):
        z = made.solve(lo + t * (hi - lo)).value
        assert bool(((z >= zlo - 1e-9) & (z <= zhi + 1e-9)).all())


def test_reach_of_a_point_is_the_state() -> None:
    made, x = network(), inputs(4)
    zlo, zhi = made.reach(x, x)
    z = made.solve(x).value
    assert torch.allclose(zlo, z, rtol=0, atol=1e-9)
    assert torch.allclose(zhi, z, rtol=0, atol=1e-9)


def test_reach_of_no_box() -> None:
    zlo, zhi = network().reach(inputs(0), inputs(0))
    assert zlo.shape == zhi.shape == (0, N)


@pytest.mark.parametrize(
    ("lo", "hi"),
    [
        ([0.0, 0.1, 0.0], [0.0, 0.0, 0.0]),
        ([0.0, torch.nan, 0.0], [1.0, 1.0, 1.0]),
        ([0.0, 0.0, 0.0], [1.0, 1.0, torch.nan]),
    ],
    ids=["inverted", "NaN below", "NaN above"],
)
def test_reach_refuses_what_is_no_box(lo: list[float], hi: list[float]) -> None:
    with pytest.raises(InputError, match="inverted or NaN"):
        network().reach(torch.tensor([lo]), torch.tensor([hi]))


# What is wrong, and what is said.


def rejected() -> Iterator[tuple[str, Tensor, str]]:
    yield "narrow", torch.zeros(2, R - 1), rf"{R}.*\(2, {R - 1}\)"
    yield "wide", torch.zeros(4, 2, R + 1), rf"{R}.*{R + 1}"
    yield "no columns", torch.zeros(2, 0), rf"{R}"
    yield "a number", torch.zeros(()), rf"{R}"
    yield "short vector", torch.zeros(1), rf"{R}"
    yield "empty vector", torch.zeros(0), rf"{R}"
    yield "float32", torch.zeros(2, R, dtype=torch.float32), r"float32.*float64"
    yield "float16", torch.zeros(2, R, dtype=torch.float16), r"float16.*float64"
    yield "integers", torch.zeros(2, R, dtype=torch.int64), r"int64.*float64"
    yield "complex", torch.zeros(2, R, dtype=torch.complex128), r"complex128.*float64"


REJECTED = [pytest.param(x, message, id=name) for name, x, message in rejected()]


@pytest.mark.parametrize(("x", "message"), REJECTED)
def test_inputs_that_do_not_fit(x: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        network()(x)


@pytest.mark.parametrize("shape", [(R,), (2, 4, R)], ids=str)
def test_states_and_boxes_are_of_rows(shape: tuple[int, ...]) -> None:
    """Leading dimensions are forward's: elsewhere they would be broadcast into nonsense."""
    made, x = network(), torch.zeros(shape)
    for use in (
        made.solve,
        lambda x: made.reach(x, x),
        lambda x: made.state(x, made.materialise()),
    ):
        with pytest.raises(InputError, match=r"batch"):
            use(x)


def test_reach_checks_both_ends() -> None:
    made, good = network(), inputs(2)
    for bad in (inputs(2)[:, :2], inputs(2).float(), inputs(3)):
        with pytest.raises(InputError):
            made.reach(good, bad.abs() + 10)
        with pytest.raises(InputError):
            made.reach(bad.abs() - 100, good)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 1, 1)])
def test_sizes_of_at_least_one(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        ImplicitNetwork(*sizes)


def test_a_weight_of_another_size() -> None:
    with pytest.raises(InputError, match=r"5.*6|6.*5"):
        ImplicitNetwork(R, N, Q, weight=Contracting(5))(inputs(2))


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan")])
def test_a_tolerance_must_be_positive(tolerance: float) -> None:
    made = network()
    made.tolerance = tolerance
    with pytest.raises(ConfigError, match="tolerance"):
        made(inputs(1))


def test_inputs_that_are_not_finite_never_pass() -> None:
    for bad in (torch.nan, torch.inf):
        x = inputs(3)
        x[1, 0] = bad
        made = ImplicitNetwork(R, N, Q, activation=Identity())
        with pytest.raises(NotConvergedError, match="1 of 3"):
            made(x)


def test_a_weight_that_does_not_contract_is_refused_everywhere() -> None:
    made = ImplicitNetwork(1, 2, 1, weight=Free(torch.tensor([[0.0, 2.0], [2.0, 0.0]])))
    x = torch.zeros(1, 1)
    for use in (
        lambda: made(x),
        lambda: made.solve(x),
        lambda: made.reach(x, x),
        made.materialise,
        made.store,
    ):
        with pytest.raises(NotContractingError, match=r"mu\(W\) = 2 >= 1 at row \d"):
            use()
    with torch.no_grad():
        assert isinstance(made.weight, Free)
        made.weight.W.mul_(0.25)
    made(x)


def test_a_stale_hint_is_not_believed() -> None:
    """mu is proved for the present W: an eta that served once is no proof, nor an obstacle."""
    eta = torch.tensor([1.0, 10.0])
    made = ImplicitNetwork(1, 2, 1, weight=Free(torch.tensor([[0.0, 0.05], [5.0, 0.0]]), eta))
    assert made.materialise().contraction.eta.tolist() == [1.0, 10.0]
    with torch.no_grad():
        assert isinstance(made.weight, Free)
        made.weight.W.copy_(torch.tensor([[0.0, 5.0], [0.05, 0.0]]))
    for eta_found in (made.materialise().contraction.eta, made.store().eta):
        assert exact.contracts(made.weight.W, eta_found)


# Convergence.


SLOW = torch.tensor([[0.0, 0.96875], [0.96875, 0.0]])


def slow(**options: object) -> ImplicitNetwork:
    """z* = 0 at once for x <= 1; above, after hundreds of steps."""
    made = ImplicitNetwork(1, 2, 1, weight=Free(SLOW), **options)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        made.U.fill_(1.0)
        made.b.fill_(-1.0)
    return made


X = torch.tensor([[0.5], [2.0], [3.0]])


def test_unconverged_raises_by_default() -> None:
    made = slow(max_steps=10)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(NotConvergedError) as caught:
            made(X)
        assert caught.value.failed == 2
        assert "forward solve: 2 of 3" in str(caught.value)
        assert "max_steps" in str(caught.value)
    with pytest.raises(NotConvergedError, match="embedded solve: 2 of 3"):
        made.reach(X, X)
    assert made(X[:1]).shape == (1, 1)


def test_solve_reports_and_does_not_raise() -> None:
    solution = slow(max_steps=10).solve(X)
    assert solution.converged.tolist() == [True, False, False]
    assert solution.steps.tolist() == [1, 10, 10]
    truth = 32 * (X - 1).clamp(min=0)
    assert bool(((solution.value - truth).abs().amax(1) <= solution.radius).all())


def test_warn_and_count_warns_once_and_counts() -> None:
    policy = WarnAndCount()
    made = slow(max_steps=10, on_unconverged=policy)
    with pytest.warns(ConvergenceWarning, match="forward solve: 2 of 3"):
        y = made(X)
    with pytest.warns(ConvergenceWarning, match="adjoint solve"):
        y.sum().backward()
    with pytest.warns(ConvergenceWarning, match="embedded solve"):
        made.reach(X, X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(X).sum().backward()
    assert policy.missed["forward solve"] == 4
    assert policy.missed["embedded solve"] == 2
    assert policy.missed["adjoint solve"] >= 2


def test_an_adjoint_that_misses_raises_in_backward() -> None:
    """z* = 3.2e-8 is reached at once; its adjoint, with both slopes 1, is not."""
    made = slow(max_steps=10)
    with torch.no_grad():
        made.C.fill_(1.0)
    y = made(torch.tensor([[1 + 1e-9]]))
    with pytest.raises(NotConvergedError, match="adjoint solve: 1 of 1"):
        y.sum().backward()


class Recording(Solver):
    """Picard, counted."""

    def __init__(self) -> None:
        self.applications = 0

    def step(self, problem: Problem, z: Tensor) -> tuple[Tensor, Tensor]:
        self.applications += 1
        return Picard().step(problem, z)

    def resolution(self, problem: Problem, z: Tensor) -> Tensor:
        return Picard().resolution(problem, z)

    def rounding(self, problem: Problem, z: Tensor) -> Tensor:
        return Picard().rounding(problem, z)

    def rate(self, problem: Problem) -> float:
        return Picard().rate(problem)


def test_tally_sees_each_kind_of_solve() -> None:
    tally = Tally(WarnAndCount())
    made = network(solver=Recording())
    made.policy = tally
    at, x = made.materialise(), inputs(3)
    parts = (made.state(x, at), *made.reach(x, x + 0.1, at))
    parts += made.state_and_reach(x, x, x + 0.1, at)
    torch.cat(parts).sum().backward()
    steps = tally.mean_steps()
    assert set(steps) == {"adjoint solve", "embedded solve", "forward solve", "joint solve"}
    assert all(count >= 2 for count in steps.values())
    assert isinstance(made.solver, Recording)
    assert made.solver.applications >= sum(steps.values())


@pytest.mark.parametrize("solver", [Picard(), Average()], ids=["picard", "average"])
def test_state_and_reach_together_are_each_alone(solver: Solver) -> None:
    """Values to the tolerance, gradients of every parameter too, whatever the cotangents."""
    x = inputs(3)
    lo, hi = x - 0.05, x + 0.1
    weights = torch.randn(3, 3, N, generator=torch.Generator().manual_seed(0))

    def outcome(together: bool) -> tuple[list[Tensor], list[Tensor]]:
        made = network(solver=solver, tolerance=1e-11)
        at = made.materialise()
        alone = (made.state(x, at), *made.reach(lo, hi, at))
        parts = made.state_and_reach(x, lo, hi, at) if together else alone
        loss = (weights * torch.stack(list(parts))).sum()
        loss.backward()
        found = [p.grad for p in made.parameters() if p.grad is not None]
        assert len(found) == 4  # T, eta, U, b
        return [z.detach() for z in parts], found

    for one, other in zip(outcome(True), outcome(False), strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_the_tolerance_is_kept_per_sample() -> None:
    solutions: dict[float, Solution] = {}
    for tolerance in (1e-2, 1e-5, 1e-8):
        made = slow(tolerance=tolerance, max_steps=2000)
        solutions[tolerance] = made.solve(X)
        assert bool((solutions[tolerance].radius <= tolerance + 1e-10).all())
    steps = [solution.steps.tolist() for solution in solutions.values()]
    assert steps[0][0] == steps[2][0] == 1
    assert steps[0][1] < steps[1][1] < steps[2][1]


# Memory.


def graph_nodes(y: Tensor) -> int:
    """Nodes of the autograd graph behind y."""
    seen, queue = set(), [y.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            queue += [parent for parent, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize("reach", [False, True], ids=["forward", "reach"])
def test_the_graph_does_not_grow_with_the_iterations(reach: bool) -> None:
    found = []
    for tolerance in (1.0, 1e-10):
        made = slow(tolerance=tolerance, max_steps=5000)
        steps = int(made.solve(X).steps.max())
        saved = []

        def pack(tensor: Tensor, saved: list[int] = saved) -> Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = torch.cat(made.reach(X, X + 0.5)) if reach else made(X)
        found.append((steps, graph_nodes(y), sum(saved)))
    loose, tight = found
    assert tight[0] > 4 * loose[0]
    assert tight[1:] == loose[1:]
    assert 5 < tight[1] < 60
    assert tight[2] > 0


def test_hard_tanh_gradient_vanishes_where_it_is_flat() -> None:
    made = ImplicitNetwork(1, 3, 1, activation=HardTanh(), tolerance=1e-10)
    x = torch.tensor([[1e4]], requires_grad=True)
    with torch.no_grad():
        made.U.copy_(torch.tensor([[1.0], [-1.0], [2.0]]))
    made(x).sum().backward()
    assert x.grad is not None
    assert x.grad.item() == 0
