"""Branch and bound forgets no node and believes nothing: spoilt proposals, early ends, true bounds.

Every proposal is replaced by nonsense in turn, and the search is stopped wherever it can be: what
is then said of a sample must still be true.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import types
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import small_networks
from equicert.bounds import Auto, Complete, branching, leaf
from equicert.bounds.branching import Search
from equicert.bounds.hunting import Hunter
from equicert.bounds.nodes import Nodes
from equicert.boxes import Box
from equicert.queries import Answer, Forms, Query
from equicert.relaxation import Lagrangian
from networks import Network
from oracles import Problem
from searches import Ends, ask, check_bounds, check_proofs, label_at, least_margins, stored

Question = tuple[Network, Ends, list[Fraction]]  # the label is 0


def moved(net: Network, seed: int, gap: float) -> Question:
    """The least margin of class 0 moved to about the gap, which takes a search to see."""
    ends = small_networks.box_about(net, seed, 0.75)
    c = net.c.copy()
    c[0] -= float(min(least_margins(net, ends, 0))) - gap
    net = dataclasses.replace(net, c=c)
    return net, ends, least_margins(net, ends, 0)


def questions() -> Iterator[Question]:
    for gap in (1e-4, -1e-4):
        yield moved(small_networks.contracting(4, 4), 2, gap)
        yield moved(small_networks.contracting(5, 3, activation="hard_tanh"), 2, gap)
        yield moved(small_networks.monotone(6, 4, activation="leaky_relu(0.125)"), 2, gap)


QUESTIONS = [*questions()]


def check(question: Question, hunted: bool = True, timeout: float = 0.5) -> Answer:
    """Whatever was spoilt: bounds, proofs, witnesses and verdicts are true."""
    net, ends, least = question
    query = ask(net, [ends], [0])
    if not hunted:
        query = dataclasses.replace(query, inner=None)
    answer = Complete(timeout=timeout).answer(stored(net), query)
    check_bounds(answer, [least])
    if bool(answer.holds[0]):
        assert min(least) > 0
    if hunted:
        check_proofs(net, [ends], [0], answer)
    return answer


def test_the_questions_take_a_search() -> None:
    """Undisturbed they are all decided, by branching."""
    nodes = 0
    for question in QUESTIONS:
        answer = check(question, timeout=20.0)
        [found] = answer.findings or (None,)
        assert found is not None
        assert bool(answer.holds[0]) or found.witness is not None
        nodes += found.nodes * (found.stage == "complete")
        alone = check(question, hunted=False, timeout=20.0)
        assert bool(alone.holds[0]) == (min(question[2]) > 0)
    assert nodes > 20


VALUES = (math.nan, math.inf, 1e9)


@pytest.mark.parametrize("bad", VALUES)
@pytest.mark.parametrize("hunted", [True, False])
@pytest.mark.parametrize("name", ["ascend", "value"])
def test_a_spoilt_ascent_proves_nothing_false(
    monkeypatch: pytest.MonkeyPatch, bad: float, hunted: bool, name: str
) -> None:
    good = getattr(Lagrangian, name)

    def spoilt(*args: Any) -> Any:
        found = good(*args)
        if isinstance(found, Tensor):
            return torch.full_like(found, bad)
        return tuple(torch.full_like(part, bad) for part in found)

    monkeypatch.setattr(Lagrangian, name, spoilt)
    for question in QUESTIONS[::2]:
        check(question, hunted, 0.1)


@pytest.mark.parametrize("status", [0, 2, 4])
@pytest.mark.parametrize("size", [math.nan, 1.0, 1e12])
def test_a_spoilt_programme_proves_nothing_false(
    monkeypatch: pytest.MonkeyPatch, status: int, size: float
) -> None:
    rng = np.random.default_rng(1)
    calls = 0

    def spoilt(cost: np.ndarray, *, A_ub: np.ndarray, **_: Any) -> Any:
        nonlocal calls
        calls += 1
        dual = types.SimpleNamespace(marginals=rng.normal(size=len(A_ub)) * size)
        x = rng.normal(size=len(cost)) * size
        return types.SimpleNamespace(status=status, x=x, fun=size, ineqlin=dual)

    monkeypatch.setattr(leaf, "linprog", spoilt)
    for question in QUESTIONS[1::2]:
        check(question, False, 20.0)  # which ends by itself
    assert calls


def lies(after: int) -> Callable[..., bool]:
    """A hunter that says from some call on that there is a witness, and has none."""
    calls = itertools.count()

    def hunt(self: Hunter, x: Tensor, form: Tensor) -> bool:
        del self, x, form
        return next(calls) >= after

    return hunt


@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_a_search_that_ends_at_a_witness_keeps_its_nodes(
    monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The bounds that are left are those of all nodes, those in hand included."""
    monkeypatch.setattr(branching, "_FEWEST", 2)
    for question in QUESTIONS:
        monkeypatch.setattr(Hunter, "__call__", lies(after))
        answer = check(question, False, 5.0)
        assert bool((answer.lower[0] < math.inf).all())


@pytest.mark.parametrize("looks", [0, 2, 4, 7, 12])
def test_bounds_are_true_when_time_is_up(monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    calls = itertools.count()
    clock = types.SimpleNamespace(monotonic=lambda: 0.0 if next(calls) < looks else math.inf)
    monkeypatch.setattr(branching, "time", clock)
    for question in QUESTIONS:
        answer = check(question, False, 5.0)
        assert bool(answer.holds[0]) or answer.reasons[0] in {"timeout", "tie"}


@pytest.mark.parametrize("vectors", [0, 4, 12, 40])
def test_bounds_are_true_when_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, vectors: int
) -> None:
    monkeypatch.setattr(branching, "_BYTES", vectors * 8 * 4)
    for question in QUESTIONS:
        check(question, False, 5.0)


def test_the_parts_of_a_split_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """[l, k] and [k, u] with k the exact breakpoint, and every other interval as it was."""
    seen, good = 0, Search._children
    problem: Problem | None = None

    def checked(self: Search, nodes: Nodes, neuron: Tensor, which: Tensor) -> Nodes:
        nonlocal seen
        found = good(self, nodes, neuron, which)
        k = len(nodes)
        assert len(found) == 2 * k
        for row, (i, j) in enumerate(zip(neuron.tolist(), which.tolist(), strict=True)):
            assert problem is not None
            knot = problem.breakpoints(i)[j]
            low, high, parent = found.lo[row + k, i], found.hi[row, i], nodes
            assert Fraction(float(low)) <= knot <= Fraction(float(high))
            assert parent.lo[row, i] < low <= high < parent.hi[row, i]
            for part, end in ((found.lo[row], nodes.lo[row]), (found.hi[row + k], nodes.hi[row])):
                assert torch.equal(part, end)
            rest = torch.arange(nodes.lo.shape[1]) != i
            assert torch.equal(found.lo[row + k][rest], nodes.lo[row][rest])
            assert torch.equal(found.hi[row][rest], nodes.hi[row][rest])
            split, first, second = self.tree[int(nodes.name[row])]  # type: ignore[misc]
            assert (split.neuron, split.breakpoint) == (i, j)
            assert [first, second] == found.name[[row, row + k]].tolist()
            seen += 1
        return found

    monkeypatch.setattr(Search, "_children", checked)
    for question in QUESTIONS:
        problem = Problem.of(question[0], *question[1])
        check(question, False, 5.0)
    assert seen > 10


def several(net: Network, ends: Ends, seed: int) -> tuple[Query, Tensor]:
    """Clauses of two, one and two forms, and samples of the greatest form of each."""
    rng = np.random.default_rng(seed)
    A, d = torch.tensor(rng.normal(size=(5, net.outputs))), torch.zeros(5, dtype=torch.float64)
    clause = torch.tensor([0, 1, 0, 2, 2])
    lo, hi = (torch.tensor(end)[None] for end in ends)
    share = torch.tensor(rng.uniform(size=(2000, net.inputs)))
    share[::2] = share[::2].round()
    y = stored(net).predict(lo + share * (hi - lo), 1e-9)
    values = y @ A.mT
    best = torch.stack([values[:, clause == k].amax(1).amin() for k in range(3)])
    d = -best[clause] + 1e-3 * rng.choice([-1.0, 1.0])
    zero = torch.zeros(1, dtype=torch.int64)
    sampled = (values + d).T  # (5, s)
    least = torch.stack([sampled[clause == k].amax(0).amin() for k in range(3)])
    return Query(Box(lo, hi), (Forms(A, d, clause),), zero), least


@pytest.mark.parametrize("after", [0, 1, 3, 100])
def test_clauses_of_several_forms_are_bounded_by_the_greatest(
    monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(Hunter, "__call__", lies(after))
    monkeypatch.setattr(branching, "_FEWEST", 2)
    for seed, (net, ends, _) in enumerate(QUESTIONS):
        query, least = several(net, ends, seed)
        answer = Complete(timeout=0.5).answer(stored(net), query)
        assert float(answer.margin[0]) <= float(least.amin()) + 1e-7
        assert not (bool(answer.holds[0]) and float(least.amin()) < -1e-7)


def test_a_label_that_is_wrong_at_the_point_is_falsified() -> None:
    net = small_networks.contracting(7)
    ends = small_networks.box_about(net, 1, 0.25)
    right = label_at(net, (ends[0] + ends[1]) / 2)
    labels = [*range(net.outputs), right, right]
    answer = Complete(timeout=5.0).answer(stored(net), ask(net, [ends] * len(labels), labels))
    truths = [least_margins(net, ends, label) for label in labels]
    check_bounds(answer, truths)
    check_proofs(net, [ends] * len(labels), labels, answer)
    for row, label in enumerate(labels):
        assert answer.findings is not None
        found = answer.findings[row]
        assert found is not None
        assert label == right or found.witness is not None
    # The same question twice, and again, is answered alike.
    assert torch.equal(answer.lower[-1], answer.lower[-2])


def test_time_that_the_first_method_spends_is_no_error() -> None:
    net, ends, least = QUESTIONS[0]
    answer = Auto(total=1e-9).answer(stored(net), ask(net, [ends], [0]))
    check_bounds(answer, [least])
    assert answer.reasons == ("timeout",)
