"""Loops over arrays as machine code, compiled by numba, and which tensors they take."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

_TYPES = (torch.float32, torch.float64)


def usable(*tensors: Tensor) -> bool:
    """Whether the loops take these: contiguous, on the CPU, single or double, no gradient asked."""
    return _numba_found() and all(
        t.is_cpu and t.dtype in _TYPES and t.is_contiguous() and not t.requires_grad
        for t in tensors
    )


@cache
def _numba_found() -> bool:
    return importlib.util.find_spec("numba") is not None


@cache
def compiled(loop: Callable[..., Any], reassociate: bool = False) -> Callable[..., Any]:
    """The loop as machine code, kept on disk between processes where there is a place for it.

    Every operation is the IEEE one, in the order written. `reassociate` lets a sum be vectorised,
    for what need not be rigorous; NaN and infinity keep their meaning then, too.
    """
    import numba

    settings: dict[str, Any] = {"error_model": "numpy", "nogil": True}
    settings["fastmath"] = {"reassoc"} if reassociate else False
    try:
        return numba.njit(cache=True, **settings)(loop)
    except RuntimeError:  # no folder can be written
        return numba.njit(**settings)(loop)
