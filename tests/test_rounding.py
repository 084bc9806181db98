"""The error model against exact arithmetic: single operations, sums, inner products, self-test."""

import math
import operator
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from equicert import rounding
from equicert.errors import EquicertError, RoundingError
from equicert.rounding import add_down, add_up, centre_radius, down, gamma, self_test, up

UNIT = Fraction(1, 2**53)
TINY = Fraction(1, 2**1022)  # the smallest normal number
LARGEST = 1.7976931348623157e308

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-4, 4),
    st.floats(-1e-300, 1e-300),
    st.floats(LARGEST / 4, LARGEST),
    st.sampled_from([5e-324, -5e-324, 2.0**-1022, 1.0, 0.0, LARGEST, -LARGEST, 2.0**-537]),
)
OPERATIONS = [operator.add, operator.sub, operator.mul, operator.truediv]


def scalar(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


# One operation.


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op.__name__)
@given(a=numbers, b=numbers)
def test_up_and_down_enclose_one_rounded_operation(
    operation: Callable[..., Any], a: float, b: float
) -> None:
    assume(b != 0 or operation is not operator.truediv)
    rounded = operation(scalar(a), scalar(b))
    assume(bool(rounded.isfinite()))
    truth = Fraction(operation(Fraction(a), Fraction(b)))
    lower, upper = down(rounded).item(), up(rounded).item()
    assert lower == -math.inf or Fraction(lower) <= truth
    assert upper == math.inf or truth <= Fraction(upper)


@given(a=st.floats(-1e-160, 1e-160), b=st.floats(-1e-160, 1e-160))
def test_up_and_down_enclose_products_that_underflow(a: float, b: float) -> None:
    truth = Fraction(a) * Fraction(b)
    rounded = scalar(a) * scalar(b)
    for result in (rounded, torch.zeros_like(rounded)):  # kept, or flushed to zero
        if result != 0 or abs(truth) < TINY:
            assert Fraction(down(result).item()) <= truth <= Fraction(up(result).item())


def test_a_flushed_zero_stands_for_any_subnormal_result() -> None:
    zero = scalar(0.0)
    assert Fraction(down(zero).item()) <= -TINY
    assert Fraction(up(zero).item()) >= TINY


@given(x=numbers)
def test_up_and_down_are_close(x: float) -> None:
    assume(abs(x) < LARGEST / 2)
    exact_x, allowed = Fraction(x), 8 * UNIT * abs(Fraction(x)) + Fraction(1, 2**1018)
    assert exact_x < Fraction(up(scalar(x)).item()) <= exact_x + allowed
    assert exact_x - allowed <= Fraction(down(scalar(x)).item()) < exact_x


def test_an_overflowed_or_undefined_result_gives_no_finite_bound() -> None:
    # fl(a + b) = inf has an exact value that is finite: inf is an upper bound, never a lower one.
    infinite = scalar(math.inf)
    assert down(infinite) != math.inf
    assert up(-infinite) != -math.inf
    for bound in (up(infinite), down(-infinite)):
        assert not bound.isfinite()
    for function in (up, down):
        assert function(scalar(math.nan)).isnan()


def test_shapes_are_kept() -> None:
    for shape in ((), (0,), (2, 3)):
        assert up(torch.zeros(shape)).shape == down(torch.zeros(shape)).shape == shape


# Sums.


@given(a=numbers, b=numbers)
def test_sums_are_bounded_by_a_neighbour_and_exact_where_they_can_be(a: float, b: float) -> None:
    rounded = a + b
    assume(math.isfinite(rounded))
    truth = Fraction(a) + Fraction(b)
    lower, upper = add_down(scalar(a), scalar(b)).item(), add_up(scalar(a), scalar(b)).item()
    assert math.isinf(lower) or Fraction(lower) <= truth
    assert math.isinf(upper) or truth <= Fraction(upper)
    if Fraction(rounded) == truth:
        assert lower == upper == rounded
    else:
        assert rounded in (lower, upper)
        assert math.nextafter(lower, math.inf) == upper


@given(a=numbers, b=numbers)
def test_centre_and_radius_hold_the_interval(a: float, b: float) -> None:
    lo, hi = min(a, b), max(a, b)
    found = centre_radius(scalar(lo), scalar(hi))
    assume(found[1].isfinite())  # at the very ends of the range it is not, and holds everything
    c, rho = (Fraction(each.item()) for each in found)
    assert c - rho <= Fraction(lo)
    assert Fraction(hi) <= c + rho


# Inner products.


@pytest.mark.parametrize("k", [0, 1, 2, 3, 100, 784, 10**6, 2**40, 2**51])
def test_gamma_bounds_its_formula(k: int) -> None:
    truth = k * UNIT / (1 - k * UNIT)
    assert truth <= Fraction(gamma(k)) <= truth * (1 + 32 * UNIT)


def test_gamma_of_too_many_terms_is_refused() -> None:
    for k in (2**53, 2**60):
        with pytest.raises(RoundingError) as caught:
            gamma(k)
        assert isinstance(caught.value, EquicertError)


def within_the_model(x: list[float], y: list[float], found: float) -> bool:
    terms = [Fraction(a) * Fraction(b) for a, b in zip(x, y, strict=True)]
    allowed = Fraction(gamma(len(x))) * sum(map(abs, terms)) + len(x) * TINY
    return abs(Fraction(found) - sum(terms)) <= allowed


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=40))
def test_inner_products_obey_the_model(pairs: list[tuple[float, float]]) -> None:
    x, y = (list(side) for side in zip(*pairs, strict=True))
    assert within_the_model(x, y, (torch.tensor(x) @ torch.tensor(y)).item())


@pytest.mark.parametrize("exponents", [(-30, 30), (-540, -510), (-1074, 40)])
def test_matrix_products_obey_the_model(exponents: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    A, V = (
        np.ldexp(rng.uniform(-1, 1, shape), rng.integers(*exponents, shape))
        for shape in ((6, 50), (4, 50))
    )
    product = torch.tensor(V) @ torch.tensor(A).T
    for i in range(4):
        for j in range(6):
            assert within_the_model(V[i].tolist(), A[j].tolist(), product[i, j].item())


# The self-test must pass here, and must not pass on arithmetic that breaks the model.


@pytest.fixture
def fresh_self_test() -> Iterator[None]:
    rounding._test_products.cache_clear()
    yield
    rounding._test_products.cache_clear()


Product = Callable[[Tensor, Tensor], Tensor]


def through_float32(A: Tensor, B: Tensor, plain: Product) -> Tensor:
    return plain(A.float(), B.float()).double()


def through_40_bits(A: Tensor, B: Tensor, plain: Product) -> Tensor:
    """Emulated double: each factor cut to 40 bits below the largest entry of its row or column."""

    def cut(M: Tensor, dim: int) -> Tensor:
        grid = 2.0 ** (M.abs().amax(dim, keepdim=True).log2().ceil() - 40)
        return (M / grid).round() * grid

    return plain(cut(A, 1), cut(B, 0))


def by_strassen(A: Tensor, B: Tensor, plain: Product) -> Tensor:
    """One level of Strassen's algorithm."""
    a, b, c, d = (block for half in A.chunk(2, 0) for block in half.chunk(2, 1))
    e, f, g, h = (block for half in B.chunk(2, 0) for block in half.chunk(2, 1))
    p1, p2, p3, p4 = plain(a, f - h), plain(a + b, h), plain(c + d, e), plain(d, g - e)
    p5, p6, p7 = plain(a + d, e + h), plain(b - d, g + h), plain(a - c, e + f)
    top = torch.cat([p5 + p4 - p2 + p6, p1 + p2], 1)
    return torch.cat([top, torch.cat([p3 + p4, p1 + p5 - p3 - p7], 1)], 0)


@pytest.mark.usefixtures("fresh_self_test")
def test_self_test_passes_here() -> None:
    self_test("cpu")
    self_test()


@pytest.mark.usefixtures("fresh_self_test")
@pytest.mark.parametrize("broken", [through_float32, through_40_bits, by_strassen])
def test_self_test_notices_products_that_are_not_plain(
    broken: Callable[[Tensor, Tensor, Product], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.mm

    def product(A: Tensor, B: Tensor) -> Tensor:
        if B.ndim == 3:
            return torch.stack([broken(A, each, plain) for each in B])
        return broken(A, B, plain)

    def sum_and_product(bias: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return bias + broken(A, B, plain)

    for name in ("__matmul__", "matmul", "mm"):
        monkeypatch.setattr(torch.Tensor, name, product)
    for name in ("matmul", "mm"):
        monkeypatch.setattr(torch, name, product)
    monkeypatch.setattr(torch, "addmm", sum_and_product)
    with pytest.raises(RoundingError, match="product"):
        self_test("cpu")


@pytest.mark.usefixtures("fresh_self_test")
def test_self_test_notices_batches_that_are_not_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.Tensor.__matmul__

    def product(A: Tensor, B: Tensor) -> Tensor:
        if B.ndim == 3:
            return torch.stack([through_40_bits(A, each, torch.mm) for each in B])
        return plain(A, B)

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    with pytest.raises(RoundingError, match="batched product"):
        self_test("cpu")


@pytest.mark.usefixtures("fresh_self_test")
def test_self_test_notices_flushed_subnormals() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        with pytest.raises(RoundingError, match=r"subnormal|denormal"):
            self_test("cpu")
    finally:
        torch.set_flush_denormal(False)
    self_test("cpu")
