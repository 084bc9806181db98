"""Proofs of well-posedness: an eta with `mu_{inf,[eta]^-1}(W) < 1`, checked with rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equicert.enclosures import Enclosure
from equicert.errors import NotContractingError
from equicert.norms import best_eta
from equicert.operators import Operator
from equicert.rounding import down, self_test, up


@dataclass(frozen=True)
class Contraction:
    """`mu` and `rate` are rigorous upper bounds in exact arithmetic for the stored W.

    Attributes:
        eta: (n,) float64, positive.
        mu: bound on `mu_{inf,[eta]^-1}(W)`, below 1.
        rate: bound on `max_i sum_{j != i} (eta_j/eta_i) |W_ij| / (1 - W_ii)`, below 1: the factor
            by which Picard on the eliminated form contracts (derived here).
        gaps: (n,) positive lower bounds on `eta_i - sum_{j != i} |W_ij| eta_j / (1 - W_ii)`, by
            which residuals become error radii row by row.
    """

    eta: Tensor
    mu: float
    rate: float
    gaps: Tensor

    @property
    def gap(self) -> float:
        """`1 - mu^+`, mu^+ = max(mu, 0): the denominator of [J22] (13) and of residual bounds."""
        return 1 - max(self.mu, 0.0)


def prove_contraction(
    W: Operator,  # (n, n)
    hint: Tensor | None = None,  # (n,) a stored eta: believed only if it passes
) -> Contraction:
    """An eta proved to satisfy `(M eta)_i < eta_i` for all i: [J22] Thm 5.1 then applies.

    The hint is tried first, then `(I - M)^-1 1`, which serves whenever any eta does.

    Raises:
        NotContractingError: no candidate passes the test in rounded arithmetic.
        RoundingError: this machine's arithmetic is not the one that the bounds assume.
    """
    self_test(str(W.device))
    W = W.detach().to(dtype=torch.float64)
    magnitude = Enclosure.of(W.off_diagonal())
    diagonal = W.diagonal()
    if hint is not None:
        eta = hint.detach().to(diagonal)
        proved = _test(magnitude, diagonal, eta)
        if proved is not None:
            return proved
    eta = best_eta(W.dense())
    proved = _test(magnitude, diagonal, eta / eta.min())
    if proved is None:
        measures = diagonal + magnitude.magnitude.apply(eta[None])[0] / eta
        row = int(measures.argmax())
        raise NotContractingError(
            float(measures[row]), row, " (1 - mu is below what float64 resolves)"
        )
    return proved


def _test(magnitude: Enclosure, diagonal: Tensor, eta: Tensor) -> Contraction | None:
    """The rigorous comparison `W_ii eta_i + (|W_off| eta)_i < eta_i`, or None."""
    if eta.shape != diagonal.shape or not bool((eta.isfinite() & (eta > 0)).all()):
        return None
    off = magnitude.magnitude_above(eta[None])[0]
    image = up(up(diagonal * eta) + off)
    slack = down(1 - diagonal)
    mu = up(diagonal + up(off / eta))
    rate = up(up(off / eta) / slack)
    gaps = down(down(eta - image) / up(1 - diagonal))
    if not bool(((image < eta) & (mu < 1) & (slack > 0) & (rate < 1) & (gaps > 0)).all()):
        return None
    return Contraction(eta, float(mu.amax()), float(rate.amax()), gaps)
