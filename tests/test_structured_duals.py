"""Dual bounds by products with W and U: as by their matrices, true, and no matrix formed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from typing import Any, Self, final

import numpy as np
import pytest
import torch
from torch import Tensor

from equicert import lipschitz
from equicert.bounds import Complete, Dual, Interval, Lipschitz, Tightening, sample
from equicert.boxes import Box
from equicert.lipschitz import zeta_bound
from equicert.operators import (
    Convolution,
    Dense,
    Geometry,
    Image,
    Margins,
    Operator,
    Part,
)
from equicert.queries import Query
from equicert.relaxation import Ascent, Lagrangian, Rows, adjoint_start
from equicert.stored import StoredNetwork
from networks import Network
from oracles import Form, Problem, dual
from searches import as_one_block, check_bounds, least_margins


@final
@dataclasses.dataclass(frozen=True)
class Sealed(Operator):
    """An operator that is never formed as a matrix."""

    of: Operator

    @property
    def structure(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"sealed {self.of.structure}"

    @property
    def shape(self) -> tuple[int, int]:
        return self.of.shape

    @property
    def terms(self) -> int:
        return self.of.terms

    def apply(self, v: Tensor) -> Tensor:
        return self.of.apply(v)

    def transpose(self) -> Sealed:
        return Sealed(self.of.transpose())

    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        return dataclasses.replace(self, of=self.of.map(fn))

    def off_diagonal(self) -> Sealed:
        return Sealed(self.of.off_diagonal())

    def majorant(self) -> Sealed:
        return Sealed(self.of.majorant())

    def diagonal(self) -> Tensor:
        return self.of.diagonal()

    def tensors(self) -> Mapping[str, Tensor]:
        return self.of.tensors()

    def dense(self) -> Tensor:
        raise AssertionError("a matrix was formed")


def drawn(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    """Few bits each, so that exact arithmetic is quick."""
    return torch.tensor(rng.integers(-16, 17, shape) / 16.0) * scale


def network(seed: int, activation: str = "relu", scale: float = 0.125) -> StoredNetwork:
    """4 pixels into 2 x 2 x 2 states, out of which 3 classes."""
    rng = np.random.default_rng(seed)
    image, margins = Image(2, 2, 2), Margins.same(3, 3)
    W = Convolution(drawn(rng, 2, 2, 3, 3, scale=scale), Geometry(image, margins))
    own = drawn(rng, image.size, scale=0.5) - 0.25
    W = dataclasses.replace(W.off_diagonal(), own=own)
    U = Convolution(drawn(rng, 2, 1, 3, 3), Geometry(Image(1, 2, 2), margins))
    rest = drawn(rng, image.size), drawn(rng, 3, image.size), drawn(rng, 3)
    return StoredNetwork.from_arrays(W, U, *rest, activation, eta=np.ones(image.size))


def as_matrices(held: StoredNetwork) -> StoredNetwork:
    return dataclasses.replace(held, W=Dense(held.W.dense()), U=Dense(held.U.dense()))


def exact(held: StoredNetwork) -> Network:
    W, U, b, C, c = (v.numpy() for v in (held.W.dense(), held.U.dense(), held.b, held.C, held.c))
    return Network("stored", W, U, b, C, c, held.activation.spec)


def sealed(held: StoredNetwork) -> StoredNetwork:
    return dataclasses.replace(held, W=Sealed(held.W), U=Sealed(held.U))


def asked(held: StoredNetwork, half: float, count: int = 3) -> Query:
    """The margins of the network's own labels over boxes that float64 holds exactly."""
    centre = torch.tensor(np.random.default_rng(9).integers(-8, 9, (count, held.inputs)) / 8.0)
    box = Box(centre - half, centre + half)
    return Query.of_margins(box, held.predict(centre).argmax(1), 3, centre, box)


def forms(seed: int, n: int, r: int, batch: int = 4) -> tuple[Rows, Tensor]:
    """Forms of z, and of single r_i, over bounds and boxes of many widths; and multipliers."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.choice([0, 0, 2, -3], size=(2, batch, n))
    lo, hi = np.sort(rng.normal(size=(2, batch, n)) * sizes[:1], axis=0)
    a, e = rng.normal(size=(batch, n)), np.zeros((batch, n))
    a[batch // 2 :] = 0
    e[np.arange(batch // 2, batch), rng.integers(n, size=batch - batch // 2)] = 1
    centre, half = rng.normal(size=(batch, r)), np.abs(rng.normal(size=(batch, r)))
    zero = np.zeros((1, 1))
    a, e, zero, lo, hi, centre, half = map(torch.tensor, (a, e, zero, lo, hi, centre, half))
    return Rows(a, e, zero, lo, hi, centre, half), torch.tensor(
        rng.normal(size=(batch, n)) * sizes[1]
    )


def truth(net: Network, rows: Rows, multiplier: Tensor, row: int) -> Fraction:
    """g(lambda), exactly."""
    centre, half = ([Fraction(v) for v in part[row].tolist()] for part in (rows.centre, rows.half))
    lo = [c - h for c, h in zip(centre, half, strict=True)]
    hi = [c + h for c, h in zip(centre, half, strict=True)]
    problem = Problem.of(net, lo, hi)
    assert rows.e is not None
    a, d, constant = [Fraction(v) for v in rows.a[row].tolist()], [Fraction(0)] * len(lo), 0
    for i in rows.e[row].nonzero()[:, 0].tolist():
        own = problem.preactivation(i)
        a = [v + w for v, w in zip(a, own.a, strict=True)]
        d, constant = list(own.d), own.constant
    ends = zip(rows.lo[row].tolist(), rows.hi[row].tolist(), strict=True)
    bounds = [(Fraction(p), Fraction(q)) for p, q in ends]
    return dual(problem, Form(a, d, Fraction(constant)), bounds, multiplier[row])


@pytest.mark.parametrize("activation", ["relu", "hard_tanh"])
@pytest.mark.parametrize("seed", range(3))
def test_bounds_are_those_of_the_matrices_and_never_above_the_exact_ones(
    seed: int, activation: str
) -> None:
    held = network(seed, activation, 2.0 ** (3 * seed - 3))  # nothing here needs it to contract
    rows, multiplier = forms(seed, held.states, held.inputs)
    own, plain = (Lagrangian.of(v) for v in (sealed(held), as_matrices(held)))
    pairs = zip(own.ascend(rows, multiplier), plain.ascend(rows, multiplier), strict=True)
    for found, other in pairs:
        assert torch.allclose(found, other, rtol=1e-10, atol=1e-9)
    value, below = own.value(rows, multiplier), own.below(rows, multiplier)
    assert torch.allclose(below, value, rtol=1e-9, atol=1e-9)
    for row, bound in enumerate(below.tolist()):
        assert Fraction(bound) <= truth(exact(held), rows, multiplier, row)


@pytest.mark.parametrize("which", ["W", "U"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_long_sums_that_always_round_the_same_way(which: str, sign: float) -> None:
    """An inner product of W^T or U^T of 60 terms, in a kernel, loses 30 units of rounding."""
    n = 60
    kernel = torch.zeros(n, n if which == "W" else 1, 1, 1).double()
    kernel[:-1, -1, 0, 0], kernel[0, -1] = -sign * 2.0**-54, sign
    square, one = Image(n, 1, 1), Image(1, 1, 1)
    A = Convolution(kernel, Geometry(square if which == "W" else one, Margins(0, 0, 0, 0)))
    W = A if which == "W" else Dense(torch.zeros(n, n).double())
    U = A if which == "U" else Dense(torch.zeros(n, 1).double())
    arrays = np.zeros(n), np.ones((1, n)), np.zeros(1)
    held = StoredNetwork.from_arrays(W, U, *arrays)
    zero, unit = (torch.full((1, k), float(v)).double() for k, v in ((n, 0), (1, 1)))
    ends = zero.clone()
    ends[0, -1] = 2.0**-20  # of the state that W drives: small, since its own roundings count too
    rows = Rows(zero, zero, 0 * unit, ends, ends, sign * unit, 0 * unit)
    [bound] = Lagrangian.of(held).below(rows, zero + 1).tolist()
    assert Fraction(bound) <= truth(exact(held), rows, zero + 1, 0)


def test_stages_are_the_layers_before_all_cycles_and_then_the_rest() -> None:
    """States 0 -> 1, 2 -> 3 <-> 4 -> 5, and 6 by itself; only a stage's bounds are its own."""
    W = torch.zeros(7, 7).double()
    for i, j in ((1, 0), (2, 0), (3, 2), (3, 1), (4, 3), (3, 4), (5, 4)):
        W[i, j] = 2.0**-70  # the product of a few of these is no number but 0
    W[0, 0] = 0.5  # no arrow to another state
    arrays = torch.zeros(7, 2).double(), torch.zeros(7), torch.ones(1, 7), torch.zeros(1)
    arrays[0][0] = 1
    for made in (Dense(W), Sealed(Dense(W))):
        lagrangian = Lagrangian.of(StoredNetwork.from_arrays(made, *arrays))
        neurons = [stage.neurons.tolist() for stage in lagrangian.stages]
        assert neurons == [[1, 2], [3, 4, 5]]
        assert [stage.known.tolist() for stage in lagrangian.stages] == [
            [0, 1, 2, 6],
            list(range(7)),
        ]


def layered(seed: int) -> StoredNetwork:
    """Layers of 3, 2 and 2 states, then 3 on cycles; W as part of a larger operator."""
    rng = np.random.default_rng(seed)
    keep = torch.tensor(rng.permutation(14)[:10])
    level = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 3])
    follows = (level[:, None] > level) | (level[:, None] == 3)
    full = drawn(rng, 14, 14)
    full[keep[:, None], keep] = torch.where(follows, drawn(rng, 10, 10, scale=0.25), 0)
    U = torch.where(level[:, None] == 0, drawn(rng, 10, 2), 0)
    rest = drawn(rng, 10), drawn(rng, 3, 10), drawn(rng, 3)
    return StoredNetwork.from_arrays(
        Part(Dense(full), keep, keep), U, *rest, eta=4.0 ** (level.numpy())
    )


def test_bounds_on_neurons_by_their_stage_are_those_by_the_whole() -> None:
    held = layered(0)
    lagrangian = Lagrangian.of(sealed(held))
    assert [len(stage.known) for stage in lagrangian.stages] == [5, 7, 10]
    rows, multiplier = forms(3, 10, 2, 6)
    for stage in lagrangian.stages:
        inside = torch.zeros(10).double()
        inside[stage.known] = 1
        whole = dataclasses.replace(rows, a=rows.a * inside, e=rows.e * inside)  # type: ignore[operator]
        known = stage.known
        own = dataclasses.replace(
            whole,
            a=whole.a[:, known],
            e=whole.e[:, known],  # type: ignore[index]
            lo=rows.lo[:, known],
            hi=rows.hi[:, known],
        )
        found = stage.lagrangian.below(own, multiplier[:, known])
        expected = lagrangian.below(whole, multiplier * inside)
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


METHODS: tuple[Any, ...] = (Dual(), Tightening(timeout=20.0), Complete(timeout=20.0))
NETWORKS = {"convolution": (network(4), 0.5, 2), "part": (layered(1), 1.0, 4)}


@cache
def truths(name: str) -> list[list[Fraction]]:
    held, half, count = NETWORKS[name]
    query = asked(held, half, count)
    ends = zip(query.box.lo.numpy(), query.box.hi.numpy(), strict=True)
    labels = held.predict(0.5 * (query.box.lo + query.box.hi)).argmax(1).tolist()
    return [least_margins(exact(held), box, y) for box, y in zip(ends, labels, strict=True)]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_matrix_is_formed_and_nothing_false_is_proved(
    method: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that cannot be split have no programme here."""
    monkeypatch.setattr(sample, "MOST_STATES", 0)
    held, half, count = NETWORKS[name]
    query = asked(held, half, count)
    answer = method.answer(sealed(held), query)
    check_bounds(answer, truths(name))
    plain = Interval().answer(held, query)
    assert bool((answer.lower >= plain.lower).all())
    assert float((answer.lower - plain.lower).max()) > 1e-3
    assert torch.equal(answer.holds, method.answer(as_one_block(as_matrices(held)), query).holds)
    if isinstance(method, Complete):
        assert answer.holds.tolist() == [min(least) > 0 for least in truths(name)]


def test_a_tie_beyond_the_size_of_programmes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """z = |x| - x and its negative: the least margin over [-1, 1] is exactly 0, after a split."""
    W, U = np.zeros((2, 2)), np.array([[1.0], [-1.0]])
    C = np.array([[1.0, 1.0], [0.0, 0.0]])
    held = StoredNetwork.from_arrays(W, U, np.zeros(2), C, np.zeros(2), eta=np.ones(2))
    centre = torch.zeros(1, 1).double()
    box = Box(centre - 1, centre + 1)
    query = Query.of_margins(box, torch.tensor([0]), 2, centre, box)
    reasons = []
    for most in (2, 1):
        monkeypatch.setattr(sample, "MOST_STATES", most)
        reasons += Complete(timeout=20.0).answer(held, query).reasons
    assert reasons == ["tie", "size"]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_what_float32_does_not_hold_costs_no_more_than_the_ascent(activation: str) -> None:
    """Proposals are made in float32; weights beyond it leave the bound of the multiplier 0."""
    held = network(5, activation)
    far = held.b.clone()
    far[3] = -1e60
    held = sealed(dataclasses.replace(held, b=far))
    query = asked(held, 0.25)
    found, plain = (method.answer(held, query) for method in (Dual(), Interval()))
    assert bool((found.lower >= plain.lower).all())
    assert not bool(found.lower.isnan().any())


@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.125)", "hard_tanh", "tanh"])
def test_proposals_in_float32_are_as_good(activation: str) -> None:
    held = network(6, activation)
    rows, _ = forms(6, held.states, held.inputs, 8)
    single, double = (Lagrangian.of(v) for v in (held, as_one_block(as_matrices(held))))
    assert single.proposing.b.dtype == torch.float32
    vars(double)["proposing"] = double
    found = []
    for lagrangian in (single, double):
        start = adjoint_start(lagrangian, rows)
        value, multiplier, x = Ascent(60).run(lagrangian, rows, start)
        assert value.dtype == multiplier.dtype == x.dtype == torch.float64
        assert bool((value >= start[0]).all())
        found.append(double.below(rows, multiplier))
        assert torch.allclose(found[-1], value, rtol=1e-4, atol=1e-3)
    assert float((found[0] - found[1]).mean()) > -0.02 * float(found[1].abs().mean())


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_sensitivity_beyond_the_size_of_inverses(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = network(7, activation)
    query = asked(held, 0.25)
    expected = zeta_bound(held, torch.full((1, held.inputs), 0.25).double())
    plain = Lipschitz().answer(held, query)
    monkeypatch.setattr(lipschitz, "MOST_INVERTED", 0)
    found = zeta_bound(sealed(held), torch.full((1, held.inputs), 0.25).double())
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)
    answer = Lipschitz().answer(sealed(held), query)
    assert bool(answer.state.proved.all())
    assert torch.allclose(answer.lower, plain.lower, rtol=1e-6, atol=1e-6)
