"""The float32 program as it runs: its states lie in their enclosures, its labels are certified.

The truth is the fixed point of the stored network in rational arithmetic; the program is the module
that `deploy` returns, evaluated on float32 inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import exact
import networks
from command import run
from equicert import kernels, rounding
from equicert.bounds import Interval, Lipschitz, LipschitzRadius, Semidefinite, Spectral
from equicert.boxes import Box
from equicert.certification import certify
from equicert.data import load_data
from equicert.deployed import Deployed, deploy, deployed_by
from equicert.errors import ConfigError, InputError, ModelError, NotContractingError, RoundingError
from equicert.lipschitz import Derived
from equicert.queries import Query
from equicert.schedules import TrainConfig
from equicert.stored import StoredNetwork
from equicert.training import Trainer

TOLERANCES = (1e-2, 1e-4, 1e-6, 1e-12)  # the last is beyond float32: the allowance stops a solve
PATHS = ("compiled", "tensors")

# Of the awkward networks, those of which float32 does not tell that they contract, or whose weights
# it does not hold.
TOO_COARSE = {"gamma near 1", "gamma near 1, diagonal"}


def near_one(gamma: float, activation: str) -> networks.Network:
    """Two states that drive each other, mu = gamma."""
    _, U, b, C, c = networks.CONTRACTING["rescued by its eta"].arrays
    return networks.Network(
        "near one", np.array([[0.0, gamma], [gamma, 0.0]]), U, b, C, c, activation
    )


def drawn(
    seed: int, gamma: float, spread: float, activation: str, scale: float = 1.0
) -> networks.Network:
    """Three states with eta spread over so many orders of magnitude, the inputs scaled."""
    net = networks.random_network(
        np.random.default_rng(seed), 3, 2, 3, gamma, spread, activation=activation
    )
    return replace(net, U=net.U * scale, b=net.b * scale)


def with_diagonal(d: float, activation: str) -> networks.Network:
    """One state of this W_ii beside an ordinary one: psi has a slope that float32 must round."""
    W = np.array([[d, 0.1 * (1 - d)], [0.3, -0.2]])
    U, b = np.array([[1.1 * (1 - d)], [0.7]]), np.array([0.1 * (1 - d), 0.3])
    return networks.Network(f"W_ii = {d}", W, U, b, np.eye(2), np.zeros(2), activation)


def large_beside_small() -> networks.Network:
    """A state of 1e6, whose resolution lets a slow pair beside it stop far from its fixed point."""
    W = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.9], [0.0, 0.9, 0.0]])
    U, b = np.array([[1e6], [1.0], [0.5]]), np.array([3e6, 1.0, -0.5])
    return networks.Network("large beside small", W, U, b, np.eye(3), np.zeros(3), "identity")


HARSH = {
    **{
        f"{net.name}": net
        for net in networks.CONTRACTING.values()
        if net.piecewise_linear and net.name not in TOO_COARSE
    },
    "mu = 0.99, linear": near_one(0.99, "identity"),
    "mu = 0.998": near_one(0.998, "relu"),
    "mu = 0.999, leaky": near_one(0.999, "leaky_relu(0.3)"),
    "eta ratio 1e6": drawn(1, 0.9, 1e6, "relu"),
    "eta ratio 1e6, leaky": drawn(2, 0.5, 1e6, "leaky_relu(0.01)"),
    "eta ratio 1e6, linear": drawn(3, 0.9, 1e6, "identity"),
    "tiny weights": drawn(4, 0.5, 10.0, "identity", 1e-36),
    "tiny weights that vanish": drawn(5, 0.5, 10.0, "identity", 1e-60),
    "huge weights": drawn(6, 0.5, 10.0, "leaky_relu(0.5)", 1e25),
    "W_ii = -50": with_diagonal(-50.0, "leaky_relu(0.1)"),
    "W_ii = -50, clipped": with_diagonal(-50.3, "hard_tanh"),
    "W_ii near 1": with_diagonal(1 - 1.234e-4, "identity"),
    "W_ii near 1, leaky": with_diagonal(1 - 1.234e-4, "leaky_relu(0.9999)"),
    "large beside small": large_beside_small(),
    "steep leak": with_diagonal(-50.0, "leaky_relu(0.999)"),
    "leak that vanishes": with_diagonal(-1.0, "leaky_relu(1e-41)"),
}


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the module by compiled loops, or by tensor operations as where there is no numba."""
    if request.param == "tensors":
        monkeypatch.setattr(kernels, "usable", lambda *_: False)


def stored_of(net: networks.Network) -> StoredNetwork:
    return StoredNetwork.from_arrays(*net.arrays, activation=net.activation, eta=net.eta)


def points(box: Box, count: int, seed: int = 0) -> Tensor:
    """Points of one box: corners, then others, in float64."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(count, box.inputs, generator=generator)
    share[: count // 2] = (share[: count // 2] > 0.5).to(share)
    return torch.lerp(box.lo, box.hi, share).clamp(box.lo, box.hi)


def states(stored: StoredNetwork, x: Tensor, tolerance: float) -> Tensor:
    """What the program ends on."""
    module = deploy(stored, tolerance)
    return module.state(x.float(), module.materialise())


def excess(net: networks.Network, x: Tensor, z: Tensor, error: Tensor) -> Fraction:
    """The largest of `|z - z*(x)| / error` over entries, in exact arithmetic."""
    worst = Fraction(0)
    for point, state, bound in zip(x, z, error, strict=True):
        truth = exact.fixed_point(net.W, net.U, net.b, point, net.activation)
        for a, b, e in zip(
            exact.to_fractions(state), truth, exact.to_fractions(bound), strict=True
        ):
            worst = max(worst, abs(a - b) / e)
    return worst


# The enclosure of the state.


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("name", HARSH)
def test_states_lie_in_their_enclosure(name: str, tolerance: float) -> None:
    net = HARSH[name]
    stored = stored_of(net)
    box = Box(torch.full((1, net.inputs), -0.83), torch.full((1, net.inputs), 0.71))
    state = Interval().state_box(stored, box)
    deployed = Deployed.of(stored, tolerance)
    x = points(box, 8)
    z = states(stored, x, tolerance)
    for refined in (False, True):
        error, proved = deployed.error(box, state, refined=refined)
        assert bool(proved.all())
        assert excess(net, x, z, error.expand(len(x), -1)) <= 1


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", HARSH)
def test_states_at_points_lie_in_their_enclosure(name: str) -> None:
    """Boxes of one point: the enclosure has nothing to hide behind."""
    net = HARSH[name]
    stored = stored_of(net)
    x = points(Box(torch.full((1, net.inputs), -3.1), torch.full((1, net.inputs), 2.7)), 8, 3)
    box = Box(x, x)
    error, proved = Deployed.of(stored, 1e-5).error(box, Interval().state_box(stored, box))
    assert bool(proved.all())
    assert excess(net, x, states(stored, x, 1e-5), error) <= 1


FINE = {  # one state: its W and U, and points, which only some terms of the bound pay for
    "cancelling inputs": (0.0, [3.3, -3.3], [[k / 7, k / 7 + 1e-9] for k in range(1, 9)]),
    "inputs below the normal range": (0.0, [1e10], [[k * 1e-46] for k in range(1, 9)]),
    "a slope that must be rounded": (1 - 1.234e-4, [1e-4], [[k / 7] for k in range(1, 9)]),
}


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", FINE)
def test_a_single_state_lies_in_its_enclosure(name: str) -> None:
    own, U, at = FINE[name]
    one, zero = np.eye(1), np.zeros(1)
    net = networks.Network(name, own * one, np.array([U]), zero, one, zero, "identity")
    stored, x = stored_of(net), torch.tensor(at)
    box = Box(x, x)
    error, proved = Deployed.of(stored, 1e-5).error(box, Interval().state_box(stored, box))
    assert bool(proved.all())
    assert excess(net, x, states(stored, x, 1e-5), error) <= 1


@given(
    net=networks.contracting_networks(activations=networks.PIECEWISE_LINEAR),
    tolerance=st.sampled_from(TOLERANCES),
    seed=st.integers(0, 99),
)
def test_states_of_any_network_lie_in_their_enclosure(
    net: networks.Network, tolerance: float, seed: int
) -> None:
    stored = stored_of(net)
    try:
        deployed = Deployed.of(stored, tolerance)
    except ModelError:
        return
    box = Box(torch.full((1, net.inputs), -1.0), torch.full((1, net.inputs), 0.3))
    x = points(box, 4, seed)
    error, proved = deployed.error(box, Interval().state_box(stored, box))
    if bool(proved.all()):
        z = states(stored, x, tolerance)
        assert excess(net, x, z, error.expand(len(x), -1)) <= 1


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_the_tolerance_is_nearly_used_up(gamma: float) -> None:
    """Where each step takes the error down by gamma, some points end just within e."""
    net = near_one(gamma, "identity")
    stored = stored_of(net)
    x = points(Box(torch.full((1, 1), -1.0), torch.full((1, 1), 1.0)), 200)
    box = Box(x, x)
    error, _ = Deployed.of(stored, 1e-2).error(box, Interval().state_box(stored, box))
    z = states(stored, x, 1e-2)
    met = excess(net, x, z, error)
    assert 0.9 <= met <= 1


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("activation", networks.PIECEWISE_LINEAR)
def test_the_enclosure_of_an_ordinary_network_is_not_vacuous(activation: str) -> None:
    """Of 20 states; at a tolerance that float32 resolves within a factor of what is met."""
    net = networks.random_network(np.random.default_rng(9), 20, 5, 3, 0.5, 3.0, activation)
    stored = stored_of(net)
    x = points(Box(torch.full((1, 5), -1.0), torch.full((1, 5), 1.0)), 400)
    truth = stored.solve(x, 1e-13)
    box = Box(x, x)
    state = Interval().state_box(stored, box)
    for tolerance, factor in ((1e-3, 100), (1e-12, 300)):
        error, proved = Deployed.of(stored, tolerance).error(box, state)
        met = (states(stored, x, tolerance) - truth.value).abs() - truth.radius[:, None]
        assert bool(proved.all())
        assert bool((met <= error).all())
        assert float(error.amax()) <= factor * float(met.amax())


def test_the_refined_enclosure_is_inside_and_knows_inactive_states() -> None:
    net = networks.random_network(np.random.default_rng(2), 30, 4, 3, 0.0, 3.0)
    stored = stored_of(net)
    box = Box(torch.full((3, 4), -0.1), torch.full((3, 4), 0.1))
    state = Interval().state_box(stored, box)
    deployed = Deployed.of(stored, 1e-3)
    (crude, _), (fine, _) = (deployed.error(box, state, refined=r) for r in (False, True))
    assert bool((fine <= crude).all())
    assert bool((fine < 1e-6 * crude).any())  # a ReLU that is off is off in float32, too
    assert float(fine.sum()) < 0.8 * float(crude.sum())


def test_a_looser_tolerance_or_a_larger_box_is_a_larger_enclosure() -> None:
    stored = stored_of(HARSH["leaky"])
    small, large = (Box(torch.full((1, 1), -h), torch.full((1, 1), h)) for h in (0.1, 0.2))

    def error(box: Box, tolerance: float) -> Tensor:
        return Deployed.of(stored, tolerance).error(box, Interval().state_box(stored, box))[0]

    assert bool((error(small, 1e-4) < error(small, 1e-3)).all())
    assert bool((error(small, 1e-4) < error(large, 1e-4)).all())


def test_who_shares_the_batch_changes_no_enclosure() -> None:
    stored = stored_of(drawn(1, 0.5, 10.0, "relu"))
    centre = torch.tensor([[0.1, 0.3], [1e3, -1e5], [0.0, 0.0], [1e-30, 2.0]])
    box = Box(centre - 0.1, centre + 0.1)
    state = Interval().state_box(stored, box)
    deployed = Deployed.of(stored)
    together, _ = deployed.error(box, state)
    for k in range(4):
        row = torch.tensor([k])
        alone, _ = deployed.error(box[row], state[row])
        assert torch.allclose(alone[0], together[k], rtol=1e-2)  # where the refinement ends


@pytest.mark.parametrize("scale", [1e37, 1e39, 1e60])
def test_what_may_overflow_is_not_proved(scale: float) -> None:
    stored = stored_of(drawn(1, 0.5, 10.0, "hard_tanh"))
    box = Box(torch.full((1, 2), -scale), torch.full((1, 2), scale))
    _, proved = Deployed.of(stored).error(box, Interval().state_box(stored, box))
    assert not bool(proved.any())


def test_an_unproved_state_proves_nothing() -> None:
    stored = stored_of(drawn(1, 0.5, 10.0, "relu"))
    box = Box(torch.zeros(1, 2), torch.ones(1, 2))
    query = Query.of_margins(box, torch.tensor([0]), 3)
    answer = Interval().answer(stored, query)
    nothing = replace(answer.state, proved=~answer.state.proved, reason=("unconverged",))
    found = Deployed.of(stored).answer(replace(answer, state=nothing))
    assert bool((found.lower == -torch.inf).all())
    assert found.reasons == ("unconverged",)


def test_a_nan_proves_nothing() -> None:
    stored = stored_of(drawn(1, 0.5, 10.0, "relu"))
    box = Box(torch.zeros(1, 2), torch.ones(1, 2))
    answer = Interval().answer(stored, Query.of_margins(box, torch.tensor([0]), 3))
    state = replace(answer.state, hi=torch.full_like(answer.state.hi, torch.nan))
    found = Deployed.of(stored).answer(replace(answer, state=state))
    assert not bool(found.holds.any())
    assert bool((found.lower == -torch.inf).all())


def test_an_empty_batch_has_empty_bounds() -> None:
    stored = stored_of(drawn(1, 0.5, 10.0, "relu"))
    box = Box(torch.zeros(0, 2), torch.ones(0, 2))
    query = Query.of_margins(box, torch.zeros(0, dtype=torch.int64), 3)
    found = Deployed.of(stored).answer(Interval().answer(stored, query))
    assert found.lower.shape[0] == 0


# The labels.


def hairline(
    net: networks.Network, box: Box, label: int, tolerance: float
) -> tuple[StoredNetwork, Deployed]:
    """The network with its label's output lowered until the program is only just certified."""
    stored = stored_of(net)
    query = Query.of_margins(box, torch.tensor([label]), net.outputs)
    for _ in range(3):  # the rounding of the read-out changes a little with c
        deployed = Deployed.of(stored, tolerance)
        margin = float(deployed.answer(Interval().answer(stored, query)).margin[0])
        c = stored.c.clone()
        c[label] -= margin - 1e-12 * (1 + abs(margin))
        stored = replace(stored, c=c)
    return stored, Deployed.of(stored, tolerance)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("activation", networks.PIECEWISE_LINEAR)
def test_the_program_returns_no_other_label(activation: str, tolerance: float) -> None:
    """On networks that are only just certified: thousands of points, batches of 1 and of 1000."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        net = networks.random_network(rng, 12, 4, 3, 0.9, 10.0, activation)
        centre = torch.from_numpy(rng.uniform(-1, 1, (1, 4)))
        box = Box.around(centre, 1e-3)
        stored, deployed = hairline(net, box, seed, tolerance)
        query = Query.of_margins(box, torch.tensor([seed]), 3)
        answer = Interval().answer(stored, query)
        assert bool(deployed.answer(answer).holds.all())
        x = points(box, 1000, seed).float()
        module = deploy(stored, tolerance)
        assert bool((module(x).argmax(-1) == seed).all())
        for row in x[::25]:
            assert int(module(row).argmax()) == seed


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
def test_bounds_on_outputs_hold_for_the_program(tolerance: float) -> None:
    """Forms other than margins, and a network whose float32 weights differ from the stored ones."""
    net = networks.random_network(np.random.default_rng(5), 12, 4, 3, 0.9, 10.0, "leaky_relu(0.2)")
    stored = stored_of(net)
    box = Box.around(torch.tensor([[0.3, -0.2, 0.7, 0.1]]), 1e-6)
    query = Query.of_outputs(box, 3)
    answer = Interval().answer(stored, query)
    lower, negated = Deployed.of(stored, tolerance).answer(answer).lower.chunk(2, 1)
    y = deploy(stored, tolerance)(points(box, 1000).float()).double()
    assert bool((lower <= y).all())
    assert bool((y <= -negated).all())
    assert bool((answer.lower > torch.cat([lower, negated], 1)).all())


@pytest.mark.parametrize("method", [Interval(), Lipschitz()], ids=lambda m: m.name)
def test_verdicts_have_both_words(method: Interval | Lipschitz) -> None:
    stored = stored_of(networks.random_network(np.random.default_rng(4), 10, 4, 3))
    x = torch.from_numpy(np.random.default_rng(4).uniform(-2, 2, (60, 4)))
    label = stored.predict(x).argmax(1)
    label[:5] = (label[:5] + 1) % 3
    plain = certify(stored, x, label, 0.1, method=method)
    found = certify(stored, x, label, 0.1, method=method, tolerance=0.1, batch_size=7)
    assert [v.status for v in found] == [v.status for v in plain]
    assert all("deployed" not in v.to_json() for v in plain)
    words = {(v.status, v.deployed, v.deployed_reason) for v in found}
    assert words == {
        ("certified", "certified", ""),
        ("certified", "unknown", "margin"),
        ("unknown", "unknown", "not certified"),
        ("misclassified", "unknown", "not certified"),
    }
    assert {str(v.to_json()["deployed"]) for v in found} == {"certified", "unknown"}


# What is refused.


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "elu(0.5)"])
def test_other_activations_are_refused_by_name(activation: str) -> None:
    with pytest.raises(ModelError) as error:
        Deployed.of(stored_of(replace(HARSH["leaky"], activation=activation)))
    assert f"'{activation}'" in str(error.value)
    assert "hard_tanh" in str(error.value)


@pytest.mark.parametrize("name", networks.NOT_CONTRACTING)
def test_networks_that_do_not_contract_are_refused(name: str) -> None:
    with pytest.raises(NotContractingError):
        Deployed.of(stored_of(networks.NOT_CONTRACTING[name]))


@pytest.mark.parametrize("tolerance", [0.0, -1e-4, float("nan"), float("inf")])
def test_tolerances_that_stop_nothing_are_refused(tolerance: float) -> None:
    for make in (deploy, Deployed.of):
        with pytest.raises(ConfigError, match="tolerance"):
            make(stored_of(HARSH["leaky"]), tolerance)


@pytest.mark.parametrize("name", sorted(TOO_COARSE))
def test_networks_too_close_to_one_for_float32_are_refused(name: str) -> None:
    stored = stored_of(networks.CONTRACTING[name])
    with pytest.raises(ModelError, match="float32 does not resolve"):
        Deployed.of(stored)


@pytest.mark.parametrize("part", ["U", "b", "C", "c"])
def test_weights_beyond_float32_are_refused(part: str) -> None:
    stored = stored_of(HARSH["leaky"])
    arrays = {"W": stored.W.dense(), "U": stored.U.dense()}
    arrays |= {name: getattr(stored, name) for name in "bCc"}
    arrays[part] = arrays[part].clone()
    arrays[part].view(-1)[0] = 1e39
    huge = StoredNetwork.from_arrays(**arrays, activation="leaky_relu")
    with pytest.raises(ModelError, match="beyond 3"):
        Deployed.of(huge)


@pytest.mark.parametrize("method", [Spectral(), Semidefinite(), LipschitzRadius(Derived())])
def test_methods_without_a_box_of_states_are_refused(
    method: Spectral | Semidefinite | LipschitzRadius,
) -> None:
    with pytest.raises(InputError, match=method.name):
        deployed_by(method, stored_of(HARSH["leaky"]), 1e-4)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_shortened_products_are_refused(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    try:
        with pytest.raises(RoundingError, match="set_float32_matmul_precision"):
            Deployed.of(stored_of(HARSH["leaky"]))
    finally:
        torch.set_float32_matmul_precision("highest")
    Deployed.of(stored_of(HARSH["leaky"]))


def bfloat16(B: Tensor, A: Tensor) -> Tensor:
    return (B.bfloat16().float() @ A.bfloat16().float()).to(B)


def scaled(B: Tensor, A: Tensor) -> Tensor:
    """Each row of B to 12 bits of its largest entry, as emulations by short words do."""
    unit = B.abs().amax(-1, keepdim=True) * 2.0**-12
    return (B / unit).round() * unit @ A


@pytest.mark.parametrize("product", [bfloat16, scaled], ids=lambda f: f.__name__)
def test_the_self_test_finds_products_that_are_not_plain(
    product: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounding._test_products.cache_clear()
    plain = torch.addmm

    def addmm(u: Tensor, B: Tensor, A: Tensor, **kwargs: Any) -> Tensor:
        return u + product(B, A) if B.dtype == torch.float32 else plain(u, B, A, **kwargs)

    monkeypatch.setattr(torch, "addmm", addmm)
    with pytest.raises(RoundingError, match="plain float32 product"):
        rounding.self_test_single()
    monkeypatch.undo()
    rounding._test_products.cache_clear()
    rounding.self_test_single()


# The command.


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with net.npz and data.npz in it, and the process inside."""
    monkeypatch.chdir(tmp_path)
    net = networks.random_network(np.random.default_rng(4), 10, 4, 3)
    weights: dict[str, Any] = dict(zip("WUbCc", net.arrays, strict=True))
    np.savez("net.npz", activation="relu", **weights)
    np.savez("smooth.npz", activation="tanh", **weights)
    x = np.random.default_rng(4).uniform(-2, 2, (60, 4))
    y = stored_of(net).predict(torch.from_numpy(x)).argmax(1).numpy()
    np.savez("data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return tmp_path


CERTIFY = ("certify", "net.npz", "--data", "data.npz", "--eps", "0.1", "--quiet")


def test_the_command_reports_both_counts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--deployed", "float32", "--tol", "0.1", "--out", "v")
    assert run(*CERTIFY[:-1], *asked) == 0
    lines = [json.loads(line) for line in (here / "v/verdicts.jsonl").read_text().splitlines()]
    summary = json.loads((here / "v/summary.json").read_text())
    plain = sum(line["status"] == "certified" for line in lines)
    as_run = sum(line["deployed"] == "certified" for line in lines)
    assert 0 < as_run < plain < 60
    assert summary["certified_accuracy"] == plain / 60
    assert summary["deployed_certified_accuracy"] == as_run / 60
    assert summary["deployed"] == "float32, 0.1"
    assert summary["deployed_reasons"] == {"margin": plain - as_run, "not certified": 60 - plain}
    shown = capsys.readouterr().out
    assert f"{100 * plain / 60:.2f} %" in shown
    assert f"{100 * as_run / 60:.2f} %" in shown
    # Another tolerance is another run; the same one is resumed.
    assert run(*CERTIFY, "--deployed", "float32", "--out", "v", "--resume") == 2
    assert run(*CERTIFY, *asked, "--resume") == 0


def test_the_default_tolerance_is_that_of_deploy(here: Path) -> None:
    assert run(*CERTIFY, "--deployed", "float32", "--out", "v") == 0
    assert json.loads((here / "v/summary.json").read_text())["deployed"] == "float32, 0.0001"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--deployed float64", "--deployed: Expected one of ['float32'], got float64"),
        ("--deployed float16", "--deployed: Expected one of ['float32'], got float16"),
        ("--tol 1e-4", "add --deployed float32"),
        ("--deployed float32 --tol 0", "must be positive"),
        ("--deployed float32 --tol -1", "must be positive"),
        ("--deployed float32 --tol nan", "--tol: Expected a finite number, got nan"),
        ("--deployed float32 --radius", "not for a radius"),
        ("--deployed float32 --method spectral", "'spectral'"),
        ("--deployed float32 --method lipschitz --bound derived", "'lipschitz-radius"),
    ],
)
@pytest.mark.usefixtures("here")
def test_the_command_refuses_in_one_line(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*CERTIFY, *words.split(), "--out", "v") == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not Path("v").exists()


@pytest.mark.usefixtures("here")
def test_the_command_refuses_smooth_networks(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("certify", "smooth.npz", *CERTIFY[2:], "--deployed", "float32", "--out", "v")
    assert run(*words) == 2
    assert "'tanh'" in capsys.readouterr().err
    assert not Path("v").exists()


# Real data.


@pytest.mark.long
def test_labels_of_digits_are_those_of_the_program(
    mnist_test: tuple[Tensor, Tensor], mnist_dir: Path, tmp_path: Path
) -> None:
    """A network trained for one epoch: corners and other points of the boxes that are certified."""
    config = TrainConfig(hidden=40, epochs=1, eps=0.05, warmup=0, ramp_start=0, ramp_end=1)
    data = load_data("mnist", mnist_dir.parent)
    trained = Trainer(data, config, tmp_path / "run", spec="mnist").run()
    stored = trained.network
    x, y = (part[:1000] for part in mnist_test)
    verdicts = certify(stored, x, y, 0.02, domain=(0.0, 1.0), tolerance=1e-2)
    held = torch.tensor([v.deployed == "certified" for v in verdicts])
    plain = sum(v.status == "certified" for v in verdicts)
    assert 300 < int(held.sum()) <= plain <= int(held.sum()) + 20
    module, generator = deploy(stored, 1e-2), torch.Generator().manual_seed(0)
    box, labels = Box.within(x[held], 0.02, (0.0, 1.0)), y[held]
    for k in range(6):
        share = torch.rand(box.lo.shape, generator=generator)
        share = (share > 0.5).to(share) if k % 2 else share
        tried = torch.lerp(box.lo, box.hi, share).clamp(box.lo, box.hi).float()
        assert bool((module(tried).argmax(-1) == labels).all())
        rows = torch.arange(k, len(tried), 50).tolist()
        assert all(int(module(tried[row]).argmax()) == int(labels[row]) for row in rows)
