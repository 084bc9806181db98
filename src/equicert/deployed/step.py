"""One step of Picard's iteration in float32: how far rounding takes it from the exact one.

The exact step is `G(z) = psi(r)`, `r = W_off z + U x + b`, for the stored weights. The program has
weights rounded to float32, x rounded to float32, products summed in any order with or without
fused multiply-add, and psi as computed. From a point z with `|z - z*(x)| <= h`, where z*(x) is in
the box Z, the program's r~ and its psi(r~) end within (derived here; docs/soundness.md)

    p(h) = (1 + omega) |W_off| h + p(0)            of the preactivation of z*(x),
    F(h) = (1 + rho) L p(h) + rho |Z| + tiny       of z*(x) itself,

omega and rho the relative errors of the product and of psi, `L_i <= 1/(1 - W_ii)` a bound on the
slope of psi_i between the two preactivations. Rounded upwards, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from equicert.contraction import Contraction
from equicert.deployed.program import GAPS
from equicert.problems import RESOLUTION
from equicert.rounding import TINY32, UNIT32, down, gamma, up
from equicert.stored import StoredNetwork

SLACK = 1 + 2.0**-16  # on first-order error constants of float32, for their higher orders


@dataclass(frozen=True)
class RoundedStep:
    """What bounds the float32 step of a network, whatever x is.

    Attributes:
        network: the stored network.
        proof: the program's own, of its rounded weights: what it measures its progress by.
    """

    network: StoredNetwork
    proof: Contraction

    def preactivation(
        self,
        spread: Tensor,  # (batch, n) |W_off| h
        base: Tensor,  # (batch, n) p(0)
    ) -> Tensor:  # (batch, n)
        """p(h)."""
        return up(up((1 + self.products) * spread) + base)

    def arrival(
        self,
        preactivation: Tensor,  # (batch, n) p(h)
        own: Tensor,  # (batch, n) rho |Z| + tiny
        slope: Tensor,  # (n,) or (batch, n) L
    ) -> Tensor:  # (batch, n)
        """F(h)."""
        return up(up(up(1 + self.slope_error) * up(slope * preactivation)) + own)

    def rounded(
        self,
        column: Tensor,  # (batch, n) |W_off| |Z|
        drive: Tensor,  # (batch, n) |U| |x| + |b|
        z: Tensor,  # (batch, 1) bound on all iterates
        x: Tensor,  # (batch, 1) bound on the input
    ) -> Tensor:  # (batch, n)
        """p(0): the rounding of x, weights, drive and product at z*(x) itself."""
        own = gamma(self.network.inputs + 2, UNIT32) + self.weights + UNIT32  # of U x + b, and x
        both = (own + gamma(self.network.states + 2, UNIT32) * (1 + own)) * SLACK
        relative = up(up(self.products * column) + up(both * drive))
        return up(relative + self._lost(z, x))

    def _lost(
        self,
        z: Tensor,  # (batch, 1)
        x: Tensor,  # (batch, 1)
    ) -> Tensor:  # (batch, n)
        """What numbers below float32's normal range, rounded there or flushed, cost p(0).

        A weight, input, iterate or sum that is lost costs at most TINY32 times the other factor.
        """
        sums = self.network.off_diagonal.row_sums + self.network.input_map.row_sums
        terms = self.network.inputs + self.network.states + 4
        return 16 * TINY32 * up(terms * (1 + z + x) + 2 * sums)

    def own(
        self,
        z: Tensor,  # (batch, n) |Z|
        largest: Tensor,  # (batch, n) bound on the preactivation at all iterates
    ) -> Tensor:  # (batch, n)
        """`rho |Z| + tiny`: what psi as computed adds, the numbers lost in it included."""
        tiny = 16 * TINY32 * up((1 + self.steepest) * (1 + largest))
        return up(up(self.slope_error * z) + tiny)

    def stop(
        self,
        z: Tensor,  # (batch, n) bound on all iterates
        tolerance: float,
    ) -> Tensor:  # (batch, 1)
        """A bound on `max_i scale_i |z1 - z0|_i` where the program has stopped between z0 and z1.

        `scale = max(eta)/gaps` turns residuals into error bounds; a solve leaves
        `max_i scale_i (RESOLUTION eps) |z_i|` at one of its iterates out of the comparison.
        """
        allowance = up(z * up(self.proof.scale * (1 + GAPS))).amax(-1, keepdim=True)
        allowance = up(allowance * (RESOLUTION * 2 * UNIT32 * SLACK))
        return up((allowance + tolerance + 8 * TINY32) * SLACK)

    def last(
        self,
        stop: Tensor,  # (batch, 1)
    ) -> Tensor:  # (batch, n)
        """t, a bound on `|z1 - z0|` itself."""
        return up(up(stop * self._per_stop) + 4 * TINY32)

    @cached_property
    def weights(self) -> float:
        """How far weights are from their float32 values, relative: 0 where all have one."""
        stored = [*self.network.W.tensors().values(), *self.network.U.tensors().values()]
        stored += [self.network.b, self.network.C, self.network.c]
        return 0.0 if all(torch.equal(v.float().double(), v) for v in stored) else UNIT32

    @cached_property
    def steepest(self) -> Tensor:  # (n,)
        """`1/(1 - W_ii)`, the greatest slope of psi."""
        return up(1 / down(1 - self.network.diagonal))

    @cached_property
    def slope_error(self) -> Tensor:  # (n,)
        """Relative error of psi as computed, from rounded s and W_ii, `s / (1 - s W_ii)`, and r.

        At most `(5 + 3 |W_ii| / (1 - W_ii)) u` to first order, for slopes s <= 1 of phi, in either
        of the ways in which the package computes it.
        """
        return up(8 * UNIT32 * up(1 + up(self.network.diagonal.abs() * self.steepest)))

    @cached_property
    def products(self) -> float:
        """Relative error of the product with W_off, to be taken of `|W_off| |z|`."""
        return (gamma(self.network.states + 2, UNIT32) + self.weights) * SLACK

    @cached_property
    def alpha(self) -> Tensor:  # (n,)
        """What rounding multiplies the Lipschitz matrix of a step by."""
        return up(up(1 + self.slope_error) * (1 + self.products))

    @cached_property
    def driven_by_eta(self) -> Tensor:  # (n,)
        """`|W_off| eta`."""
        return self.network.off_diagonal.magnitude_above(self.proof.eta[None])[0]

    @cached_property
    def room(self) -> Tensor:  # (n,)
        """Lower bounds on `eta - alpha A eta`, `A = D |W_off|`; not positive: nothing is known."""
        return down(self.proof.eta - up(self.alpha * up(self.steepest * self.driven_by_eta)))

    @cached_property
    def resolvent(self) -> Tensor:  # (n, n)
        """`(I - alpha A)^-1` in plain floating point: for proposals."""
        factor = (self.alpha * self.steepest)[:, None]
        off = self.network.off_diagonal.magnitude.dense()
        return torch.linalg.inv(torch.diag(torch.ones_like(self.steepest)) - factor * off)

    @cached_property
    def _per_stop(self) -> Tensor:  # (n,)
        """`1/scale`, of the program's scale in float32."""
        return up(1 / down(self.proof.scale * (1 - GAPS)))
