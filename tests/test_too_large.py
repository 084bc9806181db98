"""W with structure and too many states to factorise: what takes no matrix, against what does.

Small networks are too large here, in blocks: the truth about them is known.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import exact
import networks
from command import run
from equicert.bounds import Interval, SignSplit
from equicert.boxes import Box
from equicert.conditions import Condition, five_conditions
from equicert.contraction import Contraction, prove_contraction
from equicert.errors import NotContractingError, TooLargeError
from equicert.inspection import inspect_network
from equicert.lipschitz_below import jacobian, jacobian_by_solves
from equicert.models import save_model
from equicert.operators import Convolution, Dense, Geometry, Image, Margins, dense
from equicert.stored import StoredNetwork
from networks import CONTRACTING, HAIRLINE, NOT_CONTRACTING, Array, Network
from searches import as_one_block
from test_contraction import check, check_beside_1
from test_inspection import (
    EVERY,
    check_truth,
    on_a_grid,
    stored,
    truth_below_one,
    with_weight,
)

few = settings(max_examples=25)
IMAGE = Geometry(Image(1, 2, 2), Margins(1, 1, 1, 1))


@contextmanager
def at_most(states: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "_MOST", states)
        yield


def attempt(W: Array, hint: Array | None = None) -> Contraction | None:
    given = as_one_block(with_weight(W)).W
    with at_most(0):
        try:
            return prove_contraction(given, None if hint is None else torch.tensor(hint))
        except NotContractingError:
            return None


# Proofs of contraction.


@pytest.mark.parametrize("net", CONTRACTING.values(), ids=str)
def test_contracting_networks_are_proved_without_a_hint(net: Network) -> None:
    found = attempt(net.W)
    assert found is not None
    check(net.W, found)


@pytest.mark.parametrize("net", NOT_CONTRACTING.values(), ids=str)
def test_others_are_refused(net: Network) -> None:
    given = as_one_block(stored(net)).W
    with at_most(0), pytest.raises(NotContractingError, match="eta found by products") as caught:
        prove_contraction(given, torch.linspace(1.0, 2.0, net.states))
    assert not caught.value.mu < 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("net", HAIRLINE.values(), ids=str)
def test_one_unit_beside_1_is_never_decided_wrongly(net: Network) -> None:
    check_beside_1(net, attempt(net.W))


@given(on_a_grid, st.sampled_from([0.0, 2.0**-53, -(2.0**-53), 1e-9, -1e-9]))
def test_a_proof_is_never_wrong(W: Array, shift: float) -> None:
    W = W + shift * np.eye(len(W))
    found = attempt(W)
    if found is not None:
        check(W, found)
    else:  # a thousand products find what is not within a hundredth of 1
        assert not exact.exact_abscissa_below_one(W + 0.01 * np.eye(len(W)))


@given(networks.contracting_networks())
def test_a_stored_eta_is_tried_first(net: Network) -> None:
    found = attempt(net.W, net.eta)
    assert found is not None
    assert net.eta is not None
    check(net.W, found)
    if exact.measure(net.W, net.eta) < 1 - 1e-12:
        assert torch.equal(found.eta, torch.tensor(net.eta))


def test_a_thousand_products_may_miss_what_a_stored_eta_proves() -> None:
    eta = np.array([1.0, 32.0, 1.0])
    W = 0.9995 * np.roll(np.eye(3), 1, 0) * eta[:, None] / eta
    assert attempt(W) is None
    network = dataclasses.replace(as_one_block(with_weight(W)), eta=torch.tensor(eta))
    with at_most(0):
        assert five_conditions(network)[0].verdict == "holds"
        assert network.contraction.mu < 1


# The five conditions.


def conditions(network: StoredNetwork) -> tuple[Condition, ...]:
    held = as_one_block(network)
    with at_most(0):
        return five_conditions(held)


def check_conditions(W: Array) -> None:
    if len(W) == 1:  # which Lanczos' method does not take
        W = W[0, 0] * np.eye(2)
    found = conditions(with_weight(W))
    check_truth(W, found)
    for condition in found[:4]:
        if condition.verdict != "undecided":
            assert condition.verdict == ("holds" if condition.value < 1 else "fails")
    mu, rows, radius, mu_2, lben = found
    size, clear = np.abs(W), 0.02 * np.eye(len(W))
    if not 0.98 < size.sum(1).max() < 1.02:
        assert rows.verdict != "undecided"
    if truth_below_one(W + clear)["mu_{inf,[eta]^-1}(W) at the best eta"]:
        assert mu.verdict == lben.verdict == "holds"
    if truth_below_one(size + clear)["lambda_pf(|W|)"]:
        assert radius.verdict == "holds"
    if np.linalg.eigvalsh((W + W.T) / 2).max() > 1 + 1e-6:
        assert mu_2.verdict == "fails"


@few
@given(on_a_grid, st.sampled_from([0.0, 2.0**-53, -(2.0**-53), 1e-9, -1e-9]))
def test_a_verdict_is_never_wrong(W: Array, shift: float) -> None:
    check_conditions(W + shift * np.eye(len(W)))


@pytest.mark.parametrize("net", EVERY, ids=lambda net: net.name)
def test_verdicts_on_awkward_networks(net: Network) -> None:
    check_conditions(net.W)


@few
@given(st.integers(0, 10_000), st.floats(1.5, 4.0))
def test_a_kernel_hides_no_eigenvalue(seed: int, radius: float) -> None:
    """Rows of W + W^T that add up to 0, so that no iteration gets away from 1."""
    W = np.random.default_rng(seed).normal(size=(5, 5))
    W = (W + W.T) / 2
    W -= np.diag(W.sum(1))
    W *= radius / np.abs(np.linalg.eigvalsh(W)).max()
    if np.linalg.eigvalsh(W).max() > 1 + 1e-6:
        assert conditions(with_weight(W))[3].verdict == "fails"


@few
@given(st.integers(0, 10_000), st.floats(1.5, 4.0))
def test_positive_matrices_are_refuted_by_their_perron_vector(seed: int, radius: float) -> None:
    W = np.random.default_rng(seed).uniform(0.1, 1.0, (6, 6))
    W *= radius / np.abs(np.linalg.eigvals(W)).max()
    found = conditions(with_weight(W))
    assert [condition.verdict for condition in found[:3]] == ["fails"] * 3
    for condition in (found[0], found[2]):
        assert condition.value == pytest.approx(radius, rel=1e-6)


# What `inspect` says of such a network.


@few
@given(st.integers(0, 10_000), st.sampled_from(["relu", "tanh", "leaky_relu(0.1)", "softplus"]))
def test_jacobians_by_solves_are_those_by_factorising(seed: int, activation: str) -> None:
    net = networks.random_network(np.random.default_rng(seed), 6, 3, 4, 0.5, activation=activation)
    network = stored(net)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed))
    z = network.solve(x, 1e-13).value
    J, found = jacobian(network, x, z), jacobian_by_solves(as_one_block(network), x, z)
    torch.testing.assert_close(found, J, rtol=1e-6, atol=1e-7 * float(J.abs().amax()))


@pytest.mark.parametrize("net", [net for net in EVERY if net.states > 1], ids=str)
def test_every_network_is_inspected(net: Network) -> None:
    network = as_one_block(stored(net))
    plain = inspect_network(stored(net))
    with at_most(0):
        found = inspect_network(dataclasses.replace(network))
    json.dumps(found.to_mapping(), allow_nan=False)
    assert found.abscissa is found.modulus is None
    assert found.lipschitz_l2 == {}
    for one, other in zip(found.conditions, plain.conditions, strict=True):
        assert one.name == other.name
        assert {one.verdict, other.verdict} != {"holds", "fails"}
    if found.eta_ratio is not None:
        derived = next(iter(plain.lipschitz.values()), None)
        if derived is not None and found.lipschitz:
            assert next(iter(found.lipschitz.values())) == pytest.approx(derived, rel=1e-2)


def convolved(scale: float = 0.05) -> StoredNetwork:
    random = torch.Generator().manual_seed(0)
    kernel = scale * torch.randn(1, 1, 3, 3, generator=random, dtype=torch.float64)
    U, C = (torch.randn(shape, generator=random) for shape in ((4, 2), (3, 4)))
    b, c = torch.ones(4), torch.zeros(3)
    return StoredNetwork.from_arrays(Convolution(kernel, IMAGE), U, b, C, c, eta=torch.ones(4))


def test_what_takes_a_matrix_says_so_and_what_takes_none_answers() -> None:
    """Where W has structure; it is what it is where it is stored as a matrix."""
    network, box = convolved(), Box.around(torch.zeros(1, 2), 0.1)
    matrix = dataclasses.replace(network, W=Dense(network.W.dense()))
    with at_most(3):
        for ask in (
            lambda network: network.monotone,
            lambda network: SignSplit().state_box(network, box),
        ):
            with pytest.raises(TooLargeError, match=r"matrix of 4 x 4.* more than 3 states"):
                ask(network)
            ask(matrix)
        assert Interval().state_box(network, box).proved.tolist() == [True]
        with pytest.raises(
            NotContractingError, match="not monotone either: it has 4 states, more than"
        ):
            _ = convolved(9.0).well_posed


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "m.safetensors", convolved())
    save_model(tmp_path / "loose.safetensors", convolved(9.0))
    x, y = np.zeros((3, 2)), np.zeros(3, dtype=np.int64)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    model, data = str(tmp_path / "m.safetensors"), ["--data", str(tmp_path / "data.npz")]
    with at_most(3):
        assert run("inspect", model) == 0
        said = capsys.readouterr().out
        assert "Jacobians in floats" in " ".join(said.split())
        assert "spectral abscissa" not in said
        assert run("inspect", str(tmp_path / "loose.safetensors")) == 0
        assert "not computed" in capsys.readouterr().out
        assert run("compare", model, *data, "--eps", "0.1") == 0
        said = " ".join(capsys.readouterr().out.split())
    assert "it has 4 states, more than the 3 that are" in said
