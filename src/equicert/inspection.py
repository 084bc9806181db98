"""What is known of a network from its weights alone: conditions of well-posedness and bounds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from equicert.bounds.lmi import lmi_bound
from equicert.bounds.spectral import spectral_bound
from equicert.conditions import Condition, five_conditions, stored_condition, with_weights
from equicert.errors import (
    NotContractingError,
    NotConvergedError,
    NotMonotoneError,
    RowSumError,
    TooLargeError,
)
from equicert.lipschitz import Derived, RowSum, Weighted
from equicert.lipschitz_below import Sampled, sample_lipschitz
from equicert.norms import majorant_abscissa
from equicert.operators import fits_in_full
from equicert.stored import StoredNetwork

_SUP = {
    "|| |C| (I - M)^-1 |U| ||_inf (derived here)": Derived(),
    "(eta_max/eta_min) ||U|| ||C|| / (1 - mu^+) (Thm 6.1)": Weighted(),
    "||U|| ||C|| / (1 - ||W||_inf) ([EG21])": RowSum(),
}
_L2 = {
    "linear matrix inequality ([R20])": lmi_bound,
    "||C Lambda^(-1/2)||_2 ||Lambda^(1/2) U||_2 / m ([P21])": spectral_bound,
}
# Why there is no bound.
_WITHOUT = (NotContractingError, NotConvergedError, NotMonotoneError, RowSumError, TooLargeError)


@dataclass(frozen=True)
class Inspection:
    """The facts that `equicert inspect` prints.

    Attributes:
        shapes: (n, r, q).
        conditions: of [J22], [EG21] (two), [WK20] and [R20], in this order.
        stored_eta: that of [J22] at the stored eta, None where none is stored.
        abscissa: of the Metzler majorant, what the first condition's number is in exact arithmetic
            (floating point); None where W is too large to factorise.
        eta_ratio: eta_max / eta_min of the eta that the proof uses, None without a proof.
        modulus: m of the proof that the network is monotone, None without one.
        Lambda_ratio: Lambda_max / Lambda_min of that proof; 1 is [WK20]'s condition.
        lipschitz: proved upper bounds on the sup-norm Lipschitz constant, by name; those that the
            proofs allow.
        lipschitz_l2: likewise, on the l2 Lipschitz constant.
        sampled: lower bounds on both, from a search, floating point.
    """

    shapes: tuple[int, int, int]
    activation: str
    digest: str
    conditions: tuple[Condition, ...]
    stored_eta: Condition | None
    abscissa: float | None
    eta_ratio: float | None
    modulus: float | None
    Lambda_ratio: float | None
    lipschitz: dict[str, float]
    lipschitz_l2: dict[str, float]
    sampled: Sampled

    def to_mapping(self) -> dict[str, Any]:
        """The same as JSON holds it: None for a number that is not finite."""
        return _finite(dataclasses.asdict(self))


@torch.no_grad()
def inspect_network(network: StoredNetwork) -> Inspection:
    """Compute every condition and every bound that applies; never raises on a bad network.

    Of a W with structure and more states than are factorised, what takes no matrix.
    """
    network = with_weights(network)
    eta_ratio = modulus = Lambda_ratio = None
    with suppress(NotContractingError):
        eta_ratio = _spread(network.contraction.eta)
    with suppress(NotMonotoneError, TooLargeError):
        modulus, Lambda_ratio = network.monotone.m, _spread(network.monotone.Lambda)
    return Inspection(
        (network.states, network.inputs, network.outputs),
        network.activation.spec,
        network.digest,
        five_conditions(network),
        stored_condition(network),
        majorant_abscissa(network.W.dense()) if fits_in_full(network.W) else None,
        eta_ratio,
        modulus,
        Lambda_ratio,
        _defined({name: bound.constant for name, bound in _SUP.items()}, network),
        _defined(_L2, network),
        sample_lipschitz(network),
    )


def _spread(weights: torch.Tensor) -> float:
    return float(weights.amax() / weights.amin())


def _defined(
    bounds: dict[str, Callable[[StoredNetwork], float]], network: StoredNetwork
) -> dict[str, float]:
    """The bounds whose conditions are proved."""
    found = {}
    for name, bound in bounds.items():
        with suppress(*_WITHOUT):
            found[name] = bound(network)
    return found


def _finite(item: Any) -> Any:
    """The same with None for what JSON does not hold."""
    if isinstance(item, float) and not math.isfinite(item):
        return None
    if isinstance(item, dict):
        return {key: _finite(value) for key, value in item.items()}
    return [_finite(value) for value in item] if isinstance(item, list | tuple) else item
