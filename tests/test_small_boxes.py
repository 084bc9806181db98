"""Training on small boxes: where they lie, the loss between its two ends, what it trains."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from equicert import recipes, small_boxes
from equicert.adversarial import SignAscent, adversarial_loss, inner_box
from equicert.attacks import PGD
from equicert.bounds import Interval
from equicert.certification import certify
from equicert.checkpoints import recorded_run
from equicert.data import load_data
from equicert.errors import ConfigError, InputError
from equicert.losses import InclusionLoss, clipped_box, elided_margins, inclusion_loss
from equicert.models import model_metadata
from equicert.network import ImplicitNetwork
from equicert.policies import Raise, RowCount
from equicert.presets import preset
from equicert.recipes import SmallBox, recipe_of
from equicert.schedules import TrainConfig
from equicert.small_boxes import small_box_loss
from equicert.stored import StoredNetwork
from equicert.training import Trainer
from networks import ACTIVATIONS, CONTRACTING
from test_adversarial import DOMAIN, EPS, WEIGHTS, draw
from test_training import blobs, interrupt, small, timeless

Boxes = tuple[Tensor, Tensor]
ONCE = SignAscent(1)


def loss_of(
    network: ImplicitNetwork,
    x: Tensor,
    labels: Tensor,
    tau: float,
    kappa: float = 1.0,
    ascent: SignAscent | None = None,
    seed: int = 0,
) -> InclusionLoss:
    rng, ascent = np.random.default_rng(seed), ascent or SignAscent(3)
    return small_box_loss(network, x, labels, EPS, kappa, tau, ascent, rng, domain=DOMAIN)


def on_small_boxes(**changes: Any) -> TrainConfig:
    ramp = {"ramp_start": 0.0, "ramp_end": 1.0, "attack_steps": 2}
    return small(**({"recipe": "small-box", "kappa": 1.0, "eps": EPS} | ramp | changes))


def gradients(loss: Tensor, network: ImplicitNetwork) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(network.parameters()))


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> list[Boxes]:
    """The boxes of every step from here on."""
    seen: list[Boxes] = []
    made = small_boxes.small_boxes

    def watched(*args: Any) -> Boxes:
        seen.append(made(*args))
        return seen[-1]

    monkeypatch.setattr(small_boxes, "small_boxes", watched)
    return seen


# --- the boxes


@given(
    x=st.floats(0, 1, width=32),
    eps=st.floats(0, 2),
    tau=st.floats(0, 1, exclude_min=True),
    share=st.floats(0, 1),
    double=st.booleans(),
    domain=st.sampled_from([None, (0.0, 1.0), (np.zeros(1), np.ones(1))]),
)
def test_they_hold_their_point_and_lie_in_the_whole_box(
    x: float, eps: float, tau: float, share: float, double: bool, domain: Any
) -> None:
    centre = torch.tensor([[x]], dtype=torch.float64 if double else torch.float32)
    ends = inner_box(centre, (1 - tau) * eps, domain)
    point = torch.clamp(torch.lerp(*ends, share), *ends)
    lo, hi = small_boxes.small_boxes(centre, point, eps, tau, domain)
    low, high = clipped_box(centre, eps, domain)
    assert lo.dtype == centre.dtype
    assert low <= lo <= point <= hi <= high
    unit = Fraction(torch.finfo(centre.dtype).eps) * Fraction(2 + 2 * eps)
    small, p = Fraction(tau) * Fraction(eps), Fraction(float(point))
    assert p - small - unit <= Fraction(float(lo))
    assert Fraction(float(hi)) <= p + small + unit
    # No narrower than asked for where nothing cuts it.
    if domain is None:
        assert Fraction(float(hi)) - Fraction(float(lo)) >= 2 * small - 4 * unit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [0.01, 0.4, 0.99])
def test_those_of_a_loss_lie_in_the_whole_box_and_the_domain(
    boxes: list[Boxes], tau: float, dtype: torch.dtype
) -> None:
    network, x, labels = draw(3)
    network, x = network.to(dtype), x.to(dtype)
    network.tolerance = 1e-4
    loss_of(network, x, labels, tau, ascent=SignAscent(2, 10.0))
    ((lo, hi),) = boxes
    low, high = clipped_box(x, EPS, DOMAIN)
    assert bool(((low <= lo) & (lo <= hi) & (hi <= high)).all())
    assert bool((lo >= 0).all() and (hi <= 1).all())
    assert bool((hi - lo <= 2 * tau * EPS + 1e-6).all())
    # Far steps go to corners, from where the small box reaches the end of the whole one.
    assert bool((torch.minimum(lo - low, high - hi) < 1e-6).any(1).all())


# --- the loss


@pytest.mark.parametrize("kappa", [0.25, 1.0])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_and_gradient_are_those_of_the_definition(
    boxes: list[Boxes], activation: str, kappa: float
) -> None:
    network, x, labels = draw(11, activation)
    loss = loss_of(network, x, labels, 0.4, kappa)
    zlo, zhi = network.reach(*boxes[0])
    margins = elided_margins(network.C, network.c, zlo, zhi, labels)
    robust = cross_entropy(-margins, labels)
    total = (1 - kappa) * cross_entropy(network(x), labels) + kappa * robust
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-9)
    assert loss.parts == {"robust_loss": loss.robust}
    assert (loss.nominal is None) == (kappa == 1)
    found, expected = gradients(loss.total, network), gradients(total, network)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kappa", [0.0, 0.25, 1.0])
def test_at_one_it_is_the_inclusion_loss_to_the_bit(kappa: float) -> None:
    network, x, labels = draw(12)
    rng = np.random.default_rng(0)
    loss = small_box_loss(network, x, labels, EPS, kappa, 1.0, ONCE, rng, domain=DOMAIN)
    whole = inclusion_loss(network, x, labels, EPS, kappa, DOMAIN)
    assert torch.equal(loss.total, whole.total)
    assert (loss.margins is None) == (whole.margins is None)
    pairs = zip(gradients(loss.total, network), gradients(whole.total, network), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("kappa", [0.25, 1.0])
def test_near_nothing_it_is_the_adversarial_loss(kappa: float) -> None:
    network, x, labels = draw(13)
    loss = loss_of(network, x, labels, 1e-9, kappa)
    rng = np.random.default_rng(0)
    at_points = adversarial_loss(network, x, labels, EPS, kappa, SignAscent(3), rng, DOMAIN)
    assert loss.total.item() == pytest.approx(at_points.total.item(), rel=1e-6)
    found, expected = gradients(loss.total, network), gradients(at_points.total, network)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), tau=st.floats(0.01, 0.99))
def test_it_lies_below_the_inclusion_loss_and_above_its_points(seed: int, tau: float) -> None:
    network, x, labels = draw(seed)
    loss = loss_of(network, x, labels, tau, seed=seed)
    whole = inclusion_loss(network, x, labels, EPS, 1.0, DOMAIN)
    assert loss.margins is not None
    assert whole.margins is not None
    assert bool((loss.margins >= whole.margins - 1e-9).all())
    at = network.materialise()
    rng, radius = np.random.default_rng(seed), (1 - tau) * EPS
    points = SignAscent(3).search(network, at, x, labels, radius, rng, DOMAIN)
    y = network(points)
    assert bool((loss.margins <= y.gather(1, labels[:, None]) - y + 1e-9).all())


@pytest.mark.parametrize("name", CONTRACTING)
def test_awkward_networks_have_finite_gradients(name: str) -> None:
    case = CONTRACTING[name]
    held = StoredNetwork.from_arrays(*case.arrays, activation=case.activation, eta=case.eta)
    network = ImplicitNetwork.from_stored(held, tolerance=1e-6)
    x = torch.full((1, held.inputs), 0.5, dtype=torch.float64)
    if held.outputs < 2:
        with pytest.raises(InputError, match="one output"):
            loss_of(network, x, torch.tensor([0]), 0.4)
        return
    loss = loss_of(network, x, torch.tensor([1]), 0.4)
    loss.total.backward()
    assert bool(loss.total.isfinite())
    assert network.U.grad is not None
    assert bool(network.U.grad.isfinite().all())


@pytest.mark.parametrize(("kappa", "states"), [(1.0, "embedded"), (0.5, "joint")])
def test_it_costs_its_search_and_one_solve(kappa: float, states: str) -> None:
    count = RowCount(Raise())
    network, x, labels = draw(10, policy=count)
    loss = loss_of(network, x, labels, 0.4, kappa, SignAscent(4))
    rows = len(x)
    searched = {"forward solve": 4 * rows, "adjoint solve": 4 * rows}
    assert count.rows == searched | {f"{states} solve": rows}
    loss.total.backward()
    assert count.rows["adjoint solve"] == 5 * rows


@pytest.mark.parametrize(("eps", "kappa"), [(0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.1, 0.0)])
def test_without_radius_or_weight_it_is_the_nominal_loss(eps: float, kappa: float) -> None:
    network, x, labels = draw(12)
    rng = np.random.default_rng(0)
    loss = small_box_loss(network, x, labels, eps, kappa, 0.4, SignAscent(), rng)
    assert loss.total.item() == cross_entropy(network(x), labels).item()
    assert (loss.robust is None) == (kappa == 0)
    assert rng.random() == np.random.default_rng(0).random()


NAN = float("nan")
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "eps < 0": ({"eps": -0.1}, "eps must be finite and >= 0, got -0.1"),
    "eps NaN": ({"eps": NAN}, "eps must be"),
    "eps infinite": ({"eps": float("inf")}, "eps must be"),
    "kappa > 1": ({"kappa": 1.5}, r"kappa must lie in \[0, 1\], got 1.5"),
    "tau = 0": ({"tau": 0.0}, r"tau must lie in \(0, 1\], got 0.0"),
    "tau < 0": ({"tau": -0.4}, r"tau must lie in \(0, 1\], got -0.4"),
    "tau > 1": ({"tau": 1.01}, r"tau must lie in \(0, 1\], got 1.01"),
    "tau NaN": ({"tau": NAN}, r"tau must lie in \(0, 1\], got nan"),
    "tau, nothing searched": ({"tau": 2.0, "kappa": 0.0}, r"tau must lie in \(0, 1\]"),
    "label": ({"labels": torch.full((7,), 3)}, "label 3 of sample 0 is outside 0..2"),
    "label, tau = 1": ({"labels": torch.full((7,), 3), "tau": 1.0}, "label 3 of sample 0"),
    "x": ({"x": torch.full((7, 4), 1.5)}, "sample 0 lies outside its domain, or is NaN"),
    "x NaN": ({"x": torch.full((7, 4), NAN)}, "sample 0 lies outside its domain, or is NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case: str) -> None:
    changed, said = BAD[case]
    network, x, labels = draw(13)
    given = {"x": x, "labels": labels, "eps": 0.1, "kappa": 1.0, "tau": 0.4} | changed
    given["x"] = given["x"].to(x)
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=said) as caught:
        small_box_loss(network, **given, ascent=ONCE, rng=rng, domain=DOMAIN)
    assert "\n" not in str(caught.value)


# --- the recipe


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tau": 0.0}, r"tau must be in \(0, 1\], got 0.0"),
        ({"tau": -0.1}, r"tau must be in \(0, 1\], got -0.1"),
        ({"tau": 1.5}, r"tau must be in \(0, 1\], got 1.5"),
        ({"tau": NAN}, r"tau must be in \(0, 1\], got nan"),
        ({"tau": "0.4"}, "tau must be a number that float64 holds, got '0.4'"),
        ({"attack_steps": 0}, "attack_steps must be an integer >= 1"),
        ({"lipschitz_weight": 1.0}, "lipschitz_weight belongs to recipe 'lipschitz', not to 'sm"),
        ({"weights": "monotone"}, "monotone weights have no losses of .*, got small-box and 0.75"),
        ({"weights": "lben", "kappa": 0.0}, "lben weights have no losses"),
        ({"recipe": "inclusion", "tau": 0.2}, "tau belongs to recipe 'small-box', not to 'incl"),
        ({"recipe": "adversarial", "tau": 0.2}, "tau belongs to recipe 'small-box', not to 'adv"),
        ({"recipe": "lipschitz", "tau": 0.2}, "tau belongs to recipe 'small-box', not to 'lips"),
        ({"recipe": "small-boxes"}, "recipe must be one of .* small-box, got 'small-boxes'"),
    ],
    ids=str,
)
def test_bad_settings(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        TrainConfig.from_mapping({"recipe": "small-box"} | changes)
    assert "\n" not in str(caught.value)


def test_its_preset_is_its_recipe() -> None:
    recipe = recipe_of(preset("small-box", tau=0.3, attack_steps=5, attack_step_size=0.02))
    assert recipe == SmallBox(0.1, 1.0, 0.3, SignAscent(5, 0.02))
    config = preset("small-box")
    now = config.at(config.milestone("ramp_end"))
    assert recipe.moving(now) == {"eps": now.eps, "kappa": now.kappa}


def test_a_model_tells_its_boxes(tmp_path: Path) -> None:
    Trainer(blobs(), on_small_boxes(epochs=1, tau=0.3), tmp_path).run()
    told = model_metadata(tmp_path / "model.safetensors")
    wanted = {"recipe": "small-box", "trained_eps": "0.15", "trained_kappa": "1.0"}
    assert told.items() >= (wanted | {"trained_tau": "0.3", "attack_steps": "2"}).items()


def test_a_run_at_one_is_a_run_of_inclusion() -> None:
    ramp = {"ramp_start": 0.0, "ramp_end": 1.0, "kappa": 1.0, "eps": EPS}
    whole = Trainer(blobs(), small(**ramp)).run()
    same = Trainer(blobs(), on_small_boxes(tau=1.0)).run()
    assert same.network.digest == whole.network.digest
    assert timeless(same.metrics) == timeless(whole.metrics)
    other = Trainer(blobs(), on_small_boxes(tau=0.5)).run()
    assert other.network.digest != whole.network.digest


@pytest.mark.parametrize("weights", ["contracting", "row-sum", "feed-forward"])
def test_all_weights_that_contract_are_trained(weights: str) -> None:
    model = {"weights": weights, "hidden": 8, "input_gain": 1.0} | WEIGHTS[weights]
    config = on_small_boxes(**model, epochs=20, activation="leaky_relu(0.1)", eps=0.05)
    trained = Trainer(blobs(), config).run()
    first, last = trained.metrics[1], trained.metrics[-1]  # the first epoch has smaller boxes
    assert last["robust_loss"] < first["robust_loss"]
    assert last["clean_accuracy"] > 0.6
    assert 0 < last["certified_accuracy"] <= last["clean_accuracy"]
    assert (last["adversarial_loss"], last["eps"], last["kappa"]) == (None, 0.05, 1.0)
    assert min(last[f"{what}_steps"] for what in ("forward", "embedded", "adjoint")) >= 1


def test_an_interrupted_run_resumes_to_the_same_end(tmp_path: Path) -> None:
    config = on_small_boxes(tau=0.3)
    whole = Trainer(blobs(), config).run()
    interrupt(tmp_path, config)
    recorded = recorded_run(tmp_path)
    assert recorded.config == config
    torch.manual_seed(5)
    resumed = Trainer(blobs(), recorded.config, tmp_path, resume=True).run()
    assert resumed.network.digest == whole.network.digest
    assert timeless(resumed.metrics) == timeless(whole.metrics)


def test_each_step_draws_starts_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def watched(*args: Any, **kwargs: Any) -> InclusionLoss:
        drawn.append(args[7].random())
        return small_boxes.small_box_loss(*args, **kwargs)

    monkeypatch.setattr(recipes, "small_box_loss", watched)
    for seed in (0, 1):
        Trainer(blobs(), on_small_boxes(seed=seed)).run()
    assert len(set(drawn)) == 2 * 4 * 3


def test_digits_lie_between_what_attacks_find_and_what_bounds_prove() -> None:
    data = load_data("digits")
    rates = {"hidden": 20, "epochs": 6, "learning_rate": 2e-2, "decay": "cosine"}
    common = {**rates, "eps": 0.1, "input_gain": 1.0, "evaluate_samples": 0}
    config = on_small_boxes(**common, tau=0.4)
    trained = Trainer(data, config).run()
    losses = [line["robust_loss"] for line in trained.metrics[1:]]
    assert losses[-1] < 0.8 * losses[0]
    plain = Trainer(data, on_small_boxes(**common, tau=0.4, kappa=0.0)).run().network
    x, labels = torch.from_numpy(data.x_test[:60]), torch.from_numpy(data.y_test[:60])
    before, after = (
        PGD(steps=10).run(network, x, labels, 0.1, DOMAIN).status.count("unbroken")
        for network in (plain, trained.network)
    )
    verdicts = certify(trained.network, x, labels, 0.1, domain=DOMAIN, method=Interval())
    certified = sum(verdict.status == "certified" for verdict in verdicts)
    assert after > before + 10
    assert 0 < certified <= after
