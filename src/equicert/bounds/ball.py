"""Balls about fixed points of monotone networks, rounded outwards.

With `sym(Lambda (I - W)) >= m Lambda` the fixed point at x0 lies within
`||W phi(t) + U x0 + b - t||_Lambda / m` of phi(t), for any t at all (derived here).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equicert.enclosures import Enclosure
from equicert.monotonicity import Monotone, lambda_norm_above, prove_monotone
from equicert.queries import StateBox
from equicert.rounding import down, up
from equicert.stored import StoredNetwork


def monotone_proofs(network: StoredNetwork) -> list[Monotone]:
    """`network.monotone` first, then that at the hint Lambda where it is another one.

    Raises:
        NotMonotoneError: the network is not proved monotone.
    """
    proof = network.monotone
    if network.Lambda is None:
        return [proof]
    # A promised modulus lets the hint come first; it proves no more than it did without one.
    other = prove_monotone(network.W, network.Lambda, proof.m)
    return [proof] if torch.equal(other.Lambda, proof.Lambda) else [proof, other]


@dataclass(frozen=True)
class Ball:
    """z*(x0) lies within `radius`, in the Lambda-norm, of a point of [lo, hi].

    Attributes:
        t: (batch, n) what the radius follows from.
        lo, hi: (batch, n) an enclosure of phi(t), as narrow as phi is known.
        radius: (batch,) NaN or infinite where nothing is proved.
    """

    t: Tensor
    lo: Tensor
    hi: Tensor
    radius: Tensor


def point_ball(
    network: StoredNetwork,
    x: Tensor,  # (batch, r) float64
    z: Tensor,  # (batch, n) a proposal for z*(x), from any source
) -> Ball:
    """The ball about phi(t), `t = W z + U x + b` in plain floating point.

    Raises:
        NotMonotoneError: the network is not proved monotone.
    """
    proof, phi = network.monotone, network.activation
    low, high = network.drive_bounds(x, x)
    t = network.W.affine(z, 0.5 * (low + high))
    lo, hi = phi.down(t), phi.up(t)
    least, most = Enclosure.of(network.W).image(lo, hi)
    residual = torch.maximum(up(up(most + high) - t), -down(down(least + low) - t))
    return Ball(t, lo, hi, up(lambda_norm_above(residual, proof.Lambda) / proof.m))


def state_box(
    network: StoredNetwork,
    ball: Ball,
    reach: Tensor,  # (batch,) how far z* moves from the ball, in the Lambda-norm
    converged: Tensor,  # (batch,) bool, whether the proposal's source met its tolerance
) -> StateBox:
    """The box around the ball: `|d_i| <= ||d||_Lambda / Lambda_i^(1/2)`, and phi's range."""
    root = down(network.monotone.Lambda.sqrt())
    radius = up(ball.radius + reach)
    widen = up(radius[:, None] / root)
    phi = network.activation
    lo, hi = down(ball.lo - widen), up(ball.hi + widen)
    proved = radius.isfinite() & lo.isfinite().all(1) & hi.isfinite().all(1)
    reason = tuple(
        "rounding" if not good and done else "" if done else "unconverged"
        for good, done in zip(proved.tolist(), converged.tolist(), strict=True)
    )
    return StateBox(lo.clamp(min=phi.lower), hi.clamp(max=phi.upper), proved, reason)
