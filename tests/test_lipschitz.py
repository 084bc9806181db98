"""Lipschitz bounds: against the exact constants, against one another, and what (13) certifies."""

from __future__ import annotations

import dataclasses
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import exact
import networks
from equicert import lipschitz
from equicert.activations import parse_activation
from equicert.attacks import PGD
from equicert.bounds import Interval, Lipschitz, LipschitzRadius
from equicert.bounds.base import answer_from_state
from equicert.boxes import Box
from equicert.certification import certify
from equicert.contraction import prove_contraction
from equicert.errors import InputError, NotContractingError, NotConvergedError, RowSumError
from equicert.lipschitz import BOUNDS, Derived, LipschitzBound, RowSum, Weighted, zeta_bound
from equicert.losses import lipschitz_loss
from equicert.materialised import Materialised
from equicert.network import ImplicitNetwork
from equicert.norms import matrix_measure
from equicert.operators import Convolution, Dense, Geometry, Image, Margins
from equicert.queries import Query
from equicert.stored import StoredNetwork
from equicert.weights import Contracting, Free
from networks import CONTRACTING, NOT_CONTRACTING, PIECEWISE_LINEAR, Array, Network
from test_enclosures import LEANS, Sloppy

EACH_BOUND = pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
NETWORKS = pytest.mark.parametrize("net", CONTRACTING.values(), ids=str)
CERTIFICATES = [LipschitzRadius(bound, each) for bound in BOUNDS.values() for each in (False, True)]
EACH_CERTIFICATE = pytest.mark.parametrize("method", CERTIFICATES, ids=lambda method: method.name)

tiny = networks.contracting_networks(max_states=2, max_inputs=2, activations=PIECEWISE_LINEAR)


def stored(net: Network, eta: Array | None = None) -> StoredNetwork:
    return StoredNetwork.from_arrays(
        *net.arrays, net.activation, eta=net.eta if eta is None else eta
    )


def points(net: Network, batch: int = 3) -> Tensor:
    rng = np.random.default_rng(net.states)
    return torch.tensor(rng.uniform(-1, 1, (batch, net.inputs)))


def row_sum_network(net: Network, norm: float) -> Network:
    """The same with W scaled to this `||W||_inf`, at eta = 1."""
    largest = abs(net.W).sum(1).max()
    W = norm * (net.W / largest) if largest else net.W
    return dataclasses.replace(net, W=W, eta=np.ones(net.states))


# The exact constants.


def exact_zeta(net: Network, x_r: list[float]) -> exact.Vector:
    """`(I - M)^-1 |U| x_r`."""
    M = exact.majorant(net.W)
    gap = [[Fraction(i == j) - m for j, m in enumerate(row)] for i, row in enumerate(M)]
    U = exact.to_fractions(abs(net.U))
    solved = exact.solve(gap, [[entry] for entry in exact.times(U, exact.to_fractions(x_r))])
    assert solved is not None
    return [row[0] for row in solved]


def exact_bound(net: Network, forms: Array) -> list[Fraction]:
    """`|forms| (I - M)^-1 |U| 1`."""
    zeta = exact_zeta(net, [1.0] * net.inputs)
    return exact.times(exact.to_fractions(abs(forms)), zeta)


def quotients(net: Network, forms: Array, seed: int) -> list[Fraction]:
    """The largest sampled `|form(x) - form(x')| / ||x - x'||_inf`, exactly."""
    rng = np.random.default_rng(seed)
    rows, largest = exact.to_fractions(forms), [Fraction(0)] * len(forms)
    for scale in (1.0, 1e-3, 10.0):
        x = rng.uniform(-1, 1, net.inputs)
        other = x + scale * rng.choice([-1.0, 1.0], net.inputs)
        first, second = (
            exact.fixed_point(net.W, net.U, net.b, point, net.activation) for point in (x, other)
        )
        distance = max(abs(Fraction(a) - Fraction(b)) for a, b in zip(x, other, strict=True))
        change = [a - b for a, b in zip(first, second, strict=True)]
        found = [abs(exact.dot(row, change)) / distance for row in rows]
        largest = [max(pair) for pair in zip(largest, found, strict=True)]
    return largest


@given(net=tiny, eps=st.sampled_from([0.0, 1e-300, 1e-3, 1.0, 1e6]))
def test_zeta_is_proved_and_close_to_the_least_one(net: Network, eps: float) -> None:
    half_widths = [eps, *([eps / 3] * (net.inputs - 1))]
    network = stored(net)
    assume(network.contraction.mu < 1 - 1e-6)
    zeta = exact.to_fractions(zeta_bound(network, torch.tensor([half_widths]))[0])
    driven = exact.times(exact.to_fractions(abs(net.U)), exact.to_fractions(half_widths))
    contracted = exact.times(exact.majorant(net.W), zeta)
    assert all(m + u <= z for m, u, z in zip(contracted, driven, zeta, strict=True))
    least = exact_zeta(net, half_widths)
    eta = exact.to_fractions(network.contraction.eta)
    scale = max(z / e for z, e in zip(least, eta, strict=True))
    for found, truth, e in zip(zeta, least, eta, strict=True):
        assert truth <= found <= truth + (scale / 10**5 + Fraction(1, 2**800)) * e


@given(net=tiny, seed=st.integers(0, 999))
def test_lipschitz_bounds_hold_sampled_quotients_and_the_exact_bound(
    net: Network, seed: int
) -> None:
    network = stored(net)
    assume(network.contraction.mu < 1 - 1e-6)
    outputs, states = exact_bound(net, net.C), np.eye(net.states)
    found = Fraction(Derived().constant(network))
    assert max(quotients(net, net.C, seed)) <= max(outputs) <= found
    eta = exact.to_fractions(network.contraction.eta)
    least = exact_zeta(net, [1.0] * net.inputs)
    scale = max(z / e for z, e in zip(least, eta, strict=True)) / 10**5 + Fraction(1, 2**800)
    slack = max(exact.times(exact.to_fractions(abs(net.C)), eta)) * scale
    assert found <= max(outputs) * (1 + Fraction(1, 10**9)) + slack + Fraction(1, 2**900)
    zeta = zeta_bound(network, torch.ones(1, net.inputs))[0].tolist()
    for quotient, z in zip(quotients(net, states, seed), zeta, strict=True):
        assert quotient <= Fraction(z)


@given(net=tiny, seed=st.integers(0, 999))
def test_margins_have_lipschitz_bounds_of_their_own(net: Network, seed: int) -> None:
    network = stored(net)
    assume(network.contraction.mu < 1 - 1e-6)
    found = Derived().margins(network)
    assert found.shape == (net.outputs, net.outputs)
    assert (found.diagonal() == 0).all()
    C = exact.to_fractions(net.C)
    zeta = exact_zeta(net, [1.0] * net.inputs)
    for i in range(net.outputs):
        differences = net.C[i] - net.C  # a sample of the truth needs no exactness here
        for j, quotient in enumerate(quotients(net, differences, seed)):
            bound_ij = Fraction(found[i, j].item())
            apart = [abs(a - b) for a, b in zip(C[i], C[j], strict=True)]
            assert exact.dot(apart, zeta) <= bound_ij or i == j
            assert quotient <= bound_ij * (1 + Fraction(1, 10**9)) + Fraction(1, 10**9)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "softplus", "elu(0.5)"])
def test_smooth_networks_move_no_further_than_zeta(activation: str) -> None:
    net = networks.random_network(np.random.default_rng(12), 6, 3, 2, 0.5, activation=activation)
    network, x = stored(net), points(net, 50)
    half_widths = torch.rand(50, 3)
    zeta = zeta_bound(network, half_widths)
    moved = x + half_widths * (2 * torch.rand(50, 3) - 1)
    first, second = network.solve(x), network.solve(moved)
    distance = (first.value - second.value).abs()
    assert (distance <= zeta + (first.radius + second.radius)[:, None]).all()
    assert (distance > 0.02 * zeta).any()
    steep = Network("steep", *net.arrays, "softplus")
    if activation == "sigmoid":  # whose slope is at most a quarter
        assert (zeta < 0.6 * zeta_bound(stored(steep), half_widths)).all()


@LEANS
@given(net=tiny)
def test_lipschitz_bounds_survive_products_as_wrong_as_the_model_allows(
    net: Network, lean: int
) -> None:
    assume(stored(net).contraction.mu < 1 - 1e-3)
    check_lipschitz_of_sloppy(net, lean)


@LEANS
def test_a_product_a_hundred_times_the_drive_is_bounded_too(lean: int) -> None:
    W, U = np.array([[0.0, 0.99], [0.99, 0.0]]), np.ones((2, 1))
    check_lipschitz_of_sloppy(Network("slow", W, U, np.zeros(2), np.eye(2), np.zeros(2)), lean)


def check_lipschitz_of_sloppy(net: Network, lean: int) -> None:
    plain = stored(net)
    network = dataclasses.replace(
        plain, W=Sloppy(plain.W.dense(), lean), U=Sloppy(plain.U.dense(), lean)
    )
    zeta = exact.to_fractions(zeta_bound(network, torch.ones(1, net.inputs))[0])
    least = exact_zeta(net, [1.0] * net.inputs)
    assert all(truth <= found for truth, found in zip(least, zeta, strict=True))
    assert max(exact_bound(net, net.C)) <= Fraction(Derived().constant(network))


@NETWORKS
def test_the_bound_free_of_eta_is_never_worse(net: Network) -> None:
    network = stored(net)
    ours, theirs = Derived().constant(network), Weighted().constant(network)
    assert ours <= theirs * (1 + 1e-9) + TINY  # zeta is padded by 2^-900 eta
    eta = exact.to_fractions(network.contraction.eta)
    mu = max(exact.measure(net.W, eta), Fraction(0))
    norm_U, norm_C = (
        max(sum(map(abs, row)) for row in exact.to_fractions(A)) for A in (net.U, net.C)
    )
    truth = max(eta) / min(eta) * norm_U * norm_C / (1 - mu)
    assert truth <= Fraction(theirs) <= truth * (1 + Fraction(1, 10**5)) + Fraction(1, 2**960)


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("net", NOT_CONTRACTING.values(), ids=str)
def test_bounds_are_refused_without_contraction(net: Network, bound: LipschitzBound) -> None:
    for function in (bound.states, bound.constant, bound.margins):
        with pytest.raises(NotContractingError):
            function(stored(net))
    module = ImplicitNetwork(net.inputs, net.states, net.outputs, weight=Free(torch.tensor(net.W)))
    x, labels = torch.zeros(1, net.inputs), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(NotContractingError):
        lipschitz_loss(module, x, labels, 1.0, bound)


def test_zeta_of_unusable_half_widths_is_refused() -> None:
    network = stored(CONTRACTING["zero W"])
    for bad in (math.nan, math.inf):
        with pytest.raises(NotConvergedError, match="no zeta"):
            zeta_bound(network, torch.tensor([[bad, 1.0]]))
    with pytest.raises(InputError, match=">= 0"):
        zeta_bound(network, torch.tensor([[-1.0, 1.0]]))


# 1e-12: what is lost to rounding upwards, and where two constants are equal in exact arithmetic.
SLACK = 1 + 1e-12
TINY = 1e-260  # bounds are padded by far less


def slack(net: Network) -> float:
    """The same for a proved zeta, which is widened along eta."""
    eta = stored(net).contraction.eta
    return 1 + 1e-12 * float(eta.amax() / eta.amin())


def true_constants(net: Network, forms: Array) -> list[Fraction]:
    """Of each row of forms, exactly, over a box that holds most of the kinks."""
    lo, hi = [-8.0] * net.inputs, [8.0] * net.inputs
    return exact.lipschitz_constants(net.W, net.U, net.b, forms, lo, hi, net.activation)


@given(net=tiny, spread=st.lists(st.floats(-2, 2), min_size=2, max_size=2))
def test_true_is_below_derived_is_below_weighted_at_every_valid_eta(
    net: Network, spread: list[float]
) -> None:
    truth = max(true_constants(net, net.C))
    assume(stored(net).contraction.mu < 1 - 1e-6)
    derived = Derived().constant(stored(net))
    assert truth <= Fraction(derived)
    for eta in (None, np.ones(net.states), net.eta, 10.0 ** np.array(spread[: net.states])):
        weighted = Weighted().constant(stored(net, eta))  # another eta serves where this does not
        assert derived <= weighted * slack(net) + TINY


@given(net=tiny)
def test_margins_are_bounded_by_the_exact_constants(net: Network) -> None:
    assume(stored(net).contraction.mu < 1 - 1e-6)
    derived, weighted = (bound.margins(stored(net)) for bound in (Derived(), Weighted()))
    for i, row in enumerate(exact.to_fractions(net.C)):
        apart = [[a - b for a, b in zip(row, o, strict=True)] for o in exact.to_fractions(net.C)]
        for j, truth in enumerate(true_constants(net, apart)):  # type: ignore[arg-type]
            assert truth <= Fraction(derived[i, j].item())
            assert derived[i, j] <= weighted[i, j] * slack(net) + TINY
    twice = 2 * Derived().constant(stored(net))
    assert (derived <= twice * slack(net) + TINY).all()


@given(net=tiny, norm=st.sampled_from([0.0, 0.25, 0.5, 0.99]))
def test_weighted_at_eta_1_is_below_row_sum(net: Network, norm: float) -> None:
    network = stored(row_sum_network(net, norm))
    row_sum, weighted = RowSum().constant(network), Weighted().constant(network)
    assert torch.equal(network.contraction.eta, torch.ones(net.states))
    assert weighted <= row_sum * SLACK + TINY
    largest = max(sum(map(abs, row)) for row in exact.to_fractions(network.W.dense()))
    norm_U, norm_C = (
        max(sum(map(abs, row)) for row in exact.to_fractions(A)) for A in (net.U, net.C)
    )
    truth = norm_U * norm_C / (1 - largest)
    assert truth <= Fraction(row_sum) <= truth * (1 + Fraction(1, 10**9)) + Fraction(1, 2**900)


@pytest.mark.parametrize("norm", [1.0, 1.5])
def test_row_sum_is_refused_where_the_norm_is_not_below_1(norm: float) -> None:
    net = Network("rows", np.array([[-norm, 0.0], [0.25, 0.0]]), np.ones((2, 1)), np.zeros(2),
                  np.eye(2), np.zeros(2))  # fmt: skip
    assert stored(net).contraction.mu < 1
    with pytest.raises(RowSumError, match=f"row 0 of W sums to {norm:g}; use the derived"):
        RowSum().constant(stored(net))
    [verdict] = certify(stored(net), torch.zeros(1, 1), 0, 0.1, method=LipschitzRadius(RowSum()))
    assert (verdict.status, verdict.reason) == ("unknown", "row sums")
    module = ImplicitNetwork(1, 2, 2, weight=Free(torch.tensor(net.W)))
    with pytest.raises(RowSumError):
        lipschitz_loss(module, torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), 1.0, RowSum())


def test_a_network_that_float64_cannot_tell_from_mu_1_is_unknown() -> None:
    net = Network("hairline", np.array([[0.0, 1 - 2e-16], [1.0, 0.0]]), np.ones((2, 1)),
                  np.zeros(2), np.eye(2), np.zeros(2))  # fmt: skip
    for bound in BOUNDS.values():
        [found] = certify(stored(net), torch.ones(1, 1), 0, 0.1, method=LipschitzRadius(bound))
        assert found.status == "unknown"


# In training.


def module(seed: int, activation: str = "relu", gamma: float = 0.5) -> ImplicitNetwork:
    """A small network with an uneven eta, of which no two row sums are equal."""
    torch.manual_seed(seed)
    weight = Contracting(4, gamma)
    with torch.no_grad():
        weight.log_eta.copy_(torch.rand(4))
    return ImplicitNetwork(3, 4, 2, activation=parse_activation(activation), weight=weight)


def in_rows(seed: int) -> ImplicitNetwork:
    """The same with W free and `||W||_inf = 0.9`."""
    torch.manual_seed(seed)
    W = torch.randn(4, 4)
    return ImplicitNetwork(3, 4, 2, weight=Free(0.9 * W / W.abs().sum(1).max()))


@EACH_BOUND
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("seed", range(3))
def test_training_value_is_that_of_the_stored_network(
    bound: LipschitzBound, activation: str, seed: int
) -> None:
    network = in_rows(seed) if bound == RowSum() else module(seed, activation)
    value = float(bound.value(network.materialise(), network.C).detach())
    proved = bound.constant(network.store())
    assert value <= proved * SLACK
    assert value == pytest.approx(proved, rel=1e-9)


@EACH_BOUND
@pytest.mark.parametrize("seed", range(5))
def test_gradients_agree_with_finite_differences(bound: LipschitzBound, seed: int) -> None:
    network = (
        in_rows(seed) if bound == RowSum() else module(seed, "sigmoid" if seed > 2 else "relu")
    )
    bound.value(network.materialise(), network.C).backward()
    moved = 0
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            assert name in ("b", "c")
            continue
        direction = torch.randn_like(parameter)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * 1e-6)
                ends.append(float(bound.value(network.materialise(), network.C)))
                parameter.sub_(direction, alpha=sign * 1e-6)
        slope = float((parameter.grad * direction).sum())
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-7)
        moved += slope != 0
    assert moved >= 3  # W by its parameters, U and C


def written_out(bound: LipschitzBound, beta: float, *entries: Tensor) -> Tensor:
    """The same value by plain operations, for autograd to differentiate."""
    W, U, C, eta = entries
    driven = U.abs().sum(1)
    if bound == Derived():
        M = torch.where(torch.eye(len(W)) > 0, W, W.abs())
        s = torch.linalg.inv(torch.eye(len(W)) - beta * M) @ (beta * driven)
    else:
        mu = (W.abs().fill_diagonal_(0) @ eta / eta + W.diagonal()).amax().clamp(min=0)
        s = (eta.amax() / eta.amin() * driven.amax() / (1 - mu)).expand(len(W))
    return (C.abs() @ s).amax()


@pytest.mark.parametrize("bound", [Weighted(), Derived()], ids=lambda bound: bound.name)
@pytest.mark.parametrize("shift", [0.0, -3.0], ids=["mu > 0", "mu < 0"])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_every_entry_two_ways(bound: LipschitzBound, shift: float, seed: int) -> None:
    network = in_rows(seed)
    eta = 1 + torch.rand(4) / 20
    W = network.weight().dense().detach() + shift * torch.eye(4)
    assert (matrix_measure(W, eta) > 0) == (shift == 0)
    leaves = [t.detach().clone().requires_grad_() for t in (W, network.U, network.C, eta)]
    beta = 0.5 if bound == Derived() else 1.0

    def value(W: Tensor, U: Tensor, C: Tensor, eta: Tensor) -> Tensor:
        proof = prove_contraction(Dense(W), eta)
        at = Materialised(Dense(W), Dense(U), network.b.detach(), proof, eta, beta)
        return bound.value(at, C)

    torch.testing.assert_close(value(*leaves), written_out(bound, beta, *leaves))
    found = torch.autograd.grad(3 * value(*leaves), leaves, allow_unused=True)
    truth = torch.autograd.grad(3 * written_out(bound, beta, *leaves), leaves, allow_unused=True)
    for one, other in zip(found, truth, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    if bound == Derived():
        leaves[3].requires_grad_(False)  # it is free of eta
    assert torch.autograd.gradcheck(value, leaves, eps=1e-7)


@pytest.mark.parametrize("bound", [Weighted(), Derived()], ids=lambda bound: bound.name)
@pytest.mark.parametrize("shift", [0.0, -3.0], ids=["mu > 0", "mu < 0"])
@pytest.mark.parametrize("seed", range(3))
def test_by_products_as_by_the_matrix(bound: LipschitzBound, shift: float, seed: int) -> None:
    torch.manual_seed(seed)
    kernel = 0.05 * torch.randn(2, 2, 3, 3)
    kernel[[0, 1], [0, 1], 1, 1] += 0.3 + shift
    leaves = [kernel, torch.randn(18, 3), torch.randn(2, 18), 1 + torch.rand(18) / 20]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    geometry = Geometry(Image(2, 3, 3), Margins(1, 1, 1, 1), circular=seed == 2)

    def value(by_matrix: bool) -> Tensor:
        kernel, U, C, eta = leaves
        W = Convolution(kernel, geometry)
        W = Dense(W.dense()) if by_matrix else W
        proof = prove_contraction(W, eta)
        return bound.value(Materialised(W, Dense(U), torch.zeros(18), proof, eta, 0.5), C)

    found, truth = value(False), value(True)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=0)
    gradients = (torch.autograd.grad(3 * v, leaves, allow_unused=True) for v in (found, truth))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_products_that_do_not_converge_are_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lipschitz, "_MAX_STEPS", 1)
    W = Convolution(torch.full((1, 1, 3, 3), 0.1), Geometry(Image(1, 3, 3), Margins(1, 1, 1, 1)))
    at = Materialised(W, Dense(torch.ones(9, 2)), torch.zeros(9), prove_contraction(W))
    with pytest.raises(NotConvergedError, match="Lipschitz bound"):
        Derived().value(at, torch.ones(1, 9))


@EACH_BOUND
def test_a_network_without_inputs_that_count_has_finite_gradients(bound: LipschitzBound) -> None:
    network = in_rows(0)
    with torch.no_grad():
        network.U.zero_()
    value = bound.value(network.materialise(), network.C)
    assert value == 0
    value.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())


def test_eta_is_trained_only_where_the_proof_uses_it() -> None:
    network = module(0)
    at = network.materialise()
    assert at.eta.requires_grad
    torch.testing.assert_close(at.eta.detach(), at.contraction.eta)
    useless = ImplicitNetwork(1, 2, 2, weight=Free(
        torch.tensor([[0.0, 4.0], [0.1, 0.0]]), torch.ones(2)))  # fmt: skip
    at = useless.materialise()
    assert not at.eta.requires_grad
    assert torch.equal(at.eta, at.contraction.eta)
    assert not torch.equal(at.eta, torch.ones(2))


@EACH_BOUND
def test_a_step_down_the_gradient_lowers_the_bound(bound: LipschitzBound) -> None:
    network = in_rows(1) if bound == RowSum() else module(1)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    before = bound.constant(network.store())
    for _ in range(20):
        optimiser.zero_grad()
        bound.value(network.materialise(), network.C).backward()
        optimiser.step()
    assert bound.constant(network.store()) < before


def test_loss_8_is_the_sum_of_its_parts() -> None:
    network, x = module(3), torch.rand(5, 3)
    labels = torch.tensor([0, 1, 1, 0, 1])
    loss = lipschitz_loss(network, x, labels, 0.25, Derived())
    assert loss.bound is not None
    assert loss.nominal is not None
    nominal = torch.nn.functional.cross_entropy(network(x), labels)
    torch.testing.assert_close(loss.nominal, nominal)
    torch.testing.assert_close(loss.bound, Derived().value(network.materialise(), network.C))
    torch.testing.assert_close(loss.total, nominal + 0.25 * loss.bound)
    plain = lipschitz_loss(network, x, labels, 0.0, RowSum())  # which is not even defined here
    assert plain.bound is None
    torch.testing.assert_close(plain.total, nominal)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(InputError, match="weight must be finite"):
        lipschitz_loss(module(0), torch.rand(1, 3), torch.tensor([0]), weight, Derived())


def test_labels_of_the_loss_are_checked() -> None:
    with pytest.raises(InputError, match="out of range"):
        lipschitz_loss(module(0), torch.rand(1, 3), torch.tensor([2]), 1.0, Derived())


# Certificate (13) as printed.


@EACH_CERTIFICATE
@given(net=tiny, eps=st.sampled_from([0.0, 1e-9, 1e-3, 0.1, 1.0]), clip=st.booleans())
def test_certified_margins_are_below_the_exact_ones(
    net: Network, method: LipschitzRadius, eps: float, clip: bool
) -> None:
    if method.bound == RowSum():
        net = row_sum_network(net, 0.75)
    network, x = stored(net), points(net, 1).abs()
    box = Box.around(x, eps, (0.0, 1.0) if clip else None)
    outputs = Query.of_outputs(box, net.outputs)
    answer = method.answer(network, dataclasses.replace(outputs, x=x))
    ends = box.lo[0].tolist(), box.hi[0].tolist()
    truth = exact.exact_range(net.W, net.U, net.b, net.C, net.c, *ends, net.activation)
    wanted = [low for low, _ in truth] + [-high for _, high in truth]
    for claim, least in zip(answer.lower[0].tolist(), wanted, strict=True):
        assert claim == -math.inf or Fraction(claim) <= least
    for vertex in exact.vertices(net.W, net.U, net.b, *ends, net.activation):
        z = answer.state.lo[0].tolist(), answer.state.hi[0].tolist()
        for low, value, high in zip(z[0], vertex.z, z[1], strict=True):
            assert not answer.state.proved[0] or Fraction(low) <= value <= Fraction(high)


@NETWORKS
@EACH_CERTIFICATE
def test_awkward_networks_lose_what_the_formula_says(net: Network, method: LipschitzRadius) -> None:
    network, x = stored(net), points(net, 2)
    if method.bound == RowSum() and abs(net.W).sum(1).max() >= 1:
        return
    if net.outputs < 2:
        return
    labels = torch.zeros(2, dtype=torch.int64)

    def margins(eps: float) -> Tensor:
        query = Query.of_margins(Box.around(x, eps), labels, net.outputs, x)
        return method.answer(network, query).lower

    at_x, lost = margins(0.0), 2 * torch.tensor(method.bound.constant(network))
    if method.per_margin:
        lost = method.bound.margins(network)[0, 1:]
    scale = at_x.abs() + 0.1 * lost
    assert (margins(0.1) <= at_x - 0.1 * lost * (1 - 1e-9) + 1e-9 * scale).all()
    assert (margins(0.1) >= at_x - 0.1 * lost - 1e-6 * scale - 1e-200).all()


@pytest.mark.parametrize("eps", [0.002, 0.03])
def test_every_certificate_in_its_place(eps: float) -> None:
    """No attack succeeds where one certifies, and none certifies where a tighter one does not."""
    rng = np.random.default_rng(4)
    net = networks.random_network(rng, 12, 3, 3, 0.3, eta_spread=3.0)
    network, x = stored(net), torch.tensor(rng.uniform(-1, 1, (200, 3)))
    labels = network.predict(x).argmax(1)

    def margins(method: LipschitzRadius | Lipschitz | Interval) -> Tensor:
        verdicts = certify(network, x, labels, eps, method=method)
        assert {v.method for v in verdicts} == {method.name}
        return torch.tensor([v.margin for v in verdicts])

    chain = [
        LipschitzRadius(Weighted()),
        LipschitzRadius(Weighted(), per_margin=True),
        LipschitzRadius(Derived(), per_margin=True),
        Lipschitz(),
        Lipschitz(local=True),
        Interval(),
    ]
    found = [margins(method) for method in chain]
    for loose, tight in itertools.pairwise(found):
        assert (loose <= tight + 1e-5).all()
    printed = margins(LipschitzRadius(Derived()))
    assert (found[0] <= printed + 1e-9).all()
    assert (printed <= found[2] + 1e-9).all()
    counts = [int((margin > 0).sum()) for margin in found]
    if eps == 0.002:
        assert 0 < counts[0] < counts[1] < counts[2] <= 200
    else:
        assert 0 < counts[2] < counts[3] < counts[4] <= counts[5] < 200
    unbroken = PGD(steps=20).run(network, x, labels, eps, None).status
    for margin in (*found, printed):
        held = [s for s, m in zip(unbroken, margin.tolist(), strict=True) if m > 0]
        assert set(held) == {"unbroken"} or not held


def test_the_radius_is_that_of_the_box_about_the_point() -> None:
    net = networks.random_network(np.random.default_rng(5), 6, 2, 2, 0.0)
    network, x = stored(net), torch.tensor([[0.25, 0.75]])
    method = LipschitzRadius(Derived(), per_margin=True)

    def answered(box: Box) -> float:
        labels = torch.zeros(1, dtype=torch.int64)
        return float(method.answer(network, Query.of_margins(box, labels, 2, x)).lower)

    about = answered(Box.around(x, 0.1))
    for lo, hi in (([0.25, 0.75], [0.25, 0.85]), ([0.25, 0.65], [0.25, 0.75])):  # to one side only
        assert answered(Box(torch.tensor([lo]), torch.tensor([hi]))) == pytest.approx(
            about, abs=1e-6
        )
    far = Box(torch.tensor([[0.3, 0.8]]), torch.tensor([[0.35, 0.85]]))  # not even around x
    assert answered(far) == pytest.approx(about, abs=1e-6)
    point = answer_from_state(
        network,
        Query.of_margins(Box(x, x), torch.zeros(1, dtype=torch.int64), 2),
        Interval().state_box(network, Box(x, x)),
    )
    assert answered(Box(x, x)) == pytest.approx(float(point.lower), abs=1e-5)


def test_a_query_without_points_is_refused() -> None:
    net = CONTRACTING["zero W"]
    query = Query.of_outputs(Box.around(points(net), 0.1), net.outputs)
    with pytest.raises(InputError, match="the query needs x"):
        LipschitzRadius(Weighted()).answer(stored(net), query)


def test_points_of_another_shape_are_refused() -> None:
    net = CONTRACTING["zero W"]
    labels = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(InputError, match="need points of that shape"):
        Query.of_margins(Box.around(points(net), 0.1), labels, net.outputs, points(net, 2))


def test_no_boxes_have_no_answers() -> None:
    net = CONTRACTING["zero W"]
    nothing = torch.zeros(0, net.inputs)
    labels = torch.zeros(0, dtype=torch.int64)
    for method in (*CERTIFICATES, Lipschitz(local=True)):
        assert certify(stored(net), nothing, labels, 0.1, method=method) == []


def test_numbers_that_overflow_certify_nothing() -> None:
    net = CONTRACTING["weights of 1e30"]
    huge = dataclasses.replace(net, U=net.U * 1e200, C=np.full_like(net.C, 1e200))
    for method in (*CERTIFICATES, Lipschitz(local=True)):
        [verdict] = certify(stored(huge), torch.ones(1, net.inputs), 0, 1.0, method=method)
        assert verdict.status == "unknown"


# Local slopes.


@pytest.mark.parametrize("activation", ["relu", "tanh", "hard_tanh", "sigmoid"])
def test_local_slopes_never_lose_and_mostly_gain(activation: str) -> None:
    net = networks.random_network(np.random.default_rng(8), 20, 4, 3, 0.3, activation=activation)
    network = stored(dataclasses.replace(net, U=4 * net.U, b=4 * net.b))
    box = Box.around(points(net, 30), 0.01)
    plain = Lipschitz().state_box(network, box)
    local = Lipschitz(local=True).state_box(network, box)
    assert local.proved.all()
    width, narrower = plain.hi - plain.lo, local.hi - local.lo
    assert (narrower <= width + 1e-9).all()
    if activation != "sigmoid":
        assert narrower.mean() < 0.95 * width.mean()
