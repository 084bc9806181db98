"""Ellipsoids that hold how far the states of a monotone network move (derived here).

With H = sym(Lambda (I - W)), d = z*(x) - z*(x0) and delta = x - x0 satisfy

    d^T H d <= d^T Lambda U delta.

Let `R^T R <= a H` for some R and a, and `e = R d`, `Y = R^-T Lambda U`, `v = R^-T w`. Then
`||e||^2 <= a e^T Y delta`: e lies in a ball whose diameter runs from 0 to `a Y delta`, and
`w^T d = v^T e` gives

    w^T d >= -a ( ||v|| ||Y delta|| - v^T Y delta ) / 2.

Only R, a nearly exact factor of H turned so that `Y Y^T` is nearly diagonal, is needed for
tightness. Where `Y Y^T <= diag(s)`, `y = Y delta` has `sum_i y_i^2 / s_i <= ||delta||^2`, so that
for `|y| <= beta` and every c >= 0

    ||y||^2 <= c ||delta||^2 + sum_i max(1 - c / s_i, 0) beta_i^2,

and for every t > max s, by `2 g I >= v v^T / p + p diag(s)` at `g = p t / 2`,

    ( ||v|| ||y|| + v^T y ) / 2 <= g ||delta||,   g = t/2 sqrt( sum_i v_i^2 / (t - s_i) ),

which at the best t is the least bound that a linear matrix inequality [R20] gives for the form w.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equicert.definiteness import factor_gap
from equicert.enclosures import Enclosure
from equicert.monotonicity import Monotone, lambda_norm_above, symmetric_part
from equicert.operators import Dense
from equicert.rounding import TINY, UNIT, down, gamma, up
from equicert.stored import StoredNetwork

_LARGEST_GAP = 1e-3  # of m, between H and the product of its factors
_LIFTS = 24  # t tried at a time
_LEAST_LIFT = 1e-8  # of t above max s, relative to it; the best one is at most 1


@dataclass(frozen=True)
class Ellipsoid:
    """The inequality of the module in rounded arithmetic; NaN or infinite where nothing is proved.

    R and Y are explicit matrices, and all that follows holds of the exact `R^-T` as well: what
    solving with it left over, divided by the least singular value of R in the metric of Lambda,
    is charged.

    Attributes:
        Lambda: (n,) the weights of the proof.
        factor: (n, n), R^T.
        growth: a, at least 1.
        root: `R^T R >= root^2 diag(Lambda)`.
        Y: (n, r), nearly `R^-T Lambda U`.
        slack: `||R^-T Lambda U - Y||` is at most this.
        s: (n,) positive, `Y Y^T <= diag(s)`.
    """

    Lambda: Tensor
    factor: Tensor
    growth: Tensor
    root: Tensor
    Y: Tensor
    slack: Tensor
    s: Tensor

    @classmethod
    def of(cls, network: StoredNetwork, proof: Monotone) -> Ellipsoid:
        """With the Cholesky factor of H, or that of m Lambda where this does not suffice."""
        Lambda = proof.Lambda
        H, error = symmetric_part(network.W.dense(), Lambda)
        crude = torch.diag(proof.m * Lambda)
        driven = Lambda[:, None] * network.U.dense()
        for B, lost in ((H, error), (crude, up(4 * UNIT * crude))):
            factor = _turned_factor(B, driven)
            k = torch.as_tensor(factor_gap(factor, B, lost, Lambda)).to(Lambda)
            if float(k) <= _LARGEST_GAP * proof.m:
                break
        growth, root = up(1 + up(k / proof.m)), down(down(proof.m - k).sqrt())
        Y, left = _solved(factor, driven, up(2 * UNIT * driven.abs()))
        columns = lambda_norm_above(left.mT, up(Lambda.reciprocal()))  # (r,)
        slack = up(lambda_norm_above(columns, torch.ones_like(columns)) / root)
        return cls(Lambda, factor, growth, root, Y, slack, _diagonal_above(Y))

    def driven(
        self,
        half: Tensor,  # (batch, r)
        length: Tensor,  # (batch,) bounds on ||half||_2
    ) -> Tensor:  # (batch,)
        """Bounds on `||R^-T Lambda U delta||_2` for `|delta| <= half`."""
        beta = Enclosure.of(Dense(self.Y)).magnitude_above(half)
        levels = torch.cat([self.s, self.s.new_zeros(1)])  # of c
        kept = up(1 - down(levels[:, None] / self.s)).clamp(min=0)  # (n + 1, n)
        squares = Enclosure.of(Dense(kept)).magnitude_above(up(beta.square()))
        bounds = up(squares + up(up(length.square())[:, None] * levels))
        return up(up(bounds.amin(1).sqrt()) + up(self.slack * length))

    def reach(
        self,
        driven: Tensor,  # (batch,)
    ) -> Tensor:  # (batch,)
        """Bounds on `||d||_Lambda`."""
        return up(up(self.growth * driven) / self.root)

    def lost(
        self,
        w: Tensor,  # (k, n), off by at most `error`
        error: Tensor,  # (k, n)
        half: Tensor,  # (rows, r)
        length: Tensor,  # (rows,) bounds on ||half||_2
        driven: Tensor,  # (rows,)
    ) -> Tensor:  # (rows, k)
        """Bounds on `-w^T d` for `|delta| <= half`."""
        v, left = _solved(self.factor, w.mT, error.mT)
        v = v.mT  # (k, n)
        slack = up(lambda_norm_above(left.mT, up(self.Lambda.reciprocal())) / self.root)
        size = lambda_norm_above(v, torch.ones_like(self.Lambda))
        missed = up(self.slack * length)[:, None]  # (rows, 1), of Y delta
        driven = driven[:, None]
        along = up(up(size * missed) + Enclosure.of(Dense(self._slopes(v))).magnitude_above(half))
        crude = up(size * driven)
        split = up(0.5 * up(crude + torch.minimum(crude, along)))
        round_ball = up(up(size * missed) + up(self._gains(v) * length[:, None]))
        return up(self.growth * up(torch.minimum(split, round_ball) + up(slack * driven)))

    def _slopes(
        self,
        v: Tensor,  # (k, n)
    ) -> Tensor:  # (k, r)
        """Bounds on `|v^T Y|`."""
        n = len(self.Y)
        flushed = 4 * n * TINY * (1 + v.abs().amax() + self.Y.abs().amax())
        lost = gamma(n + 8) * (v.abs() @ self.Y.abs()) + flushed
        return up(up((v @ self.Y).abs()) + up(lost))

    def _gains(
        self,
        v: Tensor,  # (k, n)
    ) -> Tensor:  # (k,)
        """Bounds on `(||v|| ||Y delta|| + v^T Y delta) / 2` for `||delta|| <= 1`."""
        low = math.log(_LEAST_LIFT)
        logs = torch.linspace(low, 0, _LIFTS).to(v).expand(len(v), -1)
        bounds, best = self._gains_at(v, logs).min(1)
        step = -low / (_LIFTS - 1)
        near = torch.linspace(-step, step, _LIFTS).to(v)
        refined = self._gains_at(v, logs.gather(1, best[:, None]) + near)
        return torch.minimum(bounds, refined.amin(1))

    def _gains_at(
        self,
        v: Tensor,  # (k, n)
        logs: Tensor,  # (k, t) any numbers
    ) -> Tensor:  # (k, t)
        """The same for each `t = max s (1 + exp(log))`, in fact any t above max s."""
        t = up(self.s.amax() * (1 + logs.exp()))
        inverse = up(down(t[..., None] - self.s).reciprocal())  # (k, t, n)
        terms = up(up(v.square())[:, None] * inverse).sum(-1)
        root = up(up(terms * (1 + 2 * gamma(len(self.s) + 2))).sqrt())
        bound = up(0.5 * up(t * root))
        return torch.where(inverse.amin(-1) > 0, bound, torch.inf)


def _turned_factor(
    B: Tensor,  # (n, n)
    driven: Tensor,  # (n, r)
) -> Tensor:  # (n, n)
    """F with `F F^T` nearly B and the rows of `F^-1 driven` nearly orthogonal; only a proposal."""
    L, failed = torch.linalg.cholesky_ex(B)
    if int(failed) != 0:
        return torch.full_like(B, torch.nan)
    scaled = torch.linalg.solve_triangular(L, driven, upper=False)
    try:
        return L @ torch.linalg.eigh(scaled @ scaled.mT)[1]
    except RuntimeError:  # LinAlgError: an infinite entry, or no convergence
        return L


def _solved(
    factor: Tensor,  # (n, n)
    target: Tensor,  # (n, k), off by at most `error`
    error: Tensor,  # (n, k)
) -> tuple[Tensor, Tensor]:  # (n, k) each
    """X with `factor X` nearly the target, and bounds on what is left of the exact target."""
    n = len(factor)
    X = torch.linalg.solve_ex(factor, target)[0]
    flushed = 4 * n * TINY * (1 + factor.abs().amax() + X.abs().amax())
    lost = gamma(n + 8) * (factor.abs() @ X.abs()) + flushed
    return X, up(up(up((target - factor @ X).abs()) + up(lost)) + error)


def _diagonal_above(
    Y: Tensor,  # (n, r)
) -> Tensor:  # (n,)
    """Positive s with `Y Y^T <= diag(s)`: the row sums of `|Y Y^T|`, rounded up."""
    terms = Y.shape[1]
    size = Y.abs()
    flushed = 4 * terms * TINY * (1 + size.amax())
    entries = up((Y @ Y.mT).abs() + up(gamma(terms + 8) * (size @ size.mT) + flushed))
    s = up(entries.sum(1) * (1 + 2 * gamma(len(Y) + 2)))
    # Any greater number serves; none so small that a quotient overflows.
    return torch.maximum(s, s.amax() * 2.0**-100).clamp(min=2.0**-900)
