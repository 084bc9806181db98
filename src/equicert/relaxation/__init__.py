"""The relaxation behind dual bounds: graphs of psi over intervals, and its Lagrangian."""

from equicert.relaxation.ascent import Ascent, adjoint_start, rounded
from equicert.relaxation.graphs import Graph, PiecewiseLinear
from equicert.relaxation.lagrangian import Lagrangian, Rows
from equicert.relaxation.objectives import Objectives

__all__ = [
    "Ascent",
    "Graph",
    "Lagrangian",
    "Objectives",
    "PiecewiseLinear",
    "Rows",
    "adjoint_start",
    "rounded",
]
