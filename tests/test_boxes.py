"""Boxes against the exact rational [max(x - eps, lo), min(x + eps, hi)]."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from equicert.boxes import Box, Domain, Surroundings
from equicert.errors import InputError

coordinates = st.one_of(
    st.floats(-2, 2),
    st.floats(-1e300, 1e300),
    st.floats(-1e-300, 1e-300),
    st.sampled_from([0.0, 1.0, 5e-324, 0.1, 255.0, 1e16]),
)
radii = st.one_of(
    st.floats(0, 1),
    st.floats(0, 1e300),
    st.sampled_from([0.0, 5e-324, 1e-310, 1e-300, 1e-17, 0.1, 8 / 255, 1e16]),
)
domains = st.sampled_from([None, (0.0, 1.0), (-1e300, 0.1), (0.1, 0.1), (-math.inf, math.inf)])
Interval = tuple[Fraction, Fraction]


def exact_box(x: float, eps: float, domain: tuple[float, float] | None) -> Interval:
    lo, hi = Fraction(x) - Fraction(eps), Fraction(x) + Fraction(eps)
    if domain is not None and math.isfinite(domain[0]):
        lo, hi = max(lo, Fraction(domain[0])), min(hi, Fraction(domain[1]))
    return lo, hi


def ends(box: Box) -> Interval:
    return Fraction(box.lo.item()), Fraction(box.hi.item())


def near(found: Fraction, truth: Fraction) -> bool:
    return abs(found - truth) <= 2 * Fraction(math.ulp(float(truth)))


def inside(x: float, domain: tuple[float, float] | None) -> bool:
    return domain is None or domain[0] <= x <= domain[1]


@given(x=coordinates, eps=radii, domain=domains)
def test_around_contains_the_exact_box_and_hardly_more(
    x: float, eps: float, domain: tuple[float, float] | None
) -> None:
    assume(inside(x, domain))
    lo, hi = ends(Box.around(torch.tensor([[x]]), eps, domain))
    least, most = exact_box(x, eps, domain)
    assert lo <= least
    assert most <= hi
    assert near(lo, least)
    assert near(hi, most)


@given(x=coordinates, eps=radii, domain=domains)
def test_within_is_inside_the_exact_box_and_hardly_less(
    x: float, eps: float, domain: tuple[float, float] | None
) -> None:
    assume(inside(x, domain))
    lo, hi = ends(Box.within(torch.tensor([[x]]), eps, domain))
    least, most = exact_box(x, eps, domain)
    assert least <= lo <= Fraction(x) <= hi <= most
    assert near(lo, least)
    assert near(hi, most)


@pytest.mark.parametrize("make", [Box.around, Box.within])
@given(x=st.lists(coordinates, min_size=1, max_size=3))
def test_radius_zero_is_the_point(make: Callable[..., Box], x: list[float]) -> None:
    point = torch.tensor([x])
    for box in (make(point, 0), make(point, 0.0), make(point, torch.zeros(1, 1))):
        assert torch.equal(box.lo, point)
        assert torch.equal(box.hi, point)


def test_decimals_are_not_what_they_seem() -> None:
    # 0.3 + 0.1 rounds up to 0.4 and 0.7 + 0.1 rounds down to 0.7999...: one of them would be wrong.
    for x in (0.3, 0.7):
        truth = Fraction(x) + Fraction(0.1)
        point = torch.tensor([[x]])
        outer, inner = ends(Box.around(point, 0.1))[1], ends(Box.within(point, 0.1))[1]
        assert inner <= truth <= outer
        assert Fraction(math.nextafter(float(inner), math.inf)) > truth
        assert Fraction(math.nextafter(float(outer), -math.inf)) < truth


def test_a_radius_below_the_spacing_of_floats() -> None:
    point = torch.tensor([[1.0]])
    outer, inner = Box.around(point, 1e-300), Box.within(point, 1e-300)
    assert outer.lo.item() == 1 - 2**-53
    assert outer.hi.item() == 1 + 2**-52
    assert inner.lo.item() == inner.hi.item() == 1


def test_sums_that_are_exact_are_not_widened() -> None:
    for make in (Box.around, Box.within):
        box = make(torch.tensor([[0.5, -3.0]]), 0.25)
        assert box.lo.tolist() == [[0.25, -3.25]]
        assert box.hi.tolist() == [[0.75, -2.75]]


@pytest.mark.parametrize("make", [Box.around, Box.within])
def test_radius_by_coordinate_or_by_sample(make: Callable[..., Box]) -> None:
    x = torch.tensor([[0.0, 8.0], [4.0, 2.0]])
    by_coordinate = make(x, torch.tensor([1.0, 2.0]))
    assert by_coordinate.hi.tolist() == [[1.0, 10.0], [5.0, 4.0]]
    by_sample = make(x, torch.tensor([[1.0], [2.0]]))
    assert by_sample.hi.tolist() == [[1.0, 9.0], [6.0, 4.0]]
    assert by_sample.lo.tolist() == [[-1.0, 7.0], [2.0, 0.0]]


@pytest.mark.parametrize("make", [Box.around, Box.within])
def test_domain_by_coordinate(make: Callable[..., Box]) -> None:
    domain = (torch.tensor([0.0, -1.0]), torch.tensor([1.0, 0.25]))
    box = make(torch.tensor([[0.5, 0.0]]), 2.0, domain)
    assert box.lo.tolist() == [[0.0, -1.0]]
    assert box.hi.tolist() == [[1.0, 0.25]]


@pytest.mark.parametrize("make", [Box.around, Box.within])
def test_empty_batch_and_float32(make: Callable[..., Box]) -> None:
    assert make(torch.zeros(0, 3), 0.1).lo.shape == (0, 3)
    single = torch.tensor([[0.1]], dtype=torch.float32)
    box = make(single, 0)
    assert box.lo.dtype == torch.float64
    assert ends(box) == (Fraction(single.item()), Fraction(single.item()))


def test_shape() -> None:
    box = Box(torch.zeros(4, 3), torch.ones(4, 3))
    assert (box.batch, box.inputs) == (4, 3)


@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=4))
def test_centre_and_radius_enclose_the_box(pairs: list[tuple[float, float]]) -> None:
    lo, hi = torch.tensor([[min(p) for p in pairs]]), torch.tensor([[max(p) for p in pairs]])
    c, rho = Box(lo, hi).centre_radius()
    assert c.shape == rho.shape == lo.shape
    for low, high, centre, radius in zip(
        *(map(Fraction, side[0].tolist()) for side in (lo, hi, c, rho)), strict=True
    ):
        assert centre - radius <= low
        assert high <= centre + radius
        roundings = 4 * (Fraction(math.ulp(float(radius))) + Fraction(math.ulp(float(centre))))
        roundings += Fraction(2) ** -1019
        assert radius <= (high - low) / 2 + 2 * roundings


def test_centre_and_radius_at_the_ends_of_the_range() -> None:
    largest = torch.tensor([[1.7e308]])
    c, rho = Box(-largest, largest).centre_radius()
    assert c.item() == 0
    assert rho.item() >= 1.7e308
    assert rho.isfinite().all()


@given(st.lists(st.tuples(coordinates, coordinates, coordinates), min_size=1, max_size=4))
def test_clamp_is_the_nearest_point(triples: list[tuple[float, float, float]]) -> None:
    lo = torch.tensor([[min(a, b) for a, b, _ in triples]])
    hi = torch.tensor([[max(a, b) for a, b, _ in triples]])
    x = torch.tensor([[p for _, _, p in triples]])
    box = Box(lo, hi)
    clamped = box.clamp(x)
    assert (lo <= clamped).all()
    assert (clamped <= hi).all()
    was_inside = (lo <= x) & (x <= hi)
    assert torch.equal(clamped[was_inside], x[was_inside])
    assert torch.equal(box.clamp(clamped), clamped)
    assert (torch.where(x < lo, clamped == lo, clamped == hi) | was_inside).all()


# Errors.

ONE = torch.tensor([[0.5, 0.5], [0.5, 0.5]])


@pytest.mark.parametrize("make", [Box.around, Box.within])
@pytest.mark.parametrize(
    "eps",
    [
        -0.1,
        -5e-324,
        math.nan,
        math.inf,
        torch.tensor([0.1, -0.1]),
        torch.tensor([[0.1], [math.nan]]),
        torch.tensor([0.1, 0.1, 0.1]),
        torch.zeros(3, 1),
        torch.zeros(1, 2, 2),
    ],
    ids=str,
)
def test_a_radius_that_is_none_is_refused(make: Callable[..., Box], eps: float | Tensor) -> None:
    with pytest.raises(InputError, match="eps") as caught:
        make(ONE, eps)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [Box.around, Box.within])
@pytest.mark.parametrize(
    "domain", [(0.6, 1.0), (0.0, 0.4), (torch.zeros(2), torch.tensor([1, 0.4]))]
)
def test_a_point_outside_its_domain_is_refused(
    make: Callable[..., Box], domain: tuple[float, float]
) -> None:
    with pytest.raises(InputError, match="domain"):
        make(ONE, 0.1, domain)
    last = torch.tensor([[0.0, 0.0], [0.0, 1.5]])
    with pytest.raises(InputError, match=r"sample 1.*entry 1"):
        make(last, 0.1, (0.0, 1.0))


@pytest.mark.parametrize("make", [Box.around, Box.within])
@pytest.mark.parametrize(
    "domain", [(1.0, 0.0), (math.nan, 1.0), (0.0, math.nan), (torch.zeros(3), torch.ones(3))]
)
def test_a_domain_that_is_none_is_refused(
    make: Callable[..., Box], domain: tuple[float, float]
) -> None:
    with pytest.raises(InputError, match="domain"):
        make(ONE, 0.1, domain)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_entries_that_are_no_numbers_are_refused_and_named(bad: float) -> None:
    spoilt = ONE.clone()
    spoilt[1, 0] = bad
    for make in (
        lambda: Box(spoilt, torch.full_like(ONE, 2.0)),
        lambda: Box(torch.zeros_like(ONE), spoilt),
        lambda: Box.around(spoilt, 0.1),
        lambda: Box.within(spoilt, 0.1),
    ):
        with pytest.raises(InputError, match=r"1.*entry 0"):
            make()


def test_an_inverted_box_is_refused_and_named() -> None:
    lo, hi = torch.zeros(3, 2), torch.ones(3, 2)
    hi[2, 1] = -5e-324
    with pytest.raises(InputError, match=r"box 2.*entry 1"):
        Box(lo, hi)


@pytest.mark.parametrize("hi", [torch.ones(2, 3), torch.ones(3), torch.ones(1, 2)])
def test_bounds_of_two_shapes_are_refused(hi: Tensor) -> None:
    with pytest.raises(InputError, match="shape"):
        Box(torch.zeros(2, 2), hi)


def test_what_is_no_batch_of_vectors_is_refused() -> None:
    for shape in ((), (2, 2, 2)):
        with pytest.raises(InputError, match="shape"):
            Box(torch.zeros(shape), torch.ones(shape))
        with pytest.raises(InputError, match="shape"):
            Box.around(torch.zeros(shape), 0.1)


def test_an_overflow_is_an_error_and_no_box() -> None:
    point = torch.tensor([[1.7e308]])
    for make in (Box.around, Box.within):
        with pytest.raises(InputError, match="infinite"):
            make(point, 1e308)


def test_a_box_cannot_be_changed() -> None:
    box = Box(torch.zeros(1, 2), torch.ones(1, 2))
    with pytest.raises(AttributeError):
        setattr(box, "lo", box.hi)  # noqa: B010 - assignment would not type-check


def test_some_rows_of_the_boxes_are_those_of_all() -> None:
    x = torch.linspace(0, 1, 12).reshape(4, 3)
    each = torch.tensor([[0.0], [0.1], [0.25], [3.0]])
    vector = torch.tensor([0.0, 0.1, 0.5])
    domains: list[Domain] = [None, (0.0, 1.0), (torch.zeros(3), torch.tensor([1.0, 1.5, 2.0]))]
    for eps, domain in itertools.product((0.1, vector, each), domains):
        whole = Box.around(x, eps, domain)
        made = Surroundings(x, eps, domain)
        for rows in (slice(0, 2), slice(2, 4), slice(1, 1), slice(0, 100)):
            assert torch.equal(made[rows].lo, whole.lo[rows])
            assert torch.equal(made[rows].hi, whole.hi[rows])
    with pytest.raises(InputError, match="sample 3 lies outside"):
        Surroundings(x, 0.1, (0.0, 0.9))
    with pytest.raises(InputError, match="NaN or infinite"):
        _ = Surroundings(torch.full((1, 1), 1.7e308), 1.7e308)[:]


def test_boxes_carry_no_gradients() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    for box in (Box.around(x, 0.1), Box.within(x, 0.1), Box(x, x)):
        assert not box.lo.requires_grad
        assert not box.centre_radius()[0].requires_grad


def test_boxes_of_many_rows_are_those_of_each_row() -> None:
    """They are made a block at a time."""
    x = torch.rand(700, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = torch.linspace(0, 0.3, 400, dtype=torch.float64)
    each = torch.linspace(0, 0.3, 700, dtype=torch.float64)[:, None]
    radii: list[tuple[float | torch.Tensor, list[float | torch.Tensor]]] = [
        (0.1, [0.1] * 700),
        (vector, [vector] * 700),
        (each, [float(e) for e in each]),
    ]
    for eps, alone in radii:
        whole = Box.around(x, eps, (0.0, 1.0))
        for row in (0, 327, 328, 654, 655, 656, 699):
            one = Box.around(x[row], alone[row], (0.0, 1.0))
            assert torch.equal(whole.lo[row], one.lo[0])
            assert torch.equal(whole.hi[row], one.hi[0])
