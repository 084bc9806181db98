"""Matrices of blocks, each with a structure of its own: layers that follow one another."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from equicert.errors import ModelError
from equicert.operators.base import Block, Operator, Stage

_SPELLING = re.compile(r"blocks (\d{1,9})x(\d{1,9})((?: \[\d{1,9}\+\d{1,9} [^][]+\])+)")
_PLACED = re.compile(r" \[(\d{1,9})\+(\d{1,9}) ([^][]+)\]")
_MOST = 64  # blocks; the checker takes no more


@final
@dataclass(frozen=True)
class Blocks(Operator):
    """A matrix that is 0 outside its blocks.

    Attributes:
        size: (n, m).
        blocks: in the order of their rows, then columns; no two share an entry.

    Raises:
        ModelError: none or too many, out of order, beyond the matrix, or overlapping.
    """

    size: tuple[int, int]
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.blocks) <= _MOST:
            raise ModelError(f"a matrix has 1 to {_MOST} blocks, got {len(self.blocks)}")
        places = [(block.row, block.column) for block in self.blocks]
        if places != sorted(places):
            raise ModelError(f"blocks are listed by rows, then columns, got {places}")
        n, m = self.size
        for block in self.blocks:
            if isinstance(block.A, Blocks):
                raise ModelError("a block cannot consist of blocks")
            if (
                min(block.row, block.column) < 0
                or block.rows.stop > n
                or block.columns.stop > m
                or 0 in block.A.shape
            ):
                raise ModelError(
                    f"a block of {_size(block.A.shape)} at {block.row}+{block.column} does not lie"
                    f" within {_size(self.size)}"
                )
        for k, one in enumerate(self.blocks):
            for other in self.blocks[:k]:
                if _meet(one.rows, other.rows) and _meet(one.columns, other.columns):
                    raise ModelError(
                        f"the blocks at {other.row}+{other.column} and {one.row}+{one.column}"
                        " overlap"
                    )

    @property
    def structure(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As files spell it."""
        parts = [f" [{b.row}+{b.column} {b.A.structure}]" for b in self.blocks]
        return f"blocks {_size(self.size)}{''.join(parts)}"

    @property
    def shape(self) -> tuple[int, int]:
        return self.size

    @cached_property
    def terms(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of the row with the most: the terms of its blocks, which are summed one after another."""
        begins = sorted({block.row for block in self.blocks})  # where a row's blocks can change
        return max(
            sum(b.A.terms for b in self.blocks if b.row <= row < b.rows.stop) for row in begins
        )

    def apply(
        self,
        v: Tensor,  # (batch, m)
    ) -> Tensor:  # (batch, n)
        product = v.new_zeros(len(v), self.size[0])
        for block in self.blocks:
            product[:, block.rows] += block.A.apply(v[:, block.columns])
        return product

    def cotangents(
        self,
        v: Tensor,  # (batch, m)
        p: Tensor,  # (batch, n)
        majorant: bool = False,
    ) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        for block in self.blocks:
            own = majorant and self._on_diagonal(block)
            parts = block.A.cotangents(v[:, block.columns], p[:, block.rows], own)
            if majorant and not own:
                stored = block.A.tensors().values()
                parts = tuple(g * A.detach().sign() for g, A in zip(parts, stored, strict=True))
            found += parts
        return tuple(found)

    def transpose(self) -> Blocks:
        turned = [Block(b.column, b.row, b.A.transpose()) for b in self.blocks]
        return Blocks((self.size[1], self.size[0]), _in_order(turned))

    def map(self, fn: Callable[[Tensor], Tensor]) -> Blocks:
        return self._with(lambda block: block.A.map(fn))

    def off_diagonal(self) -> Blocks:
        return self._with(lambda b: b.A.off_diagonal() if self._on_diagonal(b) else b.A)

    def majorant(self) -> Blocks:
        return self._with(lambda b: b.A.majorant() if self._on_diagonal(b) else b.A.absolute())

    def _with(self, fn: Callable[[Block], Operator]) -> Blocks:
        return Blocks(self.size, tuple(block._replace(A=fn(block)) for block in self.blocks))

    def diagonal(self) -> Tensor:  # (n,)
        found = torch.zeros(self.size[0], dtype=self.dtype, device=self.device)
        for block in self.blocks:
            if self._on_diagonal(block):
                found[block.rows] = block.A.diagonal()
        return found

    def _on_diagonal(self, block: Block) -> bool:
        """Whether it lies on the diagonal, of a square matrix whose other blocks do not meet it."""
        if self.size[0] != self.size[1]:
            raise ModelError(f"{_size(self.size)} is no square matrix")
        if block.row == block.column and block.A.shape[0] == block.A.shape[1]:
            return True
        if _meet(block.rows, block.columns):
            raise ModelError(
                f"the block at {block.row}+{block.column} meets the diagonal without lying on it"
            )
        return False

    def require_square(self) -> None:
        for block in self.blocks:
            if self._on_diagonal(block):
                block.A.require_square()
            else:
                block.A.require_plain()

    @cached_property
    def stages(self) -> tuple[Stage, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Those of a block-triangular matrix, lower or upper; none of any other."""
        ends = {0, self.size[0]}
        for block in self.blocks:
            ends |= {block.row, block.rows.stop, block.column, block.columns.stop}
        spans = [slice(begin, end) for begin, end in pairwise(sorted(ends))]
        for order in (spans, spans[::-1]):
            place = {end: k for k, span in enumerate(order) for end in (span.start, span.stop - 1)}
            if all(_follows(block, place) for block in self.blocks):
                return tuple(self._stage(span, k, place) for k, span in enumerate(order))
        return ()

    def _stage(self, span: slice, k: int, place: Mapping[int, int]) -> Stage:
        read = [b for b in self.blocks if max(_read(b, place)) == k]
        own = next((b.A for b in read if b.rows == b.columns == span), None)
        return Stage(span, own, tuple(b for b in read if b.rows != span))

    def tensors(self) -> Mapping[str, Tensor]:
        return {
            f".{k}{name}": tensor
            for k, block in enumerate(self.blocks)
            for name, tensor in block.A.tensors().items()
        }


def stacked(
    size: tuple[int, int],
    blocks: Sequence[tuple[int, int, Operator]],
) -> Blocks:
    """The matrix of these blocks, in whatever order."""
    return Blocks(size, _in_order([Block(*block) for block in blocks]))


def parse(text: str) -> tuple[tuple[int, int], list[tuple[int, int, str]]]:
    """Size, and row, column and structure of each block, of what `Blocks.structure` gave.

    Whether the blocks fit is for `Blocks` to say.

    Raises:
        ModelError: it did not.
    """
    found = _SPELLING.fullmatch(text)
    if found is not None:
        parts = [(int(r), int(c), inner) for r, c, inner in _PLACED.findall(found[3])]
        size = int(found[1]), int(found[2])
        again = f"blocks {_size(size)}" + "".join(f" [{r}+{c} {inner}]" for r, c, inner in parts)
        if again == text and len(parts) <= _MOST:
            return size, parts
    raise ModelError(
        f"{text[:80]!r} are no blocks; they are spelt such as 'blocks 40x40 [10+0 dense]"
        " [10+10 dense]'"
    )


def _in_order(blocks: Sequence[Block]) -> tuple[Block, ...]:
    return tuple(sorted(blocks, key=lambda block: (block.row, block.column)))


def _read(block: Block, place: Mapping[int, int]) -> tuple[int, int]:
    """The first and last stage of its columns, in some order."""
    return place[block.column], place[block.columns.stop - 1]


def _follows(block: Block, place: Mapping[int, int]) -> bool:
    """Whether it is a stage's own block, or reads earlier stages only than it writes."""
    written, read = (place[block.row], place[block.rows.stop - 1]), _read(block, place)
    return len({*written, *read}) == 1 or max(read) < min(written)


def _meet(one: slice, other: slice) -> bool:
    return one.start < other.stop and other.start < one.stop


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
