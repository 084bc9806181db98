"""Lipschitz bounds and the certificate (13), in the form derived here.

[J22], Theorem 6.1: `Lip_inf <= (eta_max/eta_min) ||U|| ||C|| / (1 - mu^+)`. Never worse and free of
eta: with M the Metzler majorant and slopes at most beta,

    |z*(x) - z*(x0)| <= zeta   for |x - x0| <= x_r,   whenever zeta >= 0 satisfies
    beta (|W_off| zeta + |U| x_r)_i <= (1 - beta W_ii) zeta_i   for all i,

of which `zeta = (I - M)^-1 |U| x_r` (beta = 1) is the least. It needs a contracting network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equicert.bounds.base import StateBoxMethod
from equicert.bounds.interval import check_width
from equicert.bounds.state_box import prove_state_box
from equicert.boxes import Box
from equicert.enclosures import Enclosure
from equicert.errors import InputError, NotConvergedError
from equicert.operators import Dense
from equicert.queries import StateBox
from equicert.rounding import down, up
from equicert.solvers import Anderson, solve
from equicert.stored import StoredNetwork


@final
@dataclass(frozen=True)
class Lipschitz(StateBoxMethod):
    """The box `z*(x0) +- zeta` about the centre x0 of each input box, widened and tested.

    One forward solve and one linear solve instead of the embedded iteration; its box contains the
    interval method's, so it certifies less and costs less.

    Attributes:
        tolerance: sup-norm radius to which z*(x0) is computed; costs tightness only.
        max_steps: limit of the iteration for z*(x0).
    """

    tolerance: float = 1e-7
    max_steps: int = 5000
    name = "lipschitz"

    @torch.no_grad()
    def state_box(self, network: StoredNetwork, box: Box) -> StateBox:
        check_width(network, box)
        low, high = drive = network.drive_bounds(box.lo, box.hi)
        # U x0 + b and |U| x_r are centre and radius of the drive: no further products with U.
        problem = network.driven_problem(0.5 * (low + high))
        solution = solve(problem, Anderson(), self.tolerance, self.max_steps)
        zeta = _propose_zeta(network, 0.5 * (high - low))
        lo, hi = solution.value - zeta, solution.value + zeta
        # What is left of the centre's residual is all that is left of the box's.
        return prove_state_box(network, drive, lo, hi, solution.converged, solution.bound)


def _propose_zeta(
    network: StoredNetwork,
    driven: Tensor,  # (batch, n) |U| x_r
) -> Tensor:  # (batch, n)
    """A floating-point `zeta` for each row; `zeta_bound` or a box test proves it."""
    beta = network.activation.beta
    return torch.mm(beta * driven, network.sensitivity.mT).clamp_(min=0)


@torch.no_grad()
def zeta_bound(
    network: StoredNetwork,
    radius: Tensor,  # (batch, r) half-widths x_r >= 0
) -> Tensor:  # (batch, n)
    """A proved zeta: `|z*(x) - z*(x0)| <= zeta` entrywise for `|x - x0| <= x_r`.

    The candidate is widened along eta until the inequality above holds in rounded arithmetic.

    Raises:
        NotContractingError: the inequality proves nothing without a contracting network.
        NotConvergedError: no widening passed the test.
        InputError: a half-width is negative.
    """
    if bool((radius < 0).any()):
        raise InputError(f"half-widths must be >= 0, got {float(radius.min()):.6g}")
    contraction = network.contraction
    beta = network.activation.beta
    driven = network.input_map.magnitude_above(radius)
    candidate = _propose_zeta(network, driven)
    for factor in (1e-13, 1e-10, 1e-6, 1e-3):
        scale = (candidate / contraction.eta).amax(-1, keepdim=True)
        zeta = candidate + (factor * scale + 2.0**-900) * contraction.eta
        left = up(beta * up(network.off_diagonal.magnitude_above(zeta) + driven))
        right = down(down(1 - up(beta * network.diagonal)) * zeta)
        if bool((left <= right).all()):
            return zeta
    raise NotConvergedError(
        "Lipschitz bound",
        len(radius),
        len(radius),
        float("inf"),
        "no zeta passed the rounded test: mu(W) is too close to 1 for float64",
    )


@torch.no_grad()
def lipschitz_margins(network: StoredNetwork) -> Tensor:  # (q, q)
    """Bounds on the Lipschitz constant of each margin `y_i - y_j`, sup-norm of x.

    `|C_i - C_j| zeta` with zeta for unit half-widths (derived here); the diagonal is 0.

    Raises:
        NotContractingError: the formula would still return numbers, and they would be false.
    """
    zeta = zeta_bound(network, network.b.new_ones(1, network.inputs))
    differences = network.C[:, None, :] - network.C[None, :, :]
    rows = Enclosure.of(Dense(up(differences.abs()).reshape(-1, network.states)))
    bound = rows.magnitude_above(zeta)[0].reshape(network.outputs, network.outputs)
    return bound.fill_diagonal_(0)


@torch.no_grad()
def lipschitz_bound(network: StoredNetwork) -> float:
    """`Lip_inf <= || |C| (I - M)^-1 |U| ||_inf` (derived here), rounded upwards.

    Raises:
        NotContractingError: as `lipschitz_margins`.
    """
    zeta = zeta_bound(network, network.b.new_ones(1, network.inputs))
    return float(Enclosure.of(Dense(network.C)).magnitude_above(zeta).amax())


@torch.no_grad()
def lipschitz_bound_weighted(network: StoredNetwork) -> float:
    """`Lip_inf <= (eta_max/eta_min) ||U|| ||C|| / (1 - mu^+)`: [J22], Theorem 6.1, rounded upwards.

    Raises:
        NotContractingError: as `lipschitz_margins`.
    """
    contraction = network.contraction
    ratio = up(contraction.eta.amax() / contraction.eta.amin())
    one = network.b.new_ones
    norm_U = network.input_map.magnitude_above(one(1, network.inputs)).amax()
    norm_C = Enclosure.of(Dense(network.C)).magnitude_above(one(1, network.states)).amax()
    gap = down(1 - one(()) * max(contraction.mu, 0.0))
    return float(up(up(up(ratio * norm_U) * norm_C) / gap))
