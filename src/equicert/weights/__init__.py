"""Parametrisations of W: a space a file."""

from equicert.weights.base import Weight
from equicert.weights.contracting import Contracting
from equicert.weights.free import Free
from equicert.weights.lben import LBEN
from equicert.weights.monotone import Monotone

__all__ = ["LBEN", "Contracting", "Free", "Monotone", "Weight"]
