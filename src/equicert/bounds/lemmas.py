"""Tighter bounds on pre-activations: each r_i from below and above by the dual bound, in rounds.

A round bounds every neuron that is still open, layer by layer where there are layers, with the
bounds that stood before; what it finds are lemmas, each citing earlier ones only.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from equicert.proofs import Lemma
from equicert.relaxation import Ascent, Lagrangian, Rows, Stage, adjoint_start, rounded

BITS = 15  # of multipliers that are to be kept
_FINE_BITS = 31
_WORTH = 0.01  # of a neuron's width: less is no lemma
_ENDED = 0.98  # of the width of all open neurons: a round that leaves more is the last
_ROWS = 512  # forms ascended at a time
_BYTES = 2**28  # of the multipliers of lemmas; and of those that a round hands on to the next
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

    @property
    def full(self) -> bool:
        """Whether there are as many lemmas as are kept: each has a multiplier of length n."""
        return (len(self.chain) + _ROWS) * self.lo.numel() * 8 > _BYTES


@dataclass(frozen=True)
class _Kept:
    """The multipliers that a round found, for the next one to begin with.

    Only those of open neurons: of n = 6000 all would be half a gigabyte. What is beyond `_BYTES` is
    left out, and begins at the adjoint network's.

    Attributes:
        row: (2 n,) int64, where the multiplier of a form is; negative: nowhere.
        values: (rows, n).
    """

    row: Tensor
    values: Tensor

    @classmethod
    def of(
        cls,
        open_: Tensor,  # (2 n,) bool
        like: Tensor,
    ) -> Self:
        """Zeros for the forms of open neurons."""
        n = len(open_) // 2
        rows = min(int(open_.sum()), _BYTES // (8 * n))
        row = torch.where(open_, open_.cumsum(0) - 1, -1)
        row = torch.where(row < rows, row, -1)
        return cls(row, torch.zeros((rows, n), dtype=like.dtype, device=like.device))

    def put(
        self,
        place: Tensor,  # (batch,) int64
        values: Tensor,  # (batch, n)
    ) -> None:
        row = self.row[place]
        self.values[row[row >= 0]] = values[row >= 0]

    def get(
        self,
        place: Tensor,  # (batch,) int64
    ) -> Tensor:  # (batch, n)
        """Zeros where there is none."""
        row = self.row[place]
        found = self.values.new_zeros((len(place), self.values.shape[1]))
        found[row >= 0] = self.values[row[row >= 0]]
        return found


def tighten(
    lagrangian: Lagrangian,
    bounds: Tightened,
    centre: Tensor,  # (1, r)
    half: Tensor,  # (1, r)
    rounds: int,
    deadline: float = math.inf,  # of time.monotonic
    ascent: Ascent = ROUND,
) -> None:
    """Tighten the bounds in place, round by round.

    Until they hardly move, time is up, or as many lemmas are found as are kept.
    """
    kept: _Kept | None = None
    for _ in range(rounds):
        width = (bounds.hi - bounds.lo).sum()
        found = _Kept.of(lagrangian.graph.bent(bounds.lo[0], bounds.hi[0]).repeat(2), bounds.lo)
        for stage in lagrangian.stages:
            if time.monotonic() >= deadline or bounds.full:
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
    kept: _Kept | None,
    found: _Kept,  # filled in
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
        before = None if kept is None else kept.get(place)[:, known]
        multiplier = _proposed(lagrangian, rows, before, ascent, deadline)
        whole = multiplier.new_zeros((len(place), n))
        whole[:, known] = multiplier
        found.put(place, whole)
        values = lagrangian.below(rows, multiplier)
        _note(bounds, known[part % m], part >= m, values, whole)
        if time.monotonic() >= deadline or bounds.full:
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
        bounds.chain.append(Lemma(i, above, value, multiplier[k].clone().cpu().numpy()))


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
