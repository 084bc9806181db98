"""Multipliers as they are: what the ascent of the dual bound moves in most networks.

lambda itself, along a supergradient. In a dense network few neurons are straight over [l_i, u_i],
or the bounds of those that are matter: starts from a ball of states leave some that no state comes
near, and the relaxation's optimum uses them, by a lambda_i that is no slope of psi_i times p_i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from equicert.relaxation.lagrangian import Lagrangian, Rows

_MOMENTS = 0.8, 0.95  # of Adam: short, for short ascents


@final
@dataclass
class Adam:
    """The moments of some rows.

    Attributes:
        first, second: (batch, n).
        steps: how many there have been.
    """

    first: Tensor
    second: Tensor
    steps: int = 0

    @classmethod
    def like(cls, moved: Tensor) -> Self:
        return cls(torch.zeros_like(moved), torch.zeros_like(moved))

    def along(
        self,
        slope: Tensor,  # (batch, n)
        step: Tensor | float,  # (batch, 1)
    ) -> Tensor:  # (batch, n)
        """The next move upwards."""
        one, two = _MOMENTS
        self.steps += 1
        self.first = torch.lerp(slope, self.first, one)
        self.second = torch.lerp(slope.square(), self.second, two)
        scale = ((self.second / (1 - two**self.steps)).sqrt_()).add_(1e-12)
        return step * (self.first / (1 - one**self.steps)) / scale

    def kept(
        self,
        rows: Tensor,  # (batch,) bool
    ) -> Self:
        """Some of the rows."""
        return type(self)(self.first[rows], self.second[rows], self.steps)


@final
@dataclass
class Multipliers:
    """lambda of some rows.

    Attributes:
        here: (batch, n).
        step: (batch, 1) the first one's size.
        adam: of lambda.
    """

    here: Tensor
    step: Tensor
    adam: Adam

    @classmethod
    def of(
        cls,
        multiplier: Tensor,  # (batch, n)
        size: Tensor,  # (batch, 1) of multipliers
        rate: float,  # of the first move, relative to that
    ) -> Self:
        return cls(multiplier, rate * size, Adam.like(multiplier))

    def kept(
        self,
        rows: Tensor,  # (batch,) bool
    ) -> Self:
        """Some of the rows."""
        return type(self)(self.here[rows], self.step[rows], self.adam.kept(rows))

    def climb(
        self,
        lagrangian: Lagrangian,
        rows: Rows,
        shrunk: float,  # of the first step
    ) -> tuple[Tensor, Tensor, Tensor]:  # (batch,), (batch, n), (batch, r)
        """The bound of lambda, lambda, and the minimising x; then a move from there."""
        here = self.here
        value, slope, x = lagrangian.ascend(rows, here)
        self.here = here + self.adam.along(slope, self.step * shrunk)
        return value, here, x
