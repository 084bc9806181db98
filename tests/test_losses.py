"""The loss (11) of [J22] against its definition on tiny networks."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from equicert.activations import parse_activation
from equicert.boxes import Box
from equicert.errors import InputError
from equicert.losses import InclusionLoss, clipped_box, elided_margins, inclusion_loss
from equicert.materialised import Materialised
from equicert.network import ImplicitNetwork
from equicert.policies import Raise, Tally
from equicert.stored import StoredNetwork
from networks import ACTIVATIONS, Array, Network, arrays, random_network

EPS, KAPPA = 0.15, 0.75
DOMAIN = (0.0, 1.0)


def module(case: Network, tally: Tally | None = None) -> ImplicitNetwork:
    """Return the case as a module that solves far beyond the tests' tolerances."""
    stored = StoredNetwork.from_arrays(*case.arrays, activation=case.activation)
    return ImplicitNetwork.from_stored(stored, tolerance=1e-13, on_unconverged=tally)


def draw(
    seed: int, activation: str = "relu", n: int = 3, q: int = 3
) -> tuple[Network, Tensor, Tensor]:
    """Return a random network with inputs in [0, 1]^2 and labels."""
    rng = np.random.default_rng(seed)
    case = random_network(rng, n=n, r=2, q=q, gamma=0.3, activation=activation)
    return case, torch.tensor(rng.uniform(0, 1, (5, 2))), torch.tensor(rng.integers(0, q, 5))


def state_box_by_definition(case: Network, lo: Array, hi: Array) -> tuple[Array, Array]:
    """Iterate (6) of [J22] as printed on rows: Metzler parts, four products, the average map."""
    phi = parse_activation(case.activation).phi
    diagonal = np.diag(np.diagonal(case.W))
    ceil = diagonal + np.maximum(case.W - diagonal, 0)
    floor = case.W - ceil
    positive, negative = np.maximum(case.U, 0), np.minimum(case.U, 0)
    alpha = 1 / (1 - np.diagonal(case.W).min(initial=0))
    zlo = zhi = np.zeros((len(lo), case.states))
    u_lo = lo @ positive.T + hi @ negative.T + case.b
    u_hi = hi @ positive.T + lo @ negative.T + case.b
    for _ in range(10_000):
        s_lo = zlo @ ceil.T + zhi @ floor.T + u_lo
        s_hi = zhi @ ceil.T + zlo @ floor.T + u_hi
        step_lo = alpha * (phi(torch.from_numpy(s_lo)).numpy() - zlo)
        step_hi = alpha * (phi(torch.from_numpy(s_hi)).numpy() - zhi)
        zlo, zhi = zlo + step_lo, zhi + step_hi
        if max(np.abs(step_lo).max(), np.abs(step_hi).max()) < 1e-14:
            return zlo, zhi
    raise AssertionError("the iteration by definition does not settle")


def margins_by_enumeration(C: Array, c: Array, zlo: Array, zhi: Array, label: int) -> Array:
    """Return the least y_label - y_j over the corners of [zlo, zhi]."""
    corners = np.array(list(itertools.product(*zip(zlo, zhi, strict=True))))
    y = corners @ C.T + c
    return (y[:, [label]] - y).min(0)


def loss_by_definition(case: Network, x: Tensor, labels: Tensor, clip: bool) -> float:
    points = x.numpy()
    lo, hi = points - EPS, points + EPS
    if clip:
        lo, hi = np.clip(lo, *DOMAIN), np.clip(hi, *DOMAIN)
    outputs = state_box_by_definition(case, points, points)[0] @ case.C.T + case.c
    zlo, zhi = state_box_by_definition(case, lo, hi)
    losses = []
    for k, label in enumerate(labels.tolist()):
        worst = -margins_by_enumeration(case.C, case.c, zlo[k], zhi[k], label)
        nominal, robust = (
            math.log(np.exp(logits).sum()) - logits[label] for logits in (outputs[k], worst)
        )
        losses.append((1 - KAPPA) * nominal + KAPPA * robust)
    return float(np.mean(losses))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_is_its_definition(activation: str, clip: bool) -> None:
    case, x, labels = draw(1, activation)
    loss = inclusion_loss(module(case), x, labels, EPS, KAPPA, DOMAIN if clip else None)
    assert loss.total.item() == pytest.approx(loss_by_definition(case, x, labels, clip), rel=1e-9)


def test_clipping_matters_in_these_cases() -> None:
    case, x, labels = draw(1)
    assert loss_by_definition(case, x, labels, True) < loss_by_definition(case, x, labels, False)


@given(C=arrays((3, 2), 4.0), c=arrays((3,), 4.0), lo=arrays((2,), 4.0), width=arrays((2,), 2.0))
def test_elided_margin_is_the_least_one(C: Array, c: Array, lo: Array, width: Array) -> None:
    zlo, zhi = (torch.from_numpy(z).repeat(3, 1) for z in (lo, lo + np.abs(width)))
    found = elided_margins(torch.from_numpy(C), torch.from_numpy(c), zlo, zhi, torch.arange(3))
    for label in range(3):
        expected = margins_by_enumeration(C, c, zlo[0].numpy(), zhi[0].numpy(), label)
        np.testing.assert_allclose(found[label].numpy(), expected, atol=1e-12)
    assert bool((found.diagonal() == 0).all())


@given(seed=st.integers(0, 2**32 - 1))
def test_elision_gains_on_bounding_the_outputs_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    C, c = torch.tensor(rng.normal(size=(4, 3))), torch.tensor(rng.normal(size=4))
    zlo = torch.tensor(rng.normal(size=(6, 3)))
    zhi = zlo + torch.tensor(rng.uniform(0.1, 1, (6, 3)))
    labels = torch.tensor(rng.integers(0, 4, 6))
    lower = zlo @ C.clamp(min=0).mT + zhi @ C.clamp(max=0).mT + c
    upper = zhi @ C.clamp(min=0).mT + zlo @ C.clamp(max=0).mT + c
    apart = lower.gather(1, labels[:, None]) - upper
    elided = elided_margins(C, c, zlo, zhi, labels)
    assert bool((elided >= apart - 1e-12).all())
    # Where two rows share a sign they gain |a| + |b| - |a - b| on half the width.
    a, b = C[labels][:, None], C
    shared = torch.where(a * b > 0, torch.minimum(a.abs(), b.abs()), torch.zeros(()))
    gain = (shared * (zhi - zlo)[:, None]).sum(-1)
    torch.testing.assert_close(elided - apart, gain)
    assert gain.max().item() > 0


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_point_of_the_box_is_worse(seed: int) -> None:
    case, x, labels = draw(seed)
    network = module(case)
    loss = inclusion_loss(network, x, labels, EPS, 1.0, DOMAIN)
    box = Box.within(x, EPS, DOMAIN)
    for corner in (box.lo, box.hi, box.lo + 0.3 * (box.hi - box.lo)):
        y = network(corner)
        margins = y.gather(1, labels[:, None]) - y
        assert loss.margins is not None
        assert bool((margins >= loss.margins - 1e-10).all())
        assert cross_entropy(y, labels).item() <= loss.total.item() + 1e-10


def test_box_of_no_width_has_the_nominal_loss() -> None:
    case, x, labels = draw(2)
    network = module(case)
    y = network(x)
    for kappa in (0.0, 0.5, 1.0):
        loss = inclusion_loss(network, x, labels, 0.0, kappa, DOMAIN)
        torch.testing.assert_close(loss.total, cross_entropy(y, labels), rtol=1e-12, atol=0)
    assert loss.margins is not None
    torch.testing.assert_close(loss.margins, y.gather(1, labels[:, None]) - y)
    # The same by way of the embedded network, in the limit.
    near = inclusion_loss(network, x, labels, 1e-13, 1.0)
    torch.testing.assert_close(near.total, loss.total, rtol=1e-9, atol=0)


def test_parts_make_the_whole() -> None:
    case, x, labels = draw(3)
    network = module(case)
    loss = inclusion_loss(network, x, labels, EPS, KAPPA)
    assert loss.robust is not None
    assert loss.margins is not None
    assert loss.nominal is not None
    assert loss.outputs is not None
    assert loss.robust.item() > loss.nominal.item()
    torch.testing.assert_close(loss.outputs, network(x))
    torch.testing.assert_close(loss.nominal, cross_entropy(loss.outputs, labels))
    torch.testing.assert_close(loss.robust, cross_entropy(-loss.margins, labels))
    torch.testing.assert_close(loss.total, (1 - KAPPA) * loss.nominal + KAPPA * loss.robust)


@pytest.mark.parametrize(
    ("eps", "kappa", "solves"),
    [
        (EPS, 0.0, {"forward solve"}),
        (0.0, KAPPA, {"forward solve"}),
        (EPS, KAPPA, {"joint solve"}),
        (EPS, 1.0, {"embedded solve"}),
    ],
)
def test_weight_is_made_once_and_only_needed_solves_run(
    eps: float, kappa: float, solves: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, x, labels = draw(4)
    tally = Tally(Raise())
    network = module(case, tally)
    made: list[Materialised] = []
    materialise = ImplicitNetwork.materialise

    def counted(self: ImplicitNetwork) -> Materialised:
        made.append(materialise(self))
        return made[-1]

    monkeypatch.setattr(ImplicitNetwork, "materialise", counted)
    loss = inclusion_loss(network, x, labels, eps, kappa)
    assert len(made) == 1
    assert tally.mean_steps().keys() == solves
    assert (loss.robust is None) == (kappa == 0)


@pytest.mark.parametrize(
    ("activation", "kappa"), [("relu", 0.0), ("relu", KAPPA), ("leaky_relu(0.1)", 1.0)]
)
def test_gradient_is_the_difference_quotient(activation: str, kappa: float) -> None:
    torch.manual_seed(5)
    network = ImplicitNetwork(
        2, 3, 3, activation=parse_activation(activation), gamma=0.2, tolerance=1e-11
    )
    with torch.no_grad():
        network.weight.get_parameter("log_eta").uniform_(-0.5, 0.5)
        network.C.mul_(3)
        network.b.add_(0.3)
    x = torch.tensor([[0.2, 0.55], [0.95, 0.02]], requires_grad=True)
    labels = torch.tensor([0, 2])

    def loss(*_: Tensor) -> Tensor:
        # gradcheck moves the entries of its arguments in place: of the very parameters.
        return inclusion_loss(network, x, labels, EPS, kappa, DOMAIN).total

    leaves = (x, *network.parameters())
    assert len(leaves) == 7
    assert torch.autograd.gradcheck(loss, leaves, eps=1e-6, atol=1e-7)


@given(seed=st.integers(0, 2**32 - 1), eps=st.floats(0, 2))
def test_box_is_the_clipped_one(seed: int, eps: float) -> None:
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.uniform(0, 1, (4, 3)))
    x[0] = torch.tensor([0.0, 1.0, 0.5])
    ends = torch.tensor(rng.uniform(-1, 0, 3)), torch.tensor(rng.uniform(1, 2, 3))
    for domain in (None, DOMAIN, ends):
        lo, hi = clipped_box(x, eps, domain)
        inner, outer = Box.within(x, eps, domain), Box.around(x, eps, domain)
        assert bool(((outer.lo <= lo) & (lo <= inner.lo)).all())
        assert bool(((inner.hi <= hi) & (hi <= outer.hi)).all())


def test_box_keeps_the_dtype_of_its_points() -> None:
    lo, hi = clipped_box(torch.tensor([[0.1, 0.95]], dtype=torch.float32), 0.1, DOMAIN)
    assert lo.dtype == hi.dtype == torch.float32
    assert lo.tolist()[0][0] == pytest.approx(0.0)
    assert hi.tolist()[0][1] == 1.0


def robust_loss(
    eps: float = EPS, kappa: float = KAPPA, labels: Tensor | None = None, x: Tensor | None = None
) -> InclusionLoss:
    case, points, classes = draw(6)
    return inclusion_loss(
        module(case),
        points if x is None else x,
        classes if labels is None else labels,
        eps,
        kappa,
        DOMAIN,
    )


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_bad_eps(bad: float) -> None:
    with pytest.raises(InputError, match=f"eps must be finite and >= 0, got {bad}"):
        robust_loss(eps=bad)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_bad_kappa(bad: float) -> None:
    with pytest.raises(InputError, match=rf"kappa must lie in \[0, 1\], got {bad}"):
        robust_loss(kappa=bad)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([0, 1, 3, 0, 0]), "label 3 of sample 2 is out of range.* 0..2"),
        (torch.tensor([0, -1, 0, 0, 0]), "label -1 of sample 1"),
        (torch.tensor([0, 1]), r"shape \(5,\)"),
        (torch.zeros(5), "int64"),
    ],
)
@pytest.mark.parametrize("kappa", [0.0, KAPPA])
def test_bad_labels(labels: Tensor, said: str, kappa: float) -> None:
    with pytest.raises(InputError, match=said):
        robust_loss(labels=labels, kappa=kappa)


def test_point_outside_its_domain() -> None:
    with pytest.raises(InputError, match="inverted"):
        robust_loss(x=torch.full((5, 2), 1.5))
