"""Parametrisations of W: a space a file."""

from equicert.weights.base import Weight
from equicert.weights.contracting import Contracting
from equicert.weights.free import Free

__all__ = ["Contracting", "Free", "Weight"]
