"""A plain prover: multipliers by a linear programme, rounded, and depth-first splitting.

Slow, and sure of nothing: `naive_proofs` judges what it makes. It shows that the judge accepts
proofs of every form, without the library's engine.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

import oracles
from equicert.proofs import (
    BallStart,
    Leaf,
    Lemma,
    Split,
    Start,
    StateStart,
    Step,
    TreeProof,
    Witness,
)
from exact import embedded_fixed_point, exact_abscissa_below_one, fixed_point, preactivation
from naive_proofs import Bounds, Claim, changed, children, norm_above, start_box
from networks import Network
from oracles import Form, Problem

MARGIN = 2.0**-20  # what is below it is not decided


def claim_of(net: Network) -> Claim:
    """What `small_networks.monotone` promises, with m = 1."""
    Lambda = np.ones(net.states) if net.eta is None else net.eta
    return Claim(Lambda, 1, norm_above(net.U, Lambda))


def start_of(net: Network, lo: Any, hi: Any) -> Start:
    """The exact embedded fixed point rounded outwards and pushed out, or a ball."""
    if exact_abscissa_below_one(net.W):
        ends = embedded_fixed_point(net.W, net.U, net.b, lo, hi, net.activation)
        low, high = (np.array([float(v) for v in end]) for end in ends)
        push = 2.0**-30 * widths(net)
        return StateStart(low - push, high + push)
    centre = (np.asarray(lo) + np.asarray(hi)) / 2
    problem = Problem.of(net, centre, centre)
    z = fixed_point(net.W, net.U, net.b, centre, net.activation)
    t = preactivation(problem.W, problem.U, problem.b, z, problem.lo)
    return BallStart(np.array([float(v) for v in t]))


def widths(net: Network) -> np.ndarray:
    """An eta that serves: `(I - M)^-1 1`."""
    M = np.where(np.eye(net.states) > 0, net.W, np.abs(net.W))
    return np.linalg.solve(np.eye(net.states) - M, np.ones(net.states))


def few_bits(multiplier: np.ndarray, bits: int = 24) -> np.ndarray:
    """Any multiplier is valid; one of few bits keeps exact sums short."""
    return np.round(multiplier * 2.0**bits) / 2.0**bits


def tightened(problem: Problem, bounds: Bounds) -> tuple[tuple[Lemma, ...], Bounds]:
    """One lemma for each end of each neuron, each resting on those before it."""
    chain: list[Lemma] = []
    for i in range(problem.states):
        for upper in (False, True):
            form = problem.preactivation(i).negated() if upper else problem.preactivation(i)
            multiplier = few_bits(oracles.relaxed(problem, form, bounds).multiplier)
            found = oracles.dual(problem, form, bounds, multiplier)
            value = np.nextafter(float(found), -np.inf)
            value = float(-value if upper else value)
            low, high = bounds[i]
            ends = (low, min(high, Fraction(value))) if upper else (max(low, Fraction(value)), high)
            bounds = changed(bounds, i, ends)
            chain.append(Lemma(i, upper, value, multiplier))
    return tuple(chain), bounds


def grown(problem: Problem, form: Form, margin: float, bounds: Bounds) -> list[Step] | None:
    """A tree that bounds the form by the margin; None where no split is left."""
    linear = oracles.relaxed(problem, form, bounds)
    if linear.value == np.inf:
        return [Leaf(oracles.refuted(problem, bounds).multiplier, infeasible=True)]
    multiplier = few_bits(linear.multiplier)
    if oracles.dual(problem, form, bounds, multiplier) >= Fraction(margin):
        return [Leaf(multiplier, infeasible=False)]
    for i, (low, high) in enumerate(bounds):
        for index, kink in enumerate(problem.breakpoints(i)):
            if low < kink < high:
                split = Split(i, index)
                parts = children(problem, bounds, split)
                below, above = (grown(problem, form, margin, part) for part in parts)
                return None if below is None or above is None else [split, *below, *above]
    return None


def prove(net: Network, lo: Any, hi: Any, label: int) -> TreeProof | Witness | None:
    """A proof that the label wins over [lo, hi], a witness against it, or None."""
    problem = Problem.of(net, lo, hi)
    rivals = [j for j in range(net.outputs) if j != label]
    least = [oracles.least(problem, problem.margin(label, rival)) for rival in rivals]
    claim = claim_of(net) if not exact_abscissa_below_one(net.W) else None
    worst = min(range(len(rivals)), key=lambda j: least[j].value)
    if least[worst].value < -MARGIN:
        return _witness(net, [float(v) for v in least[worst].x], rivals[worst])
    margins = [float(found.value) * (1 - 2.0**-8) for found in least]
    if min(margins) < MARGIN:
        return None
    start = start_of(net, lo, hi)
    bounds = oracles.image_bounds(problem, start_box(problem, start, claim))
    chain, bounds = tightened(problem, bounds)
    trees = [
        grown(problem, problem.margin(label, rival), margin, bounds)
        for rival, margin in zip(rivals, margins, strict=True)
    ]
    found = [tuple(tree) for tree in trees if tree is not None]
    if len(found) < len(trees):
        return None
    return TreeProof(start, chain, np.array(margins), tuple(found))


def _witness(net: Network, x: list[float], rival: int) -> Witness:
    return Witness(np.array(x), rival, start_of(net, x, x), -(2.0**-40))
