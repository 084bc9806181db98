"""The dual bound: below the exact optimum, at the relaxation's when run long, above margin (10)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch

import oracles
import small_networks
from equicert.bounds import Dual, Interval
from equicert.boxes import Box
from equicert.errors import InputError
from equicert.queries import Answer, Forms, Query
from equicert.relaxation.ascent import Ascent
from monotone_networks import MONOTONE
from networks import CONTRACTING, Network
from oracles import Form, Problem
from searches import ask, check_bounds, check_proofs, label_at, least_margins, stored


def draws() -> Iterator[Network]:
    return small_networks.varied(20, 4)


EACH = pytest.mark.parametrize("net", [*draws()], ids=str)
SMALL = [net for net in CONTRACTING.values() if net.piecewise_linear and net.states <= 3]
AWKWARD = [net for net in [*SMALL, *MONOTONE.values()] if net.outputs > 1]


def bounds_of(problem: Problem, answer: Answer, row: int = 0) -> list[tuple[Fraction, Fraction]]:
    """[l, u] from the box of states that the answer starts from."""
    lo, hi = answer.state.lo[row].tolist(), answer.state.hi[row].tolist()
    return oracles.image_bounds(
        problem, [(Fraction(p), Fraction(q)) for p, q in zip(lo, hi, strict=True)]
    )


def lowered(net: Network, box: Box, height: float) -> Query:
    """The margins of class 0, moved so that none is positive: nothing stops early."""
    margins = Forms.margins(0, net.outputs)
    zero = torch.zeros(box.batch, dtype=torch.int64)
    return Query(box, (dataclasses.replace(margins, d=margins.d - height),), zero)


@EACH
@pytest.mark.parametrize("width", [0.0, 0.5])
def test_it_is_never_above_the_exact_optimum(net: Network, width: float) -> None:
    boxes = [small_networks.box_about(net, seed, width) for seed in (1, 2)]
    labels = [label_at(net, (lo + hi) / 2) for lo, hi in boxes]
    answer = Dual().answer(stored(net), ask(net, boxes, labels))
    truths = [least_margins(net, ends, label) for ends, label in zip(boxes, labels, strict=True)]
    check_bounds(answer, truths)
    check_proofs(net, boxes, labels, answer)
    assert bool(answer.state.proved.all())
    if width == 0:  # at a point only rounding, and the start's own width, are lost
        for bounds, least in zip(answer.lower.tolist(), truths, strict=True):
            assert bounds == pytest.approx([float(v) for v in least], abs=1e-4)


@pytest.mark.parametrize("net", AWKWARD, ids=str)
def test_it_is_sound_on_awkward_networks(net: Network) -> None:
    """Skewed eta, gamma near 1 and below 0, weights of 1e30 and of 1e-310, zero W, n = 1."""
    lo = np.full(net.inputs, -0.75)
    boxes = [(lo, lo + 1), (lo, lo + 2.0**-20), (lo, lo)]
    labels = [label_at(net, ends[0]) for ends in boxes]
    answer = Dual().answer(stored(net), ask(net, boxes, labels))
    check_bounds(answer, [least_margins(net, e, y) for e, y in zip(boxes, labels, strict=True)])
    check_proofs(net, boxes, labels, answer)


def reached(net: Network, ascents: tuple[Ascent, ...], tolerance: float) -> None:
    """The best of some ascents is at the relaxation's optimum, and none is above it."""
    lo, hi = small_networks.box_about(net, 3, 0.75)
    problem = Problem.of(net, lo, hi)
    query = lowered(net, Box(torch.tensor(lo), torch.tensor(hi)), 64.0)
    answers = [Dual(ascent).answer(stored(net), query) for ascent in ascents]
    bounds = bounds_of(problem, answers[0])
    best = torch.stack([answer.lower[0] for answer in answers]).amax(0)
    for found, rival in zip((best + 64).tolist(), range(1, net.outputs), strict=True):
        form = problem.margin(0, rival)
        linear = oracles.relaxed(problem, form, bounds).value
        plain = float(oracles.dual(problem, form, bounds, [0] * net.states))
        assert found <= linear + 1e-7 * (64 + abs(linear))
        assert found >= linear - tolerance * max(1.0, abs(linear), linear - plain)


@EACH
def test_it_approaches_the_relaxation_and_is_never_above(net: Network) -> None:
    reached(net, (Ascent(300, 0.2),), 0.03)


@pytest.mark.long
@EACH
def test_run_long_it_reaches_the_relaxation(net: Network) -> None:
    reached(net, (Ascent(30_000, 0.2), Ascent(30_000, 0.02), Ascent(10_000, 0.005)), 1e-4)


@EACH
@pytest.mark.parametrize("steps", [0, 3])
def test_it_is_no_worse_than_margin_10(net: Network, steps: int) -> None:
    """Whatever the start of the ascent: lambda = 0 is tried too."""
    lo, hi = small_networks.box_about(net, 4, 1.0)
    query = lowered(net, Box(torch.tensor(lo), torch.tensor(hi)), 0.5)
    answer = Dual(Ascent(steps, 0.05)).answer(stored(net), query)
    problem = Problem.of(net, lo, hi)
    bounds = bounds_of(problem, answer)
    for found, rival in zip(answer.lower[0].tolist(), range(1, net.outputs), strict=True):
        plain = oracles.dual(problem, problem.margin(0, rival), bounds, [0] * net.states)
        assert found + 0.5 >= float(plain) - 1e-9 * (1 + abs(float(plain)))
    if net.contracting:
        interval = Interval().answer(stored(net), query).lower
        assert bool((answer.lower >= interval - 1e-6 * (1 + interval.abs())).all())


def test_it_is_better_than_margin_10_somewhere() -> None:
    better = 0
    for net in draws():
        lo, hi = small_networks.box_about(net, 5, 1.0)
        query = lowered(net, Box(torch.tensor(lo), torch.tensor(hi)), 16.0)
        found = Dual().answer(stored(net), query)
        bounds = bounds_of(Problem.of(net, lo, hi), found)
        form = Problem.of(net, lo, hi).margin(0, 1)
        plain = oracles.dual(Problem.of(net, lo, hi), form, bounds, [0] * net.states)
        better += float(found.lower[0, 0]) + 16 > float(plain) + 1e-3
    assert better > 4


@EACH
def test_batch_mates_do_not_matter(net: Network) -> None:
    """Up to where a start of the ascent stopped, and no verdict but near 0."""
    if not net.contracting:
        pytest.skip("the start converges for contracting networks only")
    boxes = [small_networks.box_about(net, seed, 0.25) for seed in range(6)]
    labels = [label_at(net, (lo + hi) / 2) for lo, hi in boxes]
    together = Dual().answer(stored(net), ask(net, boxes, labels))
    for row, (ends, label) in enumerate(zip(boxes, labels, strict=True)):
        alone = Dual().answer(stored(net), ask(net, [ends], [label]))
        one, other = alone.lower[0], together.lower[row]
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3)
        if abs(float(alone.margin[0])) > 2e-3:
            assert bool(alone.holds[0]) == bool(together.holds[row])


def test_an_empty_batch_is_answered() -> None:
    net = small_networks.contracting(1)
    box = Box(torch.zeros(0, net.inputs), torch.zeros(0, net.inputs))
    answer = Dual().answer(stored(net), Query.of_margins(box, torch.zeros(0, dtype=torch.int64), 3))
    assert len(answer.lower) == 0
    assert answer.reasons == ()


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@pytest.mark.parametrize("width", [2.0**-6, 0.5])
def test_smooth_activations_are_refused_or_bounded_below_samples(
    activation: str, width: float
) -> None:
    gains = []
    for made in small_networks.every_kind("relu", range(3), 4):
        net = dataclasses.replace(made, activation=activation)
        network = stored(net)
        lo, hi = (torch.tensor(end)[None] for end in small_networks.box_about(net, 1, width))
        query = lowered(net, Box(lo, hi), 8.0)
        try:
            answer = Dual().answer(network, query)
        except InputError:  # refused is sound, too
            return
        share = torch.rand(500, net.inputs, generator=torch.Generator().manual_seed(1))
        share = torch.cat([share, share.round()])
        y = network.predict(lo + share * (hi - lo), 1e-9)
        least = (y[:, :1] - y[:, 1:]).amin(0) - 8
        assert bool((answer.lower[0] <= least + 1e-7).all())
        assert bool(answer.lower.isfinite().all())
        gains.append(float((answer.lower[0] - least).mean()))
    # It is near the truth on small boxes, not merely below it.
    assert width > 0.1 or sum(gains) / len(gains) > -0.05


def test_both_ends_of_a_form_in_inputs_and_outputs_hold() -> None:
    """A query without clauses: bounds are wanted, and nothing is decided."""
    for net in draws():
        lo, hi = small_networks.box_about(net, 6, 0.5)
        problem = Problem.of(net, lo, hi)
        known = oracles.cells(problem)
        box = Box(torch.tensor(lo), torch.tensor(hi))
        answer = Dual().answer(stored(net), Query.of_outputs(box, net.outputs))
        forms = [
            Form(row, [Fraction(0)] * len(lo), c)
            for row, c in zip(problem.C, problem.c, strict=True)
        ]
        truth = [
            oracles.least(problem, f, known).value for f in [*forms, *(f.negated() for f in forms)]
        ]
        for bound, value in zip(answer.lower[0].tolist(), truth, strict=True):
            assert math.isfinite(bound)
            assert Fraction(bound) <= value
