"""VNN-LIB files: the property that is read is the one that is written, or it is refused."""

from __future__ import annotations

import gzip
import math
import random
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equicert.errors import InputError
from equicert.properties import (
    Case,
    Property,
    float_down,
    float_up,
    forms_of,
    held,
)
from equicert.stored import StoredNetwork
from equicert.vnnlib import load_property, parse_property
from networks import CONTRACTING

DECLARED = " ".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1", "Y_2"))
BOX = "(assert (and (>= X_0 -1) (<= X_0 1) (>= X_1 0) (<= X_1 0.5)))"
HALF = "(assert (and (<= X_0 1) (>= X_1 0) (<= X_1 1)))"
GOAL = "(assert (<= Y_0 Y_1))"
Point = tuple[list[Fraction], list[Fraction]]


def read(*commands: str) -> Property:
    return parse_property("\n".join([DECLARED, *commands]))


@dataclass(frozen=True)
class Term:
    """A term as text, and its meaning at a point, worked out apart from the parser."""

    text: str
    value: Any  # Point -> Fraction


decimals = st.builds(
    lambda sign, whole, digits, exponent: f"{sign}{whole}{digits}{exponent}",
    st.sampled_from(["", "-", "+"]),
    st.integers(0, 99).map(str),
    st.sampled_from(["", ".", ".5", ".0625", ".1", ".333", ".0001"]),
    st.sampled_from(["", "", "e1", "E-2", "e+0"]),
)


def constant(text: str) -> Term:
    return Term(text, lambda _: Fraction(text))


def variable(letter: str, index: int) -> Term:
    k = "XY".index(letter)
    return Term(f"{letter}_{index}", lambda point: point[k][index])


def together(op: str, parts: list[Term]) -> Term:
    def value(point: Point) -> Any:
        first, *rest = (part.value(point) for part in parts)
        if op == "+":
            return sum(rest, first)
        return first - sum(rest) if rest else -first

    return Term(f"({op} {' '.join(part.text for part in parts)})", value)


def multiple(factor: Term, part: Term, swapped: bool) -> Term:
    words = (part.text, factor.text) if swapped else (factor.text, part.text)
    return Term(f"(* {' '.join(words)})", lambda p: factor.value(p) * part.value(p))


outputs = st.integers(0, 2).map(lambda j: variable("Y", j))
terms = st.recursive(
    st.one_of(outputs, decimals.map(constant)),
    lambda inner: st.one_of(
        st.builds(together, st.sampled_from("+-"), st.lists(inner, min_size=1, max_size=3)),
        st.builds(multiple, decimals.map(constant), inner, st.booleans()),
    ),
    max_leaves=5,
)


def comparison(op: str, a: Term, b: Term) -> Term:
    return Term(
        f"({op} {a.text} {b.text})",
        lambda p: a.value(p) <= b.value(p) if op == "<=" else a.value(p) >= b.value(p),
    )


def bound(op: str, index: int, text: str, swapped: bool) -> Term:
    sides = [variable("X", index), constant(text)]
    return comparison(op, *(sides[::-1] if swapped else sides))


with_output = st.builds(lambda y, t: together("+", [y, t]), outputs, terms)
about_y = st.builds(comparison, st.sampled_from(["<=", ">="]), with_output, terms)
about_x = st.builds(
    bound,
    st.sampled_from(["<=", ">="]),
    st.integers(0, 1),
    st.sampled_from(["-1", "0", "0.1", "0.25", "1e0"]),
    st.booleans(),
)


def junction(op: str, parts: list[Term]) -> Term:
    joined = all if op == "and" else any
    text = f"({op} {' '.join(part.text for part in parts)})"
    return Term(text, lambda p: joined(part.value(p) for part in parts))


about_outputs = st.recursive(
    about_y,
    lambda inner: st.builds(
        junction, st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)
about_both = st.recursive(
    st.builds(lambda x, y: junction("and", [x, y]), about_x, about_y),
    lambda inner: st.builds(
        junction, st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=2)
    ),
    max_leaves=3,
)


def some_points(seed: int) -> list[Point]:
    """Points of a grid, so that many of them lie on boundaries."""
    rng = random.Random(seed)
    xs = [Fraction(k, 20) for k in range(-22, 23)]
    ys = [Fraction(k, 4) for k in range(-8, 9)]
    return [
        ([rng.choice(xs) for _ in range(2)], [rng.choice(ys) for _ in range(3)]) for _ in range(40)
    ]


def in_box(x: list[Fraction]) -> bool:
    return -1 <= x[0] <= 1 and 0 <= x[1] <= Fraction(1, 2)


@given(st.lists(about_outputs, min_size=1, max_size=3), st.integers(0, 99))
def test_membership_is_that_of_the_formula(formulas: list[Term], seed: int) -> None:
    prop = read(BOX, *(f"(assert {formula.text})" for formula in formulas))
    assert len(prop.cases) == 1
    for x, y in some_points(seed):
        wanted = in_box(x) and all(formula.value((x, y)) for formula in formulas)
        assert prop.contains(x, y) == wanted


@given(st.lists(st.one_of(about_both, about_outputs), min_size=1, max_size=3), st.integers(0, 99))
def test_boxes_within_alternatives_are_cases(formulas: list[Term], seed: int) -> None:
    try:
        prop = read(BOX, *(f"(assert {formula.text})" for formula in formulas))
    except InputError as error:
        if "above its upper bound" not in str(error):  # alternatives that exclude one another
            raise
        return
    for x, y in some_points(seed):
        wanted = in_box(x) and all(formula.value((x, y)) for formula in formulas)
        assert prop.contains(x, y) == wanted


@given(st.lists(about_outputs, min_size=1, max_size=2), st.integers(0, 99))
def test_a_positive_form_excludes_its_clause(formulas: list[Term], seed: int) -> None:
    """Of the float64 forms in exact arithmetic: none is positive inside its half-spaces."""
    prop = read(BOX, *(f"(assert {formula.text})" for formula in formulas))
    [case] = prop.cases
    forms = forms_of(case.clauses, 3, [2.0] * 3)
    assert forms.clause is not None
    assert int(forms.clause.max()) == len(case.clauses) - 1
    for _, y in some_points(seed):
        values = [
            sum((Fraction(a) * v for a, v in zip(row, y, strict=True)), Fraction(d))
            for row, d in zip(forms.A.tolist(), forms.d.tolist(), strict=True)
        ]
        for number, clause in enumerate(case.clauses):
            own = [v for v, k in zip(values, forms.clause.tolist(), strict=True) if k == number]
            if max(own) > 0:
                assert not all(h.greatest(y, y) <= 0 for h in clause)
            if held(case.clauses) and all(h.d.denominator == 1 for h in clause):
                inside = all(h.greatest(y, y) <= 0 for h in clause)
                assert inside == (max(own) <= 0)


def test_a_boundary_belongs_to_the_unsafe_set() -> None:
    prop = read(BOX, "(assert (>= Y_0 0.1))")
    x = [Fraction(1), Fraction(1, 2)]
    assert prop.contains(x, [Fraction("0.1"), Fraction(0), Fraction(0)])
    assert not prop.contains(x, [Fraction("0.0999999999999999999999"), Fraction(0), Fraction(0)])
    assert not prop.contains([Fraction(1), Fraction("0.50000000000000000001")], [Fraction(1)] * 3)


def test_conjunctions_are_one_clause() -> None:
    [case] = read(BOX, GOAL, "(assert (or (<= Y_1 0) (and (<= Y_2 1) (<= Y_1 1))))").cases
    assert [len(clause) for clause in case.clauses] == [2, 3]
    forms = forms_of(case.clauses, 3)
    assert forms.clause is not None
    assert forms.clause.tolist() == [0] * 2 + [1] * 3


def test_coefficients_that_float64_does_not_hold_are_charged() -> None:
    [case] = read(BOX, "(assert (<= (* 0.1234567890123456789 Y_0) (* 0.3 Y_1)))").cases
    assert not held(case.clauses)
    with pytest.raises(InputError, match="does not hold the coefficient"):
        forms_of(case.clauses, 3)
    with pytest.raises(InputError, match="no bound on that output"):
        forms_of(case.clauses, 3, [math.inf] * 3)
    forms = forms_of(case.clauses, 3, [1.0, 1.0, math.inf])
    assert float(forms.d[0]) < 0


def test_tenths_become_whole_numbers() -> None:
    [case] = read(BOX, "(assert (<= (* 0.1 Y_0) (+ (* 0.3 Y_1) 0.7)))").cases
    assert held(case.clauses)
    assert forms_of(case.clauses, 3).A.tolist() == [[1.0, -3.0, 0.0]]


@given(st.fractions(), st.integers(-340, 305))
def test_roundings_are_the_nearest_on_their_side(value: Fraction, exponent: int) -> None:
    value = value * Fraction(10) ** exponent
    if abs(value) > Fraction(1.7e308):
        return
    down, up = float_down(value), float_up(value)
    assert Fraction(down) <= value <= Fraction(up)
    assert Fraction(math.nextafter(down, math.inf)) > value or down == value
    assert Fraction(math.nextafter(up, -math.inf)) < value or up == value


@given(st.fractions(-9, 9), st.fractions(0, 1), st.floats(-1, 1))
def test_both_boxes_are_on_their_side_of_the_exact_one(
    lo: Fraction, width: Fraction, share: float
) -> None:
    case = Case((lo,), (lo + width,), ())
    around, within = case.around(), case.within()
    assert Fraction(float(around.lo)) <= lo
    assert lo + width <= Fraction(float(around.hi))
    point = within.lo[0] + (within.hi - within.lo)[0] * abs(share)
    point = within.clamp(point[None])[0]
    [exact] = case.clamp(point)
    assert lo <= exact <= lo + width
    if Fraction(float(point)) != exact:  # only where no float64 lies in the exact box
        assert float_up(lo) > float_down(lo + width)


def test_a_point_that_no_float64_is() -> None:
    case = read(BOX, GOAL).cases[0]
    thin = Case((Fraction("0.1"), *case.lo[1:]), (Fraction("0.1"), *case.hi[1:]), case.clauses)
    assert thin.clamp(thin.within().lo[0])[0] == Fraction("0.1")
    assert bool((thin.around().lo < thin.around().hi).all())


BAD: dict[str, tuple[str, str]] = {
    "nothing": ("", "no variable X_0 is declared"),
    "no output": ("(declare-const X_0 Real)", "no variable Y_0 is declared"),
    "gap": (f"{DECLARED}(declare-const X_3 Real){BOX}{GOAL}", "X_2 is not declared"),
    "twice": (f"{DECLARED}(declare-const X_0 Real)", "X_0 is declared twice"),
    "other name": ("(declare-const A_0 Real)", "'A_0' is neither"),
    "leading zero": ("(declare-const X_00 Real)", "'X_00' is neither"),
    "huge index": ("(declare-const X_99999999999 Real)", "is neither"),
    "other sort": ("(declare-const X_0 Int)", r"\(declare-const X_0 Int\) is not read"),
    "function": ("(declare-fun X_0 () Real)", r"\(declare-fun X_0 \(\) Real\) is not read"),
    "other command": (f"{DECLARED}(check-sat)", r"\(check-sat\) is not read"),
    "undeclared": (f"{DECLARED}(assert (<= X_7 1))", "X_7 is used, but not declared"),
    "declared later": ("(assert (<= X_0 1))(declare-const X_0 Real)", "X_0 is used, but not"),
    "no goal": (f"{DECLARED}{BOX}", "no constraint on the outputs"),
    "alternative without a goal": (
        f"{DECLARED}{BOX}(assert (or (<= Y_0 1) (<= X_0 0)))",
        "no constraint on the outputs",
    ),
    "no upper bound": (f"{DECLARED}(assert (>= X_0 0)){GOAL}", "X_1 has no lower bound"),
    "no lower bound": (
        f"{DECLARED}(assert (and (>= X_0 0) (>= X_1 0) (<= X_1 1))){GOAL}",
        "X_0 has no upper bound",
    ),
    "unbounded alternative": (
        f"{DECLARED}{HALF}(assert (or (and (>= X_0 0) (<= Y_0 0)) (<= Y_1 0)))",
        "X_0 has no lower bound",
    ),
    "inverted": (
        f"{DECLARED}{BOX}(assert (>= X_0 1.5)){GOAL}",
        "X_0 has the lower bound 1.5 above",
    ),
    "inverted, huge": (f"{DECLARED}{BOX}(assert (>= X_0 1e400)){GOAL}", "lower bound 1.*400 above"),
    "strict": (f"{DECLARED}{BOX}(assert (< Y_0 1))", r"\(< Y_0 1\) is a strict inequality"),
    "strict bound": (f"{DECLARED}{BOX}{GOAL}(assert (> X_0 0))", "is a strict inequality"),
    "equality": (f"{DECLARED}{BOX}(assert (= Y_0 1))", r"\(= Y_0 1\) is no formula"),
    "negation": (
        f"{DECLARED}{BOX}(assert (not (<= Y_0 1)))",
        r"\(not \(<= Y_0 1\)\) is no formula",
    ),
    "implication": (f"{DECLARED}{BOX}(assert (=> (<= Y_0 1) (<= Y_1 1)))", "is no formula"),
    "empty and": (f"{DECLARED}{BOX}(assert (and))", r"\(and\) is no formula"),
    "empty or": (f"{DECLARED}{BOX}(assert (or))", r"\(or\) is no formula"),
    "truth": (f"{DECLARED}{BOX}(assert true)", "true is no formula"),
    "chain": (f"{DECLARED}{BOX}(assert (<= 0 Y_0 1))", r"\(<= 0 Y_0 1\) is no formula"),
    "mixed": (f"{DECLARED}{BOX}(assert (<= Y_0 X_0))", "mixes inputs and outputs"),
    "two inputs": (f"{DECLARED}{BOX}{GOAL}(assert (<= X_0 X_1))", "is no bound on one input"),
    "no variable": (f"{DECLARED}{BOX}{GOAL}(assert (<= 0 1))", "is no bound on one input"),
    "no input left": (f"{DECLARED}{BOX}{GOAL}(assert (<= X_0 X_0))", "is no bound on one input"),
    "square": (f"{DECLARED}{BOX}(assert (<= (* Y_0 Y_0) 1))", "is not linear"),
    "product of three": (f"{DECLARED}{BOX}(assert (<= (* 2 Y_0 Y_1) 1))", "is not linear"),
    "quotient": (f"{DECLARED}{BOX}(assert (<= (/ Y_0 2) 1))", r"\(/ Y_0 2\) is no linear term"),
    "alternative term": (f"{DECLARED}{BOX}(assert (<= (ite true Y_0 1) 1))", "is no linear term"),
    "nothing to add": (f"{DECLARED}{BOX}(assert (<= (+) Y_0))", r"\(\+\) is no linear term"),
    "not a number": (f"{DECLARED}{BOX}(assert (<= Y_0 nan))", "'nan' is neither"),
    "infinite": (f"{DECLARED}{BOX}(assert (<= Y_0 inf))", "'inf' is neither"),
    "hexadecimal": (f"{DECLARED}{BOX}(assert (<= Y_0 0x10))", "'0x10' is neither"),
    "underscored": (f"{DECLARED}{BOX}(assert (<= Y_0 1_0))", "'1_0' is neither"),
    "other digits": (f"{DECLARED}{BOX}(assert (<= Y_0 \u0661))", "is neither"),
    "exponent bomb": (f"{DECLARED}{BOX}(assert (<= Y_0 1e999999999))", "too long a number"),
    "long number": (f"{DECLARED}{BOX}(assert (<= Y_0 {'7' * 10**5}))", "too long a number"),
    "long word": (f"{DECLARED}{BOX}(assert (<= Y_0 {'y' * 10**5}))", "is neither"),
    "cut off": (f"{DECLARED}(assert (<= Y_0", "ends within 2 open brackets"),
    "closed twice": (f"{DECLARED})", r"'\)' stands outside"),
    "bare word": ("assert", "'assert' stands outside"),
    "empty command": ("()", r"\(\) is not read"),
    "deep": ("(" * 10**5, "nested more than 100 deep"),
    "deep terms": (f"{DECLARED}{BOX}(assert {'(- ' * 10**4}", "nested more than 100 deep"),
    "product of alternatives": (
        DECLARED + BOX + "(assert (or (<= Y_0 0) (<= Y_1 0)))" * 64,
        "split it into several files",
    ),
    "product of boxes": (
        "".join(f"(declare-const X_{i} Real)" for i in range(5000))
        + " ".join(f"(declare-const Y_{j} Real)" for j in range(3))
        + "".join(f"(assert (<= X_{i} 1))(assert (>= X_{i} 0))" for i in range(5000))
        + "(assert (or "
        + "".join(f"(and (<= X_{i} 0.5) (<= Y_0 0))" for i in range(1000))
        + "))",
        "ends of boxes",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_understood_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    text, said = BAD[name]
    path = tmp_path / "prop.vnnlib"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=said) as error:
        load_property(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_deep_but_allowed_nesting_is_read() -> None:
    text = "(and " * 97 + "(<= Y_0 1)" + ")" * 97
    assert read(BOX, f"(assert {text})").cases[0].clauses[0][0].d == -1
    text = "(- " * 96 + "Y_0" + ")" * 96
    assert read(BOX, f"(assert (<= {text} 1))").cases[0].clauses[0][0].a == ((0, Fraction(1)),)


def test_comments_and_spaces() -> None:
    prop = parse_property(f"; (\n{DECLARED}\t;)\r\n{BOX};{GOAL}\n(assert(<= Y_0 Y_1));")
    assert prop == read(BOX, GOAL)


def test_gzip_and_text_are_the_same(tmp_path: Path) -> None:
    text = f"{DECLARED}{BOX}{GOAL}"
    (tmp_path / "a.vnnlib").write_text(text)
    (tmp_path / "b.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    assert load_property(tmp_path / "a.vnnlib") == load_property(tmp_path / "b.vnnlib")
    (tmp_path / "c.vnnlib").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"c.vnnlib is no text"):
        load_property(tmp_path / "c.vnnlib")


def test_property_of_another_network_is_refused() -> None:
    network = StoredNetwork.from_arrays(*CONTRACTING["zero W"].arrays)
    with pytest.raises(InputError, match="speaks of 3 outputs, the network has 2"):
        read(BOX, GOAL).check(network)
    prop = parse_property(
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 0))(assert (>= X_0 0))"
        "(assert (<= Y_0 0))"
    )
    with pytest.raises(InputError, match="speaks of 1 inputs, the network has 2"):
        prop.check(network)


def test_scaled_outputs_lie_in_the_scaled_property() -> None:
    prop = read(BOX, "(assert (or (<= (+ (* 0.1 Y_0) Y_1) 0.3) (>= Y_2 7)))")
    scaled = prop.times(Fraction(3, 7))
    x = [Fraction(0), Fraction(0)]
    for y in ([2, 0, 0], [3, 0, 0], [4, 0, 0], [9, 9, 7], [9, 9, 6]):
        small = [Fraction(v) * Fraction(3, 7) for v in y]
        assert scaled.contains(x, small) == prop.contains(x, [Fraction(v) for v in y])


def test_numbers_beyond_float64_are_refused() -> None:
    with pytest.raises(InputError, match="beyond the largest float64"):
        forms_of(read(BOX, "(assert (<= Y_0 1e309))").cases[0].clauses, 3)
    far = Case((Fraction(0),), (Fraction(10) ** 309,), ())
    with pytest.raises(InputError, match="beyond the largest float64"):
        far.around()
    edge = Case((Fraction(0),), (Fraction(2) ** 1024 - 1,), ())
    with pytest.raises(InputError, match="beyond the largest float64"):
        edge.around()


@pytest.mark.parametrize("eps", ["0.03", "0.05"])
@pytest.mark.parametrize("number", range(8))
def test_outside_properties(number: int, eps: str, problems_dir: Path) -> None:
    """Every margin of one label, over a box that [0, 1] clips."""
    path = problems_dir / "vnncomp" / "mnist_fc" / f"prop_{number}_{eps}.vnnlib.gz"
    prop = load_property(path)
    assert (prop.inputs, prop.outputs, len(prop.cases)) == (784, 10, 1)
    [case] = prop.cases
    label = int(gzip.decompress(path.read_bytes()).split(b"label: ")[1][:1])
    assert len(case.clauses) == 9
    forms = forms_of(case.clauses, 10)
    assert torch.equal(forms.A[:, label], torch.ones(9, dtype=torch.float64))
    assert torch.equal(forms.A.sum(1), torch.zeros(9, dtype=torch.float64))
    assert min(case.lo) >= 0
    assert max(case.hi) <= 1
    widest = max(hi - lo for lo, hi in zip(case.lo, case.hi, strict=True))
    assert abs(widest - 2 * Fraction(eps)) < Fraction(1, 10**6)
