"""The checker's convolutions and blocks are those of the definition, entry by entry.

Convolutions are torch's, too.
"""

from __future__ import annotations

import dataclasses
from array import array
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convolutions import Blocked, Stored, without_own
from equicert.checker.files import Array as Tensor
from equicert.checker.matrices import Matrix, off_diagonal, whole
from equicert.checker.structures import matrix
from exact import to_fractions
from networks import floats

ENTRIES = st.sampled_from([0.0, 1.0, -0.5, 3.0, 5e-324, 2.0**70]) | floats(4.0)
SIZES = st.integers(1, 4)


@st.composite
def margins(draw: st.DrawFn, size: int, extent: int, padding: str, square: bool) -> tuple[int, int]:
    """Widths on both sides that a kernel of this extent may have."""
    if square:
        first = draw(st.integers(0, extent - 1))
        return first, extent - 1 - first
    most = min(3, size) if padding == "circular" else 3
    first = draw(st.integers(0, most))
    least = max(0, extent - size - first)
    return first, draw(st.integers(min(least, most), most))


@st.composite
def convolutions(draw: st.DrawFn, square: bool) -> Stored:
    """Odd and even kernels, uneven margins, strides, images of a pixel."""
    padding = draw(st.sampled_from(["zeros", "circular"]))
    channels, height, width = draw(st.integers(1, 3)), draw(SIZES), draw(SIZES)
    most = (height, width) if padding == "circular" else (4, 4)
    kh, kw = (draw(st.integers(1, k)) for k in most)
    top, bottom = draw(margins(height, kh, padding, square))
    left, right = draw(margins(width, kw, padding, square))
    if kh > height + top + bottom or kw > width + left + right:
        kh, kw = 1, 1
    out = channels if square else draw(st.integers(1, 3))
    kernel = draw(hnp.arrays(np.float64, (out, channels, kh, kw), elements=ENTRIES))
    stride, image = 1 if square else draw(st.integers(1, 3)), (channels, height, width)
    sides, diagonal = (top, bottom, left, right), None
    if square and draw(st.booleans()):
        kernel = without_own(kernel, sides)
        diagonal = draw(hnp.arrays(np.float64, channels * height * width, elements=ENTRIES))
    return Stored(image, kernel, sides, padding, stride, diagonal)


@st.composite
def blocks(draw: st.DrawFn, square: bool) -> Blocked:
    """Blocks where they find place: beside others, and as W off the diagonal, or on it."""
    n, m = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    m = n if square else m
    parts: list[tuple[int, int, Stored | np.ndarray]] = []
    taken = np.zeros((n, m), bool)
    for _ in range(draw(st.integers(1, 5))):
        row, column = draw(st.integers(0, n - 1)), draw(st.integers(0, m - 1))
        column = row if square and draw(st.booleans()) else column
        own, sizes = square and row == column, draw(st.tuples(SIZES, SIZES))
        dense = hnp.arrays(np.float64, sizes[:1] * 2 if own else sizes, elements=ENTRIES)
        block = draw(convolutions(own) | dense)
        height, width = block.expanded().shape if isinstance(block, Stored) else block.shape
        end, stop = row + height, column + width
        meets = square and not own and max(row, column) < min(end, stop)
        if end <= n and stop <= m and not meets and not taken[row:end, column:stop].any():
            taken[row:end, column:stop] = True
            parts.append((row, column, block))
    parts = parts or [(0, 0, np.full((1, 1), 0.5))]
    return Blocked((n, m), sorted(parts, key=lambda part: part[:2]))


def read(stored: Stored | Blocked, square: bool) -> tuple[Matrix, list[int] | None, int]:
    """What the checker computes with: the matrix, its diagonal if it has one of its own, and k."""
    tensors = [Tensor(t.shape, array("d", t.ravel())) for t in stored.tensors("").values()]
    found = matrix("it", stored.structure, tensors, square)
    assert (found.rows, found.columns) == stored.expanded().shape
    return off_diagonal(found) if square else (whole(found)[0], None, whole(found)[1])


@settings(max_examples=200)
@given(st.booleans().flatmap(lambda s: st.tuples(convolutions(s), st.just(s))), st.data())
def test_entry_by_entry(drawn: tuple[Stored, bool], data: st.DataObject) -> None:
    check_entries(*drawn, data)


@settings(max_examples=40)
@given(st.booleans().flatmap(lambda s: st.tuples(blocks(s), st.just(s))), st.data())
def test_blocks_entry_by_entry(drawn: tuple[Blocked, bool], data: st.DataObject) -> None:
    check_entries(*drawn, data)


def check_entries(stored: Stored | Blocked, square: bool, data: st.DataObject) -> None:
    found, diagonal, k = read(stored, square)
    A = to_fractions(stored.expanded())
    if square:
        assert diagonal is not None
        assert [Fraction(d, 1 << k) for d in diagonal] == [row[i] for i, row in enumerate(A)]
        A = [[Fraction(0) if i == j else v for j, v in enumerate(row)] for i, row in enumerate(A)]
    for i, row in enumerate(A):
        assert [Fraction(v, 1 << k) for v in found.combination([i], [1])] == row
    assert found.rows == [[int(v * (1 << k)) for v in row] for row in A]
    for j in range(len(A[0])):
        unit = [int(i == j) for i in range(len(A[0]))]
        assert [Fraction(v, 1 << k) for v in found.times(unit)] == [row[j] for row in A]
        sizes = [abs(row[j]) for row in A]
        assert [Fraction(v, 1 << k) for v in found.sizes_times(unit)] == sizes
    whole_numbers = st.integers(-(1 << 80), 1 << 80)
    v = data.draw(st.lists(whole_numbers, min_size=len(A[0]), max_size=len(A[0])))
    assert found.times(v) == [sum(a * b for a, b in zip(r, v, strict=True)) for r in found.rows]
    sizes = [sum(abs(a) * b for a, b in zip(row, v, strict=True)) for row in found.rows]
    assert found.sizes_times(v) == sizes
    chosen = data.draw(st.lists(st.integers(0, len(A) - 1), max_size=4, unique=True))
    weights = data.draw(st.lists(whole_numbers, min_size=len(chosen), max_size=len(chosen)))
    expected = [
        sum(w * found.rows[i][j] for i, w in zip(chosen, weights, strict=True))
        for j in range(len(A[0]))
    ]
    assert found.combination(chosen, weights) == expected


@settings(max_examples=100)
@given(convolutions(square=False), st.integers(0, 1 << 30))
def test_it_is_the_convolution_of_torch(stored: Stored, seed: int) -> None:
    dice = np.random.default_rng(seed)
    kernel = dice.integers(-9, 10, stored.kernel.shape).astype(float)
    v = dice.integers(-9, 10, stored.image).astype(float)
    stored = dataclasses.replace(stored, kernel=kernel)
    top, bottom, left, right = stored.margins
    mode = "constant" if stored.padding == "zeros" else "circular"
    padded = F.pad(torch.from_numpy(v)[None], (left, right, top, bottom), mode)
    images = F.conv2d(padded, torch.from_numpy(kernel), stride=stored.stride)
    found, _, k = read(stored, square=False)
    assert [y >> k for y in found.times(list(map(int, v.ravel())))] == images.ravel().tolist()
