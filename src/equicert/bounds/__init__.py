"""Methods that answer queries with rigorous bounds, passed as values."""

from equicert.bounds.base import Method
from equicert.bounds.interval import Interval
from equicert.bounds.lipschitz import Lipschitz, LipschitzRadius
from equicert.bounds.sign_split import SignSplit
from equicert.bounds.spectral import Spectral, SpectralAtPoint, SpectralLmi

__all__ = [
    "Interval",
    "Lipschitz",
    "LipschitzRadius",
    "Method",
    "SignSplit",
    "Spectral",
    "SpectralAtPoint",
    "SpectralLmi",
]
