"""One method after the other, each sample leaving at the first that decides it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from equicert.bounds.base import Method
from equicert.bounds.complete import Complete
from equicert.bounds.lipschitz import Lipschitz
from equicert.contraction import Contraction
from equicert.errors import NotConvergedError
from equicert.proofs import Finding
from equicert.queries import Answer, Query, StateBox
from equicert.stored import StoredNetwork


@final
@dataclass(frozen=True)
class Auto(Method):
    """Lipschitz, interval, dual, tightening, complete, in that order.

    The Lipschitz certificate is for contracting networks only. The interval box is what the dual
    bound starts from, so `Complete` goes through all that follow.

    Attributes:
        timeout, total: as of `Complete`.

    Raises:
        InputError: as `Complete`.
    """

    timeout: float | None = 60.0
    total: float | None = None
    name = "auto"
    post_fixed = True
    trees = True
    hunts = True
    bisects = False
    together = Complete.together

    def __post_init__(self) -> None:
        Complete(self.timeout, self.total)  # which refuses what is no time

    def within(self, seconds: float) -> Self:
        return replace(self, total=max(0.0, seconds))

    @torch.no_grad()
    def answer(self, network: StoredNetwork, query: Query) -> Answer:
        began = time.monotonic()
        first = None if self.total == 0 else _by_lipschitz(network, query)
        if first is None:
            return Complete(self.timeout, self.total).answer(network, query)
        left = (~first.holds).nonzero()[:, 0]
        if not len(left):
            return first
        complete = Complete(self.timeout, self.total)
        if self.total is not None:
            complete = complete.within(self.total - time.monotonic() + began)
        rest = complete.answer(network, query[left])
        return _merged(first, left, rest)


def _by_lipschitz(network: StoredNetwork, query: Query) -> Answer | None:
    """What (13) says; None if it does not apply."""
    if not isinstance(network.well_posed, Contraction):
        return None
    try:
        answer = Lipschitz().answer(network, query)
    except NotConvergedError:  # no bound passed its rounded test
        return None
    findings = (Finding(stage="lipschitz"),) * len(answer.lower)
    return replace(answer, findings=findings, point=None)


def _merged(first: Answer, rows: Tensor, rest: Answer) -> Answer:
    """The answers of the first, but those of the rest for its rows."""
    findings, reasons = list(first.findings or ()), list(first.state.reason)
    later = rest.findings or (None,) * len(rows)  # none where no time was left
    for row, found, reason in zip(rows.tolist(), later, rest.state.reason, strict=True):
        findings[row], reasons[row] = found or findings[row], reason
    state = StateBox(
        first.state.lo.index_copy(0, rows, rest.state.lo),
        first.state.hi.index_copy(0, rows, rest.state.hi),
        first.state.proved.index_copy(0, rows, rest.state.proved),
        tuple(reasons),
    )
    lower = first.lower.index_copy(0, rows, rest.lower)
    return Answer(first.query, lower, state, findings=tuple(findings))
