"""Parametrisations of W: a space a file."""

from equicert.weights.base import Weight
from equicert.weights.confined import Confined
from equicert.weights.contracting import Contracting
from equicert.weights.convolutional import Convolutional
from equicert.weights.feed_forward import FeedForward
from equicert.weights.fixed import Fixed, weight_of
from equicert.weights.free import Free
from equicert.weights.inputs import (
    ConvolutionalInput,
    DenseInput,
    InputMap,
    PlacedInput,
    input_map_of,
)
from equicert.weights.lben import LBEN
from equicert.weights.monotone import Monotone
from equicert.weights.row_sum import RowSum

__all__ = [
    "LBEN",
    "Confined",
    "Contracting",
    "Convolutional",
    "ConvolutionalInput",
    "DenseInput",
    "FeedForward",
    "Fixed",
    "Free",
    "InputMap",
    "Monotone",
    "PlacedInput",
    "RowSum",
    "Weight",
    "input_map_of",
    "weight_of",
]
