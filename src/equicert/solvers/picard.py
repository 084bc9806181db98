"""Picard iteration on the diagonally eliminated form: the default solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from equicert.problems import Problem, Step, contracting, resolution
from equicert.solvers.base import Solver


@final
@dataclass(frozen=True)
class Picard(Solver):
    """`z <- psi(W_off z + u)`: no step size, and each row's own equation solved exactly.

    Contracts with factor `max_i sum_{j != i} (eta_j/eta_i)|W_ij| / (1 - W_ii)` (derived here).
    """

    images = True

    def step(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> tuple[Tensor, Tensor]:
        return contracting(problem).stepper()(z)

    def stepper(self, problem: Problem) -> Step:
        return contracting(problem).stepper()

    def resolution(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch,)
        return contracting(problem).error_bound(resolution(z))

    def rounding(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch,)
        form = contracting(problem)
        return form.error_bound(form.evaluation_error(z)[0])

    def rate(self, problem: Problem) -> float:
        return contracting(problem).contraction.rate
