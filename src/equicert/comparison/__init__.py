"""Models side by side: clean, attacked, and certified by every method that applies."""

from equicert.comparison.measurement import METHODS, compare, refuse_contradictions
from equicert.comparison.names import short_names
from equicert.comparison.results import Attacked, Certified, Compared, Named

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
