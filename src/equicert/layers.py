"""ReLU layers with affine maps between them, put together exactly into an implicit network.

Weights of files are composed with normalisations, scalings and one another. A product that float64
does not hold would be another network's weight, so nothing is rounded here: a value is kept as

    v = (A s + t) / scale,    A float64, t and scale rational, scale > 0,

s the inputs or the last hidden layer. ReLU is positively homogeneous, `scale relu(v) = relu(scale
v)`, so that a scale passes through the layers to the outputs. A linear map that does not compose
exactly gets a layer of its own, `u = relu(u) - relu(-u)`. A bias of more digits than float64 has is
a sum of several, each but the first the weight of a state that is 1 (derived here).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from equicert.activations import ReLU
from equicert.errors import ModelError
from equicert.stored import StoredNetwork

Array = NDArray[np.float64]
Rationals = tuple[Fraction, ...]

_MOST_STATES = 2**14  # W then takes 2 GiB
_SPLITTER = 2.0**27 + 1  # Veltkamp's: halves of 26 bits, whose products are exact
_LARGEST, _SMALLEST = 2.0**990, 2.0**-960  # between them no step of TwoProduct leaves float64


@dataclass(frozen=True)
class _Selection:
    """A with one entry in each row, no two in one column: `A[k, source[k]] = factor[k]`."""

    source: NDArray[np.int64]  # (k,)
    factor: Array  # (k,)

    def __getitem__(self, order: NDArray[np.int64]) -> _Selection:
        return _Selection(self.source[order], self.factor[order])

    def dense(self, width: int) -> Array:  # (k, width)
        A = np.zeros((len(self.source), width))
        A[np.arange(len(self.source)), self.source] = self.factor
        return A


@dataclass(frozen=True)
class Layers:
    """A vector v computed from the inputs by layers: see this module.

    Attributes:
        inputs: r.
        hidden: A and t of every hidden layer, whose outputs are `relu(A s + t)`.
        rows: A of v, (k, width) or a selection.
        shift: t of v, (k,).
        scale: that of v, and of all hidden layers that follow.
    """

    inputs: int
    hidden: tuple[tuple[Array, Rationals], ...]
    rows: Array | _Selection
    shift: Rationals
    scale: Fraction

    @classmethod
    def of_inputs(cls, inputs: int) -> Layers:
        """The inputs themselves."""
        return cls(inputs, (), _identity(inputs), _zeros(inputs), Fraction(1))

    @property
    def size(self) -> int:
        """k, the number of entries of v."""
        return len(self.shift)

    @property
    def width(self) -> int:
        """The number of entries of s."""
        return len(self.hidden[-1][1]) if self.hidden else self.inputs

    def ordered(
        self,
        order: NDArray[np.int64],  # (k,) a permutation
    ) -> Layers:
        """The entries in another order."""
        shift = tuple(self.shift[k] for k in order.tolist())
        return replace(self, rows=self.rows[order], shift=shift)

    def plus(
        self,
        b: Sequence[Fraction],  # (k,)
    ) -> Layers:
        """`v + b`."""
        shift = (t + self.scale * v for t, v in zip(self.shift, b, strict=True))
        return replace(self, shift=tuple(shift))

    def minus(self) -> Layers:
        """`-v`."""
        rows = self.rows
        rows = replace(rows, factor=-rows.factor) if isinstance(rows, _Selection) else -rows
        return replace(self, rows=rows, shift=tuple(-t for t in self.shift))

    def times(
        self,
        c: Array,  # (k,)
    ) -> Layers:
        """`c * v`, entry by entry."""
        if bool((c == 1).all()):
            return self
        rows = self.rows
        if isinstance(rows, _Selection):
            factor = exact_product(rows.factor, c)
            made = None if factor is None else replace(rows, factor=factor)
        else:
            made = exact_product(rows, c[:, None])
        if made is None:
            return self.mapped(np.diag(c))
        shift = tuple(t * Fraction(v) for t, v in zip(self.shift, c.tolist(), strict=True))
        return replace(self, rows=made, shift=shift)

    def over(
        self,
        c: Array,  # (k,)
    ) -> Layers:
        """`v / c`, entry by entry.

        Raises:
            ModelError: a 0, or different numbers whose inverses float64 does not hold.
        """
        if not c.all():
            raise ModelError("divides by 0")
        if bool((c == c[0]).all()):
            whole = self if c[0] > 0 else self.minus()
            return replace(whole, scale=self.scale * abs(Fraction(float(c[0]))))
        inverse = 1 / c
        if any(a * b != 1 for a, b in zip(rationals(c), rationals(inverse), strict=True)):
            raise ModelError(
                "divides by different numbers whose inverses float64 does not hold: that cannot be"
                " folded into the weights exactly; divide by one number, or by powers of two"
            )
        return self.times(inverse)

    def mapped(
        self,
        M: Array,  # (m, k)
    ) -> Layers:
        """`M v`; behind a layer `u = relu(u) - relu(-u)` where it does not compose exactly."""
        made = None
        if isinstance(self.rows, _Selection):
            made = exact_product(M, self.rows.factor)
        if made is None or not isinstance(self.rows, _Selection):
            return self._through_signed(M)
        rows = np.zeros((len(M), self.width))
        rows[:, self.rows.source] = made
        return replace(self, rows=rows, shift=_product(M, self.shift))

    def relu(self) -> Layers:
        """The hidden layer `relu(v)`."""
        hidden = (*self.hidden, (self.dense(), self.shift))
        return replace(self, hidden=hidden, rows=_identity(self.size), shift=_zeros(self.size))

    def network(self) -> StoredNetwork:
        """The implicit network with the outputs `scale v`: W is strictly block-triangular.

        Raises:
            ModelError: too many states, or a bias that no sum of float64 numbers is.
        """
        if not self.hidden:
            return self._through_signed(np.eye(self.size)).network()
        return _Assembly(self).network()

    def _through_signed(self, M: Array) -> Layers:
        """`M v` behind the hidden layer `(relu(v), relu(-v))`, whose difference is v."""
        A, t = self.dense(), self.shift
        hidden = (*self.hidden, (np.vstack([A, -A]), (*t, *(-v for v in t))))
        return replace(self, hidden=hidden, rows=np.hstack([M, -M]), shift=_zeros(len(M)))

    def dense(self) -> Array:  # (k, width)
        """A of v.

        Raises:
            ModelError: it is too large.
        """
        if self.size * self.width > _MOST_STATES**2:
            raise ModelError(f"a layer of {self.size} by {self.width} weights is too large to read")
        return self.rows.dense(self.width) if isinstance(self.rows, _Selection) else self.rows


class _Assembly:
    """The blocks of a network: states that are 1, then the hidden layers in order."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._outputs = layers.dense()
        self._parts = [_parts(t) for _, t in layers.hidden]
        self._last = _parts(layers.shift)
        self._ones = max(len(parts) for parts in [*self._parts, self._last]) - 1
        self._n = self._ones + sum(len(t) for _, t in layers.hidden)
        if self._n > _MOST_STATES:
            raise ModelError(
                f"the network has {self._n} states in implicit form; at most {_MOST_STATES} are"
                " read"
            )

    def network(self) -> StoredNetwork:
        n, ones, hidden = self._n, self._ones, self._layers.hidden
        W, U, b = np.zeros((n, n)), np.zeros((n, self._layers.inputs)), np.ones(n)
        C, eta = np.zeros((len(self._outputs), n)), np.ones(n)
        before, begin = slice(0, 0), ones
        for number, ((A, t), parts) in enumerate(zip(hidden, self._parts, strict=True)):
            own = slice(begin, begin + len(t))
            (W[own, before] if number else U[own])[:] = A
            b[own] = parts[0]
            for k, part in enumerate(parts[1:]):
                W[own, k] = part
            # As `FeedForward.eta`, with the states that are 1 as one more layer.
            eta[own] = np.maximum(1, (1 + 1 / (len(hidden) + 1)) * (np.abs(W[own]) @ eta))
            before, begin = own, own.stop
        C[:, before] = self._outputs
        for k, part in enumerate(self._last[1:]):
            C[:, k] = part
        hint = eta if np.isfinite(eta).all() else None
        return StoredNetwork.from_arrays(W, U, b, C, self._last[0], ReLU(), hint)


def exact_product(
    a: Array,
    b: Array | float,  # broadcastable
) -> Array | None:
    """`a * b` where float64 holds every entry of it exactly, else None (Dekker's TwoProduct).

    The error of a product, `((a1 b1 - p) + a1 b2 + a2 b1) + a2 b2` with a = a1 + a2 and
    b = b1 + b2, is computed exactly while nothing leaves the normal numbers; whatever might is
    refused.
    """
    a, b = np.broadcast_arrays(a, b)
    with np.errstate(all="ignore"):
        p = a * b
        a1, b1 = (v * _SPLITTER - (v * _SPLITTER - v) for v in (a, b))
        a2, b2 = a - a1, b - b1
        error = ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2
        large = np.maximum(np.abs(a), np.maximum(np.abs(b), np.abs(p)))
        trivial = (a == 0) | (b == 0) | (np.abs(a) == 1) | (np.abs(b) == 1)
        exact = trivial | ((error == 0) & (large < _LARGEST) & (np.abs(p) > _SMALLEST))
    return p if bool(exact.all()) else None


def rationals(values: Array) -> Rationals:
    """The entries as exact rationals."""
    return tuple(Fraction(v) for v in values.ravel().tolist())


def _parts(
    t: Rationals,  # (k,)
) -> list[Array]:  # (k,) each, at least one
    """Vectors of float64 numbers whose sum is t exactly.

    Raises:
        ModelError: an entry has digits beyond the smallest float64, or is beyond the largest.
    """
    parts, rest = [], t
    while any(rest) or not parts:
        try:
            part = [float(v) for v in rest]
        except OverflowError as error:
            raise ModelError("a bias is beyond the largest float64") from error
        if parts and not any(part):
            raise ModelError("a bias has digits below the smallest float64: no sum is exact")
        parts.append(np.array(part))
        rest = tuple(v - Fraction(p) for v, p in zip(rest, part, strict=True))
    return parts


def _product(M: Array, v: Rationals) -> Rationals:
    """`M v` in exact arithmetic."""
    used = [k for k, entry in enumerate(v) if entry]
    if not used:
        return _zeros(len(M))
    rows = M[:, used].tolist()
    entries = [v[k] for k in used]
    return tuple(
        sum((Fraction(a) * e for a, e in zip(row, entries, strict=True)), Fraction(0))
        for row in rows
    )


def _identity(size: int) -> _Selection:
    return _Selection(np.arange(size), np.ones(size))


def _zeros(size: int) -> Rationals:
    return (Fraction(0),) * size
