"""The operator interface: what every method needs of W and U, whatever their structure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

from equicert.errors import ModelError


class Block(NamedTuple):
    """A block and where its first entry lies."""

    row: int
    column: int
    A: Operator

    @property
    def rows(self) -> slice:
        """The rows that it has entries in."""
        return slice(self.row, self.row + self.A.shape[0])

    @property
    def columns(self) -> slice:
        """The columns that it has entries in."""
        return slice(self.column, self.column + self.A.shape[1])


class Stage(NamedTuple):
    """States that are solved together, once all earlier ones are known.

    Attributes:
        span: where they lie.
        own: how they depend on one another; None where they do not.
        after: what later stages read, of states that are all known from here on.
    """

    span: slice
    own: Operator | None
    after: tuple[Block, ...]


class Operator(ABC):
    """A linear map A from R^m to R^n, applied to batches of rows.

    A new structure needs the abstract members; all methods of the package then work with it, and
    the parts that proofs need (signs, absolute values) come from mapping its stored entries.
    """

    structure: str  # goes into the model digest and file: "dense", "convolution ..."

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The states of a square operator in groups that follow one another; none if it is one."""
        return ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(n, m)."""

    @abstractmethod
    def apply(
        self,
        v: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch, n)
        """`A v` for each row v, by plain inner products of at most `terms` terms."""

    def affine(
        self,
        v: Tensor,  # (batch, m)
        u: Tensor,  # (batch, n) or (n,)
        factor: float = 1.0,
    ) -> Tensor:  # (batch, n)
        """`factor A v + u`, a tensor of its own."""
        return torch.add(u, self.apply(v), alpha=factor)

    def cotangents(
        self,
        v: Tensor,  # (batch, m)
        p: Tensor,  # (batch, n)
        majorant: bool = False,
    ) -> tuple[Tensor, ...]:
        """Gradients of `sum(p * A v)` in the stored entries, in the order of `tensors()`.

        With `majorant`, of `sum(p * M v)`, M the Metzler majorant of A.
        """
        with torch.enable_grad():
            free = self.map(lambda entries: entries.detach().requires_grad_())
            stored = tuple(free.tensors().values())
            acting = free.majorant() if majorant else free
            return torch.autograd.grad(acting.apply(v.detach()), stored, p)

    @abstractmethod
    def transpose(self) -> Operator:
        """`A^T`."""

    @abstractmethod
    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """The operator with fn, `fn(0) = 0`, applied to every stored entry."""

    @abstractmethod
    def off_diagonal(self) -> Operator:
        """A without its diagonal (square operators)."""

    @abstractmethod
    def majorant(self) -> Operator:
        """The Metzler majorant: off-diagonal entries in absolute value (square operators)."""

    @abstractmethod
    def diagonal(self) -> Tensor:  # (n,)
        """The diagonal (square operators)."""

    def measure(
        self,
        eta: Tensor,  # (n,) positive
    ) -> Tensor:  # ()
        """`norms.matrix_measure`, `mu_{inf,[eta]^-1}(A)`, by a product (square operators)."""
        rest = self.off_diagonal().absolute().apply(eta[None])[0]
        return (self.diagonal() + rest / eta).amax()

    def require_square(self) -> None:
        """Raise ModelError unless it can be W, or stand on the diagonal of W."""
        n, m = self.shape
        if n != m:
            raise ModelError(f"W, or a block on its diagonal, is square; this one is {n}x{m}")

    def require_plain(self) -> None:
        """Raise ModelError unless it can be U, or stand off that diagonal."""
        if any(name.endswith(".diagonal") for name in self.tensors()):
            raise ModelError(
                "a diagonal of its own has W only, or a block on the diagonal of W; got"
                f" {self.structure!r} elsewhere"
            )

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """The stored tensors by name: what files keep and the digest covers."""

    @property
    def terms(self) -> int:
        """Length of the longest inner product in `apply`; rounding bounds grow with it."""
        return self.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the stored entries."""
        return next(iter(self.tensors().values())).dtype

    @property
    def device(self) -> torch.device:
        """Where the stored entries live."""
        return next(iter(self.tensors().values())).device

    def absolute(self) -> Self:
        """Entrywise `|A|`."""
        return self.map(torch.abs)

    def positive(self) -> Self:
        """Entrywise `[A]^+ = max(A, 0)`."""
        return self.map(lambda entries: entries.clamp(min=0))

    def negative(self) -> Self:
        """Entrywise `[A]^- = min(A, 0)`."""
        return self.map(lambda entries: entries.clamp(max=0))

    def absolute_row_sums(self) -> Tensor:  # (n,)
        """`|A| 1`."""
        return self.absolute().row_sums()

    def row_sums(self) -> Tensor:  # (n,)
        """`A 1`."""
        ones = torch.ones(1, self.shape[1], dtype=self.dtype, device=self.device)
        return self.apply(ones)[0]

    def dense(self) -> Tensor:  # (n, m)
        """The full matrix, for methods that factorise it."""
        identity = torch.eye(self.shape[1], dtype=self.dtype, device=self.device)
        return self.apply(identity).mT

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """The operator on another device or in another type; float32 to float64 is exact."""
        return self.map(lambda entries: entries.to(device=device, dtype=dtype))

    def detach(self) -> Self:
        """The operator without its gradient history."""
        return self.map(torch.Tensor.detach)
