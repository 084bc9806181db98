"""Fixed-point problems: what a solver needs to know of the equation that it solves."""

from equicert.problems.adjoint import AdjointProblem
from equicert.problems.base import RESOLUTION, Problem, resolution
from equicert.problems.primal import PrimalProblem, drive_error
from equicert.problems.sweep import Drive, Step, Sweep

__all__ = [
    "RESOLUTION",
    "AdjointProblem",
    "Drive",
    "PrimalProblem",
    "Problem",
    "Step",
    "Sweep",
    "drive_error",
    "resolution",
]
