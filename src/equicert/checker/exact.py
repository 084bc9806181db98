"""A model in integers: what is known of it once a folder, and ranges over boxes of states."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import sub

from equicert.checker.definite import is_semidefinite
from equicert.checker.files import NotValidError
from equicert.checker.folder import Monotone
from equicert.checker.integers import Box, against, dot, require_finite, scaled
from equicert.checker.matrices import Matrix, Rows, off_diagonal, whole
from equicert.checker.model import Model

_EXPANDED = 1 << 10, 1 << 22  # rows and entries of what is expanded to rows


class Exact:
    """A model in integers; the last letter of `kW` tells whose k it is."""

    def __init__(self, model: Model) -> None:
        if model.q < 2:
            raise NotValidError("a network with one output has no label to certify")
        self.phi, self.activation = model.phi, model.activation
        self.n, self.q = model.n, model.q
        self.W_off, self.diagonal, self.kW = off_diagonal(model.W)
        self.U, self.kU = whole(model.U)
        C, self.kC = scaled(model.C)
        self.C = [C[i : i + model.n] for i in range(0, len(C), model.n)]
        self.b, self.kb = scaled(model.b)
        self.c, self.kc = scaled(model.c)

    def check_eta(self, values: Sequence[float]) -> None:
        """Check 2: eta > 0 and (M eta)_i < eta_i for every i, M the Metzler majorant of W."""
        require_finite("eta", values)
        eta, k = scaled(values)
        for i, off in enumerate(self.W_off.sizes_times(eta)):
            image, weight = self.diagonal[i] * eta[i] + off, eta[i] << self.kW
            if eta[i] <= 0:
                raise NotValidError(f"eta: entry {i} is {values[i]!r}, not positive")
            if image >= weight:
                excess = against(image, weight, self.kW + k)
                raise NotValidError(f"eta: (M eta)_i >= eta_i at i = {i}: {excess}")

    def check_monotone(self, claim: Monotone) -> None:
        """Check 2: Lambda > 0, m > 0, `sym(Lambda (I - W)) >= m Lambda` and the norm's bound.

        The first times 2. The second as `norm^2 Lambda - (Lambda U) (Lambda U)^T >= 0`: that is
        `norm^2 I - Lambda^(1/2) U U^T Lambda^(1/2)` between two factors Lambda^(1/2).
        """
        require_finite("Lambda", claim.Lambda)
        if not all(v > 0 for v in claim.Lambda):
            raise NotValidError("Lambda has an entry that is not positive")
        if not (math.isfinite(claim.m) and claim.m > 0):
            raise NotValidError(f"m is {claim.m!r}, not a positive number")
        if not (math.isfinite(claim.norm) and claim.norm >= 0):
            raise NotValidError(f"norm is {claim.norm!r}, not a number >= 0")
        L, kL = scaled(claim.Lambda)
        (m,), km = scaled([claim.m])
        (norm,), kn = scaled([claim.norm])
        W, U = _expanded(self.W_off, self.n), _expanded(self.U, self.n)
        k = max(self.kW, km)
        w = k - self.kW
        A = [
            [-(L[i] * row[j] + L[j] * W[j][i]) << w for j in range(i)]
            + [2 * L[i] * ((1 << k) - (self.diagonal[i] << w) - (m << k - km))]
            for i, row in enumerate(W)
        ]
        if not is_semidefinite(A):
            raise NotValidError(f"sym(Lambda (I - W)) >= m Lambda is not shown for m = {claim.m!r}")
        k = max(2 * kn + kL, 2 * kL + 2 * self.kU)
        g, d = k - 2 * kL - 2 * self.kU, k - 2 * kn - kL
        A = [[-L[i] * L[j] * dot(row, U[j]) << g for j in range(i + 1)] for i, row in enumerate(U)]
        for i, row in enumerate(A):
            row[i] += norm * norm * L[i] << d
        if not is_semidefinite(A):
            raise NotValidError(f"the norm of Lambda^(1/2) U is not shown to be <= {claim.norm!r}")

    def ranges(self, states: Box, inputs: Box) -> tuple[Iterator[tuple[int, int]], int]:
        """`2 r_lo_i`, `2 r_hi_i` for each i, times 2^k, and k.

        `[r_lo_i, r_hi_i]` is the range of `sum_{j != i} W_ij z_j + (U x)_i + b_i` over the boxes.
        """
        z_sum, z_width, kz = states
        x_sum, x_width, kx = inputs
        k = max(self.kW + kz, self.kU + kx, self.kb)
        w, u, b = k - self.kW - kz, k - self.kU - kx, k - self.kb

        def each() -> Iterator[tuple[int, int]]:
            middles = zip(self.W_off.times(z_sum), self.U.times(x_sum), self.b, strict=True)
            radii = zip(self.W_off.sizes_times(z_width), self.U.sizes_times(x_width), strict=True)
            for (z, x, bias), (z_radius, x_radius) in zip(middles, radii, strict=True):
                middle = (z << w) + (x << u) + (bias << b + 1)
                radius = (z_radius << w) + (x_radius << u)
                yield middle - radius, middle + radius

        return each(), k

    def margin(self, y: int, j: int, states: Box) -> tuple[int, int, int]:
        """Twice the least and the greatest `(C_y - C_j) z + c_y - c_j`, times 2^k, and k."""
        z_sum, z_width, kz = states
        k = max(self.kC + kz, self.kc)
        row = list(map(sub, self.C[y], self.C[j]))
        middle = dot(row, z_sum) << k - self.kC - kz
        middle += self.c[y] - self.c[j] << k - self.kc + 1
        radius = dot(map(abs, row), z_width) << k - self.kC - kz
        return middle - radius, middle + radius, k


def _expanded(A: Matrix, n: int) -> list[list[int]]:
    """The n rows of a matrix; a large one that is not stored so is refused."""
    most, entries = _EXPANDED
    if not isinstance(A, Rows) and (n > most or n * A.columns > entries):
        raise NotValidError(
            f"monotone is not checked of convolutions or blocks from {A.columns} to {n} numbers:"
            f" at most {most} rows and {entries} entries are expanded; claim an eta, if there is"
        )
    return A.rows
