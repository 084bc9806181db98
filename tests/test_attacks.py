"""Attacks: what they call broken is broken in exact arithmetic, and they are not weak."""

import itertools
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import exact
from equicert.attacks import FGSM, PGD, Attack, AttackResult, AutoAttack
from equicert.boxes import Box, Domain
from equicert.errors import ConfigError, InputError, NotContractingError, NotConvergedError
from equicert.stored import StoredNetwork
from networks import (
    CONTRACTING,
    NOT_CONTRACTING,
    PIECEWISE_LINEAR,
    Network,
    contracting_networks,
    floats,
    random_network,
)

INDEPENDENT: list[Attack] = [  # of who shares the batch
    FGSM(),
    PGD(steps=6),
    PGD(steps=3, step_size=0.03, restarts=3, seed=5),
]
ATTACKS: list[Attack] = [*INDEPENDENT, AutoAttack(iterations=4, queries=20, seed=2)]


def stored(network: Network) -> StoredNetwork:
    return StoredNetwork.from_arrays(
        *network.arrays, activation=network.activation, eta=network.eta
    )


def problem(
    seed: int, samples: int = 40, inputs: int = 6, classes: int = 4, scale: float = 1.0
) -> tuple[StoredNetwork, Tensor, Tensor]:
    """A random network, points of the unit cube, and the classes that it predicts there."""
    rng = np.random.default_rng(seed)
    drawn = random_network(rng, 12, inputs, classes)
    W, U, b, C, c = drawn.arrays
    network = StoredNetwork.from_arrays(W, 4 * U, b, scale * C, scale * c, eta=drawn.eta)
    x = torch.from_numpy(rng.random((samples, inputs)))
    return network, x, network.predict(x).argmax(1)


def broken(result: AttackResult) -> set[int]:
    return {row for row, status in enumerate(result.status) if status == "broken"}


def exact_margins(network: StoredNetwork, x: Any, label: int) -> list[Fraction]:
    """`y_label - y_j` for every other j, exactly."""
    W, U = network.W.dense(), network.U.dense()
    z = exact.fixed_point(W, U, network.b, x, network.activation.spec)
    rows, offsets = exact.to_fractions(network.C), exact.to_fractions(network.c)
    y = [exact.dot(row, z) + offset for row, offset in zip(rows, offsets, strict=True)]
    return [y[label] - y[j] for j in range(len(y)) if j != label]


def assert_in_exact_box(point: Tensor, x: Tensor, eps: float, domain: Domain = None) -> None:
    radius = Fraction(eps)
    for found, centre in zip(point.tolist(), x.tolist(), strict=True):
        assert abs(Fraction(found) - Fraction(centre)) <= radius
        assert domain is None or domain[0] <= found <= domain[1]


# --- soundness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
@pytest.mark.parametrize("domain", [None, (0.0, 1.0)], ids=["unbounded", "unit cube"])
def test_adversarial_points_lie_in_the_exact_box(attack: Attack, domain: Domain) -> None:
    network, x, labels = problem(seed=1)
    for eps in (0.1, 1 / 3, 1e-17):  # no float64 is x + eps exactly
        result = attack.run(network, x, labels, eps, domain)
        assert result.adversarial.dtype == torch.float64
        for point, centre in zip(result.adversarial, x, strict=True):
            assert_in_exact_box(point, centre, eps, domain)


@given(
    network=contracting_networks(activations=PIECEWISE_LINEAR),
    seed=st.integers(0, 2**32),
    eps=st.sampled_from([0.0, 1e-3, 0.5]) | floats(2.0).map(abs),
    attack=st.sampled_from(ATTACKS),
)
def test_broken_is_the_exact_truth(network: Network, seed: int, eps: float, attack: Attack) -> None:
    assume(network.outputs > 1)
    net = stored(network)
    x = torch.from_numpy(np.random.default_rng(seed).uniform(-2, 2, (2, network.inputs)))
    try:
        labels = net.predict(x).argmax(1)
        result = attack.run(net, x, labels, eps)
    except (NotConvergedError, NotContractingError):
        assume(False)
        raise
    for row in broken(result):
        assert min(exact_margins(net, result.adversarial[row], int(labels[row]))) < 0
        assert_in_exact_box(result.adversarial[row], x[row], eps)


@pytest.mark.parametrize("attack", [*ATTACKS[:2], ATTACKS[-1]], ids=repr)
@pytest.mark.parametrize("name", [name for name in CONTRACTING if name != "gamma near 1"])
def test_awkward_networks(name: str, attack: Attack) -> None:
    network = stored(CONTRACTING[name])
    x = torch.linspace(-1, 1, 3)[:, None].repeat(1, network.inputs)
    if network.outputs == 1:
        with pytest.raises(InputError, match="no other class"):
            attack.run(network, x, torch.zeros(3, dtype=torch.int64), 0.5)
        return
    try:
        labels = network.predict(x).argmax(1)
    except NotContractingError:  # true, but not proved in float64
        with pytest.raises(NotContractingError):
            attack.run(network, x, torch.zeros(3, dtype=torch.int64), 0.5)
        return
    result = attack.run(network, x, labels, 0.5)
    assert "misclassified" not in result.status
    for row in broken(result) if CONTRACTING[name].piecewise_linear else ():
        assert min(exact_margins(network, result.adversarial[row], int(labels[row]))) < 0


def test_no_attack_on_what_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    network = stored(CONTRACTING["gamma near 1"])
    monkeypatch.setattr(StoredNetwork.solve, "__defaults__", (1e-9, 2, None))  # two steps only
    with pytest.raises(NotConvergedError, match="forward solve: 1 of 1 samples"):
        FGSM().run(network, torch.ones(1, 1), 0, 0.5)


def test_worst_case_bounds_every_attack_and_pgd_comes_close() -> None:
    """Brute force over the linear regions: nothing goes below, four restarts reach it."""
    reached = 0
    for seed in range(6):
        drawn = random_network(np.random.default_rng(seed), 3, 2, 2)
        network = stored(drawn)
        W, U, b, C, c = drawn.arrays
        x = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (1, 2)))
        label = int(network.predict(x).argmax())
        box = Box.around(x, 0.25)
        margin, offset = C[label] - C[1 - label], c[label] - c[1 - label]
        [(worst, _)] = exact.exact_range(W, U, b, [margin], [offset], box.lo[0], box.hi[0])
        for attack in (FGSM(), PGD(steps=15, restarts=4), AutoAttack(iterations=15, queries=50)):
            result = attack.run(network, x, label, 0.25)
            assert float(result.margin) >= float(worst) - 1e-8
            if worst > 0:
                assert result.status == ("unbroken",)
            if isinstance(attack, PGD):
                reached += float(result.margin) <= float(worst) + 1e-6 or worst < 0
            if not isinstance(attack, FGSM):
                assert (result.status == ("broken",)) == (worst < 0)
    assert reached == 6


def test_a_tie_is_not_broken() -> None:
    """Two outputs that agree everywhere: the margin is exactly zero, whatever rounding says."""
    C = np.array([[0.1, 0.7, -0.3], [0.1, 0.7, -0.3]])
    rng = np.random.default_rng(0)
    network = StoredNetwork.from_arrays(
        rng.normal(size=(3, 3)) / 9, rng.normal(size=(3, 2)), rng.normal(size=3), C, np.zeros(2)
    )
    x = torch.from_numpy(rng.normal(size=(20, 2)))
    result = PGD(steps=5).run(network, x, torch.zeros(20, dtype=torch.int64), 0.5)
    assert set(result.status) == {"unbroken"}


def test_rounding_breaks_nothing() -> None:
    """A margin of 2^-60 + (sums that cancel): positive, and far below what float64 sees."""
    C = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    network = StoredNetwork.from_arrays(
        np.zeros((3, 3)), np.full((3, 1), 0.1), np.full(3, 0.7), C, [2.0**-60, 0.0]
    )
    x = torch.linspace(-1, 1, 101)[:, None]
    labels = network.predict(x).argmax(1)
    result = PGD(steps=5).run(network, x, labels, 0.5)
    for row, point in enumerate(result.adversarial):
        exactly = min(exact_margins(network, point, int(labels[row])))
        assert result.status[row] == "unbroken" or exactly < 0


# --- strength ------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", [None, (-0.25, 0.5)], ids=["unbounded", "clipped"])
def test_fgsm_is_exact_on_linear_networks(domain: Domain) -> None:
    """y = C U x + c: the worst point is the corner against the sign of the margin's gradient."""
    rng = np.random.default_rng(3)
    U, C, c = rng.normal(size=(4, 5)), rng.normal(size=(2, 4)), rng.normal(size=2)
    network = StoredNetwork.from_arrays(np.zeros((4, 4)), U, np.zeros(4), C, c, "identity")
    x = torch.from_numpy(rng.uniform(-0.25, 0.5, (30, 5)))
    labels = network.predict(x).argmax(1)
    result = FGSM().run(network, x, labels, 0.125, domain)
    box = Box.within(x, 0.125, domain)
    for row, label in enumerate(labels.tolist()):
        slope = torch.from_numpy((C[label] - C[1 - label]) @ U)
        worst = torch.where(slope > 0, box.lo[row], box.hi[row])
        assert torch.equal(result.adversarial[row], worst)
        value = float(slope @ worst) + c[label] - c[1 - label]
        assert float(result.margin[row]) == pytest.approx(value, abs=1e-12)
        assert (result.status[row] == "broken") == (value < 0)
    assert 0 < len(broken(result)) < 30


def test_pgd_is_at_least_as_strong_as_fgsm() -> None:
    fast, strong = 0, 0
    for seed in range(6):
        network, x, labels = problem(seed)
        once, often = (a.run(network, x, labels, 0.08, (0.0, 1.0)) for a in (FGSM(), PGD()))
        assert broken(once) <= broken(often)
        assert bool((often.margin <= once.margin + 1e-6)[sorted({*range(40)} - broken(once))].all())
        fast, strong = fast + len(broken(once)), strong + len(broken(often))
    assert 0 < fast < strong < 240


def test_confident_networks_are_attacked_as_well() -> None:
    """Cross-entropy has no gradient where a margin exceeds about 745; the scale is no defence."""
    network, x, labels = problem(seed=2)
    loud, _, _ = problem(seed=2, scale=2.0**40)
    quiet, _, _ = problem(seed=2, scale=2.0**-40)
    # With two classes the direction does not depend on the scale at all; with four it may.
    counts = [len(broken(FGSM().run(n, x, labels, 0.1))) for n in (network, loud, quiet)]
    assert min(counts) >= counts[0] / 2 > 0
    two, x, labels = problem(seed=4, classes=2)
    loud, _, _ = problem(seed=4, classes=2, scale=2.0**40)
    first, second = (PGD().run(n, x, labels, 0.3) for n in (two, loud))
    assert torch.equal(first.adversarial, second.adversarial)
    assert first.status == second.status
    assert broken(first)


def test_the_best_iterate_counts() -> None:
    """Strides too long to settle: a longer ascent passes through all points of a shorter one."""
    network, x, labels = problem(seed=5)
    results = [PGD(k, step_size=0.15).run(network, x, labels, 0.1) for k in (4, 5, 6, 7)]
    for shorter, longer in itertools.pairwise(results):
        open_ = sorted({*range(40)} - broken(longer))
        assert broken(shorter) <= broken(longer)
        assert bool((longer.margin <= shorter.margin + 1e-9)[open_].all())


def test_restarts_only_add() -> None:
    network, x, labels = problem(seed=5)
    results = [PGD(steps=3, restarts=k).run(network, x, labels, 0.12) for k in (1, 2, 8)]
    for before, after in itertools.pairwise(results):
        assert broken(before) <= broken(after)
        assert bool((after.margin <= before.margin)[sorted({*range(40)} - broken(before))].all())
        for row in broken(before):  # left alone once broken
            assert torch.equal(before.adversarial[row], after.adversarial[row])
    assert 0 < len(broken(results[0])) < len(broken(results[2]))
    # a restart costs 3 steps and 2 judgements for each sample still open
    open_ = 40 - len(broken(results[0]))
    total = [float(result.forward_solves.sum()) for result in results]
    assert total[1] == total[0] + 5 * open_


def test_solves_are_those_of_a_hand_count() -> None:
    """One at x; one step and two points to judge; for each restart its steps and two more.

    A sample that is misclassified stops after the first, one that is broken after the attempt that
    broke it. Each step has one adjoint.
    """
    network, x, labels = problem(seed=5)
    labels[3] = (labels[3] + 1) % 4
    once = FGSM().run(network, x, labels, 0.12)
    attacked = torch.tensor([status != "misclassified" for status in once.status])
    assert 0 < int(attacked.sum()) < 40
    assert torch.equal(once.forward_solves, 1 + 3.0 * attacked)
    assert torch.equal(once.adjoint_solves, 1.0 * attacked)
    results = [once, *(PGD(4, restarts=k).run(network, x, labels, 0.12) for k in (1, 2))]
    for before, after in itertools.pairwise(results):
        open_ = torch.tensor([status == "unbroken" for status in before.status])
        assert 0 < int(open_.sum()) < 39
        assert torch.equal(after.forward_solves, before.forward_solves + (4 + 2.0) * open_)
        assert torch.equal(after.adjoint_solves, before.adjoint_solves + 4.0 * open_)


def test_random_starts() -> None:
    """Points of the box, another one for each seed, attempt and sample, and always the same."""
    _, x, _ = problem(seed=6)
    radius, box = torch.full_like(x, 0.5), Box.within(x, 0.5, (0.0, 1.0))
    attack = PGD(seed=3)
    start = attack.ascent(x, radius, box, 1).start
    assert torch.equal(box.clamp(start), start)
    assert torch.equal(attack.ascent(x[7:9], radius[7:9], box[7:9], 1).start, start[7:9])
    other = PGD(seed=4).ascent(x, radius, box, 1).start
    again = attack.ascent(x, radius, box, 2).start
    assert bool(((start != other) & (start != again) & (other != again)).all())
    share = (start - box.lo) / (box.hi - box.lo)
    assert bool((share.amin(0) < 0.2).all() & (share.amax(0) > 0.8).all())
    assert len(share.unique()) == share.numel()


# --- who shares the batch, and what is left alone ------------------------------------------------


@pytest.mark.parametrize("attack", INDEPENDENT, ids=repr)
def test_batch_mates_do_not_matter(attack: Attack) -> None:
    network, x, labels = problem(seed=7, samples=24)
    labels[5] = (labels[5] + 1) % 4  # a misclassified one among them
    together = attack.run(network, x, labels, 0.08, (0.0, 1.0))
    order = torch.from_numpy(np.random.default_rng(0).permutation(24))
    shuffled = attack.run(network, x[order], labels[order], 0.08, (0.0, 1.0))
    assert torch.allclose(shuffled.adversarial, together.adversarial[order], atol=1e-12)
    assert shuffled.status == tuple(together.status[row] for row in order)
    for row in range(24):
        alone = attack.run(network, x[row], int(labels[row]), 0.08, (0.0, 1.0))
        assert alone.status == together.status[row : row + 1]
        assert torch.allclose(alone.adversarial[0], together.adversarial[row], atol=1e-12)
        assert float(alone.margin) == pytest.approx(float(together.margin[row]), abs=1e-8)
        assert float(alone.forward_solves) == together.forward_solves[row]
        assert float(alone.adjoint_solves) == together.adjoint_solves[row]


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_zero_radius_moves_nothing(attack: Attack) -> None:
    network, x, labels = problem(seed=8)
    result = attack.run(network, x, labels, 0.0, (0.0, 1.0))
    assert torch.equal(result.adversarial, x)
    assert set(result.status) == {"unbroken"}
    assert torch.equal(result.adversarial_predicted, labels)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_misclassified_samples_are_not_attacked(attack: Attack) -> None:
    network, x, labels = problem(seed=9)
    wrong = (labels + 1) % 4
    result = attack.run(network, x, wrong, 0.1)
    assert set(result.status) == {"misclassified"}
    assert torch.equal(result.adversarial, x)
    assert torch.equal(result.predicted, labels)
    assert bool((result.margin < 0).all())
    assert bool((result.forward_solves == 1).all() & (result.adjoint_solves == 0).all())


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_predictions_are_those_of_the_points(attack: Attack) -> None:
    network, x, labels = problem(seed=10)
    result = attack.run(network, x, labels, 0.1)
    assert torch.equal(result.predicted, labels)
    assert torch.equal(result.adversarial_predicted, network.predict(result.adversarial).argmax(1))
    for row in range(len(x)):
        changed = bool(result.adversarial_predicted[row] != labels[row])
        assert changed == (result.status[row] == "broken") == bool(result.margin[row] < 0)


def test_radius_per_input_and_per_sample() -> None:
    network, x, labels = problem(seed=11)
    radius = torch.tensor([0.0, 0.1, 0.2, 0.0, 0.3, 0.05])
    moved = (PGD().run(network, x, labels, radius).adversarial - x).abs()
    assert bool((moved <= radius).all())
    assert bool((moved.amax(0) > 0.9 * radius)[radius > 0].all())
    each = torch.linspace(0, 0.2, len(x))[:, None]
    moved = (FGSM().run(network, x, labels, each).adversarial - x).abs()
    assert bool((moved <= each).all())


def test_domain_per_input() -> None:
    network, x, labels = problem(seed=12)
    domain = np.linspace(-0.1, 0.0, 6), np.linspace(1.0, 1.2, 6)
    found = PGD().run(network, x, labels, 0.5, domain).adversarial.numpy()
    assert np.all((domain[0] <= found) & (found <= domain[1]))
    assert found.max() > 1


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_nothing_else_is_touched(
    attack: Attack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    network, x, labels = problem(seed=13)
    before, state = x.clone(), torch.get_rng_state()
    numbers: Any = np.random.get_state()  # noqa: NPY002 - the shared source
    plain, trace = random.getstate(), sys.gettrace()
    with torch.no_grad():  # gradients are taken all the same
        result = attack.run(network, x.requires_grad_(), labels, 0.2)
    assert broken(result)
    assert torch.equal(x, before)
    assert x.grad is None
    assert not result.adversarial.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    after: Any = np.random.get_state()  # noqa: NPY002
    assert np.array_equal(after[1], numbers[1])
    assert random.getstate() == plain
    assert sys.gettrace() is trace
    assert torch.get_default_dtype() == torch.float64
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_empty_batch_and_single_precision(attack: Attack) -> None:
    network, x, labels = problem(seed=14)
    result = attack.run(network, x[:0], labels[:0], 0.1)
    assert (result.status, result.adversarial.shape) == ((), (0, 6))
    single = attack.run(network, x.float(), labels, 0.1)
    double = attack.run(network, x.float().double(), labels, 0.1)
    assert torch.equal(single.adversarial, double.adversarial)


def test_import_is_light() -> None:
    script = (
        "import sys, equicert.attacks; sys.exit(bool({'foolbox', 'pyautoattack'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -0.1}, "eps must be finite and >= 0, got -0.1"),
        ({"eps": float("nan")}, "eps must be finite and >= 0, got nan"),
        ({"eps": float("inf")}, "eps must be finite and >= 0, got inf"),
        ({"labels": torch.full((40,), 4)}, "label 4 of sample 0 is outside 0..3"),
        ({"labels": torch.full((39,), 0)}, "40 samples need 40 labels"),
        ({"labels": torch.zeros(40)}, "labels must be integers"),
        ({"x": torch.zeros(40, 5)}, "takes inputs of 6 numbers"),
        ({"x": torch.full((40, 6), torch.nan)}, "NaN or infinite"),
        ({"domain": (0.5, 1.0)}, "outside its domain"),
        ({"domain": (1.0, 0.0)}, "domain is inverted"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("attack", [PGD(), AutoAttack()], ids=repr)
def test_bad_input(attack: Attack, change: dict[str, Any], message: str) -> None:
    network, x, labels = problem(seed=15)
    arguments: dict[str, Any] = {"x": x, "labels": labels, "eps": 0.1, "domain": (0.0, 1.0)}
    with pytest.raises(InputError, match=message):
        attack.run(network, **(arguments | change))


@pytest.mark.parametrize("name", NOT_CONTRACTING)
def test_no_attack_without_a_unique_fixed_point(name: str) -> None:
    network = stored(NOT_CONTRACTING[name])
    x = torch.zeros(1, network.inputs)
    if "monotone" in name:  # it has one all the same
        assert len(FGSM().run(network, x, 0, 0.1).status) == 1
        return
    with pytest.raises(NotContractingError):
        FGSM().run(network, x, 0, 0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"restarts": 0},
        {"seed": -1},
        {"step_size": 0.0},
        {"step_size": float("nan")},
        {"step_size": float("inf")},
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    with pytest.raises(ConfigError, match=f"{name} must be .*{value!r}"):
        PGD(**options)
