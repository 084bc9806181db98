"""Where dual bounds start from: a box of states that holds every fixed point, and r over it.

Contracting networks start from certificate (14)'s box. Monotone ones from the ball of
`bounds.ball` about the fixed point at the centre of the input box: it moves by at most
`||Lambda^(1/2) U||_2 ||x - x0||_2 / m` in the Lambda-norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equicert.bounds.ball import Ball, point_ball, state_box
from equicert.bounds.interval import Interval
from equicert.bounds.spectral import input_norm
from equicert.boxes import Box
from equicert.contraction import Contraction
from equicert.monotonicity import lambda_norm_above
from equicert.proofs import BallStart, Start, StateStart
from equicert.queries import StateBox
from equicert.rounding import centre_radius, up
from equicert.stored import StoredNetwork

_SPARE = 1 + 2.0**-40  # for a centre that others round in another way
_TOLERANCE, _MAX_STEPS = 1e-9, 5000  # of the fixed points at the centres


@dataclass(frozen=True)
class Started:
    """Bounds on z and r over each box of a batch.

    Attributes:
        state: the boxes of states.
        lo, hi: (batch, n) rigorous bounds on `r = W_off z + U x + b`; not finite where unproved.
        t: (batch, n) what the balls are about, or None where the boxes are post-fixed.
    """

    state: StateBox
    lo: Tensor
    hi: Tensor
    t: Tensor | None

    def start(self, row: int) -> Start:
        """How the proof about a sample begins."""
        if self.t is None:
            return StateStart(self.state.lo[row].cpu().numpy(), self.state.hi[row].cpu().numpy())
        return BallStart(self.t[row].cpu().numpy())


@torch.no_grad()
def begin(network: StoredNetwork, box: Box) -> Started:
    """Bounds by the proof that the network is well-posed by.

    Raises:
        NotContractingError: it is proved neither contracting nor monotone.
    """
    t = None
    if isinstance(network.well_posed, Contraction):
        state = Interval().state_box(network, box)
    else:
        ball, state = _in_ball(network, box)
        t = ball.t
    drive = network.drive_bounds(box.lo, box.hi)
    lo, hi = network.off_diagonal.image(state.lo, state.hi, drive)
    return Started(state, lo, hi, t)


def _in_ball(network: StoredNetwork, box: Box) -> tuple[Ball, StateBox]:
    x, half = centre_radius(box.lo, box.hi)
    solution = network.solve(x, _TOLERANCE, _MAX_STEPS)
    ball = point_ball(network, x, solution.value)
    length = lambda_norm_above(half, half.new_ones(network.inputs))
    reach = up(up(input_norm(network) * length) / network.monotone.m)
    spare = up((ball.radius + reach) * (_SPARE - 1))
    return ball, state_box(network, ball, up(reach + spare), solution.converged)
