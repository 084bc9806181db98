"""Tighter bounds on pre-activations: each r_i from below and above by the dual bound, in rounds.

A round bounds every neuron that is still open with the bounds that the round before left, and what
it finds are lemmas, each citing those of earlier rounds only.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equicert.proofs import Lemma
from equicert.relaxation import Ascent, Lagrangian, Rows, adjoint_start, rounded

BITS = 15  # of multipliers that are to be kept
_FINE_BITS = 31
_WORTH = 0.01  # of a neuron's width: less is no lemma
_ENDED = 0.98  # of the width of all open neurons: a round that leaves more is the last
_ROWS = 512  # forms ascended at a time
ROUND = Ascent(20)


@dataclass
class Tightened:
    """Bounds on r over one box of inputs, and the lemmas behind them.

    Attributes:
        lo, hi: (1, n) rigorous.
        chain: in order.
        empty: two lemmas contradict each other, which over a whole box means a fault.
    """

    lo: Tensor
    hi: Tensor
    chain: list[Lemma] = field(default_factory=list)
    empty: bool = False


def tighten(
    lagrangian: Lagrangian,
    bounds: Tightened,
    centre: Tensor,  # (1, r)
    half: Tensor,  # (1, r)
    rounds: int,
    deadline: float = math.inf,  # of time.monotonic
    ascent: Ascent = ROUND,
) -> None:
    """Tighten the bounds in place, round by round, until they hardly move or time is up."""
    n = len(lagrangian.b)
    kept: Tensor | None = None  # (2 n, n), the multipliers of the round before
    for _ in range(rounds):
        neurons = _open(lagrangian, bounds)
        if not len(neurons) or time.monotonic() > deadline:
            return
        which = torch.cat([neurons, neurons + n])  # from below, then from above
        width = (bounds.hi - bounds.lo).sum()
        found = torch.zeros((2 * n, n), dtype=bounds.lo.dtype, device=bounds.lo.device)
        lo, hi = bounds.lo.clone(), bounds.hi.clone()
        for part in which.split(_ROWS):
            rows = neuron_rows(bounds.lo, bounds.hi, part, centre, half)
            multiplier = _proposed(lagrangian, rows, None if kept is None else kept[part], ascent)
            found[part] = multiplier
            values = lagrangian.below(rows, multiplier)
            _note(bounds, lo, hi, part, values, multiplier)
            if time.monotonic() > deadline:
                break
        bounds.lo, bounds.hi, kept = lo, hi, found
        bounds.empty |= bool((lo > hi).any())
        if bounds.empty or (hi - lo).sum() > _ENDED * width:
            return


def neuron_rows(
    lo: Tensor,  # (1, n) or (batch, n)
    hi: Tensor,
    which: Tensor,  # (batch,) int64: neuron i from below, or n + i from above
    centre: Tensor,
    half: Tensor,
) -> Rows:
    """The forms r_i and -r_i."""
    n = lo.shape[1]
    a = lo.new_zeros((len(which), n))
    e = torch.zeros_like(a)
    e.scatter_(1, (which % n)[:, None], (1.0 - 2.0 * (which >= n).to(lo.dtype))[:, None])
    return Rows(a, e, a[:1, :1], lo, hi, centre, half)


def _open(lagrangian: Lagrangian, bounds: Tightened) -> Tensor:  # (k,) int64
    """Neurons whose graph bends inside their interval."""
    return (lagrangian.graph.cut(bounds.lo[0], bounds.hi[0]) > 0).any(0).nonzero()[:, 0]


def _proposed(
    lagrangian: Lagrangian, rows: Rows, kept: Tensor | None, ascent: Ascent
) -> Tensor:  # (batch, n)
    value, multiplier = adjoint_start(lagrangian, rows)
    if kept is not None:
        before = lagrangian.value(rows, kept)
        better = before > value
        value = torch.where(better, before, value)
        multiplier = torch.where(better[:, None], kept, multiplier)
    return rounded(ascent.run(lagrangian, rows, (value, multiplier))[1], BITS)


def _note(
    bounds: Tightened,
    lo: Tensor,  # (1, n), of the next round
    hi: Tensor,
    which: Tensor,  # (batch,)
    values: Tensor,  # (batch,) rigorous
    multiplier: Tensor,  # (batch, n)
) -> None:
    """Make lemmas of the values that are worth it."""
    n = lo.shape[1]
    neuron, upper = which % n, which >= n
    old = torch.where(upper, -bounds.hi[0, neuron], bounds.lo[0, neuron])
    width = bounds.hi[0, neuron] - bounds.lo[0, neuron]
    worth = (values > old + _WORTH * width) & values.isfinite()
    for k in worth.nonzero()[:, 0].tolist():
        i, above = int(neuron[k]), bool(upper[k])
        value = -float(values[k]) if above else float(values[k])
        (hi if above else lo)[0, i] = value
        bounds.chain.append(Lemma(i, above, value, multiplier[k].cpu().numpy()))


def proved_multiplier(
    lagrangian: Lagrangian,
    rows: Rows,
    multiplier: Tensor,  # (batch, n)
    needed: Tensor,  # (batch,) bounds to exceed
) -> tuple[Tensor, Tensor]:  # (batch,), (batch, n)
    """Rigorous bounds by multipliers of few bits, of more where a bound falls short of its need."""
    best = rounded(multiplier, BITS)
    value = lagrangian.below(rows, best)
    for fine in (rounded(multiplier, _FINE_BITS), multiplier):
        short = (~(value > needed)).nonzero()[:, 0]
        if not len(short):
            break
        finer = lagrangian.below(rows[short], fine[short])
        better = finer > value[short]
        value[short[better]], best[short[better]] = finer[better], fine[short[better]]
    return value, best
