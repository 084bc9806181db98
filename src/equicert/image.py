"""`reach`: proved bounds on outputs and states over boxes of inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equicert.bounds import Interval
from equicert.boxes import Box
from equicert.certification import as_stored
from equicert.contraction import Contraction
from equicert.errors import InputError
from equicert.network import ImplicitNetwork
from equicert.queries import Answer, Query
from equicert.stored import StoredNetwork


@dataclass(frozen=True)
class Reach:
    """The image of a box of inputs.

    Attributes:
        output: (batch, q) bounds that contain y for every x in the box, proved where `proved`.
        state: (batch, n) bounds that contain z*(x).
        proved: (batch,) bool.
        reason: per sample, why not.
        contraction: eta and mu, the proof that z*(x) is unique.
    """

    output: Box
    state: Box
    proved: Tensor
    reason: tuple[str, ...]
    contraction: Contraction


@torch.no_grad()
def reach(network: StoredNetwork | ImplicitNetwork, box: Box) -> Reach:
    """Boxes that contain y and z*(x) for every x in the box, rounded outwards ([J22], Thm 6.3).

    Example:
        >>> image = reach(network, Box.around(x, 0.1))
        >>> image.output.lo, image.output.hi

    Raises:
        NotContractingError: no unique fixed point is proved.
        InputError: the box does not fit the network, or its image could not be proved.
    """
    stored = as_stored(network)
    method = Interval()
    answer: Answer = method.answer(stored, Query.of_outputs(box, stored.outputs))
    if not bool(answer.state.proved.all()):
        row = int((~answer.state.proved).nonzero()[0, 0])
        raise InputError(
            f"box {row} has no proved image ({answer.state.reason[row]}): the network is too close"
            " to mu(W) = 1, or its numbers overflow float64"
        )
    lower, negated = answer.lower.chunk(2, 1)
    return Reach(
        Box(lower, -negated),
        Box(answer.state.lo, answer.state.hi),
        answer.state.proved,
        answer.state.reason,
        stored.contraction,
    )
