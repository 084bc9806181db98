"""A linear matrix inequality of symmetric products, solved by CVXOPT: floating point, no proof.

    minimise c^T y   subject to   M + sum_j y_j A_j >= 0,   A_j = (p_j q_j^T + q_j p_j^T)/2,
                                  y_j >= 0 for some j

Each step of CVXOPT's interior-point method (`conelp`) solves with the Schur complement

    H_ij = tr(A_i R A_j R) = ( (p_i^T R p_j)(q_i^T R q_j) + (p_i^T R q_j)(q_i^T R p_j) ) / 2,

R the inverse of its scaling. Formed from these products, it costs what a few
products of matrices cost, where a solver that is not told the structure works on all N^2/2 entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve

from equicert.errors import MissingExtraError

Array = NDArray[np.float64]

OPTIMAL = "optimal"


@dataclass(frozen=True)
class Inequality:
    """The data of the module's problem.

    Attributes:
        c: (m,) the objective.
        M: (N, N) symmetric.
        P, Q: (m, N) the rows p_j and q_j.
        signed: (k,) int64, the j for which y_j >= 0.
    """

    c: Array
    M: Array
    P: Array
    Q: Array
    signed: NDArray[np.int64]

    def combine(self, y: Array) -> Array:  # (N, N)
        """`sum_j y_j (p_j q_j^T + q_j p_j^T)/2`."""
        half = (self.P * y[:, None]).T @ self.Q
        return 0.5 * (half + half.T)

    def pair(self, X: Array) -> Array:  # (m,)
        """`p_j^T X q_j`, X symmetric: the adjoint of `combine`."""
        return ((self.P @ X) * self.Q).sum(1)

    def schur(self, root: Array) -> Array:  # (m, m)
        """H for `R = root root^T`."""
        p, q = self.P @ root, self.Q @ root
        cross = p @ q.T
        return 0.5 * ((p @ p.T) * (q @ q.T) + cross * cross.T)


@dataclass(frozen=True)
class Claim:
    """What the solver says: "optimal", or why it stopped short, and the value it reached."""

    status: str
    value: float


def require_solver() -> None:
    """Raise MissingExtraError unless CVXOPT is installed."""
    if find_spec("cvxopt") is None:
        raise MissingExtraError("semidefinite programs", "cvxopt", "sdp")


def minimise(problem: Inequality, tolerance: float, max_steps: int) -> Claim:
    """The least c^T y, to relative gap and infeasibility `tolerance`.

    Raises:
        MissingExtraError: CVXOPT is not installed.
    """
    require_solver()
    cvxopt, solvers = import_module("cvxopt"), import_module("cvxopt.solvers")
    k, size = len(problem.signed), len(problem.M)
    right = np.concatenate([np.zeros(k), problem.M.ravel()])
    limits = {"abstol": tolerance, "reltol": tolerance, "feastol": tolerance}
    try:
        found = solvers.conelp(
            cvxopt.matrix(problem.c),
            _constraints(problem, cvxopt.matrix),
            cvxopt.matrix(right),
            {"l": k, "q": [], "s": [size]},
            kktsolver=_kkt_solver(problem, cvxopt.matrix),
            options={"show_progress": False, "maxiters": max_steps, **limits},
        )
    except (ArithmeticError, ValueError) as error:  # NaN or overflow on the way
        return Claim(f"failed ({' '.join(str(error).split())})", float("nan"))
    # Its "unknown" means that the tolerances were not met within the steps.
    status = "inaccurate" if found["status"] == "unknown" else found["status"]
    value = found["primal objective"]
    return Claim(status, float("nan") if value is None else float(value))


def _constraints(problem: Inequality, matrix: Any) -> Callable[..., None]:
    """y -> -(signed y, sum_j y_j A_j) and its adjoint, as `conelp` calls it."""
    k, size, signed = len(problem.signed), len(problem.M), problem.signed

    def act(x: Any, y: Any, alpha: float = 1.0, beta: float = 0.0, trans: str = "N") -> None:
        vector = _flat(x)
        if trans == "N":
            image = np.concatenate([vector[signed], problem.combine(vector).ravel()])
        else:
            image = problem.pair(_symmetric(vector[k:], size))
            image[signed] += vector[:k]
        y[:] = matrix(beta * _flat(y) - alpha * image)

    return act


def _kkt_solver(problem: Inequality, matrix: Any) -> Callable[[Any], Callable[..., None]]:
    """For a scaling W, the solver of `G^T u_z = b_x`, `G u_x - W^T W u_z = b_z`; W u_z in z."""
    k, size, signed = len(problem.signed), len(problem.M), problem.signed

    def factor(W: Any) -> Callable[..., None]:
        inverse, root = _flat(W["di"]), np.array(W["rti"][0])
        H = problem.schur(root)
        H[signed, signed] += inverse**2
        try:
            lower = np.linalg.cholesky(H)
        except np.linalg.LinAlgError as error:
            raise ArithmeticError("singular KKT matrix") from error  # what conelp expects

        def solve(x: Any, _y: Any, z: Any) -> None:
            vector = _flat(z)
            B, bl = _symmetric(vector[k:], size), vector[:k]
            scaled = root.T @ B @ root
            right = _flat(x) - problem.pair(root @ scaled @ root.T)
            right[signed] -= inverse**2 * bl
            u = cho_solve((lower, True), right)
            x[:] = matrix(u)
            inner = root.T @ problem.combine(u) @ root + scaled
            z[:] = matrix(-np.concatenate([inverse * (u[signed] + bl), inner.ravel()]))

        return solve

    return factor


def _flat(x: Any) -> Array:
    return np.array(x, dtype=np.float64).ravel()


def _symmetric(vector: Array, size: int) -> Array:
    """The matrix whose lower triangle is stored by columns; what is above it says nothing."""
    lower = np.tril(vector.reshape(size, size, order="F"))
    return lower + np.tril(lower, -1).T
