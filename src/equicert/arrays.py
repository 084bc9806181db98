"""Arrays from outside as tensors, every entry unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equicert.errors import ModelError


def exact(name: str, value: Any, dimensions: int) -> Tensor:
    """A float64 tensor of its own with every entry of value, float32 or float64, unchanged.

    Raises:
        ModelError: it is something else, or has another number of dimensions.
    """
    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (TypeError, ValueError) as error:  # bfloat16, ragged lists
        raise ModelError(f"{name} is no array of float32 or float64 numbers: {error}") from error
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise ModelError(f"{name} must be float32 or float64, got {array.dtype}")
    if array.ndim != dimensions:
        raise ModelError(f"{name} must have {dimensions} dimensions, got shape {array.shape}")
    return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))
