"""Ellipsoids of monotone networks: exact inequalities, and how good they are."""

from __future__ import annotations

import dataclasses
import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import exact
from equicert.bounds import Spectral
from equicert.bounds import ellipsoid as module
from equicert.bounds.ball import monotone_proofs
from equicert.bounds.ellipsoid import Ellipsoid
from equicert.bounds.lmi import lmi_bound
from equicert.boxes import Box
from equicert.certification import certify
from equicert.monotonicity import lambda_norm_above
from equicert.queries import Query
from equicert.stored import StoredNetwork
from monotone_networks import MONOTONE, STIFF, monotone_networks, monotone_weight, stored
from networks import Array, Network

TABLE = pytest.mark.parametrize("net", [*MONOTONE.values(), *STIFF.values()], ids=str)


def ellipsoid_of(net: Network) -> Ellipsoid:
    network = stored(net)
    return Ellipsoid.of(network, network.monotone)


def length_of(half: Tensor) -> Tensor:
    return lambda_norm_above(half, torch.ones(half.shape[1]))


def transposed(A: Any) -> Any:
    return [list(column) for column in zip(*A, strict=True)]


def exact_gram(A: Any) -> Any:
    return [[exact.dot(p, q) for q in A] for p in A]


def symmetric_part(net: Network, Lambda: Any) -> Any:
    W, n = exact.to_fractions(net.W), net.states
    scaled = [[Lambda[i] * (Fraction(i == j) - W[i][j]) for j in range(n)] for i in range(n)]
    return [[(scaled[i][j] + scaled[j][i]) / 2 for j in range(n)] for i in range(n)]


def driven_exactly(net: Network, found: Ellipsoid) -> Any:
    """`R^-T Lambda U`."""
    Lambda, U = exact.to_fractions(found.Lambda), exact.to_fractions(net.U)
    target = [[weight * u for u in row] for weight, row in zip(Lambda, U, strict=True)]
    solved = exact.solve(exact.to_fractions(found.factor), target)
    assert solved is not None
    return solved


def assert_holds_exactly(net: Network) -> None:
    """What the attributes say, and the bounds at every vertex of a box."""
    found = ellipsoid_of(net)
    n, Lambda = net.states, exact.to_fractions(found.Lambda)
    growth, root, slack = (Fraction(float(t)) for t in (found.growth, found.root, found.slack))
    H, product = symmetric_part(net, Lambda), exact_gram(exact.to_fractions(found.factor))
    square = [[growth * H[i][j] - product[i][j] for j in range(n)] for i in range(n)]
    assert exact.is_semidefinite(square)
    floor = [[product[i][j] - (i == j) * root**2 * Lambda[i] for j in range(n)] for i in range(n)]
    assert root > 0
    assert exact.is_semidefinite(floor)
    Y, s = exact.to_fractions(found.Y), exact.to_fractions(found.s)
    gram = exact_gram(Y)
    assert exact.is_semidefinite(
        [[(i == j) * s[i] - gram[i][j] for j in range(n)] for i in range(n)]
    )
    true = driven_exactly(net, found)
    missed = [a - b for p, q in zip(true, Y, strict=True) for a, b in zip(p, q, strict=True)]
    assert sum(entry**2 for entry in missed) <= slack**2
    half = torch.linspace(0.5, 0.1, net.inputs)[None]
    driven = Fraction(float(found.driven(half, length_of(half))))
    for signs in itertools.product((-1, 1), repeat=net.inputs):
        delta = [sign * Fraction(h) for sign, h in zip(signs, half[0].tolist(), strict=True)]
        assert sum(exact.dot(row, delta) ** 2 for row in true) <= driven**2


@TABLE
def test_the_inequalities_hold_exactly(net: Network) -> None:
    assert_holds_exactly(net)


@settings(max_examples=30)
@given(monotone_networks())
def test_the_inequalities_hold_exactly_of_any_network(net: Network) -> None:
    assert_holds_exactly(net)


@TABLE
def test_a_bad_factor_is_paid_for(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is proposed, what is stated of it holds: the proposal is not believed."""
    propose = module._turned_factor
    for share in (1 - 1e-6, 1 + 1e-6):

        def scaled(B: Tensor, driven: Tensor, share: float = share) -> Tensor:
            return share * propose(B, driven)

        monkeypatch.setattr(module, "_turned_factor", scaled)
        assert_holds_exactly(net)


@pytest.mark.parametrize("share", [0.0, 2.0, math.nan, math.inf])
def test_a_useless_factor_proves_nothing(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(B: Tensor, _: Tensor) -> Tensor:
        return share * torch.eye(len(B))

    monkeypatch.setattr(module, "_turned_factor", wrong)
    net = MONOTONE["lben"]
    found, half = ellipsoid_of(net), torch.ones(1, net.inputs)
    driven = found.driven(half, length_of(half))
    w = torch.ones(1, net.states)
    lost = found.lost(w, 0 * w, half, length_of(half), driven)
    assert not bool((found.reach(driven) < math.inf).any() | (lost < math.inf).any())
    # The ball is left, which needs no factor.
    x = torch.zeros(1, net.inputs)
    label = int(stored(net).predict(x).argmax())
    assert certify(stored(net), x, label, 1e-4, method=Spectral())[0].status == "certified"


@settings(max_examples=30)
@given(monotone_networks(max_states=4), st.integers(0, 1000))
def test_the_gain_is_the_least_upper_bound(net: Network, seed: int) -> None:
    """`(||v|| ||Y delta|| + v^T Y delta) / 2` never exceeds it on the unit ball, and attains it."""
    found = ellipsoid_of(net)
    random = torch.Generator().manual_seed(seed)
    v = torch.randn(2, net.states, generator=random)
    delta = torch.randn(4000, net.inputs, generator=random)
    angle = torch.linspace(0, 2 * math.pi, 4000)
    if net.inputs == 2:
        delta = torch.stack([angle.cos(), angle.sin()], 1)
    delta = delta / torch.linalg.vector_norm(delta, dim=1, keepdim=True)
    y = delta @ found.Y.mT  # (4000, n)
    size, length = (torch.linalg.vector_norm(t, dim=1) for t in (v, y))
    attained = (0.5 * (size * length[:, None] + y @ v.mT)).amax(0)  # (2,)
    gains = found._gains(v)
    assert bool((attained <= gains * (1 + 1e-12) + 1e-12).all())
    assert bool((gains <= attained * (1 + 2e-3) + 1e-9).all())


def ball_bound(network: StoredNetwork, w: Tensor, half: Tensor) -> Tensor:
    """`(||w||_{Lambda^-1} ||U delta||_Lambda + |U^T w| |delta|) / (2 m)`, in floating point."""
    Lambda, m, U = network.monotone.Lambda, network.monotone.m, network.U.dense()
    entrywise = torch.linalg.vector_norm((half @ U.abs().mT) * Lambda.sqrt(), dim=1)
    whole = torch.linalg.matrix_norm(Lambda.sqrt()[:, None] * U, 2)
    driven = torch.minimum(entrywise, whole * torch.linalg.vector_norm(half, dim=1))
    crude = torch.linalg.vector_norm(w * Lambda.rsqrt(), dim=1) * driven[:, None]
    return torch.minimum(crude, 0.5 * (crude + half @ (w @ U).abs().mT)) / m


@settings(max_examples=40)
@given(monotone_networks(max_states=4), st.floats(1e-3, 1), st.integers(0, 1000))
def test_never_below_the_ball_nor_the_matrix_inequality(
    net: Network, width: float, seed: int
) -> None:
    """Per margin: the bound of [R20] with that margin as the only output, times the radius."""
    network = stored(net)
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(2, net.inputs, generator=random)
    half = width * torch.rand(2, net.inputs, generator=random)
    labels = torch.zeros(2, dtype=torch.int64)
    query = Query.of_margins(Box(x - half, x + half), labels, net.outputs, x)
    answer = Spectral(max_steps=500).answer(network, query)
    rows = query.forms[0].A
    still = network.solve(x, 1e-9, 500)
    if not bool(still.converged.all() & answer.state.proved.all()):
        return
    y = still.value @ (rows @ network.C).mT + rows @ network.c
    w = rows @ network.C
    atol = 1e-6 * (1 + w.abs().sum(1))
    slack = atol + 1e-6 * ball_bound(network, w, half)
    assert bool((answer.lower >= y - ball_bound(network, w, half) - slack).all())
    for column, form in enumerate(w):
        one = dataclasses.replace(network, C=form[None], c=torch.zeros(1))
        lost = lmi_bound(one) * torch.linalg.vector_norm(half, dim=1)
        least = y[:, column] - lost * (1 + 1e-6) - atol[column]
        assert bool((answer.lower[:, column] >= least).all())


def test_a_prescribed_lipschitz_bound_is_felt() -> None:
    """An LBEN with bound 1: m Lambda in the place of H knows little of it, the ellipsoid all."""
    rng = np.random.default_rng(3)
    n, r, q = 12, 6, 3
    U, C = 5 * rng.normal(size=(n, r)), 5 * rng.normal(size=(q, n))
    root: Array = np.linalg.cholesky((C.T @ C + U @ U.T) / 2 + 1e-9 * np.eye(n)).T.astype(float)
    W = monotone_weight(root, rng.normal(size=(n, n)), 0.1, np.ones(n))
    network = StoredNetwork.from_arrays(W, U, np.zeros(n), C, np.zeros(q), "relu")
    assert lmi_bound(network) <= 1 + 1e-6
    x, half = torch.randn(4, r), torch.full((4, r), 0.01)
    labels = torch.zeros(4, dtype=torch.int64)
    query = Query.of_margins(Box(x - half, x + half), labels, q, x)
    y = network.predict(x)
    lost = y[:, :1] - y[:, 1:] - Spectral().answer(network, query).lower
    assert bool((lost <= math.sqrt(2) * 0.01 * math.sqrt(r) * (1 + 1e-6) + 1e-6).all())
    ball = ball_bound(network, query.forms[0].A @ network.C, half)
    assert bool((lost < 0.1 * ball).all())


# Awkward networks.


@pytest.mark.parametrize(("U", "C"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1e-200, 1e200)])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_networks_that_lose_nothing(U: float, C: float, batch: int) -> None:
    net = MONOTONE["monotone"]
    network = StoredNetwork.from_arrays(net.W, U * net.U, net.b, C * net.C, net.c)
    x = torch.zeros(batch, net.inputs)
    query = Query.of_outputs(Box(x - 1, x + 1), net.outputs)
    lower = Spectral().answer(network, query).lower
    y = network.predict(x)
    size = 1e-6 * max(C, 1.0)
    assert lower.shape == (batch, 2 * net.outputs)
    assert bool((lower <= torch.cat([y, -y], 1) + size).all())
    assert bool((lower >= torch.cat([y, -y], 1) - size).all())


@pytest.mark.parametrize("size", [1e-200, 1e-300, 1e160, 1e200, 1e300])
@pytest.mark.parametrize("which", ["U", "C", "W", "half"])
def test_extreme_entries_end_in_a_true_bound(size: float, which: str) -> None:
    net = MONOTONE["rotation"]
    arrays = {"W": -np.eye(2), "U": net.U, "b": net.b, "C": net.C, "c": net.c}
    if which in arrays:
        arrays[which] = size * arrays[which]
    network = StoredNetwork.from_arrays(**arrays)
    x = torch.zeros(1, net.inputs)
    half = torch.full_like(x, min(size, 1e300) if which == "half" else 0.1)
    answer = Spectral(max_steps=200).answer(network, Query.of_outputs(Box(x - half, x + half), 3))
    assert not bool(answer.lower.isnan().any())
    still = network.solve(x, 1e-6, 2000)
    if bool(still.converged.all()):
        y = still.value @ network.C.mT + network.c
        assert bool((answer.lower[:, :3] <= y + 1e-6 * y.abs() + 1e-3).all())


def test_every_lambda_that_is_proved_counts() -> None:
    """Where Lambda = 1 serves as well, the hint is tried beside it; a false one is not."""
    net = MONOTONE["lben"]
    network = stored(net)
    without = stored(net, hint=False)
    first, *others = monotone_proofs(network)
    assert first.plain
    assert len(others) == 1
    assert len(monotone_proofs(without)) == 1
    assert len(monotone_proofs(dataclasses.replace(network, Lambda=torch.ones(3)))) == 1
    assert len(monotone_proofs(dataclasses.replace(network, Lambda=-torch.ones(3)))) == 1
    x = torch.zeros(1, net.inputs)
    query = Query.of_outputs(Box(x - 0.1, x + 0.1), net.outputs)
    bounds = [Spectral().answer(which, query).lower for which in (network, without)]
    assert bool((bounds[0] >= bounds[1] - 1e-12).all())
