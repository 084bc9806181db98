"""The oracle holds itself to account: residuals of exactly 0, known digits, identities."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exact
import exact_functions
import networks
from networks import CONTRACTING, HAIRLINE, NOT_CONTRACTING, Network

SOLVABLE = [case for case in CONTRACTING.values() if case.piecewise_linear]
ALL = [*CONTRACTING.values(), *NOT_CONTRACTING.values(), *HAIRLINE.values()]

E = Fraction("2.718281828459045235360287471352662497757247093699959574966967627724")
LOG_2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680009493")


def piecewise(max_states: int = 3, max_inputs: int = 2) -> st.SearchStrategy[Network]:
    return networks.contracting_networks(max_states, max_inputs, networks.PIECEWISE_LINEAR)


def residual(net: Network, z: exact.Vector, x: exact.Vector) -> list[Fraction]:
    W, U, b = (exact.to_fractions(array) for array in (net.W, net.U, net.b))
    t = exact.preactivation(W, U, b, z, x)
    return [
        exact.evaluate(net.activation, entry) - value for entry, value in zip(t, z, strict=True)
    ]


# The table and the decisions.


@pytest.mark.parametrize("net", ALL, ids=str)
def test_the_table_states_the_truth(net: Network) -> None:
    assert exact.exact_abscissa_below_one(net.W) is net.contracting
    eta = exact.best_eta(net.W)
    if eta is not None:
        assert exact.contracts(net.W, eta)
        assert exact.measure(net.W, eta) == 1 - 1 / max(eta)


@pytest.mark.parametrize("net", [*CONTRACTING.values(), *NOT_CONTRACTING.values()], ids=str)
def test_abscissa_agrees_with_floating_eigenvalues_where_they_resolve_it(net: Network) -> None:
    M = np.array([[float(entry) for entry in row] for row in exact.majorant(net.W)])
    abscissa = float(np.linalg.eigvals(M).real.max())
    if abs(abscissa - 1) > 1e-12 * (1 + abs(M).max()):
        assert (abscissa < 1) is net.contracting


@given(networks.arrays((3, 3), 2.0), networks.arrays((3,), 1.0))
def test_no_eta_proves_what_the_exact_decision_denies(
    W: networks.Array, log: networks.Array
) -> None:
    if exact.contracts(W, 10.0**log):
        assert exact.exact_abscissa_below_one(W)


@given(piecewise())
def test_drawn_networks_contract_at_the_eta_they_were_built_with(net: Network) -> None:
    assert exact.contracts(net.W, net.eta)


def test_contracts_refuses_an_eta_that_is_not_positive() -> None:
    assert exact.contracts([[0.5]], [1.0])
    assert not exact.contracts([[0.5]], [0.0])
    assert not exact.contracts([[0.5]], [-1.0])
    assert not exact.contracts([[1.0]], [1.0])


def test_solve_reports_singular_systems_and_pivots() -> None:
    one = Fraction(1)
    assert exact.solve([[one, one], [one, one]], [[one], [one]]) is None
    swapped = [[Fraction(0), one], [2 * one, Fraction(0)]]
    assert exact.solve(swapped, [[one], [one]]) == [[one / 2], [one]]


def test_infinities_and_nan_are_no_fractions() -> None:
    for bad in (math.inf, math.nan):
        with pytest.raises((OverflowError, ValueError)):
            exact.to_fractions(np.array([bad]))


# Fixed points.


@pytest.mark.parametrize("net", SOLVABLE, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1.0, -3.5, 1e6])
def test_fixed_points_have_residual_zero(net: Network, scale: float) -> None:
    x = exact.to_fractions(np.full(net.inputs, scale))
    z = exact.fixed_point(net.W, net.U, net.b, x, net.activation)
    assert residual(net, z, x) == [0] * net.states


@given(piecewise(max_states=4), st.data())
def test_drawn_fixed_points_have_residual_zero(net: Network, data: st.DataObject) -> None:
    x = exact.to_fractions(data.draw(networks.arrays((net.inputs,), 8.0)))
    z = exact.fixed_point(net.W, net.U, net.b, x, net.activation)
    assert residual(net, z, x) == [0] * net.states


def test_a_network_without_a_fixed_point_is_refused() -> None:
    with pytest.raises(ValueError, match="not well-posed"):
        exact.fixed_point([[1.0]], [[0.0]], [1.0], [0.0])
    with pytest.raises(ValueError, match="not well-posed"):
        exact.vertices([[1.0]], [[0.0]], [1.0], [0.0], [1.0])


def test_smooth_activations_are_not_piecewise_linear() -> None:
    with pytest.raises(ValueError, match="not piecewise linear"):
        exact.pieces("tanh")


@pytest.mark.parametrize("spec", networks.PIECEWISE_LINEAR)
def test_pieces_cover_the_line_and_meet(spec: str) -> None:
    kinds = exact.pieces(spec)
    assert (kinds[0].left, kinds[-1].right) == (-math.inf, math.inf)
    for left, right in itertools.pairwise(kinds):
        joint = Fraction(left.right)
        assert left.right == right.left
        assert left.slope * joint + left.offset == right.slope * joint + right.offset


# Ranges over boxes.


def box_of(net: Network, centre: float, radius: float) -> tuple[list[Fraction], list[Fraction]]:
    return [Fraction(centre - radius)] * net.inputs, [Fraction(centre + radius)] * net.inputs


@given(piecewise(), st.floats(-2, 2), st.floats(0, 2), st.data())
def test_ranges_enclose_samples(
    net: Network, centre: float, radius: float, data: st.DataObject
) -> None:
    lo, hi = box_of(net, centre, radius)
    W, U, b, C, c = net.arrays
    bounds = exact.exact_range(W, U, b, C, c, lo, hi, net.activation)
    weights = data.draw(st.lists(st.fractions(0, 1, max_denominator=7), min_size=2, max_size=2))
    x = [low + w * (high - low) for low, high, w in zip(lo, hi, weights, strict=False)]
    z = exact.fixed_point(W, U, b, x, net.activation)
    y = [
        v + o for v, o in zip(exact.times(exact.to_fractions(C), z), map(Fraction, c), strict=True)
    ]
    assert all(low <= value <= high for value, (low, high) in zip(y, bounds, strict=True))


@given(piecewise())
def test_vertices_are_points_of_the_graph_inside_the_box(net: Network) -> None:
    lo, hi = box_of(net, 0.25, 1.5)
    for vertex in exact.vertices(net.W, net.U, net.b, lo, hi, net.activation):
        assert all(a <= x <= b for a, x, b in zip(lo, vertex.x, hi, strict=True))
        assert residual(net, vertex.z, vertex.x) == [0] * net.states


def test_range_of_a_hat_function_by_hand() -> None:
    # y = relu(x) - 2 relu(x - 1) rises to 1 at x = 1 and falls to 0 at x = 2.
    hat = ([[0.0, 0.0], [0.0, 0.0]], [[1.0], [1.0]], [0.0, -1.0], [[1.0, -2.0]], [0.0])
    assert exact.exact_range(*hat, [-1.0], [2.0]) == [(0, 1)]
    assert exact.exact_range(*hat, [0.5], [3.0]) == [(-1, 1)]
    assert exact.exact_range(*hat, [0.5], [0.5]) == [(Fraction(1, 2), Fraction(1, 2))]


# The embedded network.


@given(piecewise(max_states=3), st.floats(-2, 2), st.floats(0, 2))
def test_embedded_fixed_point_is_one_and_encloses_the_states(
    net: Network, centre: float, radius: float
) -> None:
    lo, hi = box_of(net, centre, radius)
    W, U, b, _, _ = net.arrays
    zlo, zhi = exact.embedded_fixed_point(W, U, b, lo, hi, net.activation)
    assert exact.is_post_fixed_point(W, U, b, (zlo, zhi), (lo, hi), net.activation)
    states = exact.exact_range(
        W, U, b, np.eye(net.states), np.zeros(net.states), lo, hi, net.activation
    )
    for low, high, (least, most) in zip(zlo, zhi, states, strict=True):
        assert low <= least <= most <= high


@given(piecewise(max_states=3), st.floats(-2, 2))
def test_a_point_box_embeds_to_the_fixed_point_itself(net: Network, centre: float) -> None:
    x, _ = box_of(net, centre, 0.0)
    W, U, b, _, _ = net.arrays
    z = exact.fixed_point(W, U, b, x, net.activation)
    assert exact.embedded_fixed_point(W, U, b, x, x, net.activation) == (z, z)


def test_post_fixed_points_by_hand() -> None:
    # The trap of fact 8: W = -10, Ux + b = 1, Z = [0, 1] passes, [0.1, 1] (without 1/11) does not.
    trap = ([[-10.0]], [[1.0]], [0.0])
    point = ([1.0], [1.0])
    assert exact.fixed_point(*trap, [1.0]) == [Fraction(1, 11)]
    assert exact.is_post_fixed_point(*trap, ([0.0], [1.0]), point)
    assert not exact.is_post_fixed_point(*trap, ([0.1], [1.0]), point)
    assert not exact.is_post_fixed_point(*trap, ([0.0], [0.09]), point)


# Enclosures.

MAGNITUDES = [0.0, 5e-324, 1e-300, 1e-8, 1e-3, 0.3, 0.5, 0.75, 1.0, 3.0, 20.0, 40.0, 700.0, 4e3]
POINTS = [Fraction(sign * value) for value in MAGNITUDES for sign in (1, -1)]
NARROW = Fraction(1, 2**80)


def meets(one: exact.Enclosure, other: exact.Enclosure) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


@pytest.mark.parametrize("function", ["exp", "expm1", "tanh", "sigmoid", "softplus"])
def test_enclosures_are_narrow_and_hold_the_library_value(function: str) -> None:
    library = {
        "exp": math.exp,
        "expm1": math.expm1,
        "tanh": math.tanh,
        "sigmoid": lambda t: math.exp(min(t, 0)) / (1 + math.exp(-abs(t))),
        "softplus": lambda t: max(t, 0) + math.log1p(math.exp(-abs(t))),
    }
    for t in POINTS:
        lo, hi = getattr(exact_functions, function)(t)
        assert 0 <= hi - lo <= NARROW * abs(lo)
        if abs(t) <= 700 or function not in ("exp", "expm1"):
            value = Fraction(library[function](float(t)))
            assert abs(value - lo) <= abs(lo) / 2**50 + Fraction(2) ** -1000


def test_known_digits() -> None:
    tail = Fraction(1, 10**60)
    for (lo, hi), digits in (
        (exact_functions.exp(Fraction(1)), E),
        (exact_functions.softplus(Fraction(0)), LOG_2),
        (exact_functions.log1p(Fraction(1)), LOG_2),
    ):
        assert meets((lo, hi), (digits - tail, digits + tail))
        assert hi - lo < Fraction(1, 10**50)
    assert exact_functions.exp(Fraction(0)) == (1, 1)
    for odd in (exact_functions.expm1, exact_functions.tanh):
        assert odd(Fraction(0)) == (0, 0)


@given(st.fractions(-50, 50), st.fractions(-50, 50))
def test_functional_equations(s: Fraction, t: Fraction) -> None:
    exp_s, exp_t = exact_functions.exp(s), exact_functions.exp(t)
    product = (exp_s[0] * exp_t[0], exp_s[1] * exp_t[1])
    assert meets(product, exact_functions.exp(s + t))
    lo, hi = exact_functions.expm1(t)
    assert meets((lo + 1, hi + 1), exp_t)
    # tanh(t) = 2 sigmoid(2t) - 1 and softplus(t) - softplus(-t) = t
    low, high = exact_functions.sigmoid(2 * t)
    assert meets((2 * low - 1, 2 * high - 1), exact_functions.tanh(t))
    plus, minus = exact_functions.softplus(t), exact_functions.softplus(-t)
    assert plus[0] - minus[1] <= t <= plus[1] - minus[0]
    # exp(log(1 + e)) = 1 + e
    e = abs(t) / 50
    logarithm = exact_functions.log1p(e)
    assert exact_functions.exp(logarithm[0])[0] <= 1 + e <= exact_functions.exp(logarithm[1])[1]


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_enclosed_activations_increase_and_do_not_expand(s: float, t: float) -> None:
    low, high = Fraction(min(s, t)), Fraction(max(s, t))
    for spec in networks.ACTIVATIONS:
        first, second = (exact_functions.activation(spec, each) for each in (low, high))
        assert first[0] <= second[1]
        assert second[0] - first[1] <= high - low


def test_exp_beyond_every_float() -> None:
    for t in (Fraction(10**5), Fraction(10**300)):
        lo, hi = exact_functions.exp(-t)
        assert lo == 0
        assert 0 < hi < Fraction(1, 2**5900)
        with pytest.raises(OverflowError):
            exact_functions.exp(t)
        assert exact_functions.tanh(t)[1] == 1
        assert exact_functions.softplus(t)[0] == t
