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


@dataclass(frozen=True)
class Lagrangian:
    """The dual function of one network.

    Attributes:
        graph: psi.
        W: (n, n) without its diagonal.
        U: (n, r).
        b: (n,).
    """

    graph: Graph
    W: Tensor
    U: Tensor
    b: Tensor

    @classmethod
    def of(cls, network: StoredNetwork) -> Self:
        """Of a network as stored.

        Raises:
            ModelError: its activation is neither piecewise linear nor one whose slopes are known.
        """
        kind = Smooth if network.activation.slopes is None else PiecewiseLinear
        graph = kind(network.activation, network.diagonal)
        W, U = network.W.dense().clone().fill_diagonal_(0), network.U.dense()
        return cls(graph, W, U, network.b)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The layers of a network without cycles, the first of which W does not drive; or one."""
        n = len(self.b)
        level = torch.zeros(n, dtype=torch.int64, device=self.b.device)
        drives = self.W != 0
        for _ in range(min(n, _MOST_LAYERS)):
            following = torch.where(drives, level + 1, 0).amax(1)
            if torch.equal(following, level):
                break
            level = following
        else:
            everything = torch.arange(n, device=self.b.device)
            return (Stage(everything, everything, self),)
        stages = []
        for k in range(1, int(level.amax()) + 1):
            known = (level <= k).nonzero()[:, 0]
            stages.append(Stage((level == k).nonzero()[:, 0], known, self._part(known)))
        return tuple(stages)

    def _part(
        self,
        rows: Tensor,  # (k,) int64, which depend on none but one another
    ) -> Lagrangian:
        graph = type(self.graph)(self.graph.activation, self.graph.diagonal[rows])
        return Lagrangian(graph, self.W[rows][:, rows], self.U[rows], self.b[rows])

    @cached_property
    def _driven(self) -> tuple[Tensor | None, Tensor]:
        """The neurons that inputs drive, None for all of them, and their rows of U."""
        rows = self.U.any(1)
        if bool(rows.all()):
            return None, self.U
        which = rows.nonzero()[:, 0]
        return which, self.U[which]

    def _on_inputs(
        self,
        mu: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch, r)
        """`U^T mu`."""
        which, U = self._driven
        return (mu if which is None else mu[:, which]) @ U

    def _from_inputs(
        self,
        x: Tensor,  # (batch, r)
        plus: Tensor,  # (batch, n), overwritten
    ) -> Tensor:  # (batch, n)
        """`U x + plus`."""
        which, U = self._driven
        if which is None:
            return plus.addmm_(x, U.mT)
        plus[:, which] += x @ U.mT
        return plus

    def prepared(self, rows: Rows) -> Rows:
        """The rows with psi at their ends, which every bound on them asks for."""
        return rows if rows.ends is not None else replace(rows, ends=self._ends(rows))

    def _ends(self, rows: Rows) -> tuple[Tensor, Tensor]:
        return rows.ends or (self.graph.psi(rows.lo), self.graph.psi(rows.hi))

    def ascend(
        self,
        rows: Rows,
        multiplier: Tensor,  # (batch, n)
    ) -> tuple[Tensor, Tensor, Tensor]:  # (batch,), (batch, n), (batch, r)
        """The bound, a supergradient in lambda, and the minimising x, in plain floating point."""
        mu = multiplier if rows.e is None else multiplier + rows.e
        p = torch.addmm(rows.a, mu, self.W)
        v = self._on_inputs(mu)
        least, r, z = self.graph.minimise(p, multiplier, rows.lo, rows.hi, self._ends(rows))
        x = rows.centre - rows.half * v.sign()
        value = mu @ self.b + least.sum(1) + (v * x).sum(1)
        slope = self._from_inputs(x, torch.addmm(self.b, z, self.W.mT)).sub_(r)
        return value, slope, x

    def value(
        self,
        rows: Rows,
        multiplier: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch,)
        """The bound in plain floating point."""
        mu = multiplier if rows.e is None else multiplier + rows.e
        p = torch.addmm(rows.a, mu, self.W)
        v = self._on_inputs(mu)
        least, _, _ = self.graph.minimise(p, multiplier, rows.lo, rows.hi, self._ends(rows))
        inputs = (v * rows.centre).sum(1) - (v.abs() * rows.half).sum(1)
        return mu @ self.b + least.sum(1) + inputs

    def below(
        self,
        rows: Rows,
        multiplier: Tensor,  # (batch, n) exact
    ) -> Tensor:  # (batch,)
        """The bound, rounded downwards: rigorous for every finite multiplier.

        What products with mu lose is bounded by the largest |mu_i| times absolute column sums.
        """
        n, r = self.U.shape
        mu = multiplier if rows.e is None else multiplier + rows.e
        size = up(mu.abs().amax(1, keepdim=True))
        p = torch.addmm(rows.a, mu, self.W)
        lost = gamma(n + 4) * (rows.a.abs() + size * self._sums) + 8 * n * TINY * (1 + size)
        error = up(up(up(lost) + rows.error) * (1 + 16 * UNIT))
        least = self.graph.minimum_below(p, error, multiplier, rows.lo, rows.hi)
        own = gamma(n + 2) * least.abs().sum(1) * (1 + 2 * gamma(n + 2))
        v = self._on_inputs(mu)
        x, half = rows.centre, rows.half
        inputs = (v * x).sum(1) - (v.abs() * half).sum(1)
        reach = ((x.abs() + half) * self._input_sums).sum(1) * (1 + 2 * gamma(r + 4))
        slack = gamma(n + 4) + 2 * gamma(r + 4)
        lost = slack * size[:, 0] * reach * (1 + 16 * UNIT)
        flushed = 16 * (n + r) * TINY * (1 + size[:, 0]) * (1 + (x.abs() + half).sum(1))
        lost_b = gamma(n + 4) * size[:, 0] * self._b_sum + 8 * n * TINY * (1 + size[:, 0])
        total = down(down(least.sum(1) - up(own)) + down(inputs - up(up(lost) + up(flushed))))
        return down(total + down(mu @ self.b - up(lost_b)))

    @cached_property
    def _sums(self) -> Tensor:  # (n,)
        """Upper bounds on the absolute column sums of W."""
        return _sums_above(self.W)

    @cached_property
    def _input_sums(self) -> Tensor:  # (r,)
        return _sums_above(self.U)

    @cached_property
    def _b_sum(self) -> Tensor:  # ()
        return _sums_above(self.b[:, None])[0]


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


def _sums_above(A: Tensor) -> Tensor:
    """Upper bounds on the sums of |A| along the first dimension."""
    k = len(A)
    return up(A.abs().sum(0) * (1 + 4 * gamma(k + 2)) + 4 * k * TINY)
