"""Dual bounds of smooth activations: minima on the graph of psi, and what methods make of them.

The truth needs no root: with the pre-activation t as parameter a point of the graph is
`z = phi(t)`, `r = t - d phi(t)`, and rational enclosures of phi have a width of 2^-80.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import exact_functions
from equicert.activations import Activation, Sigmoid, parse_activation
from equicert.bounds import Auto, Complete, Dual, Interval, Method, Tightening
from equicert.boxes import Box
from equicert.certification import certify
from equicert.errors import InputError, ModelError, NotContractingError
from equicert.evaluation import write_certificates
from equicert.queries import Answer, Query
from equicert.relaxation import Lagrangian, PiecewiseLinear, Smooth
from equicert.relaxation.curves import curve_of
from equicert.stored import StoredNetwork
from monotone_networks import monotone_weight
from networks import CONTRACTING, Network, contracting_networks, random_network

SPECS = ["tanh", "sigmoid", "softplus", "elu(1.0)", "elu(0.5)", "elu(0.0)"]
EACH = pytest.mark.parametrize("spec", SPECS)
SMOOTH = [net for net in CONTRACTING.values() if not net.piecewise_linear]
DIAGONALS = [0.0, 0.5, 0.9, 1 - 1e-9, -1.0, -20.0, -1e4]
METHODS = [Dual(), Tightening(), Complete(timeout=5), Auto(timeout=5)]

diagonals = st.one_of(st.sampled_from(DIAGONALS), st.floats(-30, 0.99))
widths = st.sampled_from([0.0, 1e-300, 1e-12, 1e-3, 0.3, 1.0, 4.0, 30.0, 1e3, 1e8])
sizes = st.one_of(st.sampled_from([0.0, 1e-300, -1.0, 1.0, 1e8]), st.floats(-4, 4))


def graph(spec: str, *d: float) -> Smooth:
    return Smooth(parse_activation(spec), torch.tensor(d))


def row(*values: float) -> Tensor:  # (1, n)
    return torch.tensor([values])


@cache
def enclosed(spec: str, t: float) -> tuple[Fraction, Fraction]:
    """Bounds on phi(t)."""
    return exact_functions.activation(spec, Fraction(t))


def exact_r(spec: str, d: float, t: float) -> tuple[Fraction, Fraction]:
    """Bounds on `t - d phi(t)`."""
    ends = enclosed(spec, t)
    found = [Fraction(t) - Fraction(d) * end for end in ends]
    return min(found), max(found)


def most(spec: str, d: float, p: Fraction, multiplier: float, t: float) -> Fraction:
    """An upper bound on `p psi(r) - multiplier r` at `r = t - d phi(t)`."""
    q = p + Fraction(multiplier) * Fraction(d)
    ends = enclosed(spec, t)
    return max(q * end for end in ends) - Fraction(multiplier) * Fraction(t)


def inside(spec: str, d: float, t: float, lo: float, hi: float) -> bool:
    below, above = exact_r(spec, d, t)
    return Fraction(lo) <= below and above <= Fraction(hi)


def candidates(found: Smooth, lo: Tensor, hi: Tensor, near: Tensor) -> list[float]:
    """Values of t between the ends, near them, and near the minimiser that is proposed."""
    first, last = (float(found.preactivations(end)[0][0, 0]) for end in (lo, hi))
    shares = [1e-3, 0.2, 0.4, 0.5, 0.7, 0.9, 0.999]
    at_ends = [first * (1 + 1e-12), first + 1e-12, last * (1 - 1e-12), last - 1e-12]
    t = float(found.preactivations(near)[0][0, 0])
    around = [t + step * (1 + abs(t)) for step in (0.0, 1e-9, -1e-9, 1e-4, -1e-4)]
    return [0.0, *(first + share * (last - first) for share in shares), *at_ends, *around]


@EACH
@given(
    d=diagonals,
    lo=st.one_of(st.floats(-8, 8), st.floats(-500, 500)),
    width=widths,
    p=sizes,
    multiplier=sizes,
    inner=st.tuples(st.floats(0, 1), st.sampled_from([1.0, 0.75])) | st.none(),
    error=st.sampled_from([0.0, 1e-12, 0.1]),
)
def test_no_point_of_the_graph_is_below_the_bound(
    spec: str,
    d: float,
    lo: float,
    width: float,
    p: float,
    multiplier: float,
    inner: tuple[float, float] | None,
    error: float,
) -> None:
    found, hi = graph(spec, d), lo + width
    if inner is not None:  # so that the minimum may lie inside
        phi, (share, part) = found.activation, inner
        slope = part * float(phi.slope(torch.tensor(lo + share * min(width, 10.0))))
        multiplier = p * slope / (1 - d * slope)
    ends, forms = (row(lo), row(hi)), (row(p), row(multiplier))
    bound = float(found.minimum_below(forms[0], row(error), forms[1], *ends)[0, 0])
    assert math.isfinite(bound)
    _, r, _ = found.minimise(*forms, *ends, (found.psi(ends[0]), found.psi(ends[1])))
    tried = 0
    for t in candidates(found, *ends, r):
        if inside(spec, d, t, lo, hi):
            tried += 1
            for wrong in (-1, 1):
                exact_p = Fraction(p) + wrong * Fraction(error)
                assert most(spec, d, exact_p, multiplier, t) >= Fraction(bound)
    assert tried or width < 1e-2


@EACH
@pytest.mark.parametrize("d", [d for d in DIAGONALS if d != 1 - 1e-9])
def test_the_bound_is_close_to_a_value_that_is_attained(spec: str, d: float) -> None:
    rng = torch.Generator().manual_seed(0)
    n = 400
    found = Smooth(parse_activation(spec), torch.full((n,), d))
    phi, t = found.activation.phi, 4 * torch.randn(1, n, generator=rng) - 2
    last = t + 10.0 ** (5 * torch.rand(1, n, generator=rng) - 3)
    lo, hi = t - d * phi(t), last - d * phi(last)
    p = torch.randn(1, n, generator=rng)
    slope = found.activation.slope(2 * torch.randn(1, n, generator=rng))
    slope = slope * (0.6 + 0.4 * torch.rand(1, n, generator=rng)).round(decimals=1)  # at kinks, too
    multiplier = p * slope / (1 - d * slope)
    ends = found.psi(lo), found.psi(hi)
    value, r, z = found.minimise(p, multiplier, lo, hi, ends)
    bound = found.minimum_below(p, torch.zeros_like(p), multiplier, lo, hi)
    size = p.abs() * torch.maximum(ends[0].abs(), ends[1].abs())
    size = size + multiplier.abs() * torch.maximum(lo.abs(), hi.abs()) + 1e-3
    assert bool(((lo <= r) & (r <= hi)).all())
    assert torch.allclose(z, found.psi(r), atol=1e-9, rtol=1e-9)
    assert bool(((p * z - multiplier * r - value).abs() <= 1e-9 * size).all())
    assert bool((bound <= value + 1e-12 * size).all())
    assert bool((value - bound <= 1e-10 * size).all())
    assert bool(((r > lo) & (r < hi)).any())  # some minima are inside


@EACH
@given(d=diagonals, r=st.one_of(st.floats(-30, 30), st.floats(-1e6, 1e6)))
def test_preactivations_are_enclosed(spec: str, d: float, r: float) -> None:
    low, high = (float(end[0, 0]) for end in graph(spec, d).preactivations(row(r)))
    assume(abs(low) < 700 and abs(high) < 700)  # where exact_functions is quick
    assert exact_r(spec, d, low)[1] <= Fraction(r) <= exact_r(spec, d, high)[0]
    steepest = max(1.0, 1 / (1 - d)) if d > 0 else 1.0
    assert high - low <= 1e-11 * (1 + abs(d)) * (1 + abs(r)) * steepest**2


def slope_of(spec: str, t: Fraction) -> tuple[Fraction, Fraction]:
    """phi'(t) by its formula, from rational enclosures."""
    low, high = exact_functions.sigmoid(t)
    other = exact_functions.sigmoid(-t)
    if spec == "sigmoid":
        return low * other[0], high * other[1]
    if spec == "tanh":
        return tuple(4 * end for end in slope_of("sigmoid", 2 * t))  # type: ignore[return-value]
    if spec == "softplus":
        return low, high
    alpha = Fraction(parse_activation(spec).alpha)  # type: ignore[attr-defined]
    one = Fraction(1)
    return (one, one) if t > 0 else tuple(alpha * end for end in exact_functions.exp(t))  # type: ignore[return-value]


@EACH
@given(t=st.one_of(st.floats(-40, 40), st.floats(-700, 700), st.sampled_from([0.0, -5e-324])))
def test_slopes_are_enclosed_however_small(spec: str, t: float) -> None:
    low, high = (float(end) for end in curve_of(parse_activation(spec)).slopes(torch.tensor(t)))
    below, above = slope_of(spec, Fraction(t))
    assert Fraction(low) <= below <= above <= Fraction(high)
    assert high - low <= 1e-12 * high + 1e-290


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "elu(0.0)"])
@given(t=st.floats(-15, -1e-3))
def test_slopes_are_found_again(spec: str, t: float) -> None:
    phi = parse_activation(spec)
    slope = phi.slope(torch.tensor(t))
    again = phi.slope(curve_of(phi).rising(slope))
    assert torch.allclose(again, slope, rtol=1e-9)


@EACH
@pytest.mark.parametrize("slope", [-1.0, 1.5, math.inf, -math.inf, math.nan])
def test_no_point_has_a_slope_out_of_range(spec: str, slope: float) -> None:
    t = curve_of(parse_activation(spec)).rising(torch.tensor(slope))
    assert not bool(t.isfinite())


@EACH
@pytest.mark.parametrize("d", DIAGONALS)
def test_a_form_of_zeros_is_bounded_by_nearly_zero(spec: str, d: float) -> None:
    zero, found = row(0.0), graph(spec, d)
    for lo, hi in ((-1.0, 1.0), (-3.0, -3.0), (0.0, 0.0), (-1e6, 1e6)):
        bound = float(found.minimum_below(zero, zero, zero, row(lo), row(hi))[0, 0])
        assert -1e-200 <= bound <= 0


@EACH
@pytest.mark.parametrize("d", [0.5, -2.0])
def test_where_p_psi_and_lambda_r_cancel(spec: str, d: float) -> None:
    """q = p + lambda d = 0: the form is `-lambda t`."""
    found, lo, hi = graph(spec, d), row(-2.0), row(3.0)
    bound = found.minimum_below(row(-2 * d), row(0.0), row(2.0), lo, hi)
    last = found.preactivations(hi)[1]
    assert torch.allclose(bound, -2 * last, rtol=1e-9)


@EACH
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("form", [(1.0, 0.5), (-1.0, 0.5), (1.0, -0.5), (-1.0, -0.5), (0.0, 0.0)])
def test_numbers_that_are_not_finite_give_no_wrong_bound(
    spec: str, bad: float, which: int, form: tuple[float, float]
) -> None:
    arguments = [form[0], 0.0, form[1], -1.0, 1.0]
    arguments[which] = bad
    found = graph(spec, -0.5)
    bound = float(found.minimum_below(*(row(value) for value in arguments))[0, 0])
    p, error, multiplier, lo, hi = arguments
    if not all(math.isfinite(v) for v in (p, error, multiplier)) or math.isnan(lo + hi):
        assert not bound > -math.inf
        return
    for r in (-1.0, 0.0, 1.0):  # in the unbounded interval, unless it is empty
        value = p * float(found.psi(row(r))[0, 0]) - multiplier * r
        assert not bound > value or not lo <= r <= hi


def test_an_activation_of_unknown_slopes_is_refused_by_name() -> None:
    class Softsign(Activation):
        name = "softsign"

        def phi(self, t: Tensor) -> Tensor:
            return t / (1 + t.abs())

        def slope(self, t: Tensor) -> Tensor:
            return 1 / (1 + t.abs()).square()

    with pytest.raises(ModelError, match="softsign"):
        curve_of(Softsign())


@EACH
def test_lines_have_slopes_of_psi(spec: str) -> None:
    rng = torch.Generator().manual_seed(1)
    d = torch.linspace(-3, 0.9, 60)
    found = Smooth(parse_activation(spec), d)
    lo = 3 * torch.randn(20, 60, generator=rng)
    hi = lo + torch.rand(20, 60, generator=rng) * torch.tensor([0.0, 1e-12, 0.1, 5.0]).repeat(15)
    steepest = 1 / (1 / found.activation.beta - d)
    for slope in found.lines(lo, hi):
        assert bool(((slope >= -1e-6) & (slope <= steepest * (1 + 1e-6) + 1e-6)).all())


def test_lines_touch_the_graph_of_a_sigmoid_from_their_side() -> None:
    """The line through an end with these slopes leaves the graph on one side, all but a little."""
    found = graph("tanh", -1.0)
    lo, hi = row(-2.0), row(3.0)
    low, high = found.lines(lo, hi)
    r = torch.linspace(-2.0, 3.0, 1001)[:, None]
    z, (z_lo, z_hi) = found.psi(r), (found.psi(lo), found.psi(hi))
    assert bool((z_hi + low * (r - hi) <= z + 1e-2).all())
    assert bool((z_lo + high * (r - lo) >= z - 1e-2).all())
    assert float(low) > 0.9 * float((z_hi - z_lo) / (hi - lo))


def test_a_graph_is_bent_where_its_slope_changes() -> None:
    found = graph("tanh", 0.0, 0.0, 0.0, 0.0)
    lo, hi = torch.tensor([-1.0, 0.5, 0.3, 30.0]), torch.tensor([1.0, 0.8, 0.3, 40.0])
    assert found.bent(lo, hi).tolist() == [True, True, False, False]
    elu = graph("elu(0.5)", 0.0, 0.0, 0.0)
    lo, hi = torch.tensor([1.0, -1.0, -2.0]), torch.tensor([2.0, 1.0, -1.0])
    assert elu.bent(lo, hi).tolist() == [False, True, True]
    assert found.cut(lo, hi).shape[0] == 0
    assert [len(end) for end in found.knot_bounds] == [0, 0]


# Networks.


def stored(net: Network) -> StoredNetwork:
    return StoredNetwork.from_arrays(*net.arrays, net.activation)


def monotone(activation: str) -> StoredNetwork:
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(2, 5, 5))
    W = monotone_weight(A / 2, 3 * B, 0.7, np.ones(5))
    arrays = (
        W,
        rng.normal(size=(5, 3)),
        rng.normal(size=5) / 4,
        rng.normal(size=(3, 5)),
        np.zeros(3),
    )
    return StoredNetwork.from_arrays(*arrays, activation)


def asked(network: StoredNetwork, eps: float, batch: int = 3) -> Query:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(batch, network.inputs, generator=rng)
    labels = torch.arange(batch) % network.outputs
    return Query.of_margins(Box(x - eps, x + eps), labels, network.outputs)


def check_sampled(network: StoredNetwork, answer: Answer) -> None:
    """No sampled margin is below its bound by more than the solver's own error."""
    rng = torch.Generator().manual_seed(2)
    query, box = answer.query, answer.query.box
    A = torch.stack([query.forms[which].A for which in query.which.tolist()])
    for k in range(16):
        share = torch.rand(box.lo.shape, generator=rng)
        share = share.round() if k % 2 else share
        solution = network.solve(box.lo + share * (box.hi - box.lo), 1e-10)
        y = solution.value @ network.C.mT + network.c
        radius = solution.radius.amax() * network.C.abs().sum(1).amax()
        spare = 2 * radius + 1e-9 * (1 + y.abs().amax())
        assert bool(((A @ y[:, :, None])[:, :, 0] >= answer.lower - spare).all())


@pytest.mark.parametrize("net", SMOOTH, ids=lambda net: net.name)
@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.3, 2.0])
def test_dual_bounds_hold_and_are_never_below_interval_bounds(net: Network, eps: float) -> None:
    network = stored(net)
    query = asked(network, eps)
    answer, plain = Dual().answer(network, query), Interval().answer(network, query)
    assert bool((answer.lower >= plain.lower).all())
    check_sampled(network, answer)


@given(
    net=contracting_networks(activations=("tanh", "sigmoid", "softplus", "elu(0.5)")),
    eps=st.sampled_from([1e-6, 0.1, 1.0]),
)
def test_dual_bounds_of_drawn_networks_hold(net: Network, eps: float) -> None:
    assume(net.outputs > 1)
    try:
        network = stored(net)
        network.contraction  # noqa: B018, which float64 does not always resolve
    except NotContractingError:
        assume(False)
        return
    query = asked(network, eps, 2)
    answer, plain = Dual().answer(network, query), Interval().answer(network, query)
    assert bool((answer.lower >= plain.lower).all())
    check_sampled(network, answer)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "elu(0.5)"])
def test_dual_bounds_of_a_monotone_network_hold(activation: str) -> None:
    network = monotone(activation)
    answer = Dual().answer(network, asked(network, 0.05))
    assert bool(answer.lower.isfinite().all())
    check_sampled(network, answer)


def labelled(activation: str) -> tuple[StoredNetwork, Tensor]:
    net = random_network(np.random.default_rng(1), 12, 6, 4, 0.5, 3.0, activation)
    x = torch.randn(6, 6, generator=torch.Generator().manual_seed(3))
    return stored(net), x


def labels_of(network: StoredNetwork, x: Tensor) -> Tensor:
    return (network.solve(x).value @ network.C.mT + network.c).argmax(1)


@pytest.mark.parametrize(
    ("activation", "eps"), [("tanh", 0.8), ("sigmoid", 12.0), ("softplus", 3.0), ("elu(0.5)", 1.5)]
)
def test_dual_bounds_are_much_tighter_and_lemmas_tighten_them(activation: str, eps: float) -> None:
    network, x = labelled(activation)
    labels = labels_of(network, x)
    query = Query.of_margins(Box(x - eps, x + eps), labels, network.outputs)
    interval, dual, tightened = (
        method.answer(network, query).margin for method in (Interval(), Dual(), Tightening())
    )
    assert bool((dual >= interval).all())
    assert bool((tightened >= dual).all())
    assert float(dual.mean()) > float(interval.mean()) + 0.1
    assert bool((tightened[dual <= 0] > dual[dual <= 0] + 1e-6).any())
    rng = torch.Generator().manual_seed(4)
    for _ in range(20):  # and no sampled margin is below
        y = network.solve(x + eps * (2 * torch.rand(x.shape, generator=rng) - 1), 1e-9).value
        y = y @ network.C.mT + network.c
        others = y.scatter(1, labels[:, None], -math.inf).amax(1)
        assert bool((y.gather(1, labels[:, None])[:, 0] - others >= tightened - 1e-6).all())


@pytest.mark.parametrize("method", [Complete(timeout=5), Auto(timeout=5)], ids=lambda m: m.name)
@pytest.mark.parametrize(("activation", "radii"), [("tanh", (0.2, 0.8)), ("elu(0.5)", (1.5, 3.0))])
def test_what_is_not_decided_is_left_open_by_its_margin(
    method: Method, activation: str, radii: tuple[float, float]
) -> None:
    network, x = labelled(activation)
    labels = labels_of(network, x)
    statuses = set()
    for eps in radii:
        for verdict in certify(network, x, labels, eps, method=method):
            statuses.add(verdict.status)
            if verdict.status == "unknown":
                assert verdict.reason == "margin"
                assert verdict.margin <= 0 < verdict.above
    assert statuses == {"certified", "falsified", "unknown"}


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_there_are_no_trees_and_no_state_box_is_said_to_prove_what_it_does_not(
    method: Method,
) -> None:
    network, x = labelled("tanh")
    query = Query.of_margins(Box(x - 0.2, x + 0.2), labels_of(network, x), network.outputs)
    answer, plain = method.answer(network, query), Interval().answer(network, query)
    assert answer.findings is not None
    assert all(found is None or found.proof is None for found in answer.findings)
    assert int(answer.holds.sum()) > int(plain.holds.sum())
    recorded = answer.proofs.rows
    assert len(recorded) < int(answer.holds.sum())
    if not isinstance(method, Auto):  # whose first boxes are by the Lipschitz bound
        assert recorded.tolist() == plain.holds.nonzero()[:, 0].tolist()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_certificates_of_dual_bounds_are_refused_before_the_run(
    method: Method, tmp_path: Path
) -> None:
    network, x = labelled("tanh")
    folder = tmp_path / "proofs"
    with pytest.raises(InputError, match=r"piecewise-linear activations; .* is tanh: leave out"):
        write_certificates(folder, network, x, labels_of(network, x), 0.1, method=method)
    assert not folder.exists()
    found = write_certificates(folder, network, x, labels_of(network, x), 1e-3)
    assert found.summary["certificates"] == len(x)


def test_the_graph_follows_the_activation() -> None:
    assert isinstance(Lagrangian.of(labelled("tanh")[0]).graph, Smooth)
    assert isinstance(Lagrangian.of(labelled("leaky_relu(0.5)")[0]).graph, PiecewiseLinear)


def test_a_sigmoid_as_wrong_as_is_stated_gives_no_wrong_slope(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch's own error is far below the stated one; one as large as that is allowed for."""
    plain = Sigmoid.phi
    for sign in (-1, 1):
        monkeypatch.setattr(
            Sigmoid, "phi", lambda self, t, s=sign: plain(self, t) * (1 + s * 2**-45)
        )
        for spec in SPECS:
            for t in (-30.0, -1.0, 0.0, 2.0):
                found = curve_of(parse_activation(spec)).slopes(torch.tensor(t))
                below, above = slope_of(spec, Fraction(t))
                assert Fraction(float(found[0])) <= below <= above <= Fraction(float(found[1]))
