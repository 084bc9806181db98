"""Fixed-point problems: what a solver needs to know of the equation that it solves."""

from equicert.problems.adjoint import AdjointProblem
from equicert.problems.base import (
    RESOLUTION,
    ContractingProblem,
    Problem,
    contracting,
    resolution,
)
from equicert.problems.monotone import MonotoneProblem, Splitting, monotone
from equicert.problems.primal import PrimalProblem, drive_error
from equicert.problems.stages import Substitution
from equicert.problems.sweep import Drive, Step, Sweep

__all__ = [
    "RESOLUTION",
    "AdjointProblem",
    "ContractingProblem",
    "Drive",
    "MonotoneProblem",
    "PrimalProblem",
    "Problem",
    "Splitting",
    "Step",
    "Substitution",
    "Sweep",
    "contracting",
    "drive_error",
    "monotone",
    "resolution",
]
