"""Implicit differentiation: one adjoint solve instead of a stored history of iterations.

At a solution `z = phi(t)`, `t = W z + u`, a cotangent g of z gives the cotangent of t

    p = D v,    v = g + W^T D v,    D = diag(phi'(t))

and everything else (W, U, b, x, and through them eta and T) follows from p by ordinary
differentiation of the one evaluation `t = W z + U x + b` at z held fixed. Memory does not grow with
the number of iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Attach(torch.autograd.Function):
    """Returns z; hands the cotangent of z, transformed by the adjoint solve, to t."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, z: Tensor, adjoint: Callable[[Tensor], Tensor]) -> Tensor:
        del t  # takes part in the graph only
        ctx.adjoint = adjoint
        return z.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - staticmethod of a wrapper
        ctx: Any, *grad_outputs: Any
    ) -> Any:
        return ctx.adjoint(grad_outputs[0]), None, None


def attach(
    t: Tensor,  # (batch, m) `W z + u` with its gradient history, z held fixed
    z: Tensor,  # (batch, m) the solution, without history
    adjoint: Callable[[Tensor], Tensor],  # cotangent of z (batch, m) -> cotangent of t (batch, m)
) -> Tensor:  # (batch, m)
    """z as a differentiable function of everything that t depends on."""
    return _Attach.apply(t, z, adjoint)
