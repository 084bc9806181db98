"""Parametrisations of W: what they promise about mu(W), held against exact arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import exact
import networks
from equicert.contraction import prove_contraction
from equicert.errors import ConfigError, InputError, ModelError
from equicert.norms import row_measures
from equicert.weights import Confined, Contracting, FeedForward, Free, Weight

GAMMAS = (0.0, 0.5, -5.0, 1 - 1e-9)


def contracting(T: networks.Array, log_eta: networks.Array, gamma: float) -> Contracting:
    weight = Contracting(len(T), gamma)
    with torch.no_grad():
        weight.T.copy_(torch.tensor(T))
        weight.log_eta.copy_(torch.tensor(log_eta))
    return weight


def exact_measure(weight: Weight) -> tuple[Fraction, Fraction]:
    """mu of the very W that came out, and the size to which its rounding errors are relative."""
    eta = weight.eta()
    assert eta is not None
    W = weight.forward().dense().detach()
    rows = exact.times(exact.to_fractions(W.abs()), exact.to_fractions(eta))
    size = max(row / e for row, e in zip(rows, exact.to_fractions(eta), strict=True))
    return exact.measure(W, eta), size


@st.composite
def modules(draw: st.DrawFn) -> Contracting:
    n = draw(st.integers(1, 4))
    T, log_eta = draw(networks.arrays((n, n), 4.0)), draw(networks.arrays((n,), 14.0))
    return contracting(T, log_eta, draw(st.sampled_from(GAMMAS)))


# Contracting: equation (12) with eta the right way up.


@given(modules())
def test_measure_is_gamma_plus_the_least_doubled_diagonal(weight: Contracting) -> None:
    mu, size = exact_measure(weight)
    diagonal = exact.to_fractions(weight.T.detach().diagonal())
    promised = Fraction(weight.gamma) + max(min(2 * t, Fraction(0)) for t in diagonal)
    assert abs(mu - promised) <= (size + abs(promised) + 1) * Fraction(1, 10**14)


@given(modules())
def test_entries_are_those_of_the_formula(weight: Contracting) -> None:
    T, eta = exact.to_fractions(weight.T.detach()), exact.to_fractions(weight.eta().detach())
    gamma = Fraction(weight.gamma)
    for i, row in enumerate(exact.to_fractions(weight().dense().detach())):
        for j, found in enumerate(row):
            truth = eta[i] * T[i][j] / eta[j]
            size = abs(truth)
            if i == j:
                total = sum((abs(t) for t in T[i]), Fraction(0))
                truth, size = truth - total + gamma, abs(truth) + total + abs(gamma)
            assert abs(found - truth) <= size * Fraction(1, 10**14) + Fraction(1, 10**300)


@given(modules())
def test_its_own_eta_proves_it_contracting(weight: Contracting) -> None:
    mu, size = exact_measure(weight)
    if weight.gamma <= 0.5 and size < 1e6:
        proved = prove_contraction(weight(), weight.eta())
        assert torch.equal(proved.eta, weight.eta().detach())
        assert mu <= Fraction(proved.mu) <= mu + (size + 1) * Fraction(1, 10**12)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("n", [1, 5])
def test_stays_in_its_set_under_any_training(
    n: int, optimiser: type[torch.optim.SGD] | type[torch.optim.Adam], gamma: float
) -> None:
    torch.manual_seed(n)
    weight = Contracting(n, gamma)
    before = {name: p.detach().clone() for name, p in weight.named_parameters()}
    steps = optimiser(weight.parameters(), lr=0.3)
    target = torch.randn(n, n) * 3
    for _ in range(20):
        steps.zero_grad()
        (weight().dense() - target).tanh().square().sum().backward()
        steps.step()
        mu, size = exact_measure(weight)
        assert mu <= Fraction(gamma) + (size + 1) * Fraction(1, 10**14)
    moved = {name for name, p in weight.named_parameters() if not torch.equal(p, before[name])}
    # eta has no say in a single state: [eta] T [eta]^-1 = T.
    assert moved == ({"T", "log_eta"} if n > 1 else {"T"})


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("spread", [1.0, 1e12])
def test_right_inverse_round_trip(gamma: float, spread: float) -> None:
    rng = np.random.default_rng(7)
    for n in (1, 2, 5):
        net = networks.random_network(rng, n, 1, 1, gamma, spread)
        assert net.eta is not None
        W, eta = torch.tensor(net.W), torch.tensor(net.eta)
        # Off the boundary of the set by a quarter, where rounding cannot push it out.
        W = W - 0.25 * torch.eye(n)
        weight = Contracting(n, gamma)
        weight.right_inverse(W, eta)
        size = (W.abs() @ eta / eta)[:, None] + abs(gamma)
        assert bool(((weight().dense() - W).abs() <= 1e-13 * size * eta[:, None] / eta).all())
        assert torch.allclose(weight.eta(), eta, rtol=1e-13, atol=0)
        assert bool((weight.T.diagonal() < 0).all())


def test_right_inverse_takes_the_boundary_of_its_set() -> None:
    """mu = gamma in every row, in numbers that float64 holds exactly."""
    W, eta = torch.tensor([[-0.75, 0.25], [1.0, -1.5]]), torch.tensor([1.0, 1.0])
    weight = Contracting(2, -0.5)
    weight.right_inverse(W, eta)
    assert torch.equal(weight().dense(), W)
    assert torch.equal(weight.T.diagonal(), torch.zeros(2))


@given(modules())
def test_right_inverse_of_its_own_value(weight: Contracting) -> None:
    W, eta = weight().dense().detach(), weight.eta().detach()
    size = (W.abs() @ eta / eta) + weight.gamma + 8
    if bool((row_measures(W, eta) > weight.gamma - 1e-12 * size).any()):
        return  # within rounding of the boundary: either answer is right
    other = Contracting(len(W), weight.gamma)
    other.right_inverse(W, eta)
    slack = 1e-13 * size[:, None] * eta[:, None] / eta
    assert bool(((other().dense() - W).abs() <= slack).all())


def test_right_inverse_refuses_what_it_cannot_hold_and_changes_nothing() -> None:
    weight = Contracting(3, 0.25)
    before = {name: value.clone() for name, value in weight.state_dict().items()}
    W = torch.tensor([[0.0, 0.1, 0.03], [0.0, -1.0, 0.2], [0.5, 0.5, 0.0]])
    with pytest.raises(ModelError, match=r"mu = 1 > gamma = 0\.25 at row 2"):
        weight.right_inverse(W, torch.ones(3))
    for name, value in weight.state_dict().items():
        assert torch.equal(value, before[name])
    weight.right_inverse(W, torch.tensor([1.0, 1.0, 5.0]))  # a better eta, as the message says


@pytest.mark.parametrize(
    ("W", "eta"),
    [
        (torch.zeros(2, 2), torch.tensor([1.0, -1.0])),
        (torch.zeros(2, 2), torch.tensor([1.0, torch.nan])),
        (torch.zeros(2, 2), torch.tensor([1.0, 0.0])),
        (torch.zeros(2, 2), torch.ones(3)),
        (torch.zeros(2, 3), torch.ones(2)),
        (torch.full((2, 2), torch.nan), torch.ones(2)),
        (torch.zeros(3, 3), torch.ones(3)),
        (torch.zeros(1, 1), torch.ones(1)),
    ],
    ids=["negative", "NaN eta", "zero", "long eta", "not square", "NaN W", "larger", "smaller"],
)
def test_right_inverse_of_nonsense(W: Tensor, eta: Tensor) -> None:
    weight = Contracting(2)
    before = weight.T.detach().clone()
    with pytest.raises(InputError):
        weight.right_inverse(W, eta)
    assert torch.equal(weight.T, before)


@pytest.mark.parametrize("gamma", [1.0, 1.5, float("nan"), float("inf"), float("-inf")])
def test_gamma_below_one_only(gamma: float) -> None:
    with pytest.raises(ConfigError, match="gamma"):
        Contracting(2, gamma)


@pytest.mark.parametrize("states", [0, -1])
def test_at_least_one_state(states: int) -> None:
    with pytest.raises(ConfigError, match=f"{states}"):
        Contracting(states)


@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_initial_value(scale: float) -> None:
    torch.manual_seed(0)
    weight = Contracting(50, gamma=-0.25, scale=scale)
    assert torch.equal(weight.log_eta, torch.zeros(50))
    assert torch.equal(weight.eta(), torch.ones(50))
    reach = weight.T.abs().amax().item() * 50**0.5
    assert 0.99 * scale < reach <= scale
    assert weight.T.abs().mean().item() == pytest.approx(scale / 2 / 50**0.5, rel=0.05)
    assert bool((weight.T < 0).any()) & bool((weight.T > 0).any())
    assert "gamma=-0.25" in repr(weight)


def test_state_dict_holds_what_is_learnt() -> None:
    weight = Contracting(3, 0.5)
    assert {name: tuple(v.shape) for name, v in weight.state_dict().items()} == {
        "T": (3, 3),
        "log_eta": (3,),
    }
    other = Contracting(3, 0.5)
    other.load_state_dict(weight.state_dict())
    assert torch.equal(other().dense(), weight().dense())


def test_float32_stays_float32() -> None:
    weight = Contracting(3).to(torch.float32)
    assert weight().dtype == torch.float32
    assert weight.eta().dtype == torch.float32


def test_gradients_of_weight_and_eta() -> None:
    weight = contracting(np.array([[0.3, -0.7], [0.4, -0.2]]), np.array([0.3, -0.4]), 0.25)

    def entries(T: Tensor, log_eta: Tensor) -> Tensor:
        parameters = {"T": T, "log_eta": log_eta}
        return torch.func.functional_call(weight, parameters, ()).dense()

    assert torch.autograd.gradcheck(entries, (weight.T, weight.log_eta))


# Free: nothing is promised.


def test_free_is_its_parameter() -> None:
    stored = torch.tensor([[3.0, -1.0], [0.5, 2.0]])
    weight = Free(stored)
    assert weight.eta() is None
    stored.zero_()
    assert torch.equal(weight().dense(), torch.tensor([[3.0, -1.0], [0.5, 2.0]]))
    weight().dense().square().sum().backward()
    assert weight.W.grad is not None
    assert torch.equal(weight.W.grad, 2 * weight.W.detach())


def test_free_keeps_its_hint_without_training_it() -> None:
    eta = torch.tensor([1.0, 4.0], requires_grad=True)
    weight = Free(torch.zeros(2, 2, requires_grad=True), eta)
    assert [name for name, _ in weight.named_parameters()] == ["W"]
    assert weight.W.is_leaf
    hint = weight.eta()
    assert hint is not None
    assert not hint.requires_grad
    assert set(weight.state_dict()) == {"W", "hint"}
    with torch.no_grad():
        eta.zero_()
    assert torch.equal(hint, torch.tensor([1.0, 4.0]))
    narrow = weight.to(torch.float32).eta()
    assert narrow is not None
    assert narrow.dtype == torch.float32


def test_free_can_leave_the_set() -> None:
    """The contrast that makes the other tests here mean something."""
    weight = Free(torch.zeros(2, 2), torch.ones(2))
    steps = torch.optim.SGD(weight.parameters(), lr=1.0)
    weight().dense().sum().neg().backward()
    steps.step()
    assert exact_measure(weight)[0] == 2


# FeedForward: any blocks contract, in the norm of its own eta.


@st.composite
def layered(draw: st.DrawFn) -> FeedForward:
    weight = FeedForward(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    scale = draw(st.sampled_from([1.0, 1e-8, 1e12]))
    with torch.no_grad():
        for block in weight.blocks:
            block.copy_(scale * torch.tensor(draw(networks.arrays(tuple(block.shape), 4.0))))
    return weight


@given(layered())
def test_feed_forward_contracts_in_its_own_norm(weight: FeedForward) -> None:
    layers = len(weight.widths)
    mu, _ = exact_measure(weight)
    assert mu <= Fraction(layers, layers + 1) * (1 + Fraction(1, 10**14))
    proved = prove_contraction(weight(), weight.eta())
    assert torch.equal(proved.eta, weight.eta())
    assert mu <= Fraction(proved.mu)
    assert proved.mu <= layers / (layers + 1) + 1e-12


@given(layered())
def test_feed_forward_eta_is_no_larger_than_the_paths_ask(weight: FeedForward) -> None:
    """At most e times the largest product of row sums (where no floor is needed)."""
    product = 1.0
    for block in weight.blocks:
        product *= max(1.0, float(block.detach().abs().sum(1).amax()))
    assert float(weight.eta().amax()) <= np.e * product * (1 + 1e-12)
    assert float(weight.eta().amin()) == 1.0


def test_feed_forward_puts_its_blocks_below_the_diagonal() -> None:
    weight = FeedForward((2, 1, 3))
    W = weight().dense()
    expected = torch.zeros(6, 6)
    expected[2:3, :2], expected[3:, 2:3] = weight.blocks[0], weight.blocks[1]
    assert torch.equal(W, expected)
    assert weight.driven.tolist() == [True] * 2 + [False] * 4
    assert weight.read.tolist() == [False] * 3 + [True] * 3
    assert set(weight.state_dict()) == {"blocks.0", "blocks.1"}
    W.square().sum().backward()
    for block in weight.blocks:
        assert block.grad is not None
        assert torch.equal(block.grad, 2 * block.detach())


def test_feed_forward_of_one_layer_is_zero() -> None:
    weight = FeedForward((3,)).float()
    assert torch.equal(weight().dense(), torch.zeros(3, 3, dtype=torch.float32))
    assert list(weight.parameters()) == []
    assert torch.equal(weight.eta(), torch.ones(3))


def test_feed_forward_eta_of_a_deep_float32_network_does_not_overflow() -> None:
    weight = FeedForward((4,) * 12).float()
    with torch.no_grad():
        for block in weight.blocks:
            block.fill_(1e10)
    assert 1e110 < float(weight.eta().amax()) < np.inf
    assert prove_contraction(weight(), weight.eta()).mu < 1


@pytest.mark.parametrize("mask", [[True, False], [False, False], [True, True]], ids=str)
def test_confined_is_zero_elsewhere(mask: list[bool]) -> None:
    keep = Confined(torch.tensor(mask))
    A = torch.tensor([[1.0, torch.nan], [3.0, -4.0]])
    found = keep(A)
    for column, kept in enumerate(mask):
        own = A[:, column] if kept else torch.zeros(2)
        assert torch.equal(found[:, column].isnan(), own.isnan())
        assert torch.equal(found[:, column].nan_to_num(), own.nan_to_num())
    assert keep(A.float()).dtype == torch.float32
