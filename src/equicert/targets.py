"""What a search is after: per row, a disjunction of conjunctions of forms `A y + d <= 0`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equicert.errors import InputError
from equicert.queries import Forms, Query


@dataclass(frozen=True)
class Targets:
    """Unsafe sets, and the one that each row of a search is after.

    A set is reached at y where in one of its clauses every form is <= 0. A clause of fewer forms
    repeats its last one; a set of fewer clauses has some with d = infinity, which nothing reaches.

    Attributes:
        A: (sets, c, m, q) float64, c clauses of m forms each.
        d: (sets, c, m).
        which: (k,) int64.
    """

    A: Tensor
    d: Tensor
    which: Tensor

    @property
    def rows(self) -> int:
        """k."""
        return len(self.which)

    @classmethod
    def of(cls, query: Query) -> Targets:
        """The unsafe set of each sample.

        Raises:
            InputError: the query only asked for bounds.
        """
        sets = [_clauses(forms) for forms in query.forms]
        sizes = [clause.shape for A in sets for clause, _ in A]
        most, m = max((len(A) for A in sets), default=1), max((s[0] for s in sizes), default=1)
        q = sizes[0][1] if sizes else 0
        device = query.box.lo.device
        A = torch.zeros(len(sets), most, m, q, dtype=torch.float64, device=device)
        d = torch.full((len(sets), most, m), torch.inf, dtype=torch.float64, device=device)
        for number, clauses in enumerate(sets):
            for clause, (rows, offsets) in enumerate(clauses):
                padded = torch.arange(m, device=device).clamp(max=len(rows) - 1)
                A[number, clause], d[number, clause] = rows[padded], offsets[padded]
        return cls(A, d, query.which)

    def __getitem__(self, rows: Tensor) -> Targets:
        """Those of some rows (an index tensor)."""
        return replace(self, which=self.which[rows])

    def clause(
        self,
        number: Tensor,  # (k,) int64
    ) -> Targets:
        """One clause of each row's set alone."""
        which = self.which * self.A.shape[1] + number
        return Targets(self.A.flatten(0, 1)[:, None], self.d.flatten(0, 1)[:, None], which)

    def values(
        self,
        y: Tensor,  # (k, q)
    ) -> Tensor:  # (k, c, m)
        """`A y + d` in plain floating point."""
        return torch.einsum("kcmq,kq->kcm", self.A[self.which], y) + self.d[self.which]

    def direction(
        self,
        values: Tensor,  # (k, c, m)
        share: float,
    ) -> Tensor:  # (k, q)
        """The gradient in y of a smoothed `min over clauses of max over forms`.

        Forms count by the exponential of their distance from the extreme one, in units of `share`
        times its size: near the boundary of the unsafe set the extreme one alone.
        """
        greatest = values.amax(2)
        # A clause that nothing reaches is infinite, and infinity minus itself no distance.
        short = (greatest[..., None] - values).where(values < greatest[..., None], 0)
        within = _weights(short, share * greatest[..., None].abs())
        least = greatest.amin(1, keepdim=True)
        among = _weights(greatest - least, share * least.abs())
        return torch.einsum("kcm,kcmq->kq", among[..., None] * within, self.A[self.which])


def _clauses(forms: Forms) -> list[tuple[Tensor, Tensor]]:  # (m, q), (m,) each
    if forms.clause is None:
        raise InputError("this query asked for bounds and has no clauses to reach")
    rows = [(forms.clause == j).nonzero()[:, 0] for j in range(int(forms.clause.amax()) + 1)]
    return [(forms.A[own], forms.d[own]) for own in rows]


def _weights(
    distance: Tensor,  # (..., c) non-negative, 0 at the extreme one
    unit: Tensor,  # (..., 1)
) -> Tensor:  # (..., c)
    return (-distance / unit.clamp(min=1e-300)).softmax(-1)
