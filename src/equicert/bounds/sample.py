"""One sample on its way from first bounds to a decision: root, lemmas, branches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equicert.bounds.branching import Hunt, Search
from equicert.bounds.leaf import MOST_STATES, settle
from equicert.bounds.lemmas import Tightened, proved_multiplier, tighten
from equicert.bounds.nodes import Nodes, Task
from equicert.proofs import Leaf, Start, Step, TreeProof
from equicert.relaxation import Ascent, PiecewiseLinear, adjoint_start
from equicert.rounding import down

ROOT, CHILD = Ascent(100), Ascent(50)


@dataclass
class Sample:
    """The state of the argument about one sample.

    Attributes:
        task: its forms and its box.
        bounds: on r, with the lemmas so far.
        lower: (k,) rigorous bounds on the forms.
        multiplier: (k, n) behind them; NaN where none is known.
        search: branch and bound, if there was any.
        nodes: subproblems looked at.
        reason: why it is not decided, "" if it is or nothing has been said.
    """

    task: Task
    bounds: Tightened
    lower: Tensor
    multiplier: Tensor
    search: Search | None = None
    nodes: int = 0
    reason: str = ""

    @classmethod
    def of(cls, task: Task, lo: Tensor, hi: Tensor) -> Sample:
        """A sample about which only l and u, (1, n) each, are known."""
        k, n = task.objectives.a.shape
        nothing = lo.new_full((k,), -torch.inf)
        return cls(task, Tightened(lo.clone(), hi.clone()), nothing, lo.new_full((k, n), torch.nan))

    @property
    def margin(self) -> float:
        """The least over clauses of the greatest bound in the clause."""
        return float(self._of_clauses(self.lower).amin())

    @property
    def holds(self) -> bool:
        """Whether every clause has a form with a positive bound."""
        return self.margin > 0

    @property
    def piecewise(self) -> bool:
        """Whether psi is piecewise linear, so that there is something to branch on."""
        return isinstance(self.task.lagrangian.graph, PiecewiseLinear)

    def _of_clauses(self, values: Tensor) -> Tensor:  # (clauses,)
        clause = self.task.clause
        best = values.new_full((int(clause.amax()) + 1,), -torch.inf)
        return best.scatter_reduce(0, clause, values, "amax")

    def open_forms(self) -> Tensor:  # (k',) int64
        """The forms of the clauses that are not closed."""
        still = ~(self._of_clauses(self.lower) > 0)
        return still[self.task.clause].nonzero()[:, 0]

    def bound(self, deadline: float = math.inf, ascent: Ascent = ROOT) -> None:
        """Bound the forms of open clauses by the dual over the present bounds on r."""
        forms = self.open_forms()
        if not len(forms):
            return
        task, bounds = self.task, self.bounds
        rows = task.lagrangian.prepared(task.rows(forms, bounds.lo, bounds.hi))
        needed = -task.objectives.constant[forms]
        start = adjoint_start(task.lagrangian, rows, self.multiplier[forms])
        _, found, _ = ascent.run(task.lagrangian, rows, start, needed, deadline)
        value, exact = proved_multiplier(task.lagrangian, rows, found, needed)
        value = down(value - needed)
        better = value > self.lower[forms]
        self.lower[forms[better]], self.multiplier[forms[better]] = value[better], exact[better]
        self.nodes += len(forms)

    def tighten(self, rounds: int, deadline: float = math.inf) -> None:
        """Lemmas, and the forms bounded again."""
        task, bounds = self.task, self.bounds
        before = len(bounds.chain)
        tighten(task.lagrangian, bounds, task.centre, task.half, rounds, deadline)
        if bounds.empty:
            self.reason = "contradiction"
        elif len(bounds.chain) > before:
            self.bound(deadline)

    def branch(self, hunt: Hunt, deadline: float) -> None:
        """Branch and bound on the clauses that are open.

        A smooth psi has no breakpoints: only the minimisers are tried, and nothing is a tie.
        """
        roots, task = self._roots(), self.task
        if not self.piecewise:
            rows = task.rows(roots.form, roots.lo, roots.hi)
            witnessed = hunt(task.lagrangian.ascend(rows, roots.multiplier)[2], roots.form)
            self.reason = "" if witnessed else "margin"
            return

        def settled(node: Nodes) -> tuple[Tensor | None, bool]:
            return settle(task, node, hunt, deadline)

        small = len(task.lagrangian.b) <= MOST_STATES
        self.search = Search(task, roots, hunt, settled if small else None, CHILD)
        self.search.run(deadline)
        self.nodes += self.search.looked
        self.reason = self.search.reason
        self.search.account(self.lower)

    def _roots(self) -> Nodes:
        """A node for each open clause, with the form of greatest bound."""
        task, forms = self.task, self.open_forms()
        order = forms[self.lower[forms].argsort(descending=True)]
        seen: dict[int, int] = {}
        for form in order.tolist():
            seen.setdefault(int(task.clause[form]), form)
        chosen = torch.tensor(sorted(seen.values()), device=forms.device)
        k = len(chosen)
        lo, hi = (end.expand(k, -1).clone() for end in (self.bounds.lo, self.bounds.hi))
        multiplier = self.multiplier[chosen].nan_to_num(0.0)
        return Nodes(lo, hi, multiplier, self.lower[chosen].clone(), chosen, torch.arange(k))

    def proof(self, start: Start) -> TreeProof | None:
        """The proof that every form, each a clause of its own, is positive.

        There is none of smooth networks that the checker knows.
        """
        single = len(torch.unique(self.task.clause)) == len(self.task.clause)
        if not (self.holds and self.piecewise and single):
            return None
        roots = {} if self.search is None else self.search.roots
        trees = tuple(self._tree(form, roots.get(form)) for form in range(len(self.task.clause)))
        margins = self.lower.cpu().numpy()
        return TreeProof(start, tuple(self.bounds.chain), margins, trees)

    def _tree(self, form: int, root: int | None) -> tuple[Step, ...]:
        if root is None or self.search is None:
            return (Leaf(self.multiplier[form].cpu().numpy(), False),)
        steps: list[Step] = []
        waiting = [root]
        while waiting:
            node = self.search.tree[waiting.pop()]
            if isinstance(node, tuple):
                split, low, high = node
                steps.append(split)
                waiting += [high, low]  # the low one comes next
            else:
                steps.append(node)
        return tuple(steps)
