"""Witnesses: inputs at which a property is proved to fail.

At a point x a box of states is proved as anywhere else, by the post-fixed-point test or by the ball
about phi(t), over the box [x, x]; the forms of a clause are bounded over it from above.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equicert.bounds.ball import point_ball, state_box
from equicert.bounds.base import answer_from_state
from equicert.bounds.state_box import prove_state_box
from equicert.boxes import Box
from equicert.errors import InputError
from equicert.falsifier import Engine, Search
from equicert.proofs import BallStart, StateStart, Witness
from equicert.queries import Forms, Query, StateBox
from equicert.stored import StoredNetwork
from equicert.targets import Targets

_TOLERANCE = 1e-12  # of the states that are proved: their boxes are about as wide


@dataclass(frozen=True)
class PointBounds:
    """Upper bounds on the forms of one clause a row at given points.

    Attributes:
        x: (k, r) float64, the points.
        upper: (k, m) rigorous; infinite where no state is proved.
        state: boxes for z*(x).
        t: (k, n) what the boxes of a monotone network follow from; None where they passed the
            post-fixed-point test themselves.
    """

    x: Tensor
    upper: Tensor
    state: StateBox
    t: Tensor | None

    @property
    def greatest(self) -> Tensor:  # (k,)
        """Of the row's clause: negative, and every form of it is negative at x."""
        return self.upper.amax(1)

    def start(self, row: int) -> StateStart | BallStart:
        """What proves the bounds of a row, over [x, x]."""
        if self.t is not None:
            return BallStart(self.t[row].cpu().numpy())
        return StateStart(self.state.lo[row].cpu().numpy(), self.state.hi[row].cpu().numpy())


@torch.no_grad()
def upper_bounds(
    network: StoredNetwork,
    x: Tensor,  # (k, r) float64
    targets: Targets,  # of one clause a row
) -> PointBounds:
    """Rigorous upper bounds on `A y(x) + d` at exactly these points.

    Raises:
        NotContractingError: no unique fixed point is proved.
        RoundingError: this machine's arithmetic is not plain float64.
        InputError: x of the wrong width, NaN or infinite; forms of another width, or of several
            clauses.
    """
    x = network.check_inputs(x)
    if targets.A.shape[1] != 1 or targets.rows != len(x):
        raise InputError(
            f"{len(x)} points need as many targets of one clause each, got {targets.rows} of"
            f" {targets.A.shape[1]}"
        )
    engine = Engine(network, _TOLERANCE)
    _, z, converged = engine.solve(x)
    if engine.contracts:
        t, state = None, prove_state_box(network, network.drive_bounds(x, x), z, z, converged)
    else:
        ball = point_ball(network, x, z)
        t, state = ball.t, state_box(network, ball, torch.zeros_like(ball.radius), converged)
    present, which = torch.unique(targets.which, return_inverse=True)
    negated = tuple(Forms(-targets.A[i, 0], -targets.d[i, 0]) for i in present.tolist())
    lower = answer_from_state(network, Query(Box(x, x), negated, which), state).lower
    return PointBounds(x, -lower.reshape(len(x), targets.A.shape[2]), state, t)


@dataclass(frozen=True)
class Attempt:
    """What was found against each sample of a query, and what is proved of it.

    Attributes:
        query: the question.
        clause: (batch,) int64, the clause that is nearest to possible at the point found.
        bounds: on its forms there.
    """

    query: Query
    clause: Tensor
    bounds: PointBounds

    @property
    def upper(self) -> Tensor:  # (batch,)
        """On the least over clauses of the greatest form, over the box: rigorous."""
        return self.bounds.greatest

    @property
    def falsified(self) -> Tensor:  # (batch,) bool
        """Where every form of a clause is proved negative at a point of the exact box."""
        return self.upper < 0

    def of_margins(self, row: int) -> bool:
        """Whether the forms of a sample are the margins of a label, in order."""
        forms = self.query.forms[int(self.query.which[row])]
        if forms.rows == 0 or forms.rows != forms.A.shape[1] - 1:
            return False
        margins = Forms.margins(int(forms.A[0].argmax()), forms.A.shape[1], forms.A.device)
        return torch.equal(forms.A, margins.A) and torch.equal(forms.d, margins.d)

    def witness(self, row: int) -> Witness | None:
        """That of a sample of a query of margins; None where it is not falsified.

        Raises:
            InputError: its forms are not the margins of a label.
        """
        forms = self.query.forms[int(self.query.which[row])]
        label = int(forms.A[0].argmax()) if forms.rows else 0
        if not self.of_margins(row):
            raise InputError("a witness names a rival class, and this query is not one of margins")
        if not bool(self.falsified[row]):
            return None
        other = int(self.clause[row])
        x, start = self.bounds.x[row].cpu().numpy(), self.bounds.start(row)
        return Witness(x, other + (other >= label), start, float(self.upper[row]))


@torch.no_grad()
def falsify(
    network: StoredNetwork,
    query: Query,
    inner: Box,
    starts: Tensor | None = None,  # (batch, s, r)
    search: Search | None = None,
) -> Attempt:
    """Search each box for a point where the property fails, and prove what is found.

    Example:
        >>> box, inner = Box.around(x, 0.1, (0.0, 1.0)), Box.within(x, 0.1, (0.0, 1.0))
        >>> query = Query.of_margins(box, labels, network.outputs, x)
        >>> attempt = falsify(network, query, inner)
        >>> [attempt.witness(row) for row in attempt.falsified.nonzero()[:, 0].tolist()]

    Args:
        network: stored.
        query: with clauses; its boxes contain the exact ones.
        inner: boxes of which every float64 point lies in the exact one (`Box.within`).
        starts: points to start from, beside the query's x and the middles of the boxes.
        search: `Search()` by default.

    Raises:
        NotContractingError: no unique fixed point is proved.
        RoundingError: this machine's arithmetic is not plain float64.
        InputError: a query without clauses, boxes or starts that do not fit.
    """
    if inner.lo.shape != query.box.lo.shape or not bool(
        ((query.box.lo <= inner.lo) & (inner.hi <= query.box.hi)).all()
    ):
        raise InputError("the boxes to search need to lie in those of the query, one for each")
    points = 0.5 * inner.lo + 0.5 * inner.hi if query.x is None else query.x
    targets = Targets.of(query)
    found = (search or Search()).run(network, targets, inner, _with(points, starts))
    return Attempt(
        query, found.clause, upper_bounds(network, found.x, targets.clause(found.clause))
    )


def _with(points: Tensor, starts: Tensor | None) -> Tensor:  # (batch, 1 + s, r)
    points = points[:, None]
    if starts is None:
        return points
    batch, _, inputs = points.shape
    if starts.ndim != 3 or (len(starts), starts.shape[2]) != (batch, inputs):
        raise InputError(
            f"starts have shape ({batch}, s, {inputs}), got {tuple(starts.shape)}: some points of"
            " each box"
        )
    return torch.cat([points, starts], 1)
