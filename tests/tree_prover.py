"""A tiny prover of trees and witnesses, independent of the library's: linear programmes and dice.

A multiplier is the dual solution of the relaxation over the hulls of psi's graphs, rounded to a few
digits; what it proves is computed in fractions and claimed to the last unit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from scipy.optimize import linprog

from exact import Vector, dot, embedded_fixed_point, fixed_point, to_fractions
from monotone_networks import monotone_weight
from networks import Network, random_network
from proofs import Folder, ends_of
from tree_proofs import (
    Array,
    Judge,
    Problem,
    Ranges,
    Tree,
    Witnessed,
    ball_box,
    ball_start,
    inner,
    leaf,
    lemma,
    nothing,
    split,
    state_start,
)

ACTIVATIONS = ("relu", "leaky_relu(0.25)", "hard_tanh")
Draw = Callable[[random.Random, str, bool], Network]  # by dice, activation, whether it contracts


def down(value: Fraction) -> float:
    """The greatest float64 that is at most value."""
    near = float(value)
    return (near if Fraction(near) <= value else math.nextafter(near, -math.inf)) + 0.0


def up(value: Fraction) -> float:
    return 0.0 - down(-value)


@dataclass
class Prover:
    """Proves margins of one network over one box, from given bounds."""

    problem: Problem
    rng: random.Random
    digits: int = 12  # of the entries of a multiplier
    depth: int = 12
    inside: bool = True  # whether lemmas are made below splits
    margins: dict[int, Fraction] = field(default_factory=dict)  # least so far, by class

    def relax(
        self, a: Vector, d: Vector, bounds: Ranges, elastic: bool = False
    ) -> tuple[Vector, bool]:
        """The multiplier of min a . z + d . x (0, and of violations, if elastic); feasible?

        z_i, r_i are averages of points of the graph of psi_i with weights w.
        """
        problem, n = self.problem, len(bounds)
        points = [
            (i, r, problem.psi(i, r))
            for i, (low, high) in enumerate(bounds)
            for r in (low, high, *(k for k in problem.kinks(i) if low < k < high))
        ]
        inputs, m = len(problem.box), len(points)
        slack = 2 * n if elastic else 0
        A, cost = np.zeros((2 * n, m + inputs + slack)), np.zeros(m + inputs + slack)
        for k, (i, r, z) in enumerate(points):
            A[:n, k] = [-float(problem.W[j][i] * z) if j != i else float(r) for j in range(n)]
            A[n + i, k] = 1
            cost[k] = 0 if elastic else float(a[i] * z)
        A[:n, m : m + inputs] = -np.array(problem.U, float)
        if elastic:
            cost[m + inputs :] = 1
            A[:n, m + inputs :] = np.hstack([np.eye(n), -np.eye(n)])
        else:
            cost[m : m + inputs] = np.array(d, float)
        limits = [(0, None)] * m + [(float(lo), float(hi)) for lo, hi in problem.box]
        limits += [(0, None)] * slack
        level = np.concatenate([np.array(problem.b, float), np.ones(n)])
        found = linprog(cost, A_eq=A, b_eq=level, bounds=limits, method="highs")
        if found.status != 0:
            return [Fraction(0)] * n, False
        return self.rounded(found.eqlin.marginals[:n]), True

    def rounded(self, values: Array) -> Vector:
        """To the chosen number of digits, on one exponent."""
        size = float(np.abs(values).max(initial=0))
        if size == 0 or self.digits >= 53:
            return to_fractions(values)
        unit = Fraction(2) ** (math.frexp(size)[1] - self.digits)
        return [round(Fraction(v) / unit) * unit for v in values.tolist()]

    def tighten(self, i: int, upper: bool, bounds: Ranges) -> tuple[int, bool, float, Vector]:
        """A lemma, and its bound where it is the tighter one."""
        problem, sign = self.problem, -1 if upper else 1
        off = [sign * w if j != i else Fraction(0) for j, w in enumerate(problem.W[i])]
        lam, _ = self.relax(off, [sign * u for u in problem.U[i]], bounds)
        shown = problem.of_neuron(i, upper, bounds, lam)
        value = up(shown) if upper else down(shown)
        low, high = bounds[i]
        new = (low, min(high, Fraction(value))) if upper else (max(low, Fraction(value)), high)
        if new[0] <= new[1]:
            bounds[i] = new
        else:
            value = math.copysign(1e6, sign * -1)  # true, and of no use
        return i, upper, value, lam

    def chain(self, bounds: Ranges, rounds: int = 1) -> list[bytes]:
        sides = [(i, upper) for i in range(len(bounds)) for upper in (False, True)]
        made = [self.tighten(i, upper, bounds) for _ in range(rounds) for i, upper in sides]
        return [lemma(i, upper, value, _plain(lam)) for i, upper, value, lam in made]

    def tree(self, y: int, j: int, bounds: Ranges, depth: int = 0) -> list[bytes] | None:
        """Steps in preorder; None where it was not proved. Notes the least margin."""
        problem = self.problem
        row = [v - w for v, w in zip(problem.C[y], problem.C[j], strict=True)]
        zero = [Fraction(0)] * len(problem.box)
        lam, feasible = self.relax(row, zero, bounds)
        if not feasible:
            lam, _ = self.relax(row, zero, bounds, elastic=True)
            return [nothing(_plain(lam))] if problem.of_nothing(bounds, lam) > 0 else None
        margin = problem.of_margin(y, j, bounds, lam)
        inside = [
            (i, k)
            for i, (low, high) in enumerate(bounds)
            for k, kink in enumerate(problem.kinks(i))
            if low < kink < high
        ]
        if margin > 0 and (depth > 0 or not inside):
            self.margins[j] = min(margin, self.margins.get(j, margin))
            return [leaf(_plain(lam))]
        if not inside or depth > self.depth:
            return None
        i, kink = self.rng.choice(inside)
        at, (low, high) = problem.kinks(i)[kink], bounds[i]
        steps = [split(i, kink)]
        for part in ((low, at), (at, high)):
            own = list(bounds)
            own[i] = part
            if self.inside and self.rng.random() < 0.7:
                where = self.rng.randrange(len(own))
                made = self.tighten(where, self.rng.random() < 0.5, own)
                steps.append(inner(*made[:3], _plain(made[3])))
            below = self.tree(y, j, own, depth + 1)
            if below is None:
                return None
            steps += below
        return steps


def _plain(lam: Vector) -> list[float]:
    return [float(v) for v in lam]


# Folders with one proof.


def small_network(rng: random.Random, activation: str, contracting: bool) -> Network:
    n, r = rng.randint(2, 4), rng.randint(1, 3)
    dice = np.random.default_rng(rng.randrange(1 << 30))
    if contracting:
        return random_network(dice, n, r, 3, gamma=0.5, eta_spread=2.0, activation=activation)
    A, B = dice.normal(size=(n, n)), 3 * dice.normal(size=(n, n))
    Lambda = 2.0 ** dice.uniform(-1, 1, n)
    return Network(
        "monotone",
        monotone_weight(A, B, 1.0, Lambda),
        dice.normal(size=(n, r)),
        dice.normal(size=n) / 2,
        dice.normal(size=(3, n)),
        dice.normal(size=3),
        activation,
        contracting=False,
        eta=Lambda,
    )


def bare_folder(net: Network, x: Array, domain: tuple[float, float] | None) -> Folder:
    """Without records; eta or monotone, as the network is."""
    arrays = dict(zip("WUbCc", net.arrays, strict=True))
    if net.contracting:
        return Folder(arrays, net.activation, net.eta, x[None], [], ends_of(domain))
    Lambda = np.asarray(net.eta)
    norm = float(np.linalg.norm(np.sqrt(Lambda)[:, None] * net.U, 2)) * (1 + 1e-12)
    weights = [float(v).hex() for v in Lambda]
    claim = {"Lambda": weights, "m": (1.0 - 1e-9).hex(), "norm": norm.hex()}
    return Folder(arrays, net.activation, None, x[None], [], ends_of(domain), monotone=claim)


def problem_of(net: Network, x: Array, eps: float, domain: tuple[float, float] | None) -> Problem:
    low, high = domain or (-math.inf, math.inf)
    wide = Fraction(eps)
    box = [(Fraction(max(v - wide, low)), Fraction(min(v + wide, high))) for v in to_fractions(x)]
    return Problem.of(net.arrays, net.activation, box)


def start_of(net: Network, problem: Problem, folder: Folder) -> tuple[bytes, Ranges]:
    """A box of states that passes, or a ball; and the box that it gives."""
    lo, hi = ([pair[k] for pair in problem.box] for k in (0, 1))
    if net.contracting:
        below, above = embedded_fixed_point(net.W, net.U, net.b, lo, hi, net.activation)
        wide = [Fraction(e) / (1 << 30) for e in np.asarray(net.eta).tolist()]
        low = [down(v - w) for v, w in zip(below, wide, strict=True)]
        high = [up(v + w) for v, w in zip(above, wide, strict=True)]
        if net.activation == "relu":
            low = [max(v, 0.0) for v in low]
        Z = [(Fraction(a), Fraction(b)) for a, b in zip(low, high, strict=True)]
        return state_start(np.array(low), np.array(high)), Z
    middle = [(a + b) / 2 for a, b in problem.box]
    z = np.array([float(v) for v in fixed_point(net.W, net.U, net.b, middle, net.activation)])
    t = net.W @ z + net.U @ np.array(middle, float) + net.b
    monotone = Judge(folder).monotone
    assert monotone is not None
    return ball_start(t), ball_box(problem, to_fractions(t), *monotone, Fraction(1))


@dataclass
class Case:
    """A folder with one record, and what it is about."""

    net: Network
    folder: Folder
    record: Tree | Witnessed
    problem: Problem


def outputs_at(net: Network, x: Vector) -> Vector:
    z = fixed_point(net.W, net.U, net.b, x, net.activation)
    C, c = to_fractions(net.C), to_fractions(net.c)
    return [dot(row, z) + k for row, k in zip(C, c, strict=True)]


def proved(
    seed: int,
    activation: str,
    contracting: bool,
    domain: tuple[float, float] | None = None,
    draw: Draw = small_network,
) -> Case:
    """The first network of this seed, and eps, for which a tree with a split is found."""
    rng = random.Random(f"{seed} {activation} {contracting}")
    while True:
        net = draw(rng, activation, contracting)
        x = np.array([rng.uniform(0.2, 0.8) for _ in range(net.inputs)])
        y = outputs_at(net, to_fractions(x))
        label = max(range(3), key=y.__getitem__)
        eps = rng.choice([0.05, 0.1, 0.2, 0.4])
        problem, folder = problem_of(net, x, eps, domain), bare_folder(net, x, domain)
        start, Z = start_of(net, problem, folder)
        bounds = problem.ranges(Z)
        prover = Prover(problem, rng, digits=rng.choice([6, 12, 28, 53]))
        chain = prover.chain(bounds) if rng.random() < 0.7 else []
        others = [j for j in range(3) if j != label]
        trees = [prover.tree(label, j, list(bounds)) for j in others]
        steps = [tree for tree in trees if tree is not None]
        splits = sum(step[0] == 2 for tree in steps for step in tree)
        if len(steps) < 2 or not 1 <= splits <= 6 or len(prover.margins) < 2:
            continue
        margins = [down(prover.margins[j]) for j in others]
        if min(margins) > 0:
            return Case(net, folder, Tree(0, label, eps, start, chain, margins, steps), problem)


def witnessed(
    seed: int,
    activation: str,
    contracting: bool,
    domain: tuple[float, float] | None = None,
    draw: Draw = small_network,
) -> Case:
    """A point of the box with another greatest output; the label is another one at its middle."""
    rng = random.Random(f"witness {seed} {activation} {contracting}")
    while True:
        net = draw(rng, activation, contracting)
        x = np.array([rng.uniform(0.2, 0.8) for _ in range(net.inputs)])
        eps, y = rng.choice([0.25, 0.5]), outputs_at(net, to_fractions(x))
        label = max(range(3), key=y.__getitem__)
        problem, folder = problem_of(net, x, eps, domain), bare_folder(net, x, domain)
        for _ in range(8):
            ends = [rng.choice([up(a), down(b)]) for a, b in problem.box]  # on the boundary
            y = outputs_at(net, to_fractions(ends))
            rival = max(range(3), key=y.__getitem__)
            if y[rival] - y[label] > Fraction(1, 100):
                point = replace(problem, box=[(Fraction(v), Fraction(v)) for v in ends])
                start, _ = start_of(net, point, folder)
                record = Witnessed(0, label, eps, rival, np.array(ends), start)
                return Case(net, folder, record, problem)
