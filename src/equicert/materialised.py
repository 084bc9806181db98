"""The operators of one moment of a network that is being trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from equicert.contraction import Contraction
from equicert.operators import Operator
from equicert.problems import Drive, Sweep, drive_error
from equicert.problems.sweep import centres_and_widths


@dataclass(frozen=True)
class Materialised:
    """The operators of one moment, with gradients to the parameters, and their proved contraction.

    Made once per training step and shared by the forward and the embedded solve.
    """

    W: Operator
    U: Operator
    b: Tensor
    contraction: Contraction

    @cached_property
    def diagonal(self) -> Tensor:  # (n,)
        """The diagonal of W, without history."""
        return self.W.detach().diagonal()

    @cached_property
    def sweep(self) -> Sweep:
        """W_off on states, without history: what the solvers iterate with."""
        return Sweep(self.W.detach().off_diagonal())

    @cached_property
    def pair_sweep(self) -> Sweep:
        """W_off on pairs of bounds, alone or behind a state."""
        return Sweep(self.sweep.off, self.sweep.off.absolute())

    def preactivation(
        self,
        z: Tensor,  # (batch, m)
        drive: Drive,
    ) -> Tensor:  # (batch, m)
        """`t = W z + u` on the rows z, which are held fixed, with history to W and to the drive."""
        if drive.radius is None:
            return self.W.affine(z, drive.centre)
        n = drive.radius.shape[-1]
        doubled, width = centres_and_widths(z, n)
        centre = self.W.affine(doubled.view(-1, n), drive.centre.reshape(-1, n), 0.5)
        radius = self.W.majorant().affine(width, drive.radius, 0.5)
        *state, middle = centre.view_as(drive.centre).split(n, -1)
        return torch.cat([*state, middle - radius, middle + radius], -1)

    def input_error(
        self,
        *points: Tensor,  # (batch, r) each
    ) -> Tensor:  # (batch, n)
        """The rounding error of `U x + b` at a point, or of centre and radius together of a box."""
        size = torch.stack([point.detach().abs() for point in points]).amax(0)
        return drive_error(self.U, len(points) * size, self.b)
