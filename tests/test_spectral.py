"""Certificates of monotone networks: below every attack, every sample and the exact range."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import exact
from equicert.attacks import FGSM, PGD
from equicert.bounds import Interval, Lipschitz, Method, Spectral, SpectralAtPoint, SpectralLmi, lmi
from equicert.bounds.ball import point_ball
from equicert.bounds.lmi import lmi_bound
from equicert.bounds.spectral import input_norm, spectral_bound
from equicert.boxes import Box
from equicert.certification import certify
from equicert.errors import InputError, NotContractingError, NotMonotoneError
from equicert.inspection import inspect_network
from equicert.queries import Query
from equicert.stored import StoredNetwork
from equicert.weights import LBEN
from monotone_networks import MONOTONE, NOT_MONOTONE, monotone_networks, stored, with_activation
from networks import PIECEWISE_LINEAR, Network

METHODS = (Spectral(max_steps=500), Spectral(sharp=False, max_steps=500))
AT_POINT = (SpectralAtPoint(per_margin=True, max_steps=500), SpectralAtPoint(max_steps=500))
ALL = (*METHODS, *AT_POINT)
LMI = SpectralLmi(max_steps=500)
TABLE = pytest.mark.parametrize("net", MONOTONE.values(), ids=str)


def box_of(net: Network, width: float) -> Box:
    centre = torch.linspace(-0.7, 1.3, net.inputs)[None].expand(2, -1)
    return Box(centre - width, centre + torch.tensor([[width], [0.5 * width]]))


def assert_below_the_range(net: Network, box: Box, method: Method) -> None:
    """Every bound on an output, and every coordinate of the state box, in exact arithmetic."""
    x = box.clamp(0.8 * box.lo + 0.2 * box.hi)  # a point of the box, not its centre
    query = dataclasses.replace(Query.of_outputs(box, net.outputs), x=x)
    answer = method.answer(stored(net), query)
    for row in range(box.batch):
        ends = exact.to_fractions(box.lo[row]), exact.to_fractions(box.hi[row])
        if not bool(answer.state.proved[row]):
            assert bool((answer.lower[row] == -torch.inf).all())
            continue
        truth = exact.exact_range(*net.arrays, *ends, net.activation)
        lower, negated = answer.lower[row].chunk(2)
        for (least, most), low, high in zip(truth, lower.tolist(), negated.tolist(), strict=True):
            assert Fraction(low) <= least
            assert most <= -Fraction(high)
        n = net.states
        states = exact.exact_range(*net.arrays[:3], np.eye(n), np.zeros(n), *ends, net.activation)
        found = zip(answer.state.lo[row].tolist(), answer.state.hi[row].tolist(), strict=True)
        for (least, most), (low, high) in zip(states, found, strict=True):
            assert Fraction(low) <= least
            assert most <= Fraction(high)


@TABLE
@pytest.mark.parametrize("method", [*ALL, LMI], ids=repr)
@pytest.mark.parametrize("activation", PIECEWISE_LINEAR)
@pytest.mark.parametrize("width", [0.0, 1e-3, 0.5])
def test_bounds_contain_the_exact_range(
    net: Network, method: Method, activation: str, width: float
) -> None:
    assert_below_the_range(with_activation(net, activation), box_of(net, width), method)


@settings(max_examples=20)
@given(monotone_networks(activations=("relu", "leaky_relu(0.1)")), st.floats(0, 2))
def test_bounds_contain_the_exact_range_of_any_network(net: Network, width: float) -> None:
    for method in (*ALL, LMI):
        assert_below_the_range(net, box_of(net, width), method)


@settings(max_examples=20)
@given(monotone_networks(), st.floats(1e-3, 1), st.integers(0, 1000))
def test_no_sample_escapes_and_the_sharp_form_is_never_worse(
    net: Network, width: float, seed: int
) -> None:
    network, box = stored(net), box_of(net, width)
    labels = torch.zeros(2, dtype=torch.int64)
    centre = box.clamp(0.5 * (box.lo + box.hi))
    query = Query.of_margins(box, labels, net.outputs, centre)
    sharp, *others = (method.answer(network, query) for method in ALL)
    for looser, tighter in itertools.pairwise([*reversed(others), sharp]):
        slack = 1e-9 * (1 + looser.lower.abs())
        assert bool((tighter.lower >= looser.lower - slack)[looser.state.proved].all())
    random = torch.Generator().manual_seed(seed)
    for row in range(2):
        share = torch.rand(30, net.inputs, generator=random).round(decimals=1)
        x = box.lo[row] + share * (box.hi[row] - box.lo[row])
        found = network.solve(x, 1e-8, 500)
        y = found.value @ network.C.mT + network.c
        error = found.radius[:, None] * network.C.abs().sum(1).amax() * 2 + 1e-9
        margins = y[:, :1] - y[:, 1:] + error
        assert bool((margins.amin(0) >= sharp.lower[row] - 1e-9 * sharp.lower[row].abs()).all())


@TABLE
def test_a_box_of_width_zero_loses_rounding_only(net: Network) -> None:
    network, box = stored(net), box_of(net, 0.0)
    labels = torch.ones(2, dtype=torch.int64)
    for method in (Spectral(), Spectral(sharp=False), SpectralAtPoint(), SpectralAtPoint(True)):
        query = Query.of_margins(box, labels, net.outputs, box.lo)
        found = method.answer(network, query).lower
        y = network.predict(box.lo)
        exact_margins = y[:, 1:2] - y[:, [0, 2]]
        assert torch.allclose(found, exact_margins, atol=1e-5)
        assert bool((found <= exact_margins + 1e-7).all())


@TABLE
def test_the_l2_bound_exceeds_sampled_quotients(net: Network) -> None:
    network = stored(net)
    bound = spectral_bound(network)
    x = 3 * torch.randn(50, net.inputs, generator=torch.Generator().manual_seed(5))
    for length in (1e-3, 1.0):
        step = length * torch.randn(50, net.inputs, generator=torch.Generator().manual_seed(6))
        change = network.predict(x + step, 1e-10) - network.predict(x, 1e-10)
        quotient = torch.linalg.vector_norm(change, dim=1) / torch.linalg.vector_norm(step, dim=1)
        assert float(quotient.max()) <= bound * (1 + 1e-6) + 1e-6
        assert float(quotient.max()) <= lmi_bound(network) * (1 + 1e-6) + 1e-6
    assert lmi_bound(network) <= bound * 1.02


@pytest.mark.parametrize("name", ["monotone", "rotation", "one state"])
def test_the_l2_bound_is_that_of_the_paper(name: str) -> None:
    net, network = MONOTONE[name], stored(MONOTONE[name])
    m = 1 - np.linalg.eigvalsh((net.W + net.W.T) / 2).max()
    printed = np.linalg.norm(net.C, 2) * np.linalg.norm(net.U, 2) / m
    assert spectral_bound(network) == pytest.approx(printed, rel=1e-6)
    assert input_norm(network) == pytest.approx(np.linalg.norm(net.U, 2), rel=1e-6)


@settings(max_examples=20)
@given(monotone_networks(activations=("identity",)))
def test_the_matrix_inequality_bounds_the_gain_of_linear_networks(net: Network) -> None:
    """Where phi is the identity the constant is known: `||C (I - W)^-1 U||_2`."""
    network = stored(net)
    gain = np.linalg.norm(net.C @ np.linalg.solve(np.eye(net.states) - net.W, net.U), 2)
    assert gain <= lmi_bound(network) * (1 + 1e-9) + 1e-12
    assert gain <= spectral_bound(network) * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("share", [0.3, 0.95, 1.0])
def test_a_proposed_bound_is_not_believed(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too small a proposal is refused, or paid for in full."""
    propose = lmi._propose
    for name in ("lben", "monotone", "rotation"):
        net = dataclasses.replace(MONOTONE[name], activation="identity")
        gain = np.linalg.norm(net.C @ np.linalg.solve(np.eye(net.states) - net.W, net.U), 2)

        def low(*parts: Tensor, gain: float = float(gain)) -> tuple[float, float]:
            s, g = propose(*parts)
            return s, min(share * gain, g)

        monkeypatch.setattr(lmi, "_propose", low)
        assert lmi_bound(stored(net)) >= gain


@settings(max_examples=20)
@given(monotone_networks(activations=PIECEWISE_LINEAR), st.integers(0, 9))
def test_the_ball_about_any_point_holds_the_state(net: Network, seed: int) -> None:
    network = stored(net)
    x = torch.tensor([[0.3, -0.8][: net.inputs]])
    z = 5 * torch.randn(1, net.states, generator=torch.Generator().manual_seed(seed))
    ball = point_ball(network, x, z)
    truth = exact.fixed_point(net.W, net.U, net.b, x[0], net.activation)
    centre = exact.to_fractions(ball.lo[0])
    assert bool(torch.allclose(ball.lo, ball.hi))
    Lambda = exact.to_fractions(network.monotone.Lambda)
    squares = (w * (a - b) ** 2 for w, a, b in zip(Lambda, centre, truth, strict=True))
    assert sum(squares) <= Fraction(float(ball.radius)) ** 2 * (1 + Fraction(1, 10**12))


@pytest.mark.parametrize("name", ["monotone", "rotation", "one state"])
@pytest.mark.parametrize("per_margin", [False, True])
def test_what_is_lost_about_a_point_is_what_is_printed(name: str, per_margin: bool) -> None:
    """The radius is that about x, also where clipping left the box its half on one side."""
    net, network = MONOTONE[name], stored(MONOTONE[name])
    m = 1 - np.linalg.eigvalsh((net.W + net.W.T) / 2).max()
    x = torch.full((1, net.inputs), 0.25)
    query = Query.of_margins(Box(x - 0.2, x + 0.05), torch.zeros(1).long(), net.outputs, x)
    found = SpectralAtPoint(per_margin).answer(network, query).lower[0]
    y = network.predict(x, 1e-12)[0]
    lost = np.sqrt(2) * np.linalg.norm(net.C, 2) * np.ones(net.outputs - 1)
    if per_margin:
        lost = np.linalg.norm(net.C[:1] - net.C[1:], axis=1)
    lost = torch.from_numpy(lost * np.linalg.norm(net.U, 2) / m * np.sqrt(net.inputs) * 0.2)
    assert torch.allclose(found, y[0] - y[1:] - lost, rtol=1e-6, atol=1e-7)


def test_what_the_matrix_inequality_proves_is_what_margins_lose() -> None:
    """Exactly `||e_i - e_j|| g ||h||`, and less than by norms where a bound was prescribed."""
    torch.manual_seed(0)
    weight = LBEN(20, lipschitz=0.5)
    U, C = torch.randn(20, 2), torch.randn(3, 20)
    W, Lambda = weight.given(U, C).dense().detach(), weight.log_Lambda.detach().exp()
    W, U, C, Lambda = (t.numpy() for t in (W, U, C, Lambda))
    network = StoredNetwork.from_arrays(W, U, np.zeros(20), C, np.zeros(3), Lambda=Lambda)
    x = torch.full((1, 2), 0.25)
    query = Query.of_margins(Box(x - 0.1, x + 0.1), torch.zeros(1).long(), 3, x)
    found = SpectralLmi().answer(network, query).lower[0]
    y = network.predict(x, 1e-12)[0]
    lost = np.sqrt(2) * lmi_bound(network) * np.sqrt(2) * 0.1
    assert torch.allclose(found, y[0] - y[1:] - lost, rtol=1e-6, atol=1e-7)
    assert lmi_bound(network) <= 0.5 * (1 + 1e-6)
    assert bool((found > SpectralAtPoint().answer(network, query).lower[0]).all())


def test_a_radius_about_no_point_is_refused() -> None:
    net = MONOTONE["rotation"]
    with pytest.raises(InputError, match="needs a query with x"):
        SpectralAtPoint().answer(stored(net), Query.of_outputs(box_of(net, 0.1), net.outputs))


# Verdicts.


@TABLE
@pytest.mark.parametrize("eps", [0.001, 0.1])
def test_what_is_certified_is_never_broken(net: Network, eps: float) -> None:
    network = stored(net)
    x = torch.randn(10, net.inputs, generator=torch.Generator().manual_seed(2))
    labels = network.predict(x).argmax(1)
    verdicts = certify(network, x, labels, eps, method=Spectral())
    at_point = certify(network, x, labels, eps, method=SpectralAtPoint(per_margin=True))
    for attack in (FGSM(), PGD(steps=5)):
        status = attack.run(network, x, labels, eps).status
        pairs = [*zip(verdicts, status, strict=True), *zip(at_point, status, strict=True)]
        assert not any(v.status == "certified" and found != "unbroken" for v, found in pairs)
    if eps < 0.01 and network.monotone.m > 0.1:
        assert any(v.status == "certified" for v in verdicts)


@TABLE
def test_wrong_labels_are_proved_wrong_and_none_certified(net: Network) -> None:
    network = stored(net)
    x = torch.randn(20, net.inputs, generator=torch.Generator().manual_seed(3))
    y = network.predict(x)
    clear = y.topk(2).values.diff(dim=1).abs()[:, 0] > 1e-3
    wrong = (y.argmax(1) + 1) % net.outputs
    verdicts = certify(network, x, wrong, 0.01, method=Spectral())
    assert all(v.status == "misclassified" for v, sure in zip(verdicts, clear, strict=True) if sure)
    assert all(v.status != "certified" for v in verdicts)


def test_methods_of_contracting_networks_say_so_and_still_predict() -> None:
    network = stored(MONOTONE["rotation"])
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(4))
    labels = network.predict(x).argmax(1)
    for method in (Interval(), Lipschitz()):
        verdicts = certify(network, x, labels, 0.01, method=method)
        assert {v.status for v in verdicts} == {"unknown"}
        assert {v.reason for v in verdicts} == {"not contracting"}
        assert [v.predicted for v in verdicts] == labels.tolist()
        with pytest.raises(NotContractingError):
            method.answer(network, Query.of_outputs(Box(x, x), 3))


def test_a_network_that_is_not_monotone_is_unknown_by_this_method() -> None:
    network = stored(NOT_MONOTONE["contracting at its eta only"])
    x = torch.zeros(2, 2)
    labels = network.predict(x).argmax(1)
    verdicts = certify(network, x, labels, 0.01, method=Spectral())
    assert {(v.status, v.reason) for v in verdicts} == {("unknown", "not monotone")}
    assert [v.predicted for v in verdicts] == labels.tolist()
    with pytest.raises(NotMonotoneError):
        spectral_bound(network)
    neither = stored(NOT_MONOTONE["strong pair"])
    [verdict] = certify(neither, x[:1], 0, 0.01, method=Spectral())
    assert (verdict.status, verdict.predicted) == ("unknown", -1)


def test_a_lambda_that_lies_certifies_nothing() -> None:
    net = NOT_MONOTONE["strong pair"]
    lying = StoredNetwork.from_arrays(*net.arrays, Lambda=np.array([1.0, 2.0]))
    verdicts = certify(lying, torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), 0.0)
    assert {v.status for v in verdicts} == {"unknown"}


def test_numbers_that_overflow_are_unknown() -> None:
    net = MONOTONE["rotation"]
    network = StoredNetwork.from_arrays(net.W, 1e300 * net.U, net.b, net.C, net.c)
    x = torch.full((1, 2), 1e10)
    [verdict] = certify(network, x, 0, 1.0, method=Spectral())
    assert verdict.status == "unknown"


def test_certificates_of_the_foreign_network(
    foreign: StoredNetwork, mnist_test: tuple[Tensor, Tensor]
) -> None:
    """Some at small radii, fewer at larger, none that PGD breaks; more with the sharp form."""
    x, labels = mnist_test[0][:60], mnist_test[1][:60]
    counts = []
    for eps in (0.005, 0.03):
        broken = PGD(steps=10).run(foreign, x, labels, eps, (0.0, 1.0)).status
        for method in ALL:
            verdicts = certify(foreign, x, labels, eps, domain=(0.0, 1.0), method=method)
            held = [v.status == "certified" for v in verdicts]
            counts.append(sum(held))
            assert all(s == "unbroken" for s, sure in zip(broken, held, strict=True) if sure)
    near, far = counts[: len(ALL)], counts[len(ALL) :]
    assert near == sorted(near, reverse=True)  # each form as good as the next, on real images too
    assert near[0] > far[0] >= far[1]
    assert min(near[:2]) > 0


@pytest.mark.parametrize(
    "W",
    [
        [[-1e200]],
        [[-1e200, 1e200, 0.0], [-1e200, -1e200, 0.0], [3e200, 0.0, -1e201]],
        [[-1e-300, 1e300], [-1e300, -1e-300]],
    ],
    ids=["one state", "three states", "mixed"],
)
def test_entries_whose_squares_overflow_end_in_a_verdict(W: list[list[float]]) -> None:
    n = len(W)
    eye = np.eye(max(n, 2))[:2, :n]
    net = StoredNetwork.from_arrays(
        np.array(W), np.ones((n, 1)), np.ones(n), eye, np.zeros(2), "relu"
    )
    x = torch.tensor([[0.5]])
    for method in (Spectral(), Interval()):
        [verdict] = certify(net, x, 1, 0.01, method=method)
        assert verdict.status != "certified"  # y_0 = z_0 > 0, or hardly known
    inspect_network(net)


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
def test_inspection_survives_extreme_scales(scale: float) -> None:
    rng = np.random.default_rng(0)
    S = rng.normal(size=(4, 4))
    U, C = rng.normal(size=(4, 3)) * scale, rng.normal(size=(2, 4)) / scale
    net = StoredNetwork.from_arrays(S - S.T - np.eye(4), U, np.zeros(4), C, np.zeros(2), "relu")
    assert all(bound > 0 for bound in inspect_network(net).lipschitz_l2.values())


def test_the_reason_is_the_proof_that_the_method_lacks() -> None:
    net = StoredNetwork.from_arrays(
        3 * np.eye(2), np.ones((2, 1)), np.zeros(2), np.eye(2), np.zeros(2), "relu"
    )
    reasons = [
        certify(net, torch.zeros(1, 1), 0, 0.1, method=method)[0].reason
        for method in (Spectral(), Interval())
    ]
    assert reasons == ["not monotone", "not contracting"]
