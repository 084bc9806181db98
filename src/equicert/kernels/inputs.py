"""Centres and half-widths of input boxes, for training: one pass over what is wide."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from equicert.kernels.compiled import compiled


def centres(
    x: Tensor,  # (batch, r)
    lo: Tensor,  # (batch, r)
    hi: Tensor,  # (batch, r)
) -> tuple[Tensor, Tensor, bool]:  # (2 batch, r), (batch, r)
    """Each x followed by `(lo + hi) / 2`, the half-widths, and whether `lo <= hi` everywhere."""
    both, half = x.new_empty(2 * len(x), x.shape[1]), x.new_empty(x.shape)
    arrays = [t.numpy() for t in (x, lo, hi, both, half)]
    ordered = compiled(_centres)(*arrays, arrays[-1].dtype.type(0.5))
    return both, half, ordered


def _centres(
    x: np.ndarray, lo: np.ndarray, hi: np.ndarray, both: np.ndarray, half: np.ndarray, one_half: Any
) -> bool:
    inverted = 0
    for i in range(len(x)):
        point, low, high, out, width = x[i], lo[i], hi[i], both[2 * i + 1], half[i]
        both[2 * i] = point
        for j in range(x.shape[1]):
            a, b = low[j], high[j]
            out[j] = one_half * (a + b)
            width[j] = one_half * (b - a)
            inverted += 0 if a <= b else 1  # true for NaN, too
    return inverted == 0
