"""The loop that all solvers share: stop each sample on its error radius, freeze it, report it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from equicert.errors import ConfigError
from equicert.problems import RESOLUTION, Problem
from equicert.solution import Solution


class Solver(ABC):
    """One step of an iteration, with the a posteriori bound that belongs to it."""

    @abstractmethod
    def step(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> tuple[Tensor, Tensor]:
        """(next iterate (batch, m), bound on its sup-norm error (batch,)), rounding aside."""

    @abstractmethod
    def rounding(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch,)
        """What the rounding of the last evaluation adds to the error bound."""

    @abstractmethod
    def rate(self, problem: Problem) -> float:
        """A proved contraction factor of the step, below 1: how slow it can be."""


def solve(
    problem: Problem,
    solver: Solver,
    tolerance: float,
    max_steps: int,
    start: Tensor | None = None,  # (batch, m)
) -> Solution:
    """Iterate until every sample's error radius is at most `tolerance` (sup-norm of z).

    A finished sample is frozen, so that its value does not depend on who shares the batch. A
    sample that becomes NaN, or is not done after max_steps, is reported as not converged; whether
    that is an error is the caller's policy.

    Raises:
        ConfigError: tolerance not positive, or max_steps < 1.
    """
    if not tolerance > 0:
        raise ConfigError(f"tolerance must be positive, got {tolerance!r}")
    if max_steps < 1:
        raise ConfigError(f"max_steps must be at least 1, got {max_steps}")
    z = problem.start() if start is None else start
    batch = z.shape[0]
    done = torch.zeros(batch, dtype=torch.bool, device=z.device)
    steps = torch.zeros(batch, dtype=torch.int64, device=z.device)
    radius = torch.full((batch,), torch.inf, dtype=z.dtype, device=z.device)
    residual = radius.clone()
    for k in range(max_steps if batch else 0):
        following, bound = solver.step(problem, z)
        change = (following - z).abs().amax(-1)
        if k == 0:
            z, radius, residual = following, bound, change
        else:
            z = torch.where(done[:, None], z, following)
            radius = torch.where(done, radius, bound)
            residual = torch.where(done, residual, change)
        steps += ~done
        done = done | (radius <= tolerance)
        if bool((done | radius.isnan()).all()):
            break
    rounding = solver.rounding(problem, z)
    slack = 1 + 16 * torch.finfo(z.dtype).eps  # for the arithmetic of the bound itself
    return Solution(z, residual, (radius + rounding) * slack, steps, done)


def reducible(
    residual: Tensor,  # (batch, m)
    z: Tensor,  # (batch, m)
) -> Tensor:  # (batch, m)
    """What further iteration can take off `|residual|`: all but the resolution of z itself."""
    return (residual.abs() - RESOLUTION * torch.finfo(z.dtype).eps * z.abs()).clamp(min=0)


def advice(problem: Problem, solver: Solver, solution: Solution, tolerance: float) -> str:
    """Why a solve may have missed its tolerance, and what would help."""
    rate, worst = solver.rate(problem), solution.worst_radius
    if not math.isfinite(worst):
        return "an iterate became NaN or infinite: look for extreme weights or inputs"
    steps = int(solution.steps.max()) if len(solution.steps) else 0
    if 0 < rate < 1:
        more = math.log(max(worst / tolerance, 1.0) + 1.0) / -math.log(rate)
        needed = f"at most about {more:.3g} more are needed; "
    else:  # it rounds to 1
        needed = "it is too close to 1 to tell how many more are needed; "
    return (
        f"stopped after {steps} steps at contraction rate {rate:.6g}: {needed}"
        "raise max_steps, loosen the tolerance, lower gamma, or solve in float64"
    )
