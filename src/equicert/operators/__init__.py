"""Linear operators: the only way in which networks reach their weights."""

from equicert.operators.base import Operator
from equicert.operators.convolution import Convolution
from equicert.operators.dense import Dense
from equicert.operators.geometry import Geometry, Image, Margins
from equicert.operators.part import Part, part_of

__all__ = ["Convolution", "Dense", "Geometry", "Image", "Margins", "Operator", "Part", "part_of"]
