"""Compiled loops for the CPU, where many small tensor operations would cost more than products.

They are used for float32 and float64 on the CPU, and agree with the tensor operations that do the
work elsewhere (on a GPU, in other types, without numba).
"""

from equicert.kernels.compiled import compiled, usable
from equicert.kernels.enclosing import (
    Linear,
    encloses,
    farthest,
    halves,
    inward,
    outward,
    surround,
    widen,
)
from equicert.kernels.inputs import centres
from equicert.kernels.steps import (
    Finish,
    Pieces,
    adjoint_terms,
    pieces,
    root,
    rows,
    scaled,
    settle,
    split,
    split_into,
    unit_rows,
)

__all__ = [
    "Finish",
    "Linear",
    "Pieces",
    "adjoint_terms",
    "centres",
    "compiled",
    "encloses",
    "farthest",
    "halves",
    "inward",
    "outward",
    "pieces",
    "root",
    "rows",
    "scaled",
    "settle",
    "split",
    "split_into",
    "surround",
    "unit_rows",
    "usable",
    "widen",
]
