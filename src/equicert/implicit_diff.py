"""Implicit differentiation: one adjoint solve instead of a stored history of iterations.

At a solution `z = phi(t)`, `t = W z + u`, a cotangent g of z gives the cotangent of t

    p = D v,    v = g + W^T D v,    D = diag(phi'(t))

and those of everything else (W, U, b, x, and through them eta and T) follow from p as those of the
one evaluation `t = W z + U x + b` at z held fixed. Memory does not grow with the number of
iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from equicert import kernels

Cotangents = Callable[[Tensor], Sequence[Tensor]]


class _Attach(torch.autograd.Function):
    """Returns z; hands its cotangent to the function that makes those of the sources of it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, cotangents: Cotangents, *sources: Tensor) -> Tensor:
        del sources  # take part in the graph only
        ctx.cotangents = cotangents
        return z.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - staticmethod of a wrapper
        ctx: Any, *grad_outputs: Any
    ) -> Any:
        return None, None, *ctx.cotangents(grad_outputs[0])


def attach(
    z: Tensor,  # (batch, m) the solution, without history
    sources: Sequence[Tensor],  # what it depends on, with their gradient history
    cotangents: Cotangents,  # from z's, (batch, m), to theirs
) -> Tensor:  # (batch, m)
    """z as a differentiable function of its sources."""
    return _Attach.apply(z, cotangents, *sources)


def unit_rows(
    g: Tensor,  # (batch, m)
) -> tuple[Tensor, Tensor]:  # (batch, m), (batch, 1)
    """Each row over its largest absolute entry, and those; 1 where a row is 0."""
    if kernels.usable(g):
        return kernels.unit_rows(g)
    size = g.abs().amax(-1, keepdim=True)
    size = torch.where(size == 0, torch.ones_like(size), size)
    return g / size, size
