"""Activations: phi entrywise, weakly increasing, slope in [0, 1].

Each one knows its slope, the root `psi(r, d)` of the scalar equation `z = phi(d z + r)` (diagonal
elimination, derived here), and bounds on phi that hold in exact arithmetic.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equicert.errors import ModelError, nearest
from equicert.rounding import down, up
from equicert.scalar_roots import increasing_root

# torch's exp, tanh and log1p carry no proved error bound. We state one and widen by it: 2^-44
# relative (512 units in the last place) plus 2^-1000; tests hold it against rational enclosures.
_RELATIVE = 2.0**-44
_ABSOLUTE = 2.0**-1000


class Activation(ABC):
    """A scalar function phi, weakly increasing with slope in [0, beta], beta <= 1."""

    name: str
    beta: float = 1.0
    lower: float = -math.inf
    upper: float = math.inf
    slopes: tuple[float, float] | None = None  # if phi(t) = min(max(s t, lower), upper), s the
    # first of them for t < 0 and the second for t > 0

    @abstractmethod
    def phi(self, t: Tensor) -> Tensor:
        """`phi(t)` entrywise, any shape."""

    @abstractmethod
    def slope(self, t: Tensor) -> Tensor:
        """`phi'(t)` entrywise; at a kink one of the one-sided slopes."""

    def slope_at(self, z: Tensor, image: bool, preactivation: Callable[[Tensor], Tensor]) -> Tensor:
        """phi' at a solution z, `phi'(t)`, t its preactivation.

        Where z is an image, a value of psi, a piecewise-linear phi has its slope at z itself: both
        lie on the same piece.
        """
        return self.slope(z if image and self.slopes is not None else preactivation(z))

    def psi(self, r: Tensor, d: Tensor) -> Tensor:
        """The root z of `z = phi(d z + r)` for d < 1 (broadcastable); increasing in r.

        Smooth activations take bracketed Newton steps, piecewise-linear ones a closed form.
        """
        return increasing_root(self.phi, self.slope, r, d, self.beta, self.lower, self.upper)

    def root(self, d: Tensor) -> Callable[[Tensor], Tensor]:
        """`psi(., d)` with everything that depends on d alone computed once."""
        return lambda r: self.psi(r, d)

    def down(self, t: Tensor) -> Tensor:
        """A rigorous lower bound on `phi(t)`, t float64."""
        value = self.phi(t)
        return (value - value.abs() * _RELATIVE - _ABSOLUTE).clamp(self.lower, self.upper)

    def up(self, t: Tensor) -> Tensor:
        """A rigorous upper bound on `phi(t)`, t float64."""
        value = self.phi(t)
        return (value + value.abs() * _RELATIVE + _ABSOLUTE).clamp(self.lower, self.upper)

    @property
    def spec(self) -> str:
        """Canonical text, understood by `parse_activation`: 'relu', 'leaky_relu(0.01)'."""
        return self.name


@final
@dataclass(frozen=True)
class ReLU(Activation):
    """`max(t, 0)`."""

    name = "relu"
    lower = 0.0
    slopes = (0.0, 1.0)

    def phi(self, t: Tensor) -> Tensor:
        return t.clamp(min=0)

    def slope(self, t: Tensor) -> Tensor:
        return (t > 0).to(t.dtype)

    def psi(self, r: Tensor, d: Tensor) -> Tensor:
        return r.clamp(min=0) / (1 - d)

    def root(self, d: Tensor) -> Callable[[Tensor], Tensor]:
        factor = 1 / (1 - d)
        return lambda r: r.clamp(min=0).mul_(factor)

    def down(self, t: Tensor) -> Tensor:
        return self.phi(t)

    def up(self, t: Tensor) -> Tensor:
        return self.phi(t)


@final
@dataclass(frozen=True)
class LeakyReLU(Activation):
    """`max(t, 0) + a min(t, 0)` with a = negative_slope in [0, 1]."""

    negative_slope: float = 0.01
    name = "leaky_relu"

    @property
    def lower(self) -> float:  # type: ignore[override]
        return 0.0 if self.negative_slope == 0 else -math.inf

    @property
    def slopes(self) -> tuple[float, float]:  # type: ignore[override]
        return self.negative_slope, 1.0

    def __post_init__(self) -> None:
        _check_parameter(self.name, "negative_slope", self.negative_slope)

    def phi(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, t, self.negative_slope * t)

    def slope(self, t: Tensor) -> Tensor:
        one = torch.ones_like(t)
        return torch.where(t > 0, one, self.negative_slope * one)

    def psi(self, r: Tensor, d: Tensor) -> Tensor:
        a = self.negative_slope
        return torch.where(r > 0, r / (1 - d), a * r / (1 - a * d))

    def down(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, t, down(self.negative_slope * t)).clamp(min=self.lower)

    def up(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, t, up(self.negative_slope * t))

    @property
    def spec(self) -> str:
        return f"{self.name}({self.negative_slope!r})"


@final
@dataclass(frozen=True)
class HardTanh(Activation):
    """`min(max(t, -1), 1)`."""

    name = "hard_tanh"
    lower, upper = -1.0, 1.0
    slopes = (1.0, 1.0)

    def phi(self, t: Tensor) -> Tensor:
        return t.clamp(-1, 1)

    def slope(self, t: Tensor) -> Tensor:
        return (t.abs() < 1).to(t.dtype)

    def psi(self, r: Tensor, d: Tensor) -> Tensor:
        return (r / (1 - d)).clamp(-1, 1)

    def down(self, t: Tensor) -> Tensor:
        return self.phi(t)

    def up(self, t: Tensor) -> Tensor:
        return self.phi(t)


@final
@dataclass(frozen=True)
class Identity(Activation):
    """`t`."""

    name = "identity"
    slopes = (1.0, 1.0)

    def phi(self, t: Tensor) -> Tensor:
        return t

    def slope(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def psi(self, r: Tensor, d: Tensor) -> Tensor:
        return r / (1 - d)

    def down(self, t: Tensor) -> Tensor:
        return t

    def up(self, t: Tensor) -> Tensor:
        return t


@final
@dataclass(frozen=True)
class Tanh(Activation):
    """`tanh(t)`."""

    name = "tanh"
    lower, upper = -1.0, 1.0

    def phi(self, t: Tensor) -> Tensor:
        return torch.tanh(t)

    def slope(self, t: Tensor) -> Tensor:
        return 1 - torch.tanh(t).square()


@final
@dataclass(frozen=True)
class Sigmoid(Activation):
    """`1 / (1 + exp(-t))`; its slope is at most 1/4."""

    name = "sigmoid"
    beta = 0.25
    lower, upper = 0.0, 1.0

    def phi(self, t: Tensor) -> Tensor:
        return torch.sigmoid(t)

    def slope(self, t: Tensor) -> Tensor:
        return torch.sigmoid(t) * torch.sigmoid(-t)


@final
@dataclass(frozen=True)
class Softplus(Activation):
    """`log(1 + exp(t))`, without torch's shortcut for t > 20, which is off by exp(-20)."""

    name = "softplus"
    lower = 0.0

    def phi(self, t: Tensor) -> Tensor:
        return torch.logaddexp(t, torch.zeros_like(t))

    def slope(self, t: Tensor) -> Tensor:
        return torch.sigmoid(t)


@final
@dataclass(frozen=True)
class ELU(Activation):
    """`t` for t > 0, else `alpha (exp(t) - 1)`; non-expansive for alpha in [0, 1]."""

    alpha: float = 1.0
    name = "elu"

    def __post_init__(self) -> None:
        _check_parameter(self.name, "alpha", self.alpha)

    @property
    def lower(self) -> float:  # type: ignore[override]
        return -self.alpha

    def phi(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, t, self.alpha * torch.expm1(t.clamp(max=0)))

    def slope(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, torch.ones_like(t), self.alpha * torch.exp(t.clamp(max=0)))

    @property
    def spec(self) -> str:
        return f"{self.name}({self.alpha!r})"


_PLAIN: dict[str, type[Activation]] = {
    c.name: c for c in (ReLU, LeakyReLU, HardTanh, Identity, Tanh, Sigmoid, Softplus, ELU)
}
_PARAMETRIC: dict[str, type[LeakyReLU] | type[ELU]] = {"leaky_relu": LeakyReLU, "elu": ELU}
_REFUSED = {"silu", "swish", "gelu", "mish"}


def activation_of(value: Activation | str) -> Activation:
    """The activation, or the one of this name.

    Raises:
        ModelError: it is neither, or as `parse_activation`.
    """
    if isinstance(value, str):
        return parse_activation(value)
    if not isinstance(value, Activation):
        raise ModelError(f"activation must be a name or an Activation, got {value!r}")
    return value


def parse_activation(text: str) -> Activation:
    """The activation that a specification names: 'relu', 'tanh', 'leaky_relu(0.1)', 'elu(0.5)'.

    Raises:
        ModelError: unknown (the nearest known is named), a parameter out of range, or a function
            that is not monotone and non-expansive (SiLU, GELU, Mish), for which no theorem holds.
    """
    spec = text.strip().lower()
    match = re.fullmatch(r"([a-z_0-9-]+?)(?:\(([^()]*)\))?", spec)
    name, argument = (match[1].replace("-", "_"), match[2]) if match else (spec, None)
    name = {"leakyrelu": "leaky_relu", "hardtanh": "hard_tanh"}.get(name, name)
    if name in _REFUSED:
        raise ModelError(
            f"activation '{text}' is not monotone and non-expansive, so no certificate holds for"
            " it; use relu, leaky_relu, tanh, sigmoid, softplus, hard_tanh, elu or identity"
        )
    if name not in _PLAIN:
        raise ModelError(f"unknown activation '{text}'{nearest(name, _PLAIN)}")
    if argument is None:
        return _PLAIN[name]()
    if name not in _PARAMETRIC:
        raise ModelError(f"activation '{name}' takes no parameter, got '{text}'")
    try:
        return _PARAMETRIC[name](float(argument))
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"the parameter of activation '{text}' is not a number") from error


def _check_parameter(name: str, parameter: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ModelError(
            f"{name} needs {parameter} in [0, 1], got {value!r}: outside it the function is not"
            " monotone and non-expansive"
        )
