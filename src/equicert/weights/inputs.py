"""How x enters: what the parameter U of a network stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from torch import Tensor

from equicert.errors import InputError, ModelError
from equicert.operators import (
    Blocks,
    Convolution,
    Dense,
    Geometry,
    Image,
    Operator,
    stacked,
)


class InputMap(ABC):
    """A value that turns the parameter U, of shape `parameter`, into an operator (n, r)."""

    parameter: tuple[int, ...]  # the first entry counts rows or channels, the others a row's terms

    @abstractmethod
    def operator(self, U: Tensor) -> Operator:
        """The operator of U, with gradients to it."""

    def check(self, U: Tensor, hidden: int, inputs: int) -> None:
        """Raise InputError unless it takes so many inputs to so many states."""
        found = self.operator(U).shape
        if found != (hidden, inputs):
            raise InputError(
                f"the input map takes {found[1]} inputs to {found[0]} states, the network has"
                f" {inputs} and {hidden}"
            )


@final
@dataclass(frozen=True)
class DenseInput(InputMap):
    """U is the matrix.

    Attributes:
        parameter: (n, r).
    """

    parameter: tuple[int, int]

    def operator(self, U: Tensor) -> Dense:
        return Dense(U)


@final
@dataclass(frozen=True)
class ConvolutionalInput(InputMap):
    """U is the kernel of a convolution of the input image.

    Attributes:
        parameter: (out, channels, kh, kw) of the kernel.
        geometry: of the input image.

    Raises:
        ModelError: the kernel does not fit.
    """

    parameter: tuple[int, int, int, int]
    geometry: Geometry

    def __post_init__(self) -> None:
        self.geometry.output(self.parameter)

    @property
    def states(self) -> Image:
        """The image of the states."""
        return self.geometry.output(self.parameter)

    def operator(self, U: Tensor) -> Convolution:
        return Convolution(U, self.geometry)


@final
@dataclass(frozen=True)
class PlacedInput(InputMap):
    """U is 0 but for the first states, which another map takes x to.

    Attributes:
        first: that map.
        states: n, of the whole network.
    """

    first: InputMap
    states: int

    @property
    def parameter(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the first states' map."""
        return self.first.parameter

    def operator(self, U: Tensor) -> Blocks:
        A = self.first.operator(U)
        return stacked((self.states, A.shape[1]), [(0, 0, A)])


def input_map_of(U: Operator) -> tuple[InputMap, Tensor]:
    """The map of a stored operator, and the parameter that gives it.

    Raises:
        ModelError: an operator of another structure.
    """
    if isinstance(U, Dense):
        return DenseInput(U.shape), U.A
    if isinstance(U, Convolution) and U.own is None:
        out, channels, height, width = U.kernel.shape
        return ConvolutionalInput((out, channels, height, width), U.geometry), U.kernel
    if isinstance(U, Blocks) and len(U.blocks) == 1 and U.blocks[0][:2] == (0, 0):
        first, entries = input_map_of(U.blocks[0].A)
        return PlacedInput(first, U.shape[0]), entries
    raise ModelError(f"U has the structure '{U.structure}', which no network is made with")
