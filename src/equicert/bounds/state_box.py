"""From a proposed state box to a proved one: widen, then test.

The test (derived here, by Brouwer): if the network has a unique fixed point for each x, and
Z = [lo, hi] satisfies

    phi(W_ii lo_i + r_lo_i) >= lo_i   and   phi(W_ii hi_i + r_hi_i) <= hi_i   for all i,

r_lo <= W_off z + U x + b <= r_hi for all z in Z and x in the box, then z*(x) lies in Z for every x
in the box. These are the inequalities `N^E(lo, hi) >= lo`, `N^E(hi, lo) <= hi` of [J22] (6), since
the Metzler part of W keeps its diagonal. A last iterate does not pass; it is widened along eta by
as much as its own residual calls for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equicert.queries import StateBox
from equicert.rounding import UNIT, down, up
from equicert.stored import StoredNetwork

_WIDENINGS = (1.01, 4.0, 64.0, 4096.0)  # of the residual's due; the first nearly always passes


def prove_state_box(
    network: StoredNetwork,
    drive: tuple[Tensor, Tensor],  # rigorous bounds on U x + b, (batch, n) each
    lo: Tensor,  # (batch, n) proposal, from any source
    hi: Tensor,  # (batch, n)
    converged: Tensor,  # (batch,) bool, whether the source met its tolerance
    bound: Tensor | None = None,  # (batch,) the error bound that a solver stopped on, if one did
) -> StateBox:
    """The proposal, widened where needed until it passes the test; unproved where it never does.

    A solver's bound is max(eta) times the residual before its last step, which is no less than what
    is left; without one, the residual is computed.
    """
    lo, hi = torch.minimum(lo, hi), torch.maximum(lo, hi)
    resolution = _resolution(network, lo, hi)
    eta = network.contraction.eta
    known = _residual(network, drive, lo, hi) if bound is None else bound / eta.amax()
    due = known + resolution
    best_lo, best_hi = lo.clone(), hi.clone()
    proved = torch.zeros(len(lo), dtype=torch.bool, device=lo.device)
    for factor in _WIDENINGS:
        rows = (~proved).nonzero()[:, 0]
        if not len(rows):
            break
        part = (drive[0][rows], drive[1][rows])
        if bound is not None and factor == _WIDENINGS[1]:  # it was not enough: see for ourselves
            found = _residual(network, part, lo[rows], hi[rows])
            due[rows] = torch.maximum(known[rows], found) + resolution[rows]
        widen = (factor * due[rows, None]) * eta
        wide_lo = (lo[rows] - widen).clamp(min=network.activation.lower)
        wide_hi = (hi[rows] + widen).clamp(max=network.activation.upper)
        proved[rows] = post_fixed(network, part, wide_lo, wide_hi)
        best_lo[rows], best_hi[rows] = wide_lo, wide_hi
    reason = tuple(
        "rounding" if not good and done else "" if done else "unconverged"
        for good, done in zip(proved.tolist(), converged.tolist(), strict=True)
    )
    return StateBox(best_lo, best_hi, proved, reason)


def post_fixed(
    network: StoredNetwork,
    drive: tuple[Tensor, Tensor],  # (batch, n) each
    lo: Tensor,  # (batch, n)
    hi: Tensor,  # (batch, n)
) -> Tensor:  # (batch,) bool
    """The test of this module in outward-rounded arithmetic; NaN and infinity fail it.

    Proves nothing by itself: the caller holds a proof that the fixed point is unique.
    """
    r_lo, r_hi = off_diagonal_bounds(network, drive, lo, hi)
    t_lo = down(down(network.diagonal * lo) + r_lo)
    t_hi = up(up(network.diagonal * hi) + r_hi)
    phi = network.activation
    # A difference has the sign of its exact value, or is NaN where two infinities meet.
    slack = torch.minimum(phi.down(t_lo) - lo, hi - phi.up(t_hi))
    slack = torch.minimum(slack, hi - lo).amin(-1)
    size = torch.maximum(torch.maximum(t_lo.abs(), t_hi.abs()), torch.maximum(lo.abs(), hi.abs()))
    return (slack >= 0) & (size.amax(-1) < torch.inf)


def off_diagonal_bounds(
    network: StoredNetwork, drive: tuple[Tensor, Tensor], lo: Tensor, hi: Tensor
) -> tuple[Tensor, Tensor]:
    """Rigorous bounds on `W_off z + U x + b` over the state box and the input box."""
    low, high = network.off_diagonal.image(lo, hi)
    return down(low + drive[0]), up(high + drive[1])


def _residual(
    network: StoredNetwork, drive: tuple[Tensor, Tensor], lo: Tensor, hi: Tensor
) -> Tensor:  # (batch,)
    """The residual of psi on the box in units of the gaps.

    If psi maps the box into [lo - t g, hi + t g], it maps the box widened by t eta into that
    widened by `t (eta - g)` more, hence into itself.
    """
    psi, d = network.activation.psi, network.diagonal
    r_lo, r_hi = off_diagonal_bounds(network, drive, lo, hi)
    excess = torch.maximum(lo - psi(r_lo, d), psi(r_hi, d) - hi).clamp_(min=0)
    return excess.div_(network.contraction.gaps).amax(-1)


def _resolution(network: StoredNetwork, lo: Tensor, hi: Tensor) -> Tensor:  # (batch,)
    """What the rounding of the test, which is one of `phi(d z + r)`, calls for besides."""
    c = network.contraction
    size = torch.maximum(lo.abs(), hi.abs()).mul_(64 * UNIT).add_(2.0**-1000)
    return size.div_(c.eta * c.gap).amax(-1)
