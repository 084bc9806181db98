"""The root of `z = phi(d z + r)`, entry by entry: safeguarded Newton steps inside a bracket."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_STEPS = 80  # Newton needs a handful; bisection alone, at worst every other step, about 120 bits


def increasing_root(
    phi: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    r: Tensor,  # (..., n)
    d: Tensor,  # broadcastable to r, d < 1
    beta: float,
    lower: float,
    upper: float,
) -> Tensor:  # (..., n)
    """The z with `f(z) = z - phi(d z + r) = 0` for phi increasing of slope <= beta <= 1, d < 1.

    f is increasing with slope at least `min(1, 1 - beta d) > 0`, so from the known root
    `z0 = phi(0)` at `r0 = -d z0` the root is at most `|r - r0| beta / (1 - beta d)` away, and
    inside phi's range. Plain Newton cycles (tanh at d = -20); a step that leaves the bracket, or
    does not halve the one before, becomes a bisection.
    """
    z0 = phi(torch.zeros_like(r))
    reach = (r + d * z0) * (beta / (1 - beta * d))
    # A little room on both sides: the ends are rounded, and the root may lie at one of them.
    room = 1e-6 * (reach.abs() + z0.abs()) + 1e-30
    lo = (z0 + reach.clamp(max=0) - room).clamp(lower, upper)
    hi = (z0 + reach.clamp(min=0) + room).clamp(lower, upper)
    z = (z0 + 0.5 * reach).clamp(lower, upper)
    last = hi - lo
    # The evaluation of d z + r itself is this uncertain, in units of z.
    resolution = 8 * torch.finfo(r.dtype).eps
    for _ in range(_STEPS):
        t = d * z + r
        f = z - phi(t)
        lo, hi = torch.where(f < 0, z, lo), torch.where(f > 0, z, hi)
        move = f / (1 - d * slope(t))
        close = move.abs() <= resolution * z.abs() + torch.finfo(r.dtype).tiny
        newton = z - move
        bisect = ~close & (~((newton >= lo) & (newton <= hi)) | (move.abs() > 0.5 * last))
        step = torch.where(bisect, 0.5 * lo + 0.5 * hi, newton)
        last, z = (step - z).abs(), step
        if bool(close.all()):
            break
    return z.clamp(lower, upper)
