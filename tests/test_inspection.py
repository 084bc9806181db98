"""What `inspect` says holds, held against definitions and against sampled behaviour."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from equicert.inspection import Inspection, inspect_network
from equicert.stored import StoredNetwork
from networks import random_network


def _inspect(seed: int, gamma: float) -> tuple[StoredNetwork, Inspection]:
    rng = np.random.default_rng(seed)
    made = random_network(rng, 5, 2, 3, gamma)
    network = StoredNetwork.from_arrays(made.W, made.U, made.b, made.C, made.c, made.activation)
    return network, inspect_network(network)


@given(st.integers(0, 10_000), st.floats(-3, 0.95))
def test_conditions_are_the_quantities_they_name(seed: int, gamma: float) -> None:
    network, found = _inspect(seed, gamma)
    W = network.W.dense().numpy()
    value = {c.name: c.value for c in found.conditions}
    assert np.isclose(value["mu_2(W)"], np.linalg.eigvalsh((W + W.T) / 2).max())
    assert np.isclose(value["lambda_pf(|W|)"], np.abs(np.linalg.eigvals(np.abs(W))).max())
    assert np.isclose(value["||W||_inf"], np.abs(W).sum(1).max())
    best = next(c for c in found.conditions if "best eta" in c.name)
    assert best.proved
    assert value["spectral abscissa of the majorant"] <= best.value + 1e-9 < 1


@given(st.integers(0, 10_000), st.floats(-3, 0.9))
def test_lipschitz_bounds_exceed_sampled_quotients(seed: int, gamma: float) -> None:
    network, found = _inspect(seed, gamma)
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    step = 1e-3 * torch.randn(40, 2, dtype=torch.float64)
    change = (network.predict(x + step, 1e-12) - network.predict(x, 1e-12)).abs().amax(1)
    quotient = float((change / step.abs().amax(1)).max())
    assert len(found.lipschitz) == 2
    assert all(bound >= quotient * (1 - 1e-6) for bound in found.lipschitz.values())


def test_a_network_that_is_not_contracting_has_no_bounds() -> None:
    W = np.array([[0.0, 2.0], [2.0, 0.0]])
    ones = np.ones((2, 1))
    network = StoredNetwork.from_arrays(W, ones, ones[:, 0], ones.T, ones[0])
    found = inspect_network(network)
    assert found.lipschitz == {}
    assert found.eta_ratio is None
    assert not any(c.holds for c in found.conditions if "best eta" in c.name)


def test_a_stored_eta_is_reported_but_not_believed() -> None:
    W = np.array([[0.0, 4.0], [0.1, 0.0]])
    ones = np.ones((2, 1))
    bad, good = np.array([1.0, 1.0]), np.array([2.0, 0.3])
    for eta, holds in ((bad, False), (good, True)):
        network = StoredNetwork.from_arrays(W, ones, ones[:, 0], ones.T, ones[0], eta=eta)
        found = {c.name: c for c in inspect_network(network).conditions}
        assert found["mu_{inf,[eta]^-1}(W) at the stored eta"].holds == holds
        assert found["mu_{inf,[eta]^-1}(W) at the best eta"].proved
