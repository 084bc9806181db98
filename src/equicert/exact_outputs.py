"""Outputs of feed-forward ReLU networks at rational points, in exact arithmetic.

A witness is judged by what the network computes there. Where W has no cycle and phi is ReLU the
fixed point is a finite expression in the weights, so that nothing need be rounded: a counterexample
on the very boundary of its clause is recognised as one. Derived here; plain integers throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equicert.activations import ReLU
from equicert.stored import StoredNetwork

Integers = NDArray[Any]  # of Python's integers, which have no largest one
_BITS = 53


@dataclass(frozen=True)
class _Matrix:
    """`ints 2^exponent`, restricted to the columns that have an entry."""

    ints: Integers  # (k, len(columns))
    exponent: int
    columns: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        A: NDArray[np.float64],  # (k, m)
    ) -> _Matrix:
        columns = np.flatnonzero((A != 0).any(0))
        return cls(*_integers(A[:, columns]), columns)

    def times(self, v: Sequence[Fraction]) -> list[Fraction]:
        """`A v`."""
        used = [v[k] for k in self.columns.tolist()]
        common = math.lcm(*(entry.denominator for entry in used))
        ints = [entry.numerator * (common // entry.denominator) for entry in used]
        sums = self.ints @ np.array(ints, dtype=object)
        power = Fraction(2) ** self.exponent / common
        return [int(total) * power for total in sums]


class ExactOutputs:
    """The map from x to y of a network without cycles.

    Example: `ExactOutputs.of(network)([Fraction(1, 3), Fraction(0)])`

    Attributes:
        network: ReLU, W strictly triangular up to a permutation.
    """

    def __init__(self, network: StoredNetwork, order: list[NDArray[np.int64]]) -> None:
        self.network = network
        W, U = network.W.dense().cpu().numpy(), network.U.dense().cpu().numpy()
        self._layers = [(rows, _Matrix.of(W[rows]), _Matrix.of(U[rows])) for rows in order]
        self._C = _Matrix.of(network.C.cpu().numpy())
        self._b = [Fraction(v) for v in network.b.tolist()]
        self._c = [Fraction(v) for v in network.c.tolist()]

    @classmethod
    def of(cls, network: StoredNetwork) -> ExactOutputs | None:
        """The exact map, or None where W has a cycle or phi is another activation."""
        order = _order(network.W.dense().cpu().numpy() != 0)
        return cls(network, order) if network.activation == ReLU() and order is not None else None

    def __call__(
        self,
        x: Sequence[Fraction],  # (r,)
    ) -> list[Fraction]:  # (q,)
        """`C z*(x) + c`, exactly."""
        z = [Fraction(0)] * self.network.states
        for rows, W, U in self._layers:
            sums = zip(rows.tolist(), W.times(z), U.times(x), strict=True)
            for i, own, driven in sums:
                z[i] = max(own + driven + self._b[i], Fraction(0))
        return [v + c for v, c in zip(self._C.times(z), self._c, strict=True)]


def _order(
    depends: NDArray[np.bool_],  # (n, n) whether state i reads state j
) -> list[NDArray[np.int64]] | None:
    """States in groups, each reading earlier groups only; None where there is a cycle."""
    order: list[NDArray[np.int64]] = []
    known = np.zeros(len(depends), dtype=bool)
    while not known.all():
        ready = ~known & ~depends[:, ~known].any(1)
        if not ready.any():
            return None
        order.append(np.flatnonzero(ready))
        known |= ready
    return order


def _integers(
    A: NDArray[np.float64],
) -> tuple[Integers, int]:
    """Integers and an exponent with `A = integers 2^exponent`."""
    mantissa, exponent = np.frexp(A)
    present = A != 0
    least = int(exponent[present].min()) if present.any() else 0
    whole = (mantissa * 2.0**_BITS).astype(np.int64)  # exact: 53 bits
    shift = np.where(present, exponent - least, 0)
    ints = [int(m) << int(s) for m, s in zip(whole.ravel(), shift.ravel(), strict=True)]
    return np.array(ints, dtype=object).reshape(A.shape), least - _BITS
