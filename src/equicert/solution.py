"""What a fixed-point solve returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """The outcome of a solve, per sample: who shares the batch does not matter.

    Attributes:
        value: (batch, m) the last iterate; each sample is frozen where it reached its tolerance.
        residual: (batch,) sup-norm of the last change, on the form that the solver iterates.
        radius: (batch,) bound on the sup-norm distance of value to the exact fixed point, from the
            residual by the a posteriori bound of the same form, the rounding of the last
            evaluation included. Infinite or NaN where nothing is known.
        steps: (batch,) int64, applications of the map.
        converged: (batch,) bool, whether the part of the radius that iterating can reduce is at
            most the tolerance. Rounding below the tolerance is the dtype's affair.
    """

    value: Tensor
    residual: Tensor
    radius: Tensor
    steps: Tensor
    converged: Tensor

    @property
    def mean_steps(self) -> float:
        """Mean number of applications of the map per sample; 0 for an empty batch."""
        return float(self.steps.double().mean()) if len(self.steps) else 0.0

    @property
    def worst_radius(self) -> float:
        """The largest radius in the batch, NaN if one is NaN; 0 for an empty batch."""
        return float(torch.amax(self.radius)) if len(self.radius) else 0.0
