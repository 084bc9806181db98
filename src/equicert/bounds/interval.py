"""Interval reachability by the embedded network: [J22], Theorem 6.3 and certificate (14)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from equicert.bounds.base import StateBoxMethod
from equicert.bounds.state_box import prove_state_box
from equicert.boxes import Box
from equicert.errors import InputError
from equicert.queries import StateBox
from equicert.solvers import Anderson, solve
from equicert.stored import StoredNetwork


@final
@dataclass(frozen=True)
class Interval(StateBoxMethod):
    """The box [lo, hi] of the embedded network's fixed point, iterated, widened and tested.

        lo = N^E(lo, hi, xlo, xhi),   hi = N^E(hi, lo, xhi, xlo)            ([J22], (6))

    Attributes:
        tolerance: sup-norm distance to the exact embedded fixed point at which to stop. It costs
            tightness only, never soundness.
        max_steps: limit of the iteration; what has not converged may still be proved, loosely.
    """

    tolerance: float = 1e-7
    max_steps: int = 5000
    name = "interval"
    post_fixed = True

    @torch.no_grad()
    def state_box(self, network: StoredNetwork, box: Box) -> StateBox:
        check_width(network, box)
        drive = network.drive_bounds(box.lo, box.hi)
        problem = network.embedded_problem(*drive)
        solution = solve(problem, Anderson(), self.tolerance, self.max_steps)
        lo, hi = solution.value.chunk(2, -1)
        return prove_state_box(network, drive, lo, hi, solution.converged, solution.bound)


def check_width(network: StoredNetwork, box: Box) -> None:
    """Raise InputError unless the box has the network's number of inputs."""
    if box.inputs != network.inputs:
        raise InputError(
            f"the box has {box.inputs} inputs, the network takes {network.inputs}: the data does"
            " not fit the model"
        )
