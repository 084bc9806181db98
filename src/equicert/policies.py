"""What to do when a solve misses its tolerance: never silence."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import defaultdict

from equicert.errors import NotConvergedError
from equicert.solution import Solution


class ConvergenceWarning(UserWarning):
    """A solve in training missed its tolerance and the policy is to go on."""


class Policy(ABC):
    """Sees the outcome of every solve of a network, forward, embedded and adjoint."""

    @abstractmethod
    def observe(self, what: str, solution: Solution, advice: str) -> None:
        """Called after each solve; `advice` says what would help if it failed."""


class Raise(Policy):
    """Raise `NotConvergedError` (the default)."""

    def observe(self, what: str, solution: Solution, advice: str) -> None:
        if not bool(solution.converged.all()):
            raise failure(what, solution, advice)


class WarnAndCount(Policy):
    """Warn once per kind of solve, and count every sample that missed its tolerance in `missed`."""

    def __init__(self) -> None:
        self.missed: dict[str, int] = defaultdict(int)

    def observe(self, what: str, solution: Solution, advice: str) -> None:
        if not bool(solution.converged.all()):
            if not self.missed[what]:
                warnings.warn(str(failure(what, solution, advice)), ConvergenceWarning, 3)
            self.missed[what] += int((~solution.converged).sum())


class Tally(Policy):
    """Adds up steps per kind of solve and passes each outcome on to another policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._steps: dict[str, float] = defaultdict(float)
        self._solves: dict[str, int] = defaultdict(int)

    def observe(self, what: str, solution: Solution, advice: str) -> None:
        self._steps[what] += solution.mean_steps
        self._solves[what] += 1
        self.policy.observe(what, solution, advice)

    def mean_steps(self) -> dict[str, float]:
        """Mean steps per kind of solve since the last `reset`."""
        return {what: self._steps[what] / self._solves[what] for what in sorted(self._solves)}

    def reset(self) -> None:
        """Forget what was added up."""
        self._steps.clear()
        self._solves.clear()


class RowCount(Policy):
    """Counts the rows solved per kind of solve and passes each outcome on to another policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.rows: dict[str, int] = defaultdict(int)

    def observe(self, what: str, solution: Solution, advice: str) -> None:
        self.rows[what] += len(solution.converged)
        self.policy.observe(what, solution, advice)


def failure(what: str, solution: Solution, advice: str) -> NotConvergedError:
    """The error that describes an unconverged solution."""
    failed = int((~solution.converged).sum())
    return NotConvergedError(what, failed, len(solution.converged), solution.worst_radius, advice)
