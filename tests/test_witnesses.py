"""Witnesses: what is falsified is false in exact arithmetic, and the search is not weak."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import exact
import monotone_networks
from equicert.attacks import PGD
from equicert.bounds.state_box import post_fixed
from equicert.boxes import Box
from equicert.errors import ConfigError, InputError, NotContractingError
from equicert.falsifier import Search
from equicert.proofs import BallStart, StateStart
from equicert.queries import Forms, Query
from equicert.stored import StoredNetwork
from equicert.targets import Targets
from equicert.witnesses import Attempt, falsify, upper_bounds
from monotone_networks import MONOTONE
from networks import (
    CONTRACTING,
    NOT_CONTRACTING,
    PIECEWISE_LINEAR,
    Network,
    contracting_networks,
    random_network,
)

QUICK = Search(steps=4)


def stored(network: Network) -> StoredNetwork:
    hint = {"eta": network.eta} if network.contracting else {"Lambda": network.eta}
    return StoredNetwork.from_arrays(*network.arrays, activation=network.activation, **hint)


def made(
    U: list[list[float]], C: list[list[float]], c: list[float], b: list[float] | None = None
) -> StoredNetwork:
    """`z = relu(U x + b)`, `y = C z + c`."""
    n = len(U)
    arrays = (np.zeros((n, n)), np.array(U), np.zeros(n) if b is None else np.array(b))
    return StoredNetwork.from_arrays(*arrays, np.array(C), np.array(c), activation="relu")


def forms(
    A: list[list[float]], d: list[float] | None = None, clause: list[int] | None = None
) -> Forms:
    rows = len(A)
    offsets = torch.zeros(rows) if d is None else torch.tensor(d)
    return Forms(
        torch.tensor(A), offsets, torch.tensor(list(range(rows)) if clause is None else clause)
    )


def property_query(box: Box, own: Forms) -> Query:
    return Query(box, (own,), torch.zeros(box.batch, dtype=torch.int64))


def drawn_forms(outputs: int, seed: int) -> Forms:
    """Three forms in two clauses."""
    rng = np.random.default_rng(seed)
    A, d = rng.normal(size=(3, outputs)), rng.normal(size=3)
    return Forms(torch.from_numpy(A), torch.from_numpy(d), torch.tensor([0, 1, 0]))


def exact_outputs(network: StoredNetwork, x: Tensor) -> list[Fraction]:
    W, U = network.W.dense(), network.U.dense()
    z = exact.fixed_point(W, U, network.b, x, network.activation.spec)
    C, c = exact.to_fractions(network.C), exact.to_fractions(network.c)
    return [exact.dot(row, z) + offset for row, offset in zip(C, c, strict=True)]


def exact_greatest(network: StoredNetwork, x: Tensor, own: Forms, clause: int) -> Fraction:
    """The greatest form of the clause at x, exactly."""
    assert own.clause is not None
    y = exact_outputs(network, x)
    rows = (own.clause == clause).nonzero()[:, 0].tolist()
    A, d = exact.to_fractions(own.A), exact.to_fractions(own.d)
    return max(exact.dot(A[row], y) + d[row] for row in rows)


def check_attempt(
    network: StoredNetwork, attempt: Attempt, x: Tensor, eps: float, own: Forms
) -> None:
    """In the exact box, and bounded from above, both in rational arithmetic."""
    found = attempt.bounds.x
    for row, (point, centre) in enumerate(zip(found, x, strict=True)):
        for entry, middle in zip(point.tolist(), centre.tolist(), strict=True):
            assert abs(Fraction(entry) - Fraction(middle)) <= Fraction(eps)
        upper = float(attempt.upper[row])
        if network.activation.slopes is not None and upper < np.inf:
            truth = exact_greatest(network, point, own, int(attempt.clause[row]))
            assert Fraction(upper) >= truth
            if bool(attempt.falsified[row]):
                assert truth < 0


def attempt_of(
    network: StoredNetwork, x: Tensor, eps: float, own: Forms, search: Search = QUICK
) -> Attempt:
    query = property_query(Box.around(x, eps), own)
    return falsify(network, query, Box.within(x, eps), search=search)


# --- soundness -----------------------------------------------------------------------------------


# Solves that take all their steps, dozens of them, would take a minute.
_SLOW = "gamma near 1"
AWKWARD = [net for net in (*CONTRACTING.values(), *MONOTONE.values()) if net.name != _SLOW]


@pytest.mark.parametrize("net", AWKWARD, ids=str)
def test_awkward_networks(net: Network) -> None:
    network = stored(net)
    x = torch.linspace(-1, 1, 3)[:, None].repeat(1, net.inputs)
    own = drawn_forms(net.outputs, 0)
    for eps in (0.0, 1 / 3):
        attempt = attempt_of(network, x, eps, own)
        check_attempt(network, attempt, x, eps, own)
        assert not bool(attempt.upper.isnan().any())


@given(
    net=contracting_networks(activations=PIECEWISE_LINEAR)
    | monotone_networks.monotone_networks(max_states=2, activations=PIECEWISE_LINEAR),
    seed=st.integers(0, 2**32),
    eps=st.sampled_from([0.0, 1e-3, 0.5]),
)
def test_falsified_is_the_exact_truth(net: Network, seed: int, eps: float) -> None:
    try:
        network = stored(net)
        x = torch.from_numpy(np.random.default_rng(seed).uniform(-2, 2, (2, net.inputs)))
        own = drawn_forms(net.outputs, seed)
        attempt = attempt_of(network, x, eps, own)
    except NotContractingError:
        assume(False)
        raise
    check_attempt(network, attempt, x, eps, own)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("monotone", [False, True])
def test_a_witness_has_its_proof_with_it(seed: int, monotone: bool) -> None:
    rng = np.random.default_rng(seed)
    net = random_network(rng, 4, 3, 3)
    W, U, b, C, c = net.arrays
    if monotone:  # strongly skew: far from contracting in a weighted sup-norm
        W = 2 * (W - W.T) - np.eye(4)
    network = StoredNetwork.from_arrays(W, U, b, C, c, activation="relu")
    x = torch.from_numpy(rng.random((6, 3)))
    labels = torch.arange(6) % 3  # some of them wrong at x itself
    query = Query.of_margins(Box.around(x, 2.0), labels, 3, x)
    attempt = falsify(network, query, Box.within(x, 2.0), search=QUICK)
    assert bool(attempt.falsified.any())
    for row in range(len(x)):
        witness = attempt.witness(row)
        assert (witness is not None) == bool(attempt.falsified[row])
        if witness is None:
            continue
        label = int(labels[row])
        y = exact_outputs(network, torch.from_numpy(witness.x))
        margin = y[label] - y[witness.rival]
        assert margin <= Fraction(witness.above) < 0
        point = torch.from_numpy(witness.x)[None]
        if monotone:
            assert isinstance(witness.start, BallStart)
            assert ball_holds(network, witness.x, witness.start, attempt, row)
        else:
            assert isinstance(witness.start, StateStart)
            lo, hi = (torch.from_numpy(t)[None] for t in (witness.start.lo, witness.start.hi))
            assert bool(post_fixed(network, network.drive_bounds(point, point), lo, hi).all())
            assert margin_above(network, label, witness.rival, lo[0], hi[0]) <= witness.above


def margin_above(
    network: StoredNetwork, label: int, rival: int, lo: Tensor, hi: Tensor
) -> Fraction:
    """The greatest margin over a box of states, exactly."""
    C, c = exact.to_fractions(network.C), exact.to_fractions(network.c)
    terms = zip(C[label], C[rival], exact.to_fractions(lo), exact.to_fractions(hi), strict=True)
    return sum(((a - b) * (high if a > b else low) for a, b, low, high in terms), Fraction(0)) + (
        c[label] - c[rival]
    )


def ball_holds(
    network: StoredNetwork, x: np.ndarray, start: BallStart, attempt: Attempt, row: int
) -> bool:
    """Whether the state box contains, exactly, the ball of `W phi(t) + U x + b - t`."""
    W, U, b = (exact.to_fractions(a) for a in (network.W.dense(), network.U.dense(), network.b))
    t, m = exact.to_fractions(start.t), Fraction(network.monotone.m)
    z = [max(entry, Fraction(0)) for entry in t]
    following = exact.preactivation(W, U, b, z, exact.to_fractions(x))
    Lambda = exact.to_fractions(network.monotone.Lambda)
    square = sum(
        (L * (s - own) ** 2 for L, s, own in zip(Lambda, following, t, strict=True)), Fraction(0)
    )
    hi = exact.to_fractions(attempt.bounds.state.hi[row])
    return all(
        high >= own and (high - own) ** 2 * L * m**2 >= square
        for high, own, L in zip(hi, z, Lambda, strict=True)
    )


def test_an_exact_tie_is_never_falsified() -> None:
    equal = made([[1.0], [-1.0]], [[0.7, 0.1], [0.7, 0.1]], [0.3, 0.3])
    touching = made([[1.0]], [[1.0], [0.0]], [0.0, 0.0])  # y_0 - y_1 = relu(x)
    x = torch.linspace(-1, 1, 5)[:, None]
    labels = torch.zeros(5, dtype=torch.int64)
    for network in (equal, touching):
        query = Query.of_margins(Box.around(x, 0.5), labels, 2, x)
        attempt = falsify(network, query, Box.within(x, 0.5))
        assert not bool(attempt.falsified.any())
        assert float(attempt.upper.min()) < 1e-9  # and both bounds can say: tie
        assert all(attempt.witness(row) is None for row in range(5))


@pytest.mark.parametrize("excess", [1e-9, 1e-12])
def test_tiny_negative_margins_are_falsified(excess: float) -> None:
    network = made([[1.0]], [[1.0], [0.0]], [0.0, 0.5 + excess])
    x = torch.tensor([[0.75]])
    query = Query.of_margins(Box(x - 0.25, x + 0.25), torch.tensor([0]), 2, x)
    attempt = falsify(network, query, Box(x - 0.25, x + 0.25))
    assert bool(attempt.falsified.all())
    assert float(attempt.upper[0]) == pytest.approx(-excess, rel=1e-2)


@pytest.mark.parametrize(
    ("W", "C"),
    [
        ([[-1e200]], [[1.0], [-1.0]]),
        ([[-1e200, 1e200], [-1e200, -1e200]], [[1.0, 0.0], [0.0, 1.0]]),
        ([[0.5]], [[1e308], [-1e308]]),
        ([[0.0, 1e300], [0.0, 0.0]], [[1e300, 1.0], [-1e300, 1e300]]),
    ],
    ids=["one state", "two states", "outputs", "both"],
)
def test_overflow_gives_no_witness_that_is_none(W: list[list[float]], C: list[list[float]]) -> None:
    n = len(W)
    network = StoredNetwork.from_arrays(
        np.array(W), np.full((n, 1), 1e10), np.ones(n), np.array(C), np.zeros(2), "relu"
    )
    x = torch.tensor([[0.5], [-0.5]])
    query = Query.of_margins(Box.around(x, 0.1), torch.tensor([0, 1]), 2, x)
    attempt = falsify(network, query, Box.within(x, 0.1), search=QUICK)
    assert not bool(attempt.upper.isnan().any())
    for row in attempt.falsified.nonzero()[:, 0].tolist():
        y = exact_outputs(network, attempt.bounds.x[row])
        assert y[row] < y[1 - row]


@pytest.mark.parametrize(
    "net", [net for name, net in NOT_CONTRACTING.items() if "monotone" not in name], ids=str
)
def test_without_a_unique_fixed_point_nothing_is_said(net: Network) -> None:
    network = stored(net)
    x = torch.zeros(1, net.inputs)
    with pytest.raises(NotContractingError, match="not proved contracting"):
        attempt_of(network, x, 0.1, drawn_forms(net.outputs, 0))
    targets = Targets.of(property_query(Box(x, x), drawn_forms(net.outputs, 0)))
    with pytest.raises(NotContractingError, match="not proved contracting"):
        upper_bounds(network, x, targets.clause(torch.zeros(1, dtype=torch.int64)))


# --- strength ------------------------------------------------------------------------------------


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.1)", "hard_tanh"])
def test_it_finds_what_is_there_on_tiny_networks(monotone: bool, activation: str) -> None:
    """Against the exact least value over the box."""
    missed = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        net = random_network(rng, 3, 2, 2, activation=activation)
        W, U, b, C, c = net.arrays
        W = 9 * (W - W.T) - np.eye(3) if monotone else W
        lo, hi = np.full(2, -1.0), np.ones(2)
        a = C[:1] - C[1:]
        [(least, most)] = exact.exact_range(W, U, b, a, np.zeros(1), lo, hi, activation)
        network = StoredNetwork.from_arrays(W, U, b, C, c, activation=activation)
        visible = float(least) + 0.05 * float(most - least)
        own = forms([[1.0, -1.0]], [float(c[1] - c[0]) - visible])
        attempt = attempt_of(network, torch.zeros(1, 2), 1.0, own, Search(restarts=12))
        if not bool(attempt.falsified[0]):
            missed.append(seed)
    assert not missed


def test_it_breaks_no_less_than_projected_gradients(
    foreign: StoredNetwork, mnist_test: tuple[Tensor, Tensor]
) -> None:
    x, labels = mnist_test[0][:40], mnist_test[1][:40]
    status = PGD(steps=10).run(foreign, x, labels, 0.05, (0.0, 1.0)).status
    box, inner = (make(x, 0.05, (0.0, 1.0)) for make in (Box.around, Box.within))
    attempt = falsify(foreign, Query.of_margins(box, labels, 10, x), inner)
    assert int(attempt.falsified.sum()) >= sum(word != "unbroken" for word in status) > 5


def needle() -> StoredNetwork:
    """`y_0 - y_1 = 1 - 2 relu(1 - 100 |x - 0.31|)`: flat but for a small neighbourhood."""
    U, b = [[100.0], [100.0], [100.0]], [-30.0, -31.0, -32.0]
    return made(U, [[-2.0, 4.0, -2.0], [0.0, 0.0, 0.0]], [1.0, 0.0], b)


def test_a_start_leads_where_the_search_alone_does_not() -> None:
    x, network = torch.full((1, 1), 0.5), needle()
    query = Query.of_margins(Box.around(x, 0.5), torch.tensor([0]), 2, x)
    inner = Box.within(x, 0.5)
    starts = torch.tensor([[[0.9], [0.31]]])
    assert not bool(falsify(network, query, inner, search=QUICK).falsified)
    assert bool(falsify(network, query, inner, starts, QUICK).falsified)
    outside = torch.tensor([[[7.0]]])  # is taken for the nearest point of the box
    assert float(falsify(network, query, inner, outside, QUICK).bounds.x) <= 1.0


def test_restarts_add_points_to_start_from() -> None:
    x = torch.full((1, 1), 0.5)
    query = Query.of_margins(Box.around(x, 0.5), torch.tensor([0]), 2, x)
    found = [
        bool(falsify(needle(), query, Box.within(x, 0.5), search=Search(1, restarts=k)).falsified)
        for k in (0, 400)
    ]
    assert found == [False, True]


def test_a_conjunction_is_falsified_as_a_whole() -> None:
    network = StoredNetwork.from_arrays(
        np.zeros((2, 2)), np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), activation="identity"
    )
    x = torch.zeros(1, 2)
    both = forms([[1.0, 1.0], [1.0, -2.0]], [1.1, 0.5], [0, 0])
    attempt = attempt_of(network, x, 1.0, both, Search(restarts=2))
    assert bool(attempt.falsified[0])
    assert bool((attempt.bounds.upper[0] < 0).all())
    never = forms([[1.0, 0.0], [-1.0, 0.0]], [0.01, 0.01], [0, 0])  # y_0 < 0 and y_0 > 0
    assert not bool(attempt_of(network, x, 1.0, never).falsified[0])
    either = forms([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], [0.01, 0.01, 0.9], [0, 0, 1])
    attempt = attempt_of(network, x, 1.0, either)
    assert bool(attempt.falsified[0])
    assert int(attempt.clause[0]) == 1


# --- reproducible --------------------------------------------------------------------------------


def problem(batch: int) -> tuple[StoredNetwork, Query, Box]:
    rng = np.random.default_rng(7)
    net = random_network(rng, 8, 5, 4)
    network, x = stored(net), torch.from_numpy(rng.random((batch, 5)))
    labels = network.predict(x).argmax(1)
    return network, Query.of_margins(Box.around(x, 0.2), labels, 4, x), Box.within(x, 0.2)


def test_the_seed_alone_decides_and_shared_generators_stay_as_they_were() -> None:
    network, query, inner = problem(6)

    def run(seed: int) -> Tensor:
        search = Search(steps=2, restarts=2, seed=seed)
        return falsify(network, query, inner, search=search).bounds.x

    before = torch.get_rng_state()
    first = run(0)
    np.random.seed(1)  # noqa: NPY002 - which must not matter
    torch.manual_seed(1)
    assert torch.equal(first, run(0))
    torch.set_rng_state(before)
    state = str(np.random.get_state())  # noqa: NPY002
    run(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == state  # noqa: NPY002


def test_who_shares_the_batch_does_not_matter() -> None:
    network, query, inner = problem(12)
    search = Search(restarts=1)
    together = falsify(network, query, inner, search=search).upper
    for row in range(12):
        own = torch.tensor([row])
        x = None if query.x is None else query.x[own]
        alone = Query(query.box[own], query.forms, query.which[own], x)
        found = falsify(network, alone, inner[own], search=search).upper
        torch.testing.assert_close(found[0], together[row], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch: int) -> None:
    network, query, inner = problem(batch)
    attempt = falsify(network, query, inner)
    assert attempt.upper.shape == attempt.falsified.shape == (batch,)
    assert attempt.bounds.x.shape == (batch, 5)


# --- targets -------------------------------------------------------------------------------------


def test_targets_are_the_clauses_of_the_query() -> None:
    one = forms([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.0, 1.0, -1.0], [0, 0, 1])
    other = forms([[2.0, 0.0], [0.0, 2.0], [1.0, -1.0]])
    box = Box(torch.zeros(3, 1), torch.ones(3, 1))
    targets = Targets.of(Query(box, (one, other), torch.tensor([1, 0, 1])))
    y = torch.tensor([[0.5, -2.0], [3.0, 0.25], [-1.0, 4.0]])
    greatest = targets.values(y).amax(2)
    expected = torch.tensor(
        [[1.0, -4.0, 2.5], [3.0, 2.25, torch.inf], [-2.0, 8.0, -5.0]],
    )
    assert torch.equal(greatest, expected)
    steep = targets.direction(targets.values(y), 1e-9)  # the extreme form alone
    assert torch.equal(steep, torch.tensor([[0.0, 2.0], [1.0, 1.0], [1.0, -1.0]]))
    assert bool(targets.direction(targets.values(y), 0.5).isfinite().all())
    alone = targets.clause(torch.tensor([2, 0, 1]))
    assert torch.equal(alone.values(y).amax(2)[:, 0], torch.tensor([2.5, 3.0, 8.0]))


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Search(steps=0), "steps must be a whole number >= 1, got 0"),
        (lambda: Search(clauses=0), "clauses must be a whole number >= 1"),
        (lambda: Search(restarts=-1), "restarts must be a whole number >= 0"),
        (lambda: Search(seed=-1), "seed must be a whole number >= 0"),
        (lambda: Search(last=0.0), "last must be in"),
        (lambda: Search(last=float("nan")), "last must be in"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Search], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        (torch.zeros(2, 5), "starts have shape"),
        (torch.zeros(2, 1, 4), "starts have shape"),
        (torch.zeros(3, 1, 5), "starts have shape"),
        (torch.full((2, 1, 5), torch.nan), "NaN or infinite"),
    ],
)
def test_starts_that_do_not_fit_are_refused(starts: Tensor, message: str) -> None:
    network, query, inner = problem(2)
    with pytest.raises(InputError, match=message):
        falsify(network, query, inner, starts)


def test_boxes_and_queries_that_do_not_fit_are_refused() -> None:
    network, query, inner = problem(2)
    wider = Box(inner.lo - 1, inner.hi)
    for wrong in (wider, inner[:1]):
        with pytest.raises(InputError, match="need to lie in those of the query"):
            falsify(network, query, wrong)
    with pytest.raises(InputError, match="no clauses to reach"):
        falsify(network, Query.of_outputs(query.box, 4), inner)
    narrow = property_query(query.box, forms([[1.0, 0.0]]))
    with pytest.raises(InputError, match="need forms of 4 columns"):
        falsify(network, narrow, inner)
    attempt = falsify(network, property_query(query.box, drawn_forms(4, 0)), inner)
    with pytest.raises(InputError, match="not one of margins"):
        attempt.witness(0)
    with pytest.raises(InputError, match="one clause each"):
        upper_bounds(network, inner.lo, Targets.of(query))
