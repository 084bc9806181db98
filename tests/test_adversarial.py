"""Adversarial training: what the search finds, what it costs, and what training makes of it."""

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

from equicert import adversarial, recipes
from equicert.adversarial import (
    AdversarialLoss,
    SignAscent,
    adversarial_loss,
    ascent_direction,
    inner_box,
)
from equicert.attacks import PGD
from equicert.bounds import Interval, Spectral
from equicert.certification import certify
from equicert.checkpoints import recorded_run
from equicert.data import load_data
from equicert.errors import ConfigError, InputError
from equicert.models import model_metadata
from equicert.network import ImplicitNetwork
from equicert.operators import Dense
from equicert.policies import Policy, Raise, RowCount
from equicert.recipes import recipe_of
from equicert.schedules import TrainConfig
from equicert.stored import StoredNetwork
from equicert.training import Trainer
from monotone_networks import MONOTONE
from monotone_networks import stored as stored_monotone
from networks import ACTIVATIONS, CONTRACTING, random_network
from test_training import StopAt, blobs, interrupt, small, timeless

SLOW = ("near-singular m", "strong rotation")  # thousands of steps a solve
EPS, DOMAIN = 0.15, (0.0, 1.0)
WEIGHTS: dict[str, dict[str, Any]] = {
    "contracting": {"gamma": 0.2},
    "row-sum": {"row_sum_bound": 0.75},
    "feed-forward": {"layers": "8,6", "hidden": 100},
    "monotone": {"m": 0.5},
    "lben": {"m": 0.5, "prescribed_lipschitz": 20.0},
}


def draw(
    seed: int, activation: str = "relu", inputs: int = 4, policy: Policy | None = None
) -> tuple[ImplicitNetwork, Tensor, Tensor]:
    """Return a random network that solves accurately, points of the unit cube, and labels."""
    rng = np.random.default_rng(seed)
    case = random_network(rng, n=6, r=inputs, q=3, gamma=0.3, activation=activation)
    network = StoredNetwork.from_arrays(*case.arrays, activation=activation)
    module = ImplicitNetwork.from_stored(network, tolerance=1e-12, on_unconverged=policy)
    x = torch.tensor(rng.uniform(0, 1, (7, inputs)))
    return module, x, torch.tensor(rng.integers(0, 3, 7))


def searched(
    network: ImplicitNetwork,
    x: Tensor,
    labels: Tensor,
    kappa: float = 1.0,
    ascent: SignAscent | None = None,
    seed: int = 0,
) -> AdversarialLoss:
    rng = np.random.default_rng(seed)
    return adversarial_loss(network, x, labels, EPS, kappa, ascent or SignAscent(), rng, DOMAIN)


def margin_loss(y: Tensor, labels: Tensor) -> Tensor:  # (batch,)
    """`log sum_{j != label} exp(y_j) - y_label` by its definition."""
    rows = zip(y, labels.tolist(), strict=True)
    others = [torch.cat([row[:k], row[k + 1 :]]).logsumexp(0) - row[k] for row, k in rows]
    return torch.stack(others)


def adversarially(**changes: Any) -> TrainConfig:
    ramp = {"ramp_start": 0.0, "ramp_end": 1.0, "attack_steps": 3}
    return small(**({"recipe": "adversarial", "kappa": 1.0, "eps": EPS} | ramp | changes))


# --- the box


@given(
    x=st.floats(0, 1, width=32),
    eps=st.floats(0, 2),
    double=st.booleans(),
    domain=st.sampled_from([None, (0.0, 1.0), (np.zeros(1), np.ones(1))]),
)
def test_inner_box_is_exact_but_for_the_last_places(
    x: float, eps: float, double: bool, domain: Any
) -> None:
    point = torch.tensor([[x]], dtype=torch.float64 if double else torch.float32)
    lo, hi = (Fraction(float(end)) for end in inner_box(point, eps, domain))
    low, high = Fraction(x) - Fraction(eps), Fraction(x) + Fraction(eps)
    if domain is not None:
        low, high = max(low, Fraction(0)), min(high, Fraction(1))
    assert low <= lo <= Fraction(x) <= hi <= high
    unit = Fraction(torch.finfo(point.dtype).eps)
    for gap in (lo - low, high - hi):
        assert gap <= 3 * unit * (Fraction(x) + Fraction(eps)) + Fraction(2) ** -140


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan")])
def test_a_point_outside_its_domain_is_refused(bad: float) -> None:
    x = torch.tensor([[0.5, 0.5], [0.5, bad]])
    with pytest.raises(InputError, match="sample 1 lies outside its domain, or is NaN"):
        inner_box(x, 0.1, DOMAIN)


# --- the search


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ascent", [SignAscent(), SignAscent(2), SignAscent(4, 10.0)], ids=repr)
def test_what_is_found_lies_in_the_exact_box(ascent: SignAscent, dtype: torch.dtype) -> None:
    network, x, labels = draw(3)
    network, x = network.to(dtype), x.to(dtype)
    network.tolerance = 1e-4
    found = searched(network, x, labels, ascent=ascent).points
    assert found.dtype == dtype
    assert not found.requires_grad
    for point, centre in zip(found.flatten().tolist(), x.flatten().tolist(), strict=True):
        assert abs(Fraction(point) - Fraction(centre)) <= Fraction(EPS)
        assert 0 <= point <= 1


def check_direction(
    network: ImplicitNetwork, x: Tensor, labels: Tensor, step: float = 1e-6
) -> None:
    """Compare `ascent_direction` with finite differences of the definition."""
    found = ascent_direction(network, network.materialise().without_history, x, labels)
    for entry in range(x.shape[1]):
        moved = step * torch.eye(x.shape[1], dtype=x.dtype)[entry]
        with torch.no_grad():
            ends = [margin_loss(network(x + side * moved), labels) for side in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(found[:, entry], slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_direction_is_the_gradient(activation: str) -> None:
    network, x, labels = draw(5, activation)
    check_direction(network, x, labels)


@pytest.mark.parametrize("name", [name for name in MONOTONE if name not in SLOW])
def test_the_direction_is_the_gradient_of_monotone_networks(name: str) -> None:
    held = stored_monotone(MONOTONE[name], "tanh")
    network = ImplicitNetwork.from_stored(held, tolerance=1e-10)
    rng = np.random.default_rng(1)
    x = torch.tensor(rng.uniform(0, 1, (3, held.inputs)))
    check_direction(network, x, torch.tensor([0, 1, 0]), step=1e-5)


def test_the_direction_is_that_of_cross_entropy() -> None:
    network, x, labels = draw(6)
    free = x.clone().requires_grad_()
    loss = cross_entropy(network(free), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, free)
    found = ascent_direction(network, network.materialise().without_history, x, labels)
    cosine = torch.nn.functional.cosine_similarity(found, gradient)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_the_direction_survives_where_the_label_wins_by_far() -> None:
    network, x, labels = draw(7)
    network, x = network.float(), x.float()
    network.tolerance = 1e-4
    with torch.no_grad():
        network.c[0] = 1e4
    labels = torch.zeros_like(labels)
    found = ascent_direction(network, network.materialise().without_history, x, labels)
    assert bool((found.abs().amax(1) > 0).all())


@pytest.mark.parametrize("name", CONTRACTING)
def test_awkward_networks_are_searched(name: str) -> None:
    case = CONTRACTING[name]
    held = StoredNetwork.from_arrays(*case.arrays, activation=case.activation, eta=case.eta)
    network = ImplicitNetwork.from_stored(held, tolerance=1e-6)
    x = torch.full((1, held.inputs), 0.5, dtype=torch.float64)
    if held.outputs < 2:
        with pytest.raises(InputError, match="one output"):
            searched(network, x, torch.tensor([0]))
        return
    loss = searched(network, x, torch.tensor([1]))
    loss.total.backward()
    assert bool(loss.total.isfinite())
    assert network.U.grad is not None
    assert bool(network.U.grad.isfinite().all())


def test_a_step_follows_the_signs_and_is_projected() -> None:
    network, x, labels = draw(8)
    at = network.materialise().without_history
    box = inner_box(x, EPS, DOMAIN)
    direction = ascent_direction(network, at, x, labels)
    for size in (0.01, 0.12, 1.0):
        found = SignAscent(1, size).climb(network, at, x, labels, box, EPS)
        assert torch.equal(found, (x + size * direction.sign()).clamp(*box))
    usual = SignAscent(2).climb(network, at, x, labels, box, EPS)
    same = SignAscent(2, 2.5 * EPS / 2).climb(network, at, x, labels, box, EPS)
    assert torch.equal(usual, same)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_search_finds_worse_points_than_chance(seed: int) -> None:
    network, x, labels = draw(seed)
    loss = searched(network, x, labels, seed=seed)
    lo, hi = inner_box(x, EPS, DOMAIN)
    share = torch.rand(50, *x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        chance = network(lo + share * (hi - lo))
        nominal = cross_entropy(network(x), labels).item()
    mean = cross_entropy(chance.flatten(0, 1), labels.repeat(50)).item()
    # Equal where a network hardly depends on its input.
    assert loss.total.item() >= max(mean, nominal) - 1e-12


def test_who_shares_the_batch_does_not_matter() -> None:
    network, x, labels = draw(9)
    at = network.materialise().without_history
    box = inner_box(x, EPS, DOMAIN)
    together = SignAscent().climb(network, at, x, labels, box, EPS)
    for k in range(len(x)):
        row = slice(k, k + 1)
        ends = box[0][row], box[1][row]
        alone = SignAscent().climb(network, at, x[row], labels[row], ends, EPS)
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-14)


def test_a_search_costs_a_forward_and_an_adjoint_solve_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = RowCount(Raise())
    network, x, labels = draw(10, policy=count)
    proofs, weights = [], []
    prove, cotangents = network.weight.proof, Dense.cotangents
    monkeypatch.setattr(network.weight, "proof", lambda W: proofs.append(W) or prove(W))
    monkeypatch.setattr(
        Dense, "cotangents", lambda self, *a, **k: weights.append(0) or cotangents(self, *a, **k)
    )
    loss = searched(network, x, labels, ascent=SignAscent(4))
    rows = len(x)
    assert count.rows == {"forward solve": 5 * rows, "adjoint solve": 4 * rows}
    assert (len(proofs), len(weights)) == (1, 0)
    loss.total.backward()
    assert count.rows["adjoint solve"] == 5 * rows
    assert (len(proofs), len(weights)) == (1, 1)


# --- the loss


@pytest.mark.parametrize("kappa", [0.25, 1.0])
def test_loss_is_its_definition_and_so_is_its_gradient(kappa: float) -> None:
    network, x, labels = draw(11)
    loss = searched(network, x, labels, kappa)
    worst = cross_entropy(network(loss.points), labels)
    total = (1 - kappa) * cross_entropy(network(x), labels) + kappa * worst
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-10)
    assert loss.adversarial is not None
    assert loss.parts == {"adversarial_loss": loss.adversarial}
    assert loss.adversarial.item() == pytest.approx(worst.item(), rel=1e-10)
    assert (loss.nominal is None) == (kappa == 1)
    parameters = list(network.parameters())
    found, expected = (torch.autograd.grad(t, parameters) for t in (loss.total, total))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("eps", "kappa"), [(0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.1, 0.0)])
def test_without_radius_or_weight_it_is_the_nominal_loss(eps: float, kappa: float) -> None:
    network, x, labels = draw(12)
    rng = np.random.default_rng(0)
    loss = adversarial_loss(network, x, labels, eps, kappa, SignAscent(), rng)
    assert loss.total.item() == cross_entropy(network(x), labels).item()
    assert (loss.adversarial is None) == (kappa == 0)
    assert torch.equal(loss.points, x)
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize(
    ("eps", "kappa", "label", "said"),
    [
        (-0.1, 1.0, 0, "eps must be finite and >= 0, got -0.1"),
        (float("nan"), 1.0, 0, "eps must be"),
        (float("inf"), 1.0, 0, "eps must be"),
        (0.1, 1.5, 0, r"kappa must lie in \[0, 1\], got 1.5"),
        (0.1, float("nan"), 0, "kappa must lie"),
        (0.1, 1.0, 3, "label 3 of sample 0 is outside 0..2"),
    ],
)
def test_bad_arguments(eps: float, kappa: float, label: int, said: str) -> None:
    network, x, labels = draw(13)
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=said) as caught:
        adversarial_loss(network, x, labels * 0 + label, eps, kappa, SignAscent(), rng)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"step_size": 0.0}, "step_size must be positive and finite, got 0.0"),
        ({"step_size": float("inf")}, "step_size must be"),
        ({"step_size": float("nan")}, "step_size must be"),
    ],
)
def test_bad_searches(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SignAscent(**given)


# --- the recipe


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attack_steps": 3}, "attack_steps belongs to recipe 'adversarial', not to 'inclusion'"),
        ({"attack_step_size": 0.1}, "attack_step_size belongs to recipe 'adversarial'"),
        ({"recipe": "lipschitz", "attack_steps": 3}, "not to 'lipschitz'; leave it out"),
        ({"recipe": "adversarial", "attack_steps": 0}, "attack_steps must be an integer >= 1"),
        ({"recipe": "adversarial", "attack_steps": 2.5}, "attack_steps must be an integer, got"),
        ({"recipe": "adversarial", "attack_step_size": 0.0}, "attack_step_size must be finite"),
        ({"recipe": "adversarial", "attack_step_size": float("nan")}, "attack_step_size must be"),
        ({"recipe": "adversarial", "kappa": 1.5}, "kappa must be in"),
        ({"recipe": "adversarial", "lipschitz_weight": 1.0}, "not to 'adversarial'"),
        ({"recipe": "adverserial"}, "recipe must be one of inclusion, lipschitz, adversarial"),
    ],
    ids=str,
)
def test_bad_settings(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        TrainConfig.from_mapping(changes)
    assert "\n" not in str(caught.value)


def test_settings_that_recipes_share_move_alike() -> None:
    shared = {"overshoot": 1.1, "kappa": 0.5, "ramp_start": 1.0, "ramp_end": 3.0}
    inclusion, search = (
        TrainConfig.from_mapping({**shared, "recipe": recipe})
        for recipe in ("inclusion", "adversarial")
    )
    for time in (0, 1.5, 2, 10):
        assert search.at(time) == inclusion.at(time)
        now = recipe_of(search).moving(search.at(time))
        assert now == {"eps": search.at(time).eps, "kappa": search.at(time).kappa}


def test_a_model_tells_how_it_was_searched(tmp_path: Path) -> None:
    Trainer(blobs(), adversarially(epochs=1, attack_step_size=0.05), tmp_path).run()
    told = model_metadata(tmp_path / "model.safetensors")
    wanted = {"recipe": "adversarial", "trained_eps": "0.15", "trained_kappa": "1.0"}
    assert told.items() >= (wanted | {"attack_steps": "3", "attack_step_size": "0.05"}).items()
    assert "attack_step_size" not in recipe_of(adversarially()).told()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_all_weights_are_trained_and_certified_by_their_own_method(weights: str) -> None:
    settings = {"weights": weights, "hidden": 8, "epochs": 12, "input_gain": 1.0} | WEIGHTS[weights]
    config = adversarially(**settings, activation="leaky_relu(0.1)", eps=0.05)
    trained = Trainer(blobs(), config).run()
    first, last = trained.metrics[0], trained.metrics[-1]
    assert last["adversarial_loss"] < first["adversarial_loss"]
    assert last["clean_accuracy"] > 0.6
    assert last["certified_accuracy"] <= last["clean_accuracy"]
    assert last["forward_steps"] >= 1
    assert last["adjoint_steps"] >= 1
    assert (last["eps"], last["kappa"], last["robust_loss"]) == (0.05, 1.0, None)
    data, method = blobs(), Spectral() if config.monotone else Interval()
    x, labels = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    verdicts = certify(trained.network, x, labels, config.eps, domain=DOMAIN, method=method)
    held = sum(verdict.status == "certified" for verdict in verdicts)
    assert last["certified_accuracy"] == held / len(x)


def test_a_ramp_mixes_the_losses() -> None:
    trained = Trainer(blobs(), adversarially(ramp_end=4.0, ramp_start=2.0, kappa=0.5)).run()
    parts = [(line["nominal_loss"], line["adversarial_loss"]) for line in trained.metrics]
    assert [part[1] is None for part in parts] == [True, True, False, False]
    assert all(nominal is not None for nominal, _ in parts)
    assert trained.metrics[0]["loss"] == trained.metrics[0]["nominal_loss"]


def test_no_radius_trains_the_nominal_network() -> None:
    search = Trainer(blobs(), adversarially(eps=0.0)).run()
    nominal = Trainer(blobs(), small(kappa=0.0, eps=0.0)).run()
    assert search.network.digest == nominal.network.digest


def points_of(monkeypatch: pytest.MonkeyPatch, trainer: Trainer) -> list[Tensor]:
    """Train, and return what each step found."""
    found: list[Tensor] = []

    def watched(*args: Any, **kwargs: Any) -> AdversarialLoss:
        loss = adversarial.adversarial_loss(*args, **kwargs)
        found.append(loss.points)
        return loss

    with monkeypatch.context() as patched:
        patched.setattr(recipes, "adversarial_loss", watched)
        trainer.run()
    return found


def test_the_starts_depend_on_seed_epoch_and_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Points that were hardly moved are their starts.
    config = adversarially(ramp_end=0.0, attack_steps=1, attack_step_size=1e-9)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = points_of(monkeypatch, Trainer(blobs(domain=None), config))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.random.default_rng().random()
    torch.manual_seed(2)
    again = points_of(monkeypatch, Trainer(blobs(domain=None), config))
    assert len(first) == 4 * 3
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_each_step_draws_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def watched(*args: Any, **kwargs: Any) -> AdversarialLoss:
        drawn.append(args[6].random())
        return adversarial.adversarial_loss(*args, **kwargs)

    monkeypatch.setattr(recipes, "adversarial_loss", watched)
    for seed in (0, 1):
        Trainer(blobs(), adversarially(seed=seed)).run()
    orders = [np.random.default_rng([0, epoch]).random() for epoch in range(4)]
    assert len({*drawn, *orders}) == 2 * 4 * 3 + 4


@pytest.mark.parametrize("weights", ["contracting", "monotone"])
def test_an_interrupted_run_resumes_to_the_same_end(tmp_path: Path, weights: str) -> None:
    config = adversarially(weights=weights)
    whole = Trainer(blobs(), config).run()
    interrupt(tmp_path, config)
    recorded = recorded_run(tmp_path)
    assert recorded.config == config
    torch.manual_seed(5)
    resumed = Trainer(blobs(), recorded.config, tmp_path, resume=True).run()
    assert resumed.network.digest == whole.network.digest
    assert timeless(resumed.metrics) == timeless(whole.metrics)
    with pytest.raises(KeyboardInterrupt):  # another seed is another network
        Trainer(blobs(), adversarially(seed=1), progress=StopAt(1, 1)).run()


def test_it_makes_digits_harder_to_attack() -> None:
    data = load_data("digits")
    settings = {"hidden": 20, "epochs": 4, "learning_rate": 2e-2, "ramp_end": 1.0, "eps": 0.1}
    settings |= {"input_gain": 1.0, "evaluate_samples": 0}
    robust = Trainer(data, adversarially(**settings)).run().network
    plain = Trainer(data, adversarially(**settings | {"kappa": 0.0})).run().network
    x, labels = torch.from_numpy(data.x_test[:60]), torch.from_numpy(data.y_test[:60])
    held = [
        PGD(steps=10).run(network, x, labels, 0.1, DOMAIN).status.count("unbroken")
        for network in (plain, robust)
    ]
    assert held[1] > held[0] + 10
