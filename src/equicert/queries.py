"""Queries and answers: a box of inputs, linear forms in y, and what is proved of them.

Margins of a label, an output box and a property from a file are one thing: linear forms
`A y + d`, grouped into clauses. The unsafe set is a disjunction of conjunctions: a clause is the
conjunction "every one of its forms is <= 0". The property holds on the box when no clause is
possible, for which one form with a positive lower bound in each clause is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from equicert.boxes import Box
from equicert.errors import InputError
from equicert.proofs import Finding


@dataclass(frozen=True)
class Forms:
    """`A y + d` with the clause that each row belongs to; taken as exact rationals.

    Attributes:
        A: (k, q) float64.
        d: (k,) float64.
        clause: (k,) int64, the rows' clauses, numbered from 0 without gaps; None when only bounds
            are wanted and nothing is to be decided.
    """

    A: Tensor
    d: Tensor
    clause: Tensor | None = None

    def __post_init__(self) -> None:
        k = len(self.A)
        if self.A.ndim != 2 or self.d.shape != (k,):
            raise InputError(
                f"forms need A (k, q) and d (k,), got {tuple(self.A.shape)}, {tuple(self.d.shape)}"
            )
        if self.A.dtype != torch.float64 or self.d.dtype != torch.float64:
            raise InputError(f"forms must be float64, got {self.A.dtype} and {self.d.dtype}")
        if not bool(self.A.isfinite().all() & self.d.isfinite().all()):
            raise InputError("a linear form has a NaN or infinite coefficient")
        if self.clause is not None:
            known = torch.unique(self.clause)
            if self.clause.shape != (k,) or not torch.equal(known.cpu(), torch.arange(len(known))):
                raise InputError("clauses must be numbered from 0 without gaps, one per form")
            if k == 0:
                raise InputError("a property needs at least one linear form; none holds vacuously")

    @property
    def rows(self) -> int:
        """k, the number of forms."""
        return len(self.A)

    @classmethod
    @lru_cache(maxsize=64)
    def margins(cls, label: int, outputs: int, device: torch.device | str = "cpu") -> Forms:
        """`y_label - y_j` for every j != label, each a clause of its own ([J22], (9))."""
        identity = torch.eye(outputs, dtype=torch.float64, device=device)
        others = torch.tensor([j for j in range(outputs) if j != label], device=device)
        zero = torch.zeros(len(others), dtype=torch.float64, device=device)
        clause = torch.arange(len(others), device=device)
        return cls(identity[label] - identity[others], zero, clause)

    @classmethod
    def coordinates(cls, outputs: int, device: torch.device | str = "cpu") -> Forms:
        """`y_i` and `-y_i`: an output box."""
        identity = torch.eye(outputs, dtype=torch.float64, device=device)
        zero = torch.zeros(2 * outputs, dtype=torch.float64, device=device)
        return cls(torch.cat([identity, -identity]), zero)


@dataclass(frozen=True)
class Query:
    """One box per sample, and for each the forms to bound over it.

    Attributes:
        box: a batch of boxes.
        forms: the distinct sets of forms, all with the same number of rows.
        which: (batch,) int64, the set that belongs to each sample.
        x: (batch, r) the point that each box lies about, for methods that speak of one; or None.
        inner: boxes every float64 point of which lies in the exact boxes, which `box` encloses:
            where witnesses are looked for; or None.
    """

    box: Box
    forms: tuple[Forms, ...]
    which: Tensor
    x: Tensor | None = None
    inner: Box | None = None

    def __post_init__(self) -> None:
        if len({(f.rows, f.clause is None) for f in self.forms}) > 1:
            raise InputError("the sets of forms of one query need the same number of rows")
        if self.which.shape != (self.box.batch,) or self.which.dtype != torch.int64:
            raise InputError("a query needs one set of forms per box, numbered by int64")
        if not bool(((self.which >= 0) & (self.which < len(self.forms))).all()):
            # Such a box would have no form to bound, and its property would hold vacuously.
            raise InputError(f"a box is given a set of forms outside 0..{len(self.forms) - 1}")
        if self.x is not None and self.x.shape != self.box.lo.shape:
            raise InputError(
                f"boxes of shape {tuple(self.box.lo.shape)} need points of that shape, got"
                f" {tuple(self.x.shape)}"
            )

    def __getitem__(self, rows: Tensor) -> Query:
        """The same question about some boxes (an index tensor)."""
        x = None if self.x is None else self.x[rows]
        inner = None if self.inner is None else self.inner[rows]
        return Query(self.box[rows], self.forms, self.which[rows], x, inner)

    @classmethod
    def of_margins(
        cls,
        box: Box,
        labels: Tensor,  # (batch,) int64
        outputs: int,
        x: Tensor | None = None,  # (batch, r)
        inner: Box | None = None,
    ) -> Query:
        """The margins of each sample's label against every other class.

        Raises:
            InputError: a label outside 0..outputs-1, or a network with one output only.
        """
        labels = check_labels(labels, box.batch, outputs).to(box.lo.device)
        if outputs < 2:
            raise InputError("a network with one output has no label margins; use reach")
        present, which = torch.unique(labels, return_inverse=True)
        forms = (Forms.margins(int(y), outputs, box.lo.device) for y in present)
        return cls(box, tuple(forms), which, x, inner)

    @classmethod
    def of_outputs(cls, box: Box, outputs: int) -> Query:
        """Lower and upper bounds on each output."""
        which = torch.zeros(box.batch, dtype=torch.int64, device=box.lo.device)
        return cls(box, (Forms.coordinates(outputs, box.lo.device),), which)


@dataclass(frozen=True)
class StateBox:
    """Bounds on z*(x) over a box of inputs, and whether they are proved.

    Attributes:
        lo, hi: (batch, n) float64.
        proved: (batch,) bool, true where [lo, hi] passed the post-fixed-point test in rounded
            arithmetic for the stored weights.
        reason: per sample, why not, or what held the bound back; "" where nothing did.
    """

    lo: Tensor
    hi: Tensor
    proved: Tensor
    reason: tuple[str, ...]

    def __getitem__(self, rows: Tensor) -> StateBox:
        """The boxes of some rows (an index tensor)."""
        reason = tuple(self.reason[row] for row in rows.tolist())
        return StateBox(self.lo[rows], self.hi[rows], self.proved[rows], reason)


@dataclass(frozen=True)
class StateProofs:
    """What proves the properties that hold on some boxes of a batch: state boxes, and bounds.

    Attributes:
        rows: (k,) int64, which boxes of the batch, increasing.
        lo, hi: (k, n) state boxes that passed the post-fixed-point test.
        lower: (k, forms) the bounds on the query's forms over them.
    """

    rows: Tensor
    lo: Tensor
    hi: Tensor
    lower: Tensor

    def since(self, first: int) -> StateProofs:
        """Those of rows from `first` on."""
        kept = self.rows >= first
        return StateProofs(self.rows[kept], self.lo[kept], self.hi[kept], self.lower[kept])

    def over(self, older: StateProofs) -> StateProofs:
        """These, and the older ones of the rows that are not among these."""
        kept = (~torch.isin(older.rows, self.rows)).nonzero()[:, 0]
        rows = torch.cat([self.rows, older.rows[kept]])
        order = rows.argsort()
        lo, hi, lower = (
            torch.cat([new, old[kept]])[order]
            for new, old in zip(
                (self.lo, self.hi, self.lower), (older.lo, older.hi, older.lower), strict=True
            )
        )
        return StateProofs(rows[order], lo, hi, lower)


@dataclass(frozen=True)
class Answer:
    """Lower bounds on every form, with the state box that proves them, or a solver's word for them.

    Attributes:
        query: the question.
        lower: (batch, k) float64; minus infinity where nothing is proved. Of a clause of several
            forms that was searched, one entry bounds the greatest of them.
        state: the proof.
        point: a box about z*(x), x the query's, where the method made one on its way.
        findings: per sample, further proofs and witnesses, or None.
        solver_status: per sample, what a floating-point solver said of its bounds ("" where it was
            not asked): they are claims, and nothing `holds`. None: the bounds are rigorous.
    """

    query: Query
    lower: Tensor
    state: StateBox
    point: StateBox | None = None
    solver_status: tuple[str, ...] | None = None
    findings: tuple[Finding | None, ...] | None = None

    @cached_property
    def margin(self) -> Tensor:  # (batch,)
        """The least over clauses of the greatest bound in the clause; positive: it holds.

        Raises:
            InputError: the query only asked for bounds.
        """
        clauses = [forms.clause for forms in self.query.forms if forms.clause is not None]
        if len(clauses) < len(self.query.forms):
            raise InputError("this query asked for bounds and has no clauses to decide")
        if not len(self.lower):
            return self.lower.new_empty(0)
        clause, count = torch.stack(clauses), torch.stack([c.amax() + 1 for c in clauses])
        which, most = self.query.which, int(count.amax())
        best = self.lower.new_full((len(self.lower), most), -torch.inf)
        best = best.scatter_reduce(1, clause[which], self.lower, "amax")
        missing = torch.arange(most, device=which.device) >= count[which, None]
        return best.masked_fill(missing, torch.inf).amin(1)

    @cached_property
    def holds(self) -> Tensor:  # (batch,) bool
        """Where the property is proved: strictly positive margin over a proved state box."""
        rigorous = self.solver_status is None
        return self.state.proved & (self.margin > 0) & rigorous

    @cached_property
    def claimed(self) -> Tensor:  # (batch,) bool
        """Where a floating-point solver claims the property, and stopped for no reason."""
        clean = [self.solver_status is not None and not why for why in self.state.reason]
        return torch.tensor(clean, dtype=torch.bool, device=self.lower.device) & (self.margin > 0)

    @property
    def proofs(self) -> StateProofs:
        """What a method that is `post_fixed` proves the property by, where the state box does."""
        others = [
            found is not None and (found.proof is not None or not found.by_state)
            for found in self.findings or ()
        ]
        held = self.holds
        if any(others):
            held = held & ~torch.tensor(others, device=held.device)
        rows = held.nonzero()[:, 0]
        return StateProofs(rows, self.state.lo[rows], self.state.hi[rows], self.lower[rows])

    @property
    def reasons(self) -> tuple[str, ...]:
        """Per sample: "" where it holds or is claimed, else why it is unknown."""
        decided = (self.holds | self.claimed).tolist()
        return tuple(
            "" if done else (why or "margin")
            for done, why in zip(decided, self.state.reason, strict=True)
        )


def check_labels(
    labels: Tensor,  # (batch,) or a number
    batch: int,
    outputs: int,
) -> Tensor:  # (batch,) int64
    """Labels as int64, one a sample, each in 0..outputs-1.

    Raises:
        InputError: wrong shape, not whole numbers, or out of range.
    """
    labels = torch.as_tensor(labels)
    labels = labels[None] if labels.ndim == 0 else labels
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != (batch,):
        raise InputError(f"{batch} samples need {batch} labels, got shape {tuple(labels.shape)}")
    bad = ((labels < 0) | (labels >= outputs)).nonzero()
    if len(bad):
        row = int(bad[0, 0])
        raise InputError(
            f"label {int(labels[row])} of sample {row} is outside 0..{outputs - 1}, the outputs of"
            " this network"
        )
    return labels.to(torch.int64)
