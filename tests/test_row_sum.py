"""RowSum: the weights of [EG21], held against exact arithmetic."""

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
from equicert.errors import ConfigError, ModelError
from equicert.network import ImplicitNetwork
from equicert.weights import RowSum

BOUNDS = (0.95, 0.5, 1e-3, 1 - 1e-9)
ULPS = Fraction(8, 2**53)  # of the scaled row and its sum


def row_sum(T: networks.Array, s: networks.Array, bound: float) -> RowSum:
    weight = RowSum(len(T), bound)
    with torch.no_grad():
        weight.T.copy_(torch.tensor(T))
        weight.s.copy_(torch.tensor(s))
    return weight


def exact_sums(weight: RowSum) -> list[Fraction]:
    return [
        sum(map(abs, row), Fraction(0)) for row in exact.to_fractions(weight().dense().detach())
    ]


@st.composite
def modules(draw: st.DrawFn) -> RowSum:
    n = draw(st.integers(1, 4))
    T = draw(networks.arrays((n, n), 4.0)) * draw(st.sampled_from([1.0, 1e-3, 1e100]))
    return row_sum(T, draw(networks.arrays((n,), 4.0)), draw(st.sampled_from(BOUNDS)))


@given(modules())
def test_row_sums_stay_within_the_bound(weight: RowSum) -> None:
    n = len(weight.T)
    assert max(exact_sums(weight)) <= Fraction(weight.bound) * (1 + n * ULPS)


@given(modules())
def test_rows_are_those_of_the_formula(weight: RowSum) -> None:
    bound, n = Fraction(weight.bound), len(weight.T)
    found = exact.to_fractions(weight().dense().detach())
    T, s = exact.to_fractions(weight.T.detach()), exact.to_fractions(weight.s.detach())
    for row, free, slack in zip(found, T, s, strict=True):
        length = sum(map(abs, free), abs(slack))
        if length < Fraction(1, 10**290):
            assert all(abs(entry) <= 2 * bound for entry in row)  # next to where it has no limit
            continue
        for entry, t in zip(row, free, strict=True):
            truth = bound * t / length
            assert abs(entry - truth) <= abs(truth) * n * ULPS + Fraction(1, 10**300)


@given(modules())
def test_it_meets_the_conditions_and_is_proved_contracting(weight: RowSum) -> None:
    W = weight().dense().detach()
    if weight.bound > 0.99:
        return  # float64 need not resolve it
    assert exact.best_eta(W.abs()) is not None  # lambda_pf(|W|) < 1
    assert exact.exact_abscissa_below_one(W)
    proved = prove_contraction(weight(), weight.eta())
    assert torch.equal(proved.eta, weight.eta())
    assert proved.mu <= weight.bound * (1 + 1e-12)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("n", [1, 5])
def test_stays_in_its_set_under_any_training(
    n: int, optimiser: type[torch.optim.SGD] | type[torch.optim.Adam], bound: float
) -> None:
    torch.manual_seed(n)
    weight = RowSum(n, bound)
    before = weight().dense().detach()
    steps = optimiser(weight.parameters(), lr=0.3)
    target = bound * torch.randn(n, n)
    for _ in range(20):
        steps.zero_grad()
        ((weight().dense() - target) / bound).tanh().square().sum().backward()
        steps.step()
        assert max(exact_sums(weight)) <= Fraction(bound) * (1 + n * ULPS)
    assert not torch.equal(weight().dense(), before)


@given(
    networks.arrays((3, 3), 1.0),
    st.sampled_from(BOUNDS),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_every_matrix_of_the_set_is_reached_exactly(
    A: networks.Array, bound: float, share: float
) -> None:
    A[0, :2] = 0  # a sparse row, and with share 0 rows of zeros
    sums = np.maximum(np.abs(A).sum(1, keepdims=True), 1e-300)
    W = torch.from_numpy(A / np.maximum(sums, 1) * (share * bound * (1 - 1e-15)))
    weight = RowSum(3, bound)
    weight.right_inverse(W)
    torch.testing.assert_close(weight().dense(), W, rtol=1e-14, atol=0)


def test_right_inverse_takes_the_boundary_of_its_set() -> None:
    W = torch.tensor([[-0.25, 0.25], [0.0, -0.5]])
    weight = RowSum(2, 0.5)
    weight.right_inverse(W)
    assert torch.equal(weight().dense(), W)
    assert torch.equal(weight.s, torch.zeros(2))


@pytest.mark.parametrize(
    ("W", "said"),
    [
        (torch.tensor([[0.5, 0.0], [0.25, -0.375]]), r"0\.625 > bound = 0\.5 in row 1"),
        (torch.tensor([[0.0, torch.nan], [0.0, 0.0]]), "in row 0"),
        (torch.zeros(3, 3), r"shape \(2, 2\), W is \(3, 3\)"),
        (torch.zeros(1, 1), "shape"),
    ],
    ids=["outside", "NaN", "larger", "smaller"],
)
def test_right_inverse_refuses_what_it_cannot_hold_and_changes_nothing(
    W: Tensor, said: str
) -> None:
    weight = RowSum(2, 0.5)
    before = {name: value.clone() for name, value in weight.state_dict().items()}
    with pytest.raises(ModelError, match=said):
        weight.right_inverse(W)
    for name, value in weight.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("bound", [0.0, 1.0, -0.5, 2.0, float("nan"), float("inf")])
def test_bounds_between_0_and_1_only(bound: float) -> None:
    with pytest.raises(ConfigError, match="bound on row sums"):
        RowSum(2, bound)


@pytest.mark.parametrize("states", [0, -1])
def test_at_least_one_state(states: int) -> None:
    with pytest.raises(ConfigError, match=f"{states}"):
        RowSum(states)


def test_gradients() -> None:
    weight = row_sum(np.array([[0.3, -0.1], [0.4, -0.9]]), np.array([0.2, -0.3]), 0.5)

    def entries(T: Tensor, s: Tensor) -> Tensor:
        return torch.func.functional_call(weight, {"T": T, "s": s}, ()).dense()

    assert torch.autograd.gradcheck(entries, (weight.T, weight.s))
    # A row's length can be learnt, not its direction alone.
    jacobian, _ = torch.autograd.functional.jacobian(entries, (weight.T, weight.s))
    for row in range(2):
        assert torch.linalg.matrix_rank(jacobian[row, :, row, :]) == 2


def test_a_row_of_zeros_has_no_direction() -> None:
    weight = row_sum(np.zeros((2, 2)), np.zeros(2), 0.5)
    assert torch.equal(weight().dense(), torch.zeros(2, 2))


def test_initial_value() -> None:
    torch.manual_seed(0)
    weight = RowSum(50, 0.75, scale=0.5)
    assert 0.49 < weight.T.abs().amax().item() * 50**0.5 <= 0.5
    assert torch.allclose(weight().absolute_row_sums(), torch.tensor(0.375))


def test_state_dict_type_and_name() -> None:
    weight = RowSum(3, 0.25)
    shapes = {name: tuple(v.shape) for name, v in weight.state_dict().items()}
    assert shapes == {"T": (3, 3), "s": (3,)}
    assert "bound=0.25" in repr(weight)
    single = weight.to(torch.float32)
    assert single().dtype == single.eta().dtype == torch.float32


def test_a_network_of_it_trains_and_stores_its_proof() -> None:
    torch.manual_seed(0)
    network = ImplicitNetwork(3, 6, 2, weight=RowSum(6, 0.9), tolerance=1e-10)
    x = torch.rand(5, 3, requires_grad=True)
    assert torch.autograd.gradcheck(network, (x,), atol=1e-6)
    network(x).sum().backward()
    T = next(p for name, p in network.named_parameters() if name == "weight.T")
    assert T.grad is not None
    assert bool((T.grad != 0).any())
    stored = network.store()
    assert torch.equal(stored.contraction.eta, torch.ones(6))
    assert stored.contraction.mu <= 0.9 * (1 + 1e-12)
