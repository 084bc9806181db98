"""Awkward monotone networks, and random ones: `sym(Lambda (I - W)) >= m Lambda` by construction."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import strategies as st

from equicert.stored import StoredNetwork
from networks import ACTIVATIONS, Array, Network, arrays


def monotone_weight(A: Array, B: Array, m: float, Lambda: Array) -> Array:
    """`W = (1 - m) I - Lambda^-1 (A^T A + B - B^T)`: [WK20] for Lambda = 1, [R20] for others."""
    return (1 - m) * np.eye(len(A)) - (A.T @ A + B - B.T) / Lambda[:, None]


def _network(name: str, W: list[list[float]] | Array, Lambda: list[float] | None = None) -> Network:
    weight = np.array(W, dtype=np.float64)
    n = len(weight)
    sign = np.where(np.arange(n) % 2, -1.0, 1.0)
    return Network(
        name,
        weight,
        np.stack([np.linspace(1.0, 0.5, n), sign], 1),
        0.25 * sign,
        np.stack([sign, np.linspace(0.5, 1.0, n), np.linspace(-1.0, 0.3, n)]),
        np.array([0.1, 0.0, -0.1]),
        contracting=False,
        eta=None if Lambda is None else np.array(Lambda, dtype=np.float64),
    )


_A = np.array([[0.5, -1.0, 2.0], [0.0, 1.5, -0.5], [1.0, 0.25, 0.75]])
_B = np.array([[0.0, 3.0, -2.0], [1.0, 0.0, 4.0], [-1.0, 2.0, 0.0]])
_WIDE, _SKEWED = np.array([1.0, 10.0, 100.0]), np.array([1.0, 1e3, 1e6])

# The eta of a case is its Lambda here.
MONOTONE = {
    case.name: case
    for case in (
        _network("rotation", [[0.0, -3.0], [3.0, 0.0]]),
        _network("one state", [[0.5]]),
        _network("trap of fact 4", [[-19.0]]),
        _network("saw of fact 4", [[-19.0, 19.0], [19.0, -19.0]]),
        _network("zero W", np.zeros((3, 3))),
        _network("near-singular m", [[0.99, -0.5], [0.5, 0.99]]),
        _network("strong rotation", [[0.0, -20.0], [20.0, 0.0]]),
        _network("monotone", monotone_weight(_A, _B, 1.0, np.ones(3))),
        _network(
            "lben", monotone_weight(_A / 2, _B / 4, 1.0, np.array([2.0, 4.0, 1.0])), [2, 4, 1]
        ),
        _network("wide Lambda", monotone_weight(_A, _B, 0.5, _WIDE), [1.0, 10.0, 100.0]),
        _network("mu_2 above 1", [[0.0, 4.0], [-0.01, 0.0]], [1.0, 400.0]),
    )
}

# Well-posed by a proof, but no splitting method converges in a sensible number of steps.
STIFF = {
    case.name: case
    for case in (
        _network("m of 1e-7", [[1 - 1e-7, -2.0], [2.0, 1 - 1e-7]]),
        _network("rotation by 1e6", [[0.0, -1e6], [1e6, 0.0]]),
        _network("skewed Lambda", monotone_weight(_A, _B, 0.5, _SKEWED), [1.0, 1e3, 1e6]),
    )
}

NOT_MONOTONE = {
    case.name: case
    for case in (
        _network("diagonal of 1", [[1.0]]),
        _network("strong pair", [[0.0, 2.0], [2.0, 0.0]]),
        _network("mu_2 exactly 1", [[0.5, 0.5], [0.5, 0.5]]),
        _network("huge and wrong", [[-1e30, 2e30], [2e30, -1e30]]),
        _network("contracting at its eta only", [[0.0, 4.0], [0.1, 0.0]]),
    )
}


def stored(net: Network, activation: str | None = None, hint: bool = True) -> StoredNetwork:
    """The network with its Lambda as a hint."""
    return StoredNetwork.from_arrays(
        *net.arrays,
        activation=activation or net.activation,
        Lambda=net.eta if hint else None,
    )


@st.composite
def monotone_networks(
    draw: st.DrawFn,
    max_states: int = 3,
    activations: tuple[str, ...] = ACTIVATIONS,
    moduli: tuple[float, ...] = (1.0, 0.3, 20.0),
) -> Network:
    """Free A and B, m from 0.3 to 20, Lambda 1 or within 10^+-1; never promised contracting."""
    n, r, q = draw(st.integers(1, max_states)), draw(st.integers(1, 2)), draw(st.integers(2, 3))
    spread = draw(st.sampled_from([0.0, 1.0]))
    Lambda = 10.0 ** (spread * draw(arrays((n,), 1.0)))
    A, B = draw(arrays((n, n), 2.0)), draw(arrays((n, n), 1.0))
    return Network(
        "drawn",
        monotone_weight(A, B, draw(st.sampled_from(moduli)), Lambda),
        draw(arrays((n, r), 2.0)),
        draw(arrays((n,), 2.0)),
        draw(arrays((q, n), 2.0)),
        draw(arrays((q,), 2.0)),
        draw(st.sampled_from(activations)),
        contracting=False,
        eta=Lambda,
    )


def with_activation(net: Network, activation: str) -> Network:
    return dataclasses.replace(net, activation=activation)
