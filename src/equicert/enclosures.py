"""Rigorous images of boxes under an operator: one centre product and one radius product.

For `v` in `[c - rho, c + rho]`, exactly `A v` lies in `A c +- |A| rho`. In float64 the computed
`m = fl(A c)` is off by at most `gamma_k |A| |c|`, so the radius product is taken over
`rho + gamma_k |c|` and the two share their cost; underflow is added per term.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equicert.boxes import BLOCK
from equicert.operators import Operator
from equicert.rounding import TINY, UNIT, centre_radius, down, gamma, up


@dataclass(frozen=True)
class Enclosure:
    """The rounded-outwards action of a float64 operator on boxes."""

    A: Operator
    magnitude: Operator  # |A|
    row_sums: Tensor  # (n,), |A| 1 in plain floating point, for the underflow term only

    @classmethod
    def of(cls, A: Operator) -> Enclosure:
        """Prepare an operator; float32 entries are widened to float64, which is exact."""
        A = A.detach().to(dtype=torch.float64)
        magnitude = A.absolute()
        return cls(A, magnitude, magnitude.row_sums())

    def image(
        self,
        lo: Tensor,  # (batch, m) float64
        hi: Tensor,  # (batch, m) float64
    ) -> tuple[Tensor, Tensor]:  # (batch, n) each
        """Bounds that enclose `A v` in exact arithmetic for every real v in [lo, hi].

        NaN or infinity in, or an overflow on the way, gives NaN or infinity out, never a bound
        that is finite and wrong; callers test with comparisons that NaN fails.
        """
        rows = max(1, BLOCK // max(lo.shape[-1], 1))
        parts = zip(lo.split(rows), hi.split(rows), strict=True)
        low, high = zip(*(self._image(*part) for part in parts), strict=True)
        return torch.cat(low), torch.cat(high)

    def _image(self, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        c, rho = centre_radius(lo, hi)
        g = gamma(self.A.terms + 2)
        m = self.A.apply(c)
        size = c.abs_()
        underflow = self._underflow(size)
        wide = rho.add_(size, alpha=g * (1 + 16 * UNIT))  # the excess of rho pays for the rounding
        radius = up(self._above(self.magnitude.apply(wide), wide, g).add_(underflow))
        return down(m - radius), up(m + radius)

    def magnitude_above(
        self,
        v: Tensor,  # (batch, m) float64, non-negative
    ) -> Tensor:  # (batch, n)
        """An upper bound on the exact `|A| v`."""
        return self._above(self.magnitude.apply(v), v, gamma(self.A.terms + 2))

    def _above(self, product: Tensor, v: Tensor, g: float) -> Tensor:
        """An upper bound on the exact product of non-negative factors: p / (1 - g), underflow."""
        return up(up(product + self._underflow(v)).mul_(1 + 2 * g))

    def _underflow(
        self,
        v: Tensor,  # (batch, m) non-negative
    ) -> Tensor:  # (batch, n)
        """Per output: k products and k sums that may flush, and factors read as zero.

        `TINY (2 k + sum_j |v_j| + sum_j |A_ij|)`, doubled; each bracket is at least 1, so that the
        multiplication by TINY does not underflow itself.
        """
        spread = v.sum(-1, keepdim=True) + self.row_sums
        return spread.add_(self.A.terms).mul_(4 * TINY)
