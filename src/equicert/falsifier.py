"""A search for a point of a box at which a property fails, in batches; it proves nothing.

Signed gradient descent (after [M18]) on the least over clauses of the greatest form of a clause.
The gradient of `a^T C z*(x)` is `U^T D v`, `v = C^T a + W^T D v`, D the slopes of phi at z*(x) (see
`implicit_diff`). While the pattern of a piecewise-linear phi stays, a form is affine in x, and its
least point over the box is the corner that the signs of the gradient name (derived here): the
first step goes there, and later ones are shorter.

What is found is proved, or not, by `witnesses`.

[M18] A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu, Towards deep learning models resistant
to adversarial attacks, ICLR 2018.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from torch import Tensor

from equicert.boxes import BLOCK, Box, all_finite
from equicert.contraction import Contraction
from equicert.errors import ConfigError, InputError
from equicert.problems import MonotoneProblem, PrimalProblem
from equicert.solvers import Anderson, PeacemanRachford, solve
from equicert.stored import StoredNetwork
from equicert.targets import Targets

_TOLERANCE = 1e-6  # of the solves on the way
_FINE = 1e-11  # of those that compare the last few points
_ADJOINT_TOLERANCE = 1e-4  # relative to the cotangent: a step looks at signs
_MAX_STEPS = 2000  # of one of them; what takes longer is not searched
_CORNER = 3.0  # half-widths: from every point of a box to the corner, whatever the rounding
_NEAR = (0.04, 0.02, 0.01, 0.005, 0.0025)  # half-widths: about the last point
_SHARE = 0.5  # see `Targets.direction`
_NOISE = 10.0  # a form is visibly negative below so many times the tolerance of its states


@dataclass(frozen=True)
class Found:
    """The best point of each row; floating point, no proof.

    Attributes:
        x: (k, r) float64, in the box.
        clause: (k,) int64, the clause that is nearest to possible there.
        value: (k,) its greatest form; infinite where no solve converged.
    """

    x: Tensor
    clause: Tensor
    value: Tensor


@final
@dataclass(frozen=True)
class Search:
    """Descents on whole disjunctions first, then on the most promising clauses one by one.

    Example:
        >>> found = Search(restarts=1).run(network, targets, Box.within(x, eps, domain))

    Args:
        steps: steps of a descent, each from the last point, the best of which counts.
        last: the size of the last step, in half-widths of the box; the others shrink evenly to it.
        clauses: how many clauses of a row are pursued by a descent of their own.
        restarts: random points to start from, beside the given ones.
        seed: with a row's box and the number of the restart it determines the random point.

    Raises:
        ConfigError: steps or clauses < 1, last outside (0, 1], restarts or seed < 0.
    """

    steps: int = 12
    last: float = 0.05
    clauses: int = 3
    restarts: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("clauses", 1), ("restarts", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be a whole number >= {least}, got {value!r}")
        if not 0 < self.last <= 1:
            raise ConfigError(f"last must be in (0, 1], got {self.last!r}")

    @cached_property
    def sizes(self) -> tuple[float, ...]:
        """Of the steps, in half-widths of the box."""
        following = np.geomspace(1.0, self.last, self.steps - 1) if self.steps > 1 else ()
        return _CORNER, *(float(size) for size in following)

    @torch.no_grad()
    def run(
        self,
        network: StoredNetwork,
        targets: Targets,
        box: Box,  # every float64 point of it is allowed: `Box.within`
        starts: Tensor | None = None,  # (k, s, r); None: the middles of the boxes
    ) -> Found:
        """Search each row's box for a point where its property fails.

        Rows whose best value is visibly negative leave. Nothing depends on who shares the batch,
        but for rounding, and nothing random on anything but the seed.

        Raises:
            NotContractingError: no unique fixed point is proved.
            InputError: boxes or starts that do not fit the network or the targets.
        """
        _check(network, targets, box, starts)
        if not targets.rows:
            return Found(box.lo, targets.which, box.lo.new_empty(0))
        coarse, fine = Engine(network, _TOLERANCE), Engine(network, _FINE)
        rows = torch.arange(box.batch, device=box.lo.device)
        parts = []
        for part in rows.split(max(1, BLOCK // network.inputs)):
            best = _Best(targets[part], box[part], coarse)
            self._descend(best, None if starts is None else starts[part])
            parts.append(best.polished(fine))
        return Found(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _descend(self, best: _Best, starts: Tensor | None) -> None:
        middle = 0.5 * best.box.lo + 0.5 * best.box.hi
        given = (middle,) if starts is None else starts.unbind(1)
        drawn = (self._drawn(best.box, number) for number in range(self.restarts))
        for start in itertools.chain(given, drawn):
            best.descend(best.open_rows(), start, self.sizes)
        clauses = best.value.shape[1]
        if clauses > 1:  # one clause alone was pursued already
            rows = best.open_rows()
            value, clause = best.value[rows].topk(min(self.clauses, clauses), largest=False)
            known = value.isfinite()
            best.pursue(rows[:, None].expand_as(clause)[known], clause[known], self.sizes[1:])

    def _drawn(self, box: Box, number: int) -> Tensor:  # (k, r)
        """A random point of each box."""
        share = np.empty(box.lo.shape)
        ends = box.lo.cpu().numpy(), box.hi.cpu().numpy()
        for row, low, high in zip(share, *ends, strict=True):
            own = int.from_bytes(hashlib.sha256(low.tobytes() + high.tobytes()).digest())
            np.random.default_rng((self.seed, number, own)).random(out=row)
        part = torch.from_numpy(share).to(box.lo)
        return box.clamp(box.lo * (1 - part) + box.hi * part)


class Engine:
    """Fixed points of a stored network, and gradients through them; all of it floating point.

    Raises:
        NotContractingError: no unique fixed point is proved.
    """

    def __init__(self, network: StoredNetwork, tolerance: float) -> None:
        self.network, self.tolerance = network, tolerance
        self.contracts = isinstance(network.well_posed, Contraction)
        self.solver = Anderson() if self.contracts else PeacemanRachford()
        self._back = network.U.transpose()

    def solve(
        self,
        x: Tensor,  # (k, r)
        start: Tensor | None = None,  # (k, n)
    ) -> tuple[PrimalProblem | MonotoneProblem, Tensor, Tensor]:  # (k, n), (k,) bool
        """The equation, its solution, and where that is one."""
        network = self.network
        problem = network.state_problem(x) if self.contracts else network.monotone_problem(x)
        solution = solve(problem, self.solver, self.tolerance, _MAX_STEPS, start)
        return problem, solution.value, solution.converged & solution.value.isfinite().all(1)

    def gradient(
        self,
        problem: PrimalProblem | MonotoneProblem,
        z: Tensor,  # (k, n) its solution
        a: Tensor,  # (k, q) cotangent of y
    ) -> Tensor:  # (k, r)
        """`U^T p`, p the cotangent of the preactivation; up to a positive factor per row."""
        g = a @ self.network.C
        g = g / g.abs().amax(1, keepdim=True).clamp(min=1e-300)
        slope = problem.slope(z, self.solver.images)
        adjoint = problem.adjoint(g, slope)
        p = solve(adjoint, self.solver, _ADJOINT_TOLERANCE, _MAX_STEPS).value
        return self._back.apply(p if isinstance(problem, MonotoneProblem) else p * slope)

    def outputs(
        self,
        z: Tensor,  # (k, n)
    ) -> Tensor:  # (k, q)
        """`C z + c`."""
        return torch.addmm(self.network.c, z, self.network.C.mT)


class _Best:
    """The best points of a batch of rows so far, clause by clause.

    Attributes:
        value: (k, c) the greatest form of each clause there.
        x: (k, c, r).
    """

    def __init__(self, targets: Targets, box: Box, engine: Engine) -> None:
        self.targets, self.box, self.engine = targets, box, engine
        clauses = targets.A.shape[1]
        self.value = box.lo.new_full((box.batch, clauses), torch.inf)
        self.x = box.lo[:, None].repeat(1, clauses, 1)
        # What a state's tolerance leaves of a clause's forms.
        size = (targets.A.abs() @ engine.network.C.abs().sum(1)).amax(2)  # (sets, c)
        self._noise = (_NOISE * engine.tolerance * size)[targets.which]

    def open_rows(self) -> Tensor:  # (j,) int64
        """Those where no clause is visibly reached."""
        return (~(self.value < -self._noise).any(1)).nonzero()[:, 0]

    def descend(
        self,
        rows: Tensor,  # (j,) int64
        start: Tensor,  # (k, r)
        sizes: tuple[float, ...],
    ) -> None:
        """A descent on all clauses of these rows at once."""
        box = self.box[rows]
        x = box.clamp(start[rows])
        value, x = _descent(self.engine, self.targets[rows], box, x, sizes)
        better = value < self.value[rows]  # false for NaN
        self.value[rows] = torch.where(better, value, self.value[rows])
        self.x[rows] = torch.where(better[..., None], x, self.x[rows])

    def pursue(
        self,
        rows: Tensor,  # (j,) int64
        clause: Tensor,  # (j,) int64
        sizes: tuple[float, ...],
    ) -> None:
        """A descent on one clause of each of these rows, from its best point."""
        targets, x = self.targets[rows].clause(clause), self.x[rows, clause]
        value, x = _descent(self.engine, targets, self.box[rows], x, sizes)
        better = (value < self.value[rows, clause, None])[:, 0]
        rows, clause = rows[better], clause[better]
        self.value[rows, clause], self.x[rows, clause] = value[better, 0], x[better, 0]

    def polished(self, engine: Engine) -> tuple[Tensor, Tensor, Tensor]:  # (k, r), (k,), (k,)
        """The columns of `Found`: the best clause, where it is open by more corners, then nearby.

        By finer solves, which tell small differences apart.
        """
        value, clause = self.value.min(1)
        x = self.x[torch.arange(len(clause), device=clause.device), clause]
        rows = self.open_rows()
        box, targets = self.box[rows], self.targets[rows].clause(clause[rows])
        for sizes in ((_CORNER, _CORNER), _NEAR):
            least, point = _descent(engine, targets, box, x[rows], sizes)
            value[rows], x[rows] = least[:, 0], point[:, 0]  # no worse: the start is among them
        return x, clause, value


def _descent(
    engine: Engine,
    targets: Targets,
    box: Box,
    x: Tensor,  # (k, r) in the box
    sizes: tuple[float, ...],  # of the steps, in half-widths
) -> tuple[Tensor, Tensor]:  # (k, c), (k, c, r)
    """The least value of each clause on the way, and where; infinite where no solve converged."""
    half = 0.5 * box.hi - 0.5 * box.lo
    points, values, z = [x], [], None
    for size in (*sizes, None):
        problem, z, good = engine.solve(x, z)
        forms = targets.values(engine.outputs(z))
        values.append(forms.amax(2).where(good[:, None], torch.inf))
        if size is None:
            break
        gradient = engine.gradient(problem, z, targets.direction(forms, _SHARE))
        step = torch.where(gradient.isnan(), 0, gradient.sign()) * (size * half)
        x = box.clamp(x - step)
        points.append(x)
    value, when = torch.stack(values).min(0)  # (k, c) each
    rows = torch.arange(len(x), device=x.device)[:, None]
    return value, torch.stack(points)[when, rows]


def _check(network: StoredNetwork, targets: Targets, box: Box, starts: Tensor | None) -> None:
    k, r = targets.rows, network.inputs
    fits = targets.A.shape[3] == network.outputs or not k
    if not fits or (box.batch, box.inputs) != (k, r):
        raise InputError(
            f"{k} targets on this network need forms of {network.outputs} columns and boxes of"
            f" shape {(k, r)}, got {targets.A.shape[3]} columns and {(box.batch, box.inputs)}"
        )
    if starts is not None:
        if starts.ndim != 3 or (len(starts), starts.shape[2]) != (k, r) or not starts.shape[1]:
            raise InputError(f"starts have shape ({k}, s, {r}), s >= 1, got {tuple(starts.shape)}")
        if not all_finite(starts):
            raise InputError("a point to start from is NaN or infinite")
