"""What a network needs of a parametrisation of W."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from equicert.contraction import Contraction, prove_contraction
from equicert.errors import ConfigError
from equicert.monotonicity import Monotone
from equicert.operators import Operator


class Weight(nn.Module, ABC):
    """A module whose parameters make W. It is never believed: what it promises is proved on use.

    A parametrisation promises that W contracts, unless it says `monotone` and overrides `proof`.
    """

    monotone = False  # what `proof` proves

    @abstractmethod
    def forward(self) -> Operator:
        """The operator W (n, n), with gradients to the parameters."""

    def given(
        self,
        U: Tensor,  # (n, r)
        C: Tensor,  # (q, n)
    ) -> Operator:
        """W for these maps of the network, on which prescribed bounds make it depend."""
        del U, C
        return self()

    @abstractmethod
    def eta(self) -> Tensor | None:  # (n,)
        """The weights of the norm in which W should contract, if the parametrisation has any."""

    @property
    def driven(self) -> Tensor | None:  # (n,) bool
        """The states that x drives, the rows of U at all others being 0; None: all of them."""
        return None

    @property
    def read(self) -> Tensor | None:  # (n,) bool
        """The states that y is read from, the other columns of C being 0; None: all of them."""
        return None

    def proof(
        self,
        W: Operator,  # (n, n) what `forward` returned
    ) -> Contraction | Monotone:
        """The proof that this very W is well-posed.

        Raises:
            NotContractingError, NotMonotoneError: it cannot be proved.
        """
        return prove_contraction(W, self.eta())


def check_gamma(gamma: float) -> None:
    """Raise ConfigError unless gamma is a finite number below 1."""
    if not gamma < 1 or gamma == -torch.inf:
        raise ConfigError(f"gamma must be a finite number below 1, got {gamma!r}")


def square(states: int, scale: float) -> nn.Parameter:
    """An (n, n) parameter, its entries uniform on `[-scale/sqrt(n), scale/sqrt(n)]`.

    Raises:
        ConfigError: n < 1.
    """
    if states < 1:
        raise ConfigError(f"a network needs at least one hidden unit, got {states}")
    return nn.Parameter((2 * torch.rand(states, states) - 1) * (scale / states**0.5))
