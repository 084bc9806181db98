"""Operator splitting for monotone networks: forward-backward and Peaceman-Rachford [WK20].

Both end each step at some t, and the distance of `W phi(t) + u` from t bounds the error of phi(t):
the step size alpha decides on the speed alone, never on the radius. In the Lambda-norm, with
`L = ||I - W||`, forward-backward contracts by `sqrt(1 - 2 alpha m + alpha^2 L^2)`, least at m/L^2,
and Peaceman-Rachford by `sqrt(1 - 4 alpha m / (1 + 2 alpha m + alpha^2 L^2))`, least at 1/L. There
2/L costs the worst network a quarter more steps, and takes trained ones a third fewer.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equicert.errors import ConfigError
from equicert.problems import MonotoneProblem, Problem, Step, monotone
from equicert.solvers.base import Solver


@dataclass(frozen=True)
class _SplittingSolver(Solver):
    """What the two share.

    Attributes:
        alpha: the step size; None takes m/L^2 and 2/L, see above.

    Raises:
        ConfigError: alpha not positive and finite.
    """

    alpha: float | None = None
    images = True
    splits = True
    remedy = "raise m"

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ConfigError(f"alpha must be positive and finite, got {self.alpha!r}")

    def step(
        self,
        problem: Problem,
        z: Tensor,  # (batch, n)
    ) -> tuple[Tensor, Tensor]:
        return self.stepper(problem)(z)

    def resolution(
        self,
        problem: Problem,
        z: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch,)
        form = monotone(problem)
        return form.resolution(z, self.size(form))

    def rounding(
        self,
        problem: Problem,
        z: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch,)
        form = monotone(problem)
        return form.evaluation_error(z, self.size(form))

    @abstractmethod
    def size(self, problem: MonotoneProblem) -> float:
        """The alpha that is used."""


@final
@dataclass(frozen=True)
class ForwardBackward(_SplittingSolver):
    """`z <- prox^alpha(z - alpha ((I - W) z - u))`; it converges for alpha in (0, 2 m/L^2)."""

    def stepper(self, problem: Problem) -> Step:
        form = monotone(problem)
        alpha = self.size(form)
        known: Tensor | None = None  # W z + u of the iterate that was returned last

        def step(z: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal known
            s = form.preactivation(z) if known is None else known
            moved = form.prox(torch.lerp(z, s, alpha), alpha)
            # The t with phi(t) = moved, (v - (1 - alpha) moved) / alpha, without cancellation.
            t = torch.add(s, z - moved, alpha=1 / alpha - 1)
            following, known, bound = form.land(t)
            return following, bound

        return step

    def size(self, problem: MonotoneProblem) -> float:
        m, largest = problem.splitting.proof.m, problem.splitting.largest
        return m / largest / largest if self.alpha is None else self.alpha

    def rate(self, problem: Problem) -> float:
        form = monotone(problem)
        alpha, m, largest = self.size(form), form.splitting.proof.m, form.splitting.largest
        return math.sqrt(max(1 - 2 * alpha * m + (alpha * largest) ** 2, 0.0))


@final
@dataclass(frozen=True)
class PeacemanRachford(_SplittingSolver):
    """`v <- R_W R_phi v`, reflections in the resolvents of both parts; `z = prox^alpha(v)`.

    It converges for every alpha > 0, by one factorisation of `I + alpha (I - W)` and two products a
    step, one of them for the bound.
    """

    def stepper(self, problem: Problem) -> Step:
        form = monotone(problem)
        alpha = self.size(form)
        resolvent = form.splitting.resolvent(alpha).mT
        drive = alpha * form.u
        state: tuple[Tensor, Tensor] | None = None  # v and prox^alpha(v)

        def step(z: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal state
            if state is None:  # v of a solution z, for others a beginning
                state = torch.lerp(z, form.preactivation(z), alpha), z
            v, moved = state
            reflected = 2 * moved - v
            v = torch.mm(reflected + drive, resolvent).mul_(2).sub_(reflected)
            moved = form.prox(v, alpha)
            state = v, moved
            following, _, bound = form.land(torch.lerp(moved, v, 1 / alpha))
            return following, bound

        return step

    def size(self, problem: MonotoneProblem) -> float:
        return 2 / problem.splitting.largest if self.alpha is None else self.alpha

    def rate(self, problem: Problem) -> float:
        form = monotone(problem)
        alpha, m, largest = self.size(form), form.splitting.proof.m, form.splitting.largest
        shrunk = 4 * alpha * m / (1 + 2 * alpha * m + (alpha * largest) ** 2)
        return math.sqrt(max(1 - shrunk, 0.0))
