"""The dual bound for any multiplier (derived here).

Every fixed point over the box has `r = W_off z + U x + b`, `z = psi(r)`, and l <= r <= u. For a
form `a^T z + e^T r` and any lambda in R^n, adding `lambda^T (W_off z + U x + b - r) = 0` gives

    a^T z + e^T r >= mu^T b + sum_i min_{l_i <= r <= u_i} ( p_i psi_i(r) - lambda_i r )
                     + min_x (U^T mu)^T x,     mu = lambda + e,   p = a + W_off^T mu.

(The form's own `e^T r` is written as `e^T (W_off z + U x + b)`.) Its maximum over lambda is the
minimum of the form over the convex hulls of the graphs of psi, for ReLU the triangle relaxation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from equicert.operators import Dense, Operator, part_of
from equicert.relaxation.graphs import Graph, PiecewiseLinear
from equicert.relaxation.smooth import Smooth
from equicert.rounding import TINY, UNIT, down, gamma, up
from equicert.stored import StoredNetwork

_MOST_LAYERS = 64  # of a network that is taken to have any


@dataclass(frozen=True)
class Rows:
    """Forms to bound, each over its own bounds and its own box of inputs.

    Attributes:
        a: (batch, n) coefficients of z.
        e: (batch, n) coefficients of r, small integers; or None for none.
        error: (batch, n) or (1, 1): the exact a is within it of a.
        lo, hi: (batch, n) or (1, n) bounds on r.
        centre, half: (batch, r) or (1, r): the box lies in the exact centre -+ half.
        ends: psi(lo) and psi(hi) in plain floating point, once they are known.
    """

    a: Tensor
    e: Tensor | None
    error: Tensor
    lo: Tensor
    hi: Tensor
    centre: Tensor
    half: Tensor
    ends: tuple[Tensor, Tensor] | None = None

    def __getitem__(self, rows: Tensor | slice) -> Rows:
        """Some of the forms (an index tensor or a slice)."""
        columns = (self.error, self.lo, self.hi, self.centre, self.half, *(self.ends or ()))
        error, lo, hi, centre, half, *ends = (
            part if len(part) == 1 else part[rows] for part in columns
        )
        e = None if self.e is None else self.e[rows]
        known = (ends[0], ends[1]) if ends else None
        return Rows(self.a[rows], e, error, lo, hi, centre, half, known)

    def __len__(self) -> int:
        return len(self.a)

    def to(self, dtype: torch.dtype) -> Rows:
        """The same in another type."""
        if self.a.dtype == dtype:
            return self
        e = None if self.e is None else self.e.to(dtype)
        columns = (self.a, self.error, self.lo, self.hi, self.centre, self.half)
        a, error, lo, hi, centre, half = (part.to(dtype) for part in columns)
        ends = None if self.ends is None else (self.ends[0].to(dtype), self.ends[1].to(dtype))
        return Rows(a, e, error, lo, hi, centre, half, ends)


@dataclass(frozen=True)
class Minimum:
    """The dual bound of a multiplier, and where it is attained.

    Attributes:
        value: (batch,) the bound.
        p: (batch, n) `a + W_off^T mu`.
        r, z: (batch, n) a point on each graph.
        x: (batch, r) inputs.
    """

    value: Tensor
    p: Tensor
    r: Tensor
    z: Tensor
    x: Tensor


@dataclass(frozen=True)
class Lagrangian:
    """The dual function of one network, by products with W, U and what is transposed of them.

    Attributes:
        graph: psi.
        W: (n, n) without its diagonal.
        U: (n, r).
        b: (n,).
    """

    graph: Graph
    W: Operator
    U: Operator
    b: Tensor

    @classmethod
    def of(cls, network: StoredNetwork) -> Self:
        """Of a network as stored.

        Raises:
            ModelError: its activation is neither piecewise linear nor one whose slopes are known.
        """
        kind = Smooth if network.activation.slopes is None else PiecewiseLinear
        graph = kind(network.activation, network.diagonal)
        return cls(graph, network.off_diagonal.A, network.U, network.b)

    @cached_property
    def proposing(self) -> Lagrangian:
        """What multipliers are looked for with: itself, or in float32 where W is no full matrix.

        Products of convolutions are many times faster there, by the library's own algorithms.
        """
        if isinstance(self.W, Dense):
            return self
        single = torch.float32
        graph = type(self.graph)(self.graph.activation, self.graph.diagonal.to(single))
        W, U = self.W.to(dtype=single), self.U.to(dtype=single)
        return Lagrangian(graph, W, U, self.b.to(single))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The layers before all cycles, without the first, which W does not drive; then the rest.

        The rest are the neurons on cycles and behind them, and those behind very many layers.
        """
        n = len(self.b)
        pattern = self.W.map(lambda entries: (entries != 0).to(entries))
        level = torch.zeros(n, dtype=torch.int64, device=self.b.device)
        reached = torch.ones_like(self.b)
        for _ in range(_MOST_LAYERS):  # those that a path of so many arrows ends at
            following = (pattern.apply(reached[None])[0] > 0).to(reached)
            if torch.equal(following, reached):
                break
            reached = following
            level += reached.to(level)
        level[reached > 0] = int(level.amax()) + 1
        stages = []
        for k in range(1, int(level.amax()) + 1):
            neurons = (level == k).nonzero()[:, 0]
            if len(neurons):
                known = (level <= k).nonzero()[:, 0]
                stages.append(Stage(neurons, known, self._part(known)))
        return tuple(stages)

    def _part(
        self,
        rows: Tensor,  # (k,) int64, which depend on none but one another
    ) -> Lagrangian:
        if len(rows) == len(self.b):
            return self
        graph = type(self.graph)(self.graph.activation, self.graph.diagonal[rows])
        W, U = part_of(self.W, rows, rows), part_of(self.U, rows, None)
        return Lagrangian(graph, W, U, self.b[rows])

    @cached_property
    def matrices(self) -> tuple[Tensor, Tensor]:  # (n, n) and (n, r)
        """W and U in full, for programmes that factorise them: formed once."""
        return self.W.dense(), self.U.dense()

    @cached_property
    def _back(self) -> Operator:
        """`W^T`."""
        return self.W.transpose()

    @cached_property
    def _driven(self) -> tuple[Tensor | None, Operator, Operator]:
        """The neurons that inputs drive, None for all of them; their rows of U, and transposed."""
        pattern = self.U.map(lambda entries: (entries != 0).to(entries))
        rows = pattern.row_sums() > 0
        which = None if bool(rows.all()) else rows.nonzero()[:, 0]
        U = self.U if which is None else part_of(self.U, which, None)
        return which, U, U.transpose()

    def pulled_back(
        self,
        mu: Tensor,  # (batch, n)
        plus: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch, n)
        """`W^T mu + plus`, a tensor of its own."""
        return self._back.affine(mu, plus)

    def _on_inputs(
        self,
        mu: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch, r)
        """`U^T mu`."""
        which, _, back = self._driven
        return back.apply(mu if which is None else mu[:, which])

    def from_inputs(
        self,
        x: Tensor,  # (batch, r)
        plus: Tensor,  # (batch, n), perhaps overwritten
    ) -> Tensor:  # (batch, n)
        """`U x + plus`."""
        which, U, _ = self._driven
        if which is None:
            return U.affine(x, plus)
        plus[:, which] += U.apply(x)
        return plus

    def prepared(self, rows: Rows) -> Rows:
        """The rows with psi at their ends, which every bound on them asks for."""
        return rows if rows.ends is not None else replace(rows, ends=self.ends(rows))

    def ends(self, rows: Rows) -> tuple[Tensor, Tensor]:  # (batch, n) or (1, n) each
        """psi at the ends of the bounds, in plain floating point."""
        return rows.ends or (self.graph.psi(rows.lo), self.graph.psi(rows.hi))

    def minimum(
        self,
        rows: Rows,
        multiplier: Tensor,  # (batch, n)
    ) -> Minimum:
        """The bound, and where it is attained, in plain floating point."""
        mu = multiplier if rows.e is None else multiplier + rows.e
        p = self.pulled_back(mu, rows.a)
        v = self._on_inputs(mu)
        least, r, z = self.graph.minimise(p, multiplier, rows.lo, rows.hi, self.ends(rows))
        x = rows.centre - rows.half * v.sign()
        return Minimum(mu @ self.b + least.sum(1) + (v * x).sum(1), p, r, z, x)

    def ascend(
        self,
        rows: Rows,
        multiplier: Tensor,  # (batch, n)
    ) -> tuple[Tensor, Tensor, Tensor]:  # (batch,), (batch, n), (batch, r)
        """The bound, a supergradient in lambda, and the minimising x, in plain floating point."""
        at = self.minimum(rows, multiplier)
        slope = self.from_inputs(at.x, self.W.affine(at.z, self.b)).sub_(at.r)
        return at.value, slope, at.x

    def value(
        self,
        rows: Rows,
        multiplier: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch,)
        """The bound in plain floating point."""
        mu = multiplier if rows.e is None else multiplier + rows.e
        p = self.pulled_back(mu, rows.a)
        v = self._on_inputs(mu)
        least, _, _ = self.graph.minimise(p, multiplier, rows.lo, rows.hi, self.ends(rows))
        inputs = (v * rows.centre).sum(1) - (v.abs() * rows.half).sum(1)
        return mu @ self.b + least.sum(1) + inputs

    def below(
        self,
        rows: Rows,
        multiplier: Tensor,  # (batch, n) exact
    ) -> Tensor:  # (batch,)
        """The bound, rounded downwards: rigorous for every finite multiplier.

        What products with mu lose is bounded by the largest |mu_i| times absolute column sums, k
        the length of their inner products.
        """
        (n, r), k, k_inputs = self.U.shape, self._back.terms, self._driven[2].terms
        mu = multiplier if rows.e is None else multiplier + rows.e
        size = up(mu.abs().amax(1, keepdim=True))
        p = self.pulled_back(mu, rows.a)
        lost = gamma(k + 4) * (rows.a.abs() + size * self._sums) + 8 * k * TINY * (1 + size)
        error = up(up(up(lost) + rows.error) * (1 + 16 * UNIT))
        least = self.graph.minimum_below(p, error, multiplier, rows.lo, rows.hi)
        own = gamma(n + 2) * least.abs().sum(1) * (1 + 2 * gamma(n + 2))
        v = self._on_inputs(mu)
        x, half = rows.centre, rows.half
        inputs = (v * x).sum(1) - (v.abs() * half).sum(1)
        reach = ((x.abs() + half) * self._input_sums).sum(1) * (1 + 2 * gamma(r + 4))
        slack = gamma(k_inputs + 4) + 2 * gamma(r + 4)
        lost = slack * size[:, 0] * reach * (1 + 16 * UNIT)
        flushed = 16 * (k_inputs + r) * TINY * (1 + size[:, 0]) * (1 + (x.abs() + half).sum(1))
        lost_b = gamma(n + 4) * size[:, 0] * self._b_sum + 8 * n * TINY * (1 + size[:, 0])
        total = down(down(least.sum(1) - up(own)) + down(inputs - up(up(lost) + up(flushed))))
        return down(total + down(mu @ self.b - up(lost_b)))

    @cached_property
    def _sums(self) -> Tensor:  # (n,)
        """Upper bounds on the absolute column sums of W."""
        return _above(self._back.absolute_row_sums(), self._back.terms)

    @cached_property
    def _input_sums(self) -> Tensor:  # (r,)
        back = self._driven[2]
        return _above(back.absolute_row_sums(), back.terms)

    @cached_property
    def _b_sum(self) -> Tensor:  # ()
        return _above(self.b.abs().sum(), len(self.b))


@dataclass(frozen=True)
class Stage:
    """Neurons to bound together.

    Attributes:
        neurons: (k,) int64.
        known: (m,) int64, increasing: they, and all that they depend on.
        lagrangian: of those, for which all others might as well not be there.
    """

    neurons: Tensor
    known: Tensor
    lagrangian: Lagrangian


def _above(
    sums: Tensor,  # any shape
    k: int,
) -> Tensor:
    """Upper bounds on sums of k non-negative numbers."""
    return up(sums * (1 + 4 * gamma(k + 2)) + 4 * k * TINY)
