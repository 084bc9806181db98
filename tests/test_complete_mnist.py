"""A network that this project did not train, on MNIST: samples decided, verdicts checked."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

import exact
import naive_proofs
from equicert.bounds import Complete
from equicert.boxes import Box
from equicert.proofs import Witness
from equicert.queries import Answer, Query
from equicert.stored import StoredNetwork
from naive_proofs import Claim, norm_above
from networks import Network
from oracles import Problem
from searches import status

DOMAIN = (0.0, 1.0)
Data = tuple[torch.Tensor, torch.Tensor]


def question(data: Data, rows: slice, eps: float) -> Query:
    """The boxes about some images, outwards for proofs and inwards for witnesses."""
    x, labels = data[0][rows], data[1][rows]
    box, inner = Box.around(x, eps, DOMAIN), Box.within(x, eps, DOMAIN)
    return Query.of_margins(box, labels, 10, x, inner)


def exact_state(net: Network, x: np.ndarray, z: np.ndarray) -> list[Fraction]:
    """z*(x) in rational arithmetic: relus switched as at the proposal z, and the signs tested."""
    problem = Problem.of(net, x, x)
    on = [i for i, value in enumerate(z) if value > 0]
    drive = exact.preactivation(problem.W, problem.U, problem.b, [Fraction(0)] * len(z), problem.lo)
    A = [[Fraction(i == j) - problem.W[i][j] for j in on] for i in on]
    solved = exact.solve(A, [[drive[i]] for i in on])
    assert solved is not None
    state = [Fraction(0)] * len(z)
    for i, [value] in zip(on, solved, strict=True):
        state[i] = value
    t = exact.preactivation(problem.W, problem.U, problem.b, state, problem.lo)
    assert [max(v, Fraction(0)) for v in t] == state
    return state


def assert_breaks(network: StoredNetwork, data: Data, row: int, eps: float, found: Witness) -> None:
    """The witness lies in the exact box, and the rival wins there, both in rational arithmetic."""
    x = [Fraction(v) for v in data[0][row].tolist()]
    for value, centre in zip(found.x.tolist(), x, strict=True):
        assert abs(Fraction(value) - centre) <= Fraction(eps)
        assert 0 <= value <= 1
    W, U = network.W.dense().numpy(), network.U.dense().numpy()
    net = Network("fc40", W, U, network.b.numpy(), network.C.numpy(), network.c.numpy())
    proposal = network.solve(torch.tensor(found.x)[None], 1e-9).value[0].numpy()
    z = exact_state(net, found.x, proposal)
    form = Problem.of(net, found.x, found.x).margin(int(data[1][row]), found.rival)
    margin = form.at(z, [Fraction(0)] * len(x))
    assert margin < 0
    assert margin <= Fraction(found.above)


def decided(answer: Answer, rows: int) -> list[str]:
    return [status(answer, row) for row in range(rows)]


def test_ten_images_are_decided(foreign: StoredNetwork, mnist_test: Data) -> None:
    """A witness by rational arithmetic, proofs by points: no corner of the box breaks them."""
    query = question(mnist_test, slice(0, 10), 0.05)
    answer = Complete(timeout=None).answer(foreign, query)
    words = decided(answer, 10)
    assert set(words) <= {"certified", "falsified"}
    assert len(set(words)) == 2
    tested = False
    for row, found in enumerate(answer.findings or ()):
        if found is not None and found.witness is not None and not tested:
            assert_breaks(foreign, mnist_test, row, 0.05, found.witness)
            tested = True
    assert tested
    corners = torch.Generator().manual_seed(0)
    for row in answer.holds.nonzero()[:, 0].tolist():
        choice = torch.rand(200, 784, generator=corners).round()
        x = torch.where(choice > 0, query.box.hi[row], query.box.lo[row])
        assert bool((foreign.predict(x).argmax(1) == mnist_test[1][row]).all())


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_naive_judge_accepts_a_proof(foreign: StoredNetwork, mnist_test: Data) -> None:
    """784 inputs in rational arithmetic: one sample, the one of the smallest proof."""
    query = question(mnist_test, slice(0, 10), 0.05)
    answer = Complete(timeout=None).answer(foreign, query)
    sizes = {
        row: len(found.proof.chain) + sum(map(len, found.proof.trees))
        for row, found in enumerate(answer.findings or ())
        if found is not None and found.proof is not None
    }
    row = min(sizes, key=lambda key: sizes[key])
    found = (answer.findings or ())[row]
    assert found is not None
    assert found.proof is not None
    W, U = foreign.W.dense().numpy(), foreign.U.dense().numpy()
    net = Network("fc40", W, U, foreign.b.numpy(), foreign.C.numpy(), foreign.c.numpy())
    Lambda = foreign.monotone.Lambda.tolist()
    claim = Claim(Lambda, foreign.monotone.m, norm_above(U, Lambda))
    ends = query.box.lo[row].tolist(), query.box.hi[row].tolist()
    naive_proofs.check_tree(net, *ends, int(mnist_test[1][row]), found.proof, claim)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("eps", [0.01, 0.02, 0.05, 0.07, 0.1])
def test_a_hundred_images_are_decided_or_time_out(
    foreign: StoredNetwork, mnist_test: Data, eps: float
) -> None:
    answer = Complete(timeout=30.0).answer(foreign, question(mnist_test, slice(0, 100), eps))
    words = decided(answer, 100)
    assert set(words) <= {"certified", "falsified", "timeout"}
    wrong = foreign.predict(mnist_test[0][:100]).argmax(1) != mnist_test[1][:100]
    assert all(words[row] == "falsified" for row in wrong.nonzero()[:, 0].tolist())
    checked = 0
    for row, found in enumerate(answer.findings or ()):
        if found is not None and found.witness is not None and checked < 5:
            assert_breaks(foreign, mnist_test, row, eps, found.witness)
            checked += 1


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_what_holds_at_a_radius_holds_below_it(foreign: StoredNetwork, mnist_test: Data) -> None:
    """Verdicts at growing radii never turn from falsified to certified."""
    broken = [False] * 10
    for eps in (0.01, 0.03, 0.05, 0.07):
        answer = Complete(timeout=60.0).answer(foreign, question(mnist_test, slice(0, 10), eps))
        for row, word in enumerate(decided(answer, 10)):
            assert not (broken[row] and word == "certified")
            broken[row] |= word == "falsified"
