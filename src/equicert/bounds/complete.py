"""Complete verification: every sample certified, falsified, or said why not.

All samples together get the bounds to start from (`bounds.starts`), the dual bound of every form,
and a search for witnesses. Each that is left open gets lemmas that tighten its bounds on r, and
then branch and bound, with witnesses looked for inside. Where psi is smooth there is nothing to
branch on, and what lemmas and witnesses do not decide is left open, reason "margin".
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Self, final

import torch

from equicert.bounds.base import Method, check_forms, undecided
from equicert.bounds.dual import Dual
from equicert.bounds.hunting import Hunter, first_witnesses
from equicert.bounds.interval import check_width
from equicert.bounds.nodes import Task
from equicert.bounds.sample import Sample
from equicert.bounds.starts import Started, begin
from equicert.errors import InputError
from equicert.proofs import Finding
from equicert.queries import Answer, Query
from equicert.relaxation import Lagrangian, Objectives
from equicert.rounding import centre_radius
from equicert.stored import StoredNetwork

ROUNDS = 8  # of tightening, at most


@dataclass(frozen=True)
class Searching(Method):
    """The dual bound of all samples, then one sample after the other.

    Attributes:
        timeout: seconds a sample, or None for as long as it takes. What all samples share, the
            bounds to start from and the first search for witnesses, is not counted.
        total: seconds for all samples, or None; what is left then is `unknown`, "timeout".

    Raises:
        InputError: a time that is negative or NaN.
    """

    timeout: float | None = 60.0
    total: float | None = None

    post_fixed = True
    trees = True
    bisects = False
    together = 100
    branches = False

    def __post_init__(self) -> None:
        for name in ("timeout", "total"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds >= 0:
                raise InputError(f"{name} is a number of seconds >= 0, got {seconds!r}")

    def within(self, seconds: float) -> Self:
        return replace(self, total=max(0.0, seconds))

    @torch.no_grad()
    def answer(self, network: StoredNetwork, query: Query) -> Answer:
        began = time.monotonic()
        check_width(network, query.box)
        check_forms(network, query)
        if self.total == 0:
            return undecided(network, query, "timeout")
        started = begin(network, query.box)
        answer = Dual().over(network, query, started)
        findings = [found or Finding(stage="interval") for found in answer.findings or ()]
        left = (started.state.proved & ~answer.holds).nonzero()[:, 0]
        if query.inner is not None and self.hunts and len(left):
            for row, found in first_witnesses(network, query, query.inner, left).items():
                findings[row] = found
        lower, reasons = answer.lower.clone(), list(answer.state.reason)
        end = math.inf if self.total is None else began + self.total
        work = _Work(network, query, started)
        for row in left.tolist():
            if not findings[row].above < 0:
                sample, findings[row] = self._decide(work, row, findings[row], end)
                if not findings[row].above < 0:  # else nothing holds, and nothing is to hold
                    lower[row] = torch.maximum(lower[row], sample.lower)
                reasons[row] = sample.reason
        state = replace(started.state, reason=tuple(reasons))
        return Answer(query, lower, state, findings=tuple(findings))

    def _decide(self, work: _Work, row: int, known: Finding, end: float) -> tuple[Sample, Finding]:
        began = time.monotonic()
        deadline = min(end, math.inf if self.timeout is None else began + self.timeout)
        sample, hunter = work.sample(row), work.hunter(row, known)
        stage = "tightening"
        if time.monotonic() >= deadline:
            sample.reason = "timeout"
        else:
            sample.bound(deadline)
            sample.tighten(ROUNDS, deadline)
        if not (sample.holds or sample.reason):
            if self.branches:
                stage = "complete"
                sample.branch(hunter, deadline)
            elif sample.bounds.full:
                sample.reason = "memory"
        proof = sample.proof(work.started.start(row)) if sample.holds else None
        seconds = time.monotonic() - began
        found = Finding(
            proof, hunter.witness, hunter.above, hunter.point, sample.nodes, stage, seconds, False
        )
        return sample, found


@dataclass(frozen=True)
class _Work:
    """What the samples of one answer share."""

    network: StoredNetwork
    query: Query
    started: Started

    def __post_init__(self) -> None:
        objectives = [Objectives.of(self.network, forms) for forms in self.query.forms]
        object.__setattr__(self, "_objectives", objectives)
        object.__setattr__(self, "_lagrangian", Lagrangian.of(self.network))

    def sample(self, row: int) -> Sample:
        """The sample, with the bounds that it starts from."""
        query, which = self.query, int(self.query.which[row])
        clause = query.forms[which].clause
        if clause is None:
            raise InputError("this query asked for bounds and has no clauses to decide")
        centre, half = centre_radius(query.box.lo[row, None], query.box.hi[row, None])
        task = Task(self._lagrangian, self._objectives[which], clause, centre, half)  # type: ignore[attr-defined]
        return Sample.of(task, self.started.lo[row, None], self.started.hi[row, None])

    def hunter(self, row: int, known: Finding) -> Hunter:
        """What judges points that the search comes by."""
        query = self.query[torch.tensor([row], device=self.query.which.device)]
        return Hunter(self.network, query, query.inner, known.above, known.point)


@final
@dataclass(frozen=True)
class Complete(Searching):
    """Branch and bound on the dual bound; see this module."""

    name = "complete"
    branches = True
    hunts = True


@final
@dataclass(frozen=True)
class Tightening(Searching):
    """The dual bound over bounds on r that lemmas have tightened; no branching, no witnesses."""

    name = "tightening"
