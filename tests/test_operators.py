"""One suite for every operator: a new structure plugs in with two lines of OPERATORS.

The truth about an operator is the matrix whose columns are its images of the unit vectors. Entries
are multiples of 1/8, so that every sum and product below is exact and equality can be asked for.
"""

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Self, final

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import exact
from equicert.activations import Tanh
from equicert.contraction import prove_contraction
from equicert.enclosures import Enclosure
from equicert.norms import matrix_measure
from equicert.operators import (
    Convolution,
    Dense,
    Geometry,
    Image,
    Margins,
    Operator,
    Part,
    stacked,
)
from equicert.rounding import gamma
from equicert.stored import StoredNetwork


@final
@dataclasses.dataclass(frozen=True)
class Circulant(Operator):
    """`A_ij = kernel[(i - j) mod n]`: shares its entries, stores no matrix, keeps every default."""

    kernel: Tensor
    structure = "circulant"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.kernel), len(self.kernel)

    def apply(self, v: Tensor) -> Tensor:
        shifted = [torch.roll(v, k, -1) for k in range(len(self.kernel))]
        return (torch.stack(shifted, -1) * self.kernel).sum(-1)

    def transpose(self) -> "Circulant":
        return Circulant(torch.roll(self.kernel.flip(0), 1))

    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        return dataclasses.replace(self, kernel=fn(self.kernel))

    def off_diagonal(self) -> "Circulant":
        return Circulant(self.kernel.masked_fill(torch.arange(len(self.kernel)) == 0, 0))

    def majorant(self) -> "Circulant":
        first = torch.arange(len(self.kernel)) == 0
        return Circulant(torch.where(first, self.kernel, self.kernel.abs()))

    def diagonal(self) -> Tensor:
        return self.kernel[:1].expand(len(self.kernel))

    def tensors(self) -> Mapping[str, Tensor]:
        return {".kernel": self.kernel}


def entries(*shape: int, seed: int = 0) -> Tensor:
    """Multiples of 1/8 in [-4, 4], a zero among them where there is room for one."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(-32, 33, shape, generator=generator).double() / 8
    if drawn.numel() > 2:
        drawn.view(-1)[2] = 0.0
    return drawn


def convolution(
    image: tuple[int, int, int],
    kernel: tuple[int, int, int, int],
    stride: int = 1,
    margins: Margins | None = None,
    circular: bool = False,
) -> Convolution:
    margins = margins or Margins.same(*kernel[2:])
    return Convolution(entries(*kernel), Geometry(Image(*image), margins, stride, circular))


def with_own(A: Convolution) -> Convolution:
    return dataclasses.replace(A.off_diagonal(), own=entries(A.shape[0], seed=7))


OPERATORS: dict[str, Callable[[], Operator]] = {
    "dense, square": lambda: Dense(entries(4, 4)),
    "dense, wide": lambda: Dense(entries(3, 5)),
    "dense, tall": lambda: Dense(entries(5, 2)),
    "dense, one entry": lambda: Dense(entries(1, 1)),
    "dense, zero": lambda: Dense(torch.zeros(3, 3)),
    "dense, huge diagonal": lambda: Dense(entries(3, 3) + 2.0**60 * torch.eye(3)),
    "dense, transposed storage": lambda: Dense(entries(3, 4).mT),
    "circulant": lambda: Circulant(entries(5)),
    "convolution, same": lambda: convolution((2, 3, 4), (2, 2, 3, 3)),
    "convolution, circular": lambda: convolution((2, 3, 4), (2, 2, 3, 3), circular=True),
    "convolution, even": lambda: convolution((1, 4, 3), (1, 1, 2, 2)),
    "convolution, even, circular": lambda: convolution((2, 2, 4), (2, 2, 2, 4), circular=True),
    "convolution, own diagonal": lambda: with_own(convolution((2, 3, 4), (2, 2, 3, 3))),
    "convolution, circular, own diagonal": lambda: with_own(
        convolution((2, 3, 3), (2, 2, 2, 3), circular=True)
    ),
    "convolution, stride 2": lambda: convolution((1, 5, 4), (3, 1, 3, 3), 2, Margins(1, 1, 1, 1)),
    "convolution, stride 3": lambda: convolution((2, 5, 5), (1, 2, 2, 2), 3, Margins(0, 0, 0, 0)),
    "convolution, stride 2, circular": lambda: convolution(
        (1, 4, 5), (2, 1, 2, 3), 2, Margins(2, 1, 3, 5), circular=True
    ),
    "convolution, wide margins": lambda: convolution(
        (1, 2, 2), (2, 1, 3, 3), 1, Margins(3, 0, 1, 4)
    ),
    "convolution, one pixel": lambda: with_own(convolution((3, 1, 1), (3, 3, 1, 1))),
    "convolution, transposed": lambda: convolution(
        (1, 5, 4), (3, 1, 3, 2), 2, Margins(1, 1, 0, 1)
    ).transpose(),
    "convolution, own diagonal, transposed": lambda: with_own(
        convolution((2, 3, 2), (2, 2, 3, 2), circular=True)
    ).transpose(),
    "part, square": lambda: Part(Circulant(entries(5)), torch.tensor([3, 0]), torch.tensor([3, 0])),
    "part, rows": lambda: Part(
        convolution((1, 5, 4), (3, 1, 3, 2), 2, Margins(1, 1, 0, 1)), torch.tensor([0, 3, 7]), None
    ),
    "part, transposed": lambda: Part(
        Dense(entries(4, 5)), torch.tensor([1, 2]), torch.tensor([4, 0, 1])
    ).transpose(),
}


OPERATORS |= {
    "blocks, layers and an implicit one": lambda: stacked(
        (10, 10),
        [
            (4, 0, convolution((1, 2, 2), (1, 1, 3, 3))),
            (8, 4, Dense(entries(2, 4))),
            (8, 8, Dense(entries(2, 2, seed=3))),
        ],
    ),
    "blocks, implicit in front": lambda: stacked(
        (6, 6),
        [(0, 0, with_own(convolution((1, 2, 2), (1, 1, 3, 3)))), (4, 0, Dense(entries(2, 4)))],
    ),
    "blocks, a full cycle": lambda: stacked(
        (5, 5),
        [
            (0, 2, Dense(entries(2, 3))),
            (2, 0, Dense(entries(3, 2))),
            (2, 2, Dense(entries(3, 3))),
        ],
    ),
    "blocks, side by side": lambda: stacked(
        (3, 7), [(0, 0, Dense(entries(3, 2))), (0, 3, Dense(entries(2, 4)))]
    ),
    "blocks, input": lambda: stacked(
        (9, 4), [(0, 0, convolution((1, 2, 2), (2, 1, 3, 3), 2, Margins(1, 1, 1, 1)))]
    ),
    "blocks, transposed": lambda: stacked(
        (8, 8), [(4, 0, convolution((1, 2, 2), (1, 1, 3, 3))), (4, 4, Dense(entries(4, 4)))]
    ).transpose(),
}


def matrix(A: Operator) -> Tensor:
    """The columns of A, one unit vector at a time."""
    unit = torch.eye(A.shape[1], dtype=A.dtype)
    return torch.cat([A.apply(unit[j : j + 1]) for j in range(A.shape[1])]).mT


EVERY = pytest.mark.parametrize("make", OPERATORS.values(), ids=list(OPERATORS))
SQUARE = pytest.mark.parametrize(
    "make",
    [make for make in OPERATORS.values() if len(set(make().shape)) == 1],
    ids=[name for name, make in OPERATORS.items() if len(set(make().shape)) == 1],
)
Make = Callable[[], Operator]


@EVERY
def test_apply_is_linear_on_rows(make: Make) -> None:
    A = make()
    n, m = A.shape
    v = entries(6, m, seed=1)
    image = A.apply(v)
    assert image.shape == (6, n)
    columns = matrix(A)
    assert torch.equal(image, torch.stack([(columns * row).sum(1) for row in v]))
    assert A.apply(torch.zeros(0, m)).shape == (0, n)


@EVERY
def test_dense_is_the_matrix_of_apply(make: Make) -> None:
    A = make()
    assert A.dense().shape == A.shape
    assert torch.equal(A.dense(), matrix(A))


@EVERY
def test_affine_adds_to_a_multiple_of_the_product(make: Make) -> None:
    A = make()
    v, u = entries(6, A.shape[1], seed=1), entries(6, A.shape[0], seed=2)
    kept = v.clone(), u.clone()
    for added in (u, u[0]):
        for factor in (1.0, 0.5):
            assert torch.equal(A.affine(v, added, factor), factor * A.apply(v) + added)
    assert torch.equal(v, kept[0])
    assert torch.equal(u, kept[1])


@SQUARE
def test_majorant_keeps_the_diagonal_and_takes_absolute_values_elsewhere(make: Make) -> None:
    A = make()
    columns, majorant = matrix(A), matrix(A.majorant())
    own = torch.eye(len(columns), dtype=torch.bool)
    assert torch.equal(majorant, torch.where(own, columns, columns.abs()))
    assert torch.equal(matrix(A), columns)


@SQUARE
def test_measure_is_that_of_the_matrix(make: Make) -> None:
    A = make()
    eta = 1 + torch.arange(A.shape[0]).double() % 3
    torch.testing.assert_close(A.measure(eta), matrix_measure(matrix(A), eta))


@EVERY
def test_transpose_is_the_adjoint(make: Make) -> None:
    A = make()
    transposed = A.transpose()
    assert transposed.shape == A.shape[::-1]
    assert torch.equal(matrix(transposed), matrix(A).mT)
    assert torch.equal(matrix(transposed.transpose()), matrix(A))
    v, w = entries(1, A.shape[1], seed=2), entries(1, A.shape[0], seed=3)
    assert torch.equal((A.apply(v) * w).sum(), (v * transposed.apply(w)).sum())


@EVERY
def test_sign_parts_and_absolute_value_are_entrywise(make: Make) -> None:
    A = make()
    columns = matrix(A)
    assert torch.equal(matrix(A.absolute()), columns.abs())
    assert torch.equal(matrix(A.positive()), columns.clamp(min=0))
    assert torch.equal(matrix(A.negative()), columns.clamp(max=0))
    assert torch.equal(matrix(A.map(lambda entry: -2 * entry)), -2 * columns)
    assert torch.equal(matrix(A.transpose().absolute()), columns.abs().mT)
    assert torch.equal(matrix(A), columns)  # nothing was changed in place


@EVERY
def test_absolute_row_sums(make: Make) -> None:
    A = make()
    sums = A.absolute_row_sums()
    assert sums.shape == A.shape[:1]
    assert torch.equal(sums, matrix(A).abs().sum(1))
    assert torch.equal(A.row_sums(), matrix(A).sum(1))


@SQUARE
def test_diagonal_and_off_diagonal_make_up_the_operator(make: Make) -> None:
    A = make()
    columns, off = matrix(A), matrix(A.off_diagonal())
    assert torch.equal(A.diagonal(), columns.diagonal())
    assert torch.equal(off.diagonal(), torch.zeros(len(off)))
    assert torch.equal(off + torch.diag(columns.diagonal()), columns)
    assert torch.equal(matrix(A), columns)


@EVERY
def test_type_and_place(make: Make) -> None:
    A = make()
    assert A.tensors()
    assert {tensor.dtype for tensor in A.tensors().values()} == {A.dtype} == {torch.float64}
    assert A.device.type == "cpu"
    narrow = A.to(dtype=torch.float32)
    assert narrow.dtype == torch.float32
    assert narrow.apply(torch.zeros(1, A.shape[1], dtype=torch.float32)).dtype == torch.float32
    assert narrow.apply(torch.zeros(0, A.shape[1], dtype=torch.float32)).shape == (0, A.shape[0])
    assert torch.equal(matrix(narrow.to(dtype=torch.float64)), matrix(narrow).double())
    assert matrix(narrow.absolute()).dtype == narrow.absolute_row_sums().dtype == torch.float32


@EVERY
def test_gradients_reach_the_entries_and_detach_cuts_them(make: Make) -> None:
    """The image under `s A` has the derivative A v in s; the same for transpose and |s A|."""
    A = make()
    s = torch.ones((), requires_grad=True)
    scaled = A.map(lambda entry: s * entry)
    v, w = entries(1, A.shape[1], seed=4), entries(1, A.shape[0], seed=5)
    for operator, vector in ((scaled, v), (scaled.transpose(), w), (scaled.absolute(), v)):
        image = operator.apply(vector).sum()
        (slope,) = torch.autograd.grad(image, s, retain_graph=True)
        assert torch.equal(slope, image.detach())
    assert scaled.apply(v).requires_grad
    assert not scaled.detach().apply(v).requires_grad
    assert scaled.apply(v).requires_grad


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cotangents_are_the_gradients_of_the_product(make: Make, dtype: torch.dtype) -> None:
    """Shortcuts agree with the definition, by autograd; so do those for the majorant."""
    A = make().to(dtype=dtype)
    v = entries(6, A.shape[1], seed=4).to(dtype)
    p = entries(6, A.shape[0], seed=5).to(dtype)
    for majorant in (False, True) if A.shape[0] == A.shape[1] else (False,):
        found = A.cotangents(v, p, majorant=majorant)
        assert_close(found, Operator.cotangents(A, v, p, majorant=majorant))
        assert [g.shape for g in found] == [entry.shape for entry in A.tensors().values()]


@EVERY
def test_frozen(make: Make) -> None:
    A = make()
    with pytest.raises(AttributeError):
        setattr(A, "shape", (1, 1))  # noqa: B010 - a plain assignment is a type error already
    name = next(iter(vars(A)))
    with pytest.raises(AttributeError):
        setattr(A, name, torch.zeros(1))


def generic(A: Operator) -> Operator:
    """The same structure with entries of full length, which products must round."""
    return A.map(lambda entry: (entry / 3).sin() * 10 * (entry != 0))


@EVERY
def test_terms_bound_the_rounding_of_apply(make: Make) -> None:
    A = generic(make())
    v = (entries(3, A.shape[1], seed=6) / 7).cos()
    rows = exact.to_fractions(matrix(A))
    for x, image in zip(exact.to_fractions(v), exact.to_fractions(A.apply(v)), strict=True):
        for row, found in zip(rows, image, strict=True):
            size = exact.dot([abs(a) for a in row], [abs(e) for e in x])
            assert abs(found - exact.dot(row, x)) <= Fraction(gamma(A.terms)) * size
    assert int((matrix(A) != 0).sum(1).amax()) <= A.terms


@EVERY
def test_enclosure_contains_every_exact_corner(make: Make) -> None:
    A = generic(make())
    m = A.shape[1]
    lo = (entries(1, m, seed=7) / 7).sin()
    hi = lo + torch.linspace(0, 1, m)
    low, high = Enclosure.of(A).image(lo, hi)
    xlo, xhi = exact.to_fractions(lo[0]), exact.to_fractions(hi[0])
    for i, row in enumerate(exact.to_fractions(matrix(A))):
        parts = [sorted((a * p, a * q)) for a, p, q in zip(row, xlo, xhi, strict=True)]
        least = sum((part[0] for part in parts), Fraction(0))
        greatest = sum((part[1] for part in parts), Fraction(0))
        found_low, found_high = Fraction(low[0, i].item()), Fraction(high[0, i].item())
        assert found_low <= least <= greatest <= found_high
        slack = Fraction(1, 10**12) * (1 + max(abs(least), abs(greatest)))
        assert max(least - found_low, found_high - greatest) <= slack


@SQUARE
def test_a_network_needs_no_more_than_the_interface(make: Make) -> None:
    """Contraction, state and box solve agree with those of the same weights as a dense matrix."""
    A = generic(make())
    n = A.shape[0]
    scale = 2 * A.absolute_row_sums().amax().clamp(min=1)  # rows of at most 1/2: it contracts
    W = A.map(lambda entry: entry / scale)
    b, C, c = torch.linspace(-1, 1, n), torch.ones(1, n), torch.zeros(1)
    U = Dense(entries(n, 2, seed=8))
    network = StoredNetwork(W, U, b, C, c, Tanh())
    plain = StoredNetwork(Dense(W.dense().contiguous()), U, b, C, c, Tanh())
    proved, truth = prove_contraction(W), prove_contraction(plain.W)
    assert proved.mu == pytest.approx(truth.mu, rel=1e-12, abs=1e-12)
    x = entries(4, 2, seed=9)
    one, other = network.solve(x), plain.solve(x)
    assert bool((one.converged & other.converged).all())
    assert bool(((one.value - other.value).abs().amax(1) <= one.radius + other.radius).all())
    assert (network.digest == plain.digest) == (W.structure == "dense")


# Of a full matrix in particular.


def test_dense_is_its_matrix() -> None:
    stored = entries(3, 4)
    A = Dense(stored)
    assert A.dense() is stored
    assert torch.equal(matrix(A), stored)
    assert A.structure == "dense"
    assert A.terms == 4
    assert list(A.tensors()) == [""]


def test_off_diagonal_drops_what_it_cannot_subtract() -> None:
    """NaN on the diagonal belongs to the diagonal; off it, entries stay to the last bit."""
    stored = torch.tensor([[torch.nan, 1e-300], [5e-324, torch.inf]])
    off = Dense(stored).off_diagonal().dense()
    assert torch.equal(off, torch.tensor([[0.0, 1e-300], [5e-324, 0.0]]))
