"""MON and LBEN: their conditions hold after any optimiser steps, and what they refuse."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import exact
from equicert.bounds.lmi import lmi_bound
from equicert.bounds.spectral import spectral_bound
from equicert.cli import main
from equicert.data import load_data
from equicert.errors import ConfigError, ModelError, NotContractingError, NotMonotoneError
from equicert.inspection import inspect_network
from equicert.models import load_model, save_model
from equicert.network import ImplicitNetwork
from equicert.norms import spectral_measure
from equicert.schedules import TrainConfig
from equicert.solvers import ForwardBackward, PeacemanRachford
from equicert.training import Trainer
from equicert.weights import LBEN, Monotone, Weight
from monotone_networks import MONOTONE, stored

KINDS = ("monotone", "lben", "prescribed")


def weight(kind: str, n: int, m: float) -> Weight:
    if kind == "monotone":
        return Monotone(n, m)
    return LBEN(n, m, lipschitz=0.5 if kind == "prescribed" else None)


def stepped(kind: str, n: int, m: float, seed: int, rate: float = 0.5) -> ImplicitNetwork:
    """A network after a few steps of an optimiser on a random objective."""
    torch.manual_seed(seed)
    network = ImplicitNetwork(3, n, 2, weight=weight(kind, n, m), max_steps=4000)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    target = torch.randn(8, 2)
    x = torch.randn(8, 3)
    for _ in range(3):
        optimiser.zero_grad()
        (network(x) - target).square().sum().backward()
        optimiser.step()
    return network


@settings(max_examples=20)
@given(st.sampled_from(KINDS), st.integers(1, 4), st.floats(0.5, 10), st.integers(0, 1000))
def test_the_condition_holds_after_any_steps(kind: str, n: int, m: float, seed: int) -> None:
    network = stepped(kind, n, m, seed)
    proof = network.store().monotone
    W = network.materialise().W.dense().detach()
    assert exact.is_monotone(W, proof.Lambda, proof.m)
    at = network.materialise().splitting.proof
    assert at.m >= m * (1 - 1e-9)
    assert exact.is_monotone(W, at.Lambda, at.m)
    if kind == "monotone":
        assert float(spectral_measure(W)) <= 1 - m + 1e-9


@settings(max_examples=15)
@given(st.integers(1, 4), st.floats(0.5, 4), st.integers(0, 1000))
def test_a_prescribed_bound_holds_for_sampled_quotients(n: int, m: float, seed: int) -> None:
    network = stepped("prescribed", n, m, seed).store()
    random = torch.Generator().manual_seed(seed)
    x, step = (torch.randn(60, 3, generator=random, dtype=torch.float64) for _ in range(2))
    change = network.predict(x + step, 1e-9) - network.predict(x, 1e-9)
    quotients = torch.linalg.vector_norm(change, dim=1) / torch.linalg.vector_norm(step, dim=1)
    assert float(quotients.max()) <= 0.5 + 1e-6
    assert float(quotients.max()) <= spectral_bound(network) + 1e-6
    assert float(quotients.max()) <= lmi_bound(network) + 1e-6
    assert lmi_bound(network) <= 0.55  # the scales tried are not all of them


def test_lben_reaches_networks_that_mon_cannot() -> None:
    """Fact 13: LBEN does not imply mu_2 < 1."""
    torch.manual_seed(1)
    made = LBEN(5, 0.5)
    with torch.no_grad():
        made.log_Lambda.copy_(torch.linspace(-4, 4, 5))
        made.S.mul_(8)
    W = made().detach()
    assert float(spectral_measure(W.dense())) > 1
    assert made.proof(W).m == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [0.0, -1.0, np.nan, np.inf])
def test_a_modulus_that_is_none_is_refused(kind: str, m: float) -> None:
    with pytest.raises(ConfigError, match="m must be finite and positive"):
        weight(kind, 3, m)


@pytest.mark.parametrize("bound", [0.0, -2.0, np.nan, np.inf])
def test_an_infeasible_prescription_is_refused(bound: float) -> None:
    with pytest.raises(ConfigError, match="infeasible"):
        LBEN(3, lipschitz=bound)


def test_no_states_and_no_maps_are_refused() -> None:
    for kind in (Monotone, LBEN):
        with pytest.raises(ConfigError, match="at least one"):
            kind(0)
    with pytest.raises(ConfigError, match="given"):
        LBEN(2, lipschitz=1.0)()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind: str) -> None:
    network = stepped(kind, 4, 1.0, 0, 0.01)
    network.zero_grad()
    network(torch.randn(5, 3)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool((parameter.grad != 0).any()), name


def test_a_copy_of_a_prescribed_network_depends_on_its_own_maps() -> None:
    network = stepped("prescribed", 3, 1.0, 4, 0.01)
    other = copy.deepcopy(network)
    before = network.materialise().W.dense().detach().clone()
    with torch.no_grad():
        other.C.mul_(3)
    assert torch.equal(network.materialise().W.dense(), before)
    assert not torch.allclose(other.materialise().W.dense(), before)


def test_default_solvers_and_bounds_of_boxes() -> None:
    network = ImplicitNetwork(3, 4, 2, weight=Monotone(4))
    assert network.solver == PeacemanRachford()
    with torch.no_grad():  # it contracts as well: then even boxes have a fixed point
        network.weight.get_parameter("A").mul_(0.01)
        network.weight.get_parameter("B").mul_(0.01)
    x = torch.rand(2, 3)
    lo, hi = network.reach(x - 0.1, x + 0.1)
    z = network.state(x, network.materialise())
    assert bool(((lo <= z + 1e-3) & (z <= hi + 1e-3)).all())
    with torch.no_grad():
        network.weight.get_parameter("B").copy_(torch.randn(4, 4) * 10)
    with pytest.raises(NotContractingError):
        network.reach(x - 0.1, x + 0.1)


# Files and training.


def test_lambda_survives_a_file_and_is_not_believed(tmp_path: Path) -> None:
    network = stored(MONOTONE["mu_2 above 1"])
    save_model(tmp_path / "model.safetensors", network)
    again = load_model(tmp_path / "model.safetensors")
    assert again.Lambda is not None
    assert again.monotone.m == network.monotone.m
    arrays: dict[str, Any] = dict(zip("WUbCc", MONOTONE["mu_2 above 1"].arrays, strict=True))
    np.savez(tmp_path / "lying.npz", **arrays, Lambda=np.array([400.0, 1.0]), activation="relu")
    lying = load_model(tmp_path / "lying.npz")
    with pytest.raises(NotMonotoneError):
        _ = lying.monotone
    assert inspect_network(lying).modulus == pytest.approx(1)  # at another Lambda, which it finds
    np.savez(tmp_path / "nan.npz", **arrays, Lambda=np.array([np.nan, 1.0]), activation="relu")
    with pytest.raises(ModelError, match="Lambda has a NaN"):
        load_model(tmp_path / "nan.npz")


@pytest.mark.parametrize("weights", ["monotone", "lben"])
@pytest.mark.parametrize("solver", ["default", "forward_backward"])
def test_training_learns_and_its_certificates_hold(weights: str, solver: str) -> None:
    recipe = {"hidden": 10, "epochs": 3, "kappa": 0, "learning_rate": 1e-2, "eps": 0.01}
    config = TrainConfig.from_mapping({**recipe, "weights": weights, "solver": solver})
    trained = Trainer(load_data("digits"), config).run()
    last = trained.metrics[-1]
    assert last["clean_accuracy"] > 0.6
    assert 0 < last["certified_accuracy"] <= last["clean_accuracy"]
    assert last["m"] == trained.network.monotone.m
    if weights == "monotone":  # lben's promise is at its own Lambda, which is tried after 1
        assert last["m"] >= 1 - 1e-3


def test_the_commands_train_certify_and_inspect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    train = "train --data digits --weights lben --m 2 --kappa 0 --epochs 1 --hidden 8 --eps 0.01"
    main([*train.split(), "--out", out])
    model = f"{out}/model.safetensors"
    assert load_model(model).Lambda is not None
    main(
        [
            "certify",
            model,
            *["--data", "digits", "--method", "spectral", "--eps", "0.001", "--limit", "20"],
        ]
    )
    main(
        [
            "attack",
            model,
            *["--data", "digits", "--attack", "fgsm", "--eps", "0.001", "--limit", "20"],
        ]
    )
    capsys.readouterr()
    main(["inspect", model])
    assert "monotone, proved: m" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"weights": "monotone"}, "set recipe to inclusion and kappa to 0"),
        ({"weights": "lben", "recipe": "lipschitz"}, "set recipe to inclusion and kappa to 0"),
        ({"weights": "lben", "kappa": 0, "m": 0.0}, "m must be"),
        ({"weights": "monotone", "kappa": 0, "solver": "picard"}, "does not solve monotone"),
        ({"solver": "forward_backward"}, "does not solve contracting"),
        ({"prescribed_lipschitz": 1.0}, "belongs to weights 'lben', not to"),
        ({"weights": "lben", "kappa": 0, "prescribed_lipschitz": -1.0}, "prescribed_lipschitz"),
        ({"weights": "mon"}, "weights must be one of"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TrainConfig.from_mapping(chosen)
    assert "\n" not in str(caught.value)


def test_inspection_has_the_numbers_of_the_proof() -> None:
    found = inspect_network(stored(MONOTONE["rotation"]))
    assert found.modulus == pytest.approx(1)
    assert found.Lambda_ratio == 1
    bounds = sorted(found.lipschitz_l2.values())
    assert bounds[1] == pytest.approx(spectral_bound(stored(MONOTONE["rotation"])), rel=1e-6)
    condition = next(c for c in found.conditions if c.name == "mu_2(W)")
    assert condition.verdict == "holds"
    assert condition.value == pytest.approx(0, abs=1e-9)
    other = inspect_network(stored(MONOTONE["mu_2 above 1"]))
    assert other.Lambda_ratio == pytest.approx(400)
    assert next(c for c in other.conditions if c.name == "mu_2(W)").verdict == "fails"


def test_forward_backward_trains_the_same_function() -> None:
    network = stepped("monotone", 4, 1.0, 7, 0.01)
    x = torch.randn(3, 3)
    y = network(x)
    network.solver = ForwardBackward()
    assert torch.allclose(network(x), y, atol=1e-3)
