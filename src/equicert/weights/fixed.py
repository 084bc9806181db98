"""W of any structure, held as it is: for attacks on networks that were stored."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from equicert.contraction import Contraction
from equicert.monotonicity import Monotone
from equicert.operators import Dense, Operator
from equicert.weights.base import Weight
from equicert.weights.free import Free
from equicert.weights.given import Given


@final
class Fixed(Given):
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
        super().__init__(eta, Lambda)
        self._form = W.detach().map(torch.clone)  # it may be loaded over
        for name, tensor in self._form.tensors().items():
            self.register_buffer(_buffer(name), tensor)

    def forward(self) -> Operator:
        moved = {
            id(tensor): self.get_buffer(_buffer(name))
            for name, tensor in self._form.tensors().items()
        }
        return self._form.map(lambda tensor: moved[id(tensor)])


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
