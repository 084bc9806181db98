"""Rigorous verdicts for a test split, beside the same bounds without any rigour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.products import Products, Size, bound_products
from benchmarks.subjects import EPS
from benchmarks.timing import interleaved
from equicert.bounds import Interval, Lipschitz, LipschitzRadius, Method
from equicert.certification import certify
from equicert.data import DataSet
from equicert.lipschitz import Derived
from equicert.losses import clipped_box, elided_margins
from equicert.solvers import Picard, solve
from equicert.stored import StoredNetwork

BATCH: Final = 1000  # certify's default
METHODS: Final[dict[str, Method]] = {
    "interval": Interval(),
    "lipschitz": LipschitzRadius(Derived(), per_margin=True),
    "zeta": Lipschitz(),
}


def measure(network: StoredNetwork, data: DataSet, rounds: int, budget: float) -> dict[str, Any]:
    """Times of all verdicts, and how many each way certifies.

    Every call begins with a network as it was loaded: the proof of contraction is part of the time.
    """
    x, labels = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    tolerance = Interval().tolerance
    held, steps = plain(replace(network), x, labels, data, tolerance)
    floor = _products(network, data, steps)
    calls: dict[str, Callable[[], object]] = {
        **{name: _rigorous(network, x, labels, data, method) for name, method in METHODS.items()},
        "plain": lambda: plain(replace(network), x, labels, data, tolerance),
        "products": lambda: [products() for products in floor],
    }
    times = interleaved(calls, rounds, budget)
    certified = {
        name: sum(v.status == "certified" for v in _verdicts(network, x, labels, data, method))
        for name, method in METHODS.items()
    }
    return {
        "settings": {"samples": len(x), "batch": BATCH, "eps": EPS, "tolerance": tolerance},
        "times": {name: timing.to_json() for name, timing in times.items()},
        "certified": certified | {"plain": int(held.sum())},
        "slowest_steps": steps,
        "products_gflops": sum(products.flops for products in floor) / 1e9,
        "ratio": {
            clock: getattr(times["interval"], clock) / getattr(times["plain"], clock)
            for clock in ("cpu", "wall")
        },
    }


@torch.no_grad()
def plain(
    network: StoredNetwork, x: Tensor, labels: Tensor, data: DataSet, tolerance: float
) -> tuple[Tensor, list[int]]:
    """Positive margins by box bounds in float64, nothing rounded outwards and nothing proved.

    Returns:
        Where all margins are positive, (samples,) bool, and the steps of each batch.
    """
    held, steps = [], []
    magnitude = network.U.absolute()
    for points, own in zip(x.split(BATCH), labels.split(BATCH), strict=True):
        lo, hi = clipped_box(points, EPS, data.domain)
        centre = network.U.affine(lo + hi, network.b, 0.5)
        radius = magnitude.apply(hi - lo).mul_(0.5)
        problem = network.embedded_problem(centre - radius, centre + radius)
        solution = solve(problem, Picard(), tolerance, 5000)
        zlo, zhi = solution.value.chunk(2, -1)
        margins = elided_margins(network.C, network.c, zlo, zhi, own)
        margins.scatter_(1, own[:, None], torch.inf)
        held.append(margins.amin(1) > 0)
        steps.append(int(solution.steps.max()))
    return torch.cat(held), steps


def _products(network: StoredNetwork, data: DataSet, steps: list[int]) -> list[Products]:
    found = []
    for index, count in enumerate(steps):
        batch = min(BATCH, len(data.x_test) - index * BATCH)
        size = Size(batch, network.states, network.inputs, network.outputs, states=0)
        found.append(Products(bound_products(size, count), torch.float64))
    return found


def _rigorous(
    network: StoredNetwork, x: Tensor, labels: Tensor, data: DataSet, method: Method
) -> Callable[[], object]:
    return lambda: _verdicts(replace(network), x, labels, data, method)


def _verdicts(
    network: StoredNetwork, x: Tensor, labels: Tensor, data: DataSet, method: Method
) -> list[Any]:
    return certify(network, x, labels, EPS, domain=data.domain, method=method, batch_size=BATCH)
