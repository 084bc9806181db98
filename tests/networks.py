"""The awkward networks that every test shares, and random ones.

`CONTRACTING` (mu < 1 at some eta, by a margin that float64 resolves), `NOT_CONTRACTING` (no eta
serves) and `HAIRLINE` (one unit in the last place on either side of 1: the exact answer is known,
and a rigorous program may refuse, but must never prove the wrong side) map names to networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

ACTIVATIONS = (
    "relu",
    "leaky_relu(0.1)",
    "tanh",
    "sigmoid",
    "softplus",
    "hard_tanh",
    "elu(0.5)",
    "identity",
)
PIECEWISE_LINEAR = ("relu", "leaky_relu(0.1)", "hard_tanh", "identity")


@dataclass(frozen=True, eq=False)
class Network:
    """z = phi(W z + U x + b), y = C z + c; `contracting` is the exact truth at the best eta."""

    name: str
    W: Array  # (n, n)
    U: Array  # (n, r)
    b: Array  # (n,)
    C: Array  # (q, n)
    c: Array  # (q,)
    activation: str = "relu"
    contracting: bool = True
    eta: Array | None = None  # (n,) the eta it was built with, if any

    @property
    def arrays(self) -> tuple[Array, Array, Array, Array, Array]:
        return self.W, self.U, self.b, self.C, self.c

    @property
    def states(self) -> int:
        return len(self.W)

    @property
    def inputs(self) -> int:
        return self.U.shape[1]

    @property
    def outputs(self) -> int:
        return len(self.C)

    @property
    def piecewise_linear(self) -> bool:
        return self.activation in PIECEWISE_LINEAR

    def __repr__(self) -> str:
        return f"Network({self.name}, n={self.states}, {self.activation})"


def contracting_weight(T: Array, eta: Array, gamma: float) -> Array:
    """W = [eta] T [eta]^-1 - diag(|T| 1) + gamma I: (12) of [J22] with its eta corrected."""
    # Ordered so that eta ratios of 1e12 neither overflow nor lose the entry.
    W = T * (eta[:, None] / eta[None, :])
    W[np.diag_indices(len(T))] = np.diagonal(T) - np.abs(T).sum(1) + gamma
    return W


def random_network(
    rng: np.random.Generator,
    n: int,
    r: int,
    q: int,
    gamma: float = 0.0,
    eta_spread: float = 10.0,
    activation: str = "relu",
) -> Network:
    """A contracting network with mu <= gamma at its eta, whose entries span up to eta_spread."""
    eta = eta_spread ** rng.uniform(0, 1, n)
    W = contracting_weight(rng.normal(size=(n, n)) / np.sqrt(n), eta, gamma)
    return Network(
        f"random n={n} gamma={gamma:g} spread={eta_spread:g}",
        W,
        rng.normal(size=(n, r)) / np.sqrt(r),
        rng.normal(size=n) / 2,
        rng.normal(size=(q, n)) / np.sqrt(n),
        rng.normal(size=q) / 2,
        activation,
        eta=eta,
    )


def _network(
    name: str,
    W: ArrayLike,
    U: ArrayLike | None = None,
    b: ArrayLike | None = None,
    C: ArrayLike | None = None,
    activation: str = "relu",
    contracting: bool = True,
    eta: ArrayLike | None = None,
) -> Network:
    """Fill in what a case leaves open: one input that reaches every state, two outputs."""
    weight = np.array(W, dtype=np.float64)
    n = len(weight)
    sign = np.where(np.arange(n) % 2, -1.0, 1.0)
    readout = np.stack([sign, np.linspace(0.5, 1.0, n)]) if C is None else np.array(C, float)
    return Network(
        name,
        weight,
        np.linspace(1.0, 0.5, n)[:, None] if U is None else np.array(U, dtype=np.float64),
        0.25 * sign if b is None else np.array(b, dtype=np.float64),
        readout,
        np.linspace(0.1, -0.1, len(readout)),
        activation,
        contracting,
        None if eta is None else np.array(eta, dtype=np.float64),
    )


def _skewed() -> Network:
    """eta ratio 1e12: mu at eta = 1 is about 1e11, at the right eta it is below 0.5."""
    eta = np.array([1e-6, 1.0, 1e6])
    T = np.array([[-0.2, 0.3, 0.1], [0.25, 0.1, -0.3], [-0.1, 0.2, 0.3]])
    return _network("skewed eta", contracting_weight(T, eta, 0.5), eta=eta)


def _feed_forward(activation: str) -> Network:
    """Two inputs, layers of 2, 2 and 1 states: strictly block-triangular W."""
    W = np.zeros((5, 5))
    W[2:4, 0:2] = [[1.5, -2.0], [-0.5, 3.0]]
    W[4:5, 2:4] = [[-4.0, 2.5]]
    U = np.zeros((5, 2))
    U[:2] = [[1.0, -1.0], [2.0, 0.5]]
    return _network(f"feed-forward {activation}", W, U, activation=activation)


_SMALLEST = 5e-324
_EPS = 2.0**-52

_CONTRACTING = (
    _network("one state", [[0.5]]),
    _network("one state, one output", [[-0.75]], C=[[2.0]]),
    _network("trap of fact 8", [[-10.0]], [[1.0]], [0.0]),
    _skewed(),
    _network("gamma near 1", [[0.0, 1 - 1e-9], [1 - 1e-9, 0.0]], b=[0.25, 0.25]),
    _network("gamma near 1, diagonal", [[1 - 1e-9, 0.0], [0.5, -0.5]]),
    _network("gamma < 0", [[-100.0, 30.0, -20.0], [5.0, -40.0, 25.0], [-9.0, -1.0, -20.0]]),
    _network("zero W", np.zeros((3, 3)), [[1.0, -2.0], [0.5, 0.0], [-1.0, 1.0]]),
    _network("deaf to its input", [[0.25, -0.5], [0.5, 0.125]], [[0.0], [0.0]]),
    _feed_forward("relu"),
    _feed_forward("hard_tanh"),
    _network("nilpotent", [[0.0, 1e6, -1e6], [0.0, 0.0, 1e6], [0.0, 0.0, 0.0]]),
    _network("deep chain", np.diag(np.full(6, 1e3), -1), activation="hard_tanh"),
    _network("reducible", [[0.5, 0.0, 0.0], [1e3, 0.25, 0.5], [-1e3, -0.125, 0.5]]),
    _network("decoupled", [[0.9, 0.0], [0.0, -3.0]]),
    _network("saw of fact 4", [[-19.0, 19.0], [19.0, -19.0]]),
    _network("weights of 1e30", [[-1e30, 1e29], [-2e29, -1e30]], [[1e30], [-1e30]]),
    _network("nilpotent 1e30", [[0.0, 1e30], [0.0, 0.0]]),
    _network("output of 1e30", [[0.5, 0.25], [0.0, -0.5]], C=[[1e30, -1e30], [1e30, 1e-30]]),
    _network(
        "denormal weights",
        [[_SMALLEST, -1e-310], [1e-320, 0.5]],
        [[1e-310], [_SMALLEST]],
        [_SMALLEST, -1e-315],
        [[1e-310, 1.0], [_SMALLEST, -1.0]],
    ),
    _network("rescued by its eta", [[0.0, 4.0], [0.1, 0.0]]),
    _network("leaky", [[-2.0, 0.5], [-0.75, 0.125]], activation="leaky_relu(0.1)"),
    _network("linear", [[-2.0, 0.5], [-0.75, 0.125]], activation="identity"),
    _network("clipped", [[0.5, 0.25], [-2.0, -4.0]], [[3.0], [5.0]], activation="hard_tanh"),
    _network("tanh, steep diagonal", [[-20.0, 3.0], [0.5, -20.0]], activation="tanh"),
    _network("sigmoid", [[0.75, -0.125], [2.0, -8.0]], activation="sigmoid"),
    _network("softplus", [[0.5, -0.25], [0.125, -1e4]], [[30.0], [1.0]], activation="softplus"),
    _network(
        "elu", [[-1.0, 0.5, 0.0], [1.0, 0.25, -0.125], [2.0, 0.0, -5.0]], activation="elu(0.5)"
    ),
)

_NOT_CONTRACTING = (
    _network("diagonal of 1", [[1.0]], contracting=False),
    _network("diagonal above 1", [[2.0, 0.0], [0.0, -1.0]], contracting=False),
    _network("strong pair", [[0.0, 2.0], [2.0, 0.0]], contracting=False),
    _network("abscissa of exactly 1", [[0.5, 0.5], [0.5, 0.5]], contracting=False),
    _network("nonsingular I - M", [[3.0, 1.0], [1.0, 3.0]], contracting=False),
    _network("monotone, mu_2 = 0", [[0.0, -3.0], [3.0, 0.0]], contracting=False),
    _network("bad block", [[0.1, 0.0, 0.0], [0.0, 0.0, 1.5], [9.0, -1.5, 0.0]], contracting=False),
    _network("huge and wrong", [[-1e30, 2e30], [1e30, -1e30]], contracting=False),
)

_HAIRLINE = (
    _network("just below 1", [[0.0, 1 - _EPS / 2], [1.0, 0.0]]),
    _network("just above 1", [[0.0, 1 + _EPS], [1.0, 0.0]], contracting=False),
    _network("diagonal just below 1", [[1 - _EPS / 2]]),
    _network("denormal excess", [[1.0, _SMALLEST], [_SMALLEST, -1.0]], contracting=False),
    # Eigenvalue 1 in decimals; the float64 entries put it below.
    _network("singular but for rounding", [[0.1, 0.3], [0.9, 0.7]]),
)

CONTRACTING = {case.name: case for case in _CONTRACTING}
NOT_CONTRACTING = {case.name: case for case in _NOT_CONTRACTING}
HAIRLINE = {case.name: case for case in _HAIRLINE}


def floats(bound: float) -> st.SearchStrategy[float]:
    """Finite float64 in [-bound, bound], subnormal ones and both zeros among them."""
    return st.floats(-bound, bound)


def arrays(shape: tuple[int, ...], bound: float) -> st.SearchStrategy[Array]:
    return hnp.arrays(np.float64, shape, elements=floats(bound))


@st.composite
def contracting_networks(
    draw: st.DrawFn,
    max_states: int = 3,
    max_inputs: int = 2,
    activations: tuple[str, ...] = ACTIVATIONS,
) -> Network:
    """Networks by the corrected (12): free T, eta within 10^+-6, gamma up to 1 - 1e-9."""
    n = draw(st.integers(1, max_states))
    r, q = draw(st.integers(1, max_inputs)), draw(st.integers(1, 3))
    eta = 10.0 ** draw(hnp.arrays(np.float64, n, elements=floats(6.0)))
    gamma = draw(st.sampled_from([0.0, 0.5, -5.0, 1 - 1e-9]))
    return Network(
        "drawn",
        contracting_weight(draw(arrays((n, n), 4.0)), eta, gamma),
        draw(arrays((n, r), 4.0)),
        draw(arrays((n,), 4.0)),
        draw(arrays((q, n), 4.0)),
        draw(arrays((q,), 4.0)),
        draw(st.sampled_from(activations)),
        eta=eta,
    )
