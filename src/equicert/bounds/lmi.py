"""The l2 Lipschitz bound of [R20] by a linear matrix inequality, for monotone networks.

With H = sym(Lambda (I - W)), any s > 0 and g > 0 such that

    2 H >= (C^T C / s + s Lambda U U^T Lambda) / g

give `Lip_2 <= g`: d = z*(x) - z*(x0), delta = x - x0 satisfy `d^T H d <= d^T Lambda U delta`, and
`2 d^T Lambda U delta <= s |U^T Lambda d|^2 / g + g |delta|^2 / s`. At the best s it is never worse
than the product of norms of [P21].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equicert.bounds.ball import monotone_proofs
from equicert.definiteness import deficit
from equicert.monotonicity import Monotone, symmetric_part
from equicert.rounding import TINY, UNIT, gamma, up
from equicert.stored import StoredNetwork

_SCALES = 41  # of s tried, a factor of 2^(1/4) apart
_LIFT = 1 + 1e-9
_FAR = 2.0**200  # in the place of an infinite s


@torch.no_grad()
def lmi_bound(network: StoredNetwork) -> float:
    """The least such g that is found and proved, over Lambda = 1 and the hint; perhaps infinite.

    Raises:
        NotMonotoneError: the network is not proved monotone.
    """
    return min(_bound(network, proof) for proof in monotone_proofs(network))


def _bound(network: StoredNetwork, proof: Monotone) -> float:
    Lambda = proof.Lambda
    H, error = symmetric_part(network.W.dense(), Lambda)
    K, lost_K = _gram(network.C.mT)
    J, lost_J = _gram(Lambda[:, None] * network.U.dense())
    s, g = _propose(H, K, J)
    g *= _LIFT
    if not (0 < g < math.inf and 0 < s < math.inf):
        return math.inf
    B = 2 * g * H - K / s - s * J
    size = 2 * g * H.abs() + K.abs() / s + s * J.abs()
    lost = up(up(8 * UNIT * size + 2 * g * error) + up(lost_K / s + s * lost_J))
    k = deficit(B, lost, Lambda)
    # What is missing, k Lambda, is at most k H / m.
    return float(up(g + up(torch.tensor(k, dtype=torch.float64) / (2 * proof.m))))


def _gram(
    F: Tensor,  # (n, k) whose entries are off by at most UNIT, relatively
) -> tuple[Tensor, Tensor]:  # (n, n) each
    """`F F^T`, and a bound on what rounding has moved it."""
    terms, size = F.shape[1], F.abs()
    lost = gamma(terms + 16) * (size @ size.mT) + 4 * terms * TINY * (1 + size.amax())
    return F @ F.mT, up(up(lost))


def _propose(H: Tensor, K: Tensor, J: Tensor) -> tuple[float, float]:
    """A floating-point s and its g: half the largest eigenvalue in the metric of H."""
    factor, failed = torch.linalg.cholesky_ex(H)
    if int(failed) != 0:
        return math.nan, math.nan

    def scaled(A: Tensor) -> Tensor:
        left = torch.linalg.solve_triangular(factor, A, upper=False)
        return torch.linalg.solve_triangular(factor, left.mT, upper=False)

    outer, inner = scaled(K), scaled(J)
    if not bool(outer.isfinite().all() & inner.isfinite().all()):
        return math.nan, math.nan
    sizes = [_largest(A) for A in (outer, inner)]
    if not max(sizes) < math.inf:
        return math.nan, math.nan
    if min(sizes) <= 0:  # y or z does not depend on the other: g falls with the part that counts
        s = _FAR if sizes[1] <= 0 else 1 / _FAR
        return s, 0.5 * max(sizes[0] / s, s * sizes[1], 2.0**-400)
    best = math.sqrt(sizes[0] / sizes[1])
    tried = [best * 2 ** ((k - _SCALES // 2) / 4) for k in range(_SCALES)]
    g, s = min((0.5 * _largest(outer / s + s * inner), s) for s in tried)
    return s, g


def _largest(A: Tensor) -> float:
    """The largest eigenvalue; infinite where the matrix or its computation overflows."""
    try:
        return float(torch.linalg.eigvalsh(0.5 * (A + A.mT))[-1])
    except RuntimeError:  # LinAlgError: an infinite entry, or no convergence
        return math.inf
