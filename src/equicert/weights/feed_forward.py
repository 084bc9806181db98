"""Feed-forward networks as implicit ones: W strictly block-triangular, the blocks free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from equicert.errors import ConfigError
from equicert.operators import Dense
from equicert.weights.base import Weight


@final
class FeedForward(Weight):
    """W with the blocks `W_{k,k-1}` of a plain network and zeros elsewhere; x drives layer 1 alone.

    With L layers `z_1 = phi(U x + b_1)`, `z_k = phi(W_{k,k-1} z_{k-1} + b_k)`, `y = C z_L + c`, the
    states (z_1, ..., z_L) are the fixed point ([J22], Rem. 6.4(3)), Picard's iteration reaches it
    in L steps from anywhere, and the embedded network is layer-by-layer interval propagation
    ([G18]). W is nilpotent, so that it contracts whatever the blocks are: see `eta`. They begin as
    the weights of torch.nn.Linear do, uniform within 1/sqrt(width of the layer before).

    Example:
        >>> weight = FeedForward((100, 75, 50))
        >>> network = ImplicitNetwork(784, weight.states, 10, weight=weight)

    Args:
        widths: number of states of each hidden layer, the first one first.

    Raises:
        ConfigError: no layer, or a width that is not a positive integer.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        if not self.widths or any(type(n) is not int or n < 1 for n in self.widths):
            raise ConfigError(
                f"a feed-forward network needs at least one hidden layer, of integer widths >= 1;"
                f" got {self.widths}"
            )
        pairs = zip(self.widths[1:], self.widths[:-1], strict=True)
        self.blocks = nn.ParameterList(_initial(*shape) for shape in pairs)
        first, last = self.widths[0], self.widths[-1]
        # No rows and no columns: they shift the blocks to their places and carry type and device.
        self.above: Tensor
        self.right: Tensor
        self.register_buffer("above", torch.empty(first, 0), persistent=False)
        self.register_buffer("right", torch.empty(0, last), persistent=False)

    @property
    def states(self) -> int:
        """n, the sum of the widths."""
        return sum(self.widths)

    @property
    def driven(self) -> Tensor:  # (n,) bool
        """The first layer."""
        return torch.arange(self.states, device=self.above.device) < self.widths[0]

    @property
    def read(self) -> Tensor:  # (n,) bool
        """The last layer."""
        place = torch.arange(self.states, device=self.above.device)
        return place >= self.states - self.widths[-1]

    def forward(self) -> Dense:
        return Dense(torch.block_diag(self.above, *self.blocks, self.right))

    @torch.no_grad()
    def eta(self) -> Tensor:  # (n,) float64
        """`eta_1 = 1`, `eta_k = max(1, (1 + 1/L) |W_{k,k-1}| eta_{k-1})` (derived here).

        Each row sum of `[eta]^-1 |W| [eta]` is then at most L/(L + 1), which is mu(W) and the rate
        of Picard's iteration, and far enough from 1 for a proof in float64. The factor trades that
        gap, 1/(L + 1), against what it adds to eta, less than e: their product, what error bounds
        lose, grows like L, where a factor 2 would make it 2^L. The floor 1 keeps eta positive in
        states that nothing drives. The ratio eta_max/eta_min is at most e times the largest product
        of row sums: bounds on rounding are proportional to it, and beyond 1e308 eta is not finite
        and no proof results.
        """
        factor = 1 + 1 / len(self.widths)
        parts = [self.above.new_ones(len(self.above), dtype=torch.float64)]
        for block in self.blocks:
            parts.append((block.double().abs() @ parts[-1]).mul_(factor).clamp_(min=1))
        return torch.cat(parts)

    def extra_repr(self) -> str:
        return f"widths={self.widths}"


def _initial(n: int, m: int) -> nn.Parameter:  # (n, m)
    return nn.Parameter((2 * torch.rand(n, m) - 1) / math.sqrt(m))
