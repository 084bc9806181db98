"""`certify` and `reach`: verdicts against exact rational arithmetic on tiny networks.

The box of the truth is the exact one, `[max(x - eps, lo), min(x + eps, hi)]` in rationals.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from fractions import Fraction
from typing import final

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import exact
import networks
from equicert import contraction
from equicert.bounds import Interval, Lipschitz, LipschitzRadius, Method
from equicert.boxes import Box, Domain
from equicert.certification import STATUSES, Verdict, certify, decide_boxes
from equicert.errors import InputError, NotContractingError, RoundingError
from equicert.image import reach
from equicert.lipschitz import Derived, Weighted
from equicert.network import ImplicitNetwork
from equicert.queries import Answer, Query
from equicert.stored import StoredNetwork
from equicert.weights import Free
from networks import CONTRACTING, HAIRLINE, NOT_CONTRACTING, PIECEWISE_LINEAR, Array, Network

METHODS = (
    Interval(),
    Lipschitz(),
    Lipschitz(local=True),
    LipschitzRadius(Weighted()),
    LipschitzRadius(Derived(), per_margin=True),
)
EACH = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
EACH_BOX = pytest.mark.parametrize("method", METHODS[:3], ids=lambda method: method.name)
DECIDABLE = [
    net
    for net in (*CONTRACTING.values(), *HAIRLINE.values())
    if net.contracting and net.piecewise_linear and net.states <= 3 and net.outputs > 1
]
Box1 = tuple[list[Fraction], list[Fraction]]

tiny = networks.contracting_networks(max_states=2, max_inputs=2, activations=PIECEWISE_LINEAR)
# Dyadic networks: margins of exactly 0, ties, and kinks at the sample are common.
grid = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0])


@st.composite
def dyadic(draw: st.DrawFn) -> Network:
    n, r, q = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(2, 3))

    def drawn(*shape: int) -> Array:
        flat = [draw(grid) for _ in range(math.prod(shape))]
        return np.array(flat).reshape(shape)

    W = drawn(n, n)
    W[np.diag_indices(n)] = 0.25 - abs(W).sum(1)
    return Network("dyadic", W, drawn(n, r), drawn(n), drawn(q, n), drawn(q))


def stored(net: Network, eta: Array | None = None) -> StoredNetwork:
    return StoredNetwork.from_arrays(
        *net.arrays, net.activation, eta=net.eta if eta is None else eta
    )


def exact_box(x: list[float], eps: list[float], domain: tuple[float, float] | None) -> Box1:
    lo = [Fraction(v) - Fraction(e) for v, e in zip(x, eps, strict=True)]
    hi = [Fraction(v) + Fraction(e) for v, e in zip(x, eps, strict=True)]
    if domain is not None:
        low, high = (Fraction(end) for end in domain)
        lo, hi = [max(v, low) for v in lo], [min(v, high) for v in hi]
    return lo, hi


def exact_margins(net: Network, label: int, box: Box1) -> list[Fraction]:
    """The exact minimum over the box of `y_label - y_j` for each other j."""
    C, c = exact.to_fractions(net.C), exact.to_fractions(net.c)
    others = [j for j in range(net.outputs) if j != label]
    A = [[a - b for a, b in zip(C[label], C[j], strict=True)] for j in others]
    d = [c[label] - c[j] for j in others]
    ranges = exact.exact_range(net.W, net.U, net.b, A, d, *box, net.activation)
    return [low for low, _ in ranges]


def check(
    net: Network, verdict: Verdict, x: list[float], eps: list[float], domain: Domain = None
) -> None:
    """A verdict against the truth."""
    assert verdict.status in STATUSES
    assert domain is None or all(isinstance(end, float) for end in domain)
    least = min(exact_margins(net, verdict.label, exact_box(x, eps, domain)))  # type: ignore[arg-type]
    assert verdict.margin == -math.inf or Fraction(verdict.margin) <= least
    if verdict.status == "certified":
        assert least > 0
        assert verdict.margin > 0
        assert verdict.predicted == verdict.label
        assert verdict.reason == ""
    elif verdict.status == "misclassified":
        assert min(exact_margins(net, verdict.label, exact_box(x, [0.0] * len(x), None))) < 0
        assert verdict.predicted not in (verdict.label, -1)
        assert verdict.reason == ""
    else:
        assert verdict.reason


# Exact arithmetic decides.


@EACH
@given(
    net=st.one_of(tiny.filter(lambda net: net.outputs > 1), dyadic()),
    eps=st.sampled_from([0.0, 1e-9, 1e-3, 0.1, 0.25, 1.0]),
    clip=st.booleans(),
    data=st.data(),
)
def test_verdicts_are_true(
    net: Network, method: Method, eps: float, clip: bool, data: st.DataObject
) -> None:
    values = st.one_of(grid, st.floats(-1, 1)) if not clip else st.floats(0, 1)
    x = [data.draw(values) for _ in range(net.inputs)]
    domain = (0.0, 1.0) if clip else None
    labels = torch.arange(net.outputs)
    points = torch.tensor(x).repeat(net.outputs, 1)
    for verdict in certify(stored(net), points, labels, eps, domain=domain, method=method):
        check(net, verdict, x, [eps] * net.inputs, domain)


@EACH
@pytest.mark.parametrize("net", DECIDABLE, ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.5])
def test_verdicts_on_awkward_networks_are_true(net: Network, method: Method, eps: float) -> None:
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.uniform(-1, 1, (3, net.inputs))).repeat(net.outputs, 1)
    labels = torch.arange(net.outputs).repeat_interleave(3)
    for row, verdict in enumerate(certify(stored(net), x, labels, eps, method=method)):
        check(net, verdict, x[row].tolist(), [eps] * net.inputs)


@EACH_BOX
def test_most_of_what_is_true_is_certified(method: Method) -> None:
    """Of random networks with margins that the box leaves room for; else nothing is tested."""
    rng = np.random.default_rng(1)
    certified = true = wrong = misclassified = 0
    for _ in range(40):
        net = networks.random_network(rng, 2, 2, 2)
        x = rng.uniform(-1, 1, 2).tolist()
        points = torch.tensor([x, x])
        for verdict in certify(stored(net), points, torch.arange(2), 0.05, method=method):
            check(net, verdict, x, [0.05, 0.05])
            true += min(exact_margins(net, verdict.label, exact_box(x, [0.05] * 2, None))) > 1e-2
            certified += verdict.status == "certified"
            wrong += min(exact_margins(net, verdict.label, exact_box(x, [0.0] * 2, None))) < -1e-4
            misclassified += verdict.status == "misclassified"
    assert true > 20
    assert certified > 0.7 * true
    assert misclassified >= wrong > 20


def copy_network(c: float = 0.0) -> Network:
    """y_0 - y_1 = x + c for x >= 0: every margin is known."""
    return Network(
        "copy",
        np.zeros((1, 1)),
        np.ones((1, 1)),
        np.zeros(1),
        np.array([[1.0], [0.0]]),
        np.array([c, 0.0]),
    )


@EACH_BOX
def test_the_smallest_true_margin_decides(method: Method) -> None:
    net = stored(copy_network())
    x = torch.tensor([[0.5]])
    cases = [(0.4, "certified"), (0.499999, "certified"), (0.5, "unknown"), (0.6, "unknown")]
    for eps, status in cases:
        [verdict] = certify(net, x, 0, eps, method=method)
        assert verdict.status == status
        assert verdict.margin <= max(0.5 - eps, 0)
        assert verdict.margin == pytest.approx(max(0.5 - eps, 0), abs=1e-6)
        [other] = certify(net, x, 1, eps, method=method)
        assert (other.status, other.predicted) == ("misclassified", 0)


@EACH
def test_a_tie_at_the_sample_is_neither_certified_nor_misclassified(method: Method) -> None:
    net = stored(copy_network())
    for label in (0, 1):
        [verdict] = certify(net, torch.zeros(1, 1), label, 0.0, method=method)
        assert (verdict.status, verdict.reason) == ("unknown", "margin")


@EACH
@pytest.mark.parametrize("gap", [1e-16, 1e-18, 1e-300, 5e-324])
def test_a_margin_below_what_float64_resolves_is_unknown(method: Method, gap: float) -> None:
    """The label loses, or wins, by less than a rounding: neither may be misread."""
    for sign in (1, -1):
        net = Network(
            "hairline",
            np.zeros((1, 1)),
            np.ones((1, 1)),
            np.zeros(1),
            np.array([[1.0], [1.0]]),
            np.array([sign * gap, 0.0]),
        )
        for label in (0, 1):
            [verdict] = certify(stored(net), torch.ones(1, 1), label, 0.0, method=method)
            check(net, verdict, [1.0], [0.0])
            assert verdict.status == "unknown"


def test_a_plain_argmax_that_errs_is_no_verdict() -> None:
    """y_1 = 1 + 2^-52 is rounded to 1 in two steps, the smaller y_2 up to 1 + 2^-52."""
    half = 2.0**-53
    net = Network(
        "argmax",
        np.zeros((2, 2)),
        np.ones((2, 1)),
        np.zeros(2),
        np.array([[0.0, 0.0], [1.0, half], [1.0, 1.2 * half]]),
        np.array([0.0, half, 0.0]),
    )
    [verdict] = certify(stored(net), torch.ones(1, 1), 1, 0.0)
    check(net, verdict, [1.0], [0.0])
    assert (verdict.status, verdict.predicted) == ("unknown", 2)


@final
@dataclasses.dataclass(frozen=True)
class Recorder(Method):
    """Remembers the boxes that it is asked about."""

    boxes: list[Box]
    name = "recorder"

    def answer(self, network: StoredNetwork, query: Query) -> Answer:
        self.boxes.append(query.box)
        return Interval().answer(network, query)


@pytest.mark.parametrize("eps", [1e-17, 0.1, 1 / 3, 0.7])
def test_the_box_that_is_proved_holds_the_exact_one(eps: float) -> None:
    """x + eps is no float64; the bounds after it have slack enough to hide a box too small."""
    x, recorder = [1.0, 0.3, -0.7], Recorder([])
    net = networks.random_network(np.random.default_rng(0), 2, 3, 2)
    certify(stored(net), torch.tensor(x), 0, eps, method=recorder)
    certify(stored(net), torch.tensor(x), 0, eps, domain=(-0.75, 1.0), method=recorder)
    for box, domain in zip(recorder.boxes, (None, (-0.75, 1.0)), strict=True):
        ends = exact_box(x, [eps] * 3, domain)
        for low, high, least, most in zip(
            box.lo[0].tolist(), box.hi[0].tolist(), *ends, strict=True
        ):
            assert Fraction(low) <= least
            assert most <= Fraction(high)


@EACH
def test_eps_may_be_a_vector_or_one_number_a_sample(method: Method) -> None:
    rng = np.random.default_rng(5)
    net = networks.random_network(rng, 2, 2, 2)
    x = torch.tensor(rng.uniform(-1, 1, (2, 2)))
    by_coordinate = torch.tensor([0.0, 0.3])
    by_sample = torch.tensor([[0.0], [0.3]])
    for label in (0, 1):
        labels = torch.full((2,), label)
        for row, verdict in enumerate(
            certify(stored(net), x, labels, by_coordinate, method=method)
        ):
            check(net, verdict, x[row].tolist(), by_coordinate.tolist())
        for row, verdict in enumerate(certify(stored(net), x, labels, by_sample, method=method)):
            check(net, verdict, x[row].tolist(), by_sample[row].tolist() * 2)


@EACH_BOX
def test_a_domain_clips_the_box_and_nothing_else_does(method: Method) -> None:
    net = stored(copy_network(c=-0.25))
    x = torch.tensor([[0.5]])
    [clipped] = certify(net, x, 0, 0.5, domain=(0.375, 1.0), method=method)
    assert clipped.status == "certified"
    assert clipped.margin == pytest.approx(0.125, abs=1e-6)
    assert clipped.margin <= 0.125
    [whole] = certify(net, x, 0, 0.5, method=method)
    assert whole.status == "unknown"
    with pytest.raises(InputError, match="outside its domain"):
        certify(net, x, 0, 0.1, domain=(0.6, 1.0), method=method)
    vectors = torch.tensor([0.375]), np.array([1.0])
    assert certify(net, x, 0, 0.5, domain=vectors, method=method) == [clipped]


# What is not proved is unknown.


@EACH
@pytest.mark.parametrize("net", NOT_CONTRACTING.values(), ids=str)
def test_networks_that_do_not_contract_are_unknown(net: Network, method: Method) -> None:
    x = torch.zeros(2, net.inputs)
    for eta in (None, np.ones(net.states)):
        found = certify(stored(net, eta), x, torch.tensor([0, 1]), 0.1, method=method)
        if "monotone" in net.name:  # what it predicts is known all the same
            assert [v.status for v in found] == ["unknown", "misclassified"]
            assert [v.predicted for v in found] == [0, 0]
        else:
            assert [(v.status, v.reason, v.predicted) for v in found] == [
                ("unknown", "not contracting", -1)
            ] * 2
        assert all(v.margin == -math.inf for v in found)
    with pytest.raises(NotContractingError):
        reach(stored(net), Box.around(x, 0.1))


@EACH
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_an_iteration_stopped_early_certifies_nothing_false(method: Method, steps: int) -> None:
    early = dataclasses.replace(method, max_steps=steps)  # type: ignore[type-var]
    for name in ("gamma near 1", "gamma near 1, diagonal", "saw of fact 4", "trap of fact 8"):
        net = CONTRACTING[name]
        x = torch.tensor([-1.0, 0.125, 1.0]).repeat(2)[:, None]
        labels = torch.tensor([0, 1]).repeat_interleave(3)
        for row, verdict in enumerate(certify(stored(net), x, labels, 0.01, method=early)):
            check(net, verdict, x[row].tolist(), [0.01])


@EACH
def test_an_iteration_that_missed_its_tolerance_is_the_reason(method: Method) -> None:
    net = networks.random_network(np.random.default_rng(3), 6, 2, 2, gamma=0.999)
    early = dataclasses.replace(method, max_steps=2)  # type: ignore[type-var]
    [verdict] = certify(stored(net), torch.zeros(1, 2), 0, 1.0, method=early)
    assert (verdict.status, verdict.reason) == ("unknown", "unconverged")


@EACH
def test_a_machine_that_fails_its_self_test_certifies_nothing(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(device: str) -> None:
        raise RoundingError(f"not plain on {device}")

    monkeypatch.setattr(contraction, "self_test", broken)
    [verdict] = certify(stored(copy_network()), torch.ones(1, 1), 0, 0.1, method=method)
    assert (verdict.status, verdict.reason) == ("unknown", "rounding")
    with pytest.raises(RoundingError):
        reach(stored(copy_network()), Box.around(torch.ones(1, 1), 0.1))


@EACH
def test_flushed_subnormals_certify_nothing_even_later(method: Method) -> None:
    """The network was proved contracting before the mode was switched."""
    net, x = stored(copy_network()), torch.ones(1, 1)
    box = Box.around(x, 0.1)
    labels = torch.zeros(1, dtype=torch.int64)
    [[before]] = [found.verdicts for found in decide_boxes(net, x, labels, box, method, 1)]
    assert before.status == "certified"
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        [[after]] = [found.verdicts for found in decide_boxes(net, x, labels, box, method, 1)]
        with pytest.raises(RoundingError):
            certify(net, x, 0, 0.1, method=method)
    finally:
        torch.set_flush_denormal(False)
    assert (after.status, after.reason) == ("unknown", "rounding")


@EACH
def test_numbers_that_overflow_are_unknown(method: Method) -> None:
    huge = Network(
        "huge",
        np.zeros((1, 1)),
        np.full((1, 1), 1e200),
        np.zeros(1),
        np.array([[1.0], [-1.0]]),
        np.zeros(2),
    )
    x = torch.tensor([[1e200], [1.0]])
    first, second = certify(stored(huge), x, torch.tensor([0, 0]), 0.0, method=method)
    assert first.status == "unknown"
    assert first.reason
    assert first.margin == -math.inf
    assert second.status == "certified"


def test_a_readout_that_overflows_has_no_prediction() -> None:
    net = copy_network()
    huge = dataclasses.replace(net, C=np.array([[1.7e308], [-1.7e308]]))
    [verdict] = certify(stored(huge), torch.tensor([[1e10]]), 1, 0.0)
    assert (verdict.status, verdict.predicted, verdict.margin) == ("unknown", -1, -math.inf)


# Batches, types and modules.


@pytest.mark.parametrize("method", [*METHODS[:3], METHODS[4]], ids=lambda method: method.name)
def test_the_batch_size_and_the_order_change_no_verdict(method: Method) -> None:
    rng = np.random.default_rng(7)
    net = networks.random_network(rng, 8, 3, 4, 0.5)
    network = stored(net)
    x = torch.tensor(rng.uniform(-1, 1, (23, 3)))
    labels = network.predict(x).argmax(1)
    labels[::5] = (labels[::5] + 1) % 4
    whole = certify(network, x, labels, 0.05, method=method)
    statuses = [(v.status, v.label, v.predicted, v.reason) for v in whole]
    assert {"certified", "misclassified", "unknown"} == {v.status for v in whole}
    for size in (1, 4, 22, 23, 1000):
        found = certify(network, x, labels, 0.05, method=method, batch_size=size)
        assert [(v.status, v.label, v.predicted, v.reason) for v in found] == statuses
        margins = [v.margin for v in found]
        assert margins == pytest.approx([v.margin for v in whole], abs=1e-9)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1))
    found = certify(network, x[order], labels[order], 0.05, method=method)
    assert [(v.status, v.label, v.predicted, v.reason) for v in found] == [
        statuses[row] for row in order.tolist()
    ]


def test_interval_is_the_default_and_certifies_what_lipschitz_does() -> None:
    rng = np.random.default_rng(13)
    net = networks.random_network(rng, 8, 3, 3, 0.5)
    network, x = stored(net), torch.tensor(rng.uniform(-1, 1, (60, 3)))
    labels = network.predict(x).argmax(1)
    default = certify(network, x, labels, 0.04)
    by_14 = certify(network, x, labels, 0.04, method=Interval())
    by_13 = certify(network, x, labels, 0.04, method=Lipschitz())
    assert default == by_14
    assert {v.method for v in by_14} == {"interval"}
    assert {v.method for v in by_13} == {"lipschitz"}
    for weak, strong in zip(by_13, by_14, strict=True):
        assert weak.margin <= strong.margin + 1e-5
        assert weak.status != "certified" or strong.status == "certified" or weak.margin < 1e-5
    count = [sum(v.status == "certified" for v in found) for found in (by_13, by_14)]
    assert 0 < count[0] < count[1] < 60


@pytest.mark.parametrize("hint", [[math.nan, 1.0], [-1.0, 1.0], [1e12, 1.0], [1.0, 1e-12]], ids=str)
def test_a_wrong_eta_changes_no_verdict(hint: list[float]) -> None:
    rng = np.random.default_rng(17)
    net = networks.random_network(rng, 2, 2, 3, 0.3, eta_spread=100.0)
    x = torch.tensor(rng.uniform(-1, 1, (20, 2)))
    labels = stored(net).predict(x).argmax(1)
    right = certify(stored(net), x, labels, 0.05)
    wrong = certify(stored(net, np.array(hint)), x, labels, 0.05)
    assert [v.status for v in wrong] == [v.status for v in right]
    for row, verdict in enumerate(wrong):
        check(net, verdict, x[row].tolist(), [0.05, 0.05])


def test_float32_points_are_the_numbers_they_are() -> None:
    net = copy_network(c=-0.1)
    x = torch.tensor([[0.1]], dtype=torch.float32)  # a little above 0.1
    assert x.double().item() > 0.1
    [single] = certify(stored(net), x, 0, 0.0)
    assert single.status == "certified"
    assert certify(stored(net), x.double(), 0, 0.0) == [single]
    assert certify(stored(net), x[0], torch.tensor([0]), 0.0) == [single]


def test_a_module_is_certified_at_its_present_weights() -> None:
    torch.manual_seed(0)
    module = ImplicitNetwork(3, 5, 3)
    x = torch.rand(8, 3)
    labels = module(x).argmax(1)
    found = certify(module, x, labels, 0.01, domain=(0.0, 1.0))
    assert found == certify(module.store(), x, labels, 0.01, domain=(0.0, 1.0))
    assert any(v.status == "certified" for v in found)
    with torch.no_grad():
        module.C.neg_()
        module.c.neg_()
    flipped = certify(module, x, labels, 0.01, domain=(0.0, 1.0))
    assert not any(v.status == "certified" for v in flipped)


def test_nothing_is_left_to_autograd() -> None:
    module = ImplicitNetwork(2, 3, 2)
    image = reach(module, Box.around(torch.zeros(1, 2, requires_grad=True), 0.1))
    assert not image.output.lo.requires_grad
    assert torch.is_grad_enabled()


def test_no_samples_have_no_verdicts() -> None:
    empty = torch.zeros(0, 1)
    assert certify(stored(copy_network()), empty, torch.zeros(0, dtype=torch.int64), 0.1) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x: certify(net, x, 0, -0.1), "eps must be finite and >= 0"),
        (lambda net, x: certify(net, x, 0, math.nan), "eps must be finite and >= 0"),
        (lambda net, x: certify(net, x, 0, math.inf), "eps must be finite and >= 0"),
        (lambda net, x: certify(net, x, 0, torch.ones(3)), "eps is a number or a vector"),
        (lambda net, x: certify(net, x, 2, 0.1), "label 2 of sample 0"),
        (lambda net, x: certify(net, x, -1, 0.1), "label -1 of sample 0"),
        (lambda net, x: certify(net, x, torch.tensor([0, 1]), 0.1), "1 samples need 1 labels"),
        (lambda net, x: certify(net, x, torch.tensor([0.0]), 0.1), "integers"),
        (lambda net, _: certify(net, torch.ones(1, 2), 0, 0.1), "inputs of 1 numbers"),
        (lambda net, x: certify(net, x * math.nan, 0, 0.1), "NaN or infinite"),
        (lambda net, x: certify(net, x, 0, 0.1, domain=(2.0, 3.0)), "outside its domain"),
        (lambda net, x: certify(net, x, 0, 0.1, domain=(3.0, 2.0)), "inverted"),
        (lambda net, x: certify(net, x, 0, 0.1, batch_size=0), "batch_size"),
        (lambda net, _: reach(net, Box(torch.zeros(1, 2), torch.ones(1, 2))), "2 inputs"),
    ],
)
def test_bad_input_is_one_clear_line(
    call: Callable[[StoredNetwork, Tensor], object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call(stored(copy_network()), torch.ones(1, 1))
    assert "\n" not in str(caught.value)


def test_one_output_has_no_verdict() -> None:
    with pytest.raises(InputError, match="one output"):
        certify(stored(CONTRACTING["one state, one output"]), torch.zeros(1, 1), 0, 0.1)


def test_verdicts_are_written_as_json() -> None:
    lost = Verdict("unknown", 1, -1, -math.inf, "interval", "not contracting")
    line = json.dumps(lost.to_json(), allow_nan=False)
    assert json.loads(line)["margin"] is None
    found = Verdict("certified", 1, 1, 0.1, "interval", "")
    assert Verdict(**found.to_json()) == found  # type: ignore[arg-type]


# Images of boxes.


@given(net=tiny, eps=st.sampled_from([0.0, 1e-3, 0.5]))
def test_reach_holds_the_exact_image(net: Network, eps: float) -> None:
    rng = np.random.default_rng(net.states)
    box = Box.around(torch.tensor(rng.uniform(-1, 1, (2, net.inputs))), eps)
    image = reach(stored(net), box)
    assert image.proved.all()
    assert exact.contracts(net.W, image.contraction.eta)
    identity, zero = np.eye(net.states), np.zeros(net.states)
    for row in range(2):
        x = box.lo[row].tolist(), box.hi[row].tolist()
        for C, c, found in ((net.C, net.c, image.output), (identity, zero, image.state)):
            truth = exact.exact_range(net.W, net.U, net.b, C, c, *x, net.activation)
            ends = found.lo[row].tolist(), found.hi[row].tolist()
            for low, high, (least, most) in zip(*ends, truth, strict=True):
                assert Fraction(low) <= least
                assert most <= Fraction(high)


@pytest.mark.parametrize(
    "net", [net for name, net in CONTRACTING.items() if "gamma near 1" not in name], ids=str
)
def test_reach_of_a_point_is_nearly_a_point(net: Network) -> None:
    x = torch.full((1, net.inputs), 0.25)
    image = reach(stored(net), Box.around(x, 0.0))
    width = image.output.hi - image.output.lo
    eta = image.contraction.eta / image.contraction.eta.min()
    scale = (image.state.hi.abs() + eta) @ torch.tensor(abs(net.C)).T + abs(float(net.c.max()))
    assert (width <= 1e-5 * scale).all()


def test_reach_of_no_boxes_is_empty() -> None:
    image = reach(stored(copy_network()), Box(torch.zeros(0, 1), torch.zeros(0, 1)))
    assert image.output.lo.shape == (0, 2)
    assert image.state.lo.shape == (0, 1)
    assert image.reason == ()


def test_an_image_that_is_not_proved_is_an_error_that_names_the_box() -> None:
    huge = dataclasses.replace(copy_network(), U=np.full((1, 1), 1e200))
    box = Box.around(torch.tensor([[1.0], [1e200]]), 0.0)
    with pytest.raises(InputError, match="box 1 has no proved image"):
        reach(stored(huge), box)
    readout = dataclasses.replace(copy_network(), C=np.full((2, 1), 1e200))
    with pytest.raises(InputError):
        reach(stored(readout), Box.around(torch.tensor([[1e200]]), 0.0))


def test_a_module_that_does_not_contract_is_refused() -> None:
    module = ImplicitNetwork(1, 1, 2, weight=Free(torch.full((1, 1), 2.0)))
    with pytest.raises(NotContractingError):
        reach(module, Box.around(torch.zeros(1, 1), 0.1))
