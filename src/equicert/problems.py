"""Fixed-point problems: what a solver needs to know of the equation that it solves.

Three equations share one shape: the network's state, the embedded network's pair of bounds, and
their adjoints. Each comes in its full form `z = F(z)` and in the diagonally eliminated form, in
which every row's scalar equation is solved exactly (derived here).

Error bounds (derived here). Let A be the entrywise Lipschitz matrix of the eliminated map, so that
`A_ij <= |W_ij| / (1 - W_ii)`, and `g = eta - A eta > 0` the gaps of the contraction. If z has the
residual `|G(z) - z| <= t g`, then `|z - z*| <= t eta` entrywise, because `(I - A)^-1 >= 0`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from equicert.activations import Activation
from equicert.contraction import Contraction
from equicert.operators import Operator

# A change of so many units in the last place cannot be iterated away. Solvers leave it out of the
# bound that they stop on, and the rounding of the evaluation pays for it.
RESOLUTION = 4


class Problem(ABC):
    """A fixed-point equation on batches of rows z (batch, m)."""

    contraction: Contraction
    diagonal: Tensor  # (n,) of W, in the dtype of the solve

    @abstractmethod
    def full(self, z: Tensor) -> Tensor:
        """`F(z)`, diagonal included."""

    @abstractmethod
    def eliminated(self, z: Tensor) -> Tensor:
        """The same equation with each row's own term solved for: `G(z)`."""

    @abstractmethod
    def error_bound(self, residual: Tensor) -> Tensor:
        """(batch,) bound on the sup-norm error, from `G(z) - z` (batch, m); for z and for G(z)."""

    @abstractmethod
    def full_error_bound(self, residual: Tensor) -> Tensor:
        """The same from `F(z) - z`: `||z - z*|| <= ||F(z) - z|| / (1 - mu^+)`, weighted norm.

        It holds for every point that is no further from z* in that norm than z, too.
        """

    @abstractmethod
    def evaluation_error(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, m) each: how far rounding can move the computed `G(z)`, and `F(z)`."""

    @abstractmethod
    def start(self) -> Tensor:
        """(batch, m) where to begin when nothing better is known."""


class _Primal(Problem, ABC):
    """What the state and the embedded pair share: sup-norm bounds, weights repeated per bound."""

    activation: Activation
    u: Tensor

    @cached_property
    def _own(self) -> Tensor:
        """(m,) the diagonal, once per bound."""
        return _tile(self.diagonal, self.u)

    @cached_property
    def _scale(self) -> Tensor:
        """(m,) `max(eta) / gaps`."""
        return _tile(self.contraction.eta.amax() / self.contraction.gaps, self.u)

    def error_bound(self, residual: Tensor) -> Tensor:
        return (residual.abs() * self._scale).amax(-1)

    def full_error_bound(self, residual: Tensor) -> Tensor:
        eta = _tile(self.contraction.eta, self.u)
        t = (residual.abs() / eta).amax(-1) / self.contraction.gap
        return t * float(self.contraction.eta.amax())

    def start(self) -> Tensor:
        return torch.zeros_like(self.u)


@final
@dataclass(frozen=True)
class StateProblem(_Primal):
    """`z = phi(W z + u)`, eliminated: `z = psi(W_off z + u)`; z and u (batch, n)."""

    W_off: Operator
    diagonal: Tensor
    u: Tensor
    u_error: Tensor  # (batch, n) bound on the rounding error of u
    activation: Activation
    contraction: Contraction

    def full(self, z: Tensor) -> Tensor:
        return self.activation.phi(self.W_off.apply(z) + self.diagonal * z + self.u)

    def eliminated(self, z: Tensor) -> Tensor:
        return self.activation.psi(self.W_off.apply(z) + self.u, self.diagonal)

    def evaluation_error(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return _rounding(self, z, z.abs())


@final
@dataclass(frozen=True)
class EmbeddedProblem(_Primal):
    """The embedded network (6) of [J22] for rows (lo, hi), (batch, 2n), in centre-radius form.

    With c = (lo + hi)/2 and rho = (hi - lo)/2 the two lines of (6) read
    `phi(W c + u_c -+ (M rho + u_r))`, M the Metzler majorant: two products, not four (derived
    here). `u` holds `(u_c - u_r, u_c + u_r)`.
    """

    W_off: Operator
    magnitude: Operator  # |W_off|
    diagonal: Tensor
    u: Tensor
    u_error: Tensor
    activation: Activation
    contraction: Contraction

    def _drive(self, z: Tensor) -> tuple[Tensor, Tensor]:
        lo, hi = z.chunk(2, -1)
        centre = self.W_off.apply(0.5 * (lo + hi))
        radius = self.magnitude.apply(0.5 * (hi - lo))
        return centre - radius, centre + radius

    def full(self, z: Tensor) -> Tensor:
        return self.activation.phi(torch.cat(self._drive(z), -1) + self._own * z + self.u)

    def eliminated(self, z: Tensor) -> Tensor:
        return self.activation.psi(torch.cat(self._drive(z), -1) + self.u, self._own)

    def evaluation_error(self, z: Tensor) -> tuple[Tensor, Tensor]:
        lo, hi = z.abs().chunk(2, -1)
        return _rounding(self, z, 2 * torch.maximum(lo, hi).repeat(1, 2))


@final
@dataclass(frozen=True)
class AdjointProblem(Problem):
    """The adjoint `v = g + W^T D v` of either equation, D the slopes of phi at its solution.

    Eliminated: `v = (g + W_off^T D v) / (1 - W_ii D)`, the same unknown. In `y = (1 - W_ii D) v` it
    contracts in the dual norm: `sum_i g_i |e_i| <= sum_i eta_i |residual_i|`, g the gaps. For a
    pair (lo, hi) the transposed products act on sums and differences.
    """

    transposed: Operator  # W_off^T
    transposed_magnitude: Operator | None  # |W_off|^T for a pair
    diagonal: Tensor
    g: Tensor  # (batch, m) cotangent of z
    slope: Tensor  # (batch, m)
    contraction: Contraction

    def _back(self, p: Tensor) -> Tensor:
        if self.transposed_magnitude is None:
            return self.transposed.apply(p)
        p_lo, p_hi = p.chunk(2, -1)
        centre = 0.5 * self.transposed.apply(p_lo + p_hi)
        radius = 0.5 * self.transposed_magnitude.apply(p_hi - p_lo)
        return torch.cat([centre - radius, centre + radius], -1)

    @cached_property
    def _scale(self) -> Tensor:
        """`1 - W_ii D`, (batch, m)."""
        return 1 - _tile(self.diagonal, self.g) * self.slope

    @cached_property
    def _weights(self) -> tuple[Tensor, Tensor]:
        """What multiplies a residual and what divides the sum, in `error_bound`."""
        eta, gaps = _tile(self.contraction.eta, self.g), _tile(self.contraction.gaps, self.g)
        return eta * self._scale, (gaps * self._scale).amin(-1)

    def full(self, z: Tensor) -> Tensor:
        return self.g + self._back(self.slope * z) + (1 - self._scale) * z

    def eliminated(self, z: Tensor) -> Tensor:
        return (self.g + self._back(self.slope * z)) / self._scale

    def error_bound(self, residual: Tensor) -> Tensor:
        weight, divisor = self._weights
        return (residual.abs() * weight).sum(-1) / divisor

    def full_error_bound(self, residual: Tensor) -> Tensor:
        eta = _tile(self.contraction.eta, self.g)
        distance = (residual.abs() * eta).sum(-1) / self.contraction.gap
        return distance / float(self.contraction.eta.amin())

    def evaluation_error(self, z: Tensor) -> tuple[Tensor, Tensor]:
        unit = torch.finfo(z.dtype).eps
        size = (self.slope * z).abs().reshape(-1, len(self.diagonal))
        column = 2 * self.transposed.absolute().apply(size).reshape(z.shape)
        error = (self.transposed.terms + 8) * unit * (column + self.g.abs())
        value = (16 + RESOLUTION) * unit * z.abs()
        return (error + value) / self._scale + value, error + value * (1 + (1 - self._scale).abs())

    def start(self) -> Tensor:
        return self.g / self._scale


def drive_error(
    U: Operator,  # (n, r)
    size: Tensor,  # (batch, r) bound on |x|
    b: Tensor,  # (n,)
) -> Tensor:  # (batch, n)
    """A bound on the rounding error of `U x + b`: `gamma (|U| 1 max_j |x_j| + |b|)`."""
    unit = torch.finfo(b.dtype).eps
    largest = size.amax(-1, keepdim=True)
    return (U.terms + 2) * unit * (U.absolute_row_sums() * largest + b.abs())


def _rounding(
    problem: StateProblem | EmbeddedProblem,
    z: Tensor,  # (batch, m)
    size: Tensor,  # (batch, m) bound on the entries that the products run over
) -> tuple[Tensor, Tensor]:  # (batch, m) each
    """`gamma |W_off| |z| <= gamma (eta - g) (1 - W_ii) max_j |z_j|/eta_j`, then psi's or phi's.

    A root of `z = psi(...)` found to a residual of some units of z is off by 1/(1 - W_ii) times it.
    """
    eta, gaps = _tile(problem.contraction.eta, z), _tile(problem.contraction.gaps, z)
    own = _tile(problem.diagonal, z)
    unit = torch.finfo(z.dtype).eps
    products = (size / eta).amax(-1, keepdim=True) * (eta - gaps) * (1 - own)
    drive = (problem.W_off.terms + 8) * unit * (products + problem.u.abs()) + problem.u_error
    value = (16 + RESOLUTION) * unit * z.abs()
    return (drive + value) / (1 - own) + value, drive + value * (1 + own.abs())


def _tile(
    v: Tensor,  # (n,)
    like: Tensor,  # (batch, m), m = n or 2n
) -> Tensor:  # (m,)
    """v once per bound, in the type and on the device of `like`."""
    v = v.to(like)
    return v if like.shape[-1] == len(v) else v.repeat(like.shape[-1] // len(v))
