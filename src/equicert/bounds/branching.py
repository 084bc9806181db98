"""Branch and bound over the breakpoints of psi, for all clauses of one sample together.

A node is a clause and an interval of r_i for each neuron. Its bound is the dual bound, ascended
from its parent's multiplier; it is closed by a rigorous positive bound. Otherwise one neuron's
interval is cut at a breakpoint, and the two parts together are the whole (`splitting`). Nodes are
taken lowest bound first and bounded hundreds at a time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equicert.bounds.lemmas import proved_multiplier
from equicert.bounds.nodes import Nodes, Task
from equicert.bounds.splitting import parts, splits
from equicert.proofs import Leaf, Split, Step
from equicert.relaxation import Ascent, adjoint_start
from equicert.rounding import down

_SLOW, _FAST = 1.0, 0.25  # seconds a step: beyond, fewer nodes at a time; below, more
_FEWEST, _MOST = 16, 512  # nodes split at a time
_BYTES = 2**29  # of open nodes, and of what is kept of closed ones
LONG = Ascent(200)  # of nodes that cannot be split
_HUNT = 8  # points handed to the falsifier in a step


# Given points (k, r) and the forms (k,) that seem to fail there: whether one of them is a witness.
Hunt = Callable[[Tensor, Tensor], bool]
# Given a node without breakpoints inside: a multiplier (n,) that should close it, or None, and
# whether a witness was found.
Settle = Callable[[Nodes], tuple[Tensor | None, bool]]


@dataclass
class Search:
    """Branch and bound on a task.

    Attributes:
        task: the question.
        open: the nodes that are left; at first the roots, named 0, 1, ... in their order.
        hunt: see its type.
        settle: see its type; None where a node without breakpoints is too large a programme.
        ascent: of each child.
        looked: nodes bounded so far.
        reason: why it stopped: "timeout", "memory", "tie", "size", or "" if every node is closed.
        witnessed: whether it stopped at a witness.
        roots: the name of the root of each form.
        tree: what became of each node by its name: a split and its children's names, or a leaf.
        stuck: nodes that nothing could decide.
        closed: form and rigorous bound of each leaf.
    """

    task: Task
    open: Nodes
    hunt: Hunt
    settle: Settle | None
    ascent: Ascent
    looked: int = 0
    reason: str = ""
    witnessed: bool = False
    roots: dict[int, int] = field(default_factory=dict)  # form -> name
    tree: dict[int, Step | tuple[Split, int, int]] = field(default_factory=dict)
    stuck: list[Nodes] = field(default_factory=list)
    closed: list[tuple[int, float]] = field(default_factory=list)  # form, bound
    _names: int = 0
    _deadline: float = math.inf
    _batch: int = _FEWEST

    def run(self, deadline: float) -> None:
        """Close every node, find a witness, or stop with a reason."""
        self._deadline = deadline
        roots, steps = self.open, 0
        self._names = len(roots)
        self.roots = dict(zip(roots.form.tolist(), roots.name.tolist(), strict=True))
        n = roots.lo.shape[1]
        while len(self.open):
            if time.monotonic() >= deadline:
                self.reason = "timeout"
                return
            if self._kept() * n * 8 > _BYTES:
                self.reason = "memory"
                return
            began = time.monotonic()
            chosen = self._take()
            if steps & (steps - 1) == 0:  # ever more rarely
                worst = chosen[chosen.value.argsort()[:_HUNT]]
                self.witnessed = self.hunt(self._minimisers(worst), worst.form)
            if not self.witnessed:
                self._expand(chosen)
            else:
                self._add(chosen, torch.zeros_like(chosen.form, dtype=torch.bool))
            if self.witnessed:
                return
            self._pace(time.monotonic() - began)
            steps += 1
        self.reason = ("tie" if self.settle else "size") if self.stuck else ""

    def account(
        self,
        lower: Tensor,  # (k,) overwritten
    ) -> None:
        """What branching proves of each clause: the least bound of its leaves and open nodes.

        It is a bound on the greatest form of the clause, and is entered at the root's form.
        """
        clause, constant = self.task.clause, self.task.objectives.constant
        least = torch.full_like(lower, torch.inf)  # by clause
        for form, bound in self.closed:
            own = int(clause[form])
            least[own] = min(float(least[own]), bound)
        for nodes in (self.open, *self.stuck):
            for part in torch.arange(len(nodes)).split(_MOST):
                some = nodes[part.to(nodes.value.device)]
                rows = self.task.rows(some.form, some.lo, some.hi)
                bound = self.task.lagrangian.below(rows, some.multiplier)
                bound = down(bound + constant[some.form])
                # At most 0: what is open has no leaf, and so no proof that it is positive.
                bound = torch.where(bound.isnan(), -torch.inf, bound.clamp(max=0.0))
                least.scatter_reduce_(0, clause[some.form], bound, "amin")
        left = {name for nodes in (self.open, *self.stuck) for name in nodes.name.tolist()}
        for form, root in self.roots.items():
            if self._covered(root, left):
                lower[form] = torch.maximum(lower[form], least[clause[form]])

    def _covered(self, root: int, left: set[int]) -> bool:
        """Whether what became of every node below this one is known."""
        waiting = [root]
        while waiting:
            name = waiting.pop()
            known = self.tree.get(name)
            if isinstance(known, tuple):
                waiting += known[1:]
            elif known is None and name not in left:
                return False
        return True

    def _kept(self) -> int:
        """Vectors of length n that are held."""
        return 3 * len(self.open) + len(self.tree)

    def _pace(self, seconds: float) -> None:
        if seconds > _SLOW:
            self._batch = max(_FEWEST, self._batch // 2)
        elif seconds < _FAST:
            self._batch = min(_MOST, self._batch * 2)

    def _take(self) -> Nodes:
        """The nodes of least bound; of greatest, those nearest to closing, when memory is short."""
        full = self._kept() * self.open.lo.shape[1] * 8 > _BYTES // 2
        order = self.open.value.argsort(descending=full)
        chosen, self.open = self.open[order[: self._batch]], self.open[order[self._batch :]]
        return chosen

    def _minimisers(self, nodes: Nodes) -> Tensor:  # (k, r)
        rows = self.task.rows(nodes.form, nodes.lo, nodes.hi)
        return self.task.lagrangian.ascend(rows, nodes.multiplier)[2]

    def _expand(self, nodes: Nodes) -> None:
        neuron, which, splittable = splits(self.task, nodes)
        self._settle_all(nodes[(~splittable).nonzero()[:, 0]])
        rows = splittable.nonzero()[:, 0]
        if self.witnessed:
            self._add(nodes[rows], torch.zeros_like(rows, dtype=torch.bool))
        elif len(rows):
            children = self._children(nodes[rows], neuron[rows], which[rows])
            self.looked += len(children)
            self._add(children, self._closed(children, self.ascent))

    def _settle_all(self, nodes: Nodes) -> None:
        """Decide nodes that cannot be split: a longer ascent, then one programme each."""
        if not len(nodes):
            return
        left = nodes[(~self._closed(nodes, LONG)).nonzero()[:, 0]]
        for row in range(len(left)):
            one = left[torch.tensor([row], device=left.value.device)]
            if self.witnessed or time.monotonic() >= self._deadline:
                self._add(one, torch.zeros_like(one.form, dtype=torch.bool))
            else:
                self._settled(one)

    def _children(self, nodes: Nodes, neuron: Tensor, which: Tensor) -> Nodes:
        k, each = len(nodes), torch.arange(len(nodes), device=neuron.device)
        names = self._names + torch.arange(2 * k, device=neuron.device)
        self._names += 2 * k
        for row, (name, i, j) in enumerate(
            zip(nodes.name.tolist(), neuron.tolist(), which.tolist(), strict=True)
        ):
            first = int(names[row])
            self.tree[name] = (Split(i, j), first, first + k)
        lo, hi = parts(self.task, nodes, neuron, which)
        twice = nodes[torch.cat([each, each])]
        return Nodes(lo, hi, twice.multiplier, twice.value, twice.form, names)

    def _closed(self, nodes: Nodes, ascent: Ascent) -> Tensor:  # (k,) bool
        """Bound the nodes from their parents' multipliers or afresh; which are closed by that."""
        lagrangian, constant = self.task.lagrangian, self.task.objectives.constant
        self._choose_forms(nodes)
        rows = lagrangian.prepared(self.task.rows(nodes.form, nodes.lo, nodes.hi))
        needed = -constant[nodes.form]
        start = adjoint_start(lagrangian, rows, nodes.multiplier)
        value, multiplier, _ = ascent.run(lagrangian, rows, start, needed, self._deadline)
        nodes.value, nodes.multiplier = value - needed, multiplier
        closed = torch.zeros_like(needed, dtype=torch.bool)
        some = (nodes.value > 0).nonzero()[:, 0]
        if len(some):
            bound, exact = proved_multiplier(lagrangian, rows[some], multiplier[some], needed[some])
            bound = down(bound - needed[some])
            closed[some] = bound > 0
            self._leaves(nodes[some], bound, exact)
        return closed

    def _choose_forms(self, nodes: Nodes) -> None:
        """Turn each node to the form of its clause that promises most; one will do."""
        clause, constant = self.task.clause, self.task.objectives.constant
        if len(clause) == int(clause.amax()) + 1:
            return
        best = torch.full_like(nodes.value, -torch.inf)
        chosen, multiplier = nodes.form.clone(), nodes.multiplier.clone()
        for form in range(len(clause)):
            rows = (clause[nodes.form] == clause[form]).nonzero()[:, 0]
            if not len(rows):
                continue
            asked = torch.full_like(rows, form)
            own = self.task.rows(asked, nodes.lo[rows], nodes.hi[rows])
            value, found = adjoint_start(self.task.lagrangian, own)
            better = value + constant[form] > best[rows]
            at = rows[better]
            best[at], chosen[at] = value[better] + constant[form], form
            changed = nodes.form[at] != form  # else the parent's multiplier may serve
            multiplier[at[changed]] = found[better][changed]
        nodes.form, nodes.multiplier = chosen, multiplier

    def _add(self, nodes: Nodes, closed: Tensor) -> None:
        self.open = Nodes.joined(self.open, nodes[(~closed).nonzero()[:, 0]])

    def _leaves(self, nodes: Nodes, bound: Tensor, multiplier: Tensor) -> None:
        """Write down the leaves whose bounds are positive."""
        for row in (bound > 0).nonzero()[:, 0].tolist():
            self.tree[int(nodes.name[row])] = Leaf(multiplier[row].cpu().numpy(), False)
            self.closed.append((int(nodes.form[row]), float(bound[row])))

    def _settled(self, node: Nodes) -> None:
        """Decide a node that cannot be split."""
        multiplier = None
        if self.settle is not None:
            multiplier, self.witnessed = self.settle(node)
        if self.witnessed:
            self._add(node, torch.zeros_like(node.form, dtype=torch.bool))
            return
        if multiplier is not None:
            rows = self.task.rows(node.form, node.lo, node.hi)
            constant = self.task.objectives.constant[node.form]
            bound, exact = proved_multiplier(
                self.task.lagrangian, rows, multiplier[None], -constant
            )
            node.value, node.multiplier = down(bound + constant), exact
            if bool(node.value > 0):
                self._leaves(node, node.value, exact)
                return
        self.stuck.append(node)
