"""A full matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equicert.errors import TooLargeError
from equicert.norms import matrix_measure, metzler_majorant
from equicert.operators.base import Operator

_MOST = 4096  # states of a W with structure that is factorised in full, in a few minutes


def fits_in_full(W: Operator) -> bool:
    """Whether the matrix of a square operator is factorised: a matrix is always, it was stored."""
    return W.shape[0] <= _MOST or isinstance(W, Dense)


def in_full(W: Operator, what: str) -> Tensor:  # (n, n)
    """The matrix of a square operator, for methods that factorise it.

    Raises:
        TooLargeError: W has structure and so many states that it would take hours; `what` says
            whose need it is.
    """
    if not fits_in_full(W):
        raise TooLargeError(what, W.shape[0], _MOST)
    return W.dense()


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

    def affine(
        self,
        v: Tensor,  # (batch, m)
        u: Tensor,  # (batch, n) or (n,)
        factor: float = 1.0,
    ) -> Tensor:  # (batch, n)
        return torch.addmm(u, v, self.A.mT, alpha=factor)

    def cotangents(
        self,
        v: Tensor,  # (batch, m)
        p: Tensor,  # (batch, n)
        majorant: bool = False,
    ) -> tuple[Tensor, ...]:
        found = p.mT @ v
        if majorant:
            found *= self.A.detach().sign().fill_diagonal_(1)
        return (found,)

    def transpose(self) -> Dense:
        return Dense(self.A.mT)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Dense:
        return Dense(fn(self.A))

    def off_diagonal(self) -> Dense:
        return Dense(self.A.clone().fill_diagonal_(0))

    def majorant(self) -> Dense:
        return Dense(metzler_majorant(self.A))

    def diagonal(self) -> Tensor:  # (n,)
        return self.A.diagonal()

    def measure(
        self,
        eta: Tensor,  # (n,)
    ) -> Tensor:  # ()
        return matrix_measure(self.A, eta)

    def tensors(self) -> Mapping[str, Tensor]:
        return {"": self.A}

    def dense(self) -> Tensor:  # (n, m)
        return self.A
