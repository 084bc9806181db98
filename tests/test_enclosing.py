"""The compiled loops that round outwards, against exact rationals and tensor operations."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from equicert import kernels
from equicert.activations import Activation, HardTanh, Identity, LeakyReLU, ReLU
from equicert.bounds.state_box import post_fixed, prove_state_box
from equicert.boxes import Box
from equicert.enclosures import Enclosure
from equicert.errors import InputError
from equicert.operators import Dense
from equicert.rounding import up
from equicert.stored import StoredNetwork
from networks import Array

pytestmark = pytest.mark.skipif(
    not kernels.usable(torch.zeros(1)), reason="the loops need numba, which is not installed"
)

WORDS = [0.0, -0.0, 5e-324, -5e-324, 1e-310, 2.0**-1022, 1e-160, 1e300, -1e300, 1.0, -1.0, 0.1]
awkward = st.one_of(st.sampled_from(WORDS), st.floats(-4, 4), st.floats(-1e300, 1e300))
radii = st.one_of(st.sampled_from([w for w in WORDS if w >= 0]), st.floats(0, 1e300))
PIECEWISE = [ReLU(), LeakyReLU(0.1), LeakyReLU(0.0), LeakyReLU(1.0), HardTanh(), Identity()]


@contextmanager
def tensor_operations() -> Iterator[None]:
    with patch.object(kernels, "encloses", lambda *_: False):
        yield


def exactly(values: Tensor) -> list[Fraction]:
    return [Fraction(v) for v in values.flatten().tolist()]


def assert_near(one: Tensor, other: Tensor) -> None:
    """Equal, or a few units in the last place apart: fused operations round once less."""
    assert torch.allclose(one, other, rtol=2.0**-50, atol=2.0**-1018, equal_nan=True)


# Boxes.


@given(data=st.data(), shape=st.tuples(st.integers(1, 3), st.integers(1, 5)))
def test_surroundings_enclose_are_tight_and_agree(
    data: st.DataObject, shape: tuple[int, int]
) -> None:
    batch, r = shape
    x = data.draw(hnp.arrays(np.float64, shape, elements=awkward))
    eps_shape = data.draw(st.sampled_from([(), (r,), (batch, 1)]))
    eps = torch.tensor(data.draw(hnp.arrays(np.float64, eps_shape, elements=radii)))
    reach = data.draw(st.sampled_from([0.0, 5e-324, 0.05, math.inf]))
    domain = (torch.tensor(x.min(0) - reach), torch.tensor(x.max(0) + reach))
    box = Box.around(torch.tensor(x), eps, domain)
    radius = eps.expand(batch, r)
    for p, e, low, high, lo, hi in zip(
        x.ravel().tolist(),
        radius.flatten().tolist(),
        *(end.expand(batch, r).flatten().tolist() for end in domain),
        *(end.flatten().tolist() for end in (box.lo, box.hi)),
        strict=True,
    ):
        least, greatest = Fraction(p) - Fraction(e), Fraction(p) + Fraction(e)
        if math.isfinite(low):
            least, greatest = max(least, Fraction(low)), min(greatest, Fraction(high))
        assert Fraction(lo) <= least
        assert greatest <= Fraction(hi)
        assert Fraction(math.nextafter(lo, math.inf)) > least
        assert Fraction(math.nextafter(hi, -math.inf)) < greatest
    with tensor_operations():
        other = Box.around(torch.tensor(x), eps, domain)
    assert torch.equal(box.lo, other.lo)
    assert torch.equal(box.hi, other.hi)


@pytest.mark.parametrize("domain", [None, (0.0, 1.7e308)])
def test_overflows_are_refused_by_both_ways(domain: tuple[float, float] | None) -> None:
    x = torch.full((2, 9), 0.5)
    x[1, 8] = 1.7e308
    with pytest.raises(InputError, match=r"box 1 .* entry 8"):
        Box.around(x, 1e308, domain)
    with tensor_operations(), pytest.raises(InputError, match=r"box 1 .* entry 8"):
        Box.around(x, 1e308, domain)


# Images.


@st.composite
def boxes_and_maps(draw: st.DrawFn) -> tuple[Array, Array, Array, Array, Array]:
    elements = st.one_of(
        st.floats(-4, 4), st.floats(-1e30, 1e30), st.sampled_from([w for w in WORDS if abs(w) < 2])
    )
    n, m, batch = (draw(st.integers(1, size)) for size in (3, 9, 3))
    A = draw(hnp.arrays(np.float64, (n, m), elements=elements))
    ends = draw(hnp.arrays(np.float64, (2, batch, m), elements=elements))
    plus = draw(
        hnp.arrays(np.float64, (2, draw(st.sampled_from([1, batch])), n), elements=elements)
    )
    return A, ends.min(0), ends.max(0), plus.min(0), plus.max(0)


@given(boxes_and_maps())
def test_images_enclose_every_corner_and_agree(
    drawn: tuple[Array, Array, Array, Array, Array],
) -> None:
    A, lo, hi, least, greatest = drawn
    enclosure = Enclosure.of(Dense(torch.tensor(A)))
    box = torch.tensor(lo), torch.tensor(hi)
    plus = torch.tensor(least), torch.tensor(greatest)
    low, high = enclosure.image(*box, plus)
    for i in range(len(lo)):
        for k in range(len(A)):
            terms = [
                sorted((Fraction(a) * Fraction(p), Fraction(a) * Fraction(q)))
                for a, p, q in zip(A[k].tolist(), lo[i].tolist(), hi[i].tolist(), strict=True)
            ]
            own = i % len(least)
            assert Fraction(low[i, k].item()) <= sum(t[0] for t in terms) + Fraction(least[own, k])
            assert sum(t[1] for t in terms) + Fraction(greatest[own, k]) <= Fraction(
                high[i, k].item()
            )
    with tensor_operations():
        others = enclosure.image(*box, plus)
    size = abs(A).sum(1) * np.maximum(abs(lo), abs(hi)).max(1)[:, None]
    size = torch.tensor(size) + torch.maximum(plus[0].abs(), plus[1].abs())
    for one, other in zip((low, high), others, strict=True):
        assert ((one - other).abs() <= 2.0**-48 * size + 2.0**-1015).all()
    columns = torch.arange(len(A)).flip(0).expand(len(lo), -1)
    only = enclosure.image(*box, plus_of(plus, columns), columns)
    for end, some in zip((low, high), only, strict=True):
        assert_near(some, end.gather(1, columns))


def plus_of(plus: tuple[Tensor, Tensor], columns: Tensor) -> tuple[Tensor, Tensor]:
    low, high = (end.expand(len(columns), -1).gather(1, columns) for end in plus)
    return low, high


@given(
    hnp.arrays(np.float64, (2, 3, 17), elements=awkward), st.sampled_from([0.0, 2.0**-45, 2.0**-30])
)
def test_halves_hold_the_box_and_the_share(ends: Array, share: float) -> None:
    lo, hi = torch.tensor(ends.min(0)), torch.tensor(ends.max(0))
    c, wide, most = kernels.halves(lo, hi, share)
    for low, high, centre, radius in zip(*map(exactly, (lo, hi, c, wide)), strict=True):
        assert centre - radius <= low
        assert high <= centre + radius
        assert (
            abs(centre) * Fraction(share)
            <= radius * (1 + Fraction(2) ** -50) + Fraction(2) ** -1070
        )
    assert torch.equal(most, torch.stack([c.abs().amax(-1), wide.amax(-1)], -1))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_bounded(bad: float) -> None:
    lo, hi = torch.zeros(2, 9), torch.ones(2, 9)
    enclosure = Enclosure.of(Dense(torch.eye(9)))
    for spoilt in ((lo.index_fill(1, torch.tensor([4]), bad), hi), (lo, hi.clone())):
        spoilt[1][1, 4] = bad
        low, high = enclosure.image(*spoilt)
        assert not (low[1].isfinite() & high[1].isfinite()).any()


def test_other_types_are_left_to_tensor_operations() -> None:
    one = torch.ones(1, 2)
    assert kernels.encloses(one)
    assert not kernels.encloses(one.float())
    assert not kernels.encloses(one, torch.ones(2, 2).mT)
    assert not kernels.encloses(one.clone().requires_grad_())


# The test of a state box.


def network(phi: Activation, d: list[float], off: float) -> StoredNetwork:
    W = torch.full((len(d), len(d)), off).fill_diagonal_(0) + torch.diag(torch.tensor(d))
    one = torch.ones(len(d))
    return StoredNetwork.from_arrays(W, W, one, one[None], one[:1], phi)


@pytest.mark.parametrize("phi", PIECEWISE, ids=str)
@given(
    d=st.lists(st.floats(-3, 0.5), min_size=1, max_size=9),
    off=st.floats(-0.05, 0.05),
    scale=st.sampled_from([0.0, 1e-300, 1e-9, 1.0, 1e9]),
    seed=st.integers(0, 99),
)
def test_both_ways_prove_the_same_boxes(
    phi: Activation,
    d: list[float],
    off: float,
    scale: float,
    seed: int,
) -> None:
    net = network(phi, d, off)
    generator = torch.Generator().manual_seed(seed)
    u = scale * torch.randn(4, len(d), generator=generator)
    drive = u, u + scale * torch.rand(4, 1, generator=generator)
    z = phi.phi(u) * torch.rand(4, 1, generator=generator)
    converged = torch.ones(4, dtype=torch.bool)
    found = prove_state_box(net, drive, z, z, converged)
    with tensor_operations():
        other = prove_state_box(net, drive, z, z, converged)
        assert post_fixed(net, drive, found.lo, found.hi)[found.proved].all()
    assert found.reason == other.reason
    assert_near(found.lo, other.lo)
    assert_near(found.hi, other.hi)


@pytest.mark.parametrize("phi", PIECEWISE, ids=str)
@given(
    ends=st.tuples(awkward, awkward),
    inner=st.tuples(awkward, awkward),
    d=st.sampled_from([0.0, 0.5, -1.0, -1e-310]),
)
def test_what_passes_is_post_fixed_exactly(
    phi: Activation,
    ends: tuple[float, float],
    inner: tuple[float, float],
    d: float,
) -> None:
    assert_exact_if_passed(phi, d, sorted(ends), sorted(inner))


@pytest.mark.parametrize("phi", PIECEWISE, ids=str)
@given(
    z=st.one_of(st.floats(-1, 1), st.floats(-1e-307, 1e-307)),
    d=st.one_of(st.floats(-2, 0.9), st.floats(-1e-3, 1e-3)),
    steps=st.integers(-9, 9),
)
def test_what_passes_by_a_hair_is_post_fixed_exactly(
    phi: Activation, z: float, d: float, steps: int
) -> None:
    assert phi.slopes is not None
    r = z / (phi.slopes[z > 0] or 1) - d * z
    for _ in range(abs(steps)):
        r = math.nextafter(r, math.copysign(math.inf, steps))
    for spread in (1e-9, 0.0):  # one side at a time, and a point
        assert_exact_if_passed(phi, d, [z, z + spread], [r, r])
        assert_exact_if_passed(phi, d, [z - spread, z], [r, r])


def assert_exact_if_passed(
    phi: Activation, d: float, ends: list[float], inner: list[float]
) -> None:
    lo, hi, low, high = (torch.tensor([[v]]) for v in (*ends, *inner))
    assert phi.slopes is not None
    phi_of = kernels.Linear(*phi.slopes, phi.lower, phi.upper)
    if kernels.inward((low, high), lo, hi, torch.tensor([d]), phi_of).item():
        at_lo = exact_phi(phi, Fraction(d) * Fraction(lo.item()) + Fraction(low.item()))
        at_hi = exact_phi(phi, Fraction(d) * Fraction(hi.item()) + Fraction(high.item()))
        assert Fraction(lo.item()) <= at_lo
        assert at_hi <= Fraction(hi.item())
        assert lo <= hi


def exact_phi(phi: Activation, t: Fraction) -> Fraction:
    assert phi.slopes is not None
    value = Fraction(phi.slopes[t > 0]) * t
    value = max(value, Fraction(phi.lower)) if math.isfinite(phi.lower) else value
    return min(value, Fraction(phi.upper)) if math.isfinite(phi.upper) else value


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", range(4))
def test_what_is_no_number_passes_no_test(bad: float, which: int) -> None:
    given_ = [torch.full((2, 5), v) for v in (1.0, 1.0, 0.0, 2.0)]
    given_[which][1, 3] = bad
    r_lo, r_hi, lo, hi = given_
    passed = kernels.inward((r_lo, r_hi), lo, hi, torch.zeros(5), kernels.Linear(0, 1, 0, math.inf))
    assert passed.tolist() == [True, False]


@pytest.mark.parametrize("batch", [1, 131, 300])
def test_images_of_many_rows_are_those_of_each_row(batch: int) -> None:
    """They are computed a block at a time, with what is added and asked for row by row."""
    generator = torch.Generator().manual_seed(0)
    enclosure = Enclosure.of(Dense(torch.randn(3, 2000, generator=generator)))
    lo = torch.randn(batch, 2000, generator=generator)
    own = torch.randn(batch, 2, generator=generator)
    only = torch.randint(3, (batch, 2), generator=generator)
    for plus in ((own, own + 1), (own[:1], own[:1] + 1)):
        found = enclosure.image(lo, lo + 0.5, plus, only)
        for row in {0, batch // 2, batch - 1}:
            one = slice(row, row + 1)
            added = plus if len(plus[0]) == 1 else (plus[0][one], plus[1][one])
            alone = enclosure.image(lo[one], lo[one] + 0.5, added, only[one])
            for end, other in zip(found, alone, strict=True):
                assert torch.allclose(end[one], other, rtol=0, atol=1e-9)


def test_an_inverted_box_passes_no_test() -> None:
    ends = (torch.tensor([[v]]) for v in (3.0, 0.5, 2.0, 1.0))
    r_lo, r_hi, lo, hi = ends
    phi = kernels.Linear(1, 1, -math.inf, math.inf)
    assert not kernels.inward((r_lo, r_hi), lo, hi, torch.zeros(1), phi).any()


@given(hnp.arrays(np.float64, (2, 5), elements=awkward), st.sampled_from([0.0, 5e-324, 0.1, 1e300]))
def test_no_point_of_a_box_is_farther(x: Array, eps: float) -> None:
    point = torch.tensor(x)
    box = Box.around(point, eps)
    found = kernels.farthest(point, box.lo, box.hi)
    expected = torch.maximum((box.hi - point).amax(-1), (point - box.lo).amax(-1))
    assert torch.equal(found, expected)
    for distance, at, low, high in zip(exactly(up(found)), x, box.lo, box.hi, strict=True):
        for p, lo, hi in zip(map(Fraction, at.tolist()), exactly(low), exactly(high), strict=True):
            assert max(p - lo, hi - p) <= distance


def test_the_distance_to_nowhere_is_no_number() -> None:
    x = torch.zeros(2, 3)
    lo, hi = x - 1, x + 1
    hi[1, 2] = math.nan
    assert kernels.farthest(x, lo, hi).isnan().tolist() == [False, True]
