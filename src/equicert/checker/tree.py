"""Check 5 of a tree: the chain of lemmas, then for each other class a tree that is walked through.

The steps of a tree come in preorder. What holds below a split only (the half of the interval, and
lemmas) is noted as it is set, and taken back when the walk leaves the part that it holds in.
"""

from __future__ import annotations

import math
from fractions import Fraction

from equicert.checker.exact import Exact
from equicert.checker.files import NotValidError, UnreadableError
from equicert.checker.functions import is_linear
from equicert.checker.integers import Box, scaled, show
from equicert.checker.lemmas import Form, Node, difference
from equicert.checker.records import Leaf, Lemma, Record, Split, Steps

Bounds = tuple[int, int]


def check_tree(exact: Exact, record: Record, states: Box, inputs: Box, where: str) -> None:
    """Every lemma, split and leaf, and that each margin is at least the one claimed, > 0."""
    steps, margins = record.steps, record.margins
    if steps is None or margins is None:
        raise TypeError("a tree was asked of another kind of record")
    if not is_linear(exact.activation):
        raise UnreadableError(f"{where}no tree is checked for the activation {exact.activation}")
    node = Node(exact, states, inputs, scaled(steps.values)[1])
    for number, lemma in enumerate(steps.chain()):
        _tighten(node, lemma, f"{where}lemma {number} of the chain")
    others = [j for j in range(exact.q) if j != record.label]
    walk = _Walk(node, steps)
    for j, claimed in zip(others, margins, strict=True):
        check_claim(claimed, j, where)
        walk.tree(difference(exact, record.label, j), Fraction(claimed), f"{where}class {j}")


def check_claim(claimed: float, j: int, where: str) -> None:
    """A margin that is claimed is a positive number."""
    if not (math.isfinite(claimed) and claimed > 0):
        raise NotValidError(f"{where}the margin against {j} is {claimed!r}, not positive")


def _tighten(node: Node, lemma: Lemma, where: str) -> Bounds:
    """Check a lemma and set its bound, if it is tighter; return the bounds before."""
    i, value = lemma.neuron, Fraction(lemma.value)
    sign = -1 if lemma.upper else 1
    missing = node.shortfall(Form(neuron=i, sign=sign), lemma.multiplier, sign * value)
    if missing is not None:
        side = "<=" if lemma.upper else ">="
        raise NotValidError(
            f"{where}: r_{i} {side} {lemma.value!r} does not follow, by {show(missing)}"
        )
    bound = value.numerator * ((1 << node.k) // value.denominator)
    low, high = before = node.bounds[i]
    low, high = (low, min(high, bound)) if lemma.upper else (max(low, bound), high)
    if low > high:
        raise NotValidError(f"{where}: it leaves nothing of the interval of neuron {i}")
    node.set(i, (low, high))
    return before


class _Walk:
    """Goes through trees, one after the other, each from the bounds of the chain."""

    def __init__(self, node: Node, steps: Steps) -> None:
        self.node, self.steps = node, enumerate(steps.trees())
        self.before: list[tuple[int, Bounds]] = []  # what is to be taken back: neuron, bounds

    def tree(self, form: Form, claimed: Fraction, where: str) -> None:
        """One tree, that bounds `form` by what is claimed of it."""
        # Upper parts that are still to come: how much remains noted then, neuron, its bounds.
        parts: list[tuple[int, int, Bounds]] = []
        while True:
            number, step = next(self.steps)
            at = f"{where}, step {number}"
            if isinstance(step, Lemma):
                self.before.append((step.neuron, _tighten(self.node, step, at)))
            elif isinstance(step, Split):
                parts.append(self._split(step, at))
            else:
                self._leaf(step, form, claimed, at)
                if not parts:
                    self._back(0)
                    return
                noted, i, bounds = parts.pop()
                self._back(noted)
                self._note(i, bounds)

    def _leaf(self, leaf: Leaf, form: Form, claimed: Fraction, at: str) -> None:
        if leaf.infeasible:
            missing = self.node.shortfall(Form(), leaf.multiplier, Fraction(0), strict=True)
        else:
            missing = self.node.shortfall(form, leaf.multiplier, claimed)
        if missing is not None:
            what = "that no state is left" if leaf.infeasible else "the margin claimed"
            raise NotValidError(f"{at}: {what} does not follow, by {show(missing)}")

    def _split(self, split: Split, at: str) -> tuple[int, int, Bounds]:
        """Enter the lower part; return the upper one."""
        i, points = split.neuron, self.node.psi.breakpoints(split.neuron)
        if split.breakpoint >= len(points):
            raise NotValidError(f"{at}: neuron {i} has no breakpoint {split.breakpoint}")
        k, (low, high) = points[split.breakpoint], self.node.bounds[i]
        if not low < k < high:
            raise NotValidError(f"{at}: breakpoint {split.breakpoint} of neuron {i} is not inside")
        noted = len(self.before)
        self._note(i, (low, k))
        return noted, i, (k, high)

    def _note(self, i: int, bounds: Bounds) -> None:
        self.before.append((i, self.node.bounds[i]))
        self.node.set(i, bounds)

    def _back(self, noted: int) -> None:
        """Take back what was set since so much was noted."""
        while len(self.before) > noted:
            self.node.set(*self.before.pop())
