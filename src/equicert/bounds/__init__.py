"""Methods that answer queries with rigorous bounds, passed as values."""

from equicert.bounds.base import Method
from equicert.bounds.interval import Interval
from equicert.bounds.lipschitz import Lipschitz
from equicert.bounds.spectral import Spectral

__all__ = ["Interval", "Lipschitz", "Method", "Spectral"]
