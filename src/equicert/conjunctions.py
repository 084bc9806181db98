"""Non-negative combinations of the half-spaces of a conjunction: forms that may exclude it.

Where `f_1 <= 0, ..., f_m <= 0` cannot hold at once, no single f_k need be positive everywhere. But
a combination `sum_k mu_k f_k`, mu >= 0, that is positive over the box excludes the conjunction:
where all f_k <= 0 it is not positive. Over a convex set of outputs some mu serves whenever the set
misses the conjunction (derived here, by separation). Which one is proposed from sampled outputs, by
a linear programme; every mu is valid, and the bounds decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from equicert.properties import Clause, HalfSpace

_GRID = 2**16  # mu in these parts: short coefficients, which float64 holds


def with_combinations(
    clauses: Sequence[Clause],
    y: NDArray[np.float64],  # (s, q) outputs at points of the box
) -> list[Clause]:
    """Each clause, and behind its half-spaces combinations of them, if it has several."""
    return [
        clause if len(clause) == 1 else (*clause, *_combinations(clause, y)) for clause in clauses
    ]


def _combinations(clause: Clause, y: NDArray[np.float64]) -> list[HalfSpace]:
    """The sum, and the combination whose least value over the samples is greatest."""
    sizes = [max((abs(a) for _, a in h.a), default=Fraction(1)) for h in clause]
    rows = [h.by(1 / size) for h, size in zip(clause, sizes, strict=True)]
    found = [_combined(rows, [Fraction(1)] * len(rows))]
    mu = _best([h.floats(y) for h in rows])
    if mu is not None and sum(v > 0 for v in mu) > 1:
        found.append(_combined(rows, mu))
    return found


def _combined(rows: Sequence[HalfSpace], mu: Sequence[Fraction]) -> HalfSpace:
    total = HalfSpace((), Fraction(0))
    for row, factor in zip(rows, mu, strict=True):
        total = total.plus(row.by(factor)) if factor else total
    return total


def _best(values: Sequence[NDArray[np.float64]]) -> list[Fraction] | None:  # (s,) each -> (m,)
    """mu >= 0 with sum 1 that maximises `min_s sum_k mu_k f_k(y_s)`, on a grid."""
    F = np.stack(values)  # (m, s)
    m, s = F.shape
    scale = np.abs(F).max()
    if not 0 < scale < np.inf:
        return None
    # In (mu, t): maximise t subject to t - F^T mu <= 0.
    A = np.hstack([-F.T / scale, np.ones((s, 1))])
    equal = np.array([[*[1.0] * m, 0.0]])
    bounds = [(0, 1)] * m + [(None, None)]
    cost = np.array([*[0.0] * m, -1.0])
    found = linprog(cost, A, np.zeros(s), equal, np.ones(1), bounds, method="highs")
    if found.x is None:
        return None
    return [Fraction(round(float(v) * _GRID), _GRID) for v in found.x[:m].clip(0, 1)]
