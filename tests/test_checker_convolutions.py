"""Certificates of convolutional networks: the verdicts of the dense matrix, and no false `valid`.

Trees, balls and witnesses also with the same matrices stored as blocks.

Every verdict is that of `Judge`, in plain fractions over the matrix expanded by plain loops.
"""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convolutions import (
    Blocked,
    Convolutional,
    Stored,
    convolutional_network,
    cut,
    stored_so,
    without_own,
)
from equicert.checker import NotValidError, UnreadableError, check_folder
from exact import contracts, to_fractions
from proofs import MAGIC, Folder, Proof, framed
from tree_proofs import Judge
from tree_prover import ACTIVATIONS, Case, proved, witnessed

KINDS = pytest.mark.parametrize("make", [proved, witnessed])
EACH = pytest.mark.parametrize("activation", ACTIVATIONS)
BOTH = pytest.mark.parametrize("contracting", [True, False], ids=["eta", "ball"])


def says(folder: Folder, root: Path) -> str:
    try:
        check_folder(*folder.write(root))
    except UnreadableError:
        return "unreadable"
    except NotValidError:
        return "not valid"
    return "valid"


def stored_of(case: Case) -> tuple[Stored | None, Stored | None]:
    assert isinstance(case.net, Convolutional)
    return case.net.stored


def blocks_of(case: Case, rng: random.Random) -> tuple[Blocked, Blocked]:
    """The same matrices in blocks: cut, or one block that is a convolution."""
    W, _ = stored_of(case)
    assert W is not None
    whole = Blocked(case.net.W.shape, [(0, 0, W)])
    return rng.choice([whole, cut(case.net.W, rng)]), cut(case.net.U, rng)


# Trees, balls and witnesses.


@KINDS
@EACH
@BOTH
@pytest.mark.parametrize("seed", [1, 2])
def test_trees_and_witnesses_get_the_verdicts_of_the_dense_network(
    make: Callable[..., Case], activation: str, contracting: bool, seed: int, tmp_path: Path
) -> None:
    case = make(seed, activation, contracting, draw=convolutional_network)
    case.folder.proofs = [case.record]
    rng, body, judge = random.Random(seed), case.record.body(), Judge(case.folder)
    assert says(case.folder, tmp_path / "dense") == "valid"
    written = []
    for name, stored in {"kernels": stored_of(case), "blocks": blocks_of(case, rng)}.items():
        structured = stored_so(case.folder, stored)
        written.append(paths := structured.write(tmp_path / name))
        report = check_folder(*paths)
        assert report.certificates + report.witnesses == 1
        assert report.model == structured.digest() != case.folder.digest()
    found = Counter[str]()
    for trial in range(26):
        paths = written[trial % 2]
        changed = bytearray(body)
        at = rng.randrange(len(changed))
        changed[at] ^= 1 << rng.randrange(8)
        (paths[0] / "certificates.bin").write_bytes(MAGIC + framed(bytes(changed)))
        try:
            verdict = check_folder(*paths).certificates + 1 > 0
        except (NotValidError, UnreadableError):
            verdict = False
        expected = judge.holds(bytes(changed))
        assert expected is None or verdict == expected, changed.hex()
        found["valid" if verdict else "not valid"] += 1
    assert found["not valid"] > 0


# State boxes, every inequality of which binds.


def binding(padding: str, own: bool) -> Folder:
    """Ends, margins and eta with equality, or within a unit; and what is stored, beside it.

    One channel of 2x3 and a kernel of 2x3; short dyadic numbers. eta = 1 is within 2^-50 of failing
    at every output that the whole kernel reaches.
    """
    kernel = without_own(np.array([[[[0.125, 0.0, 0.0625], [-0.0625, -0.25, 0.125]]]]), SIDES)
    off = Stored(IMAGE, kernel, SIDES, padding).expanded()
    sums = np.abs(off).sum(1)
    diagonal = np.full(6, 1 - 2.0**-50 - sums.max())
    if own:  # the kernel's own entry in the place of the diagonal
        kernel[0, 0, SIDES[0], SIDES[2]] = diagonal[0]
    W = Stored(IMAGE, kernel, SIDES, padding, diagonal=None if own else diagonal)
    width, middle = np.full(6, 0.5), np.array([0.5, 1.0, 0.75, 0.5, 0.625, 1.0])
    eps, x = 0.125, np.array([[0.25, -0.5, 0.5, 0.0, 0.125, 1.0]])
    # What the output with the greatest row sum leaves to the inputs.
    need = (1 - diagonal - sums) * 0.5
    U = Stored(IMAGE, np.full((1, 1, 1, 1), need.min() / (2 * eps)), (0, 0, 0, 0))
    b = middle - W.expanded() @ middle - U.expanded() @ x[0]
    lo, hi = middle - width / 2, middle + width / 2
    C, c = np.array([[1.0, -1.0, 0.5, 0, 0, 1], [0.5, 2, 0, -1, 1, 0]]), np.array([8.0, -0.25])
    row = to_fractions(C[0] - C[1])
    least = sum(
        min(w * u, w * v) for w, u, v in zip(row, *map(to_fractions, (lo, hi)), strict=True)
    )
    margins = [float(least) + c[0] - c[1]]
    arrays = {"W": W.expanded(), "U": U.expanded(), "b": b, "C": C, "c": c}
    proof = Proof(0, 0, lo, hi, margins, eps)  # type: ignore[arg-type]
    return stored_so(Folder(arrays, "relu", np.ones(6), x, [proof]), (W, U))


IMAGE, SIDES = (1, 2, 3), (0, 1, 1, 1)


def stored_in(folder: Folder) -> list[Stored] | None:
    """What a folder's structures and tensors say; None where they say nothing sensible."""
    found = []
    for name, text in zip("WU", folder.structures, strict=True):
        _, image, _, stride, padding, *margins = text.removesuffix(" diagonal").split()
        channels, height, width = map(int, image.split("x"))
        top, bottom, left, right = map(int, margins)
        each = Stored(
            (channels, height, width),
            folder.arrays[f"{name}.kernel"],
            (top, bottom, left, right),
            padding,
            int(stride),
            folder.arrays.get(f"{name}.diagonal") if text.endswith(" diagonal") else None,
        )
        kh, kw = each.kernel.shape[2:]
        if padding == "circular" and (kh > height or kw > width):
            return None
        if min(each.output) < 1 or (name == "W" and each.output != each.image):
            return None
        if each.diagonal is not None and each.kernel[0, 0, top, left] != 0:
            return None
        found.append(each)
    return found


def truth(folder: Folder) -> bool:
    """Whether a folder of state boxes holds, by fractions over the expanded matrices."""
    stored = stored_in(folder)
    if stored is None:
        return False
    dense = deepcopy(folder)
    W, U = (each.expanded() for each in stored)
    dense.arrays = {"W": W, "U": U} | {name: folder.arrays[name] for name in "bCc"}
    dense.structures = "dense", "dense"
    if W.shape != (6, 6) or U.shape != (6, 6):
        return False
    judge = Judge(dense)
    return judge.folder_holds() and all(judge.holds(p.body()) is True for p in folder.proofs)


CASES = [(padding, own) for padding in ("zeros", "circular") for own in (False, True)]


@pytest.mark.parametrize(("padding", "own"), CASES)
def test_a_unit_in_the_last_place_decides(padding: str, own: bool, tmp_path: Path) -> None:
    folder = binding(padding, own)
    assert truth(folder)
    assert says(folder, tmp_path) == "valid"
    found = Counter[tuple[str, bool]]()
    for name, values in folder.arrays.items():
        for at in np.ndindex(values.shape):
            for towards in (-9.0, 9.0):
                changed = deepcopy(folder)
                changed.arrays[name][at] = np.nextafter(values[at], towards)
                expected = truth(changed)
                assert (says(changed, tmp_path) == "valid") == expected, (name, at, towards)
                found[name, expected] += 1
    for name in ("W.kernel", "U.kernel", "b", *(() if own else ("W.diagonal",))):
        assert found[name, False] > 0, found
    assert sum(count for (_, expected), count in found.items() if expected) > 5


@pytest.mark.parametrize(("padding", "own"), CASES)
def test_an_eta_at_a_hair(padding: str, own: bool, tmp_path: Path) -> None:
    """Every output's own row sum decides: kernel area, borders and wrapping included."""
    folder, verdicts = binding(padding, own), Counter[bool]()
    folder.proofs = []
    for i in range(6):
        for towards in (0.0, 2.0):
            changed = deepcopy(folder)
            assert changed.eta is not None
            changed.eta[i] += (towards - 1) * 2.0**-49
            expected = contracts(_W(changed), changed.eta)
            assert (says(changed, tmp_path) == "valid") == expected
            verdicts[expected] += 1
    assert verdicts[True] * verdicts[False] > 0


def _W(folder: Folder) -> np.ndarray:  # noqa: N802 - the paper's letter
    stored = stored_in(folder)
    assert stored is not None
    return stored[0].expanded()


@pytest.mark.parametrize(("padding", "own"), CASES)
def test_another_plausible_structure_is_judged_as_what_it_says(
    padding: str, own: bool, tmp_path: Path
) -> None:
    folder, tail = binding(padding, own), "" if own else " diagonal"
    other = "circular" if padding == "zeros" else "zeros"
    W, U = folder.structures
    swaps = [(W.replace(padding, other), U), (W, U.replace("zeros", "circular"))]
    for sides in ("0 1 1 1", "1 0 1 1", "0 1 0 2", "0 1 2 0", "1 0 0 2"):
        swaps += [(f"convolution 1x2x3 stride 1 {p} {sides}{tail}", U) for p in (padding, other)]
    for image in ("1x3x2", "1x1x6", "1x6x1"):
        swaps += [(W.replace("1x2x3", image), U), (W, U.replace("1x2x3", image))]
    swaps += [(W, f"convolution 1x4x6 stride 2 zeros {sides}") for sides in ("0 0 0 0", "1 0 0 0")]
    swaps += [(W, "convolution 1x1x3 stride 1 zeros 1 0 0 0")]
    swaps += [(W.removesuffix(" diagonal"), U)]
    found = Counter[bool]()
    for structures in swaps:
        changed = replace(deepcopy(folder), structures=structures)
        expected = truth(changed)
        assert (says(changed, tmp_path) == "valid") == expected, structures
        found[expected] += 1
        if structures != folder.structures:  # with the digest of what was certified
            changed.header = {"model": folder.digest()}
            assert says(changed, tmp_path) != "valid"
    assert found[False] > 3
    assert found[True] > 1


def test_the_kernel_s_area_is_in_the_row_sum(tmp_path: Path) -> None:
    """The sum over channels alone is 1/2; over all terms of the inner output it is 4.5."""
    W = Stored((1, 3, 3), np.full((1, 1, 3, 3), 0.5), (1, 1, 1, 1))
    arrays = {"W": W.expanded(), "U": np.eye(9), "b": np.zeros(9), "C": np.eye(2, 9)}
    folder = Folder(arrays | {"c": np.zeros(2)}, "relu", np.ones(9), np.zeros((1, 9)), [])
    with pytest.raises(NotValidError, match=r"i = 0: 2 against 1, by 1"):
        check_folder(*stored_so(folder, (W, None)).write(tmp_path))


# Size.


def large(sides: int) -> Folder:
    """16 channels of 14x14 behind a stride of 2: 3136 states. Z = [0, 1] passes by row sums."""
    dice, n = np.random.default_rng(0), 16 * sides**2
    kernel = without_own(dice.uniform(-1, 1, (16, 16, 3, 3)) / 512, (1, 1, 1, 1))
    W = Stored((16, sides, sides), kernel, (1, 1, 1, 1), diagonal=dice.uniform(-1, 0.1, n))
    image = (1, 2 * sides, 2 * sides)
    U = Stored(image, dice.uniform(-1, 1, (16, 1, 3, 3)) / 64, (1, 1, 1, 1), stride=2)
    arrays = W.tensors("W") | U.tensors("U")
    arrays |= {"b": dice.uniform(0, 0.25, n), "C": np.zeros((2, n)), "c": np.array([1.0, 0.0])}
    x = dice.uniform(0, 1, (1, 4 * sides**2))
    proof = Proof(0, 0, np.zeros(n), np.ones(n), np.ones(1), 0.1)
    return Folder(
        arrays,
        "relu",
        np.ones(n),
        x,
        [proof],
        ([0.0], [1.0]),
        structures=(W.structure, U.structure),
    )


def test_thousands_of_states_take_little_memory(tmp_path: Path) -> None:
    folder = large(14)
    paths = folder.write(tmp_path)
    tracemalloc.start()
    try:
        assert check_folder(*paths).certificates == 1
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    folder.proofs[0].hi[1000] = 2.0**-9
    with pytest.raises(NotValidError, match=r"neuron 1000: phi\(t\) > hi"):
        check_folder(*folder.write(tmp_path))
