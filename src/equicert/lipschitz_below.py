"""Lipschitz constants of y from below: the largest Jacobian that a search over x meets.

At a fixed point where phi is differentiable

    J(x) = dy/dx = C (I - D W)^-1 D U,    D = diag(phi'(W z*(x) + U x + b)),

and the Lipschitz constant over R^r is at least the induced norm of any J(x): the largest absolute
row sum for the sup-norm, the largest singular value for l2. These are floating-point values at
points solved to a tolerance, no proofs; they show how far the proved upper bounds may be off. Where
W is too large to factorise, each row of J is an adjoint solve, as in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor

from equicert.errors import NotContractingError
from equicert.implicit_diff import unit_rows
from equicert.operators import fits_in_full
from equicert.solvers import Anderson, solve
from equicert.stored import StoredNetwork

_ROUNDS: Final = 8
_POINTS: Final = (4, 64)  # a round, at least and at most
_WORK: Final = 6e8  # products in the Jacobians of a round, as far as the least number allows
_PARENTS: Final = 8
_TOLERANCE: Final = 1e-9  # of the state
# What is good enough, relative to the state where that is above 1: of a network with layers, most
# of it is what rounding might cost at worst.
_LOOSE: Final = 1e-3
_MAX_STEPS: Final = 500

# From J (batch, q, r) its norm (batch,) and the direction (batch, r) in which y moves the most.
InducedNorm: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Sampled:
    """Lower bounds, in floating point, on the Lipschitz constants of y over R^r.

    Attributes:
        sup, l2: of the sup-norm and of the l2 norm, inputs and outputs alike; None with a reason.
        points: number of Jacobians behind each of them.
    """

    sup: float | None
    l2: float | None
    points: int
    reason: str = ""


@torch.no_grad()
def sample_lipschitz(network: StoredNetwork, seed: int = 0) -> Sampled:
    """The largest norms of J that are met from random points on; never raises.

    Half of the points are uniform in [0, 1]^r and half standard normal. Rounds follow in which the
    best points so far move by random lengths from 0.01 to 100: along the direction in which y moves
    the most, one way or the other, or along a random one. Deterministic for a seed.
    """
    try:
        _ = network.well_posed
    except NotContractingError:
        return Sampled(None, None, 0, "no unique fixed point is proved")
    n, r, q = network.states, network.inputs, network.outputs
    fewest, most = _POINTS
    count = max(fewest, min(most, int(_WORK / (n**3 + q * n * r))))
    sup, l2 = (_search(network, norm, count, seed) for norm in (sup_norm, l2_norm))
    failed = f"no fixed point was found to within {_LOOSE:g}"
    return Sampled(sup, l2, count * (_ROUNDS + 1), failed if sup is None or l2 is None else "")


def _search(network: StoredNetwork, norm: InducedNorm, count: int, seed: int) -> float | None:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).to(network.b)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random, dtype=torch.float64).to(network.b)

    r = network.inputs
    x = torch.cat([uniform(count - count // 2, r), normal(count // 2, r)])
    size, direction = _evaluate(network, x, norm)
    for _ in range(_ROUNDS):
        best = size.topk(min(_PARENTS, count)).indices
        parents = best.repeat(math.ceil(count / len(best)))[:count]
        along = torch.where(uniform(count, 1) < 0.5, direction[parents], normal(count, r))
        length = 10 ** (4 * uniform(count, 1) - 2) * normal(count, 1).sign()
        moved = x[parents] + length * along
        found, towards = _evaluate(network, moved, norm)
        size, kept = torch.cat([size, found]).topk(count)
        x, direction = torch.cat([x, moved])[kept], torch.cat([direction, towards])[kept]
    largest = float(size[0])
    return largest if largest > -math.inf else None


def _evaluate(
    network: StoredNetwork,
    x: Tensor,  # (batch, r)
    norm: InducedNorm,
) -> tuple[Tensor, Tensor]:  # (batch,), (batch, r)
    """Norms and directions of J(x); -inf where z*(x) or J(x) is not known."""
    solution = network.solve(x, _TOLERANCE, _MAX_STEPS)
    z = solution.value
    known = solution.radius <= _LOOSE * z.abs().amax(1).clamp(min=1)
    by = jacobian if fits_in_full(network.W) else jacobian_by_solves
    J = by(network, x, z)
    known &= J.isfinite().all(-1).all(-1)
    size, direction = norm(torch.where(known[:, None, None], J, 0.0))
    known &= size.isfinite()
    return torch.where(known, size, -torch.inf), torch.where(known[:, None], direction, 0.0)


def jacobian(
    network: StoredNetwork,
    x: Tensor,  # (batch, r)
    z: Tensor,  # (batch, n) the fixed points there
) -> Tensor:  # (batch, q, r)
    """`J = C (I - D W)^-1 D U`, plain floating point; NaN where the system is singular."""
    W, U = network.W.dense(), network.U.dense()
    D = network.activation.slope(network.W.affine(z, network.U.affine(x, network.b)))
    system = torch.eye(len(W), dtype=W.dtype, device=W.device) - D[:, :, None] * W
    C = network.C.expand(len(x), -1, -1)
    adjoint, failed = torch.linalg.solve_ex(system, C, left=False)
    adjoint = torch.where(failed[:, None, None] == 0, adjoint, torch.nan)
    return (adjoint * D[:, None, :]) @ U


def jacobian_by_solves(
    network: StoredNetwork,  # contracting
    x: Tensor,  # (batch, r)
    z: Tensor,  # (batch, n) the fixed points there
) -> Tensor:  # (batch, q, r)
    """The same by products with W and W^T alone; NaN where a solve does not converge."""
    problem, q = network.state_problem(x), network.outputs
    slope = problem.slope(z, Anderson.images).repeat_interleave(q, 0)
    g, size = unit_rows(network.C.repeat(len(x), 1))
    found = solve(problem.adjoint(g, slope), Anderson(), _TOLERANCE, _MAX_STEPS)
    v = torch.where(found.converged[:, None], found.value * size, torch.nan)
    return network.U.transpose().apply(v * slope).unflatten(0, (len(x), q))


def sup_norm(
    J: Tensor,  # (batch, q, r)
) -> tuple[Tensor, Tensor]:  # (batch,), (batch, r)
    """`||J||_inf`, the largest absolute row sum, and the signs of that row."""
    size, row = J.abs().sum(2).max(1)
    return size, J[torch.arange(len(J), device=J.device), row].sign()


def l2_norm(
    J: Tensor,  # (batch, q, r)
) -> tuple[Tensor, Tensor]:  # (batch,), (batch, r)
    """`||J||_2` and its right singular vector, as long as a vector of signs.

    By the eigenvectors of the smaller of the two Gram matrices.
    """
    scale = J.abs().amax((1, 2)).clamp(min=torch.finfo(J.dtype).tiny)
    K = J / scale[:, None, None]
    wide = J.shape[1] <= J.shape[2]
    gram = K @ K.mT if wide else K.mT @ K
    vector = torch.linalg.eigh(gram)[1][:, :, -1:]  # (batch, q or r, 1)
    image = K.mT @ vector if wide else K @ vector
    length = torch.linalg.vector_norm(image, dim=(1, 2))
    right = (image if wide else vector)[:, :, 0]
    unit = torch.nn.functional.normalize(right, dim=1)
    return length * scale, unit * math.sqrt(J.shape[2])
