"""Weighted norms and matrix measures against exact arithmetic; facts 2 and 3 of the theory."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import exact
import networks
from equicert.errors import InputError, NotContractingError
from equicert.norms import (
    best_eta,
    majorant_abscissa,
    matrix_measure,
    metzler_majorant,
    metzler_split,
    spectral_measure,
    weighted_norm,
)
from networks import CONTRACTING, NOT_CONTRACTING, Network

ALL = [*CONTRACTING.values(), *NOT_CONTRACTING.values()]
TABLE = pytest.mark.parametrize("net", ALL, ids=str)
BAD = pytest.mark.parametrize("net", NOT_CONTRACTING.values(), ids=str)

square = st.integers(1, 4).flatmap(lambda n: networks.arrays((n, n), 8.0))
# Multiples of 2^-10: eigenvalue routines and norms without underflow.
coarse_square = square.map(lambda A: np.round(A * 1024) / 1024)
coarse = networks.arrays((4,), 1e3).map(lambda x: np.round(x * 1024) / 1024)


def skewed_eta(n: int) -> st.SearchStrategy[networks.Array]:
    return networks.arrays((n,), 6.0).map(lambda logarithm: 10.0**logarithm)


def measure_agrees(A: networks.Array, eta: networks.Array, found: float) -> bool:
    """Whether `found` is the exact measure up to roundings of the row sums, and underflow."""
    size = exact.measure(np.abs(A), eta)
    allowed = size * 4 * (len(A) + 2) * Fraction(2) ** -53 + Fraction(2) ** -1040
    return abs(Fraction(found) - exact.measure(A, eta)) <= allowed


# Norms.


@given(networks.arrays((5, 3), 1e6), skewed_eta(3))
def test_weighted_norm_is_the_largest_ratio_row_by_row(
    x: networks.Array, eta: networks.Array
) -> None:
    norms = weighted_norm(torch.tensor(x), torch.tensor(eta))
    assert norms.shape == (5,)
    for row, norm in zip(x, norms.tolist(), strict=True):
        truth = max(abs(a) / e for a, e in zip(map(Fraction, row), map(Fraction, eta), strict=True))
        assert abs(Fraction(norm) - truth) <= truth / 2**52 + Fraction(2) ** -1070


def test_weighted_norm_of_one_vector_and_of_an_empty_batch() -> None:
    eta = torch.tensor([2.0, 0.5])
    assert weighted_norm(torch.tensor([3.0, -1.0]), eta).item() == 2.0
    assert weighted_norm(torch.zeros(0, 2), eta).shape == (0,)


@given(coarse, coarse, skewed_eta(4))
def test_weighted_norm_is_a_norm(x: networks.Array, y: networks.Array, eta: networks.Array) -> None:
    a, b, weights = torch.tensor(x), torch.tensor(y), torch.tensor(eta)
    size = weighted_norm(a, weights) + weighted_norm(b, weights)
    assert weighted_norm(a + b, weights) <= size * (1 + 1e-15)
    assert weighted_norm(-2 * a, weights) == 2 * weighted_norm(a, weights)
    assert (weighted_norm(a, weights) == 0) == (not x.any())


# Measures.


@TABLE
def test_measure_on_the_table(net: Network) -> None:
    ones = np.ones(net.states)
    W = torch.tensor(net.W)
    assert measure_agrees(net.W, ones, matrix_measure(W).item())
    assert matrix_measure(W) == matrix_measure(W, torch.ones(net.states))
    if net.eta is not None:
        assert measure_agrees(net.W, net.eta, matrix_measure(W, torch.tensor(net.eta)).item())


@given(st.data())
def test_measure_is_the_exact_one(data: st.DataObject) -> None:
    A = data.draw(square)
    eta = data.draw(skewed_eta(len(A)))
    assert measure_agrees(A, eta, matrix_measure(torch.tensor(A), torch.tensor(eta)).item())


@given(st.data())
def test_measure_is_the_derivative_of_the_induced_norm_at_the_identity(data: st.DataObject) -> None:
    A = data.draw(square)
    eta = data.draw(skewed_eta(len(A)))
    h = Fraction(1, 2**20)
    exact_A, exact_eta = exact.to_fractions(A), exact.to_fractions(eta)
    norm = max(
        sum(abs((i == j) + h * a) * e for j, (a, e) in enumerate(zip(row, exact_eta, strict=True)))
        / exact_eta[i]
        for i, row in enumerate(exact_A)
    )
    # |1 + h A_ii| = 1 + h A_ii for h this small, so that the quotient is the limit already.
    assert measure_agrees(A, eta, matrix_measure(torch.tensor(A), torch.tensor(eta)).item())
    assert (norm - 1) / h == exact.measure(A, eta)


@given(coarse_square)
def test_spectral_measure_is_the_largest_numerical_value(A: networks.Array) -> None:
    tensor = torch.tensor(A)
    mu = spectral_measure(tensor).item()
    x = torch.linspace(-1, 2, len(A))
    size = 1e-13 * (1 + np.abs(A).max())
    assert (x @ tensor @ x / (x @ x)).item() <= mu + size
    # Attained: mu I - sym(A) is singular and positive semidefinite.
    symmetric = (A + A.T) / 2
    assert abs(np.linalg.eigvalsh(mu * np.eye(len(A)) - symmetric).min()) <= size


def test_spectral_measure_by_hand() -> None:
    assert spectral_measure(torch.tensor([[0.0, -3.0], [3.0, 0.0]])).item() == 0.0
    assert spectral_measure(torch.tensor([[-19.0]])).item() == -19.0
    assert spectral_measure(torch.tensor([[1.0, 4.0], [0.0, 1.0]])).item() == pytest.approx(3.0)


# The Metzler split.


@TABLE
def test_split_has_its_parts_where_they_belong(net: Network) -> None:
    W = torch.tensor(net.W)
    ceil, floor = metzler_split(W)
    assert torch.equal(ceil + floor, W)
    assert torch.equal(ceil.diagonal(), W.diagonal())
    assert not floor.diagonal().any()
    off = ~torch.eye(net.states, dtype=torch.bool)
    assert (ceil[off] >= 0).all()
    assert (floor <= 0).all()
    assert not ((ceil != 0) & (floor != 0)).any()
    assert torch.equal(metzler_majorant(W)[off], (ceil - floor)[off])


@TABLE
def test_majorant_is_exact(net: Network) -> None:
    assert exact.to_fractions(metzler_majorant(torch.tensor(net.W))) == exact.majorant(net.W)


# Fact 2: the corrected parametrisation (12), and the one that is printed.


@given(st.integers(1, 5), st.data())
def test_corrected_parametrisation_has_the_stated_measure(n: int, data: st.DataObject) -> None:
    # Integers and powers of two, so that W is formed without any rounding.
    T = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=n * n, max_size=n * n)), float)
    T = T.reshape(n, n)
    eta = 2.0 ** np.array(data.draw(st.lists(st.integers(-20, 20), min_size=n, max_size=n)), float)
    gamma = data.draw(st.sampled_from([0.25, 0.0, -4.0, 1 - 2.0**-20]))
    W = np.diag(eta) @ T @ np.diag(1 / eta) - np.diag(np.abs(T).sum(1)) + gamma * np.eye(n)
    stated = gamma + min(2 * np.diag(T).max(), 0)
    assert exact.measure(W, eta) == Fraction(stated)
    found = matrix_measure(torch.tensor(W), torch.tensor(eta)).item()
    assert measure_agrees(W, eta, found)
    assert abs(found - stated) <= 1e-12 * (1 + abs(W).max())
    assert np.array_equal(W, networks.contracting_weight(T, eta, gamma))


def test_printed_parametrisation_fails() -> None:
    rng = np.random.default_rng(0)
    T, eta = rng.normal(size=(20, 20)), 10.0 ** rng.uniform(-1, 1, 20)
    printed = networks.contracting_weight(T, 1 / eta, 0.3)
    corrected = networks.contracting_weight(T, eta, 0.3)
    weights = torch.tensor(eta)
    assert matrix_measure(torch.tensor(corrected), weights) <= 0.3 + 1e-12
    assert matrix_measure(torch.tensor(printed), weights) > 10


# Fact 3: the best eta.


def resolved(W: networks.Array) -> bool:
    """The exact eta has (M eta)_i = eta_i - 1, which float64 does not show where eta_i > 2^53."""
    return max(exact.best_eta(W) or [math.inf]) < 2**40


RESOLVED = [case for case in CONTRACTING.values() if resolved(case.W)]


@pytest.mark.parametrize("net", RESOLVED, ids=str)
def test_best_eta_serves_exactly_where_any_does(net: Network) -> None:
    eta = best_eta(torch.tensor(net.W))
    assert eta.shape == (net.states,)
    assert eta.dtype == torch.float64
    assert exact.contracts(net.W, eta)


@pytest.mark.parametrize("name", ["nilpotent", "nilpotent 1e30", "deep chain"])
def test_a_shifted_best_eta_serves_with_room_to_spare(name: str) -> None:
    # Their M is nilpotent: any measure above 0 is within reach, and ((1 - t) I - M)^-1 1 has 1 - t.
    net = CONTRACTING[name]
    for t in (0.5, 0.9):
        eta = best_eta(torch.tensor(net.W) + t * torch.eye(net.states))
        assert exact.measure(net.W, eta) <= Fraction(1 - t) * (1 + Fraction(1, 2**40))


def test_best_eta_takes_float32_weights_exactly() -> None:
    single = torch.tensor(networks.random_network(np.random.default_rng(3), 5, 1, 1).W).float()
    assert torch.equal(best_eta(single), best_eta(single.double()))
    assert best_eta(single).dtype == torch.float64


@BAD
def test_best_eta_refuses_what_no_eta_serves(net: Network) -> None:
    with pytest.raises(NotContractingError):
        best_eta(torch.tensor(net.W))


@pytest.mark.parametrize("net", networks.HAIRLINE.values(), ids=str)
def test_best_eta_within_a_rounding_of_1_is_positive_or_refused(net: Network) -> None:
    try:
        eta = best_eta(torch.tensor(net.W))
    except NotContractingError:
        return
    assert (eta > 0).all()
    assert eta.isfinite().all()


@given(st.data())
def test_no_eta_beats_the_abscissa_and_one_attains_it(data: st.DataObject) -> None:
    A = data.draw(coarse_square)
    tensor = torch.tensor(A)
    abscissa = majorant_abscissa(tensor)
    size = 1e-3 * (1 + np.abs(A).max())  # a fourfold eigenvalue is only good to eps^(1/4)
    eta = data.draw(skewed_eta(len(A)))
    assert matrix_measure(tensor, torch.tensor(eta)).item() >= abscissa - size
    # (s I - M)^-1 1 brings the measure below s for every s above the abscissa.
    s = abscissa + 3 * size
    near = torch.linalg.solve(s * torch.eye(len(A)) - metzler_majorant(tensor), torch.ones(len(A)))
    assert (near > 0).all()
    assert matrix_measure(tensor, near).item() <= s + 1e-9 * size


def test_the_abscissa_is_attained_at_the_perron_vector_of_an_irreducible_majorant() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        W = torch.tensor(rng.normal(size=(6, 6)))
        values, vectors = torch.linalg.eig(metzler_majorant(W))
        perron = vectors[:, int(values.real.argmax())].real.abs()
        assert matrix_measure(W, perron).item() == pytest.approx(majorant_abscissa(W), rel=1e-10)


@given(square, st.data())
def test_best_eta_serves_wherever_a_random_eta_does(A: networks.Array, data: st.DataObject) -> None:
    W = A - np.diag(np.abs(data.draw(networks.arrays((len(A),), 64.0))))
    if exact.contracts(W, data.draw(skewed_eta(len(A)))):
        assume(resolved(W))
        assert exact.contracts(W, best_eta(torch.tensor(W)))


@given(networks.contracting_networks(max_states=4))
def test_best_eta_serves_drawn_networks(net: Network) -> None:
    assume(resolved(net.W))
    assert exact.contracts(net.W, best_eta(torch.tensor(net.W)))


def test_a_random_eta_is_useless_for_a_reducible_weight_and_the_best_one_serves() -> None:
    W = networks.CONTRACTING["nilpotent"].W
    rng = np.random.default_rng(2)
    for _ in range(100):
        assert not exact.contracts(W, 10.0 ** rng.uniform(-2, 2, 3))
    assert exact.contracts(W, best_eta(torch.tensor(W)))


# Bad input.


@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 2, 2)])
@pytest.mark.parametrize(
    "function", [matrix_measure, spectral_measure, metzler_split, metzler_majorant]
)
def test_what_is_not_square_is_refused(
    function: Callable[[torch.Tensor], object], shape: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="square"):
        function(torch.zeros(shape))


@pytest.mark.parametrize("eta", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_an_eta_that_is_no_weight_is_refused(eta: list[float]) -> None:
    with pytest.raises(InputError, match="eta"):
        matrix_measure(torch.eye(2), torch.tensor(eta))
