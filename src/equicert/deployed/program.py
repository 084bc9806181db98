"""The float32 program that is made of a stored network, and the proof that it stops by."""

from __future__ import annotations

import math

from equicert.contraction import Contraction
from equicert.errors import ConfigError, ModelError, NotContractingError
from equicert.network import ImplicitNetwork
from equicert.operators import Dense
from equicert.rounding import gamma
from equicert.solvers import Picard
from equicert.stored import StoredNetwork

LARGEST = 2.0**120  # what stays below it does not overflow float32 in any order of summation
GAPS = 2.0**-19  # relative: how far `scale` in float32 may differ from the one computed here
TOO_CLOSE = (
    "float32 does not resolve how far mu(W) is below 1, or how eta spreads, so that no bound on the"
    " program as it runs is known; train with a lower gamma, or do not ask for it"
)


def deploy(
    network: StoredNetwork,
    tolerance: float = 1e-4,
    *,
    max_steps: int = 10_000,
) -> ImplicitNetwork:
    """The float32 program that `Deployed` speaks of: `module(x)` for x in float32, on the CPU.

    Its weights are the stored ones rounded to float32, its solver is Picard().

    Example:
        >>> module = deploy(load_model("runs/mnist/model.safetensors"), tolerance=1e-4)
        >>> labels = module(x.float()).argmax(-1)  # raises where a solve misses the tolerance

    Raises:
        ConfigError: tolerance not positive and finite.
        ModelError: the activation is not piecewise linear, a weight is too large for float32, or
            the network has convolutions.
        NotContractingError: the network is not proved contracting.
    """
    if not 0 < tolerance < math.inf:
        raise ConfigError(f"the tolerance must be positive and finite, got {tolerance!r}")
    if network.activation.slopes is None:
        raise ModelError(
            f"no bound is known on what float32 makes of '{network.activation.spec}': only networks"
            " of relu, leaky_relu, hard_tanh or identity can be certified as deployed"
        )
    for name, operator in (("W", network.W), ("U", network.U)):
        if not isinstance(operator, Dense):
            raise ModelError(
                f"{name} is a {operator.structure.split()[0]}: which algorithm float32 takes for it"
                " is the library's choice, and no bound on its rounding is known; only networks of"
                " matrices can be certified as deployed"
            )
    _ = network.contraction  # a monotone network that does not contract is solved otherwise
    module = ImplicitNetwork.from_stored(
        network, solver=Picard(), tolerance=tolerance, max_steps=max_steps
    )
    module = module.float().requires_grad_(False)
    if not all(bool(weight.isfinite().all()) for weight in module.parameters()):
        raise ModelError("the network cannot be deployed in float32: a weight is beyond 3.4e38")
    return module


def reproducible_proof(module: ImplicitNetwork) -> Contraction:
    """The proof that the program makes of its own weights at every pass, if any machine finds it.

    It must be that of the eta in the module, with gaps so large that the order in which a machine
    sums moves them by much less than `GAPS`: they are computed to `8 gamma_{n+8} eta`.

    Raises:
        ModelError: it is not.
    """
    hint = module.weight.eta()
    try:
        proof = module.materialise().proof
    except NotContractingError as error:
        raise ModelError(TOO_CLOSE) from error
    if (
        hint is None
        or not isinstance(proof, Contraction)
        or not bool((proof.eta == hint).all())
        or not bool((proof.gaps >= 2.0**24 * gamma(len(hint) + 8) * proof.eta).all())
        or not bool((proof.scale < LARGEST).all())
    ):
        raise ModelError(TOO_CLOSE)
    return proof
