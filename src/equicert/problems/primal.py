"""The equation of the state, of the embedded network's bounds, or of both together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import final

import torch
from torch import Tensor

from equicert import kernels
from equicert.activations import Activation
from equicert.contraction import Contraction
from equicert.operators import Operator
from equicert.problems.adjoint import AdjointProblem
from equicert.problems.base import ContractingProblem, rounding_of, tile
from equicert.problems.sweep import Drive, Step, Sweep


@final
@dataclass(frozen=True)
class PrimalProblem(ContractingProblem):
    """`z = phi(W z + u)`, eliminated `z = psi(W_off z + u)`, and the embedded network (6) of [J22].

    The rows are those of the sweep: z, (lo, hi) or (z, lo, hi), each block of n entries with the
    same diagonal and the same weights eta.

    Attributes:
        drive: u, (batch, m) as rows.
        u_error: gives (batch, m) bounds on the rounding error of u's rows; asked only where a
            radius is wanted.
    """

    sweep: Sweep
    diagonal: Tensor
    drive: Drive
    u_error: Callable[[], Tensor]
    activation: Activation
    contraction: Contraction

    @cached_property
    def u(self) -> Tensor:  # (batch, m)
        """The drive as rows."""
        return self.drive.rows()

    @cached_property
    def _own(self) -> Tensor:
        """(m,) the diagonal, once per block."""
        return self._tiled(self.diagonal)

    @cached_property
    def _root(self) -> Callable[[Tensor], Tensor]:
        return self.activation.root(self._own)

    @cached_property
    def _pieces(self) -> kernels.Pieces | None:
        """psi for the compiled loops, where they and phi allow it."""
        slopes, phi = self.activation.slopes, self.activation
        if slopes is None or not kernels.usable(self.drive.centre):
            return None
        return kernels.pieces(slopes, (phi.lower, phi.upper), self.diagonal)

    @cached_property
    def _scale(self) -> Tensor:
        """(m,) `max(eta) / gaps`."""
        return self._tiled(self.contraction.scale)

    @cached_property
    def _eta(self) -> Tensor:
        return self._tiled(self.contraction.eta)

    def adjoint(
        self,
        g: Tensor,  # (batch, m) cotangent of z
        slope: Tensor,  # (batch, m) phi' at the solution
    ) -> AdjointProblem:
        """`v = g + W^T D v`; `D v` is the cotangent of the preactivation."""
        return AdjointProblem(self.sweep.transposed, self.diagonal, g, slope, self.contraction)

    def _tiled(self, v: Tensor) -> Tensor:  # (n,) -> (m,)
        return tile(v, self.drive.centre, self.drive.blocks(len(v)))

    def weights(self, span: slice) -> None:
        del span

    def part(self, span: slice, sweep: Sweep | None, drive: Drive) -> PrimalProblem:
        sweep = sweep or self.sweep  # of which `start` makes no use
        own, contraction = self.diagonal[span], self.contraction.part(span)
        rounding = partial(torch.zeros, 1)  # that of the whole is counted once, at the end
        return PrimalProblem(sweep, own, drive, rounding, self.activation, contraction)

    def widening(self, span: slice) -> float:
        return float(self.contraction.eta.amax() / self.contraction.eta[span].amax())

    def widest(self, span: slice) -> float:
        return self.widening(span)

    def full(self, z: Tensor) -> Tensor:
        return self.activation.phi(self._preactivation(z))

    def slope(
        self,
        z: Tensor,  # (batch, m)
        image: bool,
    ) -> Tensor:  # (batch, m)
        """phi' at the solution z; whether that is an image, see `Activation.slope_at`."""
        return self.activation.slope_at(z, image, self._preactivation)

    def _preactivation(self, z: Tensor) -> Tensor:
        return self.sweep(z, self.drive).rows().addcmul_(self._own, z)

    def eliminated(self, z: Tensor) -> Tensor:
        return self._root(self.sweep(z, self.drive).rows())

    def stepper(self) -> Step:
        if self._pieces is None:
            return super().stepper()
        return self.sweep.stepper(self.drive, kernels.root(self._pieces, self._scale))

    def error_bound(self, residual: Tensor) -> Tensor:
        return residual.abs().mul_(self._scale).amax(-1)

    def full_error_bound(self, residual: Tensor) -> Tensor:
        t = residual.abs().div_(self._eta).amax(-1)
        return t * (float(self.contraction.eta.amax()) / self.contraction.gap)

    def start(self) -> Tensor:
        if self._pieces is None:
            return self._root(self.u)
        return kernels.rows(self.drive.centre, self.drive.radius, self._pieces)

    def evaluation_error(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`gamma |W_off| |z| <= gamma (eta - g) (1 - W_ii) max_j |z_j|/eta_j`, then psi's or phi's.

        A root of `z = psi(...)` found to a residual of some units of z is off by 1/(1 - W_ii)
        times it. A pair is multiplied as centre and radius, each at most the larger of its ends.
        """
        eta, own = self._eta, self._own
        unit = torch.finfo(z.dtype).eps
        norms = (z.abs() / eta).unflatten(-1, (-1, len(self.diagonal))).amax(-1)  # per block
        if norms.shape[-1] > 1:
            norms[:, -2:] = 2 * norms[:, -2:].amax(-1, keepdim=True)
        size = norms.repeat_interleave(len(self.diagonal), -1)
        products = size * (eta - self._tiled(self.contraction.gaps)) * (1 - own)
        drive = (self.sweep.off.terms + 8) * unit * (products + self.drive.magnitude())
        drive = drive + self.u_error()
        value = rounding_of(z, self.sweep.off.terms)
        return (drive + value) / (1 - own) + value, drive + value * (1 + own.abs())


def drive_error(
    U: Operator,  # (n, r)
    size: Tensor,  # (batch, r) bound on |x|
    b: Tensor,  # (n,)
) -> Tensor:  # (batch, n)
    """A bound on the rounding error of `U x + b`: `gamma (|U| 1 max_j |x_j| + |b|)`."""
    U, b = U.detach(), b.detach()
    unit = torch.finfo(b.dtype).eps
    largest = size.amax(-1, keepdim=True)
    return (U.terms + 2) * unit * (U.absolute_row_sums() * largest + b.abs())
