"""Linear operators: the only way in which networks reach their weights."""

from equicert.operators.base import Block, Operator, Stage
from equicert.operators.blocks import Blocks, stacked
from equicert.operators.convolution import Convolution
from equicert.operators.dense import Dense, fits_in_full, in_full
from equicert.operators.geometry import Geometry, Image, Margins
from equicert.operators.part import Part, part_of

__all__ = [
    "Block",
    "Blocks",
    "Convolution",
    "Dense",
    "Geometry",
    "Image",
    "Margins",
    "Operator",
    "Part",
    "Stage",
    "fits_in_full",
    "in_full",
    "part_of",
    "stacked",
]
