"""Witnesses for a verifier: what a first search finds, and what its own minimisers show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from equicert.boxes import Box
from equicert.falsifier import Search
from equicert.proofs import Finding, Witness
from equicert.queries import Query
from equicert.stored import StoredNetwork
from equicert.witnesses import Attempt, falsify

_SHORT = Search(steps=3)  # from minimisers of a relaxation, which are nearly there


def first_witnesses(
    network: StoredNetwork,
    query: Query,
    inner: Box,
    rows: Tensor,  # (k,) int64
) -> dict[int, Finding]:
    """What a search finds out about these samples, whether it breaks them or not."""
    attempt = falsify(network, query[rows], inner[rows])
    found = {}
    for k, row in enumerate(rows.tolist()):
        above, point = float(attempt.upper[k]), attempt.bounds.x[k].cpu().numpy()
        found[row] = Finding(None, _witness(attempt, k), above, point, stage="falsifier")
    return found


def _witness(attempt: Attempt, row: int) -> Witness | None:
    """The witness, where it breaks the margin of a label: other properties have no rival."""
    broken = bool(attempt.falsified[row]) and attempt.of_margins(row)
    return attempt.witness(row) if broken else None


@dataclass
class Hunter:
    """Judges the points that the search about one sample comes by.

    Attributes:
        network: stored.
        query: of one sample.
        inner: the box to look in; None: nothing is looked for.
        above: the least upper bound on the margin so far.
        point: where that was found.
        witness: the first one.
    """

    network: StoredNetwork
    query: Query
    inner: Box | None
    above: float = math.inf
    point: np.ndarray | None = None
    witness: Witness | None = None

    def __call__(
        self,
        x: Tensor,  # (k, r)
        form: Tensor,  # (k,) int64, which form was least there
    ) -> bool:
        """Whether the property is known to be broken, now that these points have been tried."""
        del form
        if self.inner is None:
            return False
        points = self.inner.clamp(x.nan_to_num(0.0))[None]
        attempt = falsify(self.network, self.query, self.inner, points, _SHORT)
        if float(attempt.upper[0]) < self.above:
            self.above, self.point = float(attempt.upper[0]), attempt.bounds.x[0].cpu().numpy()
        self.witness = _witness(attempt, 0)
        return bool(attempt.falsified[0])
