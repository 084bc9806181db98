"""Dual bounds and nodes of branch and bound a second, against the batch and the hidden units."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.markdown import number, table
from benchmarks.subjects import EPS, random_network
from benchmarks.timing import interleaved
from equicert.bounds import Dual
from equicert.bounds.branching import Search
from equicert.bounds.lemmas import BITS
from equicert.bounds.nodes import Nodes, Task
from equicert.bounds.sample import CHILD
from equicert.bounds.starts import Started, begin
from equicert.boxes import Box
from equicert.data import DataSet
from equicert.queries import Query
from equicert.relaxation import Lagrangian, Objectives, Rows, adjoint_start, rounded
from equicert.rounding import centre_radius
from equicert.stored import StoredNetwork

_CUTS: Final = 3  # neurons whose interval is halved in a node that is made up
_FAR: Final = 1e6  # what is asked of every bound: none of them ends its ascent


@dataclass(frozen=True)
class Sizes:
    """The values that are swept."""

    hidden: tuple[int, ...] = (40, 100, 400)
    batches: tuple[int, ...] = (1, 16, 128, 1024)  # of forms
    nodes: tuple[int, ...] = (1, 16, 128, 512)  # split at a time


@torch.no_grad()
def measure(
    data: DataSet, rounds: int, budget: float, device: str = "cpu", sizes: Sizes = Sizes()
) -> dict[str, Any]:
    """Times of batches of dual bounds and of steps of branch and bound, `budget` seconds an n."""
    rows: dict[str, list[dict[str, Any]]] = {"bounds": [], "nodes": []}
    for n in sizes.hidden:
        network = random_network(n, data).store().to(device)
        subject = _Subject.of(network, data, -(-max(sizes.batches) // (data.classes - 1)))
        calls: dict[str, Callable[[], object]] = {}
        for batch in sizes.batches:
            calls[f"bounds {batch}"] = subject.bounds(batch)
            calls[f"below {batch}"] = subject.rigorous(batch)
        for count in sizes.nodes:
            calls[f"nodes {count}"] = subject.step(count)
        times = interleaved(calls, rounds, budget)
        for kind, batches in (("bounds", sizes.batches), ("nodes", sizes.nodes)):
            own = {str(k): times[f"{kind} {k}"].to_json() for k in batches}
            rows[kind].append({"hidden": n, "times": own})
        rows["bounds"][-1]["below"] = {str(k): times[f"below {k}"].to_json() for k in sizes.batches}
    settings = {"eps": EPS, "steps": Dual().ascent.steps, "child_steps": CHILD.steps}
    settings |= {"device": device, "inputs": data.inputs, "cuts": _CUTS}
    return {"settings": settings, **rows}


@dataclass(frozen=True)
class _Subject:
    """Test samples of a network, with the bounds on r that all start from."""

    network: StoredNetwork
    lagrangian: Lagrangian
    query: Query
    started: Started

    @classmethod
    def of(cls, network: StoredNetwork, data: DataSet, samples: int) -> _Subject:
        """So many test samples, again from the first one where there are fewer."""
        at = torch.arange(samples) % len(data.x_test)
        box = Box.around(torch.from_numpy(data.x_test)[at], EPS, data.domain)
        device = network.b.device
        box = Box(box.lo.to(device), box.hi.to(device))
        query = Query.of_margins(box, torch.from_numpy(data.y_test)[at], data.classes)
        return cls(network, Lagrangian.of(network), query, begin(network, box))

    def rows(self, batch: int) -> Rows:
        """So many forms: the margins of one sample after the other."""
        query, started = self.query, self.started
        objectives = [Objectives.of(self.network, forms) for forms in query.forms]
        k = query.forms[0].rows
        form = torch.arange(batch, device=query.which.device)
        sample, form = form // k, form % k
        a = torch.stack([own.a for own in objectives])[query.which[sample], form]
        error = torch.stack([own.error for own in objectives])[query.which[sample], form]
        lo, hi = started.lo[sample], started.hi[sample]
        centre, half = centre_radius(query.box.lo[sample], query.box.hi[sample])
        return Rows(a, None, error, lo, hi, centre, half)

    def bounds(self, batch: int) -> Callable[[], Tensor]:
        """Start, ascent and rigorous bound of so many forms."""
        rows, ascent = self.rows(batch), Dual().ascent

        def run() -> Tensor:
            _, found, _ = ascent.run(self.lagrangian, rows, adjoint_start(self.lagrangian, rows))
            return self.lagrangian.below(rows, rounded(found, BITS)).cpu()

        return run

    def rigorous(self, batch: int) -> Callable[[], Tensor]:
        """The rigorous bound alone, at given multipliers."""
        rows = self.rows(batch)
        _, found = adjoint_start(self.lagrangian, rows)
        return lambda: self.lagrangian.below(rows, found).cpu()

    def step(self, count: int) -> Callable[[], int]:
        """One step of branch and bound: so many nodes split, twice as many bounded."""
        task, nodes = self._task(), self._nodes(count)

        def run() -> int:
            asked = itertools.count()  # before the first step, then before the second: enough
            search = Search(
                task,
                nodes,
                lambda *_: next(asked) > 0,
                lambda _: (None, False),
                CHILD,
                _batch=count,  # which it would come to by itself
            )
            search.run(math.inf)
            return search.looked

        return run

    def _task(self) -> Task:
        """The margins of the first sample, every bound far from what is asked."""
        query = self.query
        forms = query.forms[int(query.which[0])]
        objectives = Objectives.of(self.network, forms)
        objectives = replace(objectives, constant=objectives.constant - _FAR)
        clause = torch.arange(forms.rows, device=query.which.device)
        centre, half = centre_radius(query.box.lo[:1], query.box.hi[:1])
        return Task(self.lagrangian, objectives, clause, centre, half)

    def _nodes(self, count: int) -> Nodes:
        """Nodes of that task in each of which a few neurons keep one side of their intervals."""
        lo, hi = (end[:1].expand(count, -1).clone() for end in (self.started.lo, self.started.hi))
        neurons = (lo[0] < 0).logical_and(hi[0] > 0).nonzero()[:, 0].tolist()
        for row in range(count if len(neurons) > _CUTS else 0):
            for cut in range(_CUTS):
                neuron = neurons[(row + cut * (row // len(neurons) + 1)) % (len(neurons) - 1)]
                (hi if (row >> cut) & 1 else lo)[row, neuron] = 0.0
        forms = torch.arange(count, device=lo.device) % self.query.forms[0].rows
        value = lo.new_full((count,), -_FAR)
        return Nodes(lo, hi, torch.zeros_like(lo), value, forms, torch.arange(count))


def bounding_section(found: dict[str, Any]) -> list[str]:
    """The tables of what `measure` returned."""
    settings = found["settings"]
    return [
        "## Dual bounds and nodes a second",
        "",
        (
            "Random contracting networks as below, margins of test images at eps ="
            f" {settings['eps']:g}, {settings['inputs']} inputs, float64, on"
            f" {settings['device']}; the bounds that they start from, certificate (14), are made"
            f" before. A bound is the start by the adjoint network, {settings['steps']} steps of"
            " ascent, all of them, and the rigorous bound; in brackets the share of the last"
            " alone. A batch is of forms."
        ),
        "",
        *table(("bounds a second", *_heads(found["bounds"], "batch")), _rates(found["bounds"])),
        "",
        (
            "A step of branch and bound splits so many nodes (with"
            f" {settings['cuts']} neurons fixed in each) and bounds twice as many by"
            f" {settings['child_steps']} steps of ascent each, from the better of the parent's"
            " multiplier and a fresh start; counted are the nodes that are bounded. The verifier"
            " finds the number by itself, between 16 and 512, aiming at steps below a second."
        ),
        "",
        *table(("nodes a second", *_heads(found["nodes"], "split")), _rates(found["nodes"], 2)),
    ]


def _heads(rows: Sequence[dict[str, Any]], word: str) -> list[str]:
    return [f"{word} {batch}" for batch in rows[0]["times"]]


def _rates(rows: Sequence[dict[str, Any]], each: int = 1) -> list[tuple[str, ...]]:
    """A row an n: how many a second of the processor, and the share of the rigorous part."""
    found = []
    for row in rows:
        cells = []
        for batch, timing in row["times"].items():
            cell = number(each * int(batch) / timing["cpu"])
            if "below" in row:
                share = row["below"][batch]["cpu"] / timing["cpu"]
                cell += f" ({100 * share:.0f} %)"
            cells.append(cell)
        found.append((f"n = {row['hidden']}", *cells))
    return found
