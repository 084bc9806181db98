"""Proofs of well-posedness: an eta with `mu_{inf,[eta]^-1}(W) < 1`, checked with rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from equicert.enclosures import Enclosure
from equicert.errors import NotContractingError
from equicert.norms import best_eta
from equicert.operators import Operator, fits_in_full
from equicert.rounding import down_array, self_test, up_array

_SHIFTS = (0.5, 0.1, 1e-2, 1e-4, 1e-8)
_STEPS = 1000  # towards each candidate of a W that is too large to factorise
_STILL = 1e-12  # growth of an entry, relative
_MOST_ETA = 2.0**500  # of such a candidate: it grows without end


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
        depth: steps after which Picard's iteration stands still whatever the entries are, the
            length of the longest path of W_off; 0 where W_off has a cycle. The more of them, the
            larger eta may be, and the less an error bound tells before all have been taken.
    """

    eta: Tensor
    mu: float
    rate: float
    gaps: Tensor
    depth: int = 0

    @cached_property
    def scale(self) -> Tensor:  # (n,)
        """`max(eta) / gaps`: turns residuals, row by row, into error bounds in the sup-norm."""
        return self.eta.amax() / self.gaps

    @property
    def gap(self) -> float:
        """`1 - mu^+`, mu^+ = max(mu, 0), rounded down: the denominator of residual bounds."""
        return math.nextafter(1 - self.mu, 0.0) if self.mu > 0 else 1.0

    def part(self, span: slice) -> Contraction:
        """What it says of the principal submatrix of these states, whose row sums are no larger."""
        return Contraction(self.eta[span], self.mu, self.rate, self.gaps[span], self.depth)


def prove_contraction(
    W: Operator,  # (n, n)
    hint: Tensor | None = None,  # (n,) a stored eta: believed only if it passes
) -> Contraction:
    """An eta proved to satisfy `(M eta)_i < eta_i` for all i: [J22] Thm 5.1 then applies.

    The hint is tried first. Then `((1 - t) I - M)^-1 1`, with mu < 1 - t, for the largest t that
    serves; t = 0 serves whenever any eta does, but its `1 - mu = 1/eta_max` may be below what
    float64 resolves (deep feed-forward networks). Where W is too large to factorise, that is
    iterated for, and may not be reached.

    Raises:
        NotContractingError: no candidate passes the test in rounded arithmetic.
        RoundingError: this machine's arithmetic is not the one that the bounds assume.
    """
    W = W.detach().to(dtype=torch.float64)
    return prove_rows(W.off_diagonal(), W.diagonal(), hint)


def prove_rows(
    rest: Operator,  # (n, n) float64
    own: Tensor,  # (n,) float64
    hint: Tensor | None = None,  # (n,)
) -> Contraction:
    """The same for `W = diag(own) + rest`, where `rest` may have entries on the diagonal, too.

    Proved is `(|rest| eta)_i < (1 - own_i) eta_i` for all i; `mu`, `rate` and `gaps` have `own_i`
    in the place of W_ii and `|rest|` in that of `|W_off|`: they belong to the form in which only
    `own_i z_i` is eliminated.

    Raises:
        NotContractingError, RoundingError: as `prove_contraction`.
    """
    self_test(str(rest.device))
    magnitude = Enclosure.of(rest)
    if hint is not None:
        proved = _test(magnitude, own, hint.detach().to(own))
        if proved is not None:
            return proved
    eta, detail = own, " (1 - mu is below what float64 resolves)"
    if not fits_in_full(rest):
        detail = f" by products, {_STEPS} for each"
    for eta in _candidates(magnitude.magnitude, own):
        proved = _test(magnitude, own, eta / eta.min())
        if proved is not None:
            return proved
    measures = own + magnitude.magnitude.apply(eta[None])[0] / eta
    row = int(measures.argmax())
    raise NotContractingError(float(measures[row]), row, detail)


def _candidates(
    rest: Operator,  # (n, n), no entry of it negative
    own: Tensor,  # (n,)
) -> Iterator[Tensor]:  # (n,) each
    """`((1 - t) I - M)^-1 1` for falling t, where that is positive, and for t = 0."""
    if not fits_in_full(rest):
        yield from _iterated(rest, own)
        return
    A = rest.dense() + torch.diag(own)
    last_resort = best_eta(A)
    identity = torch.eye(len(A), dtype=A.dtype, device=A.device)
    for shift in _SHIFTS:
        with suppress(NotContractingError):
            yield best_eta(A + shift * identity)
    yield last_resort


def _iterated(
    rest: Operator,  # (n, n), no entry of it negative
    own: Tensor,  # (n,)
) -> Iterator[Tensor]:  # (n,) each
    """The same by products: `(1 - t - own_i) eta_i = 1 + (rest eta)_i`, iterated from below.

    What it grows by is what is missing from the inequality that eta has to meet, so that it is met,
    by half of the 1, before eta stands still, or as far as float64 tells. The last one is what it
    came to.
    """
    eta = torch.ones_like(own)
    for shift in (*_SHIFTS, 0.0):
        slack = 1 - shift - own
        if not bool((slack > 0).all()):
            continue
        eta = 1 / slack
        for _ in range(_STEPS):
            product = rest.apply(eta[None])[0]
            following = (1 + product) / slack
            met = (product + 0.5 < slack * eta) | (following <= eta * (1 + _STILL))
            if bool(met.all()):
                yield eta
                break
            if not float(following.amax()) < _MOST_ETA:
                break
            eta = following
    yield eta


def _test(magnitude: Enclosure, diagonal: Tensor, hint: Tensor) -> Contraction | None:
    """The rigorous comparison `(|W_off| eta)_i < (1 - W_ii) eta_i` for all i, or None.

    It says that `(M eta)_i < eta_i`, that mu < 1 and that the rate is below 1, all at once. In
    NumPy after the product: on vectors its calls cost a fifth of torch's, at every training step.
    """
    if hint.shape != diagonal.shape:
        return None
    eta, own = hint.cpu().numpy(), diagonal.cpu().numpy()
    if not (eta.min() > 0 and eta.max() < math.inf):  # false where an entry is NaN
        return None
    product = magnitude.magnitude_above(hint[None])[0].cpu().numpy()
    with np.errstate(all="ignore"):  # overflows and NaNs are compared below
        spread = up_array(product / eta)
        slack = down_array(1 - own)
        rate = up_array(spread / slack)
        gaps = down_array(eta * down_array(1 - rate))
        mu, greatest = float(up_array(own + spread).max()), float(rate.max())
    # A NaN passes on to the extremes, and no comparison with one holds.
    if not (mu < 1 and greatest < 1 and slack.min() > 0 and gaps.min() > 0):
        return None
    return Contraction(hint, mu, greatest, torch.from_numpy(gaps).to(hint), _depth(magnitude))


def _depth(magnitude: Enclosure) -> int:
    """States without an arrow from another one are removed until none is left, or none can be."""
    reached = magnitude.row_sums > 0
    depth, left = 1, int(reached.sum())
    if left == len(reached):
        return 0
    while left:
        reached = magnitude.magnitude.apply(reached.to(magnitude.row_sums)[None])[0] > 0
        before, left = left, int(reached.sum())
        if left == before:
            return 0
        depth += 1
    return depth
