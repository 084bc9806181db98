"""Weighted sup-norms, matrix measures, the Metzler split and the best eta, on dense tensors.

With `||x||_{inf,[eta]^-1} = max_i |x_i| / eta_i` the matrix measure (logarithmic norm) is
`mu_{inf,[eta]^-1}(A) = max_i ( A_ii + sum_{j != i} (eta_j / eta_i) |A_ij| )` ([J22], section 2).
Everything here is plain floating point; `contraction.py` turns it into proofs.
"""

from __future__ import annotations

import math
from contextlib import suppress

import torch
from torch import Tensor

from equicert.errors import InputError, NotContractingError


def weighted_norm(
    x: Tensor,  # (..., n)
    eta: Tensor,  # (n,) positive
) -> Tensor:  # (...)
    """`||x||_{inf,[eta]^-1} = max_i |x_i| / eta_i`."""
    return (x.abs() / eta).amax(-1)


def row_measures(
    A: Tensor,  # (n, n)
    eta: Tensor | None = None,  # (n,) positive; None: all ones
) -> Tensor:  # (n,)
    """The terms `A_ii + sum_{j != i} (eta_j / eta_i) |A_ij|` whose maximum is the measure."""
    _check_square(A)
    eta = torch.ones_like(A[0]) if eta is None else _check_eta(eta, A)
    off = A.abs() * (1 - torch.eye(len(A), dtype=A.dtype, device=A.device))
    return A.diagonal() + (off @ eta) / eta


def matrix_measure(
    A: Tensor,  # (n, n)
    eta: Tensor | None = None,  # (n,) positive; None: all ones
) -> Tensor:  # ()
    """`mu_{inf,[eta]^-1}(A) = max_i ( A_ii + sum_{j != i} (eta_j / eta_i) |A_ij| )`.

    Example: `matrix_measure(W) < 1` is the well-posedness condition of [J22], Thm 5.1, at eta = 1.
    """
    return row_measures(A, eta).amax()


def spectral_measure(
    A: Tensor,  # (n, n)
) -> Tensor:  # ()
    """`mu_2(A) = lambda_max((A + A^T) / 2)`."""
    _check_square(A)
    # eigh, since eigvalsh loses six digits on some badly scaled matrices.
    return torch.linalg.eigh((A + A.mT) / 2)[0][-1]


def metzler_split(
    A: Tensor,  # (n, n)
) -> tuple[Tensor, Tensor]:
    """`(ceil(A), floor(A))`: the diagonal with the non-negative off-diagonal part, and the rest."""
    _check_square(A)
    diagonal = torch.eye(len(A), dtype=torch.bool, device=A.device)
    ceil = torch.where(diagonal | (A >= 0), A, torch.zeros_like(A))
    return ceil, A - ceil


def metzler_majorant(
    A: Tensor,  # (n, n)
) -> Tensor:  # (n, n)
    """M with `M_ii = A_ii` and `M_ij = |A_ij|`; equal to `ceil(A) - floor(A)` off the diagonal."""
    _check_square(A)
    diagonal = torch.eye(len(A), dtype=torch.bool, device=A.device)
    return torch.where(diagonal, A, A.abs())


def majorant_abscissa(
    A: Tensor,  # (n, n)
) -> float:
    """Spectral abscissa of the Metzler majorant, which is `inf_eta mu_{inf,[eta]^-1}(A)`.

    The infimum is attained at the Perron vector where the majorant is irreducible (derived here).
    NaN where the eigenvalue iteration does not converge.
    """
    try:
        return float(torch.linalg.eigvals(metzler_majorant(A.double())).real.amax())
    except RuntimeError:  # LinAlgError: no convergence on some badly scaled matrices
        return float("nan")


def spectral_radius_of_absolute(
    A: Tensor,  # (n, n)
) -> float:
    """`lambda_pf(|A|)`, the Perron-Frobenius eigenvalue of the absolute values ([EG21])."""
    try:
        return float(torch.linalg.eigvals(A.double().abs()).abs().amax())
    except RuntimeError:  # as above
        return float("nan")


def best_eta(
    A: Tensor,  # (n, n)
) -> Tensor:  # (n,) float64
    """`(I - M)^-1 1` for the majorant M of A: an eta that serves whenever any does (derived here).

    Then `mu_{inf,[eta]^-1}(A) = max_i 1 - 1/eta_i < 1`; reducible A included. The vector is a
    floating-point candidate: `contraction.prove_contraction` checks it.

    Raises:
        NotContractingError: the solution is not positive and finite, so that no eta serves.
    """
    M = metzler_majorant(A.double())
    n = len(M)
    identity = torch.eye(n, dtype=M.dtype, device=M.device)
    solution, failed = torch.linalg.solve_ex(identity - M, torch.ones_like(M[:, :1]))
    eta = solution[:, 0]
    if int(failed) != 0 or not bool((eta.isfinite() & (eta > 0)).all()):
        rows = row_measures(A.double())
        abscissa = majorant_abscissa(A)
        infimum = float(rows.amax()) if math.isnan(abscissa) else max(abscissa, 1.0)
        raise NotContractingError(infimum, int(rows.argmax()))
    return eta


def optimal_eta(
    A: Tensor,  # (n, n)
) -> Tensor:  # (n,) float64
    """An eta whose measure of A exceeds the infimum, the abscissa a of M, by a hair only.

    `((a + delta) I - M)^-1 1` has measure below a + delta, for every delta > 0 and reducible A too,
    where the Perron vector has zeros (derived here). The least delta that rounding allows is used.

    Raises:
        NotContractingError: no delta up to 1e-3 gives a positive solution.
    """
    a = majorant_abscissa(A)
    identity = torch.eye(len(A), dtype=torch.float64, device=A.device)
    for delta in (1e-9, 1e-6):
        with suppress(NotContractingError):
            return best_eta(A + (1 - a - delta * max(1.0, abs(a))) * identity)
    return best_eta(A + (1 - a - 1e-3 * max(1.0, abs(a))) * identity)


def _check_square(A: Tensor) -> None:
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise InputError(f"a matrix measure needs a square matrix, got shape {tuple(A.shape)}")


def _check_eta(eta: Tensor, A: Tensor) -> Tensor:
    eta = eta.to(A)
    if eta.shape != A.shape[:1]:
        raise InputError(f"eta must have shape ({len(A)},), got {tuple(eta.shape)}")
    if not bool((eta.isfinite() & (eta > 0)).all()):
        raise InputError("eta must be positive and finite in every entry")
    return eta
