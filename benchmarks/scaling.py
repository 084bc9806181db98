"""Cost against the number of hidden units, the batch and the tolerance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from benchmarks.products import Products, Size, solve_products, step_products
from benchmarks.subjects import (
    ROW_SUMS,
    TOLERANCE,
    Batch,
    JointSolve,
    TrainingStep,
    batches_of,
    count_steps,
    random_network,
    variant,
)
from benchmarks.timing import interleaved
from equicert.data import DataSet
from equicert.network import ImplicitNetwork
from equicert.solvers import Average, Picard

_BATCHES: Final = 2
_AVERAGE_BELOW: Final = 800  # hidden units


@dataclass(frozen=True)
class Sweeps:
    """The values that are swept, and what is kept meanwhile."""

    hidden: tuple[int, ...] = (50, 100, 200, 400, 800, 1600)
    batches: tuple[int, ...] = (1, 10, 100, 1000)
    tolerances: tuple[float, ...] = tuple(10.0**-k for k in range(2, 11))
    batch: int = 100


def measure(
    network: ImplicitNetwork, data: DataSet, rounds: int, budget: float, sweeps: Sweeps = Sweeps()
) -> dict[str, Any]:
    """The three tables; `budget` seconds a row at most, one round at least."""
    rows: dict[str, list[dict[str, Any]]] = {"hidden": [], "batch": [], "tolerance": []}
    for n in sweeps.hidden:
        batches = batches_of(data, sweeps.batch, _BATCHES)
        point = _point(random_network(n, data), batches, data, TOLERANCE, rounds, budget)
        rows["hidden"].append({"hidden": n, **point})
    for size in sweeps.batches:
        batches = batches_of(data, size, _BATCHES)
        point = _point(network, batches, data, TOLERANCE, rounds, budget)
        rows["batch"].append({"batch": size, **point})
    double = variant(network).to(torch.float64)
    batches = batches_of(data, sweeps.batch, _BATCHES, torch.float64)
    for tolerance in sweeps.tolerances:
        point = _point(double, batches, data, tolerance, rounds, budget)
        rows["tolerance"].append({"tolerance": tolerance, **point})
    return {
        "settings": {
            "batch": sweeps.batch,
            "hidden": len(network.b),
            "tolerance": TOLERANCE,
            "row_sums": list(ROW_SUMS),
        },
        **rows,
    }


def _point(
    network: ImplicitNetwork,
    batches: Sequence[Batch],
    data: DataSet,
    tolerance: float,
    rounds: int,
    budget: float,
) -> dict[str, Any]:
    """Times of a joint solve and of a training step, their floors, and the solver steps."""
    picard = variant(network, Picard(), tolerance)
    n, dtype = len(network.b), network.b.dtype
    steps = {"picard": count_steps(picard, batches, data)}
    size = Size(len(batches[0][0]), n, data.inputs, data.classes)
    forward = round(steps["picard"]["forward_slowest"])
    adjoint = round(steps["picard"]["adjoint_slowest"])
    calls: dict[str, Callable[[], object]] = {
        "solve": JointSolve(picard, batches, data),
        "solve_products": Products(solve_products(size, forward), dtype),
        "step": TrainingStep(picard, batches, data),
        "step_products": Products(step_products(size, forward, adjoint), dtype),
    }
    if n < _AVERAGE_BELOW:
        average = variant(network, Average(), tolerance)
        steps["average"] = count_steps(average, batches, data)
        calls["solve_average"] = JointSolve(average, batches, data)
    times = interleaved(calls, rounds, budget)
    return {"steps": steps, "times": {name: timing.to_json() for name, timing in times.items()}}
