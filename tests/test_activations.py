"""One suite for all activations; a new one plugs in by its line in SPECS.

The truth comes from rational enclosures of width 2^-80, so that the bounds `down` and `up` are held
against what phi is, not against another library's rounding of it.
"""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import exact
import exact_functions
from equicert.activations import Activation, parse_activation
from equicert.errors import ModelError

SPECS = [
    "relu",
    "leaky_relu(0.01)",
    "leaky_relu(0.0)",
    "leaky_relu(1.0)",
    "tanh",
    "sigmoid",
    "softplus",
    "hard_tanh",
    "elu(1.0)",
    "elu(0.3)",
    "elu(0.0)",
    "identity",
]
SMOOTH = ["tanh", "sigmoid", "softplus", "elu(1.0)"]
PIECEWISE_LINEAR = [spec for spec in SPECS if not spec.startswith(("tanh", "sig", "soft", "elu"))]
EACH = pytest.mark.parametrize("spec", SPECS)

MAGNITUDES = [5e-324, 1e-300, 1e-30, 1e-8, 1e-3, 0.25, 0.5, 1.0, 3.0, 8.0, 18.0, 20.0, 20.5, 21.0]
MAGNITUDES += [25.0, 36.0, 37.0, 40.0, 88.0, 700.0, 709.0, 710.0, 745.0, 746.0, 1e5, 1e30, 1e300]
POINTS = [0.0, *MAGNITUDES, *(-value for value in MAGNITUDES)]
UNIT = Fraction(1, 2**53)
KINKS = (-1.0, 0.0, 1.0)

# Hypothesis stays where enclosures take microseconds; POINTS has the rest.
anywhere = st.one_of(st.floats(-50, 50), st.floats(-800, 800))


def value(function: Callable[[Tensor], Tensor], t: float) -> Fraction:
    return Fraction(float(function(torch.tensor(t))))


def exact_slope(spec: str, t: float) -> Fraction:
    """A central difference of the enclosed phi: off by less than h^2 = 2^-60 where smooth."""
    h = Fraction(1, 2**30)
    above = exact_functions.activation(spec, Fraction(t) + h)[0]
    below = exact_functions.activation(spec, Fraction(t) - h)[0]
    return (above - below) / (2 * h)


# phi and its slope.


@EACH
def test_phi_is_within_a_few_roundings_of_the_truth(spec: str) -> None:
    phi = parse_activation(spec).phi

    def close(t: float) -> bool:
        lo, hi = exact_functions.activation(spec, Fraction(t))
        return abs(value(phi, t) - lo) <= 16 * UNIT * max(abs(lo), abs(hi)) + Fraction(2) ** -1020

    assert [t for t in POINTS if not close(t)] == []


@EACH
def test_phi_increases(spec: str) -> None:
    values = parse_activation(spec).phi(torch.tensor(sorted(POINTS)))
    for low, high in itertools.pairwise(values.tolist()):
        assert high >= low - 8 * float(UNIT) * abs(low)


@EACH
@given(s=anywhere, t=anywhere)
def test_phi_does_not_expand(spec: str, s: float, t: float) -> None:
    phi = parse_activation(spec).phi
    expansion = abs(value(phi, s) - value(phi, t)) - abs(Fraction(s) - Fraction(t))
    assert expansion <= 16 * UNIT * max(abs(value(phi, s)), abs(value(phi, t)))


@EACH
@given(t=anywhere)
def test_slope_lies_between_0_and_beta(spec: str, t: float) -> None:
    activation = parse_activation(spec)
    assert 0 < activation.beta <= 1
    assert 0 <= value(activation.slope, t) <= Fraction(activation.beta) * (1 + 4 * UNIT)


@EACH
def test_beta_is_the_largest_slope(spec: str) -> None:
    activation = parse_activation(spec)
    slopes = activation.slope(torch.tensor([*POINTS, 1e-12, 0.5]))
    assert slopes.max().item() == pytest.approx(activation.beta, rel=1e-11)


@EACH
@given(t=anywhere)
def test_slope_is_the_derivative(spec: str, t: float) -> None:
    assume(spec in SMOOTH or min(abs(t - kink) for kink in KINKS) > 1e-8)
    truth = exact_slope(spec, t)
    # The second derivative of elu(1.0) jumps at 0, which costs its difference h rather than h^2.
    near = Fraction(1, 2**29) if spec == "elu(1.0)" and abs(t) < 1e-8 else 8 * UNIT
    assert abs(value(parse_activation(spec).slope, t) - truth) <= near


@EACH
def test_slope_at_a_kink_is_one_of_the_one_sided_ones(spec: str) -> None:
    activation = parse_activation(spec)
    for kink in KINKS:
        sides = activation.slope(torch.tensor([kink - 1e-12, kink, kink + 1e-12]))
        assert torch.isclose(sides[1], sides[::2], rtol=1e-11, atol=0).any()


@EACH
def test_autograd_of_phi_is_the_slope(spec: str) -> None:
    activation = parse_activation(spec)
    t = torch.tensor([p for p in POINTS if spec in SMOOTH or p not in KINKS], requires_grad=True)
    (gradient,) = torch.autograd.grad(activation.phi(t).sum(), t)
    torch.testing.assert_close(gradient, activation.slope(t.detach()), rtol=1e-12, atol=1e-15)


@EACH
def test_range_is_kept_and_a_finite_end_is_reached(spec: str) -> None:
    activation = parse_activation(spec)
    far = torch.tensor([*POINTS, 1e308, -1e308])
    values = activation.phi(far)
    assert values.isfinite().all()
    assert (activation.lower <= values).all()
    assert (values <= activation.upper).all()
    for end, found in ((activation.lower, values.min()), (activation.upper, values.max())):
        assert found.item() == pytest.approx(end) or math.isinf(end)


# Rigorous bounds.


def enclosed(activation: Activation, t: float) -> bool:
    lo, hi = exact_functions.activation(activation.spec, Fraction(t))
    return value(activation.down, t) <= lo and hi <= value(activation.up, t)


@EACH
@pytest.mark.parametrize("t", POINTS)
def test_down_and_up_enclose_the_truth(spec: str, t: float) -> None:
    assert enclosed(parse_activation(spec), t)


@EACH
@given(t=anywhere)
def test_down_and_up_enclose_the_truth_anywhere(spec: str, t: float) -> None:
    assert enclosed(parse_activation(spec), t)


@EACH
@given(t=anywhere)
def test_down_and_up_are_close(spec: str, t: float) -> None:
    activation = parse_activation(spec)
    width = value(activation.up, t) - value(activation.down, t)
    assert 0 <= width <= abs(value(activation.phi, t)) / 2**40 + Fraction(2) ** -990
    assert activation.lower <= value(activation.down, t)
    assert value(activation.up, t) <= activation.upper


@EACH
def test_bounds_of_nan_are_never_numbers(spec: str) -> None:
    activation = parse_activation(spec)
    nan = torch.tensor([float("nan")])
    for function in (activation.phi, activation.down, activation.up):
        assert function(nan).isnan().all()


# psi, the root of z = phi(d z + r).

DIAGONALS = [-1e6, -20.0, -1.0, 0.0, 0.5, 0.999, 1 - 1e-9]
SOURCES = [
    1e-300,
    1e-12,
    1e-8,
    1e-3,
    0.5,
    1.0,
    2.5,
    18.5,
    21.0,
    40.0,
    700.0,
    1e5,
    1e6,
    1e6 + 1,
    1e12,
]
SOURCES = [0.0, *SOURCES, *(-value for value in SOURCES)]


def is_root(spec: str, z: float, r: float, d: float) -> bool:
    """Whether the root lies within a few roundings of z: a sign change decides, in exact numbers.

    f(z) = z - phi(d z + r) has slope 1 - d s > 0, s the slope of phi. One rounding of z, of d z, of
    r or of phi shifts f by u times the matching size, so the root by that over the slope.
    """
    root, source, diagonal = Fraction(z), Fraction(r), Fraction(d)
    t = diagonal * root + source
    s = min(max(exact_slope(spec, float(t)), Fraction(0)), Fraction(1))
    size = abs(root) + s * (abs(diagonal * root) + abs(source))
    tolerance = 64 * UNIT * size / (1 - diagonal * s) + Fraction(2) ** -990

    def f(at: Fraction) -> exact.Enclosure:
        low, high = exact_functions.activation(spec, diagonal * at + source)
        return at - high, at - low

    return f(root - tolerance)[0] <= 0 <= f(root + tolerance)[1]


@pytest.mark.parametrize(
    "spec", ["tanh", "sigmoid", "softplus", "elu(1.0)", "elu(0.3)", "elu(0.0)"]
)
@pytest.mark.parametrize("d", DIAGONALS)
def test_psi_solves_its_equation(spec: str, d: float) -> None:
    roots = parse_activation(spec).psi(torch.tensor(SOURCES), torch.tensor(d))
    wrong = {
        r: z for r, z in zip(SOURCES, roots.tolist(), strict=True) if not is_root(spec, z, r, d)
    }
    assert not wrong


@pytest.mark.parametrize("spec", PIECEWISE_LINEAR)
@pytest.mark.parametrize("d", DIAGONALS)
def test_psi_in_closed_form_is_good_to_a_few_roundings(spec: str, d: float) -> None:
    roots = parse_activation(spec).psi(torch.tensor(SOURCES), torch.tensor(d))
    for r, z in zip(SOURCES, roots.tolist(), strict=True):
        (truth,) = exact.fixed_point([[d]], [[1.0]], [0.0], [r], spec)
        assert abs(Fraction(z) - truth) <= 8 * UNIT * abs(truth) + Fraction(5e-324)


@EACH
@given(r=st.floats(-60, 60), d=st.floats(-1e4, 0.999))
def test_psi_solves_its_equation_anywhere(spec: str, r: float, d: float) -> None:
    if spec in PIECEWISE_LINEAR:
        (truth,) = exact.fixed_point([[d]], [[1.0]], [0.0], [r], spec)
        found = value(lambda t: parse_activation(spec).psi(t, torch.tensor(d)), r)
        assert abs(found - truth) <= 8 * UNIT * abs(truth) + Fraction(5e-324)
    else:
        z = float(parse_activation(spec).psi(torch.tensor([r]), torch.tensor([d])))
        assert is_root(spec, z, r, d)


def test_plain_newton_would_cycle_where_psi_does_not() -> None:
    # Fact 5: the test above would prove little if the hard case were easy.
    r, d, z, seen = torch.tensor(8.0), -20.0, torch.tensor(0.0), []
    for _ in range(60):
        t = d * z + r
        z = z - (z - torch.tanh(t)) / (1 - d * (1 - torch.tanh(t) ** 2))
        seen.append(float((z - torch.tanh(d * z + r)).abs()))
    assert min(seen[-20:]) > 1e-3
    assert is_root("tanh", float(parse_activation("tanh").psi(r, torch.tensor(d))), 8.0, d)


@EACH
@pytest.mark.parametrize("d", DIAGONALS)
def test_psi_increases(spec: str, d: float) -> None:
    r = torch.tensor(sorted([*SOURCES, *torch.linspace(-30, 30, 301).tolist()]))
    roots = parse_activation(spec).psi(r, torch.tensor(d))
    # Roundings of f move a root by at most u times the sizes over 1 - d s >= 1 - max(d, 0).
    slack = 64 * float(UNIT) / (1 - max(d, 0.0))
    for low, high in itertools.pairwise(roots.tolist()):
        assert high >= low - slack * (abs(low) + abs(high))


@EACH
def test_psi_without_diagonal_is_phi(spec: str) -> None:
    activation = parse_activation(spec)
    r = torch.tensor(SOURCES)
    torch.testing.assert_close(
        activation.psi(r, torch.tensor(0.0)), activation.phi(r), rtol=1e-13, atol=1e-300
    )


@EACH
def test_psi_broadcasts_and_each_entry_stands_alone(spec: str) -> None:
    activation = parse_activation(spec)
    r, d = torch.linspace(-9, 9, 12).reshape(4, 3), torch.tensor([-20.0, 0.0, 0.9])
    together = activation.psi(r, d)
    assert together.shape == (4, 3)
    for i, j in itertools.product(range(4), range(3)):
        alone = activation.psi(r[i, j], d[j])
        torch.testing.assert_close(alone, together[i, j], rtol=1e-14, atol=0)
    assert activation.psi(r[:0], d).shape == (0, 3)


@EACH
def test_float32_stays_float32(spec: str) -> None:
    activation = parse_activation(spec)
    t = torch.linspace(-30, 30, 41, dtype=torch.float64)
    d = torch.tensor([-20.0])

    def psi(values: Tensor) -> Tensor:
        return activation.psi(values, d.to(values))

    for function in (activation.phi, activation.slope, psi):
        single = function(t.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(
            single.double(), function(t.float().double()), rtol=1e-4, atol=1e-6
        )


# Names.


@EACH
def test_specification_round_trip(spec: str) -> None:
    activation = parse_activation(spec)
    assert activation.spec == spec
    assert parse_activation(activation.spec) == activation
    assert len({activation, parse_activation(spec)}) == 1


@given(parameter=st.floats(0, 1))
def test_parameters_survive_the_round_trip_exactly(parameter: float) -> None:
    for name in ("leaky_relu", "elu"):
        activation = parse_activation(f"{name}({parameter!r})")
        assert parse_activation(activation.spec) == activation
        assert f"{parameter!r}" in activation.spec


def test_defaults() -> None:
    assert parse_activation("leaky_relu").spec == "leaky_relu(0.01)"
    assert parse_activation("elu").spec == "elu(1.0)"


@pytest.mark.parametrize("name", ["silu", "SiLU", "gelu", "GELU"])
def test_what_is_not_monotone_is_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError, match=f"(?i){name}.*monotone"):
        parse_activation(name)


@pytest.mark.parametrize("text", ["rleu", "relu6x", "tahn", "sigmod", "soft_plus", "hard_than"])
def test_an_unknown_name_is_told_the_nearest(text: str) -> None:
    nearest = {"rl": "relu", "re": "relu", "ta": "tanh", "si": "sigmoid", "so": "softplus"}
    with pytest.raises(ModelError, match=nearest.get(text[:2], "hard_tanh")) as caught:
        parse_activation(text)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


MALFORMED = ["", "()", "elu(", "elu()", "elu(x)", "elu(1.5)", "elu(-0.1)", "elu(nan)", "elu(inf)"]
MALFORMED += ["leaky_relu(2)", "leaky_relu(-1e-9)", "relu(0.5)", "elu(0.5)(0.5)", "relu, tanh"]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_specification_is_one_clear_error(text: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_activation(text)
    assert "\n" not in str(caught.value)
