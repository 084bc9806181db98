"""Tighter bounds on pre-activations: each r_i from below and above by the dual bound, in rounds.

A round bounds every neuron that is still open, layer by layer where there are layers, with the
bounds that stood before; what it finds are lemmas, each citing earlier ones only.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equicert.proofs import Lemma
from equicert.relaxation import Ascent, Lagrangian, Rows, Stage, adjoint_start, rounded

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
        width = (bounds.hi - bounds.lo).sum()
        found = torch.zeros((2 * n, n), dtype=bounds.lo.dtype, device=bounds.lo.device)
        for stage in lagrangian.stages:
            if time.monotonic() >= deadline:
                return
            _tighten(stage, bounds, (centre, half), kept, found, deadline, ascent)
        kept = found
        bounds.empty |= bool((bounds.lo > bounds.hi).any())
        if bounds.empty or (bounds.hi - bounds.lo).sum() > _ENDED * width:
            return


def _tighten(
    stage: Stage,
    bounds: Tightened,
    box: tuple[Tensor, Tensor],  # (1, r) each, centre and half-widths
    kept: Tensor | None,  # (2 n, n)
    found: Tensor,  # (2 n, n), filled in
    deadline: float,
    ascent: Ascent,
) -> None:
    """Lemmas about the neurons of a stage that are open, by what is known before it."""
    known, lagrangian = stage.known, stage.lagrangian
    n, m = bounds.lo.shape[1], len(known)
    lo, hi = bounds.lo[:, known], bounds.hi[:, known]
    local = torch.searchsorted(known, stage.neurons)
    open_ = local[lagrangian.graph.bent(lo[0], hi[0])[local]]
    for part in torch.cat([open_, open_ + m]).split(_ROWS):  # from below, then from above
        rows = neuron_rows(lo, hi, part, *box)
        place = known[part % m] + torch.where(part >= m, n, 0)
        before = None if kept is None else kept[place][:, known]
        multiplier = _proposed(lagrangian, rows, before, ascent, deadline)
        found[place[:, None], known] = multiplier
        values = lagrangian.below(rows, multiplier)
        _note(bounds, known[part % m], part >= m, values, found[place])
        if time.monotonic() >= deadline:
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


def _proposed(
    lagrangian: Lagrangian, rows: Rows, kept: Tensor | None, ascent: Ascent, deadline: float
) -> Tensor:  # (batch, n)
    rows = lagrangian.prepared(rows)
    start = adjoint_start(lagrangian, rows, kept)
    found = ascent.run(lagrangian, rows, start, deadline=deadline)[1]
    return rounded(found, BITS)


def _note(
    bounds: Tightened,
    neuron: Tensor,  # (batch,)
    upper: Tensor,  # (batch,) bool
    values: Tensor,  # (batch,) rigorous
    multiplier: Tensor,  # (batch, n)
) -> None:
    """Make lemmas of the values that are worth it."""
    lo, hi = bounds.lo[0, neuron], bounds.hi[0, neuron]
    old = torch.where(upper, -hi, lo)
    worth = (values > old + _WORTH * (hi - lo)) & values.isfinite()
    for k in worth.nonzero()[:, 0].tolist():
        i, above = int(neuron[k]), bool(upper[k])
        value = -float(values[k]) if above else float(values[k])
        (bounds.hi if above else bounds.lo)[0, i] = value
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
