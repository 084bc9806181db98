"""One suite for all methods of `bounds/`; a new one plugs in by its line in METHODS.

Exact rational arithmetic decides. A proved state box is held against the post-fixed-point test
itself, redone exactly, and against the vertices of z*(x); a lower bound against the exact minimum.
"""

import dataclasses
import itertools
import math
from dataclasses import replace
from fractions import Fraction
from typing import final

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import exact
import exact_functions
import networks
from equicert import contraction
from equicert.activations import Activation, parse_activation
from equicert.bounds import Interval, Lipschitz, Method, SignSplit
from equicert.bounds.base import answer_from_state
from equicert.bounds.state_box import post_fixed, prove_state_box
from equicert.boxes import Box
from equicert.errors import InputError, NotContractingError, RoundingError
from equicert.queries import Answer, Forms, Query, StateBox
from equicert.stored import StoredNetwork
from networks import ACTIVATIONS, CONTRACTING, NOT_CONTRACTING, PIECEWISE_LINEAR, Array, Network
from test_enclosures import LEANS, Sloppy

METHODS = [
    pytest.param(Interval(), id="interval"),
    pytest.param(Lipschitz(), id="lipschitz"),
    pytest.param(Lipschitz(local=True), id="lipschitz-local"),
]
EACH = pytest.mark.parametrize("method", METHODS)
# What is proved is true of every method; SignSplit need not prove what the others do.
SOUND = pytest.mark.parametrize("method", [*METHODS, pytest.param(SignSplit(), id="sign-split")])
NETWORKS = pytest.mark.parametrize("net", CONTRACTING.values(), ids=str)
SMALL = [net for net in CONTRACTING.values() if net.piecewise_linear and net.states <= 3]

tiny = networks.contracting_networks(max_states=2, max_inputs=2, activations=PIECEWISE_LINEAR)
any_tiny = networks.contracting_networks(max_states=3, max_inputs=2)
radii = st.sampled_from([0.0, 1e-12, 1e-3, 0.1, 1.0])


def stored(net: Network, eta: Array | None = None) -> StoredNetwork:
    return StoredNetwork.from_arrays(
        *net.arrays, net.activation, eta=net.eta if eta is None else eta
    )


def points(net: Network, batch: int = 3) -> Tensor:
    rng = np.random.default_rng(net.states)
    return torch.tensor(rng.uniform(-1, 1, (batch, net.inputs)))


def bound(net: Network, method: Method, box: Box) -> Answer:
    return method.answer(stored(net), Query.of_outputs(box, net.outputs))


def rows(box: Box | StateBox, row: int) -> tuple[list[float], list[float]]:
    return box.lo[row].tolist(), box.hi[row].tolist()


def exactly_post_fixed(
    net: Network, z: tuple[list[float], list[float]], x: tuple[list[float], list[float]]
) -> bool:
    """Fact 8's test with no rounding at all; smooth phi by an enclosure 2^-80 wide."""
    lo, hi = (exact.to_fractions(end) for end in z)
    if any(low > high for low, high in zip(lo, hi, strict=True)):
        return False
    stacked = [entry for end in x for entry in exact.to_fractions(end)]
    t = exact.preactivation(*exact.embed(net.W, net.U, net.b), lo + hi, stacked)
    image = [exact_functions.activation(net.activation, entry) for entry in t]
    n = len(lo)
    below = all(phi[0] >= low for phi, low in zip(image[:n], lo, strict=True))
    return below and all(phi[1] <= high for phi, high in zip(image[n:], hi, strict=True))


def state_range(net: Network, x: tuple[list[float], list[float]]) -> list[exact.Enclosure]:
    """The exact range of every state over a box."""
    identity, zero = np.eye(net.states), np.zeros(net.states)
    return exact.exact_range(net.W, net.U, net.b, identity, zero, *x, net.activation)


def check(net: Network, answer: Answer, exactly: bool = True) -> None:
    """Every claim of an answer about the outputs of a network."""
    for row in range(answer.query.box.batch):
        x, z = rows(answer.query.box, row), rows(answer.state, row)
        if not answer.state.proved[row]:
            assert (answer.lower[row] == -math.inf).all()
            assert answer.state.reason[row]
            continue
        assert exactly_post_fixed(net, z, x)
        if not (exactly and net.piecewise_linear):
            continue
        corners = exact.vertices(net.W, net.U, net.b, *x, net.activation)
        for vertex in corners:
            for low, value, high in zip(z[0], vertex.z, z[1], strict=True):
                assert Fraction(low) <= value <= Fraction(high)
        outputs = exact.exact_range(net.W, net.U, net.b, net.C, net.c, *x, net.activation)
        claimed = answer.lower[row].tolist()
        ends = [low for low, _ in outputs] + [-high for _, high in outputs]
        for claim, truth in zip(claimed, ends, strict=True):
            assert claim == -math.inf or Fraction(claim) <= truth


# Sound, for every method.


@EACH
@NETWORKS
@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.5])
def test_awkward_networks_are_proved_and_the_proof_is_true(
    net: Network, method: Method, eps: float
) -> None:
    answer = bound(net, method, Box.around(points(net, 2), eps))
    assert answer.state.proved.all()
    assert answer.lower.isfinite().all()
    check(net, answer, exactly=net in SMALL)


@SOUND
@given(net=tiny, eps=radii)
def test_bounds_hold_the_exact_range(net: Network, method: Method, eps: float) -> None:
    check(net, bound(net, method, Box.around(points(net, 2), eps)))


@SOUND
@given(net=any_tiny, eps=radii)
def test_a_proved_box_passes_the_exact_test(net: Network, method: Method, eps: float) -> None:
    check(net, bound(net, method, Box.around(points(net, 2), eps)), exactly=False)


@SOUND
@LEANS
@given(net=any_tiny, eps=st.sampled_from([0.0, 1e-3, 1.0]))
def test_products_as_wrong_as_the_model_allows_prove_nothing_false(
    net: Network, method: Method, lean: int, eps: float
) -> None:
    plain = stored(net)
    W, U = Sloppy(plain.W.dense(), lean), Sloppy(plain.U.dense(), -lean)
    network = dataclasses.replace(plain, W=W, U=U)
    query = Query.of_outputs(Box.around(points(net, 2), eps), net.outputs)
    try:
        answer = method.answer(network, query)
    except NotContractingError:  # gamma = 1 - 1e-9 is beyond such a machine
        return
    check(net, answer, exactly=False)


@final
@dataclasses.dataclass(frozen=True)
class SloppyTanh(Activation):
    """tanh with half of the relative error that `Activation.down` and `up` allow for."""

    lean: int
    name = "tanh"
    lower, upper = -1.0, 1.0

    def phi(self, t: Tensor) -> Tensor:
        return torch.tanh(t) * (1 + self.lean * 2.0**-45)

    def slope(self, t: Tensor) -> Tensor:
        return 1 - torch.tanh(t).square()


@SOUND
@pytest.mark.parametrize("lean", [-1, 1])
@given(net=networks.contracting_networks(2, 1, ("tanh",)), x=st.floats(-1, 1))
def test_a_tanh_as_wrong_as_is_stated_proves_nothing_false(
    net: Network, method: Method, lean: int, x: float
) -> None:
    network = dataclasses.replace(stored(net), activation=SloppyTanh(lean))
    query = Query.of_outputs(Box.around(torch.full((1, 1), x), 0.0), net.outputs)
    tight = dataclasses.replace(method, tolerance=1e-14, max_steps=100)  # type: ignore[type-var]
    check(net, tight.answer(network, query))


@EACH
@pytest.mark.parametrize("activation", [*ACTIVATIONS, "leaky_relu(0.0)", "elu(1.0)"])
def test_sampled_fixed_points_lie_in_the_box(method: Method, activation: str) -> None:
    rng = np.random.default_rng(11)
    net = networks.random_network(rng, 12, 3, 2, gamma=0.5, activation=activation)
    network, box = stored(net), Box.around(points(net, 4), 0.3)
    answer = bound(net, method, box)
    assert answer.state.proved.all()
    share = torch.rand(40, *box.lo.shape)
    share = torch.where(torch.rand(40, 1, 1) < 0.5, share, share.round())  # inside, and corners
    found = network.solve((box.lo + share * (box.hi - box.lo)).clamp(box.lo, box.hi).flatten(0, 1))
    value, radius = found.value.view(40, 4, -1), found.radius.view(40, 4, 1)
    y = value @ network.C.mT + network.c
    spread = radius * network.C.abs().sum(1)
    assert (value + radius >= answer.state.lo).all()
    assert (value - radius <= answer.state.hi).all()
    assert (torch.cat([y + spread, spread - y], -1) >= answer.lower).all()


@EACH
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", ["gamma near 1", "gamma near 1, diagonal", "saw of fact 4"])
def test_an_iteration_stopped_early_proves_nothing_false(
    method: Method, steps: int, name: str
) -> None:
    net, early = CONTRACTING[name], replace(method, max_steps=steps)  # type: ignore[call-arg, type-var]
    answer = bound(net, early, Box.around(points(net), 0.1))
    check(net, answer)
    loose = bound(net, method, Box.around(points(net), 0.1))
    for row in range(3):
        if answer.state.reason[row]:
            assert answer.state.reason[row] == "unconverged"
        slack = 1e-5 + 1e-12 * loose.lower[row].abs()
        assert (answer.lower[row] <= loose.lower[row] + slack).all()


@EACH
def test_a_slow_network_stopped_early_says_so(method: Method) -> None:
    net = networks.random_network(np.random.default_rng(3), 6, 2, 2, gamma=0.999)
    early = type(method)(max_steps=2)  # type: ignore[call-arg]
    answer = bound(net, early, Box.around(points(net), 0.1))
    assert answer.state.reason == ("unconverged",) * 3
    check(net, answer, exactly=False)


@SOUND
@pytest.mark.parametrize("net", NOT_CONTRACTING.values(), ids=str)
def test_networks_that_do_not_contract_are_refused(net: Network, method: Method) -> None:
    with pytest.raises(NotContractingError):
        bound(net, method, Box.around(points(net), 0.1))


@SOUND
def test_a_failed_self_test_is_no_answer(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: str) -> None:
        raise RoundingError(f"not plain on {device}")

    monkeypatch.setattr(contraction, "self_test", broken)
    net = CONTRACTING["one state"]
    with pytest.raises(RoundingError):
        bound(net, method, Box.around(points(net), 0.1))


@EACH
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_numbers_that_overflow_are_never_proved(method: Method, activation: str) -> None:
    """U x = 1e400: no float64 drive, whatever phi makes of it."""
    huge = Network(
        "huge",
        np.array([[0.0, 0.5], [0.25, 0.0]]),
        np.array([[1e200], [-1e200]]),
        np.zeros(2),
        np.eye(2),
        np.zeros(2),
        activation,
    )
    answer = bound(huge, method, Box.around(torch.tensor([[1e200], [0.0]]), 0.0))
    assert answer.state.proved.tolist() == [False, True]  # the second sample has no such number
    assert answer.state.reason[0]
    assert (answer.lower[0] == -math.inf).all()


@EACH
def test_a_readout_that_overflows_is_no_bound(method: Method) -> None:
    net = CONTRACTING["one state"]
    huge = Network("huge", net.W, net.U, net.b, np.full((2, 1), 1.7e308), np.full(2, 1.7e308))
    answer = bound(huge, method, Box.around(torch.tensor([[10.0]]), 0.5))
    assert answer.state.proved.all()
    check(huge, answer)
    assert not answer.lower.isnan().any()


@SOUND
def test_a_box_of_another_width_is_refused(method: Method) -> None:
    net = CONTRACTING["zero W"]
    with pytest.raises(InputError, match="3 inputs, the network takes 2"):
        bound(net, method, Box.around(torch.zeros(1, 3), 0.1))
    with pytest.raises(InputError, match=r"need 2 columns.*got \[3\]"):
        method.answer(stored(net), Query.of_outputs(Box.around(torch.zeros(1, 2), 0.1), 3))


# Batches.


@SOUND
def test_an_empty_batch_has_an_empty_answer(method: Method) -> None:
    net = CONTRACTING["zero W"]
    empty = Box(torch.zeros(0, 2), torch.zeros(0, 2))
    answer = bound(net, method, empty)
    assert answer.lower.shape == (0, 4)
    assert answer.state.lo.shape == (0, 3)
    labels = torch.zeros(0, dtype=torch.int64)
    answer = method.answer(stored(net), Query.of_margins(empty, labels, 2))
    assert answer.holds.shape == answer.margin.shape == (0,)
    assert answer.reasons == ()


@EACH
def test_who_shares_the_batch_changes_nothing(method: Method) -> None:
    net = networks.random_network(np.random.default_rng(2), 8, 3, 3, gamma=0.9)
    network, x = stored(net), points(net, 12)
    labels = network.predict(x).argmax(1)
    eps = torch.linspace(0, 0.2, 12)[:, None]
    together = method.answer(network, Query.of_margins(Box.around(x, eps), labels, 3))
    assert 0 < int(together.holds.sum()) < 12
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    moved = method.answer(
        network, Query.of_margins(Box.around(x[order], eps[order]), labels[order], 3)
    )
    torch.testing.assert_close(moved.margin, together.margin[order], rtol=1e-9, atol=1e-9)
    assert torch.equal(moved.holds, together.holds[order])
    for row in range(12):
        alone = method.answer(
            network,
            Query.of_margins(Box.around(x[row], eps[row : row + 1]), labels[row : row + 1], 3),
        )
        torch.testing.assert_close(alone.margin, together.margin[row : row + 1], atol=1e-9, rtol=0)
        assert bool(alone.holds[0]) is bool(together.holds[row])
        assert alone.reasons[0] == together.reasons[row]


@EACH
def test_a_hopeless_sample_does_not_hurt_its_batch(method: Method) -> None:
    net = CONTRACTING["one state"]
    box = Box(torch.tensor([[0.0], [-1.7e308]]), torch.tensor([[0.1], [1.7e308]]))
    answer = bound(net, method, box)
    assert answer.state.proved[0]
    torch.testing.assert_close(
        answer.lower[0], bound(net, method, box[:1]).lower[0], rtol=0, atol=1e-9
    )


# Tight: not so wide as to prove nothing.


@EACH
@NETWORKS
def test_a_box_of_width_0_gives_the_fixed_point(net: Network, method: Method) -> None:
    x = points(net, 1)
    answer = bound(net, method, Box.around(x, 0.0))
    assert answer.state.proved.all()
    eta = stored(net).contraction.eta
    scale = torch.maximum(answer.state.hi.abs(), eta / eta.min())
    assert ((answer.state.hi - answer.state.lo)[0] <= 1e-5 * scale).all()
    if net.piecewise_linear:
        z = exact.fixed_point(net.W, net.U, net.b, x[0].tolist(), net.activation)
        lo, hi = rows(answer.state, 0)
        for low, value, high in zip(lo, z, hi, strict=True):
            assert Fraction(low) <= value <= Fraction(high)


@given(net=tiny, eps=radii)
def test_interval_is_the_exact_embedded_box_up_to_its_tolerance(net: Network, eps: float) -> None:
    box = Box.around(points(net, 1), eps)
    x = rows(box, 0)
    lo, hi = exact.embedded_fixed_point(net.W, net.U, net.b, *x, net.activation)
    network = stored(net)
    assume(network.contraction.mu < 1 - 1e-6)
    state = Interval().state_box(network, box)
    assert state.proved.all()
    size = 1 + max(abs(float(entry)) for entry in (*lo, *hi))
    allowed = 1e-6 * size * float(network.contraction.eta.max() / network.contraction.gaps.min())
    for found, low, high in zip(zip(*rows(state, 0), strict=True), lo, hi, strict=True):
        assert 0 <= low - Fraction(found[0]) <= allowed
        assert 0 <= Fraction(found[1]) - high <= allowed


@pytest.mark.parametrize("activation", ["relu", "hard_tanh"])
def test_feed_forward_networks_get_layerwise_interval_bounds(activation: str) -> None:
    """Fact 10, with exact layerwise bounds."""
    rng = np.random.default_rng(8)
    first, second, third = (rng.normal(size=shape) for shape in ((4, 3), (4, 4), (2, 4)))
    W, U, b = np.zeros((10, 10)), np.zeros((10, 3)), rng.normal(size=10) / 2
    U[:4], W[4:8, :4], W[8:, 4:8] = first, second, third
    net = Network("layers", W, U, b, np.eye(2, 10, 8), np.zeros(2), activation)
    box = Box.around(points(net, 1), 0.2)
    lo, hi = (exact.to_fractions(end) for end in rows(box, 0))
    expected_lo: list[Fraction] = []
    expected_hi: list[Fraction] = []
    for A, bias in ((first, b[:4]), (second, b[4:8]), (third, b[8:])):
        ends = []
        for pick in (min, max):
            sums = [
                sum((pick(a * low, a * high) for a, low, high in zip(row, lo, hi, strict=True)), d)
                for row, d in zip(exact.to_fractions(A), exact.to_fractions(bias), strict=True)
            ]
            ends.append([exact.evaluate(activation, Fraction(t)) for t in sums])
        lo, hi = ends
        expected_lo, expected_hi = expected_lo + lo, expected_hi + hi
    state = Interval().state_box(stored(net), box)
    assert state.proved.all()
    for found, low, high in zip(
        zip(*rows(state, 0), strict=True), expected_lo, expected_hi, strict=True
    ):
        assert Fraction(found[0]) <= low <= Fraction(found[0]) + Fraction(1, 10**6)
        assert high <= Fraction(found[1]) <= high + Fraction(1, 10**6)


def margins(method: Method, net: Network, x: Tensor, labels: Tensor, eps: float) -> Tensor:
    query = Query.of_margins(Box.around(x, eps), labels, net.outputs)
    return method.answer(stored(net), query).margin


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gamma", [-1.0, 0.0, 0.9])
def test_the_lipschitz_boxes_contain_the_interval_box(activation: str, gamma: float) -> None:
    rng = np.random.default_rng(4)
    net = networks.random_network(rng, 10, 4, 3, gamma, activation=activation)
    network, x = stored(net), points(net, 8)
    labels = network.predict(x).argmax(1)
    for eps in (0.0, 0.01, 0.2):
        box = Box.around(x, eps)
        inner = Interval().state_box(network, box)
        local = Lipschitz(local=True).state_box(network, box)
        outer = Lipschitz().state_box(network, box)
        for small, large in ((inner, local), (local, outer)):
            assert (large.lo <= small.lo + 1e-5).all()
            assert (small.hi <= large.hi + 1e-5).all()
        methods = (Interval(), Lipschitz(local=True), Lipschitz())
        by_14, by_slopes, by_13 = (margins(m, net, x, labels, eps) for m in methods)
        assert (by_13 <= by_slopes + 1e-5).all()
        assert (by_slopes <= by_14 + 1e-5).all()
        assert eps or (by_13 - by_14).abs().max() < 1e-5
        if eps and activation in ("relu", "tanh"):  # slopes that these boxes do limit
            assert (by_slopes > by_13 + 1e-6).any()


@EACH
def test_a_larger_box_has_a_lower_bound(method: Method) -> None:
    net = networks.random_network(np.random.default_rng(9), 10, 4, 3, 0.5)
    x = points(net, 5)
    found = [bound(net, method, Box.around(x, eps)).lower for eps in (0.0, 0.05, 0.1, 0.4)]
    for small, large in itertools.pairwise(found):
        assert (large <= small + 1e-6).all()
        assert (large < small - 1e-3).any()


@EACH
def test_a_domain_of_vectors_clips_each_coordinate(method: Method) -> None:
    net = Network(
        "plane",
        np.array([[-0.5, 0.25], [0.5, 0.0]]),
        np.array([[1.0, -2.0], [0.5, 1.0]]),
        np.array([0.1, 0.2]),
        np.array([[1.0, -1.0], [0.5, 1.0]]),
        np.array([0.0, 0.1]),
    )
    x = torch.tensor([[0.05, 0.9]])
    domain = (torch.tensor([0.0, -1.0]), torch.tensor([2.0, 1.0]))
    clipped = Box.around(x, 0.2, domain)
    assert clipped.lo[0].tolist() == [0.0, pytest.approx(0.7)]
    assert clipped.hi[0].tolist() == [pytest.approx(0.25), 1.0]
    answer, whole = bound(net, method, clipped), bound(net, method, Box.around(x, 0.2))
    check(net, answer)
    check(net, whole)
    assert (answer.lower >= whole.lower - 1e-6).all()
    assert (answer.lower > whole.lower + 1e-2).any()


# Hints.


@EACH
@pytest.mark.parametrize(
    "hint", [[math.nan] * 3, [-1.0] * 3, [0.0] * 3, [1e-300, 1.0, 1e300], "reversed"], ids=str
)
def test_a_wrong_eta_changes_no_verdict(method: Method, hint: list[float] | str) -> None:
    rng = np.random.default_rng(6)
    net = networks.random_network(rng, 3, 2, 2, 0.3, eta_spread=1e3)
    assert net.eta is not None
    eta = net.eta[::-1].copy() if isinstance(hint, str) else np.array(hint)
    x = points(net, 6)
    query = Query.of_outputs(Box.around(x, 0.1), 2)
    right, wrong = (method.answer(n, query) for n in (stored(net), stored(net, eta)))
    assert wrong.state.proved.all()
    torch.testing.assert_close(wrong.lower, right.lower, rtol=0, atol=1e-4)
    check(net, wrong)


# The post-fixed-point test itself.


def drive_of(net: Network, x: Box) -> tuple[Tensor, Tensor]:
    return stored(net).drive_bounds(x.lo, x.hi)


def passes(net: Network, x: Box, lo: list[float], hi: list[float]) -> bool:
    z = torch.tensor([lo]), torch.tensor([hi])
    return bool(post_fixed(stored(net), drive_of(net, x), *z)[0])


def test_the_trap_of_fact_8() -> None:
    """W = -10, Ux + b = 1: Z = [0, 1] passes, but its image [phi(1), phi(-9)] encloses nothing."""
    net, x = CONTRACTING["trap of fact 8"], Box.around(torch.ones(1, 1), 0.0)
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    assert passes(net, x, [0.0], [1.0])
    truth = exact.fixed_point(net.W, net.U, net.b, [1.0])
    assert truth == [Fraction(1, 11)]
    state = prove_state_box(stored(net), drive_of(net, x), zero, one, torch.tensor([True]))
    assert state.proved.all()
    assert state.lo.item() <= 1 / 11 <= state.hi.item()
    identity = Network("read", net.W, net.U, net.b, np.eye(1), np.zeros(1))
    both = Forms(torch.tensor([[1.0], [-1.0]]), torch.zeros(2))
    query = Query(x, (both,), torch.zeros(1, dtype=torch.int64))
    lower = answer_from_state(stored(identity), query, state).lower[0]
    assert lower[0] <= 0
    assert -1.001 <= lower[1] <= -1
    found = Interval().state_box(stored(net), x)
    assert found.lo.item() <= 1 / 11 <= found.hi.item()
    assert found.hi.item() - found.lo.item() < 1e-6
    assert not passes(net, x, [0.0], [0.09])
    assert not passes(net, x, [0.1], [1.0])


def ulps(value: float, steps: int) -> float:
    for _ in range(abs(steps)):
        value = math.nextafter(value, math.copysign(math.inf, steps))
    return value


@given(
    net=tiny,
    eps=st.sampled_from([0.0, 0.1]),
    nudge=st.lists(st.sampled_from([-1000, -3, -1, 0, 1, 3, 1000]), min_size=4, max_size=4),
)
def test_boxes_off_by_a_unit_are_rejected_where_exact_arithmetic_rejects_them(
    net: Network, eps: float, nudge: list[int]
) -> None:
    box = Box.around(points(net, 1), eps)
    truth = exact.embedded_fixed_point(net.W, net.U, net.b, *rows(box, 0), net.activation)
    n = net.states
    lo = [ulps(float(t), step) for t, step in zip(truth[0], nudge[:n], strict=False)]
    hi = [ulps(float(t), step) for t, step in zip(truth[1], nudge[2:], strict=False)]
    if passes(net, box, lo, hi):
        assert exactly_post_fixed(net, (lo, hi), rows(box, 0))


def test_a_box_one_unit_too_small_is_rejected() -> None:
    """Each side, at values that float64 holds exactly: z = x over [1/4, 1/2]."""
    net = Network("copy", np.zeros((1, 1)), np.eye(1), np.zeros(1), np.eye(1), np.zeros(1))
    x = Box(torch.tensor([[0.25]]), torch.tensor([[0.5]]))
    assert exactly_post_fixed(net, ([0.25], [0.5]), rows(x, 0))
    for lo, hi in (([ulps(0.25, 1)], [0.5]), ([0.25], [ulps(0.5, -1)])):
        assert not exactly_post_fixed(net, (lo, hi), rows(x, 0))
        assert not passes(net, x, lo, hi)
    assert passes(net, x, [ulps(0.25, -256)], [ulps(0.5, 256)])
    assert not passes(net, x, [0.75], [1.0])
    assert not passes(net, x, [0.5], [0.25])


@pytest.mark.parametrize("spoiled", range(4))
def test_one_bad_side_of_one_state_spoils_a_box(spoiled: int) -> None:
    net = Network("pair", np.zeros((2, 2)), np.eye(2), np.zeros(2), np.eye(2), np.zeros(2))
    x = Box(torch.full((1, 2), 0.25), torch.full((1, 2), 0.5))
    ends = [0.25 - 1e-9, 0.25 - 1e-9, 0.5 + 1e-9, 0.5 + 1e-9]
    assert passes(net, x, ends[:2], ends[2:])
    ends[spoiled] = 0.375
    assert not exactly_post_fixed(net, (ends[:2], ends[2:]), rows(x, 0))
    assert not passes(net, x, ends[:2], ends[2:])


@settings(max_examples=200)
@given(
    w=st.one_of(st.floats(-3, 0.875), st.floats(0.999, 1 - 1e-9), st.floats(-1e6, -1e3)),
    u=st.floats(-3, 3),
    b=st.floats(-3, 3),
    x=st.floats(-3, 3),
    activation=st.sampled_from(PIECEWISE_LINEAR),
)
def test_a_box_that_ends_on_its_own_rounded_image_is_not_believed(
    w: float, u: float, b: float, x: float, activation: str
) -> None:
    """Plain float64 would accept an end that equals its computed image; half are wrong."""
    net = Network(
        "scalar",
        np.array([[w]]),
        np.array([[u]]),
        np.array([b]),
        np.eye(1),
        np.zeros(1),
        activation,
    )
    point = Box.around(torch.tensor([[x]]), 0.0)
    z = float(exact.fixed_point(net.W, net.U, net.b, [x], activation)[0])
    image = parse_activation(activation).phi(torch.tensor(w * z + (u * x + b))).item()
    far = 2 * abs(image) + 1
    for lo, hi in ((image, far), (-far, image), (image, image)):
        if passes(net, point, [lo], [hi]):
            assert exactly_post_fixed(net, ([lo], [hi]), rows(point, 0))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308])
@pytest.mark.parametrize("end", [0, 1, 2])
def test_proposals_that_are_not_finite_prove_nothing_false(
    activation: str, bad: float, end: int
) -> None:
    rng = np.random.default_rng(1)
    net = networks.random_network(rng, 3, 1, 2, 0.5, activation=activation)
    x = Box.around(points(net, 2), 0.1)
    ends = torch.stack([torch.zeros(2, 3), torch.ones(2, 3)])
    ends[[[0], [1], [0, 1]][end], 0, 1] = bad
    lo, hi = ends
    drive = drive_of(net, x)
    state = prove_state_box(stored(net), drive, lo, hi, torch.tensor([False, True]))
    if math.isnan(bad):
        assert not state.proved[0]
        assert state.reason[0] == "unconverged"
    assert state.proved[1]
    for row in range(2):
        if state.proved[row]:  # the whole range of a bounded phi is a proof
            assert exactly_post_fixed(net, rows(state, row), rows(x, row))
    raw = post_fixed(stored(net), drive, lo, hi)
    assert bad == 1e308 or not raw[0]


@given(
    net=any_tiny,
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 1e-9, 1e-3, 1.0, 1e6]),
)
def test_a_proposal_from_any_source_is_widened_to_a_proof_or_refused(
    net: Network, seed: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    x = Box.around(points(net, 2), 0.1)
    lo, hi = (torch.tensor(spread * rng.normal(size=(2, net.states))) for _ in range(2))
    converged = torch.tensor([True, False])
    state = prove_state_box(stored(net), drive_of(net, x), lo, hi, converged)
    for row in range(2):
        if state.proved[row]:
            assert exactly_post_fixed(net, rows(state, row), rows(x, row))
        expected = "unconverged" if row else "" if state.proved[row] else "rounding"
        assert state.reason[row] == expected


def test_a_proof_that_fails_for_rounding_says_so() -> None:
    net = CONTRACTING["one state"]
    x = Box.around(torch.zeros(1, 1), 0.1)
    nothing = torch.full((1, 1), math.nan)
    state = prove_state_box(
        stored(net), drive_of(net, x), nothing, nothing, torch.ones(1, dtype=torch.bool)
    )
    assert state.reason == ("rounding",)


# Linear forms over a state box.

entries = st.one_of(
    st.floats(-4, 4), st.sampled_from([0.0, 1e30, -1e30, 5e-324, 1e-310, 1 / 3, -0.1])
)


@st.composite
def readouts(draw: st.DrawFn) -> tuple[Array, Array, Array, Array, Array]:
    n, q, k = (draw(st.integers(1, size)) for size in (3, 4, 3))
    shapes = ((k, q), (k,), (q, n), (q,), (2, n))
    return tuple(np.array(draw(array_of(shape))) for shape in shapes)  # type: ignore[return-value]


def array_of(shape: tuple[int, ...]) -> st.SearchStrategy[Array]:
    return st.lists(entries, min_size=math.prod(shape), max_size=math.prod(shape)).map(
        lambda flat: np.array(flat).reshape(shape)
    )


def form_answer(case: tuple[Array, Array, Array, Array, Array], proved: bool = True) -> Tensor:
    A, d, C, c, ends = case
    n = C.shape[1]
    network = StoredNetwork.from_arrays(np.zeros((n, n)), np.ones((n, 1)), np.zeros(n), C, c)
    box = Box(torch.zeros(1, 1), torch.ones(1, 1))
    query = Query(
        box, (Forms(torch.tensor(A), torch.tensor(d)),), torch.zeros(1, dtype=torch.int64)
    )
    z = torch.tensor(ends.min(0))[None], torch.tensor(ends.max(0))[None]
    return answer_from_state(network, query, StateBox(*z, torch.tensor([proved]), ("",))).lower[0]


def check_forms(case: tuple[Array, Array, Array, Array, Array], slack: float) -> None:
    """Lower bounds on `A (C z + c) + d` over a box of z, against the exact minimum."""
    A, d, C, c, z = (exact.to_fractions(array) for array in case)
    ends = [(min(pair), max(pair)) for pair in zip(*z, strict=True)]
    columns = [list(column) for column in zip(*C, strict=True)]
    for found, row, offset in zip(form_answer(case).tolist(), A, d, strict=True):
        products = exact.times(columns, row)
        least = sum(
            (min(p * lo, p * hi) for p, (lo, hi) in zip(products, ends, strict=True)), offset
        )
        least += exact.dot(row, c)
        size = sum(
            (
                abs(a) * (abs(w) * max(abs(lo), abs(hi)))
                for a, weights in zip(row, C, strict=True)
                for w, (lo, hi) in zip(weights, ends, strict=True)
            ),
            abs(offset) + sum(abs(a * t) for a, t in zip(row, c, strict=True)),
        )
        assert Fraction(found) <= least
        assert Fraction(found) >= least - Fraction(slack) * size - Fraction(1, 2**700)


@given(readouts())
def test_forms_are_bounded_below_their_exact_minimum_and_not_far(
    case: tuple[Array, Array, Array, Array, Array],
) -> None:
    check_forms(case, 1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_forms_whose_rows_cancel(seed: int) -> None:
    """A C is rounding alone, and z is large: what was lost in forming A C decides."""
    rng = np.random.default_rng(seed)
    C = rng.normal(size=(60, 3))
    A = rng.normal(size=(2, 60))
    A -= (A @ C) @ np.linalg.pinv(C)
    z = 1e9 * (1 + rng.uniform(size=(1, 3)))
    for start in (z, np.zeros_like(z), -z):
        check_forms((A, np.zeros(2), C, rng.normal(size=60), np.concatenate([start, z])), 1e-10)


def test_forms_over_many_outputs_whose_sum_loses_terms() -> None:
    """`A C` is off by hundreds of units in the last place, always towards 0."""
    A = np.ones((2, 4097))
    A[:, 0] = 2.0**53
    A[1] *= -1
    for z in (np.ones((2, 1)), -np.ones((2, 1)), np.array([[0.0], [1.0]])):
        check_forms((A, np.zeros(2), np.ones((4097, 1)), np.zeros(4097), z), 1e-9)


def test_an_unproved_box_bounds_nothing() -> None:
    one = np.ones((1, 1))
    case = one, np.ones(1), one, np.ones(1), np.ones((2, 1))
    assert form_answer(case)[0] > 2.9
    assert form_answer(case, proved=False)[0] == -math.inf
