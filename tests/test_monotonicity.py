"""`prove_monotone` and the factor behind it, against exact arithmetic: never wrong."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import exact
from equicert.definiteness import deficit, norm_above
from equicert.errors import EquicertError, NotContractingError, NotMonotoneError, RoundingError
from equicert.monotonicity import Monotone, lambda_norm, lambda_norm_above, prove_monotone
from equicert.operators import Dense
from equicert.stored import StoredNetwork
from monotone_networks import MONOTONE, NOT_MONOTONE, STIFF, monotone_networks, stored
from networks import Array, Network, arrays

GRID = [-2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5]


def prove(W: Array, hint: Array | None = None, m: float | None = None) -> Monotone:
    return prove_monotone(Dense(torch.tensor(W)), None if hint is None else torch.tensor(hint), m)


def attempt(W: Array, hint: Array | None = None) -> Monotone | None:
    try:
        return prove(W, hint)
    except NotMonotoneError:
        return None


def check(W: Array, found: Monotone) -> None:
    """The proof, in exact arithmetic for the very W and Lambda."""
    assert found.m > 0
    assert float(found.Lambda.min()) == 1
    assert exact.is_monotone(W, found.Lambda, found.m)


@pytest.mark.parametrize("net", [*MONOTONE.values(), *STIFF.values()], ids=str)
def test_monotone_networks_are_proved_with_nearly_the_largest_m(net: Network) -> None:
    found = prove(net.W, net.eta)
    check(net.W, found)
    more = found.m * (1 + 1e-6) + 1e-9 * float(np.abs(net.W).max())
    assert not exact.is_monotone(net.W, found.Lambda, more)


@pytest.mark.parametrize("net", NOT_MONOTONE.values(), ids=str)
@pytest.mark.parametrize("hinted", [False, True])
def test_others_are_refused_whatever_the_hint(net: Network, hinted: bool) -> None:
    with pytest.raises(NotMonotoneError, match="not proved monotone") as caught:
        prove(net.W, np.ones(net.states) if hinted else None)
    assert isinstance(caught.value, EquicertError)
    assert "\n" not in str(caught.value)


@given(
    st.integers(1, 3).flatmap(
        lambda n: hnp.arrays(np.float64, (n, n), elements=st.sampled_from(GRID))
    ),
    st.sampled_from([0.0, 2.0**-53, -(2.0**-53), 1e-9, -1e-9]),
)
def test_a_proof_is_never_wrong_at_the_boundary(W: Array, shift: float) -> None:
    W = W + shift * np.eye(len(W))
    found = attempt(W)
    if found is not None:
        check(W, found)
    else:  # what float64 resolves is found
        assert not exact.is_monotone(W, np.ones(len(W)), 1e-6)


@given(arrays((3, 3), 2.0), arrays((3,), 4.0))
def test_a_proof_is_never_wrong_for_any_hint(W: Array, log: Array) -> None:
    found = attempt(W, 10.0**log)
    if found is not None:
        check(W, found)


@given(monotone_networks())
def test_what_was_built_monotone_is_proved(net: Network) -> None:
    check(net.W, prove(net.W, net.eta))


@given(monotone_networks(), st.floats(0.5, 2.0))
def test_a_promised_m_is_not_believed(net: Network, factor: float) -> None:
    found = prove(net.W, net.eta)
    check(net.W, prove(net.W, net.eta, factor * found.m))


@pytest.mark.parametrize(
    "hint",
    [[np.nan, 1.0], [-1.0, 1.0], [0.0, 1.0], [np.inf, 1.0], [1.0, 1e300], [1.0, 2.0, 3.0]],
    ids=str,
)
def test_hints_that_lie_are_not_believed(hint: list[float]) -> None:
    W = MONOTONE["mu_2 above 1"].W
    assert attempt(W, np.array(hint)) is None
    check(MONOTONE["rotation"].W, prove(MONOTONE["rotation"].W, np.array(hint)))


def test_entries_that_are_not_numbers_prove_nothing() -> None:
    for entry in (np.nan, np.inf, -np.inf):
        assert attempt(np.array([[entry, 0.0], [0.0, -1.0]])) is None


def test_float32_weights_are_taken_exactly() -> None:
    W = MONOTONE["monotone"].W.astype(np.float32)
    found = prove_monotone(Dense(torch.tensor(W)))
    check(W.astype(np.float64), found)


@given(monotone_networks())
def test_the_transposed_proof_holds_for_the_transposed_matrix(net: Network) -> None:
    found = prove(net.W, net.eta).transposed
    assert exact.is_monotone(net.W.T, found.Lambda, found.m * (1 - 1e-9) - 1e-12)


# The factor.


@given(arrays((3, 3), 2.0), arrays((3,), 2.0), st.sampled_from([0.0, 1e-9, 1.0]))
def test_a_deficit_is_one(F: Array, log: Array, lift: float) -> None:
    weights = 10.0**log
    B = F @ F.T + lift * np.eye(3)
    B = (B + B.T) / 2
    k = deficit(torch.tensor(B), torch.zeros(3, 3), torch.tensor(weights))
    if k < np.inf:
        lifted = exact.to_fractions(B)
        for i in range(3):
            lifted[i][i] += Fraction(k) * Fraction(weights[i])
        assert exact.is_semidefinite(lifted)
    else:
        assert lift < 1


def test_a_wrong_factor_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cholesky only proposes: with any other factor the deficit still is one."""
    B = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    wrong = torch.eye(2), torch.zeros(())
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda _: wrong)
    assert deficit(B, torch.zeros(2, 2), torch.ones(2)) >= 0.9


@given(arrays((3, 2), 4.0), arrays((3,), 2.0))
def test_a_norm_bound_is_one(F: Array, log: Array) -> None:
    weights = 10.0**log
    s = norm_above(torch.tensor(F), torch.tensor(weights))
    rows = exact.to_fractions(F)
    gram = [[-exact.dot(p, q) for q in rows] for p in rows]
    for i in range(3):
        gram[i][i] += Fraction(s) ** 2 * Fraction(weights[i])
    assert exact.is_semidefinite(gram)
    scaled = F / np.sqrt(weights)[:, None]
    assert s <= np.linalg.norm(scaled, 2) * (1 + 1e-6) + 1e-100


def test_a_norm_of_what_is_not_a_number_is_not_bounded() -> None:
    assert norm_above(torch.tensor([[np.nan]]), torch.ones(1)) == np.inf
    assert norm_above(torch.tensor([[1e300]]), torch.ones(1)) == np.inf


@given(arrays((3,), 1e3), arrays((3,), 3.0))
def test_the_norm_above_is(v: Array, log: Array) -> None:
    Lambda = 10.0**log
    above = float(lambda_norm_above(torch.tensor(v), torch.tensor(Lambda)))
    squares = zip(exact.to_fractions(v), exact.to_fractions(Lambda), strict=True)
    assert Fraction(above) ** 2 >= sum(weight * x * x for x, weight in squares)
    assert above <= float(lambda_norm(torch.tensor(v), torch.tensor(Lambda))) * (1 + 1e-9) + 1e-140


# What a stored network says.


@pytest.mark.parametrize("net", [*MONOTONE.values(), *STIFF.values()], ids=str)
def test_a_stored_network_is_well_posed_by_either_proof(net: Network) -> None:
    network = stored(net)
    check(net.W, network.monotone)
    if exact.exact_abscissa_below_one(net.W):
        assert network.well_posed is network.contraction
    else:
        assert network.well_posed is network.monotone
        with pytest.raises(NotContractingError):
            _ = network.contraction


def test_neither_proof_is_one_line_with_both_numbers() -> None:
    with pytest.raises(NotContractingError, match=r"not monotone either: mu_2\(W\) = 2") as caught:
        _ = stored(NOT_MONOTONE["strong pair"]).well_posed
    assert "\n" not in str(caught.value)


def test_the_hint_decides_only_where_it_serves() -> None:
    net = MONOTONE["mu_2 above 1"]
    check(net.W, stored(net).monotone)
    with pytest.raises(NotMonotoneError):
        _ = stored(net, hint=False).monotone


def test_the_hint_does_not_change_the_digest() -> None:
    net = MONOTONE["lben"]
    assert stored(net).digest == stored(net, hint=False).digest


def test_flushing_arithmetic_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise RoundingError("no")

    monkeypatch.setattr("equicert.monotonicity.self_test", refuse)
    with pytest.raises(RoundingError):
        prove(np.zeros((1, 1)))


def test_the_foreign_network_is_monotone_and_not_contracting(foreign: StoredNetwork) -> None:
    assert foreign.monotone.m == pytest.approx(20, abs=1e-5)
    assert foreign.monotone.plain
    with pytest.raises(NotContractingError):
        _ = foreign.contraction
