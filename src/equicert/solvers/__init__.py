"""Fixed-point solvers, passed as values."""

from equicert.solvers.anderson import Anderson
from equicert.solvers.average import Average
from equicert.solvers.base import Solver, advice, solve
from equicert.solvers.picard import Picard

__all__ = ["Anderson", "Average", "Picard", "Solver", "advice", "solve"]
