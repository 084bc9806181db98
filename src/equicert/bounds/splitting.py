"""Which neuron's interval branch and bound cuts, and at which breakpoint of psi.

The gap between psi_i and its chord, times |p_i|, is what the relaxation may lose at neuron i: cheap
to know, and a poor guess of what a cut will gain. The few neurons where it is largest are tried,
as in [DP21]: each part is bounded by one adjoint start, and the cut whose parts are together
nearest to closed is made.

[DP21] A. De Palma et al., Improved branch and bound for neural network verification via Lagrangian
decomposition, 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equicert.bounds.nodes import Nodes, Task
from equicert.relaxation import adjoint_start

_TRIED = 8  # cuts of each node
_LOST = 1e300  # for a bound that is not a number


def splits(
    task: Task,
    nodes: Nodes,
) -> tuple[Tensor, Tensor, Tensor]:  # (k,) each
    """The neuron and breakpoint to cut each node at, and whether there is one."""
    lagrangian = task.lagrangian
    k, n = nodes.lo.shape
    gap = lagrangian.graph.cut(nodes.lo, nodes.hi)  # (breakpoints, k, n)
    if not len(gap):
        nothing = torch.zeros_like(nodes.form)
        return nothing, nothing, nothing.bool()
    p = lagrangian.pulled_back(nodes.multiplier, task.objectives.a[nodes.form])
    # Where p vanishes, the gap itself: a node may have to be split before it can be settled.
    lost = (gap * (p.abs() + 1e-12)).permute(1, 0, 2).reshape(k, -1)
    largest, at = lost.topk(min(_TRIED, lost.shape[1]), 1)
    tried = largest.shape[1]
    rows = torch.arange(k, device=at.device).repeat_interleave(tried)
    after = _bounds_after(task, nodes[rows], at.flatten() % n, at.flatten() // n)
    # A part above 0 is closed, and by how much is of no use.
    left = after.clamp(max=0).sum(0).reshape(k, tried)
    best = left.masked_fill(largest <= 0, -torch.inf).argmax(1, keepdim=True)
    chosen = at.gather(1, best)[:, 0]
    return chosen % n, chosen // n, largest[:, 0] > 0


def _bounds_after(
    task: Task,
    nodes: Nodes,
    neuron: Tensor,  # (k,) int64
    which: Tensor,  # (k,) int64
) -> Tensor:  # (2, k)
    """What a part's bound is at the parent's multiplier or at its own adjoint start."""
    form = torch.cat([nodes.form, nodes.form])
    rows = task.rows(form, *parts(task, nodes, neuron, which))
    known = torch.cat([nodes.multiplier, nodes.multiplier])
    value, _ = adjoint_start(task.lagrangian, rows, known)
    return (value + task.objectives.constant[form]).nan_to_num(-_LOST, _LOST, -_LOST).reshape(2, -1)


def parts(
    task: Task,
    nodes: Nodes,
    neuron: Tensor,  # (k,) int64
    which: Tensor,  # (k,) int64
) -> tuple[Tensor, Tensor]:  # (2 k, n) each
    """The bounds on r of the parts below the breakpoints, and then of those above."""
    low, high = task.lagrangian.graph.knot_bounds
    each = torch.arange(len(nodes), device=neuron.device)
    below_hi, above_lo = nodes.hi.clone(), nodes.lo.clone()
    below_hi[each, neuron], above_lo[each, neuron] = high[which, neuron], low[which, neuron]
    return torch.cat([nodes.lo, above_lo]), torch.cat([below_hi, nodes.hi])
