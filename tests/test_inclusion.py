"""Inclusion functions and the embedded network against brute force ([J22], section 4).

The tight inclusion function of f maps a box to [min f, max f] over it. Entries here are dyadic and
each 1 - W_ii is a power of two, so that one application of a map is exact in float64, and equality
with a minimum over all corners can be asked for.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

import exact
from equicert.activations import parse_activation
from equicert.boxes import Box
from equicert.image import reach
from equicert.lipschitz import zeta_bound
from equicert.norms import metzler_split
from equicert.problems import PrimalProblem
from equicert.solvers import Average, Picard, solve
from equicert.stored import StoredNetwork
from networks import CONTRACTING, Array, Network, random_network

PIECEWISE = ("relu", "hard_tanh", "identity")
DIAGONALS = (0.5, 0.0, -1.0, -3.0, -7.0)


@dataclass(frozen=True)
class Setting:
    """A network over boxes Z of states and X of inputs: each a pair (lo, hi) of vectors."""

    W: Array
    U: Array
    b: Array
    activation: str
    z: tuple[Array, Array]
    x: tuple[Array, Array]

    @property
    def drive(self) -> tuple[Tensor, Tensor]:
        """The exact range of `U x + b`."""
        lo, hi = self.x
        positive, negative = self.U.clip(min=0), self.U.clip(max=0)
        low, high = positive @ lo + negative @ hi, positive @ hi + negative @ lo
        return torch.tensor(low + self.b)[None], torch.tensor(high + self.b)[None]

    @property
    def problem(self) -> PrimalProblem:
        n = len(self.W)
        network = StoredNetwork.from_arrays(
            self.W, self.U, self.b, np.eye(n), np.zeros(n), self.activation
        )
        return network.embedded_problem(*self.drive)

    @property
    def rows(self) -> Tensor:
        """(1, 2n)."""
        return torch.tensor(np.concatenate(self.z))[None]


def multiples(shape: int | tuple[int, ...], bound: int) -> st.SearchStrategy[Array]:
    """Multiples of 1/8 in [-bound, bound]."""
    whole = hnp.arrays(np.int64, shape, elements=st.integers(-8 * bound, 8 * bound))
    return whole.map(lambda array: array / 8)


@st.composite
def boxes(draw: st.DrawFn, n: int) -> tuple[Array, Array]:
    lo = draw(multiples(n, 3))
    return lo, lo + np.abs(draw(multiples(n, 2)))


@st.composite
def settings(draw: st.DrawFn, negative_diagonal: bool = True) -> Setting:
    n, r = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    W = draw(multiples((n, n), 1)) / 8  # rows of at most 1/4 off the diagonal: it contracts
    diagonals = DIAGONALS if negative_diagonal else (0.0, 0.5)
    W[np.diag_indices(n)] = [draw(st.sampled_from(diagonals)) for _ in range(n)]
    return Setting(
        W,
        draw(multiples((n, r), 2)),
        draw(multiples(n, 2)),
        draw(st.sampled_from(PIECEWISE)),
        draw(boxes(n)),
        draw(boxes(r)),
    )


def corners(box: tuple[Array, Array]) -> list[list[Fraction]]:
    ends = [sorted({Fraction(a), Fraction(b)}) for a, b in zip(*box, strict=True)]
    return [list(corner) for corner in product(*ends)]


def images(
    setting: Setting, z: list[list[Fraction]], eliminated: bool = False
) -> list[list[Fraction]]:
    """N(z, x), or psi(W_off z + U x + b), for these z at every corner of X, exactly."""
    W, U, b = (exact.to_fractions(array) for array in (setting.W, setting.U, setting.b))
    diagonal = [W[i][i] for i in range(len(W))]
    if eliminated:
        W = [[Fraction(0) if i == j else w for j, w in enumerate(row)] for i, row in enumerate(W)]
    found = []
    for state in z:
        for x in corners(setting.x):
            t = exact.preactivation(W, U, b, state, x)
            if eliminated:
                # z = phi(d z + r), a network of one state
                found.append(
                    [
                        exact.fixed_point([[d]], [[]], [r], [], setting.activation)[0]
                        for d, r in zip(diagonal, t, strict=True)
                    ]
                )
            else:
                found.append([exact.evaluate(setting.activation, entry) for entry in t])
    return found


def halves(rows: Tensor) -> tuple[list[Fraction], list[Fraction]]:
    lo, hi = rows[0].chunk(2)
    return exact.to_fractions(lo), exact.to_fractions(hi)


# One application: N^E and its eliminated form.


@given(settings())
def test_the_eliminated_map_is_the_tight_inclusion_function(setting: Setting) -> None:
    """The least and the greatest of psi(W_off z + U x + b), each entry over independent z and x."""
    lo, hi = halves(setting.problem.eliminated(setting.rows))
    found = images(setting, corners(setting.z), eliminated=True)
    for i in range(len(setting.W)):
        assert lo[i] == min(image[i] for image in found)
        assert hi[i] == max(image[i] for image in found)


@given(settings(negative_diagonal=False))
def test_the_metzler_split_is_tight_where_no_diagonal_is_negative(setting: Setting) -> None:
    lo, hi = halves(setting.problem.full(setting.rows))
    found = images(setting, corners(setting.z))
    for i in range(len(setting.W)):
        assert lo[i] == min(image[i] for image in found)
        assert hi[i] == max(image[i] for image in found)


@given(settings())
def test_the_metzler_split_is_tight_on_each_face(setting: Setting) -> None:
    """Entry i of the lower end is the minimum over the face z_i = lo_i, whatever W_ii is."""
    lo, hi = halves(setting.problem.full(setting.rows))
    for i in range(len(setting.W)):
        below, above = setting.z[1].copy(), setting.z[0].copy()
        below[i], above[i] = setting.z[0][i], setting.z[1][i]
        lower_face = images(setting, corners((setting.z[0], below)))
        upper_face = images(setting, corners((above, setting.z[1])))
        assert lo[i] == min(image[i] for image in lower_face)
        assert hi[i] == max(image[i] for image in upper_face)


def test_off_its_face_the_metzler_split_encloses_nothing() -> None:
    """W = -10, U x + b = 1, Z = [0, 1]: the lower end is above the upper one (fact 8's trap)."""
    one, zero = np.ones(1), np.zeros(1)
    setting = Setting(np.array([[-10.0]]), zero[None], one, "relu", (zero, one), (zero, zero))
    lo, hi = halves(setting.problem.full(setting.rows))
    assert (lo, hi) == ([1], [0])
    assert exact.is_post_fixed_point(setting.W, setting.U, one, setting.z, setting.x)
    # Eliminated, it is what it claims to be: the point 1/11.
    eliminated = setting.problem.eliminated(setting.rows)[0]
    assert eliminated.tolist() == [pytest.approx(1 / 11)] * 2


@given(settings())
def test_a_box_of_one_point_is_mapped_to_its_image(setting: Setting) -> None:
    at = Setting(
        setting.W, setting.U, setting.b, setting.activation,
        (setting.z[0], setting.z[0]), (setting.x[1], setting.x[1]),
    )  # fmt: skip
    for rows, eliminated in (
        (at.problem.full(at.rows), False),
        (at.problem.eliminated(at.rows), True),
    ):
        lo, hi = halves(rows)
        assert lo == hi == images(at, corners(at.z), eliminated)[0]


@given(settings())
def test_centre_and_radius_are_the_four_products(setting: Setting) -> None:
    """An identity in (lo, hi): it holds for ends in any order."""
    W = torch.tensor(setting.W)
    ceil, floor = metzler_split(W)
    phi = parse_activation(setting.activation).phi
    low, high = setting.drive
    for lo, hi in (setting.z, setting.z[::-1]):
        a, b = torch.tensor(lo)[None], torch.tensor(hi)[None]
        four = [phi(a @ ceil.mT + b @ floor.mT + low), phi(b @ ceil.mT + a @ floor.mT + high)]
        assert torch.equal(setting.problem.full(torch.cat([a, b], -1)), torch.cat(four, -1))


@given(settings(), st.data())
def test_steps_are_monotone_in_the_boxes(setting: Setting, data: st.DataObject) -> None:
    """A smaller Z and a smaller X have a smaller image, under each solver's step.

    The average step needs its largest alpha for it, N^E alone would not do.
    """

    def inner(box: tuple[Array, Array]) -> tuple[Array, Array]:
        width = box[1] - box[0]
        a, b = (
            data.draw(hnp.arrays(np.int64, len(width), elements=st.integers(0, 4))) for _ in "ab"
        )
        lo = box[0] + width * np.minimum(a, b) / 4
        return lo, box[0] + width * np.maximum(a, b) / 4

    small = Setting(
        setting.W, setting.U, setting.b, setting.activation, inner(setting.z), inner(setting.x)
    )
    for solver in (Picard(), Average()):
        outer_lo, outer_hi = solver.step(setting.problem, setting.rows)[0].chunk(2, -1)
        lo, hi = solver.step(small.problem, small.rows)[0].chunk(2, -1)
        assert bool((outer_lo <= lo + 1e-12).all())
        assert bool((lo <= hi + 1e-12).all())
        assert bool((hi <= outer_hi + 1e-12).all())


def test_composition_includes_and_need_not_be_tight() -> None:
    """x - x by two tight inclusion functions; the margin by one product instead (fact 9)."""
    network = StoredNetwork.from_arrays(
        np.zeros((1, 1)), [[1.0]], [0.0], [[1.0], [1.0]], np.zeros(2), "identity"
    )
    output = reach(network, Box(torch.zeros(1, 1), torch.ones(1, 1))).output
    composed = output.lo[0, 0] - output.hi[0, 1], output.hi[0, 0] - output.lo[0, 1]
    assert composed[0].item() == pytest.approx(-1, abs=1e-6)
    assert composed[1].item() == pytest.approx(1, abs=1e-6)
    rows = network.C[:1] - network.C[1:]
    assert not bool(rows.any())


# The embedded network: boxes of fixed points.


SMALL = [
    net
    for net in CONTRACTING.values()
    if net.piecewise_linear and net.states <= 3 and net.inputs <= 2 and "1e30" not in net.name
]
TABLE = pytest.mark.parametrize("net", SMALL, ids=str)


def stored(net: Network) -> StoredNetwork:
    return StoredNetwork.from_arrays(*net.arrays, net.activation, net.eta)


def state_box(network: StoredNetwork, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The embedded fixed point, its two ends and its radius; not rounded outwards."""
    drive = network.drive_bounds(lo, hi)
    solution = solve(network.embedded_problem(*drive), Picard(), 1e-12, 3000)
    zlo, zhi = solution.value.chunk(2, -1)
    return zlo, zhi, solution.radius[:, None]


@TABLE
@pytest.mark.parametrize("eps", [0.0, 0.125, 2.0])
def test_the_box_contains_the_exact_range(net: Network, eps: float) -> None:
    centre = np.linspace(0.5, -0.25, net.inputs)
    lo, hi = centre - eps, centre + eps
    image = reach(stored(net), Box(torch.tensor(lo), torch.tensor(hi)))
    outputs = exact.exact_range(*net.arrays, lo, hi, net.activation)
    n = net.states
    states = exact.exact_range(net.W, net.U, net.b, np.eye(n), np.zeros(n), lo, hi, net.activation)
    for box, truth in ((image.output, outputs), (image.state, states)):
        low, high = exact.to_fractions(box.lo[0]), exact.to_fractions(box.hi[0])
        for a, b, (least, greatest) in zip(low, high, truth, strict=True):
            assert a <= least <= greatest <= b


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("activation", ["relu", "hard_tanh", "leaky_relu(0.1)"])
def test_the_box_of_a_random_network_contains_its_range(seed: int, activation: str) -> None:
    rng = np.random.default_rng(seed)
    net = random_network(rng, 3, 2, 2, gamma=0.3, activation=activation)
    lo = rng.normal(size=2)
    hi = lo + rng.uniform(0, 1, 2)
    image = reach(stored(net), Box(torch.tensor(lo), torch.tensor(hi)))
    truth = exact.exact_range(*net.arrays, lo, hi, activation)
    for (least, greatest), a, b in zip(truth, image.output.lo[0], image.output.hi[0], strict=True):
        assert Fraction(a.item()) <= least <= greatest <= Fraction(b.item())


@TABLE
def test_the_box_shrinks_with_eps(net: Network) -> None:
    network = stored(net)
    eps = torch.tensor([[2.0], [1.0], [0.5], [0.125], [2.0**-10], [0.0]])
    x = torch.linspace(0.5, -0.25, net.inputs).expand(len(eps), -1)
    zlo, zhi, radius = state_box(network, x - eps, x + eps)
    slack = radius[:-1] + radius[1:]
    assert bool((zlo[:-1] <= zlo[1:] + slack).all())
    assert bool((zhi[:-1] >= zhi[1:] - slack).all())
    assert bool((zlo <= zhi + 2 * radius).all())


@TABLE
def test_the_box_becomes_exact_as_eps_vanishes(net: Network) -> None:
    """It has no width at eps = 0, and otherwise at most that of fact 6: `2 (I - M)^-1 |U| eps`."""
    network = stored(net)
    eps = torch.tensor([[1.0], [2.0**-10], [2.0**-20], [0.0]])
    x = torch.linspace(0.5, -0.25, net.inputs).expand(len(eps), -1)
    zlo, zhi, radius = state_box(network, x - eps, x + eps)
    zeta = zeta_bound(network, eps.expand(-1, net.inputs))
    assert bool((zhi - zlo <= 2 * zeta * (1 + 1e-6) + 2 * radius).all())
    z = exact.fixed_point(net.W, net.U, net.b, x[0], net.activation)
    for low, high, slack in zip(zlo, zhi, radius, strict=True):
        for a, b, truth in zip(low.tolist(), high.tolist(), z, strict=True):
            assert Fraction(a) - Fraction(slack.item()) <= truth
            assert truth <= Fraction(b) + Fraction(slack.item())


MONOTONE = Network(
    "monotone",
    np.array([[-3.0, 0.5, 0.25], [1.0, 0.25, 0.125], [0.0, 2.0, -7.0]]),
    np.array([[1.0, 0.5], [0.0, 2.0], [0.25, 0.0]]),
    np.array([-0.5, 0.25, 0.0]),
    np.eye(3),
    np.zeros(3),
)


@pytest.mark.parametrize("activation", ["relu", "hard_tanh"])
def test_for_a_monotone_network_the_ends_are_evaluated(activation: str) -> None:
    """W_off >= 0 and U >= 0: the box is the exact range, from z* at the two extreme inputs."""
    lo, hi = np.array([-0.5, -0.25]), np.array([1.0, 0.75])
    arrays = MONOTONE.W, MONOTONE.U, MONOTONE.b
    network = StoredNetwork.from_arrays(*arrays, np.eye(3), np.zeros(3), activation)
    zlo, zhi, radius = state_box(network, torch.tensor(lo)[None], torch.tensor(hi)[None])
    assert radius.item() < 1e-10
    ends = [exact.fixed_point(*arrays, x, activation) for x in (lo, hi)]
    truth = exact.exact_range(*arrays, np.eye(3), np.zeros(3), lo, hi, activation)
    assert [least for least, _ in truth] == ends[0]
    assert [greatest for _, greatest in truth] == ends[1]
    for found, end in zip((zlo[0], zhi[0]), ends, strict=True):
        for value, z in zip(found.tolist(), end, strict=True):
            assert abs(Fraction(value) - z) <= Fraction(radius.item())


def test_for_a_network_monotone_up_to_signs_as_well() -> None:
    """S W_off S >= 0 and S U T >= 0 for diagonal signs S, T: other corners, the same exactness."""
    S, T = np.diag([1.0, -1.0, 1.0]), np.diag([-1.0, 1.0])
    W, U, b = S @ MONOTONE.W @ S, S @ MONOTONE.U @ T, S @ MONOTONE.b
    lo, hi = np.array([-0.5, -0.25]), np.array([1.0, 0.75])
    network = StoredNetwork.from_arrays(W, U, b, np.eye(3), np.zeros(3), "hard_tanh")
    zlo, zhi, radius = state_box(network, torch.tensor(lo)[None], torch.tensor(hi)[None])
    truth = exact.exact_range(W, U, b, np.eye(3), np.zeros(3), lo, hi, "hard_tanh")
    for a, b_, (least, greatest) in zip(zlo[0].tolist(), zhi[0].tolist(), truth, strict=True):
        assert abs(Fraction(a) - least) <= Fraction(radius.item())
        assert abs(Fraction(b_) - greatest) <= Fraction(radius.item())


def test_a_feed_forward_network_gives_interval_propagation() -> None:
    """Fact 10: layer by layer, in as many sweeps as layers."""
    net = CONTRACTING["feed-forward relu"]
    lo, hi = torch.tensor([[-0.5, 0.25]]), torch.tensor([[0.75, 0.5]])
    W, U, b = (torch.tensor(array) for array in (net.W, net.U, net.b))
    ends = torch.zeros(2, 5)
    for layer in (slice(0, 2), slice(2, 4), slice(4, 5)):
        c, rho = ends.mean(0), (ends[1] - ends[0]) / 2
        x, e = (lo[0] + hi[0]) / 2, (hi[0] - lo[0]) / 2
        centre = W[layer] @ c + U[layer] @ x + b[layer]
        radius = W[layer].abs() @ rho + U[layer].abs() @ e
        ends[:, layer] = torch.stack([centre - radius, centre + radius]).relu()
    network = stored(net)
    problem = network.embedded_problem(*network.drive_bounds(lo, hi))
    z = problem.start()
    for _ in range(3):
        z = Picard().step(problem, z)[0]
    assert torch.allclose(z, ends.reshape(1, 10), rtol=0, atol=1e-13)
    assert bool((ends[1] > ends[0]).any())


# The split of [WeiK22] (fact 11).


def sign_split(W: Array) -> Array:
    """[[W^+, W^-], [W^-, W^+]], the diagonal split like everything else."""
    positive, negative = W.clip(min=0), W.clip(max=0)
    return np.block([[positive, negative], [negative, positive]])


def sign_split_fixed_point(setting: Setting) -> list[Fraction]:
    n = len(setting.W)
    low, high = (end[0].numpy() for end in setting.drive)
    return exact.fixed_point(
        sign_split(setting.W), np.eye(2 * n), np.zeros(2 * n), np.concatenate([low, high]),
        setting.activation,
    )  # fmt: skip


def ours(setting: Setting) -> tuple[list[Fraction], Fraction]:
    solution = solve(setting.problem, Picard(), 1e-12, 1000)
    return exact.to_fractions(solution.value[0]), Fraction(solution.radius.item())


@st.composite
def split_settings(draw: st.DrawFn) -> Setting:
    """Diagonals in (-1, 1) small enough for the other split to have its fixed point, too."""
    setting = draw(settings())
    n = len(setting.W)
    setting.W[np.diag_indices(n)] = draw(multiples(n, 1)) / 2
    return setting


@given(split_settings())
def test_the_sign_split_is_never_tighter(setting: Setting) -> None:
    n = len(setting.W)
    theirs, (found, radius) = sign_split_fixed_point(setting), ours(setting)
    for i in range(n):
        assert theirs[i] <= found[i] + radius
        assert theirs[n + i] >= found[n + i] - radius


@given(split_settings())
def test_without_a_diagonal_the_two_splits_coincide(setting: Setting) -> None:
    np.fill_diagonal(setting.W, 0.0)
    theirs, (found, radius) = sign_split_fixed_point(setting), ours(setting)
    for one, other in zip(theirs, found, strict=True):
        assert abs(one - other) <= radius


def test_a_negative_diagonal_makes_the_sign_split_strictly_wider() -> None:
    one, zero = np.ones(1), np.zeros(1)
    setting = Setting(np.array([[-0.5]]), one[None], zero, "relu", (zero, zero), (one, 2 * one))
    assert sign_split_fixed_point(setting) == [0, 2]
    found, radius = ours(setting)
    assert abs(found[0] - Fraction(2, 3)) <= radius
    assert abs(found[1] - Fraction(4, 3)) <= radius


def test_the_sign_split_can_be_ill_posed_where_ours_is_not() -> None:
    """W = -10, U x + b = 11: ours has the one fixed point 1, theirs [1, 1] and [0, 11]."""
    doubled = exact.to_fractions(sign_split(np.array([[-10.0]])))
    for pair in ([Fraction(1), Fraction(1)], [Fraction(0), Fraction(11)]):
        t = [a + 11 for a in exact.times(doubled, pair)]
        assert [exact.evaluate("relu", entry) for entry in t] == pair
    one, zero = np.ones(1), np.zeros(1)
    setting = Setting(
        np.array([[-10.0]]), one[None], zero, "relu", (zero, zero), (11 * one, 11 * one)
    )
    found, radius = ours(setting)
    assert radius < 1e-9
    assert all(abs(end - 1) <= radius for end in found)
