"""Trees, balls and witnesses: what is right is valid, and each way of being wrong is not."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import struct
import tracemalloc
from array import array
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from equicert.checker import NotValidError, UnreadableError, check_folder, main
from equicert.checker.definite import is_semidefinite
from equicert.checker.exact import Exact
from equicert.checker.functions import parse
from equicert.checker.integers import Packed, scaled
from equicert.checker.lemmas import Form, Node, difference
from equicert.checker.model import Model
from equicert.checker.structures import Dense
from exact import fixed_point, to_fractions
from exact import is_semidefinite as truly_semidefinite
from networks import Network, floats
from proofs import MAGIC, Folder, framed, random_proofs
from tree_proofs import (
    Judge,
    Problem,
    Tree,
    Witnessed,
    ball_start,
    inner,
    leaf,
    lemma,
    nothing,
    split,
    state_start,
)
from tree_prover import ACTIVATIONS, Case, down, outputs_at, proved, up, witnessed

EACH = pytest.mark.parametrize("activation", ACTIVATIONS)
BOTH = pytest.mark.parametrize("contracting", [True, False], ids=["eta", "ball"])


def check(case: Case, root: Path) -> object:
    case.folder.proofs = [case.record]
    return check_folder(*case.folder.write(root))


def refused(case: Case, root: Path, says: str) -> None:
    with pytest.raises(NotValidError) as caught:
        check(case, root)
    assert says in str(caught.value), caught.value
    assert "\n" not in str(caught.value)


# What is right.


@EACH
@BOTH
@pytest.mark.parametrize("domain", [None, (0.0, 1.0)], ids=str)
def test_proofs_are_valid_and_no_point_contradicts_them(
    activation: str, contracting: bool, domain: tuple[float, float] | None, tmp_path: Path
) -> None:
    case = proved(1, activation, contracting, domain)
    report = check_folder(*_written(case, tmp_path))
    assert (report.certificates, report.trees, report.witnesses) == (1, 1, 0)
    record, rng = case.record, random.Random(0)
    assert isinstance(record, Tree)
    others = [j for j in range(3) if j != record.label]
    for _ in range(60):
        x = [rng.choice([lo, hi, lo + (hi - lo) * rng.randint(0, 64) / 64])
             for lo, hi in case.problem.box]  # fmt: skip
        y = outputs_at(case.net, x)
        for j, claimed in zip(others, record.margins, strict=True):
            assert y[record.label] - y[j] >= Fraction(claimed)


@EACH
@BOTH
def test_witnesses_are_valid_and_real(activation: str, contracting: bool, tmp_path: Path) -> None:
    case = witnessed(1, activation, contracting)
    report = check_folder(*_written(case, tmp_path))
    assert (report.certificates, report.trees, report.witnesses) == (0, 0, 1)
    record = case.record
    assert isinstance(record, Witnessed)
    y = outputs_at(case.net, to_fractions(record.x))
    assert y[record.rival] > y[record.label]


def _written(case: Case, root: Path) -> tuple[Path, Path]:
    case.folder.proofs = [case.record]
    return case.folder.write(root)


# The bound itself.


def exact_model(net: Network) -> Exact:
    W, U, b, C, c = (array("d", a.ravel().tolist()) for a in net.arrays)
    n, r = net.states, net.inputs
    return Exact(Model(Dense(n, n, W), Dense(n, r, U), b, C, c, *parse(net.activation)))


@st.composite
def bound_problems(
    draw: st.DrawFn,
) -> tuple[Network, list[list[float]], list[list[float]], list[float]]:
    """A network with W_ii < 1, boxes of states and inputs, a multiplier; of any exponents."""
    n, r = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    some = st.sampled_from([0.0, 1.0, -0.5, 3.0, 5e-324, 1e-300, 2.0**70]) | floats(4.0)

    def drawn(*shape: int) -> np.ndarray:
        return draw(hnp.arrays(np.float64, shape, elements=some))

    W = drawn(n, n)
    W[np.diag_indices(n)] = draw(
        hnp.arrays(np.float64, n, elements=st.sampled_from([0.0, 0.5, -3.0, -(2.0**70), 0.1]))
    )
    activation = draw(st.sampled_from([*ACTIVATIONS, "identity", "leaky_relu(0.1)"]))
    net = Network("", W, drawn(n, r), drawn(n), drawn(2, n), drawn(2), activation)
    Z, X = ([sorted(pair) for pair in drawn(count, 2).tolist()] for count in (n, r))
    return net, Z, X, drawn(n).tolist()


@settings(max_examples=100)
@given(bound_problems())
def test_the_bound_is_the_exact_one(
    drawn: tuple[Network, list[list[float]], list[list[float]], list[float]],
) -> None:
    """It is at least its exact value, not more than it, and not more by the least bit."""
    net, Z, X, lam = drawn
    exact = exact_model(net)
    problem = Problem.of(net.arrays, net.activation, _pairs(X))
    bounds = problem.ranges(_pairs(Z))
    node = Node(exact, _box(Z), _box(X), 1200)
    assert [Fraction(v, 1 << node.k) for pair in node.bounds for v in pair] == [
        v for pair in bounds for v in pair
    ]
    multiplier = [i for i, v in enumerate(lam) if v], *scaled([v for v in lam if v])
    forms = [
        (Form(), problem.of_nothing(bounds, to_fractions(lam))),
        (Form(sign=1), problem.of_neuron(0, False, bounds, to_fractions(lam))),
        (Form(sign=-1), -problem.of_neuron(0, True, bounds, to_fractions(lam))),
        (difference(exact, 1, 0), problem.of_margin(1, 0, bounds, to_fractions(lam))),
    ]
    for form, value in forms:
        bit = Fraction(1, 1 << 5000)
        assert node.shortfall(form, multiplier, value) is None
        assert node.shortfall(form, multiplier, value - bit, strict=True) is None
        assert node.shortfall(form, multiplier, value, strict=True) is not None
        assert node.shortfall(form, multiplier, value + bit) is not None


def _pairs(ends: list[list[float]]) -> list[tuple[Fraction, Fraction]]:
    return [(Fraction(lo), Fraction(hi)) for lo, hi in ends]


def _box(ends: list[list[float]]) -> tuple[list[int], list[int], int]:
    values, k = scaled([v for pair in ends for v in pair])
    pairs = list(zip(values[::2], values[1::2], strict=True))
    return [a + b for a, b in pairs], [b - a for a, b in pairs], k


@given(
    st.lists(
        st.lists(st.integers(-(1 << 70), 1 << 70), min_size=3, max_size=3), min_size=1, max_size=4
    ),
    st.lists(st.integers(-(1 << 40), 1 << 40), min_size=4, max_size=4),
)
def test_packed_sums_are_sums(rows: list[list[int]], weights: list[int]) -> None:
    weights = weights[: len(rows)]
    found = Packed(rows).combination(list(range(len(rows))), weights)
    columns = zip(*rows, strict=True)
    assert found == [sum(w * v for w, v in zip(weights, c, strict=True)) for c in columns]
    extreme = Packed([[(1 << 63) - 1, -(1 << 63) + 1, 0]] * 2)
    assert extreme.combination([0, 1], [-1, -1]) == [2 - (1 << 64), (1 << 64) - 2, 0]


@settings(max_examples=150)
@given(
    hnp.arrays(np.int64, st.integers(1, 4).map(lambda n: (n, n)), elements=st.integers(-9, 9)),
    st.integers(-3, 3),
    st.lists(st.integers(0, 400), min_size=4, max_size=4),
)
def test_a_matrix_that_is_called_semidefinite_is(
    F: np.ndarray, shift: int, powers: list[int]
) -> None:
    """F F^T + shift, in whatever units; and where it is well above 0 it is called so."""
    n = len(F)
    units = [1 << p for p in powers[:n]]
    A = [
        [int(F[i] @ F[j] + shift * (i == j)) * units[i] * units[j] for j in range(n)]
        for i in range(n)
    ]
    called = is_semidefinite([row[: i + 1] for i, row in enumerate(A)])
    if called:
        assert truly_semidefinite([[Fraction(v) for v in row] for row in A])
    if shift > 0:
        assert called


# What is wrong.


@EACH
@BOTH
def test_a_claim_raised_by_one_unit_does_not_follow(
    activation: str, contracting: bool, tmp_path: Path
) -> None:
    case = proved(2, activation, contracting)
    record = case.record
    assert isinstance(record, Tree)
    check(case, tmp_path)
    for k in range(2):
        margins = list(record.margins)
        margins[k] = math.nextafter(margins[k], math.inf)
        case.record = dataclasses.replace(record, margins=margins)
        refused(case, tmp_path, "the margin claimed does not follow, by ")


# One neuron feeds another: z_0 = relu(x), r_1 = 1/4 - z_0, y_0 - y_1 = z_0 + z_1 - 1/8 on [-1, 1].
# It is at least 1/8: r_1 and r_0 cannot both be negative, and z_0 + z_1 >= 1/4 where r_0 > 0.
CHAIN = Network(
    "chain",
    np.array([[0.0, 0.0], [-1.0, 0.0]]),
    np.array([[1.0], [0.0]]),
    np.array([0.0, 0.25]),
    np.array([[1.0, 1.0], [0.0, 0.0]]),
    np.array([-0.125, 0.0]),
)
START = state_start(np.zeros(2), np.array([1.0, 0.25]))
NONE = [0.0, 0.0]
TIGHT = [0.0, 1.0]  # z_1 >= r_1: with it the margin's bound is 1/4 - 1/8


def hand_made(*steps: bytes, chain: tuple[bytes, ...] = (), margin: float = 0.125) -> Case:
    record = Tree(0, 0, 1.0, START, list(chain), [margin], [list(steps)])
    arrays = dict(zip("WUbCc", CHAIN.arrays, strict=True))
    folder = Folder(arrays, "relu", np.array([1.0, 2.0]), np.zeros((1, 1)), [record])
    box = [(Fraction(-1), Fraction(1))]
    problem = Problem.of(CHAIN.arrays, "relu", box)
    return Case(CHAIN, folder, record, problem)


LEFT = (split(1, 0), nothing([0.0, 1.0]))
# Below r_0 = 0 it is r_1 = 1/4: r_1 <= 0 is impossible. Above, z_1 >= r_1 closes it.
GOOD = (split(0, 0), *LEFT, leaf(TIGHT), leaf(TIGHT))
CROSSED = (1, False, 0.25, [0.0, 0.0])  # r_1 >= 1/4 where r_0 <= 0


def test_the_hand_made_tree_is_valid(tmp_path: Path) -> None:
    case = hand_made(*GOOD)
    check(case, tmp_path)
    assert Judge(case.folder).holds(case.record.body()) is True
    check(hand_made(leaf(TIGHT)), tmp_path)  # at once
    below = inner(*CROSSED)
    # The lemma holds below r_0 = 0, for what follows it there.
    check(hand_made(split(0, 0), below, leaf(NONE), leaf(TIGHT)), tmp_path)


WRONG: dict[str, tuple[tuple[bytes, ...], tuple[bytes, ...], str]] = {
    "a leaf too weak": ((leaf(NONE),), (), "class 1, step 0: the margin claimed does not follow"),
    "not infeasible": ((nothing(NONE),), (), "step 0: that no state is left does not follow"),
    "infeasible elsewhere": (
        (split(0, 0), split(1, 0), leaf(TIGHT), leaf(TIGHT), nothing([0.0, 1.0])),
        (),
        "step 4: that no state is left",
    ),
    "a lemma beside its part": (
        (split(0, 0), inner(*CROSSED), leaf(NONE), inner(*CROSSED), leaf(TIGHT)),
        (),
        "step 3: r_1 >= 0.25 does not follow",
    ),
    "a lemma before its split": (
        (inner(*CROSSED), split(0, 0), leaf(NONE), leaf(TIGHT)),
        (),
        "step 0: r_1 >= 0.25 does not follow",
    ),
    "a lemma that is not taken over": (
        (split(0, 0), inner(*CROSSED), leaf(NONE), leaf(NONE)),
        (),
        "step 3: the margin claimed",
    ),
    "a lemma of the chain that cites a split": (
        (leaf(TIGHT),),
        (lemma(*CROSSED),),
        "lemma 0 of the chain: r_1 >= 0.25 does not follow",
    ),
    "a lemma that cites itself": (
        (leaf(NONE),),
        (lemma(1, False, 0.125, [0.0, -1.0]),),  # this multiplier repeats the bound on r_1
        "lemma 0 of the chain: r_1 >= 0.125",
    ),
    "nothing is left": (
        (split(0, 0), split(1, 0), inner(*CROSSED), leaf(NONE), leaf(TIGHT), leaf(TIGHT)),
        (),
        "step 2: it leaves nothing of the interval of neuron 1",
    ),
    "no such breakpoint": (
        (split(0, 1), leaf(TIGHT), leaf(TIGHT)), (), "step 0: neuron 0 has no breakpoint 1"
    ),
    "a breakpoint at an end": (
        (split(0, 0), split(0, 0), leaf(TIGHT), leaf(TIGHT), leaf(TIGHT)),
        (),
        "step 1: breakpoint 0 of neuron 0 is not inside",
    ),
    "the same above": (
        (split(0, 0), leaf(TIGHT), split(0, 0), leaf(TIGHT), leaf(TIGHT)),
        (),
        "step 2: breakpoint 0 of neuron 0 is not inside",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_steps_are_named(name: str, tmp_path: Path) -> None:
    steps, chain, says = WRONG[name]
    case = hand_made(*steps, chain=chain)
    refused(case, tmp_path, says)
    assert Judge(case.folder).holds(case.record.body()) is False


def test_a_tree_begins_from_the_chain_alone(tmp_path: Path) -> None:
    """Where r_1 >= 0 it is z_0 <= 1/4: not in the next tree, about y_0 - y_2 = 1/2 - z_0."""
    case = hand_made()
    case.folder.arrays["C"] = np.array([[1.0, 1.0], [0.0, 0.0], [2.0, 1.0]])
    case.folder.arrays["c"] = np.array([-0.125, 0.0, -0.625])
    last = inner(0, True, 0.25, [1.0, -1.0])
    first = [split(1, 0), leaf(TIGHT), last, leaf(TIGHT)]
    case.record = Tree(0, 0, 1.0, START, [], [0.125, 0.25], [first, [leaf(NONE)]])
    refused(case, tmp_path, "class 2, step 4: the margin claimed does not follow, by 0.75")
    assert Judge(case.folder).holds(case.record.body()) is False


ODD: dict[str, tuple[bytes, ...]] = {
    "a sibling dropped": (split(0, 0), *LEFT, leaf(TIGHT)),
    "a leaf too many": (*GOOD, leaf(TIGHT)),
    "nothing at all": (),
    "no leaf": (inner(*CROSSED),),
    "an unknown step": (b"\4" + leaf(TIGHT)[1:],),
    "no such neuron": (split(2, 0), leaf(TIGHT), leaf(TIGHT)),
    "a lemma of no neuron": (inner(2, False, -9.0, NONE), leaf(TIGHT)),
    "a side that is none": (b"\3" + struct.pack("<IBd", 0, 2, -9.0) + leaf(NONE)[1:], leaf(TIGHT)),
    "a lemma of NaN": (inner(0, False, math.nan, NONE), leaf(TIGHT)),
    "a lemma of infinity": (inner(0, True, math.inf, NONE), leaf(TIGHT)),
    "an unknown width": (b"\0\3\0\0\0",),
    "an entry that is zero": (b"\0\2\0\0\2\0\0",),
    "an entry of NaN": (b"\0\x08\2" + struct.pack("<d", math.nan),),
    "too many entries": (b"\0\2\0\0\6\1\0\1\0",),
    "a huge exponent": (b"\0\2\xff\x7f\2\1\0",),
    "a tiny exponent": (b"\0\2\0\x80\2\1\0",),
    "an entry cut short": (b"\0\2\0\0\2\1",),
}


@pytest.mark.parametrize("name", ODD)
def test_steps_that_are_none(name: str, tmp_path: Path) -> None:
    case = hand_made(*ODD[name])
    with pytest.raises(UnreadableError, match="record at byte 16: "):
        check(case, tmp_path)
    assert Judge(case.folder).holds(case.record.body()) is False


def test_the_order_of_lemmas_matters(tmp_path: Path) -> None:
    """From a wide box of states: the second lemma repeats the bound that the first one made."""
    first, second = lemma(1, False, -0.75, NONE), lemma(1, False, -0.75, [0.0, -1.0])
    wide = state_start(np.zeros(2), np.array([2.0, 1.0]))
    for chain, good in (((first, second), True), ((second, first), False)):
        case = hand_made(leaf(TIGHT), chain=chain)
        assert isinstance(case.record, Tree)
        case.record.start = wide
        assert Judge(case.folder).holds(case.record.body()) is good
        if good:
            check(case, tmp_path)
        else:
            refused(case, tmp_path, "lemma 0 of the chain: r_1 >= -0.75 does not follow, by 1")


def test_claimed_margins_are_positive_and_met(tmp_path: Path) -> None:
    check(hand_made(*GOOD, margin=5e-324), tmp_path)
    for margin in (0.0, -1.0, math.nan, math.inf):
        refused(hand_made(*GOOD, margin=margin), tmp_path, "not positive")
    refused(hand_made(*GOOD, margin=0.125 + 2**-55), tmp_path, "class 1, step 3: the margin")


# Witnesses.


def test_a_witness_is_in_the_exact_box(tmp_path: Path) -> None:
    """At the boundary, in decimals that float64 does not hold; one unit outside is refused."""
    case = witnessed(3, "relu", contracting=True)
    record = case.record
    assert isinstance(record, Witnessed)
    check(case, tmp_path)
    for k, (lo, hi) in enumerate(case.problem.box):
        at = record.x[k]
        inwards, outwards = (math.inf, -math.inf) if at < (lo + hi) / 2 else (-math.inf, math.inf)
        assert lo <= Fraction(at) <= hi
        assert not lo <= Fraction(math.nextafter(at, outwards)) <= hi
        x = record.x.copy()
        x[k] = math.nextafter(at, outwards)
        case.record = dataclasses.replace(record, x=x)
        refused(case, tmp_path, f"the witness is outside the box at input {k}: ")
        x[k] = math.nextafter(at, inwards)
        case.record = dataclasses.replace(record, x=x)
        with pytest.raises(NotValidError, match=r"neuron|margin"):  # its states are tight
            check_tight(case, tmp_path)
        x[k] = math.nan
        refused(case, tmp_path, f"the witness has the entry {k} = nan")


def check_tight(case: Case, root: Path) -> None:
    """The box of states of another point, shrunk to nothing about that point's states."""
    record = case.record
    assert isinstance(record, Witnessed)
    z = np.array(fixed_point(case.net.W, case.net.U, case.net.b, record.x), float)
    case.record = dataclasses.replace(record, start=state_start(z + 1, z + 1))
    check(case, root)


def test_a_rival_is_another_class_and_greater(tmp_path: Path) -> None:
    case = witnessed(4, "hard_tanh", contracting=True)
    record = case.record
    assert isinstance(record, Witnessed)
    y = outputs_at(case.net, to_fractions(record.x))
    for rival in range(3):
        case.record = dataclasses.replace(record, rival=rival)
        if rival == record.label:
            refused(case, tmp_path, f"rival {rival} of label {rival}")
        elif y[rival] > y[record.label]:
            check(case, tmp_path)
        else:
            refused(case, tmp_path, f"the margin against {rival} may be ")
    case.record = dataclasses.replace(record, rival=3)
    refused(case, tmp_path, "rival 3 of label")


def test_a_tie_is_no_witness(tmp_path: Path) -> None:
    case = hand_made()
    case.folder.arrays["c"] = np.array([-0.25, 0.0])  # y_0 - y_1 = z_0 + z_1 - 1/4 = 0 at x = 0
    point = state_start(np.array([0.0, 0.25]), np.array([0.0, 0.25]))
    case.record = Witnessed(0, 0, 1.0, 1, np.zeros(1), point)
    refused(case, tmp_path, "the margin against 1 may be 0, not below 0")
    case.folder.arrays["c"] = np.array([-0.25, 5e-324])
    check(case, tmp_path)


def test_witnesses_of_smooth_activations(tmp_path: Path) -> None:
    """A box of states needs no psi: z = tanh(x), y_0 - y_1 = z - 1/2 at x = 1/4."""
    arrays = {"W": np.zeros((1, 1)), "U": np.ones((1, 1)), "b": np.zeros(1)}
    arrays |= {"C": np.array([[1.0], [0.0]]), "c": np.array([-0.5, 0.0])}
    z = math.tanh(0.25)
    start = state_start(np.array([z - 1e-9]), np.array([z + 1e-9]))
    made = Witnessed(0, 0, 0.5, 1, np.array([0.25]), start)
    folder = Folder(arrays, "tanh", np.ones(1), np.zeros((1, 1)), [made])
    assert check_folder(*folder.write(tmp_path)).witnesses == 1
    claim = {"Lambda": [(1.0).hex()], "m": (0.5).hex(), "norm": (2.0).hex()}
    folder.monotone = claim
    made.start = ball_start(np.array([0.25]))
    with pytest.raises(UnreadableError, match="no ball is checked for the activation tanh"):
        check_folder(*folder.write(tmp_path))
    folder.proofs = [Tree(0, 0, 0.0, start, [], [0.1], [[leaf([0.0])]])]
    folder.inputs = np.array([[0.25]])
    with pytest.raises(UnreadableError, match="no tree is checked for the activation tanh"):
        check_folder(*folder.write(tmp_path))


# What all records share.


def monotone_folder(m: float, norm: float, weights: tuple[float, float] = (1.0, 1.0)) -> Folder:
    """W = I / 4 + a rotation, U = diag(2, 3): exactly m = 3/4 and norm 3 at Lambda = 1."""
    arrays = {"W": np.array([[0.25, -5.0], [5.0, 0.25]]), "U": np.diag([2.0, 3.0])}
    arrays |= {"b": np.zeros(2), "C": np.eye(2), "c": np.zeros(2)}
    claim = {"Lambda": [float(v).hex() for v in weights], "m": m.hex(), "norm": norm.hex()}
    return Folder(arrays, "relu", None, np.zeros((1, 2)), [], monotone=claim)


BEYOND = "sym(Lambda (I - W)) >= m Lambda is not shown"


@pytest.mark.parametrize(
    ("m", "norm", "weights", "says"),
    [
        (0.75, 3.0, (1.0, 1.0), ""),
        (5e-324, 1e308, (1.0, 1.0), ""),
        (0.75, 6.0, (4.0, 4.0), ""),
        (math.nextafter(0.75, 1), 3.0, (1.0, 1.0), BEYOND),
        (0.7, math.nextafter(3.0, 0), (1.0, 1.0), "the norm of Lambda^(1/2) U is not shown"),
        (0.7, 0.0, (1.0, 1.0), "the norm of"),
        (0.5, math.nextafter(6.0, 0), (4.0, 4.0), "the norm of"),
        (0.5, 9.0, (1.0, 2.0), BEYOND),
        (0.0, 3.0, (1.0, 1.0), "m is 0.0, not a positive"),
        (-1.0, 3.0, (1.0, 1.0), "m is -1.0"),
        (math.inf, 3.0, (1.0, 1.0), "m is inf"),
        (0.5, -3.0, (1.0, 1.0), "norm is -3.0"),
        (0.5, math.inf, (1.0, 1.0), "norm is inf"),
        (0.5, 3.0, (1.0, 0.0), "Lambda has an entry that is not positive"),
        (0.5, 3.0, (1.0, math.inf), "Lambda has the entry 1 = inf"),
    ],
)
def test_monotone_claims_to_the_last_unit(
    m: float, norm: float, weights: tuple[float, float], says: str, tmp_path: Path
) -> None:
    folder = monotone_folder(m, norm, weights)
    if not says:
        assert check_folder(*folder.write(tmp_path)).certificates == 0
        assert Judge(folder).folder_holds()
        return
    with pytest.raises(NotValidError) as caught:
        check_folder(*folder.write(tmp_path))
    assert says in str(caught.value)


def test_mu_2_of_1_is_not_monotone(tmp_path: Path) -> None:
    folder = monotone_folder(5e-324, 3.0)
    for diagonal in (1.0, 1.5):
        folder.arrays["W"] = np.array([[diagonal, -5.0], [5.0, 0.25]])
        with pytest.raises(NotValidError, match="is not shown for m"):
            check_folder(*folder.write(tmp_path))


def test_starts_need_what_they_rest_on(tmp_path: Path) -> None:
    ball, box = proved(1, "relu", contracting=False), proved(1, "relu", contracting=True)
    for case, own, other in ((ball, ball, box), (box, box, ball)):
        assert isinstance(case.record, Tree)
        n = case.net.states
        start = ball_start(np.zeros(n)) if case is box else state_start(np.zeros(n), np.ones(n))
        case.record = dataclasses.replace(case.record, start=start)
        says = "a ball needs a monotone" if own is box else "a box of states needs an eta"
        assert other is not own
        refused(case, tmp_path, says)
    folder, _ = random_proofs("relu")
    claim = {"Lambda": [(1.0).hex()] * 4, "m": (2.0**-20).hex(), "norm": (64.0).hex()}
    folder.monotone = claim
    check_folder(*folder.write(tmp_path))
    folder.eta = None  # a state box of kind 1 needs it, too
    with pytest.raises(NotValidError, match="row 0: a box of states needs an eta"):
        check_folder(*folder.write(tmp_path))
    folder.monotone = None
    with pytest.raises(UnreadableError, match="eta and monotone are both null"):
        check_folder(*folder.write(tmp_path))


def test_a_middle_beyond_float64(tmp_path: Path) -> None:
    folder = monotone_folder(0.75, 3.0)
    folder.inputs, folder.domain = np.full((1, 2), 1.7e308), ([1.7e308], [math.inf])
    folder.proofs = [Tree(0, 0, 1.7e308, ball_start(np.zeros(2)), [], [1.0], [[leaf(NONE)]])]
    with pytest.raises(NotValidError, match="middle of the box is beyond float64"):
        check_folder(*folder.write(tmp_path))


# Verdicts, the line, and files that take too much.


def test_verdicts_and_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = witnessed(1, "relu", contracting=True)
    where, model = _written(case, tmp_path)
    record = case.record
    path = where / "verdicts.jsonl"

    def write(status: str, label: int) -> int:
        line = {"index": 0, "status": status, "label": label, "radius": record.eps}
        path.write_text(json.dumps(line) + "\n")
        return main([str(where), "--model", str(model)])

    assert write("falsified", record.label) == 0
    said = capsys.readouterr().out
    assert said.startswith("valid: 0 certificates (0 of them trees) and 1 witnesses for the model")
    assert "1 verdicts 'falsified', each with its witness" in said
    assert write("falsified", 7) == 1
    assert "falsified in" in capsys.readouterr().out
    assert write("certified", record.label) == 1
    assert "certified in" in capsys.readouterr().out
    assert write("unknown", record.label) == 0


def test_deep_trees_take_no_stack_and_bad_counts_no_memory(tmp_path: Path) -> None:
    """Twenty thousand splits; a chain said to have 2^32 - 1 lemmas."""
    case = hand_made(leaf(TIGHT))
    assert isinstance(case.record, Tree)
    where, model = _written(case, tmp_path)
    body = case.record.body()
    at = len(body) - len(leaf(TIGHT)) - 8 - 4
    endless = body[:at] + b"\xff" * 4 + body[at + 4 :]
    deep = body[: -len(leaf(TIGHT))] + split(0, 0) * 20_000
    closed = deep + leaf(TIGHT) * 20_001
    tracemalloc.start()
    for made in (endless, deep, closed):
        (where / "certificates.bin").write_bytes(MAGIC + framed(made))
        with pytest.raises((NotValidError, UnreadableError)):
            check_folder(where, model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_extreme_multipliers_are_decided(tmp_path: Path) -> None:
    """2^960 and 2^-1074 in one multiplier: long integers, and no more than that."""
    for lam in ([0.0, 2.0**960], [5e-324, 1.0], [2.0**960, 5e-324], [1e308, -1e308]):
        case = hand_made(leaf(lam))
        wanted = Judge(case.folder).holds(case.record.body())
        if wanted:
            check(case, tmp_path)
        else:
            refused(case, tmp_path, "the margin claimed does not follow, by ")


def test_values_are_floats_of_the_right_side() -> None:
    """Of the tests' own prover."""
    third = Fraction(1, 3)
    assert Fraction(down(third)) < third < Fraction(up(third))
    assert down(Fraction(1, 4)) == up(Fraction(1, 4)) == 0.25
