"""The floor: the matrix products of a computation, alone, at the speed of this machine's library.

Shapes follow from the equations: a batch of states is multiplied by `W_off`, a batch of boxes in
centre-radius form by `W_off` and `|W_off|`, and where both are wanted the centres share a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Product:
    """`count` products of a (rows, inner) matrix with an (inner, columns) one."""

    rows: int
    inner: int
    columns: int
    count: int = 1


@dataclass(frozen=True)
class Size:
    """Of a network and a batch, and what is solved for.

    Attributes:
        batch, n, r, q: samples, hidden units, inputs, outputs.
        states: 1 where z is solved for, else 0.
        boxes: 1 where the embedded network is, else 0.
    """

    batch: int
    n: int
    r: int
    q: int
    states: int = 1
    boxes: int = 1


class Products:
    """Called, it computes the products and nothing else, into memory of its own."""

    def __init__(self, products: Sequence[Product], dtype: torch.dtype) -> None:
        draw = torch.Generator().manual_seed(0)
        self.flops = sum(2 * p.rows * p.inner * p.columns * p.count for p in products)
        self._operands = [
            (
                torch.rand(p.rows, p.inner, generator=draw, dtype=dtype),
                torch.rand(p.columns, p.inner, generator=draw, dtype=dtype).mT,
                torch.empty(p.rows, p.columns, dtype=dtype),
                p.count,
            )
            for p in products
        ]

    @torch.no_grad()
    def __call__(self) -> None:
        for left, right, out, count in self._operands:
            for _ in range(count):
                torch.mm(left, right, out=out)


def solve_products(size: Size, steps: int) -> list[Product]:
    """`U x + b`, and so many steps of the joint, embedded or state problem."""
    return [*_with_u(size), *_sweeps(size, steps)]


def step_products(size: Size, forward: int, adjoint: int) -> list[Product]:
    """A whole training step with so many forward and adjoint steps.

    Besides those: `t = W z + u` once more with history, the gradients of U and W, and the read-outs
    (all q^2 differences of rows of C for the margins) with theirs.
    """
    centres = size.batch * (size.states + size.boxes)
    found = [*_with_u(size), *_sweeps(size, forward + 1 + adjoint)]
    for columns in (size.r, size.n):
        found.append(Product(size.n, centres, columns))
        if size.boxes:
            found.append(Product(size.n, size.batch, columns))
    found += _read_out(size, size.q, size.states + size.boxes)
    return found + (_read_out(size, size.q**2, 1) if size.boxes else [])


def bound_products(size: Size, steps: int) -> list[Product]:
    """The bounds of a batch of boxes and their margins, without gradients."""
    read_out = [Product(size.batch, size.n, size.q), Product(size.batch, size.n, size.q**2)]
    return [*solve_products(size, steps), *read_out]


def _with_u(size: Size) -> list[Product]:
    centres = Product(size.batch * (size.states + size.boxes), size.r, size.n)
    return [centres, *[Product(size.batch, size.r, size.n)] * size.boxes]


def _sweeps(size: Size, steps: int) -> list[Product]:
    centres = Product(size.batch * (size.states + size.boxes), size.n, size.n, steps)
    return [centres, *[Product(size.batch, size.n, size.n, steps)] * size.boxes]


def _read_out(size: Size, columns: int, count: int) -> list[Product]:
    """A product of states with so many columns, and its two gradients."""
    return [
        Product(size.batch, size.n, columns, count),
        Product(size.batch, columns, size.n, count),
        Product(columns, size.batch, size.n, count),
    ]
