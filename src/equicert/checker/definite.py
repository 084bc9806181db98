"""Whether a symmetric matrix of integers is positive semidefinite, shown by a factor.

If `A - F F^T` is diagonally dominant with a diagonal >= 0, it is >= 0 by Gershgorin's theorem, and
so is A, whatever F is. Congruence keeps the sign: A >= 0 exactly where `D A D >= 0` for a diagonal
D > 0. D is made of powers of two that bring the diagonal of D A D between 1/4 and 1, and F is a
Cholesky factor of `D A D - n 2^-110 I` with 112 binary digits after the point. It only proposes.
A matrix that is so near to singular that this factor does not exist is not shown to be >= 0.
"""

from __future__ import annotations

import math

from equicert.checker.integers import dot

_DIGITS = 112  # of the factor, after the point


def is_semidefinite(A: list[list[int]]) -> bool:
    """Whether A >= 0 is shown. Row i of A holds its entries 0 to i; those above are the same."""
    kept = [i for i, row in enumerate(A) if row[i] or any(row) or any(r[i] for r in A[i + 1 :])]
    if any(A[i][i] <= 0 for i in kept):
        return False  # rows of zeros apart, which may be left out
    # 4^-e A_ii lies between 1/4 and 1.
    e = {i: (A[i][i].bit_length() + 1) // 2 for i in kept}
    B = [[_shifted(A[i][j], 2 * _DIGITS - e[i] - e[j]) for j in kept if j <= i] for i in kept]
    F = _factor(B)
    return F is not None and _dominant(B, F)


def _shifted(a: int, left: int) -> int:
    """The floor of a 2^left."""
    return a << left if left >= 0 else a >> -left


def _factor(B: list[list[int]]) -> list[list[int]] | None:
    """Rows of a Cholesky factor of B less the shift, times 2^digits; None where it breaks down."""
    shift, F = len(B) << 2 * _DIGITS - 110, []
    for i, row in enumerate(B):
        new: list[int] = []
        left = row[i] - shift  # of the diagonal, for the entries of F that are still to come
        for j in range(i):
            entry = (row[j] - dot(new, F[j])) // F[j][j]
            left -= entry * entry
            if left <= 0:
                return None
            new.append(entry)
        new.append(math.isqrt(left) if left > 0 else 0)
        if new[i] == 0:
            return None
        F.append(new)
    return F


def _dominant(B: list[list[int]], F: list[list[int]]) -> bool:
    """`B - F F^T`: its diagonal is at least the sum of the sizes beside it.

    An entry of B is the floor of the exact one: up to one unit, of 2^-224, is missing from it.
    """
    n = len(B)
    beside = [0] * n
    for i in range(n):
        for j in range(i):
            size = abs(B[i][j] - dot(F[i], F[j])) + 1
            beside[i] += size
            beside[j] += size
    return all(B[i][i] - dot(F[i], F[i]) >= beside[i] for i in range(n))
