"""The Lipschitz certificate (13) of [J22], as printed and in the form derived here.

Derived here: with M the Metzler majorant of W and slopes at most beta,

    |z*(x) - z*(x0)| <= zeta   for |x - x0| <= x_r,   whenever zeta >= 0 satisfies
    beta (|W_off| zeta + |U| x_r)_i <= (1 - beta W_ii) zeta_i   for all i,

so that `z*(x0) +- zeta` is a state box for the box's own centre x0 and half-widths x_r.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from equicert.bounds.base import Method, StateBoxMethod, answer_from_state, farthest
from equicert.bounds.interval import check_width
from equicert.bounds.state_box import prove_state_box
from equicert.boxes import Box
from equicert.enclosures import Enclosure
from equicert.errors import InputError
from equicert.lipschitz import LipschitzBound, propose_zeta
from equicert.operators import Dense
from equicert.queries import Answer, Query, StateBox
from equicert.rounding import down, up
from equicert.solution import Solution
from equicert.solvers import Anderson, solve
from equicert.stored import StoredNetwork


@final
@dataclass(frozen=True)
class Lipschitz(StateBoxMethod):
    """The box `z*(x0) +- zeta` about the centre x0 of each input box, widened and tested.

    One forward solve and one linear solve instead of the embedded iteration; its box contains the
    interval method's, so it certifies less and costs less.

    Attributes:
        local: take the slopes from the bounds that this box gives instead of beta (0 where a ReLU
            is inactive), and so a smaller zeta for each box. It still contains the interval
            method's box: whatever passes the post-fixed-point test does.
        tolerance: sup-norm radius to which z*(x0) is computed; costs tightness only.
        max_steps: limit of the iterations.
    """

    local: bool = False
    tolerance: float = 1e-7
    max_steps: int = 5000
    post_fixed = True

    @property
    def name(self) -> str:  # type: ignore[override] - depends on the form
        """What verdicts call it: "lipschitz", or "lipschitz-local"."""
        return "lipschitz-local" if self.local else "lipschitz"

    @torch.no_grad()
    def state_box(self, network: StoredNetwork, box: Box) -> StateBox:
        check_width(network, box)
        low, high = drive = network.drive_bounds(box.lo, box.hi)
        # U x0 + b and |U| x_r are centre and radius of the drive: no further products with U.
        solution = _solved(network, drive, self.tolerance, self.max_steps)
        z, driven = solution.value, 0.5 * (high - low)
        zeta = propose_zeta(network, driven)
        ends = z - zeta, z + zeta
        # What is left of the centre's residual is all that is left of the box's.
        outer = prove_state_box(network, drive, *ends, solution.converged, solution.bound)
        if not self.local:
            return outer
        zeta = self._shrink(network, drive, outer, zeta)
        lo, hi = torch.maximum(z - zeta, outer.lo), torch.minimum(z + zeta, outer.hi)
        inner = prove_state_box(network, drive, lo, hi, solution.converged)
        kept = inner.proved[:, None]
        return StateBox(
            torch.where(kept, inner.lo, outer.lo),
            torch.where(kept, inner.hi, outer.hi),
            inner.proved | outer.proved,
            outer.reason,
        )

    def _shrink(
        self,
        network: StoredNetwork,
        drive: tuple[Tensor, Tensor],  # (batch, n) each
        outer: StateBox,
        zeta: Tensor,  # (batch, n)
    ) -> Tensor:  # (batch, n)
        """Towards the least zeta of the slopes over `outer`, from above: each iterate is one.

        `zeta <- beta (|W_off| zeta + |U| x_r) / (1 - beta W_ii)`, beta per box and row.
        """
        beta = _steepest(network, drive, outer)
        factor = beta / (1 - beta * network.diagonal)
        driven = 0.5 * (drive[1] - drive[0])
        going = torch.ones_like(zeta[:, :1], dtype=torch.bool)  # others of the batch change nothing
        for _ in range(self.max_steps):
            following = factor * network.off_diagonal.magnitude.affine(zeta, driven)
            following = torch.where(going, torch.minimum(zeta, following), zeta)
            going &= (zeta - following).amax(-1, keepdim=True) > self.tolerance
            zeta = following
            if not bool(going.any()):
                break
        return zeta


def _solved(
    network: StoredNetwork,
    drive: tuple[Tensor, Tensor],  # (batch, n) each
    tolerance: float,
    max_steps: int,
) -> Solution:
    """The fixed points at the middle of the drive: U acts once, for the bounds and the solve."""
    problem = network.driven_problem(0.5 * (drive[0] + drive[1]))
    return solve(problem, Anderson(), tolerance, max_steps)


def _steepest(
    network: StoredNetwork,
    drive: tuple[Tensor, Tensor],  # (batch, n) each
    state: StateBox,
) -> Tensor:  # (batch, n)
    """The greatest slope of phi at `t = W_ii psi(r) + r` for r over the state box, proposed only.

    t increases in r, and every slope here is monotone or falls on both sides of 0: three points
    are enough.
    """
    phi, own = network.activation, network.diagonal
    ends = network.off_diagonal.image(state.lo, state.hi, drive)
    t_lo, t_hi = (own * phi.psi(r, own) + r for r in ends)
    middle = torch.zeros_like(t_lo).clamp(t_lo, t_hi)
    return torch.stack([phi.slope(t) for t in (t_lo, middle, t_hi)]).amax(0)


@final
@dataclass(frozen=True)
class LipschitzRadius(Method):
    """Certificate (13) of [J22] as printed: what y can lose within a distance of x.

        y_i(x') - y_j(x') >= y_i(x) - y_j(x) - 2 Lip rho   for ||x' - x||_inf <= rho,

    rho the least radius about x that covers the box, Lip any bound. y(x) is proved, too: over a
    box about z*(x) that passes the post-fixed-point test.

    Attributes:
        bound: which Lip.
        per_margin: `Lip_ij rho`, from the row differences of C, in place of `2 Lip rho`
            (derived here). Never more is lost.
        tolerance: sup-norm radius to which z*(x) is computed; costs tightness only.
        max_steps: limit of that iteration.
    """

    bound: LipschitzBound
    per_margin: bool = False
    tolerance: float = 1e-7
    max_steps: int = 5000

    @property
    def name(self) -> str:  # type: ignore[override] - depends on the bound
        """What verdicts call it: "lipschitz-radius-weighted", for example."""
        return f"lipschitz-radius-{self.bound.name}" + ("-per-margin" if self.per_margin else "")

    @torch.no_grad()
    def answer(self, network: StoredNetwork, query: Query) -> Answer:
        check_width(network, query.box)
        if query.x is None:
            raise InputError("certificate (13) speaks of a radius about a point: the query needs x")
        radius = up(farthest(query.x, query.box))[:, None]
        moved = up(radius * self.bound.states(network))  # (batch, n)
        point = self._at(network, query.x)
        state = StateBox(down(point.lo - moved), up(point.hi + moved), point.proved, point.reason)
        if self.per_margin:  # |C_i - C_j| s rho is what the margin loses over this very box
            return replace(answer_from_state(network, query, state), point=point)
        lost = up(self._lost(network, query)[query.which] * radius)
        lower = down(answer_from_state(network, query, point).lower - lost)
        return Answer(query, torch.where(lower.isnan(), -torch.inf, lower), state, point)

    def _at(
        self,
        network: StoredNetwork,
        x: Tensor,  # (batch, r)
    ) -> StateBox:
        """A proved box about z*(x)."""
        drive = network.drive_bounds(x, x)
        solution = _solved(network, drive, self.tolerance, self.max_steps)
        z = solution.value
        return prove_state_box(network, drive, z, z, solution.converged, solution.bound)

    def _lost(self, network: StoredNetwork, query: Query) -> Tensor:  # (forms, k)
        """`||A_j||_1 Lip` for each set of forms: 2 Lip for margins."""
        each = network.b.new_full((1, network.outputs), self.bound.constant(network))
        rows = [Enclosure.of(Dense(f.A)).magnitude_above(each)[0] for f in query.forms]
        return torch.stack(rows) if rows else each.new_empty(0, 0)
