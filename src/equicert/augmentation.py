"""Variants of the training samples: images, moved by a few pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from equicert.operators import Image


def shifted(
    x: Tensor,  # (batch, channels height width)
    image: Image,
    pixels: int,
    rng: np.random.Generator,
    fill: float,
) -> Tensor:  # (batch, channels height width)
    """Each image moved by up to so many pixels down or up and to either side, `fill` moving in.

    Both moves are drawn uniformly, for each image by itself.
    """
    if pixels == 0:
        return x
    _, height, width = image
    around = functional.pad(x.reshape(-1, *image), (pixels,) * 4, value=fill)
    moves = torch.from_numpy(rng.integers(0, 2 * pixels + 1, (2, len(x), 1))).to(x.device)
    rows = moves[0] + torch.arange(height, device=x.device)  # (batch, height)
    columns = moves[1] + torch.arange(width, device=x.device)
    sample = torch.arange(len(x), device=x.device)[:, None, None]
    # Indices on both sides of a slice put the channels last.
    taken = around[sample, :, rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2).flatten(1)
