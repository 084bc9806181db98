"""The adjoint equation: what implicit differentiation solves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from equicert import kernels
from equicert.contraction import Contraction
from equicert.problems.base import ContractingProblem, rounding_of, tile
from equicert.problems.sweep import Drive, Step, Sweep


@final
@dataclass(frozen=True)
class AdjointProblem(ContractingProblem):
    """The adjoint `v = g + W^T D v` of either equation, D the slopes of phi at its solution.

    Eliminated: `v = (g + W_off^T D v) / (1 - W_ii D)`, the same unknown. In `y = (1 - W_ii D) v` it
    contracts in the dual norm: `sum_i g_i |e_i| <= sum_i eta_i |residual_i|`, g the gaps. For a
    pair (lo, hi) the transposed products act on sums and differences.
    """

    sweep: Sweep  # the transposed one
    diagonal: Tensor
    g: Tensor  # (batch, m) cotangent of z
    slope: Tensor  # (batch, m)
    contraction: Contraction

    @cached_property
    def drive(self) -> Drive:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.sweep.split(self.g)

    def weights(self, span: slice) -> Tensor:  # (batch, m')
        return self._columns(self.slope, span)

    def _columns(self, v: Tensor, span: slice) -> Tensor:  # (batch, m) -> (batch, m')
        return v.unflatten(1, (-1, len(self.diagonal)))[:, :, span].flatten(1)

    def part(self, span: slice, sweep: Sweep | None, drive: Drive) -> AdjointProblem:
        sweep = sweep or self.sweep  # of which `start` makes no use
        own, slope = self.diagonal[span], self.weights(span)
        return AdjointProblem(sweep, own, drive.rows(), slope, self.contraction.part(span))

    def widening(self, span: slice) -> Tensor:  # (batch,)
        eta, least = self.contraction.eta, (self._tiled(self.contraction.gaps) * self._scale)
        of_part = self._columns(least, span).amin(-1) / least.amin(-1)
        return of_part.clamp_(min=float(eta[span].amin() / eta.amin()))

    def widest(self, span: slice) -> float:
        # 1 - W_ii D lies between 1 and 1 - W_ii, whatever the slopes D are.
        eta, gaps, whole = self.contraction.eta, self.contraction.gaps, 1 - self.diagonal
        least = (gaps * whole.clamp(max=1)).amin()
        of_part = float((gaps * whole.clamp(min=1))[span].amin() / least)
        return max(of_part, float(eta[span].amin() / eta.amin()))

    def _tiled(self, v: Tensor) -> Tensor:  # (n,) -> (m,)
        return tile(v, self.g, self.g.shape[-1] // len(v))

    @cached_property
    def _own(self) -> Tensor:
        """`W_ii D`, (batch, m)."""
        return self._tiled(self.diagonal) * self.slope

    @cached_property
    def _scale(self) -> Tensor:
        """`1 - W_ii D`, (batch, m)."""
        return 1 - self._own

    @cached_property
    def _terms(self) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, m) each: 1/scale, what multiplies a residual in `error_bound`, and g/scale."""
        eta, gaps = self._tiled(self.contraction.eta), self._tiled(self.contraction.gaps)
        if kernels.usable(self.g, self.slope):
            return kernels.adjoint_terms(self.g, self.slope, self._tiled(self.diagonal), eta, gaps)
        inverse = self._scale.reciprocal()
        weights = eta * self._scale / (gaps * self._scale).amin(-1, keepdim=True)
        return inverse, weights, self.g * inverse

    def full(self, z: Tensor) -> Tensor:
        return self.sweep(z, self.drive, self.slope).rows().addcmul_(self._own, z)

    def eliminated(self, z: Tensor) -> Tensor:
        return self.sweep(z, self.drive, self.slope).rows().mul_(self._terms[0])

    def stepper(self) -> Step:
        if not kernels.usable(self.g, self.slope):
            return super().stepper()
        return self.sweep.stepper(self.drive, kernels.scaled(*self._terms[:2]), self.slope)

    def error_bound(self, residual: Tensor) -> Tensor:
        return residual.abs().mul_(self._terms[1]).sum(-1)

    def full_error_bound(self, residual: Tensor) -> Tensor:
        eta = self._tiled(self.contraction.eta)
        distance = residual.abs().mul_(eta).sum(-1) / self.contraction.gap
        return distance / float(self.contraction.eta.amin())

    def evaluation_error(self, z: Tensor) -> tuple[Tensor, Tensor]:
        unit = torch.finfo(z.dtype).eps
        size = (self.slope * z).abs().reshape(-1, len(self.diagonal))
        column = 2 * self.sweep.absolute.apply(size).reshape(z.shape)
        error = (self.sweep.off.terms + 8) * unit * (column + self.drive.magnitude())
        value = rounding_of(z, self.sweep.off.terms)
        return (error + value) / self._scale + value, error + value * (1 + self._own.abs())

    def start(self) -> Tensor:
        return self._terms[2]
