"""Matrices of integers: rows, the terms of a convolution, or blocks of both kinds.

All give A v, |A| v and sums of weighted rows, which are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TypeAlias

from equicert.checker.integers import Packed, dot, require_memory, scaled
from equicert.checker.structures import Blocks, Convolution, Dense
from equicert.checker.structures import Matrix as Stored


class Rows:
    """A matrix by its rows."""

    def __init__(self, values: list[int], width: int) -> None:
        self.rows = [values[i : i + width] for i in range(0, len(values), width)]
        self._sizes = [list(map(abs, row)) for row in self.rows]

    def times(self, v: Sequence[int]) -> list[int]:
        """A v."""
        return [dot(row, v) for row in self.rows]

    def sizes_times(self, v: Sequence[int]) -> list[int]:
        """|A| v."""
        return [dot(row, v) for row in self._sizes]

    def combination(self, indices: Sequence[int], weights: Sequence[int]) -> list[int]:
        """`sum_i weights_i rows[indices_i]`."""
        return self._packed.combination(indices, weights)

    @cached_property
    def _packed(self) -> Packed:
        return Packed(self.rows)


class Terms:
    """The matrix of a convolution, by its kernel, as `structures.py` defines it.

    The padded image is one list. Term (c, i, j) of the output at (y, x) lies `offset(c, i, j)`
    beyond `start(y, x)` there, in all channels of the output.
    """

    def __init__(self, stored: Convolution, kernel: list[int]) -> None:
        """The kernel is in C order."""
        (channels, kh, kw), s = stored.kernel.shape[1:], stored.stride
        out, high, wide = stored.output
        height, width = stored.padded
        self.columns, self.positions = stored.columns, high * wide
        self._starts = [y * s * width + x * s for y in range(high) for x in range(wide)]
        self._offsets = [
            (c * height + i) * width + j
            for c in range(channels)
            for i in range(kh)
            for j in range(kw)
        ]
        self._sources = _sources(stored)
        count = len(self._offsets)
        self._kernel = [kernel[o * count : (o + 1) * count] for o in range(out)]
        self._sizes = [list(map(abs, row)) for row in self._kernel]
        self._bits = max(map(int.bit_length, kernel))

    @property
    def rows(self) -> list[list[int]]:
        """All of the matrix: for small ones."""
        count = self.positions * len(self._kernel)
        return [self.combination([i], [1]) for i in range(count)]

    def times(self, v: Sequence[int]) -> list[int]:
        """A v."""
        return self._correlated(self._kernel, v)

    def sizes_times(self, v: Sequence[int]) -> list[int]:
        """|A| v: an entry of A is an entry of the kernel."""
        return self._correlated(self._sizes, v)

    def _correlated(self, kernel: list[list[int]], v: Sequence[int]) -> list[int]:
        beside = [*v, 0]  # at -1, for what lies outside the image
        padded = [beside[k] for k in self._sources]
        images: list[list[int]] = [[] for _ in kernel]
        for start in self._starts:
            patch = [padded[start + offset] for offset in self._offsets]
            for image, row in zip(images, kernel, strict=True):
                image.append(dot(row, patch))
        return [entry for image in images for entry in image]

    def combination(self, indices: Sequence[int], weights: Sequence[int]) -> list[int]:
        """`sum_i weights_i rows[indices_i]`: what goes to the margins goes where they are from."""
        most = max(map(int.bit_length, weights), default=0)
        require_memory(len(self._sources), self._bits + most + len(weights).bit_length())
        padded = [0] * len(self._sources)
        for i, weight in zip(indices, weights, strict=True):
            o, position = divmod(i, self.positions)
            start = self._starts[position]
            for offset, entry in zip(self._offsets, self._kernel[o], strict=True):
                padded[start + offset] += weight * entry
        found = [0] * (self.columns + 1)  # at -1, what lies outside the image
        for k, entry in zip(self._sources, padded, strict=True):
            found[k] += entry
        return found[:-1]


class Placed:
    """A matrix of blocks, zero elsewhere: sums of what its blocks give, each at its place."""

    def __init__(self, stored: Blocks, blocks: list[tuple[Matrix, int]]) -> None:
        """Each block is times a 2^k of its own; the matrix is times the greatest, `self.k`."""
        self.k = max(k for _, k in blocks)
        self.height, self.columns = stored.rows, stored.columns
        self._parts = [
            (part.rows, part.columns, A, self.k - k)
            for part, (A, k) in zip(stored.parts, blocks, strict=True)
        ]

    @property
    def rows(self) -> list[list[int]]:
        """All of the matrix: for small ones."""
        return [self.combination([i], [1]) for i in range(self.height)]

    def times(self, v: Sequence[int]) -> list[int]:
        """A v."""
        found = [0] * self.height
        for rows, columns, A, shift in self._parts:
            _add(found, rows, A.times(v[columns.start : columns.stop]), shift)
        return found

    def sizes_times(self, v: Sequence[int]) -> list[int]:
        """|A| v: no entry of A is of two blocks."""
        found = [0] * self.height
        for rows, columns, A, shift in self._parts:
            _add(found, rows, A.sizes_times(v[columns.start : columns.stop]), shift)
        return found

    def combination(self, indices: Sequence[int], weights: Sequence[int]) -> list[int]:
        """`sum_i weights_i rows[indices_i]`."""
        found = [0] * self.columns
        for rows, columns, A, shift in self._parts:
            if own := [k for k, i in enumerate(indices) if i in rows]:
                inside, some = [indices[k] - rows.start for k in own], [weights[k] for k in own]
                _add(found, columns, A.combination(inside, some), shift)
        return found


def _add(total: list[int], places: range, values: list[int], shift: int) -> None:
    """Add values times 2^shift at these places."""
    for i, value in zip(places, values, strict=True):
        total[i] += value << shift


Matrix: TypeAlias = "Rows | Terms | Placed"


def _sources(stored: Convolution) -> list[int]:
    """Of each number of the padded image, its place in the image, or -1 for a zero."""
    channels, height, width = stored.image
    top, _, left, _ = stored.margins
    found = []
    for c in range(channels):
        for y in range(-top, stored.padded[0] - top):
            for x in range(-left, stored.padded[1] - left):
                if stored.circular:
                    found.append((c * height + y % height) * width + x % width)
                elif 0 <= y < height and 0 <= x < width:
                    found.append((c * height + y) * width + x)
                else:
                    found.append(-1)
    return found


def whole(stored: Stored) -> tuple[Matrix, int]:
    """A matrix without a diagonal of its own, times 2^k, and k."""
    if isinstance(stored, Dense):
        values, k = scaled(stored.values)
        return Rows(values, stored.columns), k
    if isinstance(stored, Blocks):
        found = Placed(stored, [whole(part.block) for part in stored.parts])
        return found, found.k
    values, k = scaled(stored.kernel.values)
    return Terms(stored, values), k


def off_diagonal(stored: Stored) -> tuple[Matrix, list[int], int]:
    """A square matrix with zeros on its diagonal; the diagonal; both times 2^k, and k."""
    if isinstance(stored, Dense):
        values, k = scaled(stored.values)
        diagonal = values[:: stored.columns + 1]
        values[:: stored.columns + 1] = [0] * stored.rows
        return Rows(values, stored.columns), diagonal, k
    if isinstance(stored, Blocks):
        return _off_diagonal_of_blocks(stored)
    taps, count = stored.own_taps(), len(stored.kernel.values)
    own = [] if stored.diagonal is None else stored.diagonal.values
    values, k = scaled([*stored.kernel.values, *own])
    kernel, diagonal = values[:count], values[count:]
    if stored.diagonal is None:
        _, height, width = stored.image
        diagonal = [kernel[tap] for tap in taps for _ in range(height * width)]
    for tap in taps:
        kernel[tap] = 0
    return Terms(stored, kernel), diagonal, k


def _off_diagonal_of_blocks(stored: Blocks) -> tuple[Matrix, list[int], int]:
    """A block with entries of the diagonal has the whole of its own there."""
    blocks: list[tuple[Matrix, int]] = []
    own: list[tuple[range, list[int], int]] = []
    for part in stored.parts:
        if part.rows == part.columns:
            A, diagonal, k = off_diagonal(part.block)
            own.append((part.rows, diagonal, k))
        else:
            A, k = whole(part.block)
        blocks.append((A, k))
    found, diagonal = Placed(stored, blocks), [0] * stored.rows
    for rows, values, k in own:
        _add(diagonal, rows, values, found.k - k)
    return found, diagonal, found.k
