"""Forms in y as forms in z, with what rounding loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from equicert.enclosures import Enclosure
from equicert.operators import Dense
from equicert.queries import Forms
from equicert.rounding import down, gamma, up
from equicert.stored import StoredNetwork


@dataclass(frozen=True)
class Objectives:
    """`A y + d = a z + constant`, row by row.

    Attributes:
        a: (k, n) rounded `A C`.
        error: (k, n) the exact rows are within it of a.
        constant: (k,) at most the exact `A c + d`.
    """

    a: Tensor
    error: Tensor
    constant: Tensor

    @classmethod
    def of(cls, network: StoredNetwork, forms: Forms) -> Self:
        """The forms of a query on this network."""
        absolute = Enclosure.of(Dense(forms.A))
        a = forms.A @ network.C
        magnitude = absolute.magnitude_above(network.C.abs().mT).mT
        error = up(gamma(network.outputs + 2) * magnitude)
        # Differences of two rows, which margins are, lose one rounding and no more.
        single = (forms.A != 0).sum(1, keepdim=True) <= 2
        unit = ((forms.A == 0) | (forms.A.abs() == 1)).all(1, keepdim=True)
        near = up(a.abs() * 2.0**-52)
        error = torch.where(single & unit, torch.minimum(error, near), error)
        constant, _ = absolute.image(network.c[None], network.c[None])
        return cls(a, error, down(constant[0] + forms.d))
