"""What weights that were made elsewhere share: hints, and the proof that those are for."""

from __future__ import annotations

from torch import Tensor

from equicert.contraction import Contraction
from equicert.monotonicity import Monotone, prove_monotone
from equicert.operators import Operator
from equicert.weights.base import Weight


class Given(Weight):
    """Nothing keeps W well-posed: each use proves it or raises.

    Args:
        eta: (n,) or None, a hint for the weights of the norm.
        Lambda: (n,) or None, where W is to be proved monotone: a hint for the weights of that.
    """

    def __init__(
        self,
        eta: Tensor | None,  # (n,)
        Lambda: Tensor | None,  # (n,)
    ) -> None:
        super().__init__()
        self.hint: Tensor | None
        self.metric: Tensor | None
        self.register_buffer("hint", None if eta is None else eta.detach().clone())
        self.register_buffer("metric", None if Lambda is None else Lambda.detach().clone())
        self.monotone = Lambda is not None

    def eta(self) -> Tensor | None:  # (n,)
        return self.hint

    def proof(
        self,
        W: Operator,  # (n, n)
    ) -> Contraction | Monotone:
        return prove_monotone(W, self.metric) if self.monotone else super().proof(W)
