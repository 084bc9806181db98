"""What every method that searches owes: bounds, proofs and witnesses, held against the oracles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import torch

import exact
import oracles
from equicert.boxes import Box
from equicert.contraction import Contraction
from equicert.operators import Block, Blocks
from equicert.proofs import Leaf, StateStart, TreeProof
from equicert.queries import Answer, Query
from equicert.stored import StoredNetwork
from naive_proofs import Claim, check_tree, check_witness, norm_above
from networks import Array, Network
from oracles import Problem

Ends = tuple[Array, Array]  # (r,) each: the exact box of one sample
RESOLUTION = 1e-7  # what is further from 0, relative to the form's size, must be decided


@cache
def stored(net: Network) -> StoredNetwork:
    """The network; the eta of one that does not contract is its Lambda."""
    hints = {"eta" if net.contracting else "Lambda": net.eta}
    return StoredNetwork.from_arrays(*net.arrays, net.activation, **hints)


def as_one_block(held: StoredNetwork) -> StoredNetwork:
    """With W a block of itself: matrices have another ascent unless there is structure to tell."""
    return replace(held, W=Blocks((held.states, held.states), (Block(0, 0, held.W),)))


@cache
def claim_of(net: Network) -> Claim | None:
    """What the library proves of a network that is monotone only; the judge tests it again."""
    network = stored(net)
    if isinstance(network.well_posed, Contraction):
        return None
    proof = network.monotone
    Lambda = proof.Lambda.tolist()
    return Claim(Lambda, proof.m, norm_above(net.U, Lambda))


def ask(net: Network, boxes: Sequence[Ends], labels: Sequence[int]) -> Query:
    """The margins over boxes that float64 holds exactly, witnesses wanted."""
    box = Box(*(torch.tensor(np.stack(ends)) for ends in zip(*boxes, strict=True)))
    centre = torch.tensor(np.stack([(lo + hi) / 2 for lo, hi in boxes]))
    return Query.of_margins(box, torch.tensor(labels), net.outputs, centre, box)


def label_at(net: Network, x: Any) -> int:
    """The exact network's class at a point."""
    z = exact.fixed_point(net.W, net.U, net.b, x, net.activation)
    C, c = exact.to_fractions(net.C), exact.to_fractions(net.c)
    y = [exact.dot(row, z) + offset for row, offset in zip(C, c, strict=True)]
    return y.index(max(y))


def least_margins(net: Network, ends: Ends, label: int) -> list[Fraction]:
    """The exact least margin over each other class in increasing order."""
    problem = Problem.of(net, *ends)
    known = oracles.cells(problem)
    rivals = [j for j in range(net.outputs) if j != label]
    return [oracles.least(problem, problem.margin(label, j), known).value for j in rivals]


def size_of(net: Network) -> float:
    """What the outputs' rounding is relative to."""
    return float(1 + np.abs(net.c).max() + np.abs(net.C).sum(1).max())


def check_bounds(answer: Answer, truths: Sequence[Sequence[Fraction]]) -> None:
    """Every bound is below the truth, every one from above is above it."""
    for row, least in enumerate(truths):
        for bound, value in zip(answer.lower[row].tolist(), least, strict=True):
            assert not math.isnan(bound)
            assert bound == -math.inf or Fraction(bound) <= value
        found = None if answer.findings is None else answer.findings[row]
        if found is not None:
            assert not math.isnan(found.above)
            assert found.above == math.inf or Fraction(found.above) >= min(least)


def check_proofs(net: Network, boxes: Sequence[Ends], labels: Sequence[int], answer: Answer) -> int:
    """The naive judge accepts the proof of all that holds, and every witness; the trees' number."""
    findings = answer.findings or (None,) * len(boxes)
    plain, trees = answer.proofs, 0
    by_state = dict(
        zip(plain.rows.tolist(), zip(plain.lo, plain.hi, plain.lower, strict=True), strict=True)
    )
    for row, (ends, label, found) in enumerate(zip(boxes, labels, findings, strict=True)):
        holds = bool(answer.holds[row])
        if found is not None and found.witness is not None:
            assert not holds
            check_witness(net, *ends, label, found.witness, claim_of(net))
            assert found.above < 0
        if not holds:
            assert answer.reasons[row] or (found is not None and found.witness is not None)
            assert found is None or found.proof is None
            continue
        if found is not None and found.proof is not None:
            check_tree(net, *ends, label, found.proof, claim_of(net))
            trees += 1
        else:
            lo, hi, lower = (part.numpy() for part in by_state[row])
            check_tree(net, *ends, label, of_state_box(lo, hi, lower), claim_of(net))
    return trees


def of_state_box(lo: Array, hi: Array, lower: Array) -> TreeProof:
    """A state box as a proof: the multiplier 0 gives margin (10)."""
    leaf = Leaf(np.zeros(len(lo)), infeasible=False)
    return TreeProof(StateStart(lo, hi), (), lower, ((leaf,),) * len(lower))


def status(answer: Answer, row: int) -> str:
    """ "certified", "falsified", or why it is neither."""
    found = None if answer.findings is None else answer.findings[row]
    if bool(answer.holds[row]):
        return "certified"
    if found is not None and found.witness is not None:
        return "falsified"
    return answer.reasons[row]


def check_decided(net: Network, answer: Answer, truths: Sequence[Sequence[Fraction]]) -> None:
    """Every verdict is the true one, or a tie that the arithmetic does not resolve."""
    for row, least in enumerate(truths):
        value, word = min(least), status(answer, row)
        if word == "certified":
            assert value > 0
        elif word == "falsified":
            assert value < 0
        else:
            assert word == "tie", f"sample {row} is {word}, its least margin {float(value)}"
            assert abs(value) <= RESOLUTION * size_of(net)
