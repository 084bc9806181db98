"""The contracting parametrisation: `mu_{inf,[eta]^-1}(W) <= gamma` for every free T and eta."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from equicert.errors import ModelError
from equicert.norms import row_measures
from equicert.operators import Dense
from equicert.weights.base import Weight, check_gamma, square


@final
class Contracting(Weight):
    """`W = [eta] T [eta]^-1 - diag(|T| 1) + gamma I`, T free, `eta = exp(log_eta)`, gamma < 1.

    Then `mu_{inf,[eta]^-1}(W) = gamma + max_i min(2 T_ii, 0) <= gamma`. This is equation (12) of
    [J22] with eta the right way up: as printed, `[eta]^-1 T [eta]`, it bounds the measure in the
    inverse weights, and in the norm used everywhere else mu(W) is unbounded.

    Args:
        states: n.
        gamma: the bound on mu, any number below 1; at most 0 lets the forward map contract at once.
        scale: T_ij is uniform on `[-scale/sqrt(n), scale/sqrt(n)]` at the start, as the entries of
            `torch.nn.Linear` are with scale 1.

    Raises:
        ConfigError: gamma >= 1 or NaN, n < 1.
    """

    def __init__(self, states: int, gamma: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        check_gamma(gamma)
        self.gamma = gamma
        self.T = square(states, scale)
        self.log_eta = nn.Parameter(torch.zeros(states))

    def forward(self) -> Dense:
        eta = self.log_eta.exp()
        shift = self.gamma - self.T.abs().sum(1)
        return Dense(eta[:, None] * self.T / eta + torch.diag_embed(shift))

    def eta(self) -> Tensor:  # (n,)
        return self.log_eta.exp()

    def extra_repr(self) -> str:
        return f"states={len(self.T)}, gamma={self.gamma}"

    @torch.no_grad()
    def right_inverse(
        self,
        W: Tensor,  # (n, n)
        eta: Tensor,  # (n,)
    ) -> None:
        """Set T and eta so that `forward()` is W.

        Row i needs `W_ii + sum_{j != i} (eta_j/eta_i) |W_ij| <= gamma`; then T_ii is half the
        slack if the row is slack, which is not unique only at equality.

        Raises:
            ModelError: mu_{inf,[eta]^-1}(W) > gamma: no T gives this W.
        """
        if W.shape != self.T.shape:
            raise ModelError(
                f"this parametrisation is of shape {tuple(self.T.shape)}, W is {tuple(W.shape)}"
            )
        slack = self.gamma - row_measures(W, eta)
        if not bool((slack >= 0).all()):
            row = int(slack.argmin())
            raise ModelError(
                f"W has mu = {self.gamma - float(slack[row]):.6g} > gamma = {self.gamma:g} at row"
                f" {row}; raise gamma or pass a better eta"
            )
        T = W * eta / eta[:, None]
        T.diagonal().copy_(-slack / 2)
        self.T.copy_(T)
        self.log_eta.copy_(eta.log())
