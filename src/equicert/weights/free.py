"""W itself as the parameter, for networks trained elsewhere and for gradients with respect to W."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from equicert.operators import Dense
from equicert.weights.given import Given


@final
class Free(Given):
    """`W` unconstrained. Nothing keeps it well-posed: each use proves it or raises.

    Args:
        W: (n, n) initial value.
        eta: (n,) or None, a hint for the weights of the norm.
        Lambda: (n,) or None, where W is to be proved monotone: a hint for the weights of that.
    """

    def __init__(
        self,
        W: Tensor,  # (n, n)
        eta: Tensor | None = None,  # (n,)
        Lambda: Tensor | None = None,  # (n,)
    ) -> None:
        super().__init__(eta, Lambda)
        self.W = nn.Parameter(W.detach().clone())

    def forward(self) -> Dense:
        return Dense(self.W)
