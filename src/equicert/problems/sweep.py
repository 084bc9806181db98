"""How the products with W act on the rows of a problem: a state, a pair of bounds, or both.

A row of m numbers consists of blocks of n: `z`, or `(lo, hi)`, or `(z, lo, hi)`. A pair is
multiplied in centre-radius form, `W_off c -+ |W_off| rho` with c = (lo + hi)/2, rho = (hi - lo)/2:
two products where the two lines of the embedded network (6) of [J22] take four (derived here). A
state that comes along shares the product of the centres.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from equicert import kernels
from equicert.operators import Operator

# One step of a solve: from rows (batch, m) to the next, and bounds on their errors (batch,).
Step: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


class Drive(NamedTuple):
    """What is added to the products, and what they give: rows in centre-radius form.

    Attributes:
        centre: (batch, n) of a state or of a pair, (batch, 2n) of a state and a pair. A tensor of
            its own where it comes from a product.
        radius: (batch, n) of the pair; None where there is none.
    """

    centre: Tensor
    radius: Tensor | None = None

    def rows(self) -> Tensor:  # (batch, m)
        """`centre`, or `(centre - radius, centre + radius)`, behind the state if there is one."""
        return self.centre if self.radius is None else _rows(self.centre, self.radius)

    def blocks(self, n: int) -> int:
        """How many blocks of n entries a row has."""
        return self.centre.shape[-1] // n + (self.radius is not None)

    def magnitude(self) -> Tensor:  # (batch, m)
        """Per entry of a row, a bound on what is added: `|centre| + |radius|` for a pair."""
        if self.radius is None:
            return self.centre.abs()
        n = self.radius.shape[-1]
        state, centre = self.centre[:, :-n].abs(), self.centre[:, -n:].abs()
        pair = centre + self.radius.abs()
        return torch.cat([state, pair, pair], -1)


@dataclass(frozen=True)
class Sweep:
    """`z -> W_off z + drive` on rows; without `magnitude`, rows are states.

    The adjoint sweep is that of the transposed operators.
    """

    off: Operator  # W_off (n, n)
    magnitude: Operator | None = None  # |W_off|

    def __call__(
        self,
        z: Tensor,  # (batch, m)
        drive: Drive,
        slope: Tensor | None = None,  # (batch, m)
    ) -> Drive:  # what the rows z, times slope if there is one, drive in the next step
        if self.magnitude is None or drive.radius is None:
            return Drive(self.off.affine(z if slope is None else slope * z, drive.centre))
        n = drive.radius.shape[-1]
        doubled, width = centres_and_widths(z, n, slope)
        centre = self.off.affine(doubled.view(-1, n), drive.centre.view(-1, n), 0.5)
        radius = self.magnitude.affine(width, drive.radius, 0.5)
        return Drive(centre.view(drive.centre.shape), radius)

    def stepper(
        self,
        drive: Drive,
        finish: kernels.Finish,
        slope: Tensor | None = None,  # (batch, m)
    ) -> Step:
        """The steps of one solve, rows to rows, by compiled loops between the products.

        Memory is taken once: what a step returns is overwritten by the second step after it.
        """
        n, batch = self.off.shape[0], len(drive.centre)
        rows = [drive.centre.new_empty(batch, drive.blocks(n) * n) for _ in range(2)]
        bound = drive.centre.new_empty(batch)
        spare = itertools.cycle(zip(rows, [row.numpy() for row in rows], strict=True))
        image = self._products(drive, slope)

        def step(z: Tensor) -> tuple[Tensor, Tensor]:
            following, array = next(spare)
            before = z.numpy()
            finish(*image(z, before), before, array, bound.numpy())
            return following, bound

        return step

    def _products(
        self, drive: Drive, slope: Tensor | None
    ) -> Callable[[Tensor, np.ndarray], tuple[np.ndarray, np.ndarray | None]]:
        """`self(z, drive, slope)` as arrays, by way of the same memory each time."""
        radius, magnitude = drive.radius, self.magnitude
        if magnitude is None or radius is None:
            return lambda z, _: (self(z, drive, slope).centre.numpy(), None)
        n = radius.shape[1]
        driven, shape = drive.centre.view(-1, n), drive.centre.shape
        doubled, width = torch.empty_like(drive.centre), torch.empty_like(radius)
        middle = doubled.view(-1, n)
        into = doubled.numpy(), width.numpy()
        factor = None if slope is None else slope.numpy()

        def image(_: Tensor, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            kernels.split_into(z, factor, *into)
            centre = self.off.affine(middle, driven, 0.5).numpy().reshape(shape)
            return centre, magnitude.affine(width, radius, 0.5).numpy()

        return image

    def split(
        self,
        u: Tensor,  # (batch, m)
    ) -> Drive:
        """The drive whose `rows()` are u, to rounding."""
        if self.magnitude is None:
            return Drive(u)
        doubled, width = centres_and_widths(u, self.off.shape[0])
        return Drive(0.5 * doubled, 0.5 * width)

    @cached_property
    def transposed(self) -> Sweep:
        """The sweep of the adjoint equation."""
        magnitude = None if self.magnitude is None else self.magnitude.transpose()
        return Sweep(self.off.transpose(), magnitude)

    @cached_property
    def absolute(self) -> Operator:
        """`|W_off|`."""
        return self.off.absolute() if self.magnitude is None else self.magnitude


def centres_and_widths(
    z: Tensor,  # (batch, 2n) or (batch, 3n)
    n: int,
    slope: Tensor | None = None,  # as z
) -> tuple[Tensor, Tensor]:  # (batch, n) or (batch, 2n), and (batch, n)
    """`(lo + hi, hi - lo)` of the pairs of z or of `slope * z`; behind 2 z, if there is a state."""
    if kernels.usable(z, *([] if slope is None else [slope])):
        return kernels.split(z, n, slope)
    z = z if slope is None else slope * z
    *state, lo, hi = z.split(n, -1)
    if not state:
        return lo + hi, hi - lo
    doubled = z.new_empty(len(z), 2 * n)
    front, back = doubled.split(n, -1)
    torch.add(state[0], state[0], out=front)
    torch.add(lo, hi, out=back)
    return doubled, hi - lo


def _rows(
    centre: Tensor,  # (batch, n) or (batch, 2n)
    radius: Tensor,  # (batch, n)
) -> Tensor:  # (batch, 2n) or (batch, 3n)
    n = radius.shape[-1]
    rows = centre.new_empty(len(centre), centre.shape[-1] + n)
    *front, low, high = rows.split(n, -1)
    if front:
        state, centre = centre.split(n, -1)
        front[0].copy_(state)
    torch.sub(centre, radius, out=low)
    torch.add(centre, radius, out=high)
    return rows
