"""The average iteration of [J22], Theorem 5.1: the reference solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equicert.errors import ConfigError
from equicert.problems import Problem, contracting, resolution
from equicert.solvers.base import Solver


@final
@dataclass(frozen=True)
class Average(Solver):
    """`z <- (1 - alpha) z + alpha N(z, x)`.

    Contracts at rate `1 - alpha (1 - mu^+)` for `0 < alpha <= 1/(1 - min_i min(W_ii, 0))`
    ([J22], Thm 5.1). `alpha=None` takes that largest step.

    Raises:
        ConfigError: on use, alpha outside that interval.
    """

    alpha: float | None = None

    def _alpha(self, problem: Problem) -> float:
        largest = contracting(problem).largest_step
        if self.alpha is None:
            return largest
        if not 0 < self.alpha <= largest:
            raise ConfigError(
                f"alpha = {self.alpha!r} is outside (0, {largest:.6g}], where the average iteration"
                " of this network contracts; leave it out to take the largest"
            )
        return self.alpha

    def step(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> tuple[Tensor, Tensor]:
        alpha = self._alpha(problem)
        form = contracting(problem)
        residual = form.full(z) - z
        return torch.add(z, residual, alpha=alpha), form.full_error_bound(residual)

    def resolution(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch,)
        return contracting(problem).full_error_bound(resolution(z))

    def rounding(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch,)
        form = contracting(problem)
        return form.full_error_bound(form.evaluation_error(z)[1])

    def rate(self, problem: Problem) -> float:
        return 1 - self._alpha(problem) * contracting(problem).contraction.gap
