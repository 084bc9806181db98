"""The relaxation behind dual bounds: graphs of psi over intervals, and its Lagrangian."""

from equicert.relaxation.ascent import Ascent, adjoint_start, rounded
from equicert.relaxation.graphs import Graph, PiecewiseLinear
from equicert.relaxation.lagrangian import Lagrangian, Rows, Stage
from equicert.relaxation.objectives import Objectives
from equicert.relaxation.smooth import Smooth

__all__ = [
    "Ascent",
    "Graph",
    "Lagrangian",
    "Objectives",
    "PiecewiseLinear",
    "Rows",
    "Smooth",
    "Stage",
    "adjoint_start",
    "rounded",
]
