"""The cut of a node: inside the interval, and of those tried the one that leaves least."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import small_networks
from equicert.bounds import splitting
from equicert.bounds.nodes import Nodes, Task
from equicert.bounds.splitting import parts, splits
from equicert.relaxation import Lagrangian, Objectives, adjoint_start
from networks import Network
from searches import stored

NETWORKS = [
    small_networks.contracting(12, 12),
    small_networks.contracting(1, 9, activation="hard_tanh"),
    small_networks.monotone(10, 10, activation="leaky_relu(0.125)"),
    small_networks.contracting(3, 2),
]


def draw(net: Network, seed: int, count: int) -> tuple[Task, Nodes]:
    """Nodes over boxes of r of many widths, some of which do not bend anywhere."""
    rng = np.random.default_rng(seed)
    lagrangian = Lagrangian.of(stored(net))
    n, r = lagrangian.U.shape
    a = torch.tensor(rng.normal(size=(2, n)))
    zero = torch.zeros(2, dtype=torch.float64)
    objectives = Objectives(a, torch.zeros_like(a), zero)
    centre, half = torch.zeros(1, r).double(), torch.full((1, r), 0.25).double()
    task = Task(lagrangian, objectives, torch.arange(2), centre, half)
    middle, width = rng.normal(size=(count, n)), rng.exponential(4.0, size=(count, n))
    width[::5] = 1e-3
    lo, hi = torch.tensor(middle - width), torch.tensor(middle + width)
    form = torch.tensor(rng.integers(2, size=count))
    multiplier, name = torch.tensor(rng.normal(size=(count, n))), torch.arange(count)
    nodes = Nodes(lo, hi, multiplier, torch.zeros(count).double(), form, name)
    nodes.multiplier[1::2] = adjoint_start(lagrangian, task.rows(form, lo, hi))[1][1::2]
    return task, nodes


def left(task: Task, nodes: Nodes, neuron: Tensor, which: Tensor) -> Tensor:  # (k,)
    """How far from closed the two parts are together, each by itself."""
    lo, hi = parts(task, nodes, neuron, which)
    total = torch.zeros(len(nodes)).double()
    for row in range(2 * len(nodes)):
        at = row % len(nodes)
        one = task.rows(nodes.form[at : at + 1], lo[row : row + 1], hi[row : row + 1])
        value = torch.maximum(
            task.lagrangian.value(one, nodes.multiplier[at : at + 1]),
            adjoint_start(task.lagrangian, one)[0],
        )
        total[at] += value[0].clamp(max=0)
    return total


@pytest.mark.parametrize("net", NETWORKS, ids=str)
def test_the_cut_is_inside_and_leaves_no_more_than_others(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splitting, "_TRIED", 100)  # all
    task, nodes = draw(net, 0, 40)
    low, high = task.lagrangian.graph.knot_bounds
    neuron, which, splittable = splits(task, nodes)
    bends = ((low[:, None] > nodes.lo) & (high[:, None] < nodes.hi)).permute(1, 2, 0)
    assert torch.equal(splittable, bends.flatten(1).any(1))
    assert bool(splittable.any())
    rows = splittable.nonzero()[:, 0]
    some, neuron, which = nodes[rows], neuron[rows], which[rows]
    assert bool(bends[rows, neuron, which].all())
    chosen = left(task, some, neuron, which)
    for k in range(len(low)):
        for i in range(net.states):
            inside = bends[rows, i, k]
            other = left(task, some, torch.full_like(neuron, i), torch.full_like(which, k))
            slack = 1e-9 * (1 + other.abs())
            assert bool((~inside | (chosen >= other - slack)).all())


@pytest.mark.parametrize("net", NETWORKS, ids=str)
def test_few_trials_are_no_worse_than_the_largest_gap(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, nodes = draw(net, 1, 40)
    few = splits(task, nodes)
    monkeypatch.setattr(splitting, "_TRIED", 1)
    gap = splits(task, nodes)
    assert torch.equal(few[2], gap[2])
    some = nodes[few[2]]
    mine, other = (left(task, some, i[few[2]], k[few[2]]) for i, k, _ in (few, gap))
    assert bool((mine >= other - 1e-9 * (1 + other.abs())).all())
    if net.states >= 8:
        assert bool((mine > other + 1e-6).any())


@pytest.mark.parametrize("net", NETWORKS, ids=str)
def test_batch_mates_do_not_matter(net: Network) -> None:
    task, nodes = draw(net, 2, 12)
    together = splits(task, nodes)
    for row in range(len(nodes)):
        alone = splits(task, nodes[torch.tensor([row])])
        assert alone[2] == together[2][row]
        if alone[2]:
            assert (alone[0], alone[1]) == (together[0][row], together[1][row])


def test_bounds_that_are_no_numbers_choose_some_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    task, nodes = draw(NETWORKS[0], 3, 20)
    expected = splits(task, nodes)[2]
    for bad in (torch.nan, torch.inf, -torch.inf):

        def spoilt(*args: Tensor, bad: float = bad) -> Tensor:
            return torch.full_like(args[-1][:, 0], bad)

        monkeypatch.setattr(Lagrangian, "value", spoilt)
        neuron, which, splittable = splits(task, nodes)
        assert torch.equal(splittable, expected)
        low, high = task.lagrangian.graph.knot_bounds
        for row in splittable.nonzero()[:, 0].tolist():
            i, k = int(neuron[row]), int(which[row])
            assert nodes.lo[row, i] < low[k, i] <= high[k, i] < nodes.hi[row, i]
