"""Fixed-point solvers, passed as values."""

from equicert.solvers.anderson import Anderson
from equicert.solvers.average import Average
from equicert.solvers.base import Solver, advice, solve
from equicert.solvers.picard import Picard
from equicert.solvers.splitting import ForwardBackward, PeacemanRachford

__all__ = [
    "Anderson",
    "Average",
    "ForwardBackward",
    "PeacemanRachford",
    "Picard",
    "Solver",
    "advice",
    "solve",
]
