"""The largest certified radius of each sample, by bisection: a whole curve at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equicert.bounds import Method
from equicert.boxes import Box, Domain
from equicert.certification import Verdict, decide_boxes
from equicert.errors import InputError
from equicert.queries import StateProofs
from equicert.stored import StoredNetwork


@dataclass(frozen=True)
class RadiusVerdict:
    """A verdict at the largest radius found, and that radius.

    `radius` is None where not even eps = 0 is certified; otherwise the verdict at exactly this
    radius is "certified", and so is every smaller one, its box being a part of this one.
    """

    verdict: Verdict
    radius: float | None


@dataclass(frozen=True)
class DecidedRadii:
    """The radii of a batch, and what proves them by state boxes; None where the method does not."""

    found: list[RadiusVerdict]
    proofs: StateProofs | None


def certified_radii(
    network: StoredNetwork,
    x: Tensor,  # (batch, r) float64
    labels: Tensor,  # (batch,) int64
    method: Method,
    *,
    domain: Domain = None,
    largest: float = 1.0,
    resolution: float = 1e-4,
    batch_size: int = 1000,
) -> Iterator[list[RadiusVerdict]]:
    """Bisect in [0, largest] until the bracket is at most `resolution` wide, a chunk at a time.

    Every radius tried is certified by itself; bisection only chooses which to try. A sample that
    is certified at `largest` stops there.

    Raises:
        InputError: largest or resolution not positive, a method that proves nothing, and as
            `certify`.
    """
    for decided in decide_radii(
        network,
        x,
        labels,
        method,
        domain=domain,
        largest=largest,
        resolution=resolution,
        batch_size=batch_size,
    ):
        yield decided.found


def decide_radii(
    network: StoredNetwork,
    x: Tensor,  # (batch, r) float64
    labels: Tensor,  # (batch,) int64
    method: Method,
    *,
    domain: Domain = None,
    largest: float = 1.0,
    resolution: float = 1e-4,
    batch_size: int = 1000,
) -> Iterator[DecidedRadii]:
    """The same, with what proves them.

    Raises:
        InputError: as `certified_radii`.
    """
    check_bisectable(method)
    check_span(largest, resolution)
    for begin in range(0, len(x), batch_size):
        rows = slice(begin, begin + batch_size)
        yield _bisect(network, x[rows], labels[rows], method, domain, largest, resolution)


def check_bisectable(method: Method) -> None:
    """Raise InputError for a method whose verdicts are claims, or one that searches."""
    if not method.bisects:
        raise InputError(
            f"the largest certified radius takes a verdict at twenty radii, and {method.name}"
            " searches at each: ask at one eps, or by another method"
        )
    if not method.proves:
        raise InputError(
            f"the largest certified radius is bisected on proofs, and {method.name} only claims:"
            " ask at one eps"
        )


def check_span(largest: float, resolution: float) -> None:
    """Raise InputError unless both are positive and finite."""
    if not (0 < largest < float("inf") and 0 < resolution < float("inf")):
        raise InputError(
            f"the largest radius and the resolution must be positive, got {largest!r} and"
            f" {resolution!r}"
        )


def _bisect(
    network: StoredNetwork,
    x: Tensor,
    labels: Tensor,
    method: Method,
    domain: Domain,
    largest: float,
    resolution: float,
) -> DecidedRadii:
    good = torch.full((len(x), 1), -1.0, dtype=torch.float64)  # -1: nothing certified yet
    bad = torch.full((len(x), 1), torch.inf, dtype=torch.float64)
    verdicts: list[Verdict | None] = [None] * len(x)
    proofs: StateProofs | None = None

    def attempt(rows: Tensor, eps: Tensor) -> None:
        nonlocal proofs
        box = Box.around(x[rows], eps, domain)
        [found] = decide_boxes(network, x[rows], labels[rows], box, method, len(rows))
        if found.proofs is not None:
            fresh = replace(found.proofs, rows=rows[found.proofs.rows])
            proofs = fresh if proofs is None else fresh.over(proofs)
        radii = eps[:, 0].tolist()
        for row, verdict, radius in zip(rows.tolist(), found.verdicts, radii, strict=True):
            if verdict.status == "certified":
                good[row], verdicts[row] = radius, verdict
            else:
                bad[row] = radius
                if verdicts[row] is None:
                    verdicts[row] = verdict

    everything = torch.arange(len(x))
    attempt(everything, torch.zeros(len(x), 1, dtype=torch.float64))
    alive = everything[good[:, 0] >= 0]
    if len(alive):
        attempt(alive, torch.full((len(alive), 1), largest, dtype=torch.float64))
    while True:
        open_ = ((good >= 0) & bad.isfinite() & (bad - good > resolution)).nonzero()[:, 0]
        if not len(open_):
            break
        attempt(open_, 0.5 * (good[open_] + bad[open_]))
    found = [
        RadiusVerdict(verdict, radius if radius >= 0 else None)
        for verdict, radius in zip(verdicts, good[:, 0].tolist(), strict=True)
        if verdict is not None
    ]
    return DecidedRadii(found, proofs)
