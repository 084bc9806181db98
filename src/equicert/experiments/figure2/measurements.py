"""The numbers of Figure 2, model by model, and their spread over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from equicert.experiments.figure2.definition import ATTACK, CERTIFY, UNCLIPPED, Figure2
from equicert.experiments.outcomes import Outcome, Point, Spread, outcomes
from equicert.experiments.verdicts import Contradiction


@dataclass(frozen=True)
class Row:
    """One model at one radius; shares of samples.

    Attributes:
        eps: the radius.
        certified: of all samples, by (14), boxes clipped.
        unbroken: of the attacked samples; at eps = 0, where there is no room, the clean ones.
        attacked: how many they are, the first ones.
        certified_first: certified among the first samples, the same ones at every radius.
        unbroken_first: unbroken among these.
        first: how many they are.
    """

    eps: float
    certified: float
    unbroken: float
    attacked: int
    certified_first: float
    unbroken_first: float
    first: int


@dataclass(frozen=True)
class Measured:
    """What was measured of one model.

    Attributes:
        model: "robust" or "not robust".
        seed: of its training.
        digest: of its weights.
        samples: test samples that were certified.
        clean: clean accuracy on them.
        rows: by radius.
        main: the row of the radius that has published values.
        certified_unclipped: certified there by boxes that are not clipped.
        epoch_seconds: median time of an epoch, with its accuracies on test samples.
        certify_seconds: time to certify all samples at the main radius, boxes clipped.
        attack_seconds: time to attack all samples there.
        attacks_in_vain: attacks on certified boxes that failed.
        contradictions: those that did not.
    """

    model: str
    seed: int
    digest: str
    samples: int
    clean: float
    rows: tuple[Row, ...]
    main: Row
    certified_unclipped: float
    epoch_seconds: float
    certify_seconds: float
    attack_seconds: float
    attacks_in_vain: int
    contradictions: tuple[Contradiction, ...]


def spread(models: Sequence[Measured], name: str, value: Callable[[Measured], float]) -> Spread:
    """The spread over seeds of a value of the models of this name."""
    return Spread.of([value(measured) for measured in models if measured.model == name])


def measure(study: Figure2, out: str | Path) -> list[Measured]:
    """The numbers of every model, from a folder in which the study has run to its end.

    Raises:
        OutputError, ModelError: a file is missing or damaged.
    """
    return [_measure(study, found) for found in outcomes(study, out)]


def _measure(study: Figure2, found: Outcome) -> Measured:
    rows = {point.eps: _row(found, point) for point in found.curves[CERTIFY]}
    return Measured(
        found.variant,
        found.seed,
        found.digest,
        found.samples,
        found.clean,
        tuple(rows.values()),
        rows[study.eps],
        found.at(UNCLIPPED, study.eps).share,
        found.epoch_seconds,
        found.at(CERTIFY, study.eps).seconds,
        found.at(ATTACK, study.eps).seconds,
        found.attacks_in_vain,
        found.contradictions,
    )


def _row(found: Outcome, certified: Point) -> Row:
    eps = certified.eps
    attacked = Point(eps, found.clean, found.samples, found.clean_first, 0.0)
    if eps > 0:
        attacked = found.at(ATTACK, eps)
    return Row(
        eps,
        certified.share,
        attacked.share,
        attacked.count,
        certified.share_first,
        attacked.share_first,
        found.first,
    )
