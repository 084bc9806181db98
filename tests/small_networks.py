"""Random small networks with few-bit weights, well-posed in each of the ways that are proved.

Few bits keep exact arithmetic fast; what is drawn is checked exactly, not believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np

import exact
from monotone_networks import monotone_weight
from networks import Array, Network, contracting_weight


def rounded(values: Array, bits: int = 5) -> Array:
    """To multiples of 2^-bits."""
    return np.round(values * 2.0**bits) / 2.0**bits


def _network(
    rng: np.random.Generator,
    name: str,
    W: Array,
    r: int,
    q: int,
    activation: str,
    Lambda: Array | None = None,
    driven: int | None = None,
) -> Network:
    """Random U, b, C, c; only the first `driven` states see x."""
    n = len(W)
    U = rounded(rng.normal(size=(n, r)))
    U[n if driven is None else driven :] = 0
    return Network(
        name,
        W,
        U,
        rounded(rng.normal(size=n) / 2),
        rounded(rng.normal(size=(q, n))),
        rounded(rng.normal(size=q) / 4),
        activation,
        contracting=Lambda is None,
        eta=Lambda,
    )


def contracting(
    seed: int,
    n: int = 5,
    r: int = 2,
    q: int = 3,
    activation: str = "relu",
    gamma: float = 0.5,
    spread: float = 4.0,
) -> Network:
    """mu <= gamma at an eta whose entries span `spread`, up to the rounding of the weights."""
    rng = np.random.default_rng(seed)
    eta = spread ** rng.uniform(0, 1, n)
    W = rounded(contracting_weight(rng.normal(size=(n, n)), eta, gamma), 8)
    assert exact.exact_abscissa_below_one(W)
    return _network(rng, f"contracting {seed} n={n} gamma={gamma:g}", W, r, q, activation)


def monotone(
    seed: int,
    n: int = 5,
    r: int = 2,
    q: int = 3,
    activation: str = "relu",
    m: float = 1.0,
    lben: bool = False,
) -> Network:
    """`sym(Lambda (I - W)) >= m Lambda`, Lambda = 1 or powers of 4, and never inf-contracting."""
    rng = np.random.default_rng(seed)
    Lambda = np.power(4.0, rng.integers(-1, 2, n)) if lben else np.ones(n)
    while True:
        A, B = rounded(rng.normal(size=(n, n)) / 2, 3), rounded(2 * rng.normal(size=(n, n)), 3)
        W = monotone_weight(A, B, m, Lambda)
        if not exact.exact_abscissa_below_one(W):
            break
    assert exact.is_monotone(W, Lambda, Fraction(m))
    name = f"{'lben' if lben else 'monotone'} {seed}"
    return _network(rng, name, W, r, q, activation, Lambda)


def feed_forward(
    seed: int,
    layers: tuple[int, ...] = (3, 3),
    r: int = 2,
    q: int = 3,
    activation: str = "relu",
) -> Network:
    """Strictly block-triangular W; x enters the first layer only."""
    rng = np.random.default_rng(seed)
    n = sum(layers)
    W, before, start = np.zeros((n, n)), 0, 0
    for width in layers:
        W[start : start + width, before:start] = rounded(rng.normal(size=(width, start - before)))
        before, start = start, start + width
    return _network(rng, f"feed-forward {seed}", W, r, q, activation, driven=layers[0])


def box_about(net: Network, seed: int, width: float) -> tuple[Array, Array]:
    """A box of that half-width about a random point, its ends of few bits."""
    rng = np.random.default_rng((seed, net.inputs))
    centre = rounded(rng.uniform(-1, 1, net.inputs))
    return centre - width, centre + width


def every_kind(activation: str, seeds: range, n: int = 5, r: int = 2) -> Iterator[Network]:
    """One network of each kind for each seed."""
    for seed in seeds:
        yield contracting(seed, n, r, activation=activation)
        yield contracting(seed, n, r, activation=activation, gamma=-4.0, spread=50.0)
        yield contracting(seed, n, r, activation=activation, gamma=1 - 2.0**-6)
        yield contracting(seed, 1, 1, activation=activation)
        yield monotone(seed, n, r, activation=activation)
        yield monotone(seed, n, r, activation=activation, lben=True)
        yield feed_forward(seed, (n // 2, n - n // 2), r, activation=activation)


def varied(seed: int, n: int = 5) -> Iterator[Network]:
    """Each kind once, and each activation: what a quick test can afford."""
    yield from every_kind("relu", range(seed, seed + 1), n)
    for made in (contracting(seed, n - 1), monotone(seed, n - 1, lben=True)):
        yield replace(made, activation="leaky_relu(0.125)")
        yield replace(made, activation="hard_tanh")
