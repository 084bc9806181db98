"""How W and U are stored: as they are, as the kernel of a convolution, or as blocks of both kinds.

A convolution maps an image (channels, height, width) to one, both as vectors in C order:

    (A v)[o, y, x] = sum_{c, i, j} kernel[o, c, i, j] v_padded[c, y stride + i, x stride + j],

v_padded being v with zeros, or wrapped around, on margins of the stated widths. A wrapped image is
no smaller than the kernel, so that no two terms of an output are of one entry of v: the entries of
the matrix A are entries of the kernel, or 0. Where the diagonal is stored, too, A has that diagonal
in place of the kernel's.

A matrix of blocks is zero but for these. No two have an entry in common, so that its products are
sums of theirs, and those of its absolute value likewise. Where it is W, a block with an entry of
the diagonal is square and has the whole of its own diagonal there.
"""

from __future__ import annotations

import math
import re
from array import array
from dataclasses import dataclass
from typing import TypeAlias

from equicert.checker.files import Array, UnreadableError

_CELLS = 1 << 22  # numbers of all padded images together; rows or columns of a matrix of blocks
_TERMS = 1 << 26  # of all outputs together
_BLOCKS = 64
_NUMBER = "(0|[1-9][0-9]{0,8})"
_CONVOLUTION = re.compile(
    f"convolution {_NUMBER}x{_NUMBER}x{_NUMBER} stride {_NUMBER} (zeros|circular)"
    f" {_NUMBER} {_NUMBER} {_NUMBER} {_NUMBER}( diagonal)?"
)
_LISTED = re.compile(rf" \[{_NUMBER}\+{_NUMBER} ([^][]+)\]")  # a block, itself not of blocks
_OF_BLOCKS = re.compile(f"blocks {_NUMBER}x{_NUMBER}((?:{_LISTED.pattern})+)")


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


Single: TypeAlias = "Dense | Convolution"


@dataclass(frozen=True)
class Part:
    """A block and the place where it stands."""

    rows: range
    columns: range
    block: Single


@dataclass(frozen=True)
class Blocks:
    """A matrix that is zero but for its parts."""

    structure: str
    rows: int
    columns: int
    parts: list[Part]

    def tensors(self, name: str) -> dict[str, Array]:
        """What is stored, by the names that it has in a file."""
        found = {}
        for k, part in enumerate(self.parts):
            found |= part.block.tensors(f"{name}.{k}")
        return found


Matrix: TypeAlias = "Dense | Convolution | Blocks"


def split(where: str, text: str | None) -> tuple[str, str]:
    """The structures of W and U: "dense" for both, or `W:<structure>;U:<structure>`."""
    if text == "dense":
        return "dense", "dense"
    W, _, U = (text or "").removeprefix("W:").partition(";U:")
    if text != f"W:{W};U:{U}" or W == U == "dense":
        raise UnreadableError(f"{where}: there is no structure {str(text)[:160]!r}")
    return W, U


def names(name: str, structure: str) -> list[str]:
    """The tensors that an operator of this structure is stored as.

    Raises:
        UnreadableError: there is no such structure.
    """
    if structure == "dense":
        return [name]
    if (count := structure.count("[")) > _BLOCKS:
        raise UnreadableError(f"{name} has {count} blocks, where at most {_BLOCKS} are checked")
    if (found := _OF_BLOCKS.fullmatch(structure)) is not None:
        listed = enumerate(_LISTED.findall(found[3]))
        return [tensor for k, (*_, inner) in listed for tensor in names(f"{name}.{k}", inner)]
    own = _convolution(name, structure)[10] is not None
    return [f"{name}.{tensor}" for tensor in (("kernel", "diagonal") if own else ("kernel",))]


def _convolution(where: str, structure: str) -> re.Match[str]:
    match = _CONVOLUTION.fullmatch(structure)
    if match is None:
        raise UnreadableError(f"{where} has the unknown structure {structure[:160]!r}")
    return match


def matrix(where: str, structure: str, stored: list[Array], square: bool) -> Matrix:
    """The matrix, from its tensors.

    Args:
        where: how a message begins.
        structure: its text.
        stored: its tensors, in the order of `names`.
        square: whether it is W.

    Raises:
        UnreadableError: they are not of one another's sizes, or too large.
    """
    match = _OF_BLOCKS.fullmatch(structure)
    if match is None:
        return _single(where, structure, stored, square)
    left, parts = iter(stored), []
    for k, (top, side, inner) in enumerate(_LISTED.findall(match[3])):
        row, column, own = int(top), int(side), [next(left) for _ in names("", inner)]
        block = _single(f"{where}.{k}", inner, own, square and row == column)
        rows, columns = range(row, row + block.rows), range(column, column + block.columns)
        parts.append(Part(rows, columns, block))
    found = Blocks(structure, int(match[1]), int(match[2]), parts)
    convolutions = [part.block for part in parts if isinstance(part.block, Convolution)]
    reason = _place_fault(found, square) or _pair_fault(parts) or _size_fault(convolutions)
    if reason is not None:
        raise UnreadableError(f"{where}: {reason}")
    return found


def _single(where: str, structure: str, stored: list[Array], square: bool) -> Single:
    """The same of a matrix that is stored as it is, or of a convolution.

    Args:
        where: how a message begins.
        structure: its text.
        stored: its tensors.
        square: whether it is W, or on the diagonal of W: from images to images of the same size.
    """
    if structure == "dense":
        if len(stored[0].shape) != 2:
            raise UnreadableError(f"{where} has shape {stored[0].shape}, not that of a matrix")
        return Dense(*stored[0].shape, stored[0].values)
    match = _convolution(where, structure)
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
    reason = _shape_fault(found) or _size_fault([found]) or _square_fault(found, square)
    if reason is not None:
        raise UnreadableError(f"{where}: {reason} (structure {structure!r})")
    return found


def _place_fault(found: Blocks, square: bool) -> str | None:
    """Why blocks cannot stand where they are said to, if they cannot."""
    if max(found.rows, found.columns) > _CELLS:
        return f"{found.rows}x{found.columns}, where at most {_CELLS} rows and columns are checked"
    for k, part in enumerate(found.parts):
        rows, columns = part.rows, part.columns
        if not (rows and columns):
            return f"block {k} of {len(rows)}x{len(columns)} has no entries"
        if rows.stop > found.rows or columns.stop > found.columns:
            return f"block {k} of {len(rows)}x{len(columns)} leaves {found.rows}x{found.columns}"
        if square and rows != columns and _common(rows, columns):
            return f"block {k} meets the diagonal of W, and is not a square on it"
    return None


def _pair_fault(parts: list[Part]) -> str | None:
    """Why blocks cannot stand beside one another, if they cannot."""
    for k, part in enumerate(parts):
        for j, other in enumerate(parts[:k]):
            if _common(part.rows, other.rows) and _common(part.columns, other.columns):
                return f"the blocks {j} and {k} overlap"
        before = parts[k - 1] if k else part
        if (before.rows.start, before.columns.start) > (part.rows.start, part.columns.start):
            return f"block {k} must be listed before block {k - 1}: by its row, then its column"
    return None


def _common(a: range, b: range) -> bool:
    """Whether two ranges have a number in common."""
    return max(a.start, b.start) < min(a.stop, b.stop)


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


def _size_fault(found: list[Convolution]) -> str | None:
    """Why they are too large, if they are; nothing of their sizes has been taken from memory."""
    if (cells := sum(each.image[0] * math.prod(each.padded) for each in found)) > _CELLS:
        return f"padded images of {cells} numbers, where at most {_CELLS} are checked"
    if (terms := sum(each.rows * math.prod(each.kernel.shape[1:]) for each in found)) > _TERMS:
        return f"{terms} terms, where at most {_TERMS} are checked"
    return None


def _square_fault(found: Convolution, square: bool) -> str | None:
    """Why it cannot be on the diagonal of W, or has a diagonal that it cannot have."""
    if not square:
        own = "only W has a diagonal of its own, and a block of W that stands on it"
        return None if found.diagonal is None else own
    if found.stride != 1 or found.output != found.image:
        return (
            "W, or a block on its diagonal, must map images to images of the same size with"
            f" stride 1, not to {found.output}"
        )
    if found.diagonal is None:
        return None
    if found.diagonal.shape != (found.rows,):
        return f"its diagonal has shape {found.diagonal.shape}, not {(found.rows,)}"
    if any(found.kernel.values[tap] for tap in found.own_taps()):
        return "its kernel has entries [o, o, top, left] that are not 0 beside a stored diagonal"
    return None
