"""Models side by side: clean, attacked, and certified by every method that applies."""

from equicert.comparison.measurement import (
    METHODS,
    Attacked,
    Certified,
    Compared,
    Named,
    compare,
    refuse_contradictions,
)
from equicert.comparison.names import short_names

__all__ = [
    "METHODS",
    "Attacked",
    "Certified",
    "Compared",
    "Named",
    "compare",
    "refuse_contradictions",
    "short_names",
]
