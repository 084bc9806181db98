"""Linear operators: the only way in which networks reach their weights."""

from equicert.operators.base import Operator
from equicert.operators.dense import Dense

__all__ = ["Dense", "Operator"]
