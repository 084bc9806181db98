"""Images of boxes against exact rational products: they enclose, and they are not much wider."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

import exact
from equicert import rounding
from equicert.boxes import Box
from equicert.enclosures import Enclosure
from equicert.errors import RoundingError
from equicert.operators import Dense, Operator
from equicert.rounding import gamma, self_test
from networks import Array

UNIT = Fraction(1, 2**53)
TINY = Fraction(1, 2**1022)

# Entries whose products cancel, underflow, or differ by 60 orders of magnitude.
ordinary = st.floats(-4, 4)
awkward = st.one_of(
    ordinary,
    st.sampled_from([0.0, -0.0, 5e-324, -1e-310, 2.0**-1022, 1e-160, 1e30, -1e30, 1.0, -1.0]),
    st.floats(-1e30, 1e30),
)


@st.composite
def products(draw: st.DrawFn, elements: st.SearchStrategy[float]) -> tuple[Array, Array, Array]:
    n, m, batch = (draw(st.integers(1, size)) for size in (3, 6, 2))
    A = draw(hnp.arrays(np.float64, (n, m), elements=elements))
    ends = draw(hnp.arrays(np.float64, (2, batch, m), elements=elements))
    return A, ends.min(0), ends.max(0)


@dataclass(frozen=True)
class Sloppy(Operator):
    """A matrix whose products are as wrong as inner products of a million terms may be.

    `lean` -1 errs downwards, +1 upwards, 0 alternates from output to output.
    """

    A: Tensor
    lean: int
    structure = "sloppy"

    @property
    def shape(self) -> tuple[int, int]:
        return self.A.shape[0], self.A.shape[1]

    @property
    def terms(self) -> int:
        return 2**20

    def apply(self, v: Tensor) -> Tensor:
        alternate = torch.where(torch.arange(len(self.A)) % 2 == 0, 1.0, -1.0)
        sign = alternate if self.lean == 0 else torch.full_like(alternate, self.lean)
        error = gamma(2**20 - 16) * (v.abs() @ self.A.abs().mT)
        return v @ self.A.mT + sign * error

    def transpose(self) -> "Sloppy":
        return Sloppy(self.A.mT, self.lean)

    def map(self, fn: Callable[[Tensor], Tensor]) -> "Sloppy":
        return Sloppy(fn(self.A), self.lean)

    def majorant(self) -> "Sloppy":
        return Sloppy(Dense(self.A).majorant().A, self.lean)

    def off_diagonal(self) -> "Sloppy":
        return Sloppy(self.A - torch.diag(self.A.diagonal()), self.lean)

    def diagonal(self) -> Tensor:
        return self.A.diagonal()

    def tensors(self) -> dict[str, Tensor]:
        return {"": self.A}

    def dense(self) -> Tensor:
        return self.A


LEANS = pytest.mark.parametrize("lean", [-1, 0, 1])


def exact_image(A: Array, lo: Array, hi: Array) -> list[list[tuple[Fraction, Fraction]]]:
    """The exact (min, max) of A v over each box, entry by entry."""
    rows, *ends = (exact.to_fractions(array) for array in (A, lo, hi))

    def extremes(row: exact.Vector, low: exact.Vector, high: exact.Vector) -> exact.Enclosure:
        terms = [sorted((a * v, a * w)) for a, v, w in zip(row, low, high, strict=True)]
        return sum((t[0] for t in terms), Fraction(0)), sum((t[1] for t in terms), Fraction(0))

    return [[extremes(row, low, high) for row in rows] for low, high in zip(*ends, strict=True)]


def image(A: Array, lo: Array, hi: Array) -> tuple[Tensor, Tensor]:
    enclosure = Enclosure.of(Dense(torch.tensor(A)))
    return enclosure.image(torch.tensor(lo), torch.tensor(hi))


def size(A: Array, lo: Array, hi: Array) -> list[list[Fraction]]:
    """`|A| max(|lo|, |hi|)`, the scale on which rounding is measured."""
    largest = exact.to_fractions(np.maximum(abs(lo), abs(hi)))
    return [exact.times(exact.to_fractions(abs(A)), v) for v in largest]


def check_image(A: Array, lo: Array, hi: Array) -> None:
    low, high = image(A, lo, hi)
    scale, width = size(A, lo, hi), exact_image(A, lo, hi)
    entries = Fraction(float(abs(A).sum())) + Fraction(float((abs(lo) + abs(hi)).sum()))
    for row in range(len(lo)):
        for i in range(len(A)):
            below, above = width[row][i]
            found = Fraction(low[row, i].item()), Fraction(high[row, i].item())
            assert found[0] <= below
            assert above <= found[1]
            slack = 64 * (A.shape[1] + 4) * UNIT * scale[row][i] + 64 * TINY * (entries + 9)
            assert below - found[0] <= slack
            assert found[1] - above <= slack


@given(products(awkward))
def test_images_hold_the_exact_products_and_little_else(case: tuple[Array, Array, Array]) -> None:
    check_image(*case)


@given(products(ordinary), st.integers(-500, 500))
def test_images_of_points_hold_the_exact_product(
    case: tuple[Array, Array, Array], exponent: int
) -> None:
    A, lo, _ = case
    lo = np.ldexp(lo, exponent)
    check_image(A, lo, lo)


@given(products(awkward))
def test_points_take_one_product(case: tuple[Array, Array, Array]) -> None:
    """Its error is bounded by the largest entry of each point, not entry by entry."""
    A, lo, _ = case
    point = torch.tensor(lo)
    low, high = Enclosure.of(Dense(torch.tensor(A))).image(point, point)
    truth, rows = exact_image(A, lo, lo), exact.to_fractions(abs(A))
    entries = Fraction(float(abs(A).sum())) + Fraction(float(abs(lo).sum()))
    for i, v in enumerate(lo):
        for j, row in enumerate(rows):
            found = Fraction(low[i, j].item()), Fraction(high[i, j].item())
            assert found[0] <= truth[i][j][0] <= found[1]
            scale = sum(row, Fraction(0)) * Fraction(float(abs(v).max()))
            slack = 128 * (A.shape[1] + 4) * UNIT * scale + 128 * TINY * (entries + 9)
            assert found[1] - found[0] <= slack


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1.7e308])
def test_a_point_without_a_finite_product_has_no_finite_bounds(bad: float) -> None:
    point = torch.tensor([[1.0, bad, 2.0]])
    low, high = Enclosure.of(Dense(torch.full((2, 3), 2.0))).image(point, point)
    assert not bool((low.isfinite() & high.isfinite()).any())


@pytest.mark.parametrize("seed", range(8))
def test_long_products_that_cancel(seed: int) -> None:
    """Rounding errors far above one unit in the last place of the result."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(4, 200))
    v = rng.normal(size=(2, 200))
    A[:, -1] = -(A[:, :-1] @ v[0, :-1]) / v[0, -1]  # the first row's product is rounding alone
    check_image(A, v, v)
    check_image(A, v, np.nextafter(v, math.inf))
    check_image(A, v, v + 2.0**-30 * abs(rng.normal(size=v.shape)))


def test_the_sum_of_many_roundings_is_enclosed() -> None:
    """Every partial sum is rounded the same way: the plain product is off by 500 units."""
    terms = 4096
    A = np.full((1, terms), 1 + 2.0**-52)
    v = np.full((1, terms), 1 + 2.0**-52)
    check_image(A, v, v)
    tail = np.concatenate([[2.0**53], np.full(terms, 1.0)])[None]
    check_image(np.ones_like(tail), tail, tail)
    check_image(np.ones_like(tail), -tail, tail)


@given(products(awkward))
def test_magnitudes_are_bounded_from_above(case: tuple[Array, Array, Array]) -> None:
    A, lo, hi = case
    v = np.maximum(abs(lo), abs(hi))
    bound = Enclosure.of(Dense(torch.tensor(A))).magnitude_above(torch.tensor(v))
    truth = size(A, lo, hi)
    entries = Fraction(float(abs(A).sum())) + Fraction(float(v.sum()))
    for found, row in zip(bound.tolist(), truth, strict=True):
        for value, product in zip(found, row, strict=True):
            assert product <= Fraction(value)
            slack = 64 * (A.shape[1] + 4) * UNIT * product + 64 * TINY * (entries + 9)
            assert Fraction(value) <= product + slack


@LEANS
@given(case=products(ordinary))
def test_products_as_wrong_as_the_model_allows_are_enclosed(
    case: tuple[Array, Array, Array], lean: int
) -> None:
    A, lo, hi = case
    enclosure = Enclosure.of(Sloppy(torch.tensor(A), lean))
    low, high = enclosure.image(torch.tensor(lo), torch.tensor(hi))
    above = enclosure.magnitude_above(torch.tensor(np.maximum(abs(lo), abs(hi))))
    point = torch.tensor(lo)
    least, greatest = enclosure.image(point, point)
    truth, magnitude = exact_image(A, lo, hi), size(A, lo, hi)
    at_the_point = exact_image(A, lo, lo)
    for row in range(len(lo)):
        for i in range(len(A)):
            assert Fraction(least[row, i].item()) <= at_the_point[row][i][0]
            assert at_the_point[row][i][1] <= Fraction(greatest[row, i].item())
            assert Fraction(low[row, i].item()) <= truth[row][i][0]
            assert truth[row][i][1] <= Fraction(high[row, i].item())
            assert magnitude[row][i] <= Fraction(above[row, i].item())


def test_long_magnitudes_are_bounded_from_above() -> None:
    v = np.concatenate([[2.0**53], np.ones(4096)])[None]
    bound = Enclosure.of(Dense(torch.ones(1, 4097))).magnitude_above(torch.tensor(v))
    assert Fraction(bound.item()) >= 2**53 + 4096


def test_factors_flushed_to_zero_are_enclosed() -> None:
    """A machine that reads subnormal factors as 0, or flushes products, stays inside."""
    smallest, big = 1e-310, 1e8
    low, high = image(np.array([[big, 1.0]]), np.array([[0.0, 0.0]]), np.array([[0.0, 0.0]]))
    assert low.item() <= -big * smallest
    assert big * smallest <= high.item()
    low, high = image(np.array([[0.0]]), np.array([[big]]), np.array([[big]]))
    assert low.item() <= -big * smallest
    assert big * smallest <= high.item()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("weight", [1.0, -1.0, 0.0])
def test_nan_or_infinity_in_gives_no_finite_bound(bad: float, end: int, weight: float) -> None:
    ends = np.zeros((2, 1, 2))
    ends[end, 0, 0] = bad
    for bound in image(np.array([[weight, 1.0]]), ends[0], ends[1]):
        assert not bound.isfinite().any()


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_an_overflow_gives_no_finite_bound_that_is_wrong(signs: tuple[int, int]) -> None:
    v = np.array([[1e200 * signs[0], 1e200 * signs[1]]])
    truth = exact_image(np.full((1, 2), 1e200), v, v)[0][0][0]
    low, high = image(np.full((1, 2), 1e200), v, v)
    assert low.isnan() or low == -math.inf or Fraction(low.item()) <= truth
    assert high.isnan() or high == math.inf or truth <= Fraction(high.item())
    assert not (low > high)


def test_rows_of_a_batch_do_not_mix() -> None:
    A = torch.tensor([[1.0, -2.0], [0.5, 0.25]])
    lo, hi = torch.tensor([[0.0, 0.0], [math.nan, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    low, high = Enclosure.of(Dense(A)).image(lo, hi)
    assert low[0].isfinite().all()
    assert high[0].isfinite().all()
    assert low[1].isnan().all()


def test_an_empty_batch_has_an_empty_image() -> None:
    low, high = Enclosure.of(Dense(torch.ones(3, 2))).image(torch.zeros(0, 2), torch.zeros(0, 2))
    assert low.shape == high.shape == (0, 3)


def test_float32_weights_are_taken_exactly() -> None:
    entry = torch.tensor([[0.1]], dtype=torch.float32)
    one = torch.ones(1, 1)
    low, high = Enclosure.of(Dense(entry)).image(one, one)
    assert low.dtype == torch.float64
    assert low.item() < entry.double().item() < high.item()
    assert high.item() < 0.1 + 2e-9
    assert low.item() > 0.1


# What images rest on, as far as it is not in test_rounding.py.


def test_self_test_notices_products_that_scale_each_row_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Emulated double: 60 bits below the largest entry of each row and column, then exact."""

    def cut(M: Tensor, dim: int) -> Tensor:
        grid = 2.0 ** (M.abs().amax(dim, keepdim=True).log2().ceil() - 60)
        return (M / grid).round() * grid

    plain = torch.mm

    def product(A: Tensor, B: Tensor) -> Tensor:
        if B.ndim == 3:
            return torch.stack([product(A, each) for each in B])
        return plain(cut(A, 1), cut(B, 0))

    rounding._test_products.cache_clear()
    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    with pytest.raises(RoundingError, match="product"):
        self_test("cpu")
    rounding._test_products.cache_clear()


@pytest.mark.parametrize(
    "rigorous",
    [
        lambda: Box.around(torch.ones(1), 1e-310),
        lambda: Box.within(torch.ones(1), 1e-310),
        lambda: image(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1))),
    ],
)
def test_flushed_subnormals_are_refused_at_every_step(rigorous: Callable[[], object]) -> None:
    """Also long after the self-test of a network: the mode can be switched at any time."""
    rigorous()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        with pytest.raises(RoundingError, match="subnormal"):
            rigorous()
    finally:
        torch.set_flush_denormal(False)


_WORKERS = """
import torch
torch.set_num_threads(2)
assert torch.set_flush_denormal(True)
torch.ones(2**20).mul_(2)  # starts a worker, which stays in this mode
torch.set_flush_denormal(False)
from equicert.errors import RoundingError
from equicert.rounding import self_test
try:
    self_test()
except RoundingError:
    raise SystemExit(7)
"""


def test_worker_threads_that_flush_are_noticed() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot flush subnormal numbers")
    threads = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", _WORKERS], env=threads, check=False, timeout=60)
    assert done.returncode == 7


def test_images_of_many_rows_enclose_those_of_each_row() -> None:
    """They are made a block at a time; the parts end up in their places."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(3, 2000, generator=generator, dtype=torch.float64)
    lo = torch.randn(300, 2000, generator=generator, dtype=torch.float64)
    hi = lo + torch.rand(300, 1, generator=generator, dtype=torch.float64)
    enclosure = Enclosure.of(Dense(A))
    low, high = enclosure.image(lo, hi)
    assert low.shape == high.shape == (300, 3)
    for row in (0, 130, 131, 132, 262, 299):
        one_low, one_high = enclosure.image(lo[row : row + 1], hi[row : row + 1])
        torch.testing.assert_close(low[row], one_low[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(high[row], one_high[0], rtol=0, atol=1e-9)
    empty, _ = enclosure.image(lo[:0], hi[:0])
    assert empty.shape == (0, 3)
