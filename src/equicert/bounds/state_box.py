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
) -> StateBox:
    """The proposal, widened where needed until it passes the test; unproved where it never does."""
    lo, hi = torch.minimum(lo, hi), torch.maximum(lo, hi)
    due = _due(network, drive, lo, hi)
    eta = network.contraction.eta
    best_lo, best_hi = lo.clone(), hi.clone()
    proved = torch.zeros(len(lo), dtype=torch.bool, device=lo.device)
    for factor in _WIDENINGS:
        rows = (~proved).nonzero()[:, 0]
        if not len(rows):
            break
        widen = (factor * due[rows, None]) * eta
        wide_lo = (lo[rows] - widen).clamp(min=network.activation.lower)
        wide_hi = (hi[rows] + widen).clamp(max=network.activation.upper)
        part = (drive[0][rows], drive[1][rows])
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
    r_lo, r_hi = _off_diagonal(network, drive, lo, hi)
    t_lo = down(down(network.diagonal * lo) + r_lo)
    t_hi = up(up(network.diagonal * hi) + r_hi)
    phi = network.activation
    finite = t_lo.isfinite() & t_hi.isfinite() & lo.isfinite() & hi.isfinite()
    inside = (phi.down(t_lo) >= lo) & (phi.up(t_hi) <= hi) & (lo <= hi)
    return (inside & finite).all(-1)


def _off_diagonal(
    network: StoredNetwork, drive: tuple[Tensor, Tensor], lo: Tensor, hi: Tensor
) -> tuple[Tensor, Tensor]:
    """Rigorous bounds on `W_off z + U x + b` over the state box and the input box."""
    low, high = network.off_diagonal.image(lo, hi)
    return down(low + drive[0]), up(high + drive[1])


def _due(
    network: StoredNetwork, drive: tuple[Tensor, Tensor], lo: Tensor, hi: Tensor
) -> Tensor:  # (batch,)
    """t such that [lo - t eta, hi + t eta] should pass: the residual in units of the gaps.

    If psi maps the box into [lo - t g, hi + t g], it maps the box widened by t eta into that
    widened by `t (eta - g)` more, hence into itself. A few units in the last place are added.
    """
    psi, d = network.activation.psi, network.diagonal
    r_lo, r_hi = _off_diagonal(network, drive, lo, hi)
    excess = torch.maximum(lo - psi(r_lo, d), psi(r_hi, d) - hi).clamp(min=0)
    resolution = 64 * UNIT * torch.maximum(lo.abs(), hi.abs()) + 2.0**-1000
    c = network.contraction
    # The residual is one of psi, to which the gaps belong; rounding is suffered by phi(d z + r).
    return (excess / c.gaps + resolution / (c.eta * c.gap)).amax(-1)
