"""Networks that contract slowly: what Anderson acceleration is worth, and where it is not."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.markdown import ms, number, table
from benchmarks.timing import interleaved
from equicert.solution import Solution
from equicert.solvers import Anderson, Picard, Solver, solve
from equicert.stored import StoredNetwork

_SOLVERS: dict[str, Solver] = {"picard": Picard(), "anderson": Anderson()}
_INPUTS = 10


def measure(
    stored: StoredNetwork,
    rounds: int,
    budget: float,
    rates: tuple[float, ...] = (0.5, 0.9, 0.99, 0.999),
    batch: int = 100,
    tolerance: float = 1e-7,
) -> dict[str, Any]:
    """Steps and times of both solvers on the trained network, and on slow ones of its size."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, stored.inputs, generator=generator, dtype=torch.float64)
    rows = [{"network": "trained", **_row(stored, x, tolerance, rounds, budget)}]
    x = torch.randn(batch, _INPUTS, generator=generator, dtype=torch.float64)
    for rate in rates:
        network = slow_network(rate, stored.states, generator)
        row = _row(network, x, tolerance, rounds, budget)
        rows.append({"network": f"rate {rate:g}", **row})
    settings = {"batch": batch, "hidden": stored.states, "tolerance": tolerance}
    return {"settings": settings, "rows": rows}


def slow_network(rate: float, hidden: int, generator: torch.Generator) -> StoredNetwork:
    """Non-negative couplings whose rows add up to the rate: nothing contracts faster than that."""
    W = torch.rand(hidden, hidden, generator=generator, dtype=torch.float64).fill_diagonal_(0)
    W = rate * W / W.sum(1, keepdim=True)
    U = torch.randn(hidden, _INPUTS, generator=generator, dtype=torch.float64)
    zero = torch.zeros(hidden, dtype=torch.float64)
    C = torch.eye(hidden, dtype=torch.float64)[:2]
    return StoredNetwork.from_arrays(W, U, zero, C, zero[:2])


def _row(
    network: StoredNetwork, x: torch.Tensor, tolerance: float, rounds: int, budget: float
) -> dict[str, Any]:
    problem = network.state_problem(x)
    most = 100_000

    def run(solver: Solver) -> Solution:
        return solve(problem, solver, tolerance, most)

    steps = {name: float(run(solver).steps.max()) for name, solver in _SOLVERS.items()}
    calls = {name: (lambda s=solver: run(s)) for name, solver in _SOLVERS.items()}
    timed = interleaved(calls, rounds, budget)
    return {"steps": steps, "times": {name: found.to_json() for name, found in timed.items()}}


def slow_section(found: dict[str, Any]) -> list[str]:
    """The table of what `measure` returned."""
    settings = found["settings"]
    rows = [
        (
            row["network"],
            *(number(row["steps"][name]) for name in _SOLVERS),
            *(ms(row["times"][name]["cpu"]) for name in _SOLVERS),
        )
        for row in found["rows"]
    ]
    return [
        "## Where Anderson acceleration pays",
        "",
        (
            f"States of {settings['batch']} samples to a radius of {settings['tolerance']:g} in"
            f" float64, n = {settings['hidden']}: the trained network, and random ones with"
            " non-negative couplings whose rows add up to a rate, which contract at that rate and"
            " no faster. Steps of the slowest sample. Anderson takes plain steps until the delay"
            " is over, so that fast solves cost the same; training keeps Picard."
        ),
        "",
        *table(("network", "Picard", "Anderson", "Picard, ms", "Anderson, ms"), rows),
    ]
