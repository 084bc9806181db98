"""The inclusion-training step: by Picard, by the average iteration, and its products alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from benchmarks.products import Products, Size, step_products
from benchmarks.subjects import (
    EPS,
    KAPPA,
    TOLERANCE,
    Batch,
    TrainingStep,
    batches_of,
    count_steps,
    variant,
)
from benchmarks.timing import interleaved
from equicert.data import DataSet
from equicert.network import ImplicitNetwork
from equicert.solvers import Average, Picard, Solver

# name: the solver, and the kappa of the loss
CONTESTANTS: Final[dict[str, tuple[Solver, float]]] = {
    "Picard": (Picard(), KAPPA),
    "average": (Average(), KAPPA),
    "Picard, kappa = 1": (Picard(), 1.0),
    "Picard, kappa = 0": (Picard(), 0.0),
}
_BATCHES: Final = 8
_PLAIN_EPOCHS, _ROBUST_EPOCHS = 10, 30  # of the published 40: before the ramp, and after


def measure(
    network: ImplicitNetwork, data: DataSet, rounds: int, budget: float, batch: int = 100
) -> dict[str, Any]:
    """Times, solver steps and floors of training steps of a robust network."""
    batches = batches_of(data, batch, _BATCHES)
    calls: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, (solver, kappa) in CONTESTANTS.items():
        copied = variant(network, solver)
        found[name] = {"kappa": kappa, "steps": count_steps(copied, batches, data, kappa)}
        calls[name] = TrainingStep(copied, batches, data, kappa)
        calls[f"{name}: products"] = _floor(network, data, batches, found[name])
    times = interleaved(calls, rounds, budget)
    for name, entry in found.items():
        entry["time"] = times[name].to_json()
        entry["products"] = times[f"{name}: products"].to_json()
        entry["products_gflops"] = calls[f"{name}: products"].flops / 1e9
    return {
        "settings": {"batch": batch, "eps": EPS, "tolerance": TOLERANCE, "dtype": "float32"},
        "contestants": found,
        "ratio": {
            clock: getattr(times["average"], clock) / getattr(times["Picard"], clock)
            for clock in ("cpu", "wall")
        },
        "epochs": _epochs({name: entry["time"] for name, entry in found.items()}, data, batch),
    }


def _floor(
    network: ImplicitNetwork, data: DataSet, batches: Sequence[Batch], entry: dict[str, Any]
) -> Products:
    kappa, steps = entry["kappa"], entry["steps"]
    size = Size(
        len(batches[0][0]),
        len(network.b),
        data.inputs,
        data.classes,
        states=int(kappa < 1),
        boxes=int(kappa > 0),
    )
    forward, adjoint = round(steps["forward_slowest"]), round(steps["adjoint_slowest"])
    return Products(step_products(size, forward, adjoint), torch.float32)


def _epochs(times: dict[str, dict[str, Any]], data: DataSet, batch: int) -> dict[str, float]:
    """Seconds of training steps an epoch, from the CPU time of one, and of the published 40."""
    steps = -(-len(data.x_train) // batch)
    plain, robust = times["Picard, kappa = 0"]["cpu"], times["Picard"]["cpu"]
    return {
        "steps": steps,
        "plain": steps * plain,
        "robust": steps * robust,
        "total": steps * (_PLAIN_EPOCHS * plain + _ROBUST_EPOCHS * robust),
    }
