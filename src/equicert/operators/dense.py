"""A full matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equicert.operators.base import Operator


@final
@dataclass(frozen=True)
class Dense(Operator):
    """The operator of a stored matrix A (n, m)."""

    A: Tensor
    structure = "dense"

    @property
    def shape(self) -> tuple[int, int]:
        return self.A.shape[0], self.A.shape[1]

    def apply(
        self,
        v: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch, n)
        return v @ self.A.mT

    def transpose(self) -> Dense:
        return Dense(self.A.mT)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Dense:
        return Dense(fn(self.A))

    def off_diagonal(self) -> Dense:
        diagonal = torch.eye(len(self.A), dtype=torch.bool, device=self.A.device)
        return Dense(self.A.masked_fill(diagonal, 0))

    def diagonal(self) -> Tensor:  # (n,)
        return self.A.diagonal()

    def tensors(self) -> Mapping[str, Tensor]:
        return {"": self.A}

    def dense(self) -> Tensor:  # (n, m)
        return self.A
