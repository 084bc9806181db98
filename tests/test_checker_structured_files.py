"""Model files with convolutions: their digests, and one clear line for each that is hostile."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convolutions import Stored, stored_so, without_own
from equicert.checker import NotValidError, UnreadableError, check_folder, main
from equicert.checker.model import read_model
from proofs import Folder


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


def _with_U(U: Stored) -> Folder:  # noqa: N802 - the paper's letter
    """Whatever U is, b and the rest fit it."""
    n = int(np.prod(U.output))
    arrays = {"W": np.zeros((n, n)), "b": np.zeros(n), "C": np.eye(2, n), "c": np.zeros(2)}
    folder = Folder(arrays, "relu", np.ones(n), np.zeros((1, int(np.prod(U.image)))), [])
    return stored_so(folder, (None, U))


def test_a_kernel_larger_than_the_image_that_wraps_is_refused(tmp_path: Path) -> None:
    """Two terms of an output would be of one input, and |A| not the matrix of |kernel|."""
    for size, image in (((1, 3), (1, 1, 2)), ((3, 1), (1, 2, 1)), ((2, 2), (1, 1, 1))):
        kernel = np.zeros((1, 1, *size))
        said = _refused(_with_U(Stored(image, kernel, (1, 1, 1, 1), "circular")), tmp_path)
        assert "is larger than the image that wraps around" in said
    fits = Stored((1, 2, 2), np.ones((1, 1, 2, 2)), (2, 2, 2, 2), "circular")
    assert check_folder(*_with_U(fits).write(tmp_path)).certificates == 0


def test_two_extents_below_zero_make_no_output(tmp_path: Path) -> None:
    U = Stored((1, 1, 1), np.ones((1, 1, 3, 6)), (0, 0, 0, 0))
    assert U.output == (1, -1, -4)  # as many as there are states
    assert "larger than the padded image" in _refused(folder_of(None, U), tmp_path)


def test_a_large_image_behind_a_large_stride_is_refused(tmp_path: Path) -> None:
    folder = good()
    wide = "convolution 1x1x8388608 stride 2097152 zeros 1 1 0 0"  # to four numbers
    folder.structures = folder.structures[0], wide
    assert "numbers, where at most" in _refused(folder, tmp_path)


def test_w_is_from_images_to_images_of_one_size(tmp_path: Path) -> None:
    """One of stride 2 may give as many numbers: its diagonal is elsewhere."""
    kernel = np.full((1, 1, 1, 1), 0.125)
    for stride, sides, output in ((2, (1, 1, 1, 1), (1, 3, 3)), (1, (1, 1, 0, 0), (1, 5, 3))):
        W = Stored((1, 3, 3), kernel, sides, "zeros", stride)
        assert W.output == output
        said = _refused(folder_of(W, None), tmp_path)
        assert "must map images to images of the same size with stride 1" in said
    flat = Stored((4, 1, 1), np.full((1, 4, 1, 1), 0.125), (0, 0, 0, 3))
    assert flat.output == (1, 1, 4)
    assert "of the same size" in _refused(folder_of(flat, None), tmp_path)


def test_only_w_has_a_diagonal(tmp_path: Path) -> None:
    U = Stored((1, 2, 2), np.zeros((1, 1, 1, 1)), (0, 0, 0, 0), diagonal=np.ones(4))
    folder = folder_of(None, U)
    assert "only W has a diagonal of its own" in _refused(
        folder, tmp_path, lambda text: text.pop("digest")
    )


def test_two_dense_matrices_are_called_so(tmp_path: Path) -> None:
    folder = folder_of(None, None)
    assert check_folder(*folder.write(tmp_path)).certificates == 0
    said = _refused(folder, tmp_path, lambda text: text.update(structure="W:dense;U:dense"))
    assert "there is no structure 'W:dense;U:dense'" in said


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
