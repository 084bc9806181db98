"""Convolutions and blocks entry by entry, in plain loops from their definition, and networks."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from networks import Network
from proofs import Folder

Array = NDArray[np.float64]
Plane = list[list[int | None]]


@dataclass(frozen=True, eq=False)
class Stored:
    """A convolution as a model file holds it."""

    image: tuple[int, int, int]  # channels, height, width
    kernel: Array  # (out, channels, kh, kw)
    margins: tuple[int, int, int, int]  # above, below, left, right
    padding: str = "zeros"
    stride: int = 1
    diagonal: Array | None = None

    @property
    def structure(self) -> str:
        size, margins = "x".join(map(str, self.image)), " ".join(map(str, self.margins))
        text = f"convolution {size} stride {self.stride} {self.padding} {margins}"
        return text if self.diagonal is None else f"{text} diagonal"

    def tensors(self, name: str) -> dict[str, Array]:
        found = {f"{name}.kernel": self.kernel}
        return found if self.diagonal is None else found | {f"{name}.diagonal": self.diagonal}

    @property
    def output(self) -> tuple[int, int, int]:
        (_, height, width), (top, bottom, left, right) = self.image, self.margins
        out, _, kh, kw = self.kernel.shape
        s = self.stride
        return out, (height + top + bottom - kh) // s + 1, (width + left + right - kw) // s + 1

    def expanded(self) -> Array:
        """Every entry of the matrix; each is one of the kernel's, or 0: nothing is rounded."""
        A = np.zeros((int(np.prod(self.output)), int(np.prod(self.image))))
        planes = [self._padded(c) for c in range(self.image[0])]
        for row, (o, y, x) in enumerate(product(*map(range, self.output))):
            for c, i, j in product(*map(range, self.kernel.shape[1:])):
                column = planes[c][y * self.stride + i][x * self.stride + j]
                if column is not None:
                    assert A[row, column] == 0
                    A[row, column] = self.kernel[o, c, i, j]
        if self.diagonal is not None:
            A[np.diag_indices(len(A))] = self.diagonal
        return A

    def _padded(self, c: int) -> Plane:
        """The places in v of the numbers of one padded channel, None for a zero."""
        _, height, width = self.image
        top, bottom, left, right = self.margins
        plane: Plane = [[(c * height + y) * width + x for x in range(width)] for y in range(height)]
        if self.padding == "circular":
            tall = plane[height - top :] + plane + plane[:bottom]
            return [row[width - left :] + row + row[:right] for row in tall]
        wide: Plane = [[None] * left + row + [None] * right for row in plane]
        empty: list[int | None] = [None] * (left + width + right)
        return [list(empty) for _ in range(top)] + wide + [list(empty) for _ in range(bottom)]


@dataclass(frozen=True, eq=False)
class Blocked:
    """A matrix of blocks as a model file holds it; a block that is an array is dense."""

    shape: tuple[int, int]
    parts: list[tuple[int, int, Stored | Array]]  # first row, first column, block

    @property
    def structure(self) -> str:
        listed = [
            f"[{row}+{column} {block.structure if isinstance(block, Stored) else 'dense'}]"
            for row, column, block in self.parts
        ]
        return " ".join([f"blocks {self.shape[0]}x{self.shape[1]}", *listed])

    def tensors(self, name: str) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for k, (_, _, block) in enumerate(self.parts):
            own = f"{name}.{k}"
            found |= block.tensors(own) if isinstance(block, Stored) else {own: block}
        return found

    def expanded(self) -> Array:
        """Every entry of the matrix, none of which is of two blocks."""
        A, taken = np.zeros(self.shape), set[tuple[int, int]]()
        for row, column, block in self.parts:
            entries = block.expanded() if isinstance(block, Stored) else block
            for i, j in product(*map(range, entries.shape)):
                assert (row + i, column + j) not in taken
                taken.add((row + i, column + j))
                A[row + i, column + j] = entries[i, j]
        return A


def cut(A: Array, rng: random.Random) -> Blocked:
    """The same entries in one to four blocks; a square matrix is cut at one place of its diagonal.

    A block without entries that are not 0 is left out.
    """
    n, m = A.shape
    at = rng.randint(1, n)
    beside = at if n == m else rng.randint(1, m)
    parts = [
        (row, column, np.ascontiguousarray(A[row:end, column:stop]))
        for row, end in ((0, at), (at, n))
        for column, stop in ((0, beside), (beside, m))
    ]
    return Blocked((n, m), [part for part in parts if part[2].any()] or [(0, 0, A)])


def without_own(kernel: Array, margins: tuple[int, int, int, int]) -> Array:
    """The same kernel with zeros where the diagonal of the matrix is from."""
    found = kernel.copy()
    channels = np.arange(len(kernel))
    found[channels, channels, margins[0], margins[2]] = 0
    return found


@dataclass(frozen=True, eq=False)
class Convolutional(Network):
    """A dense network whose W and U are convolutions, too."""

    stored: tuple[Stored | None, Stored | None] = (None, None)


# Image, kernel size and margins of W; U's image, kernel size, stride and margins.
_SHAPES = [
    ((1, 2, 2), (2, 2), (0, 1, 1, 0), (1, 3, 3), (3, 2), 2, (1, 1, 0, 1)),
    ((2, 1, 2), (1, 2), (0, 0, 0, 1), (1, 1, 4), (1, 2), 2, (0, 0, 0, 0)),
    ((1, 1, 3), (1, 3), (0, 0, 1, 1), (2, 1, 1), (1, 1), 1, (0, 0, 1, 1)),
    ((3, 1, 1), (1, 1), (0, 0, 0, 0), (1, 2, 1), (2, 1), 3, (0, 0, 0, 0)),
]


def convolutional_network(rng: random.Random, activation: str, contracting: bool) -> Convolutional:
    """Small, with a diagonal that makes it contract at `eta`, or monotone at it as Lambda."""
    image, size, margins, source, U_size, stride, U_margins = rng.choice(_SHAPES)
    padding, dice = rng.choice(["zeros", "circular"]), np.random.default_rng(rng.randrange(1 << 30))
    n, scale = int(np.prod(image)), 0.7 if contracting else 2.0
    kernel = without_own(dice.normal(size=(image[0], image[0], *size)) * scale, margins)
    off = Stored(image, kernel, margins, padding).expanded()
    eta = 2.0 ** dice.uniform(-1, 1, n)
    if contracting:
        diagonal = 0.5 - np.abs(off) @ eta / eta
    else:
        weighted = eta[:, None] * np.abs(off)
        diagonal = -(weighted + weighted.T).sum(1) / (2 * eta)
    if rng.random() < 0.2 and contracting:  # the kernel's own, which shrinks in place of that
        kernel /= 2 * (np.abs(off) @ eta / eta).max() + 1
        W = Stored(image, kernel, margins, padding)
    else:
        W = Stored(image, kernel, margins, padding, diagonal=diagonal)
    shape = (image[0], source[0], *U_size)
    U = Stored(source, dice.normal(size=shape), U_margins, "zeros", stride)
    dense = W.expanded(), U.expanded()
    b, C, c = dice.normal(size=n) / 2, dice.normal(size=(3, n)), dice.normal(size=3)
    return Convolutional(
        "convolutional", *dense, b, C, c, activation, contracting, eta, stored=(W, U)
    )


def stored_so(
    folder: Folder, stored: tuple[Stored | Blocked | None, Stored | Blocked | None]
) -> Folder:
    """The same claims and records about the model with W or U stored in another way."""
    found = deepcopy(folder)
    tensors: dict[str, Array] = {}
    for name, operator in zip("WU", stored, strict=True):
        tensors |= {name: found.arrays[name]} if operator is None else operator.tensors(name)
    found.arrays = tensors | {name: found.arrays[name] for name in "bCc"}
    W, U = ("dense" if operator is None else operator.structure for operator in stored)
    found.structures = W, U
    return found
