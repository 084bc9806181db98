"""Models whose W and U are blocks: verdicts, digests, and one clear line for each that is hostile.

What a matrix of blocks is, `test_checker_structures.py` has entry by entry; trees, balls and
witnesses are in `test_checker_convolutions.py`.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from convolutions import Blocked, Stored, stored_so
from equicert import write_certificates
from equicert.bounds import Complete, Interval, Method
from equicert.checker import NotValidError, UnreadableError, check_folder
from equicert.checker.model import read_model
from equicert.models import save_model
from equicert.operators import Convolution, Dense, Geometry, Image, Margins, stacked
from equicert.stored import StoredNetwork
from exact import contracts, to_fractions
from proofs import Array, Folder, Proof
from tree_proofs import Judge

Change = Callable[[dict[str, Array]], object]


@dataclass
class Network:
    """Weights, as they are stored."""

    W: Blocked
    U: Blocked
    b: Array
    C: Array
    c: Array

    def folder(self, eta: Array, x: Array, proofs: list[Proof] | None = None) -> Folder:
        arrays = {"W": self.W.expanded(), "U": self.U.expanded()}
        arrays |= {"b": self.b, "C": self.C, "c": self.c}
        return Folder(arrays, "relu", eta, x, proofs or [])

    def stored(self) -> dict[str, Array]:
        """What the box of states rests on."""
        return self.W.tensors("W") | self.U.tensors("U") | {"b": self.b}


def folder_of(W: Blocked, U: Blocked | None = None) -> Folder:
    """No records, an eta of ones, and what fits W and U, which need not be right."""
    n = W.shape[0]
    U = U or Blocked((n, 1), [(0, 0, np.ones((1, 1)))])
    arrays = W.tensors("W") | U.tensors("U")
    arrays |= {"b": np.arange(float(n)), "C": np.eye(2, n), "c": np.ones(2)}
    folder = Folder(arrays, "relu", np.ones(n), np.zeros((1, U.shape[1])), [])
    folder.structures = W.structure, U.structure
    return folder


# State boxes, every inequality of which binds, with a graded eta.


GRADED = np.array([0.5] * 4 + [2.0**20] * 3)  # the box's widths, and eta


def binding() -> tuple[Network, Proof, Array]:
    """`|W_off| w + 2 eps |U| 1 = (1 - W_ii) w_i` for every i, w the widths; of short numbers."""
    upper = np.array([[[[0.0, 0.125], [-0.0625, 0.03125]]]])
    down = np.array([[[[1.0, -0.5], [0.0, 0.25]]], [[[0.5] * 2] * 2], [[[0.0, 1], [0, -1]]]])
    lower = np.array([[0.0, 0.25, -0.125], [0.125, 0.0, 0.0], [-0.25, 0.0625, 0.0]])
    W = Blocked(
        (7, 7),
        [
            (0, 0, Stored((1, 2, 2), upper, (0, 1, 0, 1), diagonal=np.zeros(4))),
            (0, 5, np.array([[2.0**-24, 0.0], [-(2.0**-25), 2.0**-26]])),
            (4, 0, Stored((1, 2, 2), down * 2.0**18, (0, 0, 0, 0), "circular", 2)),
            (4, 4, lower),
        ],
    )
    source = Stored((1, 2, 2), np.array([[[[0.125], [-0.25]]]]), (1, 0, 0, 0))
    beside = np.array([[0.125], [-0.25], [0.5], [2.0**18], [64.0], [-(2.0**17)]])
    U = Blocked((7, 5), [(0, 0, source), (1, 4, beside)])
    eps, x = 0.125, np.array([[0.25, -0.5, 0.5, 0.125, 1.0]])
    need = np.abs(W.expanded()) @ GRADED + 2 * eps * np.abs(U.expanded()).sum(1)
    diagonal = 1 - need / GRADED
    W.parts[0][2].diagonal[:] = diagonal[:4]  # type: ignore[union-attr,index]
    lower[np.diag_indices(3)] = diagonal[4:]
    middle = GRADED * np.array([0.5, 1.0, 0.75, 0.5, 0.625, 1.0, 2.0])
    b = middle - W.expanded() @ middle - U.expanded() @ x[0]
    C = np.array([[1.0, -1, 0.5, 0, 0, 0, 2.0**-20], [0.5, 2, 0, -1, 1, 2.0**-22, 0]])
    c = np.array([2.0**21, -0.25])
    lo, hi = middle - GRADED / 2, middle + GRADED / 2
    row = to_fractions(C[0] - C[1])
    ends = zip(row, to_fractions(lo), to_fractions(hi), strict=True)
    margin = float(sum(min(w * u, w * v) for w, u, v in ends)) + c[0] - c[1]
    proof = Proof(0, 0, lo, hi, np.array([margin]), eps)
    return Network(W, U, b, C, c), proof, x


def truth(folder: Folder, proofs: list[Proof]) -> bool:
    """By fractions over the dense matrices."""
    judge = Judge(folder)
    return judge.folder_holds() and all(judge.holds(proof.body()) is True for proof in proofs)


def says(folder: Folder, root: Path) -> bool:
    try:
        check_folder(*folder.write(root))
    except (NotValidError, UnreadableError):
        return False
    return True


def test_a_unit_in_the_last_place_decides(tmp_path: Path) -> None:
    net, proof, x = binding()
    dense = net.folder(GRADED, x, [proof])
    assert truth(dense, [proof])
    assert says(stored_so(dense, (net.W, net.U)), tmp_path)
    found = Counter[tuple[str, bool]]()
    for name, values in net.stored().items():
        for at in np.ndindex(values.shape):
            if name == "W.0.kernel" and at == (0, 0, 0, 0):
                continue  # its own tap, which must be 0
            changed = deepcopy(net)
            towards = 0.0 if sum(at) % 3 == 2 else np.copysign(np.inf, values[at])
            changed.stored()[name][at] = np.nextafter(values[at], towards)
            dense = changed.folder(GRADED, x, [proof])
            expected = truth(dense, [proof])
            assert says(stored_so(dense, (changed.W, changed.U)), tmp_path) == expected, (name, at)
            found[name, expected] += 1
    for name in (
        "W.0.kernel",
        "W.0.diagonal",
        "W.1",
        "W.2.kernel",
        "W.3",
        "U.0.kernel",
        "U.1",
        "b",
    ):
        assert found[name, False] > 0, found
    assert sum(count for (_, expected), count in found.items() if expected) > 3


@pytest.mark.parametrize(
    ("operator", "part", "row", "column", "expected"),
    [
        ("W", 1, 1, 5, False),
        ("W", 1, 2, 5, False),
        ("W", 1, 0, 4, False),
        ("U", 1, 0, 4, False),
        ("W", 1, 0, 5, True),
    ],
)
def test_a_block_at_another_place_is_judged_there(
    operator: str, part: int, row: int, column: int, expected: bool, tmp_path: Path
) -> None:
    net, proof, x = binding()
    claimed = stored_so(net.folder(GRADED, x, [proof]), (net.W, net.U)).digest()
    blocked: Blocked = getattr(net, operator)
    blocked.parts[part] = (row, column, blocked.parts[part][2])
    dense = net.folder(GRADED, x, [proof])
    assert truth(dense, [proof]) == expected
    moved = stored_so(dense, (net.W, net.U))
    assert says(moved, tmp_path) == expected
    moved.header = {"model": claimed}  # of what was certified
    assert says(moved, tmp_path) == expected


def test_an_eta_over_hundreds_of_orders_of_magnitude(tmp_path: Path) -> None:
    """2^900 below the diagonal: eta is tried on both sides of what it must be, block by block."""
    own, ones = np.array([[0.25, -0.25], [0.125, -0.5]]), np.ones((2, 2))
    W = Blocked(
        (6, 6),
        [
            (0, 0, own),
            (0, 4, ones * 2.0**-1010),
            (2, 0, ones * 2.0**900),
            (2, 2, own),
            (4, 2, ones * 2.0**100),
            (4, 4, own),
        ],
    )
    low, middle, high = 2.0**-900, 4 * (1 + 2.0**-49), 2.0**104 * (1 + 2.0**-45)
    eta = np.array([low, low, middle, middle, high, high])
    folder, verdicts = folder_of(W), Counter[bool]()
    for at in (0, 2, 4):
        for factor in (2.0**-40, 0.5, 1 - 2.0**-44, 1 - 2.0**-52, 1.0, 1 + 2.0**-50, 2, 2.0**40):
            folder.eta = eta.copy()
            folder.eta[at] *= factor
            expected = contracts(W.expanded(), folder.eta)
            assert says(folder, tmp_path) == expected, (at, factor)
            verdicts[expected] += 1
    assert verdicts[True] > 3
    assert verdicts[False] > 3


# Files.

W_TEXT = (
    "blocks 7x7 [0+0 convolution 1x2x2 stride 1 zeros 0 1 0 1 diagonal] [0+5 dense]"
    " [4+0 convolution 1x2x2 stride 2 circular 0 0 0 0] [4+4 dense]"
)
U_TEXT = "blocks 7x5 [0+0 convolution 1x2x2 stride 1 zeros 1 0 0 0] [1+4 dense]"


def good() -> Folder:
    """With structures as above, and no records."""
    net, _, x = binding()
    return stored_so(net.folder(GRADED, x), (net.W, net.U))


def refusal(folder: Folder, root: Path) -> str:
    """One line, and little memory; the digest is that of what the file says."""
    paths = folder.write(root)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableError) as caught:
            check_folder(*paths)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 700
    return said


def test_digests(tmp_path: Path) -> None:
    folder = good()
    assert folder.structures == (W_TEXT, U_TEXT)
    assert check_folder(*folder.write(tmp_path)).model == folder.digest()
    assert len(folder.arrays) == 10
    for name in folder.arrays:
        moved = good()
        moved.arrays[name] = moved.arrays[name] / 2
        assert check_folder(*moved.write(tmp_path)).model == moved.digest() != folder.digest()
        moved.header = {"model": folder.digest()}
        assert not says(moved, tmp_path)


def test_as_many_blocks_as_are_checked(tmp_path: Path) -> None:
    """Tensors are in the digest by number: W.10 behind W.9."""

    def diagonal(n: int) -> Folder:
        blocks = [(k, k, np.full((1, 1), -1.0 - k)) for k in range(n)]
        return folder_of(Blocked((n, n), blocks))  # type: ignore[arg-type]

    folder = diagonal(64)
    assert check_folder(*folder.write(tmp_path)).model == folder.digest()
    assert "W has 65 blocks, where at most 64" in refusal(diagonal(65), tmp_path)
    folder = diagonal(2)
    folder.structures = "blocks 2x2" + 20_000 * " [0+0 dense]", folder.structures[1]
    assert "W has 20000 blocks, where at most 64" in refusal(folder, tmp_path)


UNKNOWN = [
    ("blocks 7x7", "Blocks 7x7"),
    ("blocks 7x7", "blocks  7x7"),
    ("blocks 7x7", "blocks 07x7"),
    ("blocks 7x7", "blocks 7X7"),
    ("blocks 7x7", "blocks 7x"),
    ("blocks 7x7", "blocks 7x7x1"),
    ("blocks 7x7", "blocks -7x7"),
    ("blocks 7x7", "blocks 7x\u0667"),
    ("blocks 7x7", "blocks " + "9" * 400 + "x7"),
    ("[0+5 ", "[00+5 "),
    ("[0+5 ", "[0+05 "),
    ("[0+5 ", "[0+5  "),
    ("[0+5 ", "[ 0+5 "),
    ("[0+5 ", "[0 5 "),
    ("[0+5 ", "[0+-5 "),
    ("[0+5 ", "[0+5.0 "),
    ("[0+5 ", "0+5 "),
    ("[0+5 ", "(0+5 "),
    ("[0+5 ", " [0+5 "),
    ("[0+5 dense]", "[0+5 dense ]"),
    ("[0+5 dense]", "[0+5 Dense]"),
    ("[0+5 dense]", "[0+5 dense"),
    ("[0+5 dense]", "[0+5 dense]]"),
    ("[0+5 dense]", "[0+5 dense],"),
    ("[0+5 dense]", "[0+5]"),
    ("[0+5 dense]", "[0+5 ]"),
    ("[0+5 dense]", "[]"),
    ("[0+5 dense]", "[0+5 dense\n]"),
    ("[0+5 dense]", "[0+5 dense diagonal]"),
    ("[0+5 dense]", "[0+5 blocks 2x2 [0+0 dense]]"),
    ("[0+5 dense]", "[0+5 blocks 2x2]"),
    ("[4+4 dense]", "[4+4 dense] "),
    ("[4+4 dense]", "[4+4 dense]\n"),
    ("[4+4 dense]", "[4+4 dense] diagonal"),
    ("stride 2", "stride 02"),
    (W_TEXT, "blocks 7x7"),
    (W_TEXT, "blocks 7x7 "),
]


@pytest.mark.parametrize(("old", "new"), UNKNOWN)
def test_text_that_is_no_structure(old: str, new: str, tmp_path: Path) -> None:
    folder = good()
    assert W_TEXT.count(old) == 1
    folder.structures = W_TEXT.replace(old, new), U_TEXT
    assert "has the unknown structure" in refusal(folder, tmp_path)


MISPLACED = [
    ("blocks 7x7", "blocks 6x7", "block 2 of 3x4 leaves 6x7"),
    ("blocks 7x7", "blocks 7x6", "block 1 of 2x2 leaves 7x6"),
    ("blocks 7x7", "blocks 0x0", "block 0 of 4x4 leaves 0x0"),
    ("blocks 7x7", "blocks 8x7", "W has shape (8, 7), not (7, 7)"),
    ("blocks 7x7", "blocks 8x8", "W has shape (8, 8), not (7, 7)"),
    ("blocks 7x7", "blocks 999999999x7", "where at most 4194304 rows and columns"),
    ("blocks 7x7", "blocks 7x4194305", "where at most 4194304 rows and columns"),
    ("blocks 7x7", "blocks 7x4194304", "W has shape (7, 4194304), not (7, 7)"),
    ("[0+5 ", "[0+6 ", "block 1 of 2x2 leaves 7x7"),
    ("[0+5 ", "[999999999+5 ", "block 1 of 2x2 leaves 7x7"),
    ("[0+5 ", "[0+3 ", "the blocks 0 and 1 overlap"),
    ("[0+5 ", "[3+5 ", "the blocks 1 and 3 overlap"),
    ("[4+0 ", "[4+1 ", "block 2 meets the diagonal of W"),
    ("[4+4 ", "[4+3 ", "block 3 meets the diagonal of W"),
    ("7x7 [0+0 ", "7x7 [0+1 ", "W.0: only W has a diagonal of its own"),
    (" diagonal]", "]", "unknown: ['W.0.diagonal']"),
    ("[0+5 dense]", "[0+4 dense] [0+6 dense]", "arrays missing: ['W.2', 'W.3.kernel', 'W.4']"),
    (" [0+5 dense]", "", "arrays missing: ['W.1.kernel', 'W.2']"),
    ("1x2x2 stride 2", "1x2x2 stride 0", "W.2: an image or a stride of 0"),
    ("1x2x2 stride 2", "1x2x3 stride 2", "block 2 meets the diagonal of W"),
    ("zeros 0 1 0 1", "zeros 0 1 0 0", "must map images to images of the same size"),
    (U_TEXT, U_TEXT.replace("7x5", "6x5"), "block 1 of 6x1 leaves 6x5"),
    (U_TEXT, U_TEXT.replace("7x5", "8x5"), "U has shape (8, 5), not (7, 5)"),
    (U_TEXT, U_TEXT.replace("1+4", "1+3"), "the blocks 0 and 1 overlap"),
    (U_TEXT, U_TEXT.replace("7x5", "7x4194305"), "where at most 4194304 rows and columns"),
    (U_TEXT, U_TEXT.replace("0+0 ", "2+0 "), "block 1 must be listed before block 0"),
]


@pytest.mark.parametrize(("old", "new", "said"), MISPLACED)
def test_blocks_that_cannot_stand_there(old: str, new: str, said: str, tmp_path: Path) -> None:
    folder = good()
    texts = f"{W_TEXT};{U_TEXT}"
    assert texts.count(old) == 1
    W, _, U = texts.replace(old, new).partition(";")
    folder.structures = W, U
    assert said in refusal(folder, tmp_path)


BAD_TENSORS: dict[str, Change] = {
    "no dense block": lambda a: a.pop("W.1"),
    "no kernel": lambda a: a.pop("W.2.kernel"),
    "no diagonal": lambda a: a.pop("W.0.diagonal"),
    "a matrix beside it": lambda a: a.update(W=np.zeros((7, 7))),
    "a kernel beside it": lambda a: a.update({"W.kernel": np.zeros((1, 1, 1, 1))}),
    "one block more": lambda a: a.update({"W.4": np.zeros((1, 1))}),
    "another name": lambda a: a.update({"U.01": a.pop("U.1")}),
    "a kernel of a dense block": lambda a: a.update({"W.1.kernel": np.zeros((1, 1, 1, 1))}),
    "a flat block": lambda a: a.update({"W.1": np.zeros(4)}),
    "a block of four dimensions": lambda a: a.update({"W.1": np.zeros((1, 1, 2, 2))}),
    "no rows": lambda a: a.update({"W.1": np.zeros((0, 2))}),
    "no columns": lambda a: a.update({"U.1": np.zeros((6, 0))}),
    "no kernel entries": lambda a: a.update({"W.2.kernel": np.zeros((3, 1, 0, 2))}),
    "a tall block": lambda a: a.update({"W.1": np.zeros((5, 2))}),
    "a wide block": lambda a: a.update({"W.1": np.zeros((2, 3))}),
    "a small block on the diagonal": lambda a: a.update({"W.3": np.zeros((3, 2))}),
    "four outputs": lambda a: a.update({"W.2.kernel": np.zeros((4, 1, 2, 2))}),
    "two channels": lambda a: a.update({"W.2.kernel": np.zeros((3, 2, 2, 2))}),
    "a short diagonal": lambda a: a.update({"W.0.diagonal": np.zeros(3)}),
    "an entry at its own tap": lambda a: a["W.0.kernel"].__setitem__((0, 0, 0, 0), 5e-324),
    "a NaN": lambda a: a["W.1"].__setitem__((0, 1), np.nan),
    "an infinity": lambda a: a["U.0.kernel"].__setitem__((0, 0, 0, 0), np.inf),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_tensors_that_do_not_fit(name: str, tmp_path: Path) -> None:
    folder = good()
    BAD_TENSORS[name](folder.arrays)
    assert "model.safetensors: " in refusal(folder, tmp_path)


@pytest.mark.parametrize(
    ("row", "column", "shape", "said"),
    [
        (0, 1, (1, 2), ""),
        (1, 0, (2, 1), ""),
        (1, 1, (2, 2), ""),
        (0, 0, (3, 3), ""),
        (0, 1, (2, 2), "meets the diagonal"),
        (1, 0, (2, 2), "meets the diagonal"),
        (0, 0, (1, 2), "meets the diagonal"),
        (0, 0, (2, 1), "meets the diagonal"),
        (2, 0, (1, 3), "meets the diagonal"),
        (0, 2, (3, 1), "meets the diagonal"),
        (3, 0, (1, 1), "leaves 3x3"),
    ],
)
def test_a_block_of_w_is_on_its_diagonal_or_beside_it(
    row: int, column: int, shape: tuple[int, int], said: str, tmp_path: Path
) -> None:
    block = np.full(shape, 0.25)
    folder = folder_of(Blocked((3, 3), [(row, column, block)]))
    if said:
        assert said in refusal(folder, tmp_path)
    else:
        assert check_folder(*folder.write(tmp_path)).certificates == 0
    one = Blocked((3, 3), [(1, 1, np.ones((1, 1)) / 4)])
    if row < 3:  # U has no diagonal
        folder = folder_of(one, Blocked((3, 3), [(row, column, block)]))
        assert check_folder(*folder.write(tmp_path)).certificates == 0


def test_convolutions_on_the_diagonal_of_w_keep_the_image(tmp_path: Path) -> None:
    """Of stride 2, as many numbers come out as go in, but the diagonal is elsewhere."""
    kernel = np.full((1, 1, 1, 1), 0.125)
    strided = Stored((1, 3, 3), kernel, (1, 1, 1, 1), "zeros", 2)
    assert strided.output == (1, 3, 3)
    said = refusal(folder_of(Blocked((9, 9), [(0, 0, strided)])), tmp_path)
    assert "W.0: W, or a block on its diagonal, must map images to images of the same size" in said
    beside = Blocked((18, 18), [(9, 0, strided)])
    assert check_folder(*folder_of(beside).write(tmp_path)).certificates == 0


def test_only_blocks_on_the_diagonal_of_w_have_one_of_their_own(tmp_path: Path) -> None:
    zero, own = np.zeros((1, 1, 1, 1)), np.full(4, 0.25)
    stored = Stored((1, 2, 2), zero, (0, 0, 0, 0), diagonal=own)
    on, beside = Blocked((8, 8), [(4, 4, stored)]), Blocked((8, 8), [(4, 0, stored)])
    assert check_folder(*folder_of(on).write(tmp_path)).certificates == 0
    for folder in (folder_of(beside), folder_of(on, on)):
        assert "only W has a diagonal of its own, and a block of W" in refusal(folder, tmp_path)


def test_blocks_are_listed_in_order(tmp_path: Path) -> None:
    """By the row where they begin, then by the column; the tensors go with them."""
    W, block = Blocked((4, 4), [(0, 0, np.ones((4, 4)) / 16)]), np.ones((2, 2))
    for first, second in (((0, 0), (0, 2)), ((0, 2), (2, 0))):
        folder = folder_of(W, Blocked((4, 4), [(*first, block), (*second, block)]))
        assert check_folder(*folder.write(tmp_path)).certificates == 0
        folder = folder_of(W, Blocked((4, 4), [(*second, block), (*first, block)]))
        said = refusal(folder, tmp_path)
        assert "U: block 1 must be listed before block 0: by its row, then its column" in said


def test_two_blocks_have_no_entry_in_common(tmp_path: Path) -> None:
    """Side by side, one below the other, around a corner; and by one entry too far."""
    W, a = Blocked((5, 5), [(0, 0, np.ones((5, 5)) / 32)]), np.ones((2, 3))
    beside = [(0, 1, (1, 4)), (0, 4, (3, 1)), (1, 4, (2, 1)), (3, 1, (1, 3)), (3, 3, (2, 2))]
    over = [(0, 1, (2, 1)), (1, 1, (2, 3)), (1, 3, (1, 2)), (2, 0, (1, 2)), (2, 3, (3, 1))]
    for row, column, shape in (*beside, *over):
        parts = sorted([(1, 1, a), (row, column, np.ones(shape))], key=lambda part: part[:2])
        folder = folder_of(W, Blocked((5, 5), parts))  # type: ignore[arg-type]
        if (row, column, shape) in beside:
            assert check_folder(*folder.write(tmp_path)).certificates == 0
        else:
            assert "U: the blocks 0 and 1 overlap" in refusal(folder, tmp_path)


def test_blocks_together_are_not_too_large(tmp_path: Path) -> None:
    """Each of two convolutions is within the limits of one."""
    wide = Stored((1, 1, 1), np.ones((1, 1, 1, 1)), (0, 0, 0, 3 << 20), "zeros", 1 << 21)
    long = Stored((1, 1, 1), np.ones((1, 1, 1, 1 << 13)), (0, 0, 0, 14_000))
    for each, said in ((wide, "padded images of 6291458 numbers"), (long, "terms, where at most")):
        rows = int(np.prod(each.output))
        W = Blocked((2 * rows, 2 * rows), [(0, 0, np.ones((1, 1)) / 4)])
        parts: list[tuple[int, int, Stored | Array]] = [(0, 0, each), (rows, 1, each)]
        folder = folder_of(W, Blocked((2 * rows, 2), parts))
        assert said in refusal(folder, tmp_path)
        folder = folder_of(W, Blocked((2 * rows, 2), parts[:1]))
        assert read_model(folder.write(tmp_path)[1]).r == 2


def test_large_matrices_of_blocks_are_not_shown_to_be_monotone(tmp_path: Path) -> None:
    one = (1.0).hex()
    for n, said in ((1025, "from 1025 to 1025 numbers: at most 1024 rows"), (4, "")):
        W = Blocked((n, n), [(0, 0, np.full((1, 1), 0.5))])
        folder = folder_of(W, Blocked((n, 2), [(0, 0, np.ones((1, 1)))]))
        folder.monotone = {"Lambda": [one] * n, "m": (0.25).hex(), "norm": (2.0).hex()}
        if said:
            with pytest.raises(NotValidError, match=said):
                check_folder(*folder.write(tmp_path))
        else:
            assert check_folder(*folder.write(tmp_path)).certificates == 0


# What the library writes.


def layered(column: int = 4) -> StoredNetwork:
    """A convolution of the input, an implicit layer of convolutions, and a dense one behind it.

    The last reads the states from `column` on: those of the implicit layer.
    """
    dice, none = np.random.default_rng(15), Margins(0, 0, 0, 0)

    def entries(*shape: int) -> torch.Tensor:
        return torch.tensor(dice.normal(size=shape))

    image, kernel = Image(1, 2, 2), entries(1, 1, 3, 3) / 4
    kernel[0, 0, 1, 1] = 0
    implicit = Convolution(kernel, Geometry(image, Margins(1, 1, 1, 1)), entries(4) / 4 - 2)
    front = Convolution(50 * entries(1, 1, 2, 2), Geometry(image, Margins(0, 1, 1, 0)))
    last = Dense(30 * entries(3, 4))
    W = stacked((11, 11), [(4, 0, front), (4, 4, implicit), (8, column, last)])
    U = stacked((11, 9), [(0, 0, Convolution(entries(1, 1, 2, 2), Geometry(Image(1, 3, 3), none)))])
    return StoredNetwork.from_arrays(W, U, entries(11), entries(3, 11), entries(3))


@pytest.mark.parametrize("method", [Interval(), Complete(timeout=10.0)], ids=lambda m: m.name)
def test_certificates_of_the_library_are_valid(method: Method, tmp_path: Path) -> None:
    held, proofs, model = layered(), tmp_path / "proofs", tmp_path / "model.safetensors"
    x = torch.tensor(np.random.default_rng(1).uniform(0, 1, (4, 9)))
    labels = held.predict(x).argmax(1)
    found = write_certificates(proofs, held, x, labels, 0.03, method=method)
    save_model(model, held)
    report = check_folder(proofs, model)
    assert report.model == held.digest
    assert report.certified == [line["status"] for line in found.lines].count("certified") > 0
    assert report.trees > 0 or not isinstance(method, Complete)
    moved = layered(column=3)  # the same tensors, with a block at another place
    save_model(model, moved)
    with pytest.raises(NotValidError, match="the certificates are about the model"):
        check_folder(proofs, model)
    claim = proofs / "certificates.json"
    claim.write_text(claim.read_text().replace(held.digest, moved.digest))
    with pytest.raises(NotValidError, match=r"row \d: "):
        check_folder(proofs, model)
