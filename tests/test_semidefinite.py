"""Claims by semidefinite programs: near the truth from below, and never taken for proofs."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import exact
from command import run
from equicert.attacks import PGD
from equicert.bounds import Semidefinite, Spectral, conic
from equicert.bounds.conic import Inequality, minimise
from equicert.boxes import Box
from equicert.certification import certify
from equicert.errors import InputError, MissingExtraError, NotContractingError
from equicert.queries import Forms, Query
from equicert.radius import certified_radii
from equicert.stored import StoredNetwork
from monotone_networks import MONOTONE, stored, with_activation
from networks import Network, random_network

needs_solver = pytest.mark.skipif(
    find_spec("cvxopt") is None, reason="cvxopt is not installed (the extra sdp)"
)
SLACK = 1e-5  # of values that the solver computes to 1e-6


def contracting(seed: int, n: int = 3, r: int = 2, activation: str = "relu") -> Network:
    return random_network(np.random.default_rng(seed), n, r, 3, 0.2, activation=activation)


NETWORKS = [
    *(MONOTONE[name] for name in ("monotone", "lben", "rotation", "saw of fact 4", "mu_2 above 1")),
    contracting(1),
    with_activation(MONOTONE["monotone"], "leaky_relu(0.1)"),
    contracting(2, activation="leaky_relu(0.5)"),
]


def box_of(net: Network, width: float, rows: int = 1) -> Box:
    centre = torch.linspace(-0.7, 1.3, net.inputs)[None].expand(rows, -1)
    return Box(centre - width, centre + 0.5 * width)


@needs_solver
@pytest.mark.parametrize("net", NETWORKS, ids=str)
@pytest.mark.parametrize("width", [0.0, 0.3])
def test_bounds_lie_below_the_exact_range_and_near_it(net: Network, width: float) -> None:
    """All forms of a query without clauses are asked; at a point the relaxation is exact."""
    box = box_of(net, width)
    answer = Semidefinite().answer(stored(net), Query.of_outputs(box, net.outputs))
    assert answer.solver_status == ("optimal",)
    ends = exact.to_fractions(box.lo[0]), exact.to_fractions(box.hi[0])
    truth = exact.exact_range(*net.arrays, *ends, net.activation)
    least = torch.tensor([float(low) for low, _ in truth] + [-float(high) for _, high in truth])
    slack = SLACK * (1 + least.abs())
    assert bool((answer.lower[0] <= least + slack).all())
    if width == 0:
        assert bool((answer.lower[0] >= least - 1e-3 * (1 + least.abs())).all())


@needs_solver
def test_it_is_exact_where_no_relu_switches() -> None:
    """A large b keeps every state active: y is affine in x, and so are its extremes in the box."""
    made = contracting(4)
    net = Network("active", made.W, made.U, np.full(3, 50.0), made.C, made.c)
    box = box_of(net, 0.2)
    lower = Semidefinite().answer(stored(net), Query.of_outputs(box, net.outputs)).lower[0]
    gain = net.C @ np.linalg.solve(np.eye(3) - net.W, net.U)
    drift = net.C @ np.linalg.solve(np.eye(3) - net.W, net.b) + net.c
    lo, hi = box.lo[0].numpy(), box.hi[0].numpy()
    middle, reach = drift + gain @ (lo + hi) / 2, np.abs(gain) @ (hi - lo) / 2
    expected = np.concatenate([middle - reach, -(middle + reach)])
    assert lower.numpy() == pytest.approx(expected, rel=1e-5)


@needs_solver
@pytest.mark.parametrize("name", ["monotone", "rotation", "saw of fact 4", "strong rotation"])
def test_it_is_no_looser_than_the_l2_ball(name: str) -> None:
    """What proves [P21]'s ball is a sum of the relaxation's own constraints."""
    network = stored(MONOTONE[name])
    query = Query.of_outputs(box_of(MONOTONE[name], 0.2), network.outputs)
    claimed = Semidefinite().answer(network, query).lower
    ball = Spectral(sharp=False).answer(network, query).lower
    assert bool((claimed >= ball - SLACK * (1 + ball.abs())).all())
    assert bool((claimed > ball + SLACK).any())


@needs_solver
def test_claims_are_claims() -> None:
    """No attack breaks one, none is `certified`, and a proved error stays one."""
    network = stored(contracting(3, 4))
    x = 2 * torch.rand(12, 2, generator=torch.Generator().manual_seed(1)) - 1
    labels = network.predict(x).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    method = Semidefinite()
    verdicts = certify(network, x, labels, 0.05, method=method)
    assert verdicts[0].status == "misclassified"
    assert verdicts[0].solver_status == ""  # the centre decides: nothing was asked
    assert not any(v.status == "certified" for v in verdicts)
    assert sum(v.status == "claimed" for v in verdicts) > 3
    broken = PGD(steps=10, restarts=2).run(network, x, labels, 0.05).status
    for verdict, found in zip(verdicts, broken, strict=True):
        if verdict.status == "claimed":
            assert (verdict.reason, verdict.solver_status) == ("", "optimal")
            assert verdict.margin > 0
            assert found == "unbroken"
    query = Query.of_margins(Box.around(x, 0.05), labels, 3)
    assert not bool(method.answer(network, query).holds.any())


@needs_solver
def test_a_wide_box_is_unknown_and_says_why() -> None:
    network = stored(contracting(3))
    x = torch.zeros(1, 2)
    [verdict] = certify(network, x, network.predict(x).argmax(1), 5.0, method=Semidefinite())
    assert (verdict.status, verdict.reason) == ("unknown", "margin")
    assert verdict.solver_status == "optimal"


@needs_solver
def test_an_unfinished_solve_claims_nothing() -> None:
    network = stored(contracting(3))
    x = torch.zeros(2, 2)
    labels = network.predict(x).argmax(1)
    for verdict in certify(network, x, labels, 0.01, method=Semidefinite(max_steps=2)):
        assert (verdict.status, verdict.reason) == ("unknown", "solver inaccurate")
        assert verdict.solver_status == "inaccurate"
        assert verdict.margin == -math.inf


def _inequality(c: float, M: list[list[float]], p: list[float], q: list[float]) -> Inequality:
    row, matrix = (np.array(v, float) for v in ([c], M))
    P, Q = (np.array([v], float) for v in (p, q))
    return Inequality(row, matrix, P, Q, np.array([0]))


@needs_solver
def test_the_solver_says_what_it_found() -> None:
    """y such that [[y, 1], [1, 1]] >= 0; none such that y - 1 >= 0 >= y; any large y."""
    found = minimise(_inequality(1, [[0, 1], [1, 1]], [1, 0], [1, 0]), 1e-7, 50)
    assert found.status == "optimal"
    assert found.value == pytest.approx(1, abs=1e-5)
    assert minimise(_inequality(1, [[-1]], [1], [-1]), 1e-7, 50).status == "primal infeasible"
    assert minimise(_inequality(-1, [[1]], [1], [1]), 1e-7, 50).status == "dual infeasible"
    assert minimise(_inequality(math.nan, [[1]], [1], [1]), 1e-7, 50).status != "optimal"


@needs_solver
def test_products_are_those_of_matrices() -> None:
    """`schur` and `pair` against the matrices A_j themselves."""
    rng = np.random.default_rng(0)
    P, Q, root = rng.normal(size=(5, 4)), rng.normal(size=(5, 4)), rng.normal(size=(4, 4))
    problem = Inequality(np.zeros(5), np.zeros((4, 4)), P, Q, np.arange(0))
    A = [problem.combine(unit) for unit in np.eye(5)]
    R = root @ root.T
    plain = [[np.trace(a @ R @ b @ R) for b in A] for a in A]
    assert problem.schur(root) == pytest.approx(np.array(plain))
    assert problem.pair(R) == pytest.approx(np.array([np.trace(a @ R) for a in A]))


# What it refuses.


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conic, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"need cvxopt.*pip install 'equicert\[sdp\]'$"):
        Semidefinite()


@needs_solver
def test_other_networks_are_refused() -> None:
    smooth = stored(with_activation(MONOTONE["monotone"], "tanh"))
    query = Query.of_outputs(box_of(MONOTONE["monotone"], 0.1), smooth.outputs)
    with pytest.raises(InputError, match="relu and leaky_relu; this network's activation is tanh"):
        Semidefinite().answer(smooth, query)
    wide = Query(query.box, (Forms.coordinates(7),), query.which)
    with pytest.raises(InputError, match="one an output"):
        Semidefinite().answer(stored(MONOTONE["monotone"]), wide)


@needs_solver
def test_a_network_that_is_not_well_posed_is_unknown() -> None:
    W, one = np.array([[0.0, 2.0], [2.0, 0.0]]), np.ones((2, 1))
    network = StoredNetwork.from_arrays(W, one, one[:, 0], np.eye(2), one[:, 0])
    query = Query.of_outputs(Box.around(torch.zeros(1, 1), 0.1), 2)
    with pytest.raises(NotContractingError):
        Semidefinite().answer(network, query)
    [verdict] = certify(network, torch.zeros(1, 1), 0, 0.1, method=Semidefinite())
    assert (verdict.status, verdict.reason) == ("unknown", "not contracting")


# The command.


@needs_solver
def test_the_command_counts_claims_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    net = contracting(3)
    x = torch.rand(5, 2, generator=torch.Generator().manual_seed(2))
    y = stored(net).predict(x).argmax(1)
    np.savez("net.npz", W=net.W, U=net.U, b=net.b, C=net.C, c=net.c, activation="relu")
    np.savez("data.npz", x_train=x, y_train=y, x_test=x, y_test=y, domain=np.array([0.0, 1.0]))
    words = ["certify", "net.npz", "--data", "data.npz", "--method", "semidefinite"]
    assert run(*words, "--eps", "0.001", "--out", "v") == 0
    summary = json.loads(Path("v/summary.json").read_text())
    lines = [json.loads(line) for line in Path("v/verdicts.jsonl").read_text().splitlines()]
    claimed = sum(line["status"] == "claimed" for line in lines)
    assert claimed > 0
    assert summary["claimed_accuracy"] == claimed / 5
    assert summary["certified_accuracy"] == 0
    assert summary["solver_statuses"] == {"optimal": 5}
    assert all(line["solver_status"] == "optimal" for line in lines)
    capsys.readouterr()
    assert run(*words, "--radius", "--out", "r") == 2
    assert "semidefinite only claims" in capsys.readouterr().err
    assert not Path("r").exists()
    with pytest.raises(InputError, match="semidefinite only claims: ask at one eps"):
        next(certified_radii(stored(net), x, y, Semidefinite()))
