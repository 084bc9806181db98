"""The slopes of smooth activations: rigorous bounds on them, and where they take a value.

All of them are written in sigmoids, whose relative error is bounded however small they are:
`tanh'(t) = 4 s(2 t) s(-2 t)`, `s'(t) = s(t) s(-t)`, `softplus' = s`, `exp(t) = s(t) / s(-t)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equicert.activations import ELU, Activation, Sigmoid, Softplus, Tanh
from equicert.errors import ModelError
from equicert.rounding import down, up

_SIGMOID = Sigmoid()


class Curve(ABC):
    """A smooth activation: convex up to `turn`, and concave or straight beyond.

    Attributes:
        turn: where that is; infinite if phi is convex.
        sigmoidal: whether it is concave beyond, phi' symmetrical about `turn`.
    """

    turn: float = 0.0
    sigmoidal: bool = False

    @abstractmethod
    def slopes(
        self,
        t: Tensor,  # float64, any shape
    ) -> tuple[Tensor, Tensor]:
        """Rigorous bounds on phi'(t); at a kink on the slope from below."""

    @abstractmethod
    def rising(
        self,
        slope: Tensor,  # any shape
    ) -> Tensor:
        """The t <= turn where phi' passes `slope`, in plain floating point; NaN where none is."""


@final
@dataclass(frozen=True)
class TanhCurve(Curve):
    """tanh: `1 / cosh(t)^2`, and `cosh^2 - 1 = sinh^2`."""

    sigmoidal = True

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = SigmoidCurve().slopes(2 * t)
        return 4 * low, 4 * high

    def rising(self, slope: Tensor) -> Tensor:
        return -torch.asinh(torch.sqrt((1 - slope) / slope))


@final
@dataclass(frozen=True)
class SigmoidCurve(Curve):
    """The logistic function s(t) = (1 + tanh(t / 2)) / 2."""

    sigmoidal = True

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low = down(_SIGMOID.down(t) * _SIGMOID.down(-t)).clamp(min=0)
        return low, up(_SIGMOID.up(t) * _SIGMOID.up(-t))

    def rising(self, slope: Tensor) -> Tensor:
        return 2 * TanhCurve().rising(4 * slope)


@final
@dataclass(frozen=True)
class SoftplusCurve(Curve):
    """log(1 + exp(t))."""

    turn = math.inf

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return _SIGMOID.down(t), _SIGMOID.up(t)

    def rising(self, slope: Tensor) -> Tensor:
        return torch.logit(slope)


@final
@dataclass(frozen=True)
class ELUCurve(Curve):
    """`alpha (exp(t) - 1)` up to 0, where its slope jumps from alpha to 1."""

    alpha: float

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        s, other = (_SIGMOID.down(t), _SIGMOID.up(t)), (_SIGMOID.down(-t), _SIGMOID.up(-t))
        low = down(self.alpha * down(s[0] / other[1])).clamp(min=0)
        high = up(self.alpha * up(s[1] / other[0]))
        straight = t > 0
        return torch.where(straight, 1.0, low), torch.where(straight, 1.0, high)

    def rising(self, slope: Tensor) -> Tensor:
        bent = torch.log(slope / self.alpha) if self.alpha > 0 else torch.full_like(slope, math.nan)
        at_kink = (slope >= self.alpha) & (slope <= 1) & (slope > 0)
        return torch.where(at_kink, torch.zeros_like(slope), bent.where(bent <= 0, math.nan))


def curve_of(activation: Activation) -> Curve:
    """The curve of a smooth activation.

    Raises:
        ModelError: it is none of those known.
    """
    match activation:
        case Tanh():
            return TanhCurve()
        case Sigmoid():
            return SigmoidCurve()
        case Softplus():
            return SoftplusCurve()
        case ELU():
            return ELUCurve(activation.alpha)
        case _:
            raise ModelError(
                f"there are no dual bounds for activation '{activation.spec}': its slopes are not"
                " known; use interval bounds"
            )
