"""Convolutions in the checker: those of the definition, entry by entry; hostile ones refused."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from array import array
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convolutions import Stored, stored_so, without_own
from equicert.checker import NotValidError, UnreadableError, check_folder, main
from equicert.checker.files import Array as Tensor
from equicert.checker.matrices import Matrix, off_diagonal, whole
from equicert.checker.model import read_model
from equicert.checker.structures import matrix
from exact import to_fractions
from networks import floats
from proofs import Folder

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


def read(stored: Stored, square: bool) -> tuple[Matrix, list[int] | None, int]:
    """What the checker computes with: the matrix, its diagonal if it has one of its own, and k."""
    tensors = [Tensor(t.shape, array("d", t.ravel())) for t in stored.tensors("").values()]
    found = matrix("it", stored.structure, tensors, square)
    assert (found.rows, found.columns) == stored.expanded().shape
    return off_diagonal(found) if square else (whole(found)[0], None, whole(found)[1])


@settings(max_examples=200)
@given(st.booleans().flatmap(lambda s: st.tuples(convolutions(s), st.just(s))), st.data())
def test_entry_by_entry(drawn: tuple[Stored, bool], data: st.DataObject) -> None:
    stored, square = drawn
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


# Files.


def folder_of(W: Stored | None, U: Stored | None) -> Folder:
    """No records, an eta that serves, weights of any kind."""
    n = 4 if W is None else int(np.prod(W.output))
    r = 3 if U is None else int(np.prod(U.image))
    arrays = {"W": np.full((n, n), 2.0**-9), "U": np.ones((n, r)), "b": np.arange(float(n))}
    arrays |= {"C": np.eye(2, n), "c": np.ones(2)}
    folder = Folder(arrays, "relu", np.ones(n), np.zeros((1, r)), [])
    return stored_so(folder, (W, U))


def good() -> Folder:
    kernel = np.full((1, 1, 3, 2), 0.125)
    margins = (1, 1, 0, 1)
    W = Stored((1, 2, 2), without_own(kernel, margins), margins, diagonal=np.full(4, 0.125))
    return folder_of(W, Stored((1, 3, 3), np.ones((1, 1, 3, 3)), (1, 1, 0, 2), "zeros", 2))


def test_digests_and_every_mixture_of_structures(tmp_path: Path) -> None:
    folder = good()
    square = Stored((2, 1, 2), np.full((2, 2, 1, 2), 0.125), (0, 0, 1, 0), "circular")
    other = Stored((3, 2, 2), np.ones((1, 3, 1, 1)), (0, 0, 0, 0))
    mixed = [folder, folder_of(square, None), folder_of(None, other), folder_of(square, other)]
    mixed[3].arrays["b"] = mixed[3].arrays["b"] * np.pi
    digests = set()
    for each in (*mixed, folder_of(None, None)):
        paths = each.write(tmp_path)
        assert check_folder(*paths).model == each.digest() == read_model(paths[1]).digest
        digests.add(each.digest())
    assert len(digests) == 5
    for name, values in folder.arrays.items():  # each is in the digest
        moved = good()
        moved.arrays[name] = np.where(values, np.nextafter(values, 9), 0)
        assert moved.digest() not in digests
        moved.write(tmp_path)
        _change(tmp_path, lambda text: text.update(digest=folder.digest()))
        with pytest.raises(UnreadableError, match="do not have the digest stored"):
            check_folder(tmp_path / "proofs", tmp_path / "model.safetensors")


def _change(root: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Change the metadata of a model file."""
    path = root / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    change(header["__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])


W_TEXT = "convolution 1x2x2 stride 1 zeros 1 1 0 1 diagonal"
U_TEXT = "convolution 1x3x3 stride 2 zeros 1 1 0 2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "convolution",
        "dense;dense",
        "W:dense",
        "W:dense;U:dense",
        f"W:{W_TEXT}",
        f"U:{U_TEXT};W:{W_TEXT}",
        f"W:{W_TEXT};U:{U_TEXT};",
        f"W:{W_TEXT};U:{U_TEXT};U:{U_TEXT}",
        f"W:{W_TEXT};U:{U_TEXT}\n",
        f"W:{W_TEXT} ;U:{U_TEXT}",
        f"W:dense;U:{U_TEXT}",
        f"W:{W_TEXT};U:dense",
        "W:" + "9" * 5000 + f";U:{U_TEXT}",
    ],
)
def test_text_that_is_no_structure(text: str, tmp_path: Path) -> None:
    _refused(good(), tmp_path, lambda meta: meta.update(structure=text))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1x2x2", "01x2x2"),
        ("1x2x2", "1x2"),
        ("1x2x2", "1x2x2x1"),
        ("1x2x2", "-1x2x2"),
        ("1x2x2", "1x2x1"),
        ("1x2x2", "2x2x1"),
        ("1x2x2", "0x2x2"),
        ("1x2x2", "1x2x0"),
        ("1x2x2", "1x\u0662x2"),
        ("1x2x2", "1x999999999x999999999"),
        ("1x2x2", "1x" + "9" * 400 + "x2"),
        ("stride 1", "stride 0"),
        ("stride 1", "stride 2"),
        ("stride 1", "stride  1"),
        ("stride 1", "stride 1.0"),
        ("zeros 1 1 0 1", "circular 1 1 0 1"),
        ("zeros 1 1 0 1", "reflect 1 1 0 1"),
        ("zeros 1 1 0 1", "Zeros 1 1 0 1"),
        ("zeros 1 1 0 1", "zeros 1 1 0"),
        ("zeros 1 1 0 1", "zeros 0 0 0 1"),
        ("zeros 1 1 0 1", "zeros 0 1 0 1"),
        ("zeros 1 1 0 1", "zeros 2 0 1 0"),
        ("zeros 1 1 0 1", "zeros 999999999 1 0 1"),
        ("diagonal", "Diagonal"),
        (" diagonal", ""),
        ("1x3x3", "1x3x2"),
        ("1x3x3", "3x3x1"),
        ("1x3x3", "1x999999999x3"),
        ("stride 2", "stride 1"),
        ("stride 2", "stride 02"),
        ("1 1 0 2", "0 0 0 2"),
        ("1 1 0 2", "0 0 0 0"),
        ("1 1 0 2", "999999998 999999998 999999998 999999998"),
        ("1 1 0 2", "1 1 0 2 diagonal"),
    ],
)
def test_structures_that_do_not_fit(old: str, new: str, tmp_path: Path) -> None:
    W, U = good().structures
    assert (W, U) == (W_TEXT, U_TEXT)
    changed = W.replace(old, new) if old in W else W, U if old in W else U.replace(old, new)
    assert changed != (W, U)
    folder = good()
    folder.structures = changed
    _refused(folder, tmp_path)


def _refused(
    folder: Folder, root: Path, change: Callable[[dict[str, str]], object] | None = None
) -> str:
    """Exit status 2, one line, and little memory; the digest is that of what the file says."""
    folder.write(root)
    if change is not None:
        _change(root, change)
    words = [str(root / "proofs"), "--model", str(root / "model.safetensors")]
    tracemalloc.start()
    try:
        assert main(words) == 2
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(UnreadableError) as caught:
        check_folder(root / "proofs", root / "model.safetensors")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    return str(caught.value)


BAD_TENSORS: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "no kernel": lambda a: a.pop("W.kernel"),
    "no diagonal": lambda a: a.pop("W.diagonal"),
    "a dense W beside it": lambda a: a.update(W=np.zeros((4, 4))),
    "a diagonal of U": lambda a: a.update({"U.diagonal": np.zeros(4)}),
    "a kernel that is flat": lambda a: a.update({"W.kernel": np.zeros((3, 2))}),
    "no kernel entries": lambda a: a.update({"W.kernel": np.zeros((1, 1, 0, 2))}),
    "five dimensions": lambda a: a.update({"W.kernel": np.zeros((1, 1, 3, 2, 1))}),
    "two channels out": lambda a: a.update({"W.kernel": np.zeros((2, 1, 3, 2))}),
    "two channels in": lambda a: a.update({"U.kernel": np.zeros((1, 2, 3, 3))}),
    "a large kernel": lambda a: a.update({"U.kernel": np.zeros((1, 1, 6, 3))}),
    "another kernel": lambda a: a.update({"W.kernel": np.zeros((1, 1, 2, 3))}),
    "an entry at its own tap": lambda a: a.update({"W.kernel": np.full((1, 1, 3, 2), 5e-324)}),
    "a short diagonal": lambda a: a.update({"W.diagonal": np.zeros(3)}),
    "a diagonal that is a matrix": lambda a: a.update({"W.diagonal": np.zeros((4, 1))}),
    "a NaN": lambda a: a["W.kernel"].__setitem__((0, 0, 0, 0), np.nan),
    "an infinite diagonal": lambda a: a["W.diagonal"].__setitem__(0, np.inf),
    "another b": lambda a: a.update(b=np.zeros(5)),
    "another C": lambda a: a.update(C=np.zeros((2, 5))),
    "a b that is a matrix": lambda a: a.update(b=np.zeros((4, 1))),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_tensors_that_do_not_fit(name: str, tmp_path: Path) -> None:
    folder = good()
    folder.write(tmp_path)
    BAD_TENSORS[name](folder.arrays)
    folder.header = {"model": "0" * 64}
    _refused(folder, tmp_path)


def test_a_convolution_in_an_npz_file_is_refused(tmp_path: Path) -> None:
    folder = good()
    where, _ = folder.write(tmp_path)
    np.savez(tmp_path / "m.npz", **folder.arrays, activation="relu")  # type: ignore[arg-type]
    with pytest.raises(UnreadableError, match=r"unknown: \[.W\.kernel"):
        check_folder(where, tmp_path / "m.npz")


def test_a_long_kernel_over_a_wide_margin_is_refused(tmp_path: Path) -> None:
    U = Stored((1, 1, 1), np.ones((1, 1, 1, 1 << 13)), (0, 0, 1 << 16, 1 << 16))
    folder = folder_of(None, None)
    folder.arrays["b"] = np.zeros(int(np.prod(U.output)))
    folder = stored_so(folder, (None, U))
    folder.inputs = np.zeros((1, 1))
    assert "terms, where at most" in _refused(folder, tmp_path)


def test_images_wrap_once(tmp_path: Path) -> None:
    for sides in ((2, 2, 2, 2), (2, 2, 2, 3), (3, 2, 2, 2)):
        U = Stored((1, 2, 2), np.full((1, 1, 1, 1), 0.5), sides, "circular", 5)
        assert U.output == (1, 2, 2)
        if max(sides) == 2:
            assert check_folder(*folder_of(None, U).write(tmp_path)).certificates == 0
        else:
            assert "wraps around more than once" in _refused(folder_of(None, U), tmp_path)


def test_large_convolutions_are_not_shown_to_be_monotone(tmp_path: Path) -> None:
    W = Stored((1, 33, 33), np.full((1, 1, 1, 1), 0.5), (0, 0, 0, 0))
    folder = folder_of(W, W)
    one = (1.0).hex()
    folder.monotone = {"Lambda": [one] * 1089, "m": (0.25).hex(), "norm": one}
    with pytest.raises(NotValidError, match="from 1089 to 1089 numbers: at most 1024 rows"):
        check_folder(*folder.write(tmp_path))
    folder.monotone = None
    assert check_folder(*folder.write(tmp_path)).certificates == 0
