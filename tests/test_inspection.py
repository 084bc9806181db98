"""What `inspect` says holds, held against definitions, exact arithmetic and brute force."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import exact
import networks
from equicert.bounds.lmi import lmi_bound
from equicert.bounds.spectral import spectral_bound
from equicert.conditions import Condition, five_conditions, proposed_weights, with_weights
from equicert.errors import NotContractingError
from equicert.inspection import Inspection, inspect_network
from equicert.lipschitz import Derived, Weighted
from equicert.lipschitz_below import jacobian, l2_norm, sample_lipschitz, sup_norm
from equicert.stored import StoredNetwork
from monotone_networks import MONOTONE, NOT_MONOTONE, monotone_networks
from networks import CONTRACTING, HAIRLINE, NOT_CONTRACTING, PIECEWISE_LINEAR, Array, Network

EVERY = [
    *(CONTRACTING | NOT_CONTRACTING | HAIRLINE).values(),
    *(MONOTONE | NOT_MONOTONE).values(),
]
GRID = [-3.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5]
on_a_grid = st.integers(1, 3).flatmap(
    lambda n: hnp.arrays(np.float64, (n, n), elements=st.sampled_from(GRID))
)
few = settings(max_examples=15)


def stored(net: Network) -> StoredNetwork:
    return StoredNetwork.from_arrays(*net.arrays, net.activation)


def with_weight(W: Array) -> StoredNetwork:
    n = len(W)
    return StoredNetwork.from_arrays(W, np.ones((n, 1)), np.ones(n), np.ones((2, n)), np.ones(2))


def conditions(network: StoredNetwork) -> list[Condition]:
    return list(five_conditions(with_weights(network)))


def _inspect(seed: int, gamma: float) -> tuple[StoredNetwork, Inspection]:
    rng = np.random.default_rng(seed)
    network = stored(networks.random_network(rng, 5, 2, 3, gamma))
    return network, inspect_network(network)


# The five conditions.


@few
@given(st.integers(0, 10_000), st.floats(-3, 0.95))
def test_conditions_are_the_quantities_they_name(seed: int, gamma: float) -> None:
    network, found = _inspect(seed, gamma)
    W = network.W.dense().numpy()
    mu, rows, radius, mu_2, lben = (c.value for c in found.conditions)
    # A refuted one has a lower bound that its witness gives, which may be a little off.
    assert np.isclose(mu_2, np.linalg.eigvalsh((W + W.T) / 2).max())
    assert np.isclose(radius, np.abs(np.linalg.eigvals(np.abs(W))).max(), rtol=1e-5)
    assert np.isclose(rows, np.abs(W).sum(1).max())
    assert found.abscissa is not None
    assert found.abscissa <= mu + 1e-9 < 1
    assert np.isclose(mu, found.abscissa, atol=1e-5)
    assert found.conditions[0].verdict == "holds"
    assert lben <= mu_2 + 1e-9 or mu_2 >= 1


def truth_below_one(W: Array) -> dict[str, bool]:
    """Which of the first four numbers are below 1, in exact arithmetic."""
    rows = exact.to_fractions(abs(W))
    n = len(rows)
    gap = [[(i == j) - rows[i][j] for j in range(n)] for i in range(n)]
    eta = exact.solve(gap, [[Fraction(1)]] * n)
    positive = eta is not None and all(row[0] > 0 for row in eta)
    definite = [
        [(i == j) - (a + b) / 2 for j, (a, b) in enumerate(zip(row, column, strict=True))]
        for i, (row, column) in enumerate(
            zip(exact.to_fractions(W), zip(*exact.to_fractions(W), strict=True), strict=True)
        )
    ]
    regular = exact.solve(definite, [[] for _ in range(n)]) is not None
    return {
        "mu_{inf,[eta]^-1}(W) at the best eta": exact.exact_abscissa_below_one(W),
        "||W||_inf": max(sum(row) for row in rows) < 1,
        "lambda_pf(|W|)": positive,
        "mu_2(W)": regular and exact.is_semidefinite(definite),
    }


def check_truth(W: Array, found: Sequence[Condition]) -> None:
    truth = truth_below_one(W)
    for condition in found[:4]:
        if condition.verdict != "undecided":
            assert truth[condition.name] == (condition.verdict == "holds"), condition
    lben = found[4]
    if lben.verdict == "fails":  # so do the conditions that imply it
        assert not any(truth.values())
    if any(c.verdict == "holds" for c in found[:4]):
        assert lben.verdict == "holds"


def check_verdicts(W: Array) -> None:
    found = conditions(with_weight(W))
    check_truth(W, found)
    assert found[1].verdict != "undecided"  # decided exactly


@few
@given(on_a_grid, st.sampled_from([0.0, 2.0**-53, -(2.0**-53), 1e-9, -1e-9]))
def test_a_verdict_is_never_wrong(W: Array, shift: float) -> None:
    check_verdicts(W + shift * np.eye(len(W)))


@pytest.mark.parametrize("net", EVERY, ids=lambda net: net.name)
def test_verdicts_on_awkward_networks(net: Network) -> None:
    check_verdicts(net.W)


@few
@given(on_a_grid)
def test_the_lyapunov_weights_prove_the_last_condition(W: Array) -> None:
    network = with_weights(with_weight(W))
    last = five_conditions(network)[4]
    if last.verdict == "holds":
        m = 1 - Fraction(last.value)
        assert m > 0
        assert exact.is_monotone(W, network.monotone.Lambda, m)
    elif last.verdict == "fails":
        # A witness holds for every Lambda; these are some of them.
        for Lambda in (np.ones(len(W)), *(10.0 ** np.array([[0, 1, -1], [1, 0, -2]])[:, : len(W)])):
            assert not exact.is_monotone(W, Lambda, Fraction(1, 10**9))


@few
@given(on_a_grid, st.floats(0.05, 0.95))
def test_conditions_imply_one_another(W: Array, norm: float) -> None:
    """Row sums below 1: so are lambda_pf(|W|), [J22]'s number and, derived here, [R20]'s."""
    largest = np.abs(W).sum(1).max()
    W = norm * W / largest if largest else W
    mu, rows, radius, _, lben = conditions(with_weight(W))
    assert {c.verdict for c in (mu, rows, radius, lben)} == {"holds"}
    assert mu.value - 1e-8 <= radius.value <= rows.value + 1e-8


@few
@given(networks.contracting_networks(activations=("relu",)))
def test_what_contracts_is_monotone_at_the_perron_weights(net: Network) -> None:
    network = stored(net)
    try:
        _ = network.contraction
    except NotContractingError:
        return
    verdicts = [c.verdict for c in conditions(network)]
    assert verdicts[0] == verdicts[4] == "holds"
    Lambda = next(proposed_weights(network.W.dense()))
    assume(float(Lambda.amax() / Lambda.amin()) < 1e6 and network.contraction.mu < 0.9)
    assert exact.is_monotone(net.W, Lambda, 0)


def test_the_search_for_weights_finds_what_1_and_the_majorant_miss() -> None:
    W = np.array([[0.0, -60.0], [0.15, 0.0]])  # abscissa of the majorant 3, mu_2 = 29.9
    mu, _, _, mu_2, lben = conditions(with_weight(W))
    assert (mu.verdict, mu_2.verdict, lben.verdict) == ("fails", "fails", "holds")
    found = inspect_network(with_weight(W))
    assert found.Lambda_ratio == pytest.approx(400, rel=1e-6)
    assert found.lipschitz == {}
    assert len(found.lipschitz_l2) == 2


def test_a_complex_eigenvalue_refutes_every_lambda() -> None:
    W = np.array([[1.5, -2.0], [2.0, 0.9]])  # no real eigenvalue, and none with real part below 1
    assert conditions(with_weight(W))[4].verdict == "fails"
    W = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 2.0], [2.0, 0.0, 0.0]]) - 0.5 * np.eye(3)
    assert [c.verdict for c in conditions(with_weight(W))] == ["fails"] * 5


def test_a_stored_eta_is_reported_but_not_believed() -> None:
    W = np.array([[0.0, 4.0], [0.1, 0.0]])
    ones = np.ones((2, 1))
    bad, good = np.array([1.0, 1.0]), np.array([2.0, 0.3])
    for eta, verdict in ((bad, "fails"), (good, "holds")):
        network = StoredNetwork.from_arrays(W, ones, ones[:, 0], ones.T, ones[0], eta=eta)
        found = inspect_network(network)
        assert found.stored_eta is not None
        assert found.stored_eta.verdict == verdict
        assert found.conditions[0].verdict == "holds"
    network = StoredNetwork.from_arrays(W, ones, ones[:, 0], ones.T, ones[0], eta=-bad)
    assert inspect_network(network).stored_eta is None


@pytest.mark.parametrize("net", [*NOT_CONTRACTING.values(), *NOT_MONOTONE.values()], ids=str)
def test_bad_networks_are_inspected_and_say_what_they_lack(net: Network) -> None:
    found = inspect_network(stored(net))
    mapping = json.loads(json.dumps(found.to_mapping(), allow_nan=False))
    proved = {c.name for c in found.conditions if c.verdict == "holds"}
    if found.conditions[0].verdict != "holds":
        assert found.lipschitz == {}
        assert found.eta_ratio is None
    if not proved:
        assert found.sampled.sup is found.sampled.l2 is None
        assert mapping["sampled"]["reason"] == "no unique fixed point is proved"


# Lipschitz constants: sampled <= true <= proved.


def attained_jacobians(net: Network) -> list[Array]:
    """C J on every linear region of z* that has an inside, over all x up to 2^60, exactly."""
    far = [float(2**60)] * net.inputs
    low = [-end for end in far]
    found = exact.regions(net.W, net.U, net.b, low, far, net.activation)
    C = exact.to_fractions(net.C)
    return [
        np.array(
            [
                [exact.dot(row, list(column)) for column in zip(*region.jacobian, strict=True)]
                for row in C
            ]
        )
        for region in found
        if region.solid()
    ]


def largest_l2(jacobians: list[Array]) -> float:
    return max(float(np.linalg.norm(J.astype(np.float64), 2)) for J in jacobians)


@st.composite
def moderate_networks(draw: st.DrawFn) -> Network:
    """Contracting ReLU networks of up to 4 states and 2 inputs."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n, r = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    activation = draw(st.sampled_from(PIECEWISE_LINEAR)) if n < 4 else "relu"
    gamma = draw(st.sampled_from([-3.0, 0.0, 0.5, 0.9]))
    return networks.random_network(rng, n, r, 2, gamma, activation=activation)


@few
@given(net=moderate_networks(), spread=st.lists(st.floats(-2, 2), min_size=4, max_size=4))
def test_sampled_is_below_true_is_below_every_bound(net: Network, spread: list[float]) -> None:
    network, jacobians = stored(net), attained_jacobians(net)
    true = max(max(sum(map(abs, row)) for row in J) for J in jacobians)
    found = sample_lipschitz(network)
    assert found.sup is not None
    assert found.l2 is not None
    assert found.sup <= float(true) * (1 + 1e-9) + 1e-12
    assert found.l2 <= largest_l2(jacobians) * (1 + 1e-9) + 1e-12
    derived = Derived().constant(network)
    assert true <= Fraction(derived)
    for eta in (None, np.ones(net.states), 10.0 ** np.array(spread[: net.states])):
        at = StoredNetwork.from_arrays(*net.arrays, net.activation, eta=eta)
        assert derived <= Weighted().constant(at) * (1 + 1e-12)  # another eta where it fails
    assert all(largest_l2(jacobians) <= bound * (1 + 1e-12) for bound in bounds_l2(network))


def bounds_l2(network: StoredNetwork) -> tuple[float, float]:
    """The two, of which the first is never the worse but for its lift; at the Lambda found."""
    network = with_weights(network)
    lmi, spectral = lmi_bound(network), spectral_bound(network)
    assert lmi <= spectral * (1 + 1e-6) + 1e-50
    return lmi, spectral


@few
@given(monotone_networks(activations=("relu",)))
def test_the_l2_constants_of_monotone_networks_are_in_order(net: Network) -> None:
    network = StoredNetwork.from_arrays(*net.arrays, net.activation, Lambda=net.eta)
    true = largest_l2(attained_jacobians(net))
    assert all(true <= bound * (1 + 1e-12) + 1e-100 for bound in bounds_l2(network))


@few
@given(net=moderate_networks(), norm=st.sampled_from([0.1, 0.5, 0.99]))
def test_the_table_has_every_bound_in_order(net: Network, norm: float) -> None:
    W = norm * net.W / max(np.abs(net.W).sum(1).max(), 1e-9)
    network = StoredNetwork.from_arrays(W, *net.arrays[1:], net.activation, eta=np.ones(len(W)))
    found = inspect_network(network)
    assert found.sampled.sup is not None
    assert found.sampled.l2 is not None
    derived, weighted, row_sum = found.lipschitz.values()
    ordered = [found.sampled.sup, derived, weighted, row_sum]
    lmi, spectral = found.lipschitz_l2.values()
    for smaller, larger in [*itertools.pairwise(ordered), (found.sampled.l2, lmi)]:
        assert smaller <= larger * (1 + 1e-9)
    assert lmi <= spectral * (1 + 1e-6)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.1)", "hard_tanh", "tanh"])
def test_jacobians_are_those_of_finite_differences(activation: str) -> None:
    net = networks.random_network(np.random.default_rng(3), 6, 3, 2, 0.5, activation=activation)
    network, random = stored(net), torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=random)
    J = jacobian(network, x, network.solve(x, 1e-13).value)
    for v in torch.eye(3):
        ends = [network.predict(x + sign * 1e-6 * v, 1e-13) for sign in (1, -1)]
        torch.testing.assert_close((ends[0] - ends[1]) / 2e-6, J @ v, rtol=1e-5, atol=1e-6)


@given(hnp.arrays(np.float64, (2, 3, 4), elements=st.floats(-5, 5)), st.booleans())
def test_induced_norms_and_their_directions(A: Array, transposed: bool) -> None:
    J = torch.tensor(A.transpose(0, 2, 1) if transposed else A)
    for norm, order in ((sup_norm, np.inf), (l2_norm, 2)):
        size, direction = norm(J)
        for matrix, found, v in zip(J.numpy(), size.tolist(), direction.numpy(), strict=True):
            assert found == pytest.approx(np.linalg.norm(matrix, order), rel=1e-6, abs=1e-150)
            if np.linalg.norm(matrix) > 1e-100:
                gain = np.linalg.norm(matrix @ v, order) / np.linalg.norm(v, order)
                assert gain == pytest.approx(found, rel=1e-6)


def test_the_search_finds_the_steep_place_far_from_where_it_starts() -> None:
    """One unit of slope 1 everywhere, and one of slope 10 that wakes at x = 50 only."""
    network = StoredNetwork.from_arrays(
        np.zeros((2, 2)), [[1.0], [10.0]], [0.0, -500.0], [[1.0, 1.0]], [0.0]
    )
    found = sample_lipschitz(network)
    assert found.sup == pytest.approx(11)
    assert found == sample_lipschitz(network)  # deterministic
    assert found.points > 0


def test_a_network_whose_fixed_points_are_not_found_says_so() -> None:
    found = inspect_network(stored(CONTRACTING["deep chain"]))
    assert found.sampled.sup is found.sampled.l2 is None
    assert "no fixed point was found" in found.sampled.reason


def test_the_foreign_network(foreign: StoredNetwork) -> None:
    found = inspect_network(foreign)
    mu, _, _, mu_2, lben = found.conditions
    assert (mu.verdict, mu_2.verdict, lben.verdict) == ("fails", "holds", "holds")
    assert mu_2.value == pytest.approx(-19, abs=1e-5)
    assert found.lipschitz == {}
    assert found.sampled.l2 is not None
    assert 9 < found.sampled.l2 < min(found.lipschitz_l2.values()) < 11.10
    assert found.sampled.sup is not None
    assert found.sampled.sup > found.sampled.l2


def test_outputs_that_do_not_depend_on_the_input_have_constant_0() -> None:
    found = inspect_network(stored(CONTRACTING["deaf to its input"]))
    assert found.sampled.sup == found.sampled.l2 == 0
    assert all(bound < 1e-50 for bound in found.lipschitz_l2.values())
