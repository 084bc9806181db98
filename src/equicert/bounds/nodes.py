"""What branch and bound works on: one sample's question, and the open nodes as columns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equicert.relaxation import Lagrangian, Objectives, Rows


@dataclass(frozen=True)
class Task:
    """One sample's question.

    Attributes:
        lagrangian: of the network.
        objectives: the forms, k of them.
        clause: (k,) int64, the clause of each.
        centre, half: (1, r) its box of inputs.
    """

    lagrangian: Lagrangian
    objectives: Objectives
    clause: Tensor
    centre: Tensor
    half: Tensor

    def rows(
        self,
        form: Tensor,  # (batch,) int64
        lo: Tensor,  # (batch, n) or (1, n)
        hi: Tensor,
    ) -> Rows:
        """These forms over these bounds on r."""
        chosen = self.objectives
        return Rows(chosen.a[form], None, chosen.error[form], lo, hi, self.centre, self.half)


@dataclass
class Nodes:
    """Open nodes, as columns.

    Attributes:
        lo, hi: (k, n) bounds on r.
        multiplier: (k, n) the best found.
        value: (k,) its bound, in plain floating point.
        form: (k,) int64, the form that is bounded.
        name: (k,) int64.
    """

    lo: Tensor
    hi: Tensor
    multiplier: Tensor
    value: Tensor
    form: Tensor
    name: Tensor

    def __getitem__(self, rows: Tensor) -> Nodes:
        return Nodes(*(column[rows] for column in self.columns()))

    def __len__(self) -> int:
        return len(self.value)

    def columns(self) -> tuple[Tensor, ...]:
        """All columns, in the order of the attributes."""
        return self.lo, self.hi, self.multiplier, self.value, self.form, self.name

    @classmethod
    def joined(cls, *parts: Nodes) -> Nodes:
        """The nodes of all parts."""
        return cls(
            *(torch.cat(column) for column in zip(*(p.columns() for p in parts), strict=True))
        )
