"""Rigorous images of boxes under an operator: one centre product and one radius product.

For `v` in `[c - rho, c + rho]`, exactly `A v` lies in `A c +- |A| rho`. In float64 the computed
`m = fl(A c)` is off by at most `gamma_k |A| |c|`, so the radius product is taken over
`rho + gamma_k |c|` and the two share their cost; underflow is added per term.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from equicert import kernels
from equicert.boxes import BLOCK
from equicert.operators import Operator
from equicert.rounding import TINY, UNIT, centre_radius, down, gamma, refuse_flushing, up


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
        plus: tuple[Tensor, Tensor] | None = None,  # (1, k) or (batch, k) each
        only: Tensor | None = None,  # (batch, k) int64, the outputs that are wanted; None: all n
    ) -> tuple[Tensor, Tensor]:  # (batch, k) each
        """Bounds that enclose `A v + w` in exact arithmetic for all real v, w in the boxes.

        NaN or infinity in, or an overflow on the way, gives NaN or infinity out, never a bound
        that is finite and wrong; callers test with comparisons that NaN fails. Points, hi the very
        tensor lo, take one product instead of two.
        """
        rows = max(1, BLOCK // max(lo.shape[-1], 1))
        if len(lo) <= rows:
            return self._image(lo, hi, plus, only)
        parts = []
        for begin in range(0, len(lo), rows):
            part = slice(begin, begin + rows)
            low = lo[part]
            high = low if hi is lo else hi[part]
            own = None if plus is None else (_rows(plus[0], part), _rows(plus[1], part))
            wanted = None if only is None else only[part]
            parts.append(self._image(low, high, own, wanted))
        lows, highs = zip(*parts, strict=True)
        return torch.cat(lows), torch.cat(highs)

    def _image(
        self, lo: Tensor, hi: Tensor, plus: tuple[Tensor, Tensor] | None, only: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        g = gamma(self.A.terms + 2)
        if lo is hi:
            size = lo.abs().amax(-1, keepdim=True)
            c, p, most = lo, size * self._lost, size.expand(-1, 2).contiguous()
        else:
            share = g * (1 + 16 * UNIT)  # the excess of the radius pays for the rounding
            c, wide, most = _halves(lo, hi, share)
            p = self.magnitude.apply(wide)
        m, p = _some(self.A.apply(c), only), _some(p, only)
        by_row, by_output = most.mul_(self.A.terms * 4 * TINY), _some(self._flushed, only)
        if kernels.encloses(m, p, by_output, *(plus or ())):
            return kernels.outward(m, p, 1 + 2 * g, (by_row, by_output), plus)
        radius = _above(p, by_row[:, 1:] + by_output, g)
        radius = up(radius.add_(by_row[:, :1] + by_output))
        low, high = down(m - radius), up(m + radius)
        return (low, high) if plus is None else (down(low + plus[0]), up(high + plus[1]))

    def magnitude_above(
        self,
        v: Tensor,  # (batch, m) float64, non-negative
        only: Tensor | None = None,  # (batch, k) int64, as for `image`
    ) -> Tensor:  # (batch, k)
        """An upper bound on the exact `|A| v`."""
        by_row = v.amax(-1, keepdim=True) * (self.A.terms * 4 * TINY)
        product = _some(self.magnitude.apply(v), only)
        return _above(product, by_row + _some(self._flushed, only), gamma(self.A.terms + 2))

    @cached_property
    def _lost(self) -> Tensor:  # (1, n)
        """`gamma |A| 1`, times `max_j |v_j|` no less than what rounding costs a product with v."""
        sums = up(self.row_sums + self.A.terms * TINY) * (1 + 2 * gamma(self.A.terms + 2))
        return (sums * (gamma(self.A.terms + 2) * (1 + 16 * UNIT)))[None]

    @cached_property
    def _flushed(self) -> Tensor:  # (1, n)
        """What underflow may cost an output, up to what depends on the other factor v.

        k products and k sums may flush, and factors be read as zero: for all of it
        `TINY (2 k + k max_j |v_j| + sum_j |A_ij|)`, doubled for its own rounding. The middle term
        is added by the callers; it may be flushed itself, which the 4 k allow for.
        """
        return (self.row_sums[None] + self.A.terms) * (4 * TINY)


def _rows(
    values: Tensor,  # (batch, n), or (1, n) for all rows
    part: slice,
) -> Tensor:
    return values if len(values) == 1 else values[part]


def _some(
    values: Tensor,  # (batch, n) or (1, n)
    only: Tensor | None,  # (batch, k)
) -> Tensor:  # (batch, k); values themselves where all are wanted
    """The columns wanted in each row."""
    return values if only is None else values.expand(len(only), -1).gather(1, only)


def _above(
    product: Tensor,  # (batch, n)
    flushed: Tensor,  # (batch, n)
    g: float,
) -> Tensor:  # (batch, n)
    """An upper bound on the exact product of non-negative factors: p / (1 - g), underflow."""
    return up(up(product + flushed).mul_(1 + 2 * g))


def _halves(
    lo: Tensor,  # (batch, m) float64
    hi: Tensor,  # (batch, m) float64
    share: float,
) -> tuple[Tensor, Tensor, Tensor]:  # (batch, m) each, and (batch, 2)
    """Centres c, radii `rho + share |c|`, and the largest entries of |c| and of those radii."""
    if kernels.encloses(lo, hi):
        refuse_flushing()
        return kernels.halves(lo, hi, share)
    c, rho = centre_radius(lo, hi)
    size = c.abs()
    wide = rho.add_(size, alpha=share)
    return c, wide, torch.stack([size.amax(-1), wide.amax(-1)], -1)
