"""A naive judge of split-tree proofs and witnesses: rational arithmetic from the rules, no speed.

It is not the checker of certificate files and shares nothing with it. `Invalid` says which rule is
broken; a proof about which nothing is raised proves that the label's margins are positive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from typing import Any, NoReturn

import numpy as np

import exact
from equicert.proofs import BallStart, Leaf, Lemma, Split, StateStart, Step, TreeProof, Witness
from exact import Enclosure, dot, to_fractions
from networks import Network
from oracles import ZERO, Form, Problem, dual, image_bounds

Bounds = list[Enclosure]  # l and u of every r_i


class Invalid(Exception):  # noqa: N818 - the word of a verdict
    """What is wrong with a proof."""


def refuse(why: str) -> NoReturn:
    raise Invalid(why)


@dataclass(frozen=True)
class Claim:
    """`sym(Lambda (I - W)) >= m Lambda`, `||Lambda^(1/2) U||_2 <= norm`: judged, not believed."""

    Lambda: Any  # (n,)
    m: Any
    norm: Any


def norm_above(U: Any, Lambda: Any) -> float:
    """The least float64 about `||Lambda^(1/2) U||_2` that is proved to be no smaller."""
    found = float(np.linalg.norm(np.sqrt(np.asarray(Lambda, float))[:, None] * np.asarray(U), 2))
    found *= 1 - 2.0**-49
    while not norm_holds(U, Lambda, found):
        found = float(np.nextafter(found, np.inf))
    return found


def norm_holds(U: Any, Lambda: Any, norm: Any) -> bool:
    """Whether `norm^2 Lambda^-1 - U U^T >= 0`."""
    U, Lambda, norm = to_fractions(U), to_fractions(Lambda), Fraction(norm)
    gram = [[dot(p, q) for q in U] for p in U]
    n = len(U)
    return norm >= 0 and exact.is_semidefinite(
        [[norm**2 / Lambda[i] * (i == j) - gram[i][j] for j in range(n)] for i in range(n)]
    )


def check_tree(
    net: Network, lo: Any, hi: Any, label: int, proof: TreeProof, claim: Claim | None = None
) -> None:
    """That every margin of the label is at least the proof's, over the exact box [lo, hi].

    Raises:
        Invalid: some rule is broken.
    """
    problem = Problem.of(net, lo, hi)
    bounds = image_bounds(problem, start_box(problem, proof.start, claim))
    for lemma in proof.chain:
        bounds = applied(problem, bounds, lemma)
    rivals = [j for j in range(len(problem.c)) if j != label]
    if not len(proof.margins) == len(proof.trees) == len(rivals):
        refuse("one margin and one tree for each other class")
    for rival, tree, margin in zip(rivals, proof.trees, proof.margins.tolist(), strict=True):
        if not margin > 0:
            refuse(f"the margin over {rival} is claimed to be {margin}")
        steps = iter(tree)
        walk(problem, problem.margin(label, rival), Fraction(margin), bounds, steps)
        if next(steps, None) is not None:
            refuse(f"the tree of class {rival} goes on after its end")


def walk(
    problem: Problem, form: Form, margin: Fraction, bounds: Bounds, steps: Iterator[Step]
) -> None:
    """One subtree in preorder."""
    for step in steps:
        if isinstance(step, Lemma):
            bounds = applied(problem, bounds, step)
            continue
        if isinstance(step, Leaf):
            check_leaf(problem, form, margin, bounds, step)
        else:
            for part in children(problem, bounds, step):
                walk(problem, form, margin, part, steps)
        return
    refuse("a tree ends too early")


def check_leaf(problem: Problem, form: Form, margin: Fraction, bounds: Bounds, leaf: Leaf) -> None:
    if leaf.infeasible:
        nothing = Form([ZERO] * problem.states, [ZERO] * len(problem.lo))
        if not dual(problem, nothing, bounds, leaf.multiplier) > 0:
            refuse("an infeasible leaf is not shown to be empty")
    elif dual(problem, form, bounds, leaf.multiplier) < margin:
        refuse("a leaf bounds less than the claimed margin")


def children(problem: Problem, bounds: Bounds, split: Split) -> tuple[Bounds, Bounds]:
    """[l, k] and [k, u], k the breakpoint."""
    kinks = problem.breakpoints(split.neuron) if 0 <= split.neuron < problem.states else []
    if not 0 <= split.breakpoint < len(kinks):
        refuse(f"no neuron {split.neuron} with breakpoint {split.breakpoint}")
    k, (l, u) = kinks[split.breakpoint], bounds[split.neuron]  # noqa: E741
    if not l < k < u:
        refuse("a split at a breakpoint that is not inside")
    return changed(bounds, split.neuron, (l, k)), changed(bounds, split.neuron, (k, u))


def applied(problem: Problem, bounds: Bounds, lemma: Lemma) -> Bounds:
    """The bounds with a lemma's, if it follows from them."""
    if not 0 <= lemma.neuron < problem.states:
        refuse(f"a lemma on neuron {lemma.neuron}")
    value, form = Fraction(lemma.value), problem.preactivation(lemma.neuron)
    form, least = (form.negated(), -value) if lemma.upper else (form, value)
    if dual(problem, form, bounds, lemma.multiplier) < least:
        refuse(f"the lemma on neuron {lemma.neuron} does not follow")
    l, u = bounds[lemma.neuron]  # noqa: E741
    ends = (l, min(u, value)) if lemma.upper else (max(l, value), u)
    if ends[0] > ends[1]:
        refuse("a lemma leaves no state: that is for an infeasible leaf to say")
    return changed(bounds, lemma.neuron, ends)


def changed(bounds: Bounds, i: int, ends: Enclosure) -> Bounds:
    return [*bounds[:i], ends, *bounds[i + 1 :]]


def start_box(
    problem: Problem, start: StateStart | BallStart, claim: Claim | None
) -> list[Enclosure]:
    """A box of states that holds every fixed point over the box of inputs."""
    if isinstance(start, BallStart):
        return ball_box(problem, start.t, claim or refuse("a ball needs a monotone network"))
    if not exact.exact_abscissa_below_one(problem.W):
        refuse("a box of states needs a contracting network")
    lo, hi = to_fractions(start.lo), to_fractions(start.hi)
    if any(low > high for low, high in zip(lo, hi, strict=True)):
        refuse("a box of states is inverted")
    inputs = (problem.lo, problem.hi)
    if not exact.is_post_fixed_point(
        problem.W, problem.U, problem.b, (lo, hi), inputs, problem.activation
    ):
        refuse("a box of states fails the post-fixed-point test")
    return list(zip(lo, hi, strict=True))


def ball_box(problem: Problem, t: Any, claim: Claim) -> list[Enclosure]:
    """About phi(t): how far the fixed point at the centre is, and how far it moves over the box."""
    Lambda, m, norm = to_fractions(claim.Lambda), Fraction(claim.m), Fraction(claim.norm)
    if not (m > 0 and exact.is_monotone(problem.W, Lambda, m)):
        refuse("the network is not monotone with this modulus")
    if not norm_holds(problem.U, Lambda, norm):
        refuse("the norm of U is greater")
    t = to_fractions(t)
    ends = list(zip(problem.lo, problem.hi, strict=True))
    x0 = [Fraction(float((low + high) / 2)) for low, high in ends]
    half = [max(high - x, x - low) for x, (low, high) in zip(x0, ends, strict=True)]
    centre = [exact.evaluate(problem.activation, entry) for entry in t]
    image = exact.preactivation(problem.W, problem.U, problem.b, centre, x0)
    residual = [new - old for new, old in zip(image, t, strict=True)]
    length = root_above(sum(w * v**2 for w, v in zip(Lambda, residual, strict=True)))
    radius = (length + norm * root_above(sum(h**2 for h in half))) / m
    kinds = problem.pieces
    flat_low = kinds[0].offset if kinds[0].slope == 0 else None
    flat_high = kinds[-1].offset if kinds[-1].slope == 0 else None
    found = []
    for c, w in zip(centre, Lambda, strict=True):
        reach = radius * root_above(1 / w)
        low, high = c - reach, c + reach
        low = low if flat_low is None else max(low, flat_low)
        found.append((low, high if flat_high is None else min(high, flat_high)))
    return found


def root_above(v: Fraction | int) -> Fraction:
    """A rational just above sqrt(v): relative excess below 2^-90."""
    v = Fraction(v)
    if v == 0:
        return ZERO
    shift = max(0, 100 + (v.denominator.bit_length() - v.numerator.bit_length() + 1) // 2)
    scaled = (v.numerator << (2 * shift)) // v.denominator
    return Fraction(isqrt(scaled) + 1, 1 << shift)


def check_witness(
    net: Network, lo: Any, hi: Any, label: int, witness: Witness, claim: Claim | None = None
) -> None:
    """That the rival wins at an input of the exact box.

    Raises:
        Invalid: some rule is broken.
    """
    x = witness.x.tolist()
    if len(x) != net.inputs or not np.isfinite(witness.x).all():
        refuse("not a finite input of the network")
    lo, hi = to_fractions(lo), to_fractions(hi)
    if not all(low <= Fraction(v) <= high for low, v, high in zip(lo, x, hi, strict=True)):
        refuse("outside the box")
    if witness.rival == label or not 0 <= witness.rival < net.outputs:
        refuse(f"rival {witness.rival}")
    problem = Problem.of(net, x, x)
    states = start_box(problem, witness.start, claim)
    form = problem.margin(label, witness.rival)
    greatest = form.constant + sum(
        max(v * low, v * high) for v, (low, high) in zip(form.a, states, strict=True)
    )
    if not (witness.above < 0 and greatest < 0):
        refuse("the rival does not win")
    if greatest > Fraction(witness.above):
        refuse("the margin is not as far below 0 as claimed")
