"""The naive judge: it accepts what is proved without the engine, and refuses each broken rule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest

import exact
import oracles
import plain_prover
import small_networks
from equicert.proofs import BallStart, Leaf, Lemma, Split, StateStart, Step, TreeProof, Witness
from naive_proofs import Claim, Invalid, check_tree, check_witness, norm_above, root_above
from networks import Network
from oracles import Problem
from plain_prover import claim_of

Proof = TreeProof | Witness | None


def draws() -> Iterator[tuple[Network, float]]:
    for activation in ("relu", "leaky_relu(0.125)", "hard_tanh"):
        n = 3 if activation == "hard_tanh" else 4
        for net in small_networks.every_kind(activation, range(2), n):
            yield net, 0.1875
    yield small_networks.contracting(0, gamma=-4.0, spread=50.0), 0.75


NETWORKS = {f"{net.name}, {net.activation}, {eps}": (net, eps) for net, eps in draws()}


def label_of(net: Network, x: Any) -> int:
    z = exact.fixed_point(net.W, net.U, net.b, x, net.activation)
    C, c = exact.to_fractions(net.C), exact.to_fractions(net.c)
    y = [exact.dot(row, z) + offset for row, offset in zip(C, c, strict=True)]
    return y.index(max(y))


@cache
def case(name: str) -> tuple[Network, Any, Any, int, Proof, Claim]:
    net, width = NETWORKS[name]
    lo, hi = small_networks.box_about(net, 1, width)
    label = label_of(net, (lo + hi) / 2)
    return net, lo, hi, label, plain_prover.prove(net, lo, hi, label), claim_of(net)


def judge(net: Network, lo: Any, hi: Any, label: int, proof: Proof, claim: Claim) -> None:
    if isinstance(proof, TreeProof):
        check_tree(net, lo, hi, label, proof, claim)
    elif isinstance(proof, Witness):
        check_witness(net, lo, hi, label, proof, claim)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_proved_without_the_engine_is_accepted_and_true(name: str) -> None:
    net, lo, hi, label, proof, claim = case(name)
    judge(net, lo, hi, label, proof, claim)
    problem = Problem.of(net, lo, hi)
    least = min(
        oracles.least(problem, problem.margin(label, rival)).value
        for rival in range(net.outputs)
        if rival != label
    )
    assert (least > 0) == isinstance(proof, TreeProof)
    assert (least < 0) == isinstance(proof, Witness)


def test_proofs_of_every_form_occur() -> None:
    proofs = [case(name)[4] for name in NETWORKS]
    trees = [proof for proof in proofs if isinstance(proof, TreeProof)]
    steps = [step for proof in trees for tree in proof.trees for step in tree]
    starts = {type(proof.start) for proof in proofs if proof is not None}
    assert starts == {StateStart, BallStart}
    assert any(isinstance(proof, Witness) for proof in proofs)
    assert {type(step) for step in steps} == {Leaf, Split}
    assert {step.infeasible for step in steps if isinstance(step, Leaf)} == {True, False}


def proved(start: type) -> str:
    """A case with a tree proof of that start, and a split."""
    for name in NETWORKS:
        proof = case(name)[4]
        if isinstance(proof, TreeProof) and isinstance(proof.start, start):
            steps = itertools.chain(*proof.trees)
            if any(isinstance(step, Split) for step in steps):
                return name
    raise AssertionError("no such proof")


def split_tree(proof: TreeProof) -> int:
    return next(k for k, tree in enumerate(proof.trees) if isinstance(tree[0], Split))


def with_tree(
    proof: TreeProof, change: Callable[[tuple[Step, ...]], tuple[Step, ...]]
) -> TreeProof:
    """The proof with its first tree that splits changed."""
    k = split_tree(proof)
    return replace(proof, trees=(*proof.trees[:k], change(proof.trees[k]), *proof.trees[k + 1 :]))


def with_margin(proof: TreeProof, value: float) -> TreeProof:
    return replace(proof, margins=np.array([value, *proof.margins[1:]]))


def with_lemma(proof: TreeProof, **fields: Any) -> TreeProof:
    return replace(proof, chain=(*proof.chain, replace(proof.chain[0], **fields)))


def swapped(tree: tuple[Step, ...]) -> tuple[Step, ...]:
    """With what was proved below the first split put above it, and the other way round."""
    end, pending = 1, 1
    while pending:
        pending += isinstance(tree[end], Split) - isinstance(tree[end], Leaf)
        end += 1
    return (tree[0], *tree[end:], *tree[1:end])


def closed_at_once(tree: tuple[Step, ...]) -> tuple[Step, ...]:
    """The multiplier of some leaf at the root."""
    return (next(step for step in tree if isinstance(step, Leaf) and not step.infeasible),)


def empty(tree: tuple[Step, ...]) -> tuple[Step, ...]:
    """Every leaf is called infeasible."""
    return tuple(replace(s, infeasible=True) if isinstance(s, Leaf) else s for s in tree)


BROKEN: dict[str, Callable[[TreeProof], TreeProof]] = {
    "margin beyond the truth": lambda p: with_margin(p, 100.0),
    "margin of 0": lambda p: with_margin(p, 0.0),
    "margin of NaN": lambda p: with_margin(p, math.nan),
    "margin left out": lambda p: replace(p, margins=p.margins[1:]),
    "tree left out": lambda p: replace(p, trees=p.trees[1:]),
    "tree cut short": lambda p: with_tree(p, lambda t: t[:-1]),
    "tree too long": lambda p: with_tree(p, lambda t: (*t, t[-1])),
    "empty tree": lambda p: with_tree(p, lambda _: ()),
    "no split at all": lambda p: with_tree(p, closed_at_once),
    "children swapped": lambda p: with_tree(p, swapped),
    "every leaf infeasible": lambda p: with_tree(p, empty),
    "split twice at one place": lambda p: with_tree(p, lambda t: (t[0], *t)),
    "split of no neuron": lambda p: with_tree(p, lambda t: (Split(99, 0), *t[1:])),
    "split at no breakpoint": lambda p: with_tree(
        p, lambda t: (replace(t[0], breakpoint=7), *t[1:]) if isinstance(t[0], Split) else t
    ),
    "false lower lemma": lambda p: with_lemma(p, upper=False, value=50.0),
    "false upper lemma": lambda p: with_lemma(p, upper=True, value=-50.0),
    "lemma on no neuron": lambda p: with_lemma(p, neuron=99),
    "false lemma below a split": lambda p: with_tree(
        p, lambda t: (t[0], Lemma(0, True, -50.0, np.zeros(len(p.chain[0].multiplier))), *t[1:])
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("start", [StateStart, BallStart])
def test_a_broken_tree_is_refused(fault: str, start: type) -> None:
    net, lo, hi, label, proof, claim = case(proved(start))
    assert isinstance(proof, TreeProof)
    with pytest.raises(Invalid):
        check_tree(net, lo, hi, label, BROKEN[fault](proof), claim)


@pytest.mark.parametrize("start", [StateStart, BallStart])
def test_another_question_is_refused(start: type) -> None:
    """Another label, a wider box, a lemma used before it is there."""
    net, lo, hi, label, proof, claim = case(proved(start))
    assert isinstance(proof, TreeProof)
    with pytest.raises(Invalid):
        check_tree(net, lo, hi, (label + 1) % net.outputs, proof, claim)
    with pytest.raises(Invalid):
        check_tree(net, lo - 4, hi + 4, label, proof, claim)


def test_lemmas_hold_in_their_order_only() -> None:
    """Some lemma of some chain rests on those before it."""
    refused = 0
    for name in NETWORKS:
        net, lo, hi, label, proof, claim = case(name)
        if isinstance(proof, TreeProof):
            try:
                check_tree(net, lo, hi, label, replace(proof, chain=proof.chain[::-1]), claim)
            except Invalid as why:
                refused += "does not follow" in str(why)
    assert refused


def test_a_lemma_below_a_split_ends_with_its_subtree() -> None:
    """relu over [-1, 1]: what holds where r <= 0 says nothing of where r >= 0."""
    W, U, b = np.zeros((1, 1)), np.ones((1, 1)), np.zeros(1)
    net = Network("ramp", W, U, b, np.array([[1.0], [0.0]]), np.array([0.5, 0.0]))
    start, zero = StateStart(np.zeros(1), np.ones(1)), np.zeros(1)
    chain, margins = (Lemma(0, False, -1.0, zero), Lemma(0, True, 1.0, zero)), np.array([0.5])
    local = Lemma(0, False, -1.0, zero)
    leaf = Leaf(zero, infeasible=False)
    good = TreeProof(start, chain, margins, ((Split(0, 0), local, leaf, leaf),))
    check_tree(net, [-1.0], [1.0], 0, good)
    # r <= 1/4 follows on the left, where u = 0 anyway, and on the right it is false.
    low = Lemma(0, True, 0.25, np.ones(1))
    check_tree(net, [-1.0], [1.0], 0, replace(good, trees=((Split(0, 0), low, leaf, leaf),)))
    with pytest.raises(Invalid, match="does not follow"):
        check_tree(net, [-1.0], [1.0], 0, replace(good, trees=((Split(0, 0), leaf, low, leaf),)))


STARTS: dict[str, Callable[[Any], Any]] = {
    "box too small": lambda s: StateStart(s.lo + 0.01, s.hi - 0.01),
    "box inverted": lambda s: StateStart(s.hi + 1, s.lo - 1),
    "box of nothing": lambda s: StateStart(s.hi, s.hi),
}


@pytest.mark.parametrize("fault", STARTS)
def test_a_broken_start_is_refused(fault: str) -> None:
    net, lo, hi, label, proof, claim = case(proved(StateStart))
    assert isinstance(proof, TreeProof)
    with pytest.raises(Invalid, match="box of states"):
        check_tree(net, lo, hi, label, replace(proof, start=STARTS[fault](proof.start)), claim)


def test_a_start_needs_its_theorem() -> None:
    net, lo, hi, label, proof, claim = case(proved(BallStart))
    assert isinstance(proof, TreeProof)
    with pytest.raises(Invalid, match="monotone"):
        check_tree(net, lo, hi, label, proof, None)
    skewed = np.where(np.arange(net.states) == 0, 1e6, 1.0) * claim.Lambda
    for wrong in (
        replace(claim, m=20),
        replace(claim, m=0),
        replace(claim, norm=claim.norm * (1 - 1e-9)),
        replace(claim, Lambda=skewed),
        replace(claim, Lambda=-claim.Lambda),
    ):
        with pytest.raises(Invalid):
            check_tree(net, lo, hi, label, proof, wrong)
    everywhere = StateStart(np.zeros(net.states), np.full(net.states, 1e3))
    with pytest.raises(Invalid, match="contracting"):
        check_tree(net, lo, hi, label, replace(proof, start=everywhere), claim)


def test_a_bad_centre_of_a_ball_is_paid_for() -> None:
    """Any t gives a valid ball; a bad one gives a large one."""
    net, lo, hi, label, proof, claim = case(proved(BallStart))
    assert isinstance(proof, TreeProof)
    assert isinstance(proof.start, BallStart)
    with pytest.raises(Invalid):
        check_tree(net, lo, hi, label, replace(proof, start=BallStart(proof.start.t + 8)), claim)


@pytest.mark.parametrize("start", [StateStart, BallStart])
def test_a_broken_witness_is_refused(start: type) -> None:
    found = [(case(name), case(name)[4]) for name in NETWORKS]
    (net, lo, hi, label, _, claim), proof = next(
        (known, proof)
        for known, proof in found
        if isinstance(proof, Witness) and isinstance(proof.start, start)
    )
    outside = proof.x.copy()
    outside[0] = np.nextafter(hi[0], np.inf)
    broken = [
        replace(proof, x=outside),
        replace(proof, x=proof.x * math.nan),
        replace(proof, x=proof.x[:-1]),
        replace(proof, rival=label),
        replace(proof, rival=net.outputs),
        replace(proof, above=-100.0),
        replace(proof, above=0.0),
        replace(proof, above=math.nan),
        replace(proof, x=(lo + hi) / 2, start=plain_prover.start_of(net, *[(lo + hi) / 2] * 2)),
    ]
    for wrong in broken:
        with pytest.raises(Invalid):
            check_witness(net, lo, hi, label, wrong, claim)


def test_roots_are_above_and_close() -> None:
    for v in (Fraction(1, 3), Fraction(10**40, 7), Fraction(1, 10**50), Fraction(4), Fraction(2)):
        root = root_above(v)
        assert v < root**2 <= v * (1 + Fraction(1, 2**85))
    assert root_above(0) == 0


def test_the_norm_is_above_and_close() -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        U, Lambda = rng.normal(size=(4, 3)), 4.0 ** rng.integers(-2, 3, 4)
        found, known = norm_above(U, Lambda), np.linalg.norm(np.sqrt(Lambda)[:, None] * U, 2)
        assert known * (1 - 1e-14) <= found <= known * (1 + 1e-14)
