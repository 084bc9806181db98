"""The dual bound of every form, many samples at a time (derived here, see `relaxation`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from equicert.bounds.base import Method, answer_from_state, check_forms
from equicert.bounds.interval import check_width
from equicert.bounds.lemmas import proved_multiplier
from equicert.bounds.starts import Started, begin
from equicert.proofs import Finding, Leaf, TreeProof
from equicert.queries import Answer, Forms, Query
from equicert.relaxation import (
    Ascent,
    Lagrangian,
    Objectives,
    PiecewiseLinear,
    Rows,
    adjoint_start,
)
from equicert.rounding import centre_radius, down
from equicert.stored import StoredNetwork

_ASCENT = Ascent(40)
_TOGETHER = 512  # forms ascended at a time


@final
@dataclass(frozen=True)
class Dual(Method):
    """lambda from the adjoint network's solution, then by ascent, over the bounds of `starts`.

    Never below certificate (10) over the same box of states, which is what lambda = 0 gives. The
    trees that prove it are for piecewise-linear activations only.

    Attributes:
        ascent: of each form that the start leaves open.
    """

    ascent: Ascent = _ASCENT
    name = "dual"
    post_fixed = True
    bisects = False  # its proofs may be trees, and those of another radius are none
    trees = True

    @torch.no_grad()
    def answer(self, network: StoredNetwork, query: Query) -> Answer:
        check_width(network, query.box)
        check_forms(network, query)
        return self.over(network, query, begin(network, query.box))

    def over(self, network: StoredNetwork, query: Query, started: Started) -> Answer:
        """The answer by bounds at hand."""
        lagrangian = Lagrangian.of(network)
        plain = answer_from_state(network, query, started.state)
        # That bound is the one of lambda = 0 over a post-fixed box, but not over a ball's.
        lower = plain.lower.clone() if started.t is None else plain.lower.fill_(-torch.inf)
        multiplier = lower.new_zeros((*lower.shape, network.states))
        centre, half = centre_radius(query.box.lo, query.box.hi)
        for which, forms in enumerate(query.forms):
            objectives = Objectives.of(network, forms)
            samples = (query.which == which).nonzero()[:, 0]
            wanted = started.state.proved[samples, None] & ~(lower[samples] > 0)
            for pairs in wanted.nonzero().split(_TOGETHER):
                sample, form = samples[pairs[:, 0]], pairs[:, 1]
                rows = Rows(
                    objectives.a[form],
                    None,
                    objectives.error[form],
                    started.lo[sample],
                    started.hi[sample],
                    centre[sample],
                    half[sample],
                )
                constant = objectives.constant[form]
                value, found = self._bound(lagrangian, rows, constant)
                better = value > lower[sample, form]
                at = sample[better], form[better]
                lower[at], multiplier[at] = value[better], found[better]
        answer = Answer(query, lower, started.state)
        if any(forms.clause is None for forms in query.forms):
            return answer  # bounds were asked for, and nothing is to be decided
        held = plain.holds if started.t is None else torch.zeros_like(plain.holds)
        proved = _Proved(held, started, multiplier, isinstance(lagrangian.graph, PiecewiseLinear))
        return _with_findings(answer, proved)

    def _bound(
        self,
        lagrangian: Lagrangian,
        rows: Rows,
        constant: Tensor,  # (batch,)
    ) -> tuple[Tensor, Tensor]:  # (batch,), (batch, n)
        rows = lagrangian.prepared(rows)
        start = adjoint_start(lagrangian, rows)
        found = self.ascent.run(lagrangian, rows, start, -constant)[1]
        value, exact = proved_multiplier(lagrangian, rows, found, -constant)
        value = down(value + constant)
        return torch.where(value.isnan(), -torch.inf, value), exact


@dataclass(frozen=True)
class _Proved:
    """What the bounds of an answer rest on.

    Attributes:
        held: (batch,) bool: the state box alone is a proof.
        started: the bounds on z and r.
        multiplier: (batch, k, n).
        trees: whether the checker knows the graph of psi.
    """

    held: Tensor
    started: Started
    multiplier: Tensor
    trees: bool

    def tree(self, answer: Answer, row: int) -> TreeProof | None:
        """The proof of a sample whose clauses are single forms."""
        if not (self.trees and single_forms(answer.query.forms[int(answer.query.which[row])])):
            return None
        trees = tuple((Leaf(own.cpu().numpy(), False),) for own in self.multiplier[row])
        return TreeProof(self.started.start(row), (), answer.lower[row].cpu().numpy(), trees)


def _with_findings(answer: Answer, proved: _Proved) -> Answer:
    """The answer with what is known of each sample that the state box alone does not prove."""
    findings: list[Finding | None] = [None] * len(answer.lower)
    for row in (answer.holds & ~proved.held).nonzero()[:, 0].tolist():
        findings[row] = Finding(proved.tree(answer, row), stage="dual", by_state=False)
    return replace(answer, findings=tuple(findings))


def single_forms(forms: Forms) -> bool:
    """Whether each form is a clause of its own, as margins are."""
    return forms.clause is not None and len(torch.unique(forms.clause)) == forms.rows
