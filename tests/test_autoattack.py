"""AutoAttack: each part is at work, as in the standard version, on any domain."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equicert.attacks import FGSM, AttackResult, AutoAttack, Part, Target
from equicert.boxes import Box, Domain, check_domain
from equicert.certification import certify
from equicert.errors import ConfigError, InputError
from equicert.network import ImplicitNetwork
from equicert.stored import StoredNetwork
from test_attacks import problem

PARTS: tuple[Part, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
SHORT: dict[str, Any] = {"iterations": 15, "queries": 60}
UNIT = (0.0, 1.0)


def linear(seed: int, samples: int = 30) -> tuple[StoredNetwork, Tensor, Tensor]:
    """`y = C U x + c` with four classes."""
    rng = np.random.default_rng(seed)
    U, C, c = rng.normal(size=(4, 6)), rng.normal(size=(4, 4)), rng.normal(size=4)
    network = StoredNetwork.from_arrays(np.zeros((4, 4)), U, np.zeros(4), C, c, "identity")
    x = torch.from_numpy(rng.random((samples, 6)))
    return network, x, network.predict(x).argmax(1)


def bump() -> tuple[StoredNetwork, Tensor, Tensor]:
    """Four classes; near x = 1/4 the outputs are flat, beyond x_0 = 0.3 the first one loses."""
    U, C = np.zeros((1, 4)), np.array([[0.0], [9.0], [0.0], [0.0]])
    U[0, 0] = 1.0
    c = np.array([0.25, 0.0, 0.0, 0.0])
    network = StoredNetwork.from_arrays(np.zeros((1, 1)), U, [-0.25], C, c, "relu")
    return network, torch.full((5, 4), 0.2), torch.zeros(5, dtype=torch.int64)


def target(
    network: StoredNetwork, x: Tensor, labels: Tensor, eps: float, domain: Domain = UNIT
) -> Target:
    module = ImplicitNetwork.from_stored(network, tolerance=1e-6).eval().requires_grad_(False)
    low, high = (end.expand(network.inputs) for end in check_domain(x, domain))
    box = Box.within(x, eps, domain)
    return Target(module, x, labels, torch.full_like(x, eps), box, low, high)


def broken(result: AttackResult) -> set[int]:
    return {row for row, status in enumerate(result.status) if status == "broken"}


# --- soundness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", [None, UNIT, (-0.5, float("inf"))], ids=str)
def test_no_certified_sample_is_broken(domain: Domain) -> None:
    proved = attacked = 0
    for seed in (0, 2):
        network, x, labels = problem(seed, samples=20)
        for eps in (0.01, 0.06):
            verdicts = certify(network, x, labels, eps, domain=domain)
            result = AutoAttack(**SHORT, seed=seed).run(network, x, labels, eps, domain)
            certified = {row for row, v in enumerate(verdicts) if v.status == "certified"}
            assert not certified & broken(result)
            proved, attacked = proved + len(certified), attacked + len(broken(result))
    assert proved > 0
    assert attacked > 0


def test_ends_per_input_and_inputs_that_cannot_move() -> None:
    network, x, labels = problem(seed=12)
    low, high = np.linspace(-0.1, 0.0, 6), np.linspace(1.0, 1.2, 6)
    x[:, 2] = low[2] = high[2] = 0.5
    found = AutoAttack(**SHORT).run(network, x, labels, 0.5, (low, high)).adversarial.numpy()
    assert np.all((low <= found) & (found <= high))
    assert found.max() > 1
    everywhere = (np.full(6, 0.5), np.full(6, 0.5))
    still = torch.full((3, 6), 0.5)
    result = AutoAttack(**SHORT).run(
        network, still, network.predict(still).argmax(1), 1, everywhere
    )
    assert torch.equal(result.adversarial, still)


@pytest.mark.parametrize("part", PARTS)
def test_dead_networks_are_survived(part: Part) -> None:
    """No gradient anywhere: FAB divides by its size."""
    network = StoredNetwork.from_arrays(
        np.zeros((2, 2)), np.ones((2, 6)), [-99.0, -99.0], np.eye(4)[:, :2], [1.0, 0, 0, 0]
    )
    x = torch.linspace(0, 1, 12).reshape(2, 6)
    result = AutoAttack((part,), **SHORT).run(network, x, torch.zeros(2, dtype=torch.int64), 0.2)
    assert result.status == ("unbroken",) * 2


def test_points_without_value_stay_in_their_row() -> None:
    network, x, labels = problem(seed=2)
    cube = _cube(target(network, x, labels, 0.1))
    image = cube.image(x)
    y = cube(image)
    image[3, 0, 0, 1], image[5, 0, 1, 0] = torch.nan, torch.inf
    others = [row for row in range(40) if row not in (3, 5)]
    assert torch.allclose(cube(image)[others], y[others], atol=1e-6)


# --- strength ------------------------------------------------------------------------------------


def test_at_least_as_strong_as_fgsm() -> None:
    fast = strong = 0
    for seed in (0, 2):
        network, x, labels = problem(seed)
        once = FGSM().run(network, x, labels, 0.08, UNIT)
        result = AutoAttack(**SHORT).run(network, x, labels, 0.08, UNIT)
        assert broken(once) <= broken(result)
        open_ = sorted({*range(40)} - broken(result))
        assert bool((result.margin <= once.margin)[open_].all())
        fast, strong = fast + len(broken(once)), strong + len(broken(result))
    assert 0 < fast < strong < 80


@pytest.mark.parametrize("part", ["apgd-ce", "apgd-t", "fab-t"])
def test_gradient_parts_find_what_one_step_misses(part: Part) -> None:
    network, x, labels = problem(seed=2)
    once = FGSM().run(network, x, labels, 0.08, UNIT)
    result = AutoAttack((part,), iterations=50).run(network, x, labels, 0.08, UNIT)
    assert broken(once) < broken(result)


def test_square_needs_no_gradients() -> None:
    network, x, labels = bump()
    assert broken(FGSM().run(network, x, labels, 0.15, UNIT)) == set()
    result = AutoAttack(("square",), queries=50).run(network, x, labels, 0.15, UNIT)
    assert broken(result) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("scale", [2.0**k for k in (-200, -40, 40, 200)], ids=str)
def test_the_scale_of_the_outputs_is_no_defence(scale: float) -> None:
    network, x, labels = problem(seed=2)
    scaled, _, _ = problem(seed=2, scale=scale)
    held = [target(n, x, labels, 0.1) for n in (network, scaled)]
    found = [AutoAttack(**SHORT)._attempt(t, "apgd-t")[0] for t in held]
    plain, other = (int((network.predict(p).argmax(1) != labels).sum()) for p in found)
    assert other >= 0.8 * plain > 0


@pytest.mark.parametrize("part", ["apgd-ce", "apgd-t"])
def test_corners_of_the_box_are_reached_in_float64(part: Part) -> None:
    """The library knows x and eps to float32 only."""
    network, x, labels = linear(seed=3)
    held = target(network, x, labels, 0.1)
    [points] = AutoAttack()._attempt(held, part)
    moved = (points != x).any(1)
    at_end = (points == held.box.lo) | (points == held.box.hi)
    assert 0 < int(moved.sum()) < len(x)
    assert at_end[moved].double().mean() > 0.95


@pytest.mark.parametrize("part", PARTS)
def test_samples_that_withstand_a_part_are_left_exactly_where_they_were(part: Part) -> None:
    network, x, _ = problem(seed=3)
    held = target(network, x / 3, network.predict(x / 3).argmax(1), 1e-9, (-1.0, 2.0))
    [points] = AutoAttack(**SHORT)._attempt(held, part)
    assert torch.equal(points, x / 3)


# --- what the library is told --------------------------------------------------------------------


def test_settings_are_those_of_the_standard_version() -> None:
    from pyautoattack import AutoAttack as Library

    network, x, labels = problem(seed=1, classes=12)
    model: Any = AutoAttack()
    cube = _cube(target(network, x, labels, 0.1))
    theirs = Library(cube, norm="Linf", eps=0.1, seed=0, version="standard")
    assert theirs.attacks_to_run == list(PARTS)
    theirs.fab.targeted = True  # set by the library just before FAB-T
    pairs = zip(PARTS, (theirs.apgd, theirs.apgd_targeted, theirs.fab, theirs.square), strict=True)
    for part, their in pairs:
        ours = vars(model._library(part, cube, 0.1))
        wanted = vars(their)
        differ = {name for name in wanted if wanted[name] != ours[name]}
        assert differ <= {"device", "logger"}
        assert ours.keys() == wanted.keys()


def _cube(held: Target) -> Any:
    from equicert.attacks.auto import _OnUnitCube

    return _OnUnitCube(held)


def test_the_unit_cube_is_left_as_it_is() -> None:
    network, x, labels = problem(seed=1, samples=1)
    for eps in (1 / 64, 0.1, 2.0):
        cube = _cube(target(network, x, labels, eps))
        assert cube.width == 1.0
        assert torch.equal(cube.image(x).flatten(1), x.float())
        assert torch.equal(cube.point(cube.image(x)), x.float().double())


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [(1, (1, 1)), (5, (1, 5)), (6, (2, 3)), (12, (3, 4)), (64, (8, 8)), (784, (28, 28))],
)
def test_inputs_as_images(inputs: int, shape: tuple[int, int]) -> None:
    network, x, labels = problem(seed=1, samples=3, inputs=inputs)
    image = _cube(target(network, x, labels, 0.1)).image(x)
    assert image.shape == (3, 1, *shape)
    assert torch.equal(image.flatten(1), x.float())


def test_another_domain_is_another_unit() -> None:
    """x' = 4 x - 3, on a network that undoes it: the same samples break."""
    network, x, labels = problem(seed=2)
    U, b = network.U.dense(), network.b
    other = StoredNetwork.from_arrays(
        network.W.dense(), U / 4, b + 0.75 * U.sum(1), network.C, network.c
    )
    attack = AutoAttack(iterations=30, queries=60)
    here = attack.run(network, x, labels, 0.08, UNIT)
    there = attack.run(other, 4 * x - 3, labels, 0.32, (-3.0, 1.0))
    assert broken(here) == broken(there)
    assert bool(((there.adversarial + 3) / 4 - x).abs().max() > 0.079)


def test_wide_domains_do_not_blur_eps() -> None:
    network, x, labels = problem(seed=2)
    attack = AutoAttack(("apgd-t",), iterations=30)
    near, far = (attack.run(network, x, labels, 0.08, (-w, w)) for w in (2.0, 1e12))
    assert len(broken(far)) >= len(broken(near)) - 1 > 0


def test_solves_are_counted() -> None:
    """Square asks for each sample before, at the start, once a query, and after.

    Beside it: the clean point, one step with its two points to judge, and the one to judge here.
    """
    network, x, labels = problem(seed=3)
    result = AutoAttack(("square",), queries=50).run(network, x, labels, 1e-9)
    assert set(result.status) == {"unbroken"}
    assert result.forward_solves.tolist() == [1 + 3 + (50 + 3) + 1] * 40
    assert result.adjoint_solves.tolist() == [1] * 40
    result = AutoAttack(("apgd-ce",), iterations=7).run(network, x, labels, 1e-9)
    assert bool((result.adjoint_solves > 7).all() & (result.forward_solves > 7).all())


def test_the_seed_determines_the_result() -> None:
    network, x, labels = problem(seed=2)
    results = [
        AutoAttack(("apgd-t",), **SHORT, seed=seed).run(network, x, labels, 0.1, UNIT)
        for seed in (1, 1, 2)
    ]
    torch.manual_seed(5)
    results.append(AutoAttack(("apgd-t",), **SHORT, seed=1).run(network, x, labels, 0.1, UNIT))
    first, again, other, later = (result.adversarial for result in results)
    assert torch.equal(first, again)
    assert torch.equal(first, later)
    assert not torch.equal(first, other)


def test_parts_stop_where_nothing_is_left() -> None:
    network, x, labels = bump()
    result = AutoAttack(PARTS[::-1], queries=50).run(network, x, labels, 0.15, UNIT)
    assert broken(result) == {0, 1, 2, 3, 4}
    assert result.forward_solves.sum() < 2000  # the other parts take thousands


# --- few classes, and errors ---------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_are_attacked_without_apgd_t(classes: int) -> None:
    network, x, labels = problem(seed=8, classes=classes)
    result = AutoAttack(**SHORT).run(network, x, labels, 0.3, UNIT)
    assert broken(FGSM().run(network, x, labels, 0.3, UNIT)) <= broken(result)
    assert broken(result)
    rest: tuple[Part, ...] = ("apgd-ce", "fab-t", "square")
    same = AutoAttack(rest, **SHORT).run(network, x, labels, 0.3, UNIT)
    assert torch.equal(same.adversarial, result.adversarial)
    with pytest.raises(InputError, match=f"apgd-t needs .* at least 4 outputs, got {classes}"):
        AutoAttack(("apgd-t",)).run(network, x, labels, 0.2, UNIT)


@pytest.mark.parametrize(
    "eps",
    [torch.tensor([0.0, 0.1, 0.2, 0.0, 0.3, 0.05]), torch.linspace(0, 0.3, 40)[:, None]],
    ids=["per input", "per sample"],
)
def test_eps_is_one_number(eps: Tensor) -> None:
    network, x, labels = problem(seed=11)
    with pytest.raises(InputError, match=r"needs one eps .*, got 0 to 0\.3;"):
        AutoAttack().run(network, x, labels, eps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations must be a whole number >= 1 .*0"),
        ({"queries": 2.5}, "queries must be .*2.5"),
        ({"seed": -1}, "seed must be .* got -1"),
        ({"seed": 2**63}, "seed must be .*2\\^63, got 9223372036854775808"),
        ({"parts": ()}, "parts must be one or more"),
        ({"parts": ("square", "square")}, "each once"),
        ({"parts": ("apgdce",)}, "no 'apgdce'; did you mean 'apgd-ce'"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AutoAttack(**options)
