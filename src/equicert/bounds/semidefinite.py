"""Claims by the semidefinite relaxation of [C21] for ReLU and leaky ReLU: not proofs.

The graph of z = phi(s), `s = W z + U x + b`, phi(t) = max(a t, t), and the box are semialgebraic:

    z_i - a s_i >= 0,   z_i - s_i >= 0,   (z_i - a s_i)(z_i - s_i) = 0,
    (x_k - lo_k)(hi_k - x_k) >= 0.

With multipliers mu, nu, tau >= 0 and lambda of any sign, a form f(x, z) is at least g wherever

    f - g - sum mu_i (z_i - a s_i) - sum nu_i (z_i - s_i) + sum lambda_i (z_i - a s_i)(z_i - s_i)
          - sum tau_k (x_k - lo_k)(hi_k - x_k)  >=  0   for all (x, z),

a matrix inequality of size 1 + r + n. The greatest such g is Shor's relaxation, the robustness
model of [C21]; with the same multipliers its ellipsoid model, one program for all margins, is never
tighter. The solver's g is taken at its word: it holds to the tolerance, and is no proof.

[C21] T. Chen, J. B. Lasserre, V. Magron, E. Pauwels, Semialgebraic representation of monotone deep
equilibrium models and applications to certification, NeurIPS 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from equicert.bounds.base import Method, check_forms, unproved
from equicert.bounds.conic import OPTIMAL, Array, Claim, Inequality, minimise, require_solver
from equicert.bounds.interval import check_width
from equicert.errors import InputError
from equicert.queries import Answer, Forms, Query
from equicert.stored import StoredNetwork


@final
@dataclass(frozen=True)
class Semidefinite(Method):
    """Shor's relaxation of [C21], one semidefinite program a form: verdicts are `claimed`.

    Needs the extra `sdp`, a network with few states and inputs (time grows with the cube of
    1 + r + n), and a proof that z*(x) is unique. Forms are asked in the order of their values at
    the box's centre; of margins, those after the first that is not positive are left at minus
    infinity: the property cannot be claimed any more.

    Attributes:
        tolerance: relative gap and infeasibility at which a program counts as solved.
        max_steps: limit of the interior-point method.

    Raises:
        MissingExtraError: CVXOPT is not installed.
    """

    tolerance: float = 1e-6
    max_steps: int = 50
    name = "semidefinite"
    proves = False

    def __post_init__(self) -> None:
        require_solver()

    @torch.no_grad()
    def answer(self, network: StoredNetwork, query: Query) -> Answer:
        check_width(network, query.box)
        check_forms(network, query)
        slope = _negative_slope(network)
        centre = 0.5 * (query.box.lo + query.box.hi)
        half = (0.5 * (query.box.hi - query.box.lo)).cpu().numpy()
        solution = network.solve(centre)  # or raises: z*(x) is not known to be unique
        converged = solution.converged.tolist()
        rows = query.forms[0].rows if query.forms else 0
        lower = centre.new_full((query.box.batch, rows), -torch.inf)
        statuses, reasons = [""] * query.box.batch, [""] * query.box.batch
        for row, which in enumerate(query.which.tolist()):
            if not converged[row]:
                reasons[row] = "unconverged"
                continue
            x, z = (v[row].cpu().numpy() for v in (centre, solution.value))
            program = _Program.of(network, slope, x, half[row], z)
            values, statuses[row] = self._bound(network, program, query.forms[which])
            lower[row] = centre.new_tensor(values)
            if statuses[row] not in ("", OPTIMAL):
                reasons[row] = f"solver {statuses[row]}"
        state = unproved(network, reasons)
        return Answer(query, lower, state, solver_status=tuple(statuses))

    def _bound(
        self, network: StoredNetwork, program: _Program, forms: Forms
    ) -> tuple[Array, str]:  # (k,)
        """The claims for each form, and "optimal" or the first status that is not."""
        w = (forms.A @ network.C).cpu().numpy()
        constant = (forms.A @ network.c + forms.d).cpu().numpy()
        centre = w @ program.z + constant
        found = np.full(len(w), -math.inf)
        single = forms.clause is not None and len(forms.clause.unique()) == forms.rows
        status = ""
        for k in np.argsort(centre, kind="stable"):
            if single and centre[k] <= 0:
                break
            claim = self._minimum(program, w[k], float(constant[k]))
            status = claim.status
            if status != OPTIMAL or math.isnan(claim.value):
                break
            # A minimum over the box does not exceed the value at its centre.
            found[k] = min(claim.value, centre[k])
            if single and found[k] <= 0:
                break
        return found, status

    def _minimum(
        self,
        program: _Program,
        w: Array,  # (n,)
        constant: float,
    ) -> Claim:
        """The relaxed minimum of `w^T z + constant` over the box."""
        solved = minimise(program.inequality(w, constant), self.tolerance, self.max_steps)
        return Claim(solved.status, -solved.value)


@dataclass(frozen=True)
class _Program:
    """The relaxation in `xi = (1, v, d)`, `x = centre + half v`, `z = z*(centre) + scale d`.

    Attributes:
        z: (n,) z*(centre).
        Z: (n, N) the rows that give z from xi, N = 1 + r + n.
        below, above: (n, N) those of `(z - a s)/scale` and `(z - s)/scale`.
    """

    z: Array
    Z: Array
    below: Array
    above: Array

    @classmethod
    def of(
        cls,
        network: StoredNetwork,
        slope: float,
        x: Array,  # (r,)
        half: Array,  # (r,)
        z: Array,  # (n,)
    ) -> _Program:
        W, U, b = (t.cpu().numpy() for t in (network.W.dense(), network.U.dense(), network.b))
        driven = U * half
        # Any scale gives the same relaxation; this one is about how far z moves.
        scale = max(float(np.linalg.norm(driven)), 1e-3 * (1 + float(np.abs(z).max())))
        Z = np.hstack([z[:, None], np.zeros_like(driven), scale * np.eye(len(z))])
        S = np.hstack([(W @ z + U @ x + b)[:, None], driven, scale * W])
        return cls(z, Z, (Z - slope * S) / scale, (Z - S) / scale)

    def inequality(
        self,
        w: Array,  # (n,)
        constant: float,
    ) -> Inequality:
        """The variables are `g + sum tau`, mu, nu, tau, lambda, so that each matrix is a product.

        Minimised is `-g`.
        """
        n, size = self.Z.shape
        r = size - 1 - n
        one, v = np.eye(size)[:1], np.eye(size)[1 : 1 + r]
        f = (w @ self.Z + constant * one[0])[None]
        P = np.concatenate([one, -one.repeat(2 * n, 0), v, self.below])
        Q = np.concatenate([-one, self.below, self.above, v, self.above])
        c = np.concatenate([[-1.0], np.zeros(2 * n), np.ones(r), np.zeros(n)])
        M = 0.5 * (one.T @ f + f.T @ one)
        return Inequality(c, M, P, Q, np.arange(1, 1 + 2 * n + r))


def _negative_slope(network: StoredNetwork) -> float:
    """a of phi(t) = max(a t, t).

    Raises:
        InputError: phi is another one.
    """
    phi = network.activation
    if phi.name not in ("relu", "leaky_relu") or phi.slopes is None:
        raise InputError(
            "the semidefinite relaxation is that of relu and leaky_relu; this network's activation"
            f" is {phi.spec}: use another method"
        )
    return phi.slopes[0]
