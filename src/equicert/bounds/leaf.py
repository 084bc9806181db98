"""A node in which every neuron is on one piece of psi: a linear programme in the inputs.

There `z = S r + t` with S diagonal, and r is affine in x:

    r(x) = (I - W S)^-1 (U x + W t + b),      l <= r(x) <= u.

The least value of the form is attained at an input, a candidate for a witness. With y the
multipliers of `r >= l` less those of `r <= u`, the lambda of

    (I - S W^T) lambda = S a - y

makes the Lagrangian stationary, and so should close the node. If the programme is infeasible, that
of its first phase, without a, proves so, and by a multiple of it the bound on any form grows
without limit. Only the constraints that matter are handed over, others when they are violated.
The matrices are full ones: beyond `MOST_STATES` states the programme is not tried.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from equicert.bounds.branching import Hunt
from equicert.bounds.nodes import Nodes, Task

Vector: TypeAlias = np.ndarray
_SECONDS, _LEAST_SECONDS = 2.0, 0.1  # for one programme: HiGHS may cycle
_INFEASIBLE = 2  # scipy's word for it
_SOLVED = 0
_CUTS = 8  # times that violated constraints are added
MOST_STATES = 4096  # largest n for which the matrices of a programme are formed
_NEAR = 1e-9  # of 1 + |r|: ends at a breakpoint; violated


@dataclass
class _Programme:
    """The least `cost x + offset` with `l <= G x + g <= u` and x in its box."""

    G: Vector  # (n, r)
    g: Vector  # (n,)
    lo: Vector  # (n,)
    hi: Vector  # (n,)
    box: Vector  # (r, 2)
    deadline: float

    def solve(
        self,
        cost: Vector,  # (r,)
        below: NDArray[np.bool_],  # (n,) which `r >= l` to begin with; grows
        above: NDArray[np.bool_],
        slack: bool,
    ) -> tuple[Any, Vector, Vector]:  # scipy's result, y (n,), x (r,)
        """The optimum; with `slack`, of the least violation t instead of the cost."""
        found, y, x = None, np.zeros(len(self.g)), np.zeros(len(cost))
        for _ in range(_CUTS):
            found = self._solve(cost, below, above, slack)
            if found.status != _SOLVED:
                return found, y, x
            x = found.x[: len(cost)]
            k = int(below.sum())
            marginal = -found.ineqlin.marginals
            y = np.zeros(len(self.g))
            y[below] += marginal[:k]
            y[above] -= marginal[k:]
            r = self.G @ x + self.g
            spare = _NEAR * (1 + np.abs(r)) + (found.x[-1] if slack else 0.0)
            low, high = (r < self.lo - spare) & ~below, (r > self.hi + spare) & ~above
            if not (low.any() or high.any()):
                break
            below |= low
            above |= high
        return found, y, x

    def _solve(
        self,
        cost: Vector,
        below: NDArray[np.bool_],
        above: NDArray[np.bool_],
        slack: bool,
    ) -> Any:
        A = np.concatenate([-self.G[below], self.G[above]])
        b = np.concatenate([(self.g - self.lo)[below], (self.hi - self.g)[above]])
        box = self.box
        if slack:
            A = np.hstack([A, -np.ones((len(A), 1))])
            cost = np.append(np.zeros(len(cost)), 1.0)
            box = np.vstack([box, [[0.0, np.inf]]])
        left = min(_SECONDS, max(_LEAST_SECONDS, self.deadline - time.monotonic()))
        options = {"time_limit": left}
        return linprog(cost, A_ub=A, b_ub=b, bounds=box, method="highs", options=options)


@np.errstate(all="ignore")  # what overflows is refused
def settle(
    task: Task, node: Nodes, hunt: Hunt, deadline: float
) -> tuple[Tensor | None, bool]:  # (n,)
    """A multiplier that should close the node, or None; and whether a witness was found."""
    lo, hi = node.lo[0], node.hi[0]
    S, t = _pieces(task, lo, hi)
    lagrangian = task.lagrangian
    W, U, b = (part.cpu().numpy() for part in (*lagrangian.matrices, lagrangian.b))
    a = task.objectives.a[node.form[0]].cpu().numpy()
    box = np.stack([(task.centre + s * task.half)[0].cpu().numpy() for s in (-1, 1)], 1)
    try:
        G = np.linalg.solve(np.eye(len(b)) - W * S, np.column_stack([U, b + W @ t]))
    except np.linalg.LinAlgError:
        return None, False
    ends = lo.cpu().numpy(), hi.cpu().numpy()
    programme = _Programme(G[:, :-1], G[:, -1], *ends, box, deadline)
    cost = (a * S) @ programme.G
    numbers = (G, cost, box, programme.g - programme.lo, programme.hi - programme.g)
    if not all(np.isfinite(part).all() for part in numbers):
        return None, False
    below, above = _split(task, lo, hi)
    found, y, x = programme.solve(cost, below, above, slack=False)
    if found.status == _SOLVED:
        least = (
            found.fun + a @ (S * programme.g + t) + float(task.objectives.constant[node.form[0]])
        )
        # The point of a positive optimum is worth no search.
        witnessed = least < 0 and hunt(torch.as_tensor(x)[None].to(lo), node.form)
        return _multiplier(W, S, S * a - y, lo), witnessed
    if found.status != _INFEASIBLE:
        return None, False
    found, y, _ = programme.solve(np.zeros(len(box)), below, above, slack=True)
    if found.status != _SOLVED or not found.fun > 0:
        return None, False
    size = np.abs(a) @ np.maximum(*(np.abs(S * end + t) for end in ends))
    size += abs(float(task.objectives.constant[node.form[0]]))
    return _multiplier(W, S, -y * (2 * (size + 1) / found.fun), lo), False


def _multiplier(W: Vector, S: Vector, right: Vector, like: Tensor) -> Tensor | None:  # (n,)
    """lambda of `(I - S W^T) lambda = right`."""
    found = np.linalg.solve(np.eye(len(W)) - S[:, None] * W.T, right)
    return torch.as_tensor(found).to(like) if np.isfinite(found).all() else None


def _pieces(task: Task, lo: Tensor, hi: Tensor) -> tuple[Vector, Vector]:  # (n,) each
    """S and t on the node."""
    graph = task.lagrangian.graph
    low, high = graph.psi(lo), graph.psi(hi)
    wide = hi - lo > _NEAR * (1 + lo.abs() + hi.abs())
    slope = torch.where(wide, (high - low) / (hi - lo), torch.zeros_like(lo))
    level = torch.where(wide, low - slope * lo, graph.psi(0.5 * (lo + hi)))
    return slope.cpu().numpy(), level.cpu().numpy()


def _split(
    task: Task, lo: Tensor, hi: Tensor
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:  # (n,) each
    """Which intervals end at a breakpoint, where splits put their ends."""
    low, high = task.lagrangian.graph.knot_bounds
    near = _NEAR * (1 + lo.abs() + hi.abs())
    below = ((lo - low).abs() <= near).any(0)
    above = ((hi - high).abs() <= near).any(0)
    return below.cpu().numpy(), above.cpu().numpy()
