"""The five conditions under which `z = phi(W z + u)` has one solution: which hold, which fail.

Each says that a number is below 1: an infimum over positive weights, or a norm. An upper bound on
the number below 1 proves it; a lower bound of at least 1, by a witness, refutes it (derived here,
after Collatz and Wielandt): for every v >= 0 but 0, A entrywise >= 0 off its diagonal,

    inf_eta max_i (A eta)_i / eta_i  >=  min_{v_i > 0} (A v)_i / v_i,

which is [J22]'s number for A = M, the Metzler majorant of W, and `lambda_pf(|W|)` for A = |W|;

    mu_2(W) >= v^T W v / v^T v;

    inf_Lambda mu_2(Lambda^(1/2) W Lambda^(-1/2))
        >=  min_{v_i != 0} Re( conj(v_i) (W v)_i ) / |v_i|^2

for every complex v but 0, since with that minimum c, `Re v^* Lambda (W - c I) v >= 0` for every
diagonal Lambda > 0.

The numbers have an order, by which what is proved of one may decide another:

    ||W||_inf >= lambda_pf(|W|) >= inf_eta mu_{inf,[eta]^-1}(W) >= inf_Lambda (...) <= mu_2(W).

The third step is derived here, see `proposed_weights`. Of a W with structure and too many states to
factorise, witnesses come from iterations by products, and what those do not show is undecided.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor

from equicert.contraction import prove_contraction, prove_rows
from equicert.enclosures import Enclosure
from equicert.errors import NotContractingError, NotMonotoneError, TooLargeError
from equicert.norms import best_eta, majorant_abscissa, optimal_eta
from equicert.operators import Dense, Operator, fits_in_full
from equicert.rounding import down, up
from equicert.stored import StoredNetwork

Verdict: TypeAlias = Literal["holds", "fails", "undecided"]

_MU, _ROWS, _RADIUS, _MU_2, _LBEN = range(5)
# (larger number, smaller number), in the order in which an upper bound is handed down.
_ORDER = ((_ROWS, _RADIUS), (_RADIUS, _MU), (_MU, _LBEN), (_MU_2, _LBEN))
_POWERS = 300  # steps of a power iteration
_NOISE = 1e-4  # entries of a witness that are smaller, relatively, may be better left out


@dataclass(frozen=True)
class Condition:
    """`value < 1`, a sufficient condition for a unique fixed point.

    Attributes:
        name: of the number.
        source: whose condition it is.
        value: a proved upper bound on the number where the condition holds, a proved lower bound
            where it fails, floating point where it is undecided; NaN where it was not computed.
        verdict: a theorem about the stored weights, unless it is "undecided".
    """

    name: str
    source: str
    value: float
    verdict: Verdict


@torch.no_grad()
def five_conditions(
    network: StoredNetwork,  # its hint Lambda is tried for the last one
) -> tuple[Condition, ...]:
    """Those of [J22], [EG21] (two), [WK20] and [R20], in this order; never raises."""
    W, own = network.W, network.diagonal
    if fits_in_full(W):
        W = Dense(W.dense())  # formed once
    name = "mu_{inf,[eta]^-1}(W) at the best eta"
    found = [
        _perron(name, "[J22], Thm 5.1", W.off_diagonal(), own, network.eta),
        _row_sums(W) if fits_in_full(W) else _row_sums_within(W),
        _perron("lambda_pf(|W|)", "[EG21]", W, torch.zeros_like(own), network.eta),
        _spectral(network, W),
        _weighted(network, W),
    ]
    for larger, smaller in _ORDER:
        found[smaller] = _decided_by(found[larger], found[smaller], "holds")
    for larger, smaller in reversed(_ORDER):
        found[larger] = _decided_by(found[smaller], found[larger], "fails")
    return tuple(found)


def _decided_by(other: Condition, condition: Condition, verdict: Verdict) -> Condition:
    """The condition with the other's verdict and number, where it has none of its own."""
    if condition.verdict != "undecided" or other.verdict != verdict:
        return condition
    return dataclasses.replace(condition, value=other.value, verdict=verdict)


@torch.no_grad()
def stored_condition(network: StoredNetwork) -> Condition | None:
    """[J22]'s at the stored eta itself, whatever serves instead; None where none is usable."""
    eta = network.eta
    if eta is None or not bool(((eta > 0) & eta.isfinite()).all()):
        return None
    name, source = "mu_{inf,[eta]^-1}(W) at the stored eta", "[J22], Thm 5.1"
    with suppress(NotContractingError):
        found = prove_contraction(network.W, eta)
        if torch.equal(found.eta, eta):  # and not another one that served instead
            return Condition(name, source, found.mu, "holds")
    least = float(_quotients(network.W.off_diagonal(), network.diagonal, eta).amax())
    if least >= 1:
        return Condition(name, source, least, "fails")
    return Condition(name, source, float(network.W.measure(eta)), "undecided")


def with_weights(network: StoredNetwork) -> StoredNetwork:
    """The network, with another hint Lambda where that proves it monotone and its own does not.

    The hint is no part of what is certified: every bound on the one holds of the other.
    """
    if not fits_in_full(network.W):
        return network
    with suppress(NotMonotoneError):
        _ = network.monotone
        return network
    moduli = {}
    for Lambda in proposed_weights(network.W.dense()):
        assisted = dataclasses.replace(network, Lambda=Lambda)
        with suppress(NotMonotoneError):
            moduli[assisted.monotone.m] = assisted
    return moduli[max(moduli)] if moduli else network


def proposed_weights(
    W: Tensor,  # (n, n) float64
) -> Iterator[Tensor]:  # (n,) each
    """`Lambda_i = xi_i / eta_i` for `M eta < a eta`, `M^T xi < a xi`, a >= abscissa(M).

    Then `S = sym(Lambda (a I - M))` is positive definite, for it has no positive entry off its
    diagonal and `S eta > 0`, and so is `sym(Lambda (a I - W))`, as `x^T Lambda W x` is at most
    `|x|^T Lambda M |x|`: a contracting network is monotone (derived here). Other networks may be
    monotone at such a Lambda; the test decides.
    """
    for vector in (best_eta, optimal_eta):
        with suppress(NotContractingError):
            yield vector(W.mT) / vector(W)


def _perron(
    name: str,
    source: str,
    rest: Operator,  # (n, n) W_off, or W where its diagonal counts by its absolute value, too
    own: Tensor,  # (n,) the diagonal of W, or zeros
    hint: Tensor | None,  # (n,) tried where W is too large to factorise
) -> Condition:
    """`inf_eta max_i (own_i + (|rest| eta)_i / eta_i)`."""
    large = not fits_in_full(rest)
    eta = _iterated(rest, own) if large else _solved(rest, own)
    proved: list[float] = []
    for v in (None, hint) if large else (eta,):
        with suppress(NotContractingError):
            proved.append(prove_rows(rest, own, v).mu)
    if proved:
        return Condition(name, source, min(proved), "holds")
    least = float((rest.diagonal().abs() + own).amax())
    for v in [] if eta is None else [eta, torch.where(eta < _NOISE * eta.amax(), 0.0, eta)]:
        least = max(least, float(_quotients(rest, own, v)[v > 0].amin()))
    if least >= 1:
        return Condition(name, source, least, "fails")
    return Condition(name, source, _infimum(rest, own, eta), "undecided")


def _matrix(rest: Operator, own: Tensor) -> Tensor:  # (n, n)
    return rest.absolute().dense() + torch.diag(own)


def _infimum(rest: Operator, own: Tensor, v: Tensor | None) -> float:
    """That number, floating point: at v, which is near it, where W is too large to factorise."""
    if v is None or fits_in_full(rest):
        return majorant_abscissa(_matrix(rest, own))
    image = rest.absolute().apply(v[None])[0] + own * v
    return float((image / v)[v > _NOISE].amax())


def _solved(rest: Operator, own: Tensor) -> Tensor | None:  # (n,)
    """An eta at which that number is nearly the infimum."""
    with suppress(NotContractingError):
        return optimal_eta(_matrix(rest, own))
    return None


def _iterated(rest: Operator, own: Tensor) -> Tensor:  # (n,)
    """The power iteration of `|rest| + diag(own)`, shifted so that no entry is negative.

    Where W is block-triangular, states that nothing drives any more fall to 0 and drop out.
    """
    A, shift = rest.absolute(), max(0.0, -float(own.amin()))
    v = torch.ones_like(own)
    for _ in range(_POWERS):
        image = A.apply(v[None])[0] + (own + shift) * v
        size = float(image.amax())
        if not 0 < size < math.inf:
            break
        v = image / size
    return v


def _quotients(
    rest: Operator,  # (n, n)
    own: Tensor,  # (n,)
    v: Tensor,  # (n,) >= 0
) -> Tensor:  # (n,)
    """`own_i + (|rest| v)_i / v_i`, rounded down; of no use where v_i = 0."""
    x = v[None]
    low, _ = Enclosure.of(rest.absolute()).image(x, x)
    return down(own + down(low[0] / v))


def _row_sums(W: Operator) -> Condition:
    """`||W||_inf`, decided exactly: `fsum` rounds the exact sum once, which keeps its sign."""
    sizes, name = W.dense().abs(), "||W||_inf"
    largest, rows = float(sizes.amax()), sizes.tolist()
    if largest >= 1:  # what is finite may overflow in a sum
        return Condition(name, "[EG21]", max(largest, float(down(sizes.sum(1)).amax())), "fails")
    value = max(math.fsum(row) for row in rows)
    over = max(math.fsum([*row, -value]) for row in rows)
    if max(math.fsum([*row, -1.0]) for row in rows) < 0:
        return Condition(name, "[EG21]", value if over <= 0 else math.nextafter(value, 2), "holds")
    return Condition(name, "[EG21]", value if over >= 0 else math.nextafter(value, 0), "fails")


def _row_sums_within(W: Operator) -> Condition:
    """`||W||_inf` by bounds on the sums, which take no matrix."""
    ones = torch.ones(1, W.shape[1], dtype=torch.float64, device=W.device)
    low, high = (float(end.amax()) for end in Enclosure.of(W.absolute()).image(ones, ones))
    verdict = "holds" if high < 1 else "fails" if low >= 1 else "undecided"
    return Condition("||W||_inf", "[EG21]", high if high < 1 else low, verdict)


def _spectral(network: StoredNetwork, W: Operator) -> Condition:
    """`mu_2(W)`: by the proof, where that is one with Lambda = 1, which is always tried."""
    name, source = "mu_2(W)", "[WK20]"
    with suppress(NotMonotoneError, TooLargeError):
        if network.monotone.plain:
            return Condition(name, source, _below_one(network), "holds")
    if fits_in_full(W):
        values, vectors = torch.linalg.eigh((W.dense() + W.dense().mT) / 2)
        largest, v = float(values[-1]), vectors[:, -1]
    else:
        largest, v = _rightmost(W)
    image = _products(W, v)
    least = float(network.diagonal.amax())
    with suppress(ValueError, OverflowError):  # what is infinite or not a number
        size = math.fsum(up(v * v).tolist())
        least = max(least, math.fsum(image.tolist()) / size * (1 - 1e-15))
    if least >= 1:
        return Condition(name, source, least, "fails")
    return Condition(name, source, largest, "undecided")


def _rightmost(W: Operator) -> tuple[float, Tensor]:  # (n,)
    """The largest eigenvalue of `(W + W^T) / 2`, and its eigenvector, by Lanczos' method."""
    back = W.transpose()

    def product(v: NDArray[np.float64]) -> NDArray[np.float64]:
        x = torch.from_numpy(v.reshape(1, -1)).to(W.device)
        return ((W.apply(x) + back.apply(x)) / 2)[0].cpu().numpy()

    start = np.random.default_rng(0).normal(size=W.shape[0])  # not of the kernel, as 1 may be
    symmetric: Any = LinearOperator(W.shape, product, dtype=start.dtype)  # pyright: ignore[reportCallIssue] - untyped
    try:
        values, vectors = eigsh(symmetric, k=1, which="LA", v0=start)
    except ArpackError:  # no convergence, or W + W^T = 0
        return math.nan, torch.from_numpy(start).to(W.device)
    return float(values[0]), torch.from_numpy(vectors[:, 0].copy()).to(W.device)


def _weighted(network: StoredNetwork, W: Operator) -> Condition:
    """`inf_Lambda mu_2(Lambda^(1/2) W Lambda^(-1/2))`, the infimum over those that are tried."""
    name = "mu_2(Lambda^(1/2) W Lambda^(-1/2)) at the best Lambda"
    try:
        _ = network.monotone
    except TooLargeError:
        least = float(network.diagonal.amax())
        verdict = "fails" if least >= 1 else "undecided"
        return Condition(name, "[R20]", least if least >= 1 else math.nan, verdict)
    except NotMonotoneError as error:
        least = _diagonal_witness(W)
        verdict = "fails" if least >= 1 else "undecided"
        return Condition(name, "[R20]", least if least >= 1 else error.mu, verdict)
    return Condition(name, "[R20]", _below_one(network), "holds")


def _below_one(network: StoredNetwork) -> float:
    """`1 - m`, rounded upwards."""
    return float(up(1 - network.b.new_tensor(network.monotone.m)))


def _diagonal_witness(W: Operator) -> float:
    """The last lower bound of the module at the eigenvector whose eigenvalue is furthest right."""
    least = float(W.diagonal().amax())
    try:
        values, vectors = torch.linalg.eig(W.dense())
    except RuntimeError:  # LinAlgError: no convergence on some badly scaled matrices
        return least
    v = vectors[:, int(values.real.argmax())]
    for kept in (v, torch.where(v.abs() < _NOISE * v.abs().amax(), 0, v)):
        a, b = kept.real.contiguous(), kept.imag.contiguous()
        product = down(_products(W, a) + _products(W, b))
        size = up(up(a * a) + up(b * b))
        quotients = torch.where(product < 0, -torch.inf, down(product / size))
        found = float(quotients[kept != 0].amin())
        least = max(least, found)  # a NaN is no maximum
    return least


def _products(
    W: Operator,  # (n, n)
    v: Tensor,  # (n,)
) -> Tensor:  # (n,)
    """`v_i (W v)_i`, rounded down."""
    x = v[None]
    low, high = Enclosure.of(W).image(x, x)
    return down(torch.minimum(v * low[0], v * high[0]))
