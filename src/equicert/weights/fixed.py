"""W of any structure, held as it is: for attacks on networks that were stored."""

from __future__ import annotations

from typing import final

from torch import Tensor

from equicert.contraction import Contraction
from equicert.monotonicity import Monotone, prove_monotone
from equicert.operators import Dense, Operator
from equicert.weights.base import Weight
from equicert.weights.free import Free


@final
class Fixed(Weight):
    """`W`, without parameters: gradients reach x, U, b, C and c only.

    Args:
        W: (n, n).
        eta: (n,) or None, a hint for the weights of the norm.
        Lambda: (n,) or None, where W is to be proved monotone: a hint for the weights of that.
    """

    def __init__(
        self,
        W: Operator,  # (n, n)
        eta: Tensor | None = None,  # (n,)
        Lambda: Tensor | None = None,  # (n,)
    ) -> None:
        super().__init__()
        self._form = W.detach()
        for name, tensor in self._form.tensors().items():
            self.register_buffer(_buffer(name), tensor)
        self.hint: Tensor | None
        self.metric: Tensor | None
        self.register_buffer("hint", eta)
        self.register_buffer("metric", Lambda)
        self.monotone = Lambda is not None

    def forward(self) -> Operator:
        moved = {
            id(tensor): self.get_buffer(_buffer(name))
            for name, tensor in self._form.tensors().items()
        }
        return self._form.map(lambda tensor: moved[id(tensor)])

    def eta(self) -> Tensor | None:  # (n,)
        return self.hint

    def proof(
        self,
        W: Operator,  # (n, n)
    ) -> Contraction | Monotone:
        return prove_monotone(W, self.metric) if self.monotone else super().proof(W)


def weight_of(
    W: Operator,  # (n, n)
    proof: Contraction | Monotone,
) -> Weight:
    """A stored W, free if it is a matrix and fixed if it has structure, to be proved like this."""
    contracts = isinstance(proof, Contraction)
    hints = {"eta": proof.eta} if contracts else {"Lambda": proof.Lambda}
    return Free(W.A, **hints) if isinstance(W, Dense) else Fixed(W, **hints)


def _buffer(name: str) -> str:
    return "W" + name.replace(".", "_")
