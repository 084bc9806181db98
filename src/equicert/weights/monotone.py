"""The monotone parametrisation [WK20]: `mu_2(W) <= 1 - m` for every free A and B."""

from __future__ import annotations

import math
from typing import final

import torch

from equicert.errors import ConfigError
from equicert.monotonicity import Monotone as Proof
from equicert.monotonicity import prove_monotone
from equicert.operators import Dense, Operator
from equicert.weights.base import Weight, square


@final
class Monotone(Weight):
    """`W = (1 - m) I - A^T A + B - B^T`, A and B free, m > 0 ([WK20], MON).

    Then `sym(I - W) = m I + A^T A >= m I`, but for the rounding of W: see `proof`.

    Args:
        states: n.
        m: the modulus: larger values make solves faster and Lipschitz constants smaller.
        scale: entries of A and B are uniform on `[-scale/sqrt(n), scale/sqrt(n)]` at the start.

    Raises:
        ConfigError: m not positive and finite, n < 1.
    """

    monotone = True

    def __init__(self, states: int, m: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        check_modulus(m)
        self.m = m
        self.A = square(states, scale)
        self.B = square(states, scale)

    def forward(self) -> Dense:
        identity = torch.eye(len(self.A), dtype=self.A.dtype, device=self.A.device)
        return Dense((1 - self.m) * identity - self.A.mT @ self.A + self.B - self.B.mT)

    def eta(self) -> None:
        return None

    def proof(
        self,
        W: Operator,  # (n, n)
    ) -> Proof:
        return prove_monotone(W, m=self.m)

    def extra_repr(self) -> str:
        return f"states={len(self.A)}, m={self.m:g}"


def check_modulus(m: float) -> None:
    """Raise ConfigError unless `0 < m < inf`."""
    if not 0 < m < math.inf:
        raise ConfigError(f"m must be finite and positive, got {m!r}: fixed points need not exist")
