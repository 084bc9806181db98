"""Weights with bounded absolute row sums, `||W||_inf <= bound < 1`: the condition of [EG21]."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from equicert.errors import ConfigError, ModelError
from equicert.operators import Dense
from equicert.weights.base import Weight, square


@final
class RowSum(Weight):
    """`W_i = bound T_i / (sum_j |T_ij| + |s_i|)` for each row i; T and the slack s are free.

    Then `sum_j |W_ij| <= bound`, and every W of the set is reached, by T = W and
    `s_i = bound - sum_j |W_ij|`. A projection of each row onto its ball reaches them, too, but its
    gradient is blind to the length of a row that is outside, and no step brings such a row back:
    with s it is not. `||W||_inf < 1` gives mu(W) < 1 at eta = 1, and a unique fixed point.

    [EG21] shows that `lambda_pf(|W|) < 1` suffices, the Perron-Frobenius eigenvalue of the absolute
    values and the infimum of `||[eta]^-1 W [eta]||_inf` over eta > 0. As the Metzler majorant M is
    at most |W| entrywise, its spectral abscissa is at most lambda_pf(|W|) (derived here): whatever
    meets a condition of [EG21] contracts in the sense of [J22]. The converse is false: diagonal
    entries below -1 contract.

    [EG21] L. El Ghaoui, F. Gu, B. Travacca, A. Askari, A. Tsai, Implicit deep learning, SIAM
    Journal on Mathematics of Data Science 3(3), 2021.

    Args:
        states: n.
        bound: of the absolute row sums, in (0, 1).
        scale: T_ij is uniform on `[-scale/sqrt(n), scale/sqrt(n)]` at the start, and s_i such that
            the row sums of W are half of the bound.

    Raises:
        ConfigError: bound outside (0, 1) or NaN, n < 1.
    """

    def __init__(self, states: int, bound: float = 0.95, scale: float = 1.0) -> None:
        super().__init__()
        if not 0 < bound < 1:
            raise ConfigError(f"the bound on row sums must be in (0, 1), got {bound!r}")
        self.bound = bound
        self.T = square(states, scale)
        self.s = nn.Parameter(self.T.detach().abs().sum(1))

    def forward(self) -> Dense:
        length = self.T.abs().sum(1) + self.s.abs()
        # At T_i = s_i = 0 alone, where W_i has no limit, it is taken as 0.
        length = length.clamp(min=torch.finfo(length.dtype).tiny)
        return Dense(self.T / (length / self.bound)[:, None])

    def eta(self) -> Tensor:  # (n,)
        return torch.ones_like(self.T[0])

    def extra_repr(self) -> str:
        return f"states={len(self.T)}, bound={self.bound}"

    @torch.no_grad()
    def right_inverse(
        self,
        W: Tensor,  # (n, n)
    ) -> None:
        """Set T and s so that `forward()` is W.

        Raises:
            ModelError: a row sum exceeds the bound: no T gives this W.
        """
        if W.shape != self.T.shape:
            raise ModelError(
                f"this parametrisation is of shape {tuple(self.T.shape)}, W is {tuple(W.shape)}"
            )
        sums = W.abs().sum(1)
        if not bool((sums <= self.bound).all()):
            row = int(sums.argmax())
            raise ModelError(
                f"W has sum_j |W_ij| = {float(sums[row]):.6g} > bound = {self.bound:g} in row"
                f" {row}; raise the bound or scale W down"
            )
        self.T.copy_(W)
        self.s.copy_(self.bound - sums)
