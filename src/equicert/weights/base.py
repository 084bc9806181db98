"""What a network needs of a parametrisation of W."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from equicert.operators import Operator


class Weight(nn.Module, ABC):
    """A module whose parameters make W. It is never believed: mu(W) is recomputed on use."""

    @abstractmethod
    def forward(self) -> Operator:
        """The operator W (n, n), with gradients to the parameters."""

    @abstractmethod
    def eta(self) -> Tensor | None:  # (n,)
        """The weights of the norm in which W should contract, if the parametrisation has any."""

    @property
    def driven(self) -> Tensor | None:  # (n,) bool
        """The states that x drives, the rows of U at all others being 0; None: all of them."""
        return None

    @property
    def read(self) -> Tensor | None:  # (n,) bool
        """The states that y is read from, the other columns of C being 0; None: all of them."""
        return None
