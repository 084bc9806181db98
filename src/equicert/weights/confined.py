"""Parameters that are zero outside a mask, whatever an optimiser does."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn


@final
class Confined(nn.Module):
    """`A` where the mask is true and 0 elsewhere: for `torch.nn.utils.parametrize`.

    Args:
        mask: bool, of a shape that broadcasts to that of the parameter.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)

    def forward(
        self,
        A: Tensor,  # any shape
    ) -> Tensor:
        return torch.where(self.mask, A, 0)

    def right_inverse(
        self,
        A: Tensor,  # any shape
    ) -> Tensor:
        return self.forward(A)
