"""Some rows and columns of an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from equicert.operators.base import Operator
from equicert.operators.dense import Dense


def part_of(
    A: Operator,
    rows: Tensor | None,  # (k,) int64; None for all
    columns: Tensor | None,  # (l,) int64; None for all
) -> Operator:
    """These rows and columns of A: of a matrix a smaller one, of others a view by the whole."""
    if not isinstance(A, Dense):
        return Part(A, rows, columns)
    entries = A.A if rows is None else A.A[rows]
    return Dense(entries if columns is None else entries[:, columns])


@final
@dataclass(frozen=True)
class Part(Operator):
    """Rows and columns of an operator whose structure they break: products are those of the whole.

    What speaks of a diagonal is for `rows` equal to `columns`.

    Attributes:
        of: the whole.
        rows: (k,) int64, distinct, or None for all.
        columns: (l,) int64, distinct, or None for all.
    """

    of: Operator
    rows: Tensor | None
    columns: Tensor | None

    @property
    def structure(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """No file holds it."""
        return f"part of {self.of.structure}"

    @property
    def shape(self) -> tuple[int, int]:
        n, m = self.of.shape
        rows, columns = self.rows, self.columns
        return n if rows is None else len(rows), m if columns is None else len(columns)

    @property
    def terms(self) -> int:
        return self.of.terms

    def apply(
        self,
        v: Tensor,  # (batch, l)
    ) -> Tensor:  # (batch, k)
        if self.columns is not None:
            v = v.new_zeros(len(v), self.of.shape[1]).index_copy(1, self.columns, v)
        product = self.of.apply(v)
        return product if self.rows is None else product[:, self.rows]

    def transpose(self) -> Part:
        return Part(self.of.transpose(), self.columns, self.rows)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Part:
        return Part(self.of.map(fn), self.rows, self.columns)

    def off_diagonal(self) -> Part:
        return Part(self.of.off_diagonal(), self.rows, self.columns)

    def majorant(self) -> Part:
        return Part(self.of.majorant(), self.rows, self.columns)

    def diagonal(self) -> Tensor:  # (k,)
        own = self.of.diagonal()
        return own if self.rows is None else own[self.rows]

    def tensors(self) -> Mapping[str, Tensor]:
        return self.of.tensors()
