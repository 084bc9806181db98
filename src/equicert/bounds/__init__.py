"""Methods that answer queries with bounds, passed as values; all but one rigorously."""

from equicert.bounds.auto import Auto
from equicert.bounds.base import Method
from equicert.bounds.complete import Complete, Tightening
from equicert.bounds.dual import Dual
from equicert.bounds.interval import Interval
from equicert.bounds.lipschitz import Lipschitz, LipschitzRadius
from equicert.bounds.semidefinite import Semidefinite
from equicert.bounds.sign_split import SignSplit
from equicert.bounds.spectral import Spectral, SpectralAtPoint, SpectralLmi

__all__ = [
    "Auto",
    "Complete",
    "Dual",
    "Interval",
    "Lipschitz",
    "LipschitzRadius",
    "Method",
    "Semidefinite",
    "SignSplit",
    "Spectral",
    "SpectralAtPoint",
    "SpectralLmi",
    "Tightening",
]
