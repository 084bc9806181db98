"""The sign-split iteration of [WeiK22] beside the embedded network (6): when it serves, and how."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import exact
import networks
from equicert.bounds import Interval, SignSplit
from equicert.bounds.sign_split import sign_split_problem
from equicert.boxes import Box
from equicert.certification import certify
from equicert.contraction import prove_rows
from equicert.errors import NotContractingError
from equicert.operators import Dense
from equicert.queries import Query, StateBox
from equicert.radius import certified_radii
from equicert.solvers import Average, Picard, solve
from equicert.stored import StoredNetwork
from networks import ACTIVATIONS, CONTRACTING, PIECEWISE_LINEAR, Array, Network
from test_bounds import check, points, stored

SLACK = 1e-5  # of boxes iterated to 1e-7 and widened


def serves(W: Array) -> bool:
    """Whether lambda_pf(|W|) < 1, exactly: (I - |W|)^-1 1 exists and is positive."""
    return exact.best_eta(np.abs(W)) is not None


def well_posed(seed: int, n: int = 8, bound: float = 0.9, activation: str = "relu") -> Network:
    """A network with absolute row sums of at most `bound` and diagonals of either sign."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(n, n)) + np.diag(rng.normal(size=n) * n / 2)
    W *= bound / np.abs(W).sum(1, keepdims=True)
    U, C = rng.normal(size=(n, 3)), rng.normal(size=(3, n))
    return Network("drawn", W, U, rng.normal(size=n), C, np.zeros(3), activation)


def full_image(net: Network, z: tuple[Tensor, Tensor], x: Box) -> tuple[Tensor, Tensor]:
    """Both lines of the iteration as printed."""
    W, U, b = (torch.from_numpy(a) for a in (net.W, net.U, net.b))
    low = x.lo @ U.clamp(min=0).mT + x.hi @ U.clamp(max=0).mT + b
    high = x.hi @ U.clamp(min=0).mT + x.lo @ U.clamp(max=0).mT + b
    plus, minus, phi = W.clamp(min=0).mT, W.clamp(max=0).mT, stored(net).activation.phi
    lo, hi = z
    return phi(lo @ plus + hi @ minus + low), phi(hi @ plus + lo @ minus + high)


# The equation.


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("solver", [Picard(), Average()], ids=["picard", "average"])
def test_the_fixed_point_is_that_of_the_printed_iteration(
    activation: str, solver: Picard | Average
) -> None:
    net = well_posed(3, activation=activation)
    network, box = stored(net), Box.around(points(net, 4), 0.2)
    problem = sign_split_problem(network, *network.drive_bounds(box.lo, box.hi))
    found = solve(problem, solver, 1e-10, 20_000)
    assert found.converged.all()
    lo, hi = found.value.chunk(2, -1)
    assert (lo <= hi).all()
    again = full_image(net, (lo, hi), box)
    for end, image in zip((lo, hi), again, strict=True):
        torch.testing.assert_close(image, end, rtol=0, atol=1e-9)
    # And the plain iteration itself arrives there, from afar.
    z = (torch.full_like(lo, -5.0), torch.full_like(hi, 5.0))
    for _ in range(400):
        z = full_image(net, z, box)
    for end, iterate in zip((lo, hi), z, strict=True):
        assert ((end - iterate).abs().amax(-1) <= found.radius + 1e-12).all()


def test_the_error_radius_holds_where_the_negative_diagonal_is_moved() -> None:
    """W = [-0.9], a drive in [-1, 1]: half-widths grow to 10, a tenth of what is left a step."""
    net = Network("slow", np.array([[-0.9]]), np.eye(1), np.zeros(1), np.eye(1), np.zeros(1))
    network = StoredNetwork.from_arrays(*net.arrays, "identity")
    for tolerance in (1.0, 1e-3, 1e-6):
        problem = sign_split_problem(network, torch.tensor([[-1.0]]), torch.tensor([[1.0]]))
        found = solve(problem, Picard(), tolerance, 1000)
        error = float((found.value[0] - torch.tensor([-10.0, 10.0])).abs().max())
        assert 0 < error <= float(found.radius) <= 1.01 * tolerance


# When it is well-posed.


@pytest.mark.parametrize("net", CONTRACTING.values(), ids=str)
def test_a_box_is_proved_where_the_condition_holds_and_only_there(net: Network) -> None:
    network, box = stored(net), Box.around(points(net, 2), 0.1)
    answer = SignSplit().answer(network, Query.of_outputs(box, net.outputs))
    if serves(net.W):
        assert answer.state.proved.all()
    else:
        assert not answer.state.proved.any()
        assert set(answer.state.reason) == {"not well-posed"}
        assert (answer.lower == -math.inf).all()
    check(net, answer, exactly=net.states <= 3)


@given(networks.arrays((3, 3), 1.5).map(lambda W: np.round(8 * W) / 8))
def test_the_condition_is_decided_as_exact_arithmetic_decides_it(W: Array) -> None:
    """It is never claimed wrongly, and it implies that the network contracts."""
    own = np.maximum(np.diagonal(W), 0)
    rest = W - np.diag(own)
    try:
        found = prove_rows(Dense(torch.from_numpy(rest)), torch.from_numpy(own))
    except NotContractingError:
        abscissa = np.abs(np.linalg.eigvals(np.abs(W))).max()
        assert abscissa > 1 - 1e-9 or not serves(W)
        return
    assert serves(W)
    assert exact.exact_abscissa_below_one(W)
    eta = exact.to_fractions(found.eta)
    image = exact.times(exact.to_fractions(np.abs(W)), eta)
    assert max(a / e for a, e in zip(image, eta, strict=True)) <= Fraction(found.mu) < 1
    assert exact.contracts(W, eta)  # the same eta, with the Metzler majorant
    left = exact.times(exact.to_fractions(np.abs(rest)), eta)
    for a, e, d, gap in zip(left, eta, own.tolist(), found.gaps.tolist(), strict=True):
        assert a / e / (1 - Fraction(d)) <= Fraction(found.rate) < 1
        assert 0 < Fraction(gap) <= e - a / (1 - Fraction(d))


@given(networks.arrays((4, 4), 0.6))
def test_a_condition_of_absolute_values_implies_contraction(W: Array) -> None:
    """lambda_pf(|W|) < 1 ([EG21]) bounds the spectral abscissa of the Metzler majorant."""
    majorant = np.where(np.eye(4, dtype=bool), W, np.abs(W))
    abscissa = np.linalg.eigvals(majorant).real.max()
    assert abscissa <= np.abs(np.linalg.eigvals(np.abs(W))).max() + 1e-6
    assert not serves(W) or exact.exact_abscissa_below_one(W)


@pytest.mark.parametrize("depth", [-1.5, -20.0, -1e6])
@pytest.mark.parametrize("activation", PIECEWISE_LINEAR)
def test_a_deep_diagonal_is_well_posed_for_the_metzler_split_alone(
    depth: float, activation: str
) -> None:
    """The verdicts then: certified by (6), `unknown` for a reason by the sign split."""
    net = Network(
        "deep diagonal",
        np.array([[depth, 0.25], [0.125, depth]]),
        np.array([[1.0], [-0.5]]),
        np.array([0.5, 0.25]),
        np.eye(2),
        np.array([10.0, 0.0]),
        activation,
    )
    network, x = stored(net), torch.tensor([[0.25], [-0.5]])
    [*by_metzler] = certify(network, x, torch.tensor([0, 0]), 0.1)
    assert [v.status for v in by_metzler] == ["certified", "certified"]
    verdicts = certify(network, x, torch.tensor([0, 1]), 0.1, method=SignSplit())
    assert [(v.status, v.reason) for v in verdicts] == [
        ("unknown", "not well-posed"),
        ("misclassified", ""),  # that is proved at x itself, by no iteration
    ]
    assert [(v.margin, v.method) for v in verdicts] == [(-math.inf, "sign-split")] * 2
    [radii] = certified_radii(network, x, torch.tensor([0, 0]), SignSplit())
    assert [found.radius for found in radii] == [None, None]


def test_where_the_condition_fails_the_iteration_has_several_fixed_points() -> None:
    """W = [-3], drive in [1, 2]: three of them, and z*(x) in [1/4, 1/2] is found by (6)."""
    W = np.array([[-3.0]])
    net = Network("-3", W, np.eye(1), np.zeros(1), np.eye(1), np.zeros(1))
    x = Box(torch.tensor([[1.0]]), torch.tensor([[2.0]]))
    for lo, hi in ((0.0, 2.0), (0.625, 0.125), (1.0, 0.0)):
        z = torch.tensor([[lo]]), torch.tensor([[hi]])
        assert full_image(net, z, x) == z
    box = Interval().state_box(stored(net), x)
    assert box.lo.item() == pytest.approx(0.25, abs=1e-5)
    assert box.hi.item() == pytest.approx(0.5, abs=1e-5)


# Against (6).


def both(net: Network, eps: float) -> tuple[StateBox, StateBox]:
    box = Box.around(points(net), eps)
    return Interval().state_box(stored(net), box), SignSplit().state_box(stored(net), box)


@given(
    seed=st.integers(0, 2**32),
    bound=st.floats(0.05, 0.97),
    activation=st.sampled_from(ACTIVATIONS),
    eps=st.sampled_from([0.0, 1e-3, 0.1, 1.0]),
)
def test_it_is_never_tighter(seed: int, bound: float, activation: str, eps: float) -> None:
    inner, outer = both(well_posed(seed, 5, bound, activation), eps)
    assert inner.proved.all()
    assert outer.proved.all()
    assert (outer.lo <= inner.lo + SLACK).all()
    assert (inner.hi <= outer.hi + SLACK).all()


def test_it_is_looser_where_a_diagonal_entry_is_negative() -> None:
    """One unit: widths are |u| / (1 - w) by (6) and |u| / (1 - |w|) by the sign split."""
    net = Network("one", np.array([[-0.5]]), np.eye(1), np.ones(1) * 5, np.eye(1), np.zeros(1))
    inner, outer = both(net, 0.3)
    assert torch.allclose(inner.hi - inner.lo, torch.tensor(0.6 / 1.5), atol=SLACK)
    assert torch.allclose(outer.hi - outer.lo, torch.tensor(0.6 / 0.5), atol=SLACK)


@given(
    seed=st.integers(0, 2**32),
    activation=st.sampled_from(ACTIVATIONS),
    negative=st.booleans(),
)
def test_they_coincide_without_negative_diagonal_entries(
    seed: int, activation: str, negative: bool
) -> None:
    net = well_posed(seed, 5, 0.9, activation)
    np.fill_diagonal(net.W, 0 if negative else np.abs(np.diagonal(net.W)))
    inner, outer = both(net, 0.1)
    assert outer.proved.all()
    torch.testing.assert_close(outer.lo, inner.lo, rtol=0, atol=SLACK)
    torch.testing.assert_close(outer.hi, inner.hi, rtol=0, atol=SLACK)


def test_they_coincide_on_the_zero_diagonal_form() -> None:
    """ReLU: D W_off, D U, D b with D = diag(1/(1 - W_ii)) has the same fixed points."""
    net = well_posed(4)
    D = 1 / (1 - np.diagonal(net.W))
    W = D[:, None] * (net.W - np.diag(np.diagonal(net.W)))
    reduced = Network("reduced", W, D[:, None] * net.U, D * net.b, net.C, net.c)
    inner, outer = both(net, 0.1)
    reduced_inner, reduced_outer = both(reduced, 0.1)
    for box in (reduced_inner, reduced_outer):
        torch.testing.assert_close(box.lo, inner.lo, rtol=0, atol=SLACK)
        torch.testing.assert_close(box.hi, inner.hi, rtol=0, atol=SLACK)
    assert ((outer.hi - outer.lo) > (inner.hi - inner.lo) + 1e-3).any()


# Sound.


@given(
    seed=st.integers(0, 2**32),
    bound=st.floats(0.1, 0.99),
    activation=st.sampled_from(PIECEWISE_LINEAR),
    eps=st.sampled_from([0.0, 1e-12, 0.1, 1.0]),
)
def test_what_is_proved_holds_the_exact_range(
    seed: int, bound: float, activation: str, eps: float
) -> None:
    drawn = well_posed(seed, 2, bound, activation)
    net = Network("drawn", drawn.W, drawn.U[:, :2], drawn.b, drawn.C, drawn.c, activation)
    query = Query.of_outputs(Box.around(points(net, 2), eps), net.outputs)
    answer = SignSplit().answer(stored(net), query)
    assert answer.state.proved.all()
    check(net, answer)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sampled_fixed_points_lie_in_the_box(activation: str) -> None:
    net = well_posed(6, 12, 0.95, activation)
    network, box = stored(net), Box.around(points(net, 4), 0.3)
    state = SignSplit().state_box(network, box)
    assert state.proved.all()
    share = torch.rand(40, *box.lo.shape).round(decimals=1)
    found = network.solve((box.lo + share * (box.hi - box.lo)).clamp(box.lo, box.hi).flatten(0, 1))
    value, radius = found.value.view(40, 4, -1), found.radius.view(40, 4, 1)
    assert (value + radius >= state.lo).all()
    assert (value - radius <= state.hi).all()


def test_a_certificate_of_it_is_one_of_the_metzler_split_as_well() -> None:
    net = well_posed(8)
    network, x = stored(net), points(net, 60)
    labels = network.predict(x).argmax(1)
    for eps in (0.01, 0.05):
        outer = certify(network, x, labels, eps, method=SignSplit())
        inner = certify(network, x, labels, eps)
        held = [v.status == "certified" for v in outer]
        assert any(held)
        assert all(v.status == "certified" for v, h in zip(inner, held, strict=True) if h)
        assert all(o.margin <= i.margin + 1e-4 for o, i in zip(outer, inner, strict=True))


def test_stopped_early_it_says_so() -> None:
    net = well_posed(2, bound=0.999)
    box = Box.around(points(net), 0.1)
    query = Query.of_outputs(box, net.outputs)
    answer = SignSplit(max_steps=2).answer(stored(net), query)
    assert answer.state.reason == ("unconverged",) * 3
    check(net, answer, exactly=False)


def test_a_network_without_a_unique_fixed_point_is_refused_before_the_iteration() -> None:
    W, one = np.array([[0.0, 2.0], [2.0, 0.0]]), np.ones((2, 1))
    network = StoredNetwork.from_arrays(W, one, one[:, 0], one.T, one[0])
    with pytest.raises(NotContractingError):
        SignSplit().state_box(network, Box.around(torch.zeros(1, 1), 0.1))
