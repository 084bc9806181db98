"""How W and U are stored: as they are, or as the kernel of a convolution.

A convolution maps an image (channels, height, width) to one, both as vectors in C order:

    (A v)[o, y, x] = sum_{c, i, j} kernel[o, c, i, j] v_padded[c, y stride + i, x stride + j],

v_padded being v with zeros, or wrapped around, on margins of the stated widths. A wrapped image is
no smaller than the kernel, so that no two terms of an output are of one entry of v: the entries of
the matrix A are entries of the kernel, or 0. Where the diagonal is stored, too, A has that diagonal
in place of the kernel's.
"""

from __future__ import annotations

import math
import re
from array import array
from dataclasses import dataclass
from typing import TypeAlias

from equicert.checker.files import Array, UnreadableError

_CELLS = 1 << 22  # numbers of a padded image
_TERMS = 1 << 26  # of all outputs together
_NUMBER = "(0|[1-9][0-9]{0,8})"
_CONVOLUTION = re.compile(
    f"convolution {_NUMBER}x{_NUMBER}x{_NUMBER} stride {_NUMBER} (zeros|circular)"
    f" {_NUMBER} {_NUMBER} {_NUMBER} {_NUMBER}( diagonal)?"
)


@dataclass(frozen=True)
class Dense:
    """A matrix in C order."""

    rows: int
    columns: int
    values: array[float]

    structure = "dense"

    def tensors(self, name: str) -> dict[str, Array]:
        """What is stored, by the names that it has in a file."""
        return {name: Array((self.rows, self.columns), self.values)}


@dataclass(frozen=True)
class Convolution:
    """The matrix of a convolution."""

    structure: str
    image: tuple[int, int, int]  # channels, height, width
    stride: int
    circular: bool
    margins: tuple[int, int, int, int]  # above, below, left, right
    kernel: Array  # (out, channels, kh, kw)
    diagonal: Array | None  # (rows,) in place of its own

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the padded image."""
        (_, height, width), (top, bottom, left, right) = self.image, self.margins
        return height + top + bottom, width + left + right

    @property
    def output(self) -> tuple[int, int, int]:
        """Channels, height and width of the image that it gives."""
        (height, width), (out, _, kh, kw) = self.padded, self.kernel.shape
        return out, (height - kh) // self.stride + 1, (width - kw) // self.stride + 1

    @property
    def rows(self) -> int:
        """The number of outputs."""
        return math.prod(self.output)

    @property
    def columns(self) -> int:
        """The number of inputs."""
        return math.prod(self.image)

    def own_taps(self) -> range:
        """Where the kernel has the terms `[o, o, top, left]`, those of the diagonal of A.

        It is about a convolution of stride 1 from images to images of one size: output (o, y, x)
        has the term v[o, y, x] from i = top and j = left, and from nowhere else.
        """
        out, _, kh, kw = self.kernel.shape
        first = self.margins[0] * kw + self.margins[2]
        return range(first, out * out * kh * kw, (out + 1) * kh * kw)

    def tensors(self, name: str) -> dict[str, Array]:
        """What is stored, by the names that it has in a file."""
        found = {f"{name}.kernel": self.kernel}
        return found if self.diagonal is None else found | {f"{name}.diagonal": self.diagonal}


Matrix: TypeAlias = "Dense | Convolution"


def split(where: str, text: str | None) -> tuple[str, str]:
    """The structures of W and U: "dense" for both, or `W:<structure>;U:<structure>`."""
    if text == "dense":
        return "dense", "dense"
    W, _, U = (text or "").removeprefix("W:").partition(";U:")
    if text != f"W:{W};U:{U}" or W == U == "dense":
        raise UnreadableError(f"{where}: there is no structure {str(text)[:160]!r}")
    return W, U


def names(name: str, structure: str) -> list[str]:
    """The tensors that an operator of this structure is stored as."""
    if structure == "dense":
        return [name]
    stored = ("kernel", "diagonal") if structure.endswith(" diagonal") else ("kernel",)
    return [f"{name}.{tensor}" for tensor in stored]


def matrix(where: str, structure: str, stored: list[Array], square: bool) -> Matrix:
    """The matrix, from its tensors.

    Args:
        where: how a message begins.
        structure: its text.
        stored: its tensors, in the order of `names`.
        square: whether it is W: from images to images of the same size.

    Raises:
        UnreadableError: they are not of one another's sizes, or too large.
    """
    if structure == "dense":
        if len(stored[0].shape) != 2:
            raise UnreadableError(f"{where} has shape {stored[0].shape}, not that of a matrix")
        return Dense(*stored[0].shape, stored[0].values)
    match = _CONVOLUTION.fullmatch(structure)
    if match is None:
        raise UnreadableError(f"{where} has the unknown structure {structure[:160]!r}")
    c, height, width, stride, *margins = (int(v) for v in match.group(1, 2, 3, 4, 6, 7, 8, 9))
    top, bottom, left, right = margins
    found = Convolution(
        structure,
        (c, height, width),
        stride,
        match[5] == "circular",
        (top, bottom, left, right),
        stored[0],
        stored[1] if match[10] else None,
    )
    reason = _shape_fault(found) or _size_fault(found) or _square_fault(found, square)
    if reason is not None:
        raise UnreadableError(f"{where}: {reason} (structure {structure!r})")
    return found


def _shape_fault(found: Convolution) -> str | None:
    """Why image, kernel and margins do not fit together, if they do not."""
    (c, height, width), shape, (top, bottom, left, right) = (
        found.image,
        found.kernel.shape,
        found.margins,
    )
    if 0 in (c, height, width, found.stride):
        return "an image or a stride of 0"
    if len(shape) != 4 or 0 in shape or shape[1] != c:
        return f"its kernel has shape {shape}, where (out, {c}, kh, kw) is needed"
    kh, kw = shape[2:]
    if found.circular and (kh > height or kw > width):
        return f"its kernel of {kh}x{kw} is larger than the image that wraps around"
    if found.circular and (max(top, bottom) > height or max(left, right) > width):
        return "an image wraps around more than once"
    if kh > found.padded[0] or kw > found.padded[1]:
        return f"its kernel of {kh}x{kw} is larger than the padded image"
    return None


def _size_fault(found: Convolution) -> str | None:
    """Why it is too large, if it is; nothing of its sizes has been taken from memory before."""
    if (cells := found.image[0] * math.prod(found.padded)) > _CELLS:
        return f"a padded image of {cells} numbers, where at most {_CELLS} are checked"
    if (terms := found.rows * math.prod(found.kernel.shape[1:])) > _TERMS:
        return f"{terms} terms, where at most {_TERMS} are checked"
    return None


def _square_fault(found: Convolution, square: bool) -> str | None:
    """Why it can be no W, or has a diagonal that it cannot have."""
    if not square:
        return None if found.diagonal is None else "only W has a diagonal of its own"
    if found.stride != 1 or found.output != found.image:
        return f"W must map images to images of the same size with stride 1, not to {found.output}"
    if found.diagonal is None:
        return None
    if found.diagonal.shape != (found.rows,):
        return f"its diagonal has shape {found.diagonal.shape}, not {(found.rows,)}"
    if any(found.kernel.values[tap] for tap in found.own_taps()):
        return "its kernel has entries [o, o, top, left] that are not 0 beside a stored diagonal"
    return None
