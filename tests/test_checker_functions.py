"""The checker's enclosures against another implementation, and its scalar comparisons."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equicert.activations import parse_activation
from equicert.checker.files import NotValidError, UnreadableError
from equicert.checker.functions import at_least, at_most, parse
from equicert.checker.integers import scaled, show
from equicert.errors import ModelError
from exact_functions import activation as other
from networks import ACTIVATIONS

SMOOTH = ("tanh", "sigmoid", "softplus", "elu(0.5)")
reals = st.one_of(
    st.fractions(-60, 60),
    st.floats(-3000, 3000).map(Fraction),
    st.sampled_from([Fraction(0), Fraction(1, 1 << 2100), Fraction(-1, 1 << 2100)]),
)


@given(st.sampled_from(ACTIVATIONS), reals, st.sampled_from([96, 192, 768]))
def test_enclosures_agree(spec: str, t: Fraction, bits: int) -> None:
    _, phi = parse(spec)
    lo, hi = phi(t, bits)
    low, high = other(spec, t)
    assert lo <= high
    assert low <= hi
    assert hi - lo <= Fraction(64, 1 << bits)


@given(st.sampled_from(SMOOTH), reals)
def test_finer_enclosures_lie_within_coarser_ones(spec: str, t: Fraction) -> None:
    _, phi = parse(spec)
    (lo, hi), (finer_lo, finer_hi) = phi(t, 96), phi(t, 384)
    assert lo <= finer_hi
    assert finer_lo <= hi
    assert finer_lo <= finer_hi


@given(st.sampled_from(SMOOTH), st.floats(-30, 30))
def test_neighbouring_floats_are_told_apart(spec: str, t: float) -> None:
    _, phi = parse(spec)
    low, high = other(spec, Fraction(t))
    below, above = math.nextafter(float(low), -math.inf), math.nextafter(float(high), math.inf)
    for v in (Fraction(below), Fraction(above)):
        assert at_least(phi, Fraction(t), v) == (low >= v)
        assert at_most(phi, Fraction(t), v) == (high <= v)


def test_values_that_are_rational_are_exact() -> None:
    for spec, value in (("tanh", Fraction(0)), ("sigmoid", Fraction(1, 2)), ("elu", Fraction(0))):
        _, phi = parse(spec)
        assert at_least(phi, Fraction(0), value)
        assert at_most(phi, Fraction(0), value)
    assert at_most(parse("tanh")[1], Fraction(1e-300), Fraction(1e-300))
    assert not at_least(parse("tanh")[1], Fraction(1e-300), Fraction(1e-300))


def test_what_cannot_be_told_is_not_valid() -> None:
    _, phi = parse("sigmoid")  # below 1, by less than any precision that is tried
    assert at_most(phi, Fraction(10**5), Fraction(1))
    with pytest.raises(NotValidError, match="undecided at 6144 bits"):
        at_least(phi, Fraction(10**5), Fraction(1))


NAMES = """relu ReLU leaky-relu LeakyReLU(0.5) leaky_relu(1e-3) elu elu(0) hardtanh Tanh softplus
identity leaky_relu(-0.0) elu(1_0) elu(1e400) elu(nan) elu(1.5) leaky_relu(-1) silu gelu mish
tanh(1) relu() elu() elu(x) none sigmoid( elu(0.1)x"""


@pytest.mark.parametrize("text", NAMES.split())
def test_activations_are_parsed_as_the_library_does(text: str) -> None:
    try:
        expected = parse_activation(text).spec
    except ModelError:
        with pytest.raises(UnreadableError, match="none that is checked here"):
            parse(text)
    else:
        assert parse(text)[0] == expected


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_scaling_is_exact(values: list[float]) -> None:
    integers, k = scaled(values)
    assert [Fraction(m, 1 << k) for m in integers] == [Fraction(v) for v in values]


@given(st.fractions() | st.sampled_from([Fraction(1 << 5000), Fraction(-1, 1 << 5000)]))
def test_any_number_can_be_shown(x: Fraction) -> None:
    text = show(x)
    assert len(text) < 40
    if abs(x) < 1 << 900 and "about" not in text:
        assert abs(Fraction(float(text)) - x) <= abs(x) / (1 << 52)
