"""The interval iteration of [WeiK22], which splits all of W by sign, beside the one of [J22], (6).

    lo = phi([W]^+ lo + [W]^- hi + u_lo),   hi = phi([W]^+ hi + [W]^- lo + u_hi),

`[W]^+ = max(W, 0)`, `[W]^- = min(W, 0)`, `u_lo <= U x + b <= u_hi`. It differs from (6) in the
negative diagonal entries only, which (6) leaves with their own end. All that follows is derived
here.

*Well-posedness.* Let `D = diag([W_ii]^+)`, `N = W - D`. Since `[W]^+ lo + [W]^- hi` is
`D lo + N c - |N| rho`, c and rho centre and half-widths, the iteration is (6) with D and N in the
places of diag W and W_off. Its image moves by at most `|W| v` where lo and hi move by at most v,
so it has exactly one fixed point, with lo <= hi, for every phi of slope in [0, 1] and every u, if
some eta > 0 has `|W| eta < eta`, that is, if `lambda_pf(|W|) < 1`. No weaker condition serves all
phi and u: with the identity, half-widths satisfy `rho = |W| rho + u_rho`, and where u_rho > 0 such
a rho >= 0 is an eta. The condition implies that W contracts, since `M <= |W|` entrywise; not
conversely: W = [-3].

*Its box is a proof like any other.* `W_ii lo_i >= [W_ii]^+ lo_i + [W_ii]^- hi_i` where lo <= hi. So
its fixed point satisfies `N^E(lo, hi) >= lo`, `N^E(hi, lo) <= hi` of (6), which is what
`state_box.py` tests. For the same reason its box contains that of (6): the eliminated map of (6)
sends ordered pairs within the box to ordered pairs within it, and has its fixed point there. Where
no W_ii is negative, on the zero-diagonal form among others, the two are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equicert.bounds.base import StateBoxMethod, unproved
from equicert.bounds.interval import check_width
from equicert.bounds.state_box import prove_state_box
from equicert.boxes import Box
from equicert.contraction import prove_rows
from equicert.errors import NotContractingError
from equicert.operators import Dense, in_full
from equicert.problems import Drive, PrimalProblem, Sweep
from equicert.queries import StateBox
from equicert.solvers import Anderson, solve
from equicert.stored import StoredNetwork

ILL_POSED = "not well-posed"


@final
@dataclass(frozen=True)
class SignSplit(StateBoxMethod):
    """The box of the sign-split fixed point ([WeiK22]), iterated, widened and tested.

    For comparison: it is never tighter than `Interval`. Where its own condition
    `lambda_pf(|W|) < 1` is not proved, in rounded arithmetic for the stored W, nothing is: the
    reason is "not well-posed".

    [WeiK22] C. Wei, J. Z. Kolter, Certified robustness for deep equilibrium models via interval
    bound propagation, ICLR 2022.

    Attributes:
        tolerance: sup-norm distance to the exact fixed point of the iteration at which to stop. It
            costs tightness only, never soundness.
        max_steps: limit of the iteration.
    """

    tolerance: float = 1e-7
    max_steps: int = 5000
    name = "sign-split"
    post_fixed = True

    @torch.no_grad()
    def state_box(self, network: StoredNetwork, box: Box) -> StateBox:
        check_width(network, box)
        _ = network.contraction  # z*(x) is unique, or this raises
        drive = network.drive_bounds(box.lo, box.hi)
        try:
            problem = sign_split_problem(network, *drive)
        except NotContractingError:
            return unproved(network, (ILL_POSED,) * box.batch)
        solution = solve(problem, Anderson(), self.tolerance, self.max_steps)
        lo, hi = solution.value.chunk(2, -1)
        return prove_state_box(network, drive, lo, hi, solution.converged)


def sign_split_problem(
    network: StoredNetwork,
    low: Tensor,  # (batch, n)
    high: Tensor,  # (batch, n)
) -> PrimalProblem:
    """The equation of (lo, hi) for `U x + b` in [low, high].

    Raises:
        NotContractingError: `lambda_pf(|W|) < 1` is not proved.
        TooLargeError: W has structure and too many states.
    """
    own = network.diagonal.clamp(min=0)
    W = in_full(network.W, "the sign-split iteration")
    rest = W - torch.diag(own)  # exact: W_ii - W_ii, or W_ij - 0
    contraction = prove_rows(Dense(rest), own, network.contraction.eta)
    sweep = Sweep(Dense(rest), Dense(rest.abs()))
    drive = Drive(0.5 * (low + high), 0.5 * (high - low))
    error = low.new_zeros(len(low), 2 * network.states)
    return PrimalProblem(sweep, own, drive, lambda: error, network.activation, contraction)
