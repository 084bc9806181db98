"""W itself as the parameter, for networks trained elsewhere and for gradients with respect to W."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from equicert.contraction import Contraction
from equicert.monotonicity import Monotone, prove_monotone
from equicert.operators import Dense, Operator
from equicert.weights.base import Weight


@final
class Free(Weight):
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
        super().__init__()
        self.W = nn.Parameter(W.detach().clone())
        self.hint: Tensor | None
        self.metric: Tensor | None
        self.register_buffer("hint", None if eta is None else eta.detach().clone())
        self.register_buffer("metric", None if Lambda is None else Lambda.detach().clone())
        self.monotone = Lambda is not None

    def forward(self) -> Dense:
        return Dense(self.W)

    def eta(self) -> Tensor | None:  # (n,)
        return self.hint

    def proof(
        self,
        W: Operator,  # (n, n)
    ) -> Contraction | Monotone:
        return prove_monotone(W, self.metric) if self.monotone else super().proof(W)
