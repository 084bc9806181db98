"""A solver's step between its matrix products: entrywise work in one pass over memory.

A step is two products and a dozen entrywise operations on small matrices, which cost more as
separate torch calls than the products do. The loops below do the same in one call each.

They only propose: what is certified is tested in rounded arithmetic elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from equicert.kernels.compiled import compiled

Pieces: TypeAlias = tuple[np.ndarray, np.ndarray, Any, Any]  # psi, piecewise linear: see `pieces`

# From centre and radius of an image, and the rows z before it, to the rows after and their bounds.
Finish: TypeAlias = Callable[
    [np.ndarray, np.ndarray | None, np.ndarray, np.ndarray, np.ndarray], None
]

_INTEGER = {torch.float32: np.int32, torch.float64: np.int64}


def split(
    z: Tensor,  # (batch, 2n) or (batch, 3n)
    n: int,
    slope: Tensor | None = None,  # as z
) -> tuple[Tensor, Tensor]:  # (batch, n) or (batch, 2n), and (batch, n)
    """`(lo + hi, hi - lo)` of the pairs of z or of `slope * z`; behind 2 z, if there is a state."""
    doubled, width = z.new_empty(len(z), z.shape[1] - n), z.new_empty(len(z), n)
    factor = None if slope is None else slope.numpy()
    split_into(z.numpy(), factor, doubled.numpy(), width.numpy())
    return doubled, width


def split_into(
    z: np.ndarray, factor: np.ndarray | None, doubled: np.ndarray, width: np.ndarray
) -> None:
    """`split` with memory at hand."""
    compiled(_split)(z, factor, doubled, width)


def root(
    pieces: Pieces,
    scale: Tensor,  # (m,)
) -> Finish:
    """psi of the rows of an image, and `max_i scale_i |psi_i - z_i|`."""
    change = np.empty_like(scale.numpy())
    constants = (*pieces, scale.numpy(), change, change.view(_INTEGER[scale.dtype]))
    return partial(_call, compiled(_root), constants)


def scaled(
    factor: Tensor,  # (batch, m)
    weights: Tensor,  # (batch, m)
) -> Finish:
    """The rows of an image times factor, and the weighted sum of their changes from z."""
    return partial(_call, compiled(_scaled, reassociate=True), (factor.numpy(), weights.numpy()))


def _call(
    loop: Callable[..., None], constants: tuple[Any, ...], *arrays: np.ndarray | None
) -> None:
    loop(*arrays, *constants)


def rows(
    centre: Tensor,  # (batch, n), or (batch, 2n) with a state in front
    radius: Tensor | None,  # (batch, n) of a pair
    pieces: Pieces,
) -> Tensor:  # (batch, m)
    """psi of the rows alone."""
    n = len(pieces[0])
    out = centre.new_zeros(len(centre), centre.shape[1] + (n if radius is not None else 0))
    z, bound = out.numpy(), centre.new_empty(len(centre)).numpy()
    reach = None if radius is None else radius.numpy()
    root(pieces, out.new_zeros(out.shape[1]))(centre.numpy(), reach, z, z, bound)
    return out


def unit_rows(
    g: Tensor,  # (batch, m)
) -> tuple[Tensor, Tensor]:  # (batch, m), (batch, 1)
    """Each row divided by its largest absolute entry, and those; 1 where a row is 0."""
    out, size = torch.empty_like(g), g.new_empty(len(g), 1)
    scratch, one = _scratch(g)
    bits = scratch.view(_INTEGER[g.dtype])
    compiled(_unit_rows)(g.numpy(), out.numpy(), size.numpy(), scratch, bits, one)
    return out, size


def adjoint_terms(
    g: Tensor,  # (batch, m)
    slope: Tensor,  # (batch, m)
    diagonal: Tensor,  # (m,)
    eta: Tensor,  # (m,)
    gaps: Tensor,  # (m,)
) -> tuple[Tensor, Tensor, Tensor]:  # (batch, m) each
    """With s = 1 - diagonal slope: `1/s`, `eta s / min(gaps s)` and `g/s`."""
    inverse, weights, start = torch.empty_like(g), torch.empty_like(g), torch.empty_like(g)
    arrays = [t.numpy() for t in (g, slope, diagonal, eta, gaps, inverse, weights, start)]
    scratch, one = _scratch(g)
    compiled(_adjoint_terms)(*arrays, scratch, scratch.view(_INTEGER[g.dtype]), one)
    return inverse, weights, start


def pieces(
    slopes: tuple[float, float],  # of phi left and right of 0, up to its limits
    limits: tuple[float, float],
    diagonal: Tensor,  # (n,)
) -> Pieces:
    """psi of a piecewise-linear phi, for `root`: `min(max(r s / (1 - s d), lower), upper)`."""
    d = diagonal.numpy()
    left, right = (np.asarray(s / (1 - s * d), d.dtype) for s in slopes)
    lower, upper = (left.dtype.type(end) for end in limits)
    return left, right, lower, upper


def settle(
    z: Tensor,  # (batch, m)
    following: tuple[Tensor, Tensor],  # (batch, m), (batch,)
    outcome: tuple[np.ndarray, np.ndarray, np.ndarray],  # (batch,) bound, steps, still going
    tolerance: float,
    k: int,
) -> int:
    """Take step k for the rows that still go, put the others back, and count who goes on.

    All in place, in `following`'s rows and in the outcome.
    """
    rows, bound = (t.numpy() for t in following)
    limit = bound.dtype.type(tolerance)
    return compiled(_settle)(z.numpy(), rows, bound, *outcome, limit, k)


def _scratch(
    z: Tensor,  # (batch, m)
) -> tuple[np.ndarray, Any]:
    """Room for a row, and 1 in the type of z: with Python's, numba would compute in double."""
    row = np.empty(z.shape[1], np.float32 if z.dtype == torch.float32 else np.float64)
    return row, row.dtype.type(1)


def _split(
    z: np.ndarray, factor: np.ndarray | None, doubled: np.ndarray, width: np.ndarray
) -> None:
    n = width.shape[1]
    first = z.shape[1] - 2 * n
    for i in range(len(z)):
        row, middle, wide = z[i], doubled[i], width[i]
        for j in range(first):
            value = row[j] if factor is None else row[j] * factor[i, j]
            middle[j] = value + value
        low, high, pair = row[first : first + n], row[first + n :], middle[first:]
        if factor is None:
            for j in range(n):
                pair[j] = low[j] + high[j]
                wide[j] = high[j] - low[j]
        else:
            by_low, by_high = factor[i, first : first + n], factor[i, first + n :]
            for j in range(n):
                lo, hi = low[j] * by_low[j], high[j] * by_high[j]
                pair[j] = lo + hi
                wide[j] = hi - lo


def _root(
    centre: np.ndarray,
    radius: np.ndarray | None,
    z: np.ndarray,
    out: np.ndarray,
    bound: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    lower: Any,
    upper: Any,
    scale: np.ndarray,
    change: np.ndarray,  # (m,) scratch
    bits: np.ndarray,  # the same memory as integers
) -> None:
    n, m = len(left), z.shape[1]
    for i in range(len(z)):
        row, before, middle = out[i], z[i], centre[i]
        first = n if radius is None else m - 2 * n
        for j in range(first):
            r, a, b = middle[j], right[j], left[j]  # both loaded: a branch is not vectorised
            value = r * (a if r > 0 else b)
            value = max(value, lower)  # NaN stays NaN
            row[j] = min(value, upper)
        if radius is not None:
            pair, reach, low, high = middle[first:], radius[i], row[first:], row[first + n :]
            for j in range(n):
                r, a, b = pair[j] - reach[j], right[j], left[j]
                value = r * (a if r > 0 else b)
                value = max(value, lower)
                low[j] = min(value, upper)
                r = pair[j] + reach[j]
                value = r * (a if r > 0 else b)
                value = max(value, lower)
                high[j] = min(value, upper)
        for j in range(m):
            change[j] = abs((row[j] - before[j]) * scale[j])  # of 0 inf, too, without its sign
        # Non-negative floats are ordered as integers are, NaN above all; and integers vectorise.
        most = bits[0]
        for j in range(m):
            most = max(most, bits[j])
        bits[0] = most
        bound[i] = change[0]


def _scaled(
    centre: np.ndarray,
    radius: np.ndarray | None,
    z: np.ndarray,
    out: np.ndarray,
    bound: np.ndarray,
    factor: np.ndarray,
    weights: np.ndarray,
) -> None:
    m = z.shape[1]
    for i in range(len(z)):
        row, before, by, weight, middle = out[i], z[i], factor[i], weights[i], centre[i]
        first = m if radius is None else m - 2 * radius.shape[1]
        for j in range(first):
            row[j] = middle[j]
        if radius is not None:
            n, reach, pair = radius.shape[1], radius[i], middle[first:]
            low, high = row[first:], row[first + n :]
            for j in range(n):
                low[j] = pair[j] - reach[j]
                high[j] = pair[j] + reach[j]
        total = by[0] * 0  # of the arrays' type
        for j in range(m):
            row[j] *= by[j]
            total += abs(row[j] - before[j]) * weight[j]
        bound[i] = total


def _settle(
    z: np.ndarray,
    following: np.ndarray,
    bound: np.ndarray,
    best: np.ndarray,
    steps: np.ndarray,
    going: np.ndarray,
    tolerance: Any,
    k: int,
) -> int:
    left = 0
    for i in range(len(z)):
        if going[i]:
            best[i] = bound[i]
            steps[i] = k
            going[i] = bound[i] > tolerance  # false for NaN, too
            left += going[i]
        else:
            following[i] = z[i]
    return left


def _unit_rows(
    g: np.ndarray,
    out: np.ndarray,
    size: np.ndarray,
    scratch: np.ndarray,
    bits: np.ndarray,
    one: Any,
) -> None:
    for i in range(len(g)):
        row, unit = g[i], out[i]
        for j in range(len(row)):
            scratch[j] = abs(row[j])
        most = bits[0]
        for j in range(len(row)):
            most = max(most, bits[j])  # as in `_root`
        bits[0] = most
        largest = one if scratch[0] == 0 else scratch[0]
        size[i, 0] = largest
        for j in range(len(row)):
            unit[j] = row[j] / largest


def _adjoint_terms(
    g: np.ndarray,
    slope: np.ndarray,
    diagonal: np.ndarray,
    eta: np.ndarray,
    gaps: np.ndarray,
    inverse: np.ndarray,
    weights: np.ndarray,
    start: np.ndarray,
    scratch: np.ndarray,
    bits: np.ndarray,  # the same memory as integers
    one: Any,
) -> None:
    m = g.shape[1]
    for i in range(len(g)):
        row, by, inv, weight, first = g[i], slope[i], inverse[i], weights[i], start[i]
        for j in range(m):
            scale = one - diagonal[j] * by[j]
            inv[j] = one / scale
            first[j] = row[j] * inv[j]
            weight[j] = eta[j] * scale
            scratch[j] = abs(gaps[j] * scale)
        least = bits[0]
        for j in range(m):
            least = min(least, bits[j])  # as in `_root`
        bits[0] = least
        for j in range(m):
            weight[j] /= scratch[0]
