"""What is known of a network from its weights alone: conditions of well-posedness and bounds."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

import torch

from equicert.bounds.lmi import lmi_bound
from equicert.bounds.spectral import spectral_bound
from equicert.contraction import prove_contraction
from equicert.errors import (
    NotContractingError,
    NotConvergedError,
    NotMonotoneError,
    RowSumError,
)
from equicert.lipschitz import Derived, RowSum, Weighted
from equicert.norms import (
    majorant_abscissa,
    matrix_measure,
    optimal_eta,
    spectral_measure,
    spectral_radius_of_absolute,
)
from equicert.rounding import up
from equicert.stored import StoredNetwork


@dataclass(frozen=True)
class Condition:
    """A sufficient condition for a unique fixed point: `value < 1`.

    Only a proved condition is a theorem about the stored weights; the others are floating-point
    values and say "holds" with that caveat.
    """

    name: str
    value: float
    proved: bool

    @property
    def holds(self) -> bool:
        """Whether the value is below 1."""
        return self.value < 1


@dataclass(frozen=True)
class Inspection:
    """The facts that `equicert inspect` prints.

    Attributes:
        shapes: (n, r, q).
        conditions: of Thm 5.1 at the stored and at the best eta, of [EG21] and of [WK20].
        eta_ratio: eta_max / eta_min of the eta that the proof uses, None without a proof.
        lipschitz: upper bounds on the sup-norm Lipschitz constant, by name; empty without a proof.
        modulus: m of the proof that the network is monotone, None without one.
        Lambda_ratio: Lambda_max / Lambda_min of that proof; 1 is [WK20]'s condition.
        lipschitz_l2: upper bounds on the l2 Lipschitz constant, by name; empty without that proof.
    """

    shapes: tuple[int, int, int]
    activation: str
    digest: str
    conditions: tuple[Condition, ...]
    eta_ratio: float | None
    lipschitz: dict[str, float]
    modulus: float | None = None
    Lambda_ratio: float | None = None
    lipschitz_l2: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def inspect_network(network: StoredNetwork) -> Inspection:
    """Compute every condition and every bound that applies; never raises on a bad network."""
    W = network.W.dense()
    conditions = []
    if network.eta is not None and bool((network.eta > 0).all() & network.eta.isfinite().all()):
        conditions.append(_at(network, network.eta, "stored"))
    conditions += [
        _at_best_eta(network),
        Condition("spectral abscissa of the majorant", majorant_abscissa(W), False),
        Condition("lambda_pf(|W|)", spectral_radius_of_absolute(W), False),
        Condition("||W||_inf", float(network.W.absolute_row_sums().amax()), False),
        _spectral(network),
    ]
    ratio, bounds = _lipschitz(network)
    return Inspection(
        (network.states, network.inputs, network.outputs),
        network.activation.spec,
        network.digest,
        tuple(conditions),
        ratio,
        bounds,
        *_monotone(network),
    )


def _spectral(network: StoredNetwork) -> Condition:
    """mu_2(W): bounded by the proof where that is one with Lambda = 1, else floating point."""
    with suppress(NotMonotoneError):
        if network.monotone.plain:
            value = network.b.new_tensor(network.monotone.m)
            return Condition("mu_2(W)", float(up(1 - value)), True)
    return Condition("mu_2(W)", float(spectral_measure(network.W.dense())), False)


def _monotone(network: StoredNetwork) -> tuple[float | None, float | None, dict[str, float]]:
    try:
        proof = network.monotone
    except NotMonotoneError:
        return None, None, {}
    ratio = float(proof.Lambda.amax() / proof.Lambda.amin())
    name = "||C Lambda^(-1/2)||_2 ||Lambda^(1/2) U||_2 / m ([P21])"
    bounds = {"linear matrix inequality ([R20])": lmi_bound(network), name: spectral_bound(network)}
    return proof.m, ratio, bounds


def _at_best_eta(network: StoredNetwork) -> Condition:
    try:
        return _at(network, optimal_eta(network.W.dense()), "best")
    except NotContractingError:
        abscissa = majorant_abscissa(network.W.dense())
        return Condition("mu_{inf,[eta]^-1}(W) at the best eta", abscissa, False)


def _at(network: StoredNetwork, eta: torch.Tensor, which: str) -> Condition:
    """mu at this eta: the proved bound, or the floating-point value where it proves nothing."""
    value, proved = float(matrix_measure(network.W.dense(), eta)), False
    with suppress(NotContractingError):
        found = prove_contraction(network.W, eta)
        if torch.equal(found.eta, eta):  # and not another one that served instead
            value, proved = found.mu, True
    return Condition(f"mu_{{inf,[eta]^-1}}(W) at the {which} eta", value, proved)


def _lipschitz(network: StoredNetwork) -> tuple[float | None, dict[str, float]]:
    try:
        eta = network.contraction.eta
        bounds = {
            "|| |C| (I - M)^-1 |U| ||_inf (derived here)": Derived().constant(network),
            "(eta_max/eta_min) ||U|| ||C|| / (1 - mu^+) (Thm 6.1)": Weighted().constant(network),
        }
        with suppress(RowSumError):
            bounds["||U|| ||C|| / (1 - ||W||_inf) ([EG21])"] = RowSum().constant(network)
    except (NotContractingError, NotConvergedError):
        return None, {}
    return float(eta.amax() / eta.amin()), bounds
