"""A node in which every neuron is on one piece of psi: a linear programme.

Its optimum is attained at an input, a candidate for a witness, and its dual solution is a
multiplier that should close the node. An infeasible programme is closed by a multiple of that of
its first phase, by which the bound on any form grows without limit.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from equicert.bounds.branching import Hunt, Nodes, Task

_SECONDS, _LEAST_SECONDS = 2.0, 0.1  # for one programme
_INFEASIBLE = 2  # scipy's word for it


def settle(task: Task, node: Nodes, hunt: Hunt, deadline: float) -> tuple[Tensor | None, bool]:
    """A multiplier (n,) that should close the node, or None; and whether a witness was found."""
    lagrangian = task.lagrangian
    lo, hi = node.lo[0], node.hi[0]
    slope, level = _pieces(task, lo, hi)
    n, r = lagrangian.U.shape
    W, U = lagrangian.W.cpu().numpy(), lagrangian.U.cpu().numpy()
    # r - W (slope r + level) - U x = b
    A = np.hstack([np.eye(n) - W * slope, -U])
    b = lagrangian.b.cpu().numpy() + W @ level
    a = task.objectives.a[node.form[0]].cpu().numpy()
    cost = np.concatenate([a * slope, np.zeros(r)])
    x_lo, x_hi = ((task.centre + s * task.half)[0].cpu().numpy() for s in (-1, 1))
    bounds = np.stack([np.concatenate(ends) for ends in ((lo.cpu(), x_lo), (hi.cpu(), x_hi))], 1)
    found = _solved(cost, A, b, bounds, deadline)
    if found.status == 0:
        x = torch.as_tensor(found.x[n:], dtype=lo.dtype, device=lo.device)
        witnessed = hunt(x[None], node.form)
        return torch.as_tensor(found.eqlin.marginals).to(lo), witnessed
    ends = np.abs([slope * end.cpu().numpy() + level for end in (lo, hi)])
    size = float(np.abs(a) @ ends.max(0)) + abs(float(task.objectives.constant[node.form[0]]))
    if found.status != _INFEASIBLE:
        return None, False
    return _first_phase(A, b, bounds, size, lo, deadline), False


def _solved(
    cost: np.ndarray, A: np.ndarray, b: np.ndarray, bounds: np.ndarray, deadline: float
) -> Any:
    """The least `cost v` with `A v = b` within the bounds, as scipy says it.

    HiGHS may cycle, which is why it is given no more than a few seconds.
    """
    left = min(_SECONDS, max(_LEAST_SECONDS, deadline - time.monotonic()))
    options = {"time_limit": left}
    return linprog(cost, A_eq=A, b_eq=b, bounds=bounds, method="highs", options=options)


def _pieces(task: Task, lo: Tensor, hi: Tensor) -> tuple[np.ndarray, np.ndarray]:  # (n,) each
    """psi(r) = slope r + level on the node."""
    graph = task.lagrangian.graph
    low, high = graph.psi(lo), graph.psi(hi)
    middle = 0.5 * (lo + hi)
    wide = hi - lo > 1e-9 * (1 + lo.abs() + hi.abs())
    slope = torch.where(wide, (high - low) / (hi - lo), torch.zeros_like(lo))
    level = torch.where(wide, low - slope * lo, graph.psi(middle))
    return slope.cpu().numpy(), level.cpu().numpy()


def _first_phase(
    A: np.ndarray,  # (n, n + r)
    b: np.ndarray,  # (n,)
    bounds: np.ndarray,  # (n + r, 2)
    size: float,  # no less than the form is negative on the node
    like: Tensor,
    deadline: float,
) -> Tensor | None:  # (n,)
    """A multiple of the lambda, |lambda| <= 1, of greatest `min over v of lambda^T (b - A v)`."""
    n, k = A.shape
    identity = np.eye(n)
    cost = np.concatenate([np.zeros(k), np.ones(2 * n)])
    slack = np.tile([0.0, np.inf], (2 * n, 1))
    A = np.hstack([A, identity, -identity])
    found = _solved(cost, A, b, np.vstack([bounds, slack]), deadline)
    if found.status != 0 or not found.fun > 0:
        return None
    return torch.as_tensor(found.eqlin.marginals * (2 * (size + 1) / found.fun)).to(like)
