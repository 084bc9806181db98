"""Every sample is decided, and rightly: certified, falsified, or a tie that nothing resolves."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch

import oracles
import small_networks
from equicert.bounds import Auto, Complete
from equicert.errors import InputError, NotContractingError
from equicert.proofs import Leaf, Split
from equicert.queries import Answer
from monotone_networks import MONOTONE
from networks import CONTRACTING, HAIRLINE, NOT_CONTRACTING, Network
from oracles import Problem
from searches import (
    RESOLUTION,
    Ends,
    ask,
    check_bounds,
    check_decided,
    check_proofs,
    label_at,
    least_margins,
    size_of,
    status,
    stored,
)

PIECEWISE = ("relu", "leaky_relu(0.125)", "hard_tanh")


def draws(seeds: range, larger: int = 0) -> Iterator[Network]:
    for activation in PIECEWISE:
        n = larger + (3 if activation == "hard_tanh" else 5)
        yield from small_networks.every_kind(activation, seeds, n)


EACH = pytest.mark.parametrize("net", [*small_networks.varied(40)], ids=str)
SOME = pytest.mark.parametrize("net", [*small_networks.varied(40)][1::3], ids=str)


def solve(
    net: Network,
    boxes: Sequence[Ends],
    labels: Sequence[int],
    method: Complete | Auto | None = None,
) -> Answer:
    """With all that can be held against the oracles held against them."""
    answer = (method or Complete()).answer(stored(net), ask(net, boxes, labels))
    truths = [least_margins(net, ends, y) for ends, y in zip(boxes, labels, strict=True)]
    check_bounds(answer, truths)
    check_proofs(net, boxes, labels, answer)
    check_decided(net, answer, truths)
    return answer


def about(net: Network, widths: Sequence[float], seed: int = 1) -> tuple[list[Ends], list[int]]:
    boxes = [small_networks.box_about(net, seed + k, width) for k, width in enumerate(widths)]
    return boxes, [label_at(net, (lo + hi) / 2) for lo, hi in boxes]


@EACH
def test_verdicts_are_the_exact_ones(net: Network) -> None:
    """Proofs pass the naive judge, witnesses lie in the box and are real."""
    solve(net, *about(net, (0.0625, 0.25, 1.0)))


@SOME
def test_one_after_the_other_decides_the_same(net: Network) -> None:
    """`Auto` is `Complete` with cheaper methods before it."""
    boxes, labels = about(net, (0.0625, 0.5))
    answer = solve(net, boxes, labels, Auto())
    complete = solve(net, boxes, labels)
    assert [status(answer, k) for k in range(2)] == [status(complete, k) for k in range(2)]


@EACH
def test_margins_close_to_0_are_decided(net: Network) -> None:
    """The least margin moved to either side of 0, just beyond the resolution: a full search."""
    ends = small_networks.box_about(net, 2, 0.75)
    label = label_at(net, (ends[0] + ends[1]) / 2)
    least = float(min(least_margins(net, ends, label)))
    for gap in (2 * RESOLUTION, -2 * RESOLUTION):
        c = net.c.copy()
        c[label] -= least - gap * size_of(net)
        answer = solve(dataclasses.replace(net, c=c), [ends], [label])
        assert status(answer, 0) == ("certified" if gap > 0 else "falsified")


def test_trees_split_and_close_empty_nodes() -> None:
    """Whatever the shortcuts: some proofs have splits, and some samples need them."""
    splits = leaves = 0
    for net in small_networks.varied(41):
        ends = small_networks.box_about(net, 2, 1.0)
        label = label_at(net, (ends[0] + ends[1]) / 2)
        c = net.c.copy()
        c[label] -= float(min(least_margins(net, ends, label))) - 1e-5
        answer = Complete().answer(stored(dataclasses.replace(net, c=c)), ask(net, [ends], [label]))
        [found] = answer.findings or (None,)
        if found is not None and found.proof is not None:
            steps = [step for tree in found.proof.trees for step in tree]
            splits += any(isinstance(step, Split) for step in steps)
            leaves += sum(isinstance(step, Leaf) for step in steps)
    assert splits > 2
    assert leaves > 10


# Ties.


def ramp() -> Network:
    """The margin is relu(x): 0 on half of [-1, 1]."""
    one = np.ones((1, 1))
    return Network("ramp", 0 * one, one, np.zeros(1), np.array([[1.0], [0.0]]), np.zeros(2))


def valley(tilt: float = 0.0) -> Network:
    """The margin is |x_1 - x_2| + tilt: 0 on the diagonal of the square."""
    U = np.array([[1.0, -1.0], [-1.0, 1.0]])
    C = np.array([[1.0, 1.0], [0.0, 0.0]])
    return Network("valley", np.zeros((2, 2)), U, np.zeros(2), C, np.array([tilt, 0.0]))


def twins() -> Network:
    """Two classes that always tie."""
    net = small_networks.contracting(3)
    C, c = net.C.copy(), net.c.copy()
    C[1], c[1] = C[0], c[0]
    C[2], c[2] = 0, -100
    return dataclasses.replace(net, name="twins", C=C, c=c)


def touching() -> Iterator[tuple[Network, Ends]]:
    """Random networks whose least margin, a float64, is taken off c exactly."""
    found = 0
    for seed in range(60):
        net = small_networks.feed_forward(seed, q=2)
        ends = small_networks.box_about(net, seed, 0.5)
        problem = Problem.of(net, *ends)
        value = oracles.least(problem, problem.margin(0, 1)).value
        moved = Fraction(float(net.c[0])) - value
        if Fraction(float(value)) == value and Fraction(float(moved)) == moved:
            c = np.array([float(moved), net.c[1]])
            yield dataclasses.replace(net, name=f"touching {seed}", c=c), ends
            found += 1
        if found == 3:
            return


SQUARE = np.full(2, -1.0), np.full(2, 1.0)
TIES = [
    (ramp(), (np.array([-1.0]), np.array([1.0]))),
    (valley(), SQUARE),
    (twins(), SQUARE),
    *touching(),
]


@pytest.mark.parametrize(("net", "ends"), TIES, ids=[net.name for net, _ in TIES])
def test_a_tie_is_neither(net: Network, ends: Ends) -> None:
    assert min(least_margins(net, ends, 0)) == 0
    for method in (Complete(), Auto()):
        answer = method.answer(stored(net), ask(net, [ends], [0]))
        check_bounds(answer, [least_margins(net, ends, 0)])
        assert status(answer, 0) == "tie"
        [found] = answer.findings or (None,)
        assert found is not None
        assert -RESOLUTION * size_of(net) <= float(answer.margin[0]) <= 0 <= found.above
        assert found.above <= RESOLUTION * size_of(net)


@pytest.mark.parametrize("power", [20, 40, 50, 52, 60, 1000])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_next_to_a_tie_no_verdict_is_wrong(power: int, sign: float) -> None:
    net = valley(sign * 2.0**-power)
    answer = solve(net, [SQUARE], [0])
    if power == 20:
        assert status(answer, 0) == ("certified" if sign > 0 else "falsified")


# Networks that are hard on the arithmetic.


AWKWARD = [
    net
    for net in [*CONTRACTING.values(), *HAIRLINE.values(), *MONOTONE.values()]
    if net.piecewise_linear and net.outputs > 1 and net.states <= 4
]


@pytest.mark.parametrize("net", AWKWARD, ids=str)
def test_no_verdict_on_an_awkward_network_is_wrong(net: Network) -> None:
    lo = np.full(net.inputs, -0.75)
    boxes = [(lo, lo + 1.5), (lo, lo + 2.0**-20), (lo, lo)]
    labels = [label_at(net, ends[0]) for ends in boxes]
    try:
        answer = Complete(timeout=5.0).answer(stored(net), ask(net, boxes, labels))
    except NotContractingError:  # a hairline may be refused
        assert net in HAIRLINE.values()
        return
    truths = [least_margins(net, ends, y) for ends, y in zip(boxes, labels, strict=True)]
    check_bounds(answer, truths)
    check_proofs(net, boxes, labels, answer)
    for row, least in enumerate(truths):
        word = status(answer, row)
        assert word != "certified" or min(least) > 0
        assert word != "falsified" or min(least) < 0


@pytest.mark.parametrize("scale", [1e150, 1e300])
def test_what_overflows_is_never_certified_wrongly(scale: float) -> None:
    """Products of such weights are infinite in float64, and NaN when subtracted."""
    for seed in range(3):
        made = small_networks.feed_forward(seed)
        for net in (
            dataclasses.replace(made, W=made.W * scale),
            dataclasses.replace(made, U=made.U * scale, C=made.C * scale),
        ):
            boxes, labels = about(net, (0.25, 0.0))
            answer = Complete(timeout=5.0).answer(stored(net), ask(net, boxes, labels))
            truths = [least_margins(net, e, y) for e, y in zip(boxes, labels, strict=True)]
            check_bounds(answer, truths)
            check_proofs(net, boxes, labels, answer)
            for row, least in enumerate(truths):
                assert status(answer, row) != "certified" or min(least) > 0


@pytest.mark.parametrize("name", ["diagonal above 1", "strong pair", "huge and wrong"])
def test_an_ill_posed_network_is_refused(name: str) -> None:
    net = NOT_CONTRACTING[name]
    ends = np.full(net.inputs, -1.0), np.full(net.inputs, 1.0)
    with pytest.raises(NotContractingError):
        Complete().answer(stored(net), ask(net, [ends], [0]))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "elu(0.5)"])
def test_smooth_activations_are_refused_or_bounded(activation: str) -> None:
    """No search over breakpoints that are not there: sampled margins refute a false proof."""
    for seed in range(3):
        net = dataclasses.replace(small_networks.contracting(seed), activation=activation)
        network = stored(net)
        lo, hi = small_networks.box_about(net, seed, 0.25)
        share = np.random.default_rng(seed).uniform(size=(400, net.inputs)).round(1)
        y = network.predict(torch.tensor(lo + share * (hi - lo)), 1e-9)
        label = int(y[0].argmax())
        try:
            answer = Complete(timeout=2.0).answer(network, ask(net, [(lo, hi)], [label]))
        except InputError:
            continue
        rivals = [j for j in range(net.outputs) if j != label]
        least = (y[:, [label]] - y[:, rivals]).amin(0)
        assert bool((answer.lower[0] <= least + 1e-7).all())
        assert not (bool(answer.holds[0]) and float(least.amin()) < -1e-7)


# Samples, times.


@SOME
def test_batch_mates_do_not_matter(net: Network) -> None:
    boxes, labels = about(net, (0.125, 0.25, 0.5, 1.0), seed=7)
    together = Complete(timeout=None).answer(stored(net), ask(net, boxes, labels))
    for row, (ends, label) in enumerate(zip(boxes, labels, strict=True)):
        alone = Complete(timeout=None).answer(stored(net), ask(net, [ends], [label]))
        assert status(alone, 0) == status(together, row)


@SOME
def test_it_is_deterministic(net: Network) -> None:
    query = ask(net, *about(net, (0.25, 0.75), seed=9))
    one, other = (Complete(timeout=None).answer(stored(net), query) for _ in range(2))
    assert torch.equal(one.lower, other.lower)
    assert one.reasons == other.reasons
    for found, again in zip(one.findings or (), other.findings or (), strict=True):
        assert (found is None) == (again is None)
        if found is not None and again is not None:
            assert (found.nodes, found.above, found.stage) == (
                again.nodes,
                again.above,
                again.stage,
            )


def hard(n: int = 40, r: int = 12, width: float = 1.0) -> tuple[Network, Ends]:
    """Many open neurons, and a margin a little above the least that searches come by.

    Two outputs, the second 0; the first is lifted until no witness is found in a moment.
    """
    net = small_networks.monotone(1, n, r, 2)
    C, c = net.C.copy(), np.zeros(2)
    C[1] = 0
    ends = np.full(r, -width), np.full(r, width)
    for _ in range(20):
        lifted = dataclasses.replace(net, C=C, c=c)
        answer = Complete(timeout=0.5).answer(stored(lifted), ask(lifted, [ends], [0]))
        if status(answer, 0) != "falsified":
            return lifted, ends
        [found] = answer.findings or (None,)
        assert found is not None
        c = c + np.array([0.01 - found.above, 0.0])
    raise AssertionError("a witness was found each time")


def test_time_runs_out_with_true_bounds() -> None:
    """No time at all: the first bounds stand, and the reason is said."""
    net, ends = hard(12, 4)
    for method in (Complete(timeout=0.0), Complete(total=1e-9), Auto(timeout=1e-9)):
        answer = method.answer(stored(net), ask(net, [ends, ends], [0, 0]))
        for row in range(2):
            assert status(answer, row) in {"timeout", "certified", "falsified"}
            centre = (ends[0] + ends[1]) / 2
            y = stored(net).predict(torch.tensor(centre)[None], 1e-9)[0]
            assert float(answer.lower[row, 0]) <= float(y[0] - y[1]) + 1e-7


@pytest.mark.long
@pytest.mark.parametrize("timeout", [2.0, 6.0])
def test_the_limits_are_kept(timeout: float) -> None:
    """Within 10 %, a sample and in all."""
    net, ends = hard()
    for method in (Complete(timeout=timeout), Complete(timeout=None, total=timeout)):
        Complete(timeout=0.1).answer(stored(net), ask(net, [ends], [0]))  # compiled, cached
        began = time.monotonic()
        answer = method.answer(stored(net), ask(net, [ends], [0]))
        spent = time.monotonic() - began
        assert status(answer, 0) == "timeout"
        [found] = answer.findings or (None,)
        assert found is not None
        assert found.nodes > 1
        limited = found.seconds if method.total is None else spent
        assert limited <= 1.1 * timeout + 0.2


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    for name in ("timeout", "total"):
        with pytest.raises(InputError, match=name):
            Complete(**{name: seconds})


# Larger networks: the mixed-integer programme.


def agrees(net: Network, width: float, timeout: float = 60.0) -> bool:
    """Whether it was decided, and then as the programme decides it."""
    boxes, labels = about(net, (width,), seed=11)
    answer = Complete(timeout=timeout).answer(stored(net), ask(net, boxes, labels))
    problem = Problem.of(net, *boxes[0])
    state = zip(answer.state.lo[0].tolist(), answer.state.hi[0].tolist(), strict=True)
    bounds = oracles.image_bounds(problem, [(Fraction(p), Fraction(q)) for p, q in state])
    rivals = [j for j in range(net.outputs) if j != labels[0]]
    least = min(oracles.mixed(problem, problem.margin(labels[0], j), bounds) for j in rivals)
    word = status(answer, 0)
    if word == "certified":
        assert least > -1e-5
    elif word == "falsified":
        assert least < 1e-5
    else:
        assert word in {"tie", "timeout"}
    assert word != "tie" or abs(least) < 1e-5
    check_proofs(net, boxes, labels, answer)
    return word in {"certified", "falsified"}


@pytest.mark.parametrize("width", [0.0625, 0.25])
def test_the_mixed_integer_programme_agrees(width: float) -> None:
    for net in small_networks.every_kind("relu", range(50, 51), 10, 3):
        assert agrees(net, width)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(51, 55))
@pytest.mark.parametrize("activation", PIECEWISE)
def test_the_mixed_integer_programme_agrees_on_thirty_states(seed: int, activation: str) -> None:
    nets = small_networks.every_kind(activation, range(seed, seed + 1), 30, 4)
    decided = [agrees(net, width, 10.0) for net in nets for width in (0.0625, 0.25)]
    assert any(decided)  # a few of the monotone ones take minutes


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60, 68))
def test_verdicts_are_the_exact_ones_on_larger_networks(seed: int) -> None:
    for net in draws(range(seed, seed + 1), larger=3):
        solve(net, *about(net, (0.0625, 0.25, 1.0), seed))
