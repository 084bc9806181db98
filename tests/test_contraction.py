"""`prove_contraction` against exact arithmetic: it never proves what is false, and finds eta."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import exact
import networks
from equicert import contraction
from equicert.contraction import Contraction, prove_contraction
from equicert.errors import EquicertError, NotContractingError, RoundingError
from equicert.operators import Dense
from networks import CONTRACTING, HAIRLINE, NOT_CONTRACTING, Array, Network
from test_enclosures import LEANS, Sloppy

# Entries on a coarse grid make matrices whose measure is exactly 1 common.
GRID = [-2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5]
EPS = 2.0**-52


def prove(W: Array, hint: Array | None = None) -> Contraction:
    return prove_contraction(Dense(torch.tensor(W)), None if hint is None else torch.tensor(hint))


def attempt(W: Array, hint: Array | None = None) -> Contraction | None:
    try:
        return prove(W, hint)
    except NotContractingError:
        return None


def check(W: Array, found: Contraction) -> None:
    """Every number of the proof, in exact arithmetic for the very W and eta."""
    eta = exact.to_fractions(found.eta)
    assert exact.contracts(W, eta)
    assert exact.measure(W, eta) <= Fraction(found.mu) < 1
    assert 0 < Fraction(found.gap) <= 1 - max(Fraction(found.mu), 0)
    rows = exact.to_fractions(W)
    for i, (row, gap) in enumerate(zip(rows, exact.to_fractions(found.gaps), strict=True)):
        off = sum((abs(w) * e for j, (w, e) in enumerate(zip(row, eta, strict=True)) if j != i), 0)
        assert off / eta[i] / (1 - row[i]) <= Fraction(found.rate) < 1
        assert 0 < gap <= eta[i] - off / (1 - row[i])


def check_beside_1(net: Network, found: Contraction | None) -> None:
    """What is proved of it, if anything, is true."""
    if found is not None:
        assert net.contracting
        check(net.W, found)


# The truth is decided by exact arithmetic.


@pytest.mark.parametrize("net", CONTRACTING.values(), ids=str)
def test_contracting_networks_are_proved_without_a_hint(net: Network) -> None:
    found = prove(net.W)
    check(net.W, found)


@pytest.mark.parametrize("net", NOT_CONTRACTING.values(), ids=str)
@pytest.mark.parametrize("hinted", [False, True])
def test_others_are_refused_whatever_the_hint(net: Network, hinted: bool) -> None:
    with pytest.raises(NotContractingError, match="not proved contracting") as caught:
        prove(net.W, np.linspace(1.0, 2.0, net.states) if hinted else None)
    assert isinstance(caught.value, EquicertError)
    assert not caught.value.mu < 1
    assert 0 <= caught.value.row < net.states
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("net", HAIRLINE.values(), ids=str)
def test_one_unit_beside_1_is_never_decided_wrongly(net: Network) -> None:
    check_beside_1(net, attempt(net.W))


@given(
    st.integers(1, 3).flatmap(
        lambda n: hnp.arrays(np.float64, (n, n), elements=st.sampled_from(GRID))
    ),
    st.sampled_from([0.0, EPS / 2, -EPS / 2, 1e-9, -1e-9]),
)
def test_a_proof_is_never_wrong_at_the_boundary(W: Array, shift: float) -> None:
    W = W + shift * np.eye(len(W))
    found = attempt(W)
    if found is not None:
        check(W, found)
    else:  # what float64 resolves is found
        assert not exact.exact_abscissa_below_one(W + 1e-6 * np.eye(len(W)))


@given(networks.arrays((3, 3), 2.0), networks.arrays((3,), 12.0))
def test_a_proof_is_never_wrong_for_any_hint(W: Array, log: Array) -> None:
    found = attempt(W, 10.0**log)
    if found is not None:
        check(W, found)


@given(networks.contracting_networks())
def test_what_was_built_contracting_is_proved_at_its_own_eta(net: Network) -> None:
    found = prove(net.W, net.eta)
    check(net.W, found)
    assert net.eta is not None
    if exact.measure(net.W, net.eta) < 1 - 1e-12:
        assert torch.equal(found.eta, torch.tensor(net.eta))


@given(st.floats(-1e3, 1.0, exclude_max=True))
def test_one_state(w: float) -> None:
    found = attempt(np.array([[w]]))
    if found is None:
        assert w > 1 - 1e-12
    else:
        check(np.array([[w]]), found)
        assert found.mu == pytest.approx(w, rel=1e-12, abs=1e-12)
        assert found.rate <= 1e-300


@LEANS
@given(net=networks.contracting_networks(), share=st.floats(0, 1e-9), hinted=st.booleans())
def test_products_as_wrong_as_the_model_allows_prove_nothing_false(
    net: Network, lean: int, share: float, hinted: bool
) -> None:
    """Their error, 1e-10, is as large as what is missing to measure 1."""
    assert net.eta is not None
    missing = 1 - float(exact.measure(net.W, net.eta))
    W = net.W + (missing - share) * np.eye(net.states)
    hint = torch.tensor(net.eta) if hinted else None
    try:
        found = prove_contraction(Sloppy(torch.tensor(W), lean), hint)
    except NotContractingError:
        return
    check(W, found)


@given(st.floats(1 - 1e-6, 1 - 1e-13), st.floats(0.1, 10.0), st.floats(0, 1e-15))
def test_gaps_count_the_rounding_of_what_cancels(w: float, eta: float, off: float) -> None:
    """`eta - W eta` is a small difference of rounded numbers."""
    W = np.array([[w, off], [0.0, 0.5]])
    found = attempt(W, np.array([eta, 1.0]))
    if found is not None:
        check(W, found)


# The numbers are not only true but good.


@pytest.mark.parametrize("net", CONTRACTING.values(), ids=str)
def test_mu_is_close_to_the_exact_measure(net: Network) -> None:
    found = prove(net.W)
    measure = exact.measure(net.W, found.eta)
    scale = max(1, *(abs(Fraction(w)) for w in np.diagonal(net.W)))
    assert Fraction(found.mu) - measure <= scale * Fraction(1, 10**13)
    assert found.gap == pytest.approx(1 - max(found.mu, 0.0), rel=1e-15)


def test_gamma_near_1_is_proved_and_its_mu_kept() -> None:
    net = CONTRACTING["gamma near 1"]
    found = prove(net.W)
    check(net.W, found)
    assert 1 - 2e-9 < found.mu < 1 - 0.9e-9


def test_eta_ratios_of_1e12_are_proved() -> None:
    rng = np.random.default_rng(5)
    eta = 10.0 ** np.array([-6.0, 6.0, 0.0, 3.0])
    W = networks.contracting_weight(rng.normal(size=(4, 4)), eta, 0.5)
    for hint in (None, eta):
        check(W, prove(W, hint))
    assert torch.equal(prove(W, eta).eta, torch.tensor(eta))


def test_rate_is_that_of_the_eliminated_form() -> None:
    found = prove(np.array([[-19.0, 19.0], [19.0, -19.0]]), np.ones(2))
    assert found.rate == pytest.approx(0.95, rel=1e-12)
    assert found.gaps.tolist() == pytest.approx([0.05, 0.05], rel=1e-12)
    assert found.mu == pytest.approx(0, abs=1e-13)


# Hints.

GARBAGE = [
    [math.nan, 1.0],
    [math.inf, 1.0],
    [-1.0, -1.0],
    [0.0, 1.0],
    [1.0],
    [1.0, 1.0, 1.0],
    [5e-324, 5e-324],
    [1e308, 1e308],
    [1.0, 1e300],
    [1e-3, 1.0],
]


@pytest.mark.parametrize("hint", GARBAGE, ids=str)
def test_a_useless_hint_changes_nothing(hint: list[float]) -> None:
    W = np.array([[0.5, 1e-2], [40.0, 0.0]])
    without, found = prove(W), prove(W, np.array(hint))
    check(W, found)
    assert torch.equal(found.eta, without.eta)
    assert found.mu == without.mu


def test_a_hint_that_serves_is_kept() -> None:
    W = np.array([[0.0, 4.0], [0.1, 0.0]])
    hint = np.array([5.0, 1.0])
    found = prove(W, hint)
    assert torch.equal(found.eta, torch.tensor(hint))
    assert found.mu == pytest.approx(0.8)
    assert prove(W, hint[::-1].copy()).mu < 1  # reversed: measure 20, replaced


def test_a_float32_weight_is_taken_exactly() -> None:
    # 0.9 in float32 is below 0.9; the exact value counts, not the decimal.
    entry = np.array([[np.float32(0.9)]])
    found = prove_contraction(Dense(torch.tensor(entry)), torch.ones(1, dtype=torch.float32))
    assert found.eta.dtype == found.gaps.dtype == torch.float64
    check(entry.astype(np.float64), found)
    assert found.mu < 0.9


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (0, 1)])
def test_a_weight_that_is_not_finite_is_never_proved(bad: float, place: tuple[int, int]) -> None:
    W = np.zeros((2, 2))
    W[place] = bad
    assert attempt(W) is None
    assert attempt(W, np.ones(2)) is None


def test_a_machine_that_fails_its_self_test_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(device: str) -> None:
        raise RoundingError(f"not plain on {device}")

    monkeypatch.setattr(contraction, "self_test", broken)
    with pytest.raises(RoundingError, match="not plain on cpu"):
        prove(np.zeros((1, 1)))


@pytest.mark.parametrize(
    ("W", "depth"),
    [
        ([[0.0]], 1),
        ([[0.5]], 1),  # the diagonal is eliminated
        (np.zeros((3, 3)), 1),
        (np.diag([1e-3] * 4, -1), 5),
        (np.diag([1e-3] * 4, 1), 5),
        ([[0.0, 0.0, 0.0], [1.0, -3.0, 0.0], [5.0, 0.0, 0.0]], 2),
        ([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [5.0, 1.0, 0.0]], 3),
        ([[0.0, 0.1], [0.1, 0.0]], 0),
        ([[0.0, 0.0, 0.0], [1.0, 0.0, 0.5], [0.0, 0.5, 0.0]], 0),  # a cycle behind a state
    ],
)
def test_depth_is_the_longest_path(W: Any, depth: int) -> None:
    assert prove_contraction(Dense(torch.tensor(np.array(W)))).depth == depth
