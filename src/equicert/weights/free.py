"""W itself as the parameter, for networks trained elsewhere and for gradients with respect to W."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from equicert.operators import Dense
from equicert.weights.base import Weight


@final
class Free(Weight):
    """`W` unconstrained. Nothing keeps it contracting: each use proves mu(W) < 1 or raises.

    Args:
        W: (n, n) initial value.
        eta: (n,) or None, a hint for the weights of the norm.
    """

    def __init__(
        self,
        W: Tensor,  # (n, n)
        eta: Tensor | None = None,  # (n,)
    ) -> None:
        super().__init__()
        self.W = nn.Parameter(W.detach().clone())
        self.hint: Tensor | None
        self.register_buffer("hint", None if eta is None else eta.detach().clone())

    def forward(self) -> Dense:
        return Dense(self.W)

    def eta(self) -> Tensor | None:  # (n,)
        return self.hint
