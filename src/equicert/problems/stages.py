"""Equations whose states follow one another in stages: solved by substitution, one at a time.

Of a block-triangular W an explicit layer is a stage of states that do not depend on one another,
and one evaluation solves it; an implicit block is a stage with an equation of its own.
"""

from __future__ import annotations

from torch import Tensor

from equicert.operators import Stage
from equicert.problems.base import ContractingProblem
from equicert.problems.sweep import Drive, Sweep, centres_and_widths


class Substitution:
    """The stages of one solve: take each `part` in order, and `put` its rows."""

    def __init__(self, problem: ContractingProblem) -> None:
        self._problem = problem
        self.stages = problem.sweep.off.stages
        magnitude = problem.sweep.magnitude
        # The same stages of |W_off|; without a pair nothing is read of them.
        absolute = self.stages if magnitude is None else magnitude.stages
        self._absolute = dict(zip((s.span.start for s in self.stages), absolute, strict=True))
        n, drive = problem.sweep.off.shape[0], problem.drive
        self._blocks = drive.blocks(n)
        # Each state, then the pair's centre, (batch, 1 or 2, n); the pair's radius, (batch, n).
        self._centre = drive.centre.unflatten(1, (-1, n)).clone()
        self._radius = None if drive.radius is None else drive.radius.clone()
        self._z = drive.centre.new_empty(len(drive.centre), self._blocks, n)
        self._middle = self._centre.new_empty(self._centre.shape)
        self._width = None if self._radius is None else self._radius.new_empty(self._radius.shape)

    def part(self, stage: Stage) -> ContractingProblem:
        """The equation of this stage, given the stages before."""
        span, own = stage.span, stage.own
        radius = None if self._radius is None else self._radius[:, span].contiguous()
        drive = Drive(self._centre[:, :, span].flatten(1), radius)
        if own is None:
            return self._problem.part(span, None, drive)
        magnitude = None if radius is None else self._absolute[span.start].own
        return self._problem.part(span, Sweep(own, magnitude), drive)

    def put(
        self,
        stage: Stage,
        rows: Tensor,  # (batch, blocks * k), the solution of its part
    ) -> None:
        """Remember it, and what later stages read of it."""
        span, size = stage.span, stage.span.stop - stage.span.start
        self._z[:, :, span] = rows.unflatten(1, (self._blocks, size))
        weights = self._problem.weights(span)
        if self._radius is None or self._width is None:
            self._middle[:, 0, span] = rows if weights is None else rows * weights
        else:
            doubled, width = centres_and_widths(rows, size, weights)
            self._middle[:, :, span] = doubled.unflatten(1, (-1, size)).mul_(0.5)
            self._width[:, span] = width.mul_(0.5)
        for block in stage.after:
            taken = self._middle[:, :, block.columns].flatten(0, 1)
            product = block.A.apply(taken).unflatten(0, self._middle.shape[:2])
            self._centre[:, :, block.rows] += product
        if self._radius is None or self._width is None:
            return
        for block in self._absolute[span.start].after:
            self._radius[:, block.rows] += block.A.apply(self._width[:, block.columns])

    @property
    def rows(self) -> Tensor:  # (batch, blocks * n)
        """The solution, once all stages have been put."""
        return self._z.flatten(1)
