"""Witnesses for a verifier: what a first search finds, and what its own minimisers show."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    return {
        row: Finding(witness=_witness(attempt, k), above=float(attempt.upper[k]), stage="falsifier")
        for k, row in enumerate(rows.tolist())
    }


def _witness(attempt: Attempt, row: int) -> Witness | None:
    return attempt.witness(row) if bool(attempt.falsified[row]) else None


@dataclass
class Hunter:
    """Judges the points that the search about one sample comes by.

    Attributes:
        network: stored.
        query: of one sample.
        inner: the box to look in; None: nothing is looked for.
        above: the least upper bound on the margin so far.
        witness: the first one.
    """

    network: StoredNetwork
    query: Query
    inner: Box | None
    above: float = math.inf
    witness: Witness | None = None

    def __call__(
        self,
        x: Tensor,  # (k, r)
        form: Tensor,  # (k,) int64, which form was least there
    ) -> bool:
        """Whether a witness is known, now that these points have been tried."""
        del form
        if self.inner is None:
            return False
        points = self.inner.clamp(x.nan_to_num(0.0))[None]
        attempt = falsify(self.network, self.query, self.inner, points, _SHORT)
        self.above = min(self.above, float(attempt.upper[0]))
        self.witness = _witness(attempt, 0)
        return self.witness is not None
