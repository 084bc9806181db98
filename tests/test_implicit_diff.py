"""Implicit gradients three ways: the adjoint solve, unrolled iterations, finite differences.

For every activation, both parametrisations of W, both solvers, the state and the embedded pair.
The unrolled reference is written out here: its own activations, its own (12), the four products of
(6) and the average iteration, differentiated by plain autograd.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from equicert.activations import parse_activation
from equicert.errors import NotConvergedError
from equicert.implicit_diff import attach
from equicert.network import ImplicitNetwork
from equicert.norms import metzler_split
from equicert.solvers import Average, Picard, Solver
from equicert.weights import Contracting, Free

BATCH, R, N, Q = 2, 2, 4, 2
GAMMA = -0.25

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, ...]]] = {  # phi, its kinks
    "relu": (torch.relu, (0.0,)),
    "leaky_relu(0.1)": (lambda t: nn.functional.leaky_relu(t, 0.1), (0.0,)),
    "tanh": (torch.tanh, ()),
    "sigmoid": (torch.sigmoid, ()),
    "softplus": (nn.functional.softplus, ()),
    "hard_tanh": (nn.functional.hardtanh, (-1.0, 1.0)),
    "elu(0.5)": (lambda t: nn.functional.elu(t, 0.5), (0.0,)),
    "identity": (lambda t: t, ()),
}
SOLVERS: dict[str, Solver] = {"average": Average(), "picard": Picard()}


class Reaching(nn.Module):
    """`reach` as the forward of a module, its two bounds side by side."""

    def __init__(self, network: ImplicitNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, lo: Tensor, hi: Tensor) -> Tensor:
        return torch.cat(self.network.reach(lo, hi), -1)


@dataclass(frozen=True)
class Case:
    """What is differentiated, in which order: the parameters by name, then the inputs."""

    activation: str
    free: bool  # W itself as the parameter, or T and log_eta
    reach: bool

    @property
    def names(self) -> list[str]:
        of_weight = ["weight.W"] if self.free else ["weight.T", "weight.log_eta"]
        return [*of_weight, "U", "b", *([] if self.reach else ["C", "c"])]

    def network(self, seed: int, solver: Solver | None = None) -> ImplicitNetwork:
        torch.manual_seed(seed)
        weight = Contracting(N, GAMMA)
        with torch.no_grad():
            weight.T.copy_((torch.rand(N, N) - 0.5).sign() * (0.05 + torch.rand(N, N) / 4))
            weight.log_eta.copy_(torch.randn(N) / 2)
        network = ImplicitNetwork(
            R,
            N,
            Q,
            activation=parse_activation(self.activation),
            weight=Free(weight().dense(), weight.eta()) if self.free else weight,
            solver=solver,
            tolerance=1e-12,
        )
        with torch.no_grad():
            network.U.copy_(torch.randn(N, R).sign() * (0.1 + 1.5 * torch.rand(N, R)))
            network.b.copy_(torch.randn(N))
        return network

    def inputs(self, seed: int) -> list[Tensor]:
        x = torch.randn(BATCH, R, generator=torch.Generator().manual_seed(seed))
        return [x, x + torch.linspace(0.2, 0.5, BATCH * R).reshape(BATCH, R)] if self.reach else [x]

    def values(self, network: ImplicitNetwork, seed: int) -> tuple[Tensor, ...]:
        parameters = dict(network.named_parameters())
        values = [*(parameters[name].detach() for name in self.names), *self.inputs(seed)]
        return tuple(value.clone().requires_grad_() for value in values)

    def implicit(self, network: ImplicitNetwork) -> Callable[..., Tensor]:
        """The network as a function of `values`."""
        module = Reaching(network) if self.reach else network
        names = [f"network.{name}" if self.reach else name for name in self.names]

        def function(*values: Tensor) -> Tensor:
            parameters = dict(zip(names, values, strict=False))
            return torch.func.functional_call(module, parameters, values[len(names) :])

        return function

    def unrolled(self, *values: Tensor, steps: int = 150) -> Tensor:
        """The same by iteration, with autograd through every step."""
        phi, _ = ACTIVATIONS[self.activation]
        if self.free:
            W, U, b, *rest = values
        else:
            T, log_eta, U, b, *rest = values
            eta = torch.exp(log_eta)
            W = torch.diag(eta) @ T @ torch.diag(1 / eta) - torch.diag(T.abs().sum(1))
            W = W + GAMMA * torch.eye(N)
        alpha = 1 / (1 - float(W.detach().diagonal().clamp(max=0).min()))
        if not self.reach:
            C, c, x = rest
            z = torch.zeros(BATCH, N)
            for _ in range(steps):
                z = (1 - alpha) * z + alpha * phi(z @ W.mT + x @ U.mT + b)
            return z @ C.mT + c
        lo, hi = rest
        ceil, floor = metzler_split(W)
        up, down = U.clamp(min=0), U.clamp(max=0)
        zlo = zhi = torch.zeros(BATCH, N)
        for _ in range(steps):
            tlo = zlo @ ceil.mT + zhi @ floor.mT + lo @ up.mT + hi @ down.mT + b
            thi = zhi @ ceil.mT + zlo @ floor.mT + hi @ up.mT + lo @ down.mT + b
            zlo = (1 - alpha) * zlo + alpha * phi(tlo)
            zhi = (1 - alpha) * zhi + alpha * phi(thi)
        return torch.cat([zlo, zhi], -1)

    def preactivations(self, network: ImplicitNetwork, seed: int) -> Tensor:
        W, U, b = network.weight().dense().detach(), network.U.detach(), network.b.detach()
        if not self.reach:
            (x,) = self.inputs(seed)
            return network.solve(x).value @ W.mT + x @ U.mT + b
        lo, hi = self.inputs(seed)
        with torch.no_grad():
            zlo, zhi = network.reach(lo, hi)
        ceil, floor = metzler_split(W)
        up, down = U.clamp(min=0), U.clamp(max=0)
        tlo = zlo @ ceil.mT + zhi @ floor.mT + lo @ up.mT + hi @ down.mT + b
        thi = zhi @ ceil.mT + zlo @ floor.mT + hi @ up.mT + lo @ down.mT + b
        return torch.cat([tlo, thi], -1)


@cache
def generic_seed(case: Case) -> int:
    """A seed away from every kink, with units on each side of each."""
    _, kinks = ACTIVATIONS[case.activation]
    for seed in range(500):
        t = case.preactivations(case.network(seed), seed)
        away = all(bool(((t - kink).abs() > 0.02).all()) for kink in kinks)
        sides = all(bool((t < kink).any()) and bool((t > kink).any()) for kink in kinks)
        if away and sides:
            return seed
    raise AssertionError(f"no generic network among 500: {case}")


CASES = [
    pytest.param(
        Case(activation, free, reach),
        id=f"{activation}-{'free' if free else 'contracting'}-{'reach' if reach else 'forward'}",
    )
    for activation in ACTIVATIONS
    for free in (False, True)
    for reach in (False, True)
]
EVERY = pytest.mark.parametrize("case", CASES)
BOTH = pytest.mark.parametrize("solver", SOLVERS.values(), ids=list(SOLVERS))


@EVERY
@BOTH
def test_finite_differences(case: Case, solver: Solver) -> None:
    """Along random directions; entry by entry below."""
    seed = generic_seed(case)
    network = case.network(seed, solver)
    values = case.values(network, seed)
    assert torch.autograd.gradcheck(
        case.implicit(network), values, fast_mode=True, check_undefined_grad=False
    )


@pytest.mark.parametrize("reach", [False, True], ids=["forward", "reach"])
@pytest.mark.parametrize("free", [False, True], ids=["contracting", "free"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_finite_differences_of_every_entry(activation: str, free: bool, reach: bool) -> None:
    case = Case(activation, free, reach)
    seed = generic_seed(case)
    network = case.network(seed)
    assert torch.autograd.gradcheck(case.implicit(network), case.values(network, seed))


@EVERY
@BOTH
def test_unrolled_differentiation(case: Case, solver: Solver) -> None:
    seed = generic_seed(case)
    network = case.network(seed, solver)
    values = case.values(network, seed)
    implicit, unrolled = case.implicit(network)(*values), case.unrolled(*values)
    assert torch.allclose(implicit, unrolled, rtol=0, atol=1e-10)
    cotangent = torch.randn(implicit.shape, generator=torch.Generator().manual_seed(0))
    found = torch.autograd.grad(implicit, values, cotangent)
    truth = torch.autograd.grad(unrolled, values, cotangent)
    labels = [*case.names, "x, lo", "hi"]
    for name, one, other in zip(labels, found, truth, strict=False):
        assert bool(other.any()), name
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9), name


@EVERY
def test_solvers_agree(case: Case) -> None:
    seed = generic_seed(case)
    gradients = []
    for solver in SOLVERS.values():
        network = case.network(seed, solver)
        values = case.values(network, seed)
        gradients.append(torch.autograd.grad(case.implicit(network)(*values).sum(), values))
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


# Batches, shared weights, scale.


@BOTH
def test_samples_have_gradients_of_their_own(solver: Solver) -> None:
    case = Case("tanh", free=False, reach=False)
    network = case.network(3, solver)
    x = torch.randn(5, R).requires_grad_()
    (together,) = torch.autograd.grad(network(x)[:, 0].sum(), x)
    for row in range(5):
        (alone,) = torch.autograd.grad(network(x[row : row + 1])[0, 0], x)
        assert torch.allclose(alone[row], together[row], rtol=0, atol=1e-11)
        assert not bool(alone[torch.arange(5) != row].any())


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e6])
@BOTH
def test_the_gradient_is_linear_in_the_loss(solver: Solver, scale: float) -> None:
    """A mean over many samples, or a small weight on a loss, must not cost accuracy."""
    case = Case("tanh", free=False, reach=False)
    network = case.network(3, solver)
    network.tolerance = 1e-6
    values = case.values(network, 3)
    y = case.implicit(network)(*values)
    plain = torch.autograd.grad(y.sum(), values, retain_graph=True)
    scaled = torch.autograd.grad((scale * y).sum(), values)
    for one, other in zip(plain, scaled, strict=True):
        off = (other / scale - one).abs().max().item()
        assert off <= 1e-4 * one.abs().max().item()


@BOTH
def test_cotangents_of_every_size_share_a_batch(solver: Solver) -> None:
    """None, tiny, huge: each row is as accurate as it is alone."""
    network = Case("tanh", free=False, reach=False).network(3, solver)
    network.tolerance = 1e-6
    x = torch.randn(1, R).expand(4, R).clone().requires_grad_()
    sizes = torch.tensor([[0.0], [1e-14], [1.0], [1e8]])
    (found,) = torch.autograd.grad((sizes * network(x)).sum(), x)
    assert torch.equal(found[0], torch.zeros(R))
    assert bool(found[2].any())
    for row in (1, 3):
        off = (found[row] / sizes[row] - found[2]).abs().max().item()
        assert off <= 1e-4 * found[2].abs().max().item()


@BOTH
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_cotangent_is_not_passed_on_in_silence(solver: Solver, bad: float) -> None:
    network = Case("tanh", free=False, reach=False).network(3, solver)
    y = network(torch.randn(3, R))
    with pytest.raises(NotConvergedError, match="adjoint solve: 1 of 3"):
        y.backward(torch.tensor([[1.0, 1.0], [1.0, bad], [0.0, 0.0]]))


def test_one_materialisation_shares_its_gradient_between_both_solves() -> None:
    """The training step: clean loss and embedded loss from the same W."""
    case = Case("tanh", free=False, reach=False)
    network, x = case.network(3), torch.randn(BATCH, R)
    parameters = [network.weight.get_parameter("T"), network.U, network.b]

    at = network.materialise()
    clean = network.state(x, at).square().sum()
    wide = torch.cat(network.reach(x - 0.1, x + 0.1, at)).square().sum()
    together = torch.autograd.grad(clean + wide, parameters)

    clean = network.state(x, network.materialise()).square().sum()
    wide = torch.cat(network.reach(x - 0.1, x + 0.1)).square().sum()
    apart = torch.autograd.grad(clean, parameters), torch.autograd.grad(wide, parameters)
    for total, one, other in zip(together, *apart, strict=True):
        assert torch.allclose(total, one + other, rtol=0, atol=1e-9)


@BOTH
def test_a_box_of_no_width_has_the_gradient_of_its_point(solver: Solver) -> None:
    """The pair then carries the state twice: half of each is the whole."""
    case = Case("tanh", free=False, reach=True)
    network = case.network(3, solver)
    x = torch.randn(BATCH, R)
    weight = torch.randn(BATCH, N)
    parameters = [network.weight.get_parameter("T"), network.U, network.b]
    zlo, zhi = network.reach(x, x)
    pair = torch.autograd.grad((weight * (zlo + zhi)).sum() / 2, parameters)
    z = network.state(x, network.materialise())
    single = torch.autograd.grad((weight * z).sum(), parameters)
    for one, other in zip(pair, single, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)


@BOTH
def test_empty_batches_have_gradients_of_zero(solver: Solver) -> None:
    network = Case("tanh", free=False, reach=False).network(3, solver)
    at, x = network.materialise(), torch.zeros(0, R)
    (network.state(x, at).sum() + sum(z.sum() for z in network.reach(x, x, at))).backward()
    for p in (network.U, network.b, network.weight.get_parameter("T")):
        assert p.grad is not None
        assert torch.equal(p.grad, torch.zeros_like(p))


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    network = Case("relu", free=False, reach=False).network(3)
    network.U.requires_grad_(False)
    network(torch.randn(BATCH, R)).sum().backward()
    assert network.U.grad is None
    assert network.b.grad is not None


def test_the_adjoint_runs_in_the_type_of_the_network() -> None:
    network = Case("sigmoid", free=False, reach=False).network(3)
    x = torch.randn(BATCH, R)
    (truth,) = torch.autograd.grad(network(x).sum(), [network.b])
    network.to(torch.float32).tolerance = 1e-5
    (found,) = torch.autograd.grad(network(x.float()).sum(), [network.b])
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), truth, rtol=0, atol=1e-4)


# The attachment itself.


def test_attach_returns_z_and_hands_its_cotangent_to_the_sources() -> None:
    t = torch.randn(3, 2).requires_grad_()
    z = torch.randn(3, 2)
    seen: list[Tensor] = []

    def cotangents(g: Tensor) -> list[Tensor]:
        seen.append(g)
        return [2 * g]

    attached = attach(z, [t], cotangents)
    assert torch.equal(attached, z)
    assert attached.data_ptr() != z.data_ptr()
    assert not seen
    g = torch.randn(3, 2)
    (found,) = torch.autograd.grad(attached, t, g)
    assert torch.equal(found, 2 * g)
    assert len(seen) == 1
    assert not attach(z, [t.detach()], cotangents).requires_grad


def test_an_error_in_the_adjoint_is_an_error_of_backward() -> None:
    """No step is enough here; the forward solve starts at its solution, z* = 0."""
    network = ImplicitNetwork(
        1, 2, 1, weight=Free(torch.tensor([[0.0, 0.9], [0.9, 0.0]])), tolerance=1e-10, max_steps=3
    )
    with torch.no_grad():
        network.b.fill_(1e-13)
        network.U.zero_()
        network.C.fill_(1.0)
    y = network(torch.zeros(1, 1))
    with pytest.raises(NotConvergedError, match="adjoint"):
        y.sum().backward()
