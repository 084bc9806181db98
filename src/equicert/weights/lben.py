"""The Lipschitz-bounded parametrisations [R20]: monotone in a metric Lambda that is learnt."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from equicert.errors import ConfigError
from equicert.monotonicity import Monotone, prove_monotone
from equicert.operators import Dense, Operator
from equicert.weights.base import Weight, square
from equicert.weights.monotone import check_modulus


@final
class LBEN(Weight):
    """`W = (1 - m) I - Lambda^-1 (V^T V + S - S^T + P)`, V, S, Lambda = exp(log_Lambda) free.

    Then `sym(Lambda (I - W)) = m Lambda + V^T V + P >= m Lambda`: the linear matrix inequality of
    [R20] for well-posedness, its strictness measured by m Lambda in place of a multiple of I. It
    does not imply mu_2(W) < 1; at Lambda = 1 and P = 0 it is MON.

    With a prescribed `lipschitz` bound g, `P = (C^T C + Lambda U U^T Lambda) / (2 g)`: then
    `2 sym(Lambda (I - W)) >= (C^T C + Lambda U U^T Lambda) / g`, which bounds the l2 Lipschitz
    constant of x -> y by g for every U and C ([R20]).

    Args:
        states: n.
        m: the modulus, positive.
        scale: entries of V and S are uniform on `[-scale/sqrt(n), scale/sqrt(n)]` at the start.
        lipschitz: g, or None for no prescription. With one, W depends on U and C.

    Raises:
        ConfigError: m or lipschitz not positive and finite, n < 1.
    """

    monotone = True

    def __init__(
        self,
        states: int,
        m: float = 1.0,
        scale: float = 1.0,
        *,
        lipschitz: float | None = None,
    ) -> None:
        super().__init__()
        check_modulus(m)
        if lipschitz is not None and not 0 < lipschitz < math.inf:
            raise ConfigError(
                f"the prescribed Lipschitz bound is infeasible: got {lipschitz!r}; it must be"
                " finite and positive, for only constant networks have 0"
            )
        self.m, self.lipschitz = m, lipschitz
        self.V = square(states, scale)
        self.S = square(states, scale)
        self.log_Lambda = nn.Parameter(torch.zeros(states))

    def forward(self) -> Dense:
        if self.lipschitz is not None:
            raise ConfigError("W depends on U and C where a bound is prescribed: use given(U, C)")
        return self._made(self.V.mT @ self.V)

    def given(
        self,
        U: Tensor,  # (n, r)
        C: Tensor,  # (q, n)
    ) -> Dense:
        if self.lipschitz is None:
            return self()
        driven = self.log_Lambda.exp()[:, None] * U
        prescribed = (C.mT @ C + driven @ driven.mT) / (2 * self.lipschitz)
        return self._made(self.V.mT @ self.V + prescribed)

    def _made(
        self,
        symmetric: Tensor,  # (n, n)
    ) -> Dense:
        identity = torch.eye(len(symmetric), dtype=symmetric.dtype, device=symmetric.device)
        inner = symmetric + self.S - self.S.mT
        return Dense((1 - self.m) * identity - inner / self.log_Lambda.exp()[:, None])

    def eta(self) -> None:
        return None

    def proof(
        self,
        W: Operator,  # (n, n)
    ) -> Monotone:
        return prove_monotone(W, self.log_Lambda.detach().exp(), self.m)

    def extra_repr(self) -> str:
        bound = "" if self.lipschitz is None else f", lipschitz={self.lipschitz:g}"
        return f"states={len(self.V)}, m={self.m:g}{bound}"
