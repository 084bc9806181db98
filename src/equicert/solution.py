"""What a fixed-point solve returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """The outcome of a solve, per sample: who shares the batch does not matter.

    Attributes:
        value: (batch, m) the last iterate; each sample is frozen where it reached its tolerance.
        bound: (batch,) the part of the radius that iterating can reduce.
        steps: (batch,) int64, applications of the map.
        converged: (batch,) bool, whether `bound` is at most the tolerance. Rounding below the
            tolerance is the dtype's affair.
        change: gives (batch, m) what one more application would add to value, on the form that the
            solver iterates.
        rounding: gives (batch,) the part of the radius that the rounding of an evaluation adds.
    """

    value: Tensor
    bound: Tensor
    steps: Tensor
    converged: Tensor
    change: Callable[[], Tensor]
    rounding: Callable[[], Tensor]

    @cached_property
    def residual(self) -> Tensor:
        """(batch,) sup-norm of `change`."""
        return self.change().abs().amax(-1)

    @cached_property
    def radius(self) -> Tensor:
        """(batch,) bound on the sup-norm distance of value to the exact fixed point.

        From the residual by the a posteriori bound of the same form, rounding included. Infinite or
        NaN where nothing is known.
        """
        slack = 1 + 16 * torch.finfo(self.value.dtype).eps  # for the arithmetic of the bound itself
        return (self.bound + self.rounding()) * slack

    @property
    def mean_steps(self) -> float:
        """Mean number of applications of the map per sample; 0 for an empty batch."""
        return float(self.steps.double().mean()) if len(self.steps) else 0.0

    @property
    def worst_radius(self) -> float:
        """The largest radius in the batch, NaN if one is NaN; 0 for an empty batch."""
        return float(torch.amax(self.radius)) if len(self.radius) else 0.0
