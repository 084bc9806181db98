"""Proofs that are more than one state box: chains of dual lemmas, split trees, witnesses.

Derived here (`docs/soundness.md`). Given bounds `l <= r <= u` on the off-diagonal pre-activations
`r = W_off z + U x + b` of every fixed point over a box of inputs, and z = psi(r), every
multiplier lambda bounds a form `a^T z + d^T x` from below:

    g(lambda) = lambda^T b + sum_i min_{l_i <= r <= u_i} ( p_i psi_i(r) - lambda_i r )
                + min_x (U^T lambda + d)^T x,      p = a + W_off^T lambda.

A proof starts from a box of states, tightens l and u by such lemmas, each citing only those before
it, and bounds each margin by a tree whose inner nodes split one [l_i, u_i] at a breakpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np


@dataclass(frozen=True)
class StateStart:
    """A box of states that passes the post-fixed-point test over the box of inputs.

    Attributes:
        lo, hi: (n,) float64.
    """

    lo: np.ndarray
    hi: np.ndarray


@dataclass(frozen=True)
class BallStart:
    """A ball about phi(t) that holds every fixed point of a monotone network over the box.

    Its radius follows from `t`: the distance of phi(t) from the fixed point at the centre x0 of
    the box (each entry the float64 nearest to the exact midpoint), and how far the fixed point
    moves over the box.

    Attributes:
        t: (n,) float64.
    """

    t: np.ndarray


Start: TypeAlias = StateStart | BallStart


@dataclass(frozen=True)
class Lemma:
    """A bound on one pre-activation: `r_neuron >= value`, or `r_neuron <= value` if `upper`.

    Attributes:
        neuron: which.
        upper: which side.
        value: float64, exact.
        multiplier: (n,) float64, lambda for the form `r_neuron` or `-r_neuron`.
    """

    neuron: int
    upper: bool
    value: float
    multiplier: np.ndarray


@dataclass(frozen=True)
class Split:
    """An inner node: the part below a breakpoint of psi_neuron, then the part above it.

    Attributes:
        neuron: which.
        breakpoint: index into the breakpoints of psi_neuron, in increasing order.
    """

    neuron: int
    breakpoint: int


@dataclass(frozen=True)
class Leaf:
    """A multiplier that proves the form positive, or, if `infeasible`, that no state is left.

    Attributes:
        multiplier: (n,) float64.
        infeasible: the bound is for the zero form.
    """

    multiplier: np.ndarray
    infeasible: bool


# In preorder. A lemma in a tree is valid in the subtree that follows it, and nowhere else.
Step: TypeAlias = Split | Leaf | Lemma


@dataclass(frozen=True)
class TreeProof:
    """That a label's margin over each other class is positive over a box of inputs.

    Attributes:
        start: where the bounds l and u come from.
        chain: lemmas that hold over the whole box, in order.
        margins: (q - 1,) float64, what the trees prove of each margin; positive.
        trees: for each other class in increasing order, its tree in preorder.
    """

    start: Start
    chain: tuple[Lemma, ...]
    margins: np.ndarray
    trees: tuple[tuple[Step, ...], ...]


@dataclass(frozen=True)
class Witness:
    """An input of the box at which another class has the greater output.

    Attributes:
        x: (r,) float64, in the exact box.
        rival: that class.
        start: a box of states over [x, x] on which the rival's output is greater throughout.
        above: float64, an upper bound on the label's margin over the rival at x; negative.
    """

    x: np.ndarray
    rival: int
    start: Start
    above: float


@dataclass(frozen=True)
class Finding:
    """What is known of one sample besides its bounds.

    Attributes:
        proof: of the property, if it holds by more than a state box.
        witness: against it.
        above: float64, an upper bound on the least margin over the box; infinite if none is known.
        point: (r,) the input where that was found; it breaks the property if `above` is negative.
        nodes: subproblems that were bounded.
        stage: the method that decided it, or the last one that tried.
        seconds: that a search spent on it alone.
        by_state: whether the state box alone is a proof, if the property holds.
    """

    proof: TreeProof | None = None
    witness: Witness | None = None
    above: float = math.inf
    point: np.ndarray | None = None
    nodes: int = 0
    stage: str = ""
    seconds: float = 0.0
    by_state: bool = True
