"""The loop that all solvers share: stop each sample on its error radius, freeze it, report it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial

import torch
from torch import Tensor

from equicert import kernels
from equicert.errors import ConfigError
from equicert.problems import ContractingProblem, Problem, Step, Substitution
from equicert.solution import Solution

_ALLOWANCE_EVERY = 8  # steps: what stalls on the resolution of z wastes at most so many


class Solver(ABC):
    """One step of an iteration, with the a posteriori bound that belongs to it."""

    images = False  # whether iterates are values of psi, 0 exactly where a ReLU gives 0
    splits = False  # whether it solves the monotone form
    remedy = "lower gamma"  # what makes the network easier for it

    @abstractmethod
    def step(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> tuple[Tensor, Tensor]:
        """(next iterate (batch, m), bound on its sup-norm error (batch,)), rounding aside."""

    def stepper(self, problem: Problem) -> Step:
        """The steps of one solve, as a function from each iterate to what `step` returns.

        What it returns may be overwritten by the second step after it.
        """
        return partial(self.step, problem)

    @abstractmethod
    def resolution(
        self,
        problem: Problem,
        z: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch,)
        """The part of the bound that iterating cannot reduce: z changes by units in its last place.

        `rounding` must cover it, since what is left of the bound is compared with the tolerance.
        """

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
    if start is None and isinstance(problem, ContractingProblem) and problem.sweep.off.stages:
        return _in_stages(problem, solver, tolerance, max_steps)
    z = problem.start() if start is None else start
    step, allowance, outcome = solver.stepper(problem), None, _Outcome(z, tolerance)
    for k in range(1, max_steps + 1 if len(z) else 1):
        following, bound = step(z)
        # Before a feed-forward network's last layer is reached, a small bound on its error is none.
        if k % _ALLOWANCE_EVERY == 0 and k >= problem.depth:
            allowance = solver.resolution(problem, following)
        if allowance is not None:
            bound = (bound - allowance).clamp_(min=0)
        z = outcome.freeze(z, following, bound, k)
        if outcome.finished:
            break
    return _solution(problem, solver, z, outcome.bound, outcome.steps, outcome.bound <= tolerance)


def _in_stages(
    problem: ContractingProblem, solver: Solver, tolerance: float, max_steps: int
) -> Solution:
    """By substitution: one evaluation, and so one step, for a stage without an own equation.

    Errors add up (derived here): if earlier stages are off by `t eta`, they move the solution of a
    stage by at most `t eta` there, and its own solve leaves it off by `t' eta`. So does what each
    solve leaves to the rounding, which is therefore counted once a solve.
    """
    substitution = Substitution(problem)
    bound = problem.drive.centre.new_zeros(len(problem.drive.centre))
    converged, steps = bound == 0, torch.zeros_like(bound, dtype=torch.int64)
    solves = sum(stage.own is not None for stage in substitution.stages)
    for stage in substitution.stages:
        part = substitution.part(stage)
        if stage.own is None:
            rows, steps = part.start(), steps + 1
        else:
            share = tolerance / (problem.widest(stage.span) * solves)
            found = solve(part, solver, share, max_steps)
            rows, steps, converged = found.value, steps + found.steps, converged & found.converged
            bound = bound + found.bound * problem.widening(stage.span)
        substitution.put(stage, rows)
    z = substitution.rows
    # What is NaN or infinite is no solution, and no bound says so where every stage is explicit.
    finite = z.isfinite().all(-1)
    bound = torch.where(finite, bound, torch.nan)
    return _solution(problem, solver, z, bound, steps, converged & finite, max(solves, 1))


def _solution(
    problem: Problem,
    solver: Solver,
    z: Tensor,  # (batch, m)
    bound: Tensor,  # (batch,)
    steps: Tensor,  # (batch,)
    converged: Tensor,  # (batch,)
    solves: int = 1,  # that left something to the rounding
) -> Solution:
    """The solution with its residual and rounding, which are computed where they are asked for."""
    return Solution(
        z,
        bound,
        steps,
        converged,
        lambda: solver.step(problem, z)[0] - z,
        lambda: solver.rounding(problem, z) * solves,
    )


class _Outcome:
    """The bookkeeping of a solve."""

    def __init__(self, z: Tensor, tolerance: float) -> None:
        self.tolerance = tolerance
        self.bound = z.new_full((len(z),), torch.inf)
        self.steps = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        self.finished = False
        self._going = torch.ones(len(z), dtype=torch.bool, device=z.device)
        self._arrays = (
            (self.bound.numpy(), self.steps.numpy(), self._going.numpy())
            if kernels.usable(z)
            else None
        )

    def freeze(
        self,
        z: Tensor,  # (batch, m)
        following: Tensor,  # (batch, m), may be overwritten
        bound: Tensor,  # (batch,) of following
        k: int,
    ) -> Tensor:  # (batch, m)
        """The iterate after k steps; samples that finished before keep theirs."""
        if self._arrays is not None:
            left = kernels.settle(z, (following, bound), self._arrays, self.tolerance, k)
            self.finished = not left
            return following
        self.bound = torch.where(self._going, bound, self.bound)
        self.steps += self._going
        z = torch.where(self._going[:, None], following, z)
        self._going = self._going & (bound > self.tolerance)  # false for NaN, too
        self.finished = not bool(self._going.any())
        return z


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
        f"raise max_steps, loosen the tolerance, {solver.remedy}, or solve in float64"
    )
