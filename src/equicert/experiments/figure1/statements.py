"""What [J22] says of Figure 1, held against the numbers found."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from equicert.experiments.figure1.definition import (
    INTERVAL,
    MON,
    PER_MARGIN,
    PRINTED,
    SHARP,
    TABLE,
    Figure1,
    name_of_lambda,
)
from equicert.experiments.outcomes import Outcome, spread
from equicert.report import percent

LARGER: Final = TABLE[1:]  # "larger eps", "sizeable eps"
SLACK: Final = 0.005  # the spread between seeds, by which an order may be missed
FAR_MORE: Final = 0.1  # of all samples
FAR_CHEAPER: Final = 2.0
FORMS: Final = {
    PRINTED: "(13) as printed",
    PER_MARGIN: "(13) derived, per margin",
    INTERVAL: "(14)",
}


@dataclass(frozen=True)
class Statement:
    """A statement of the paper.

    Attributes:
        says: what is claimed, in a form that numbers decide.
        numbers: those that do.
        agrees: whether they agree.
    """

    says: str
    numbers: str
    agrees: bool


def statements(study: Figure1, found: Sequence[Outcome]) -> list[Statement]:
    """The paper's statements, in order; numbers are means over seeds."""
    said = [_more_certified(study, found, name, eps) for name in FORMS for eps in LARGER]
    said.append(_clean_costs(study, found))
    pairs = ((PRINTED, PRINTED), (PER_MARGIN, SHARP), (INTERVAL, SHARP))
    said += [_above_mon(study, found, *pair, eps) for pair in pairs for eps in LARGER]
    said += [_reachable_sets(study, found, name) for name in (PRINTED, PER_MARGIN)]
    return [*said, *(_cheaper(study, found, name) for name in (PRINTED, PER_MARGIN))]


def _more_certified(study: Figure1, found: Sequence[Outcome], name: str, eps: float) -> Statement:
    falling = sorted(study.lambdas, reverse=True)
    shares = [_certified(found, name_of_lambda(weight), name, eps) for weight in falling]
    return Statement(
        f"larger lambda certifies more at eps = {eps:g}, by {FORMS[name]}",
        _listed(falling, shares),
        _ordered(shares[::-1]),
    )


def _clean_costs(study: Figure1, found: Sequence[Outcome]) -> Statement:
    falling = sorted(study.lambdas, reverse=True)
    clean = [spread(found, name_of_lambda(weight), lambda o: o.clean).mean for weight in falling]
    return Statement("larger lambda costs clean accuracy", _listed(falling, clean), _ordered(clean))


def _above_mon(
    study: Figure1, found: Sequence[Outcome], name: str, of_mon: str, eps: float
) -> Statement:
    """Every lambda above the least positive one, 1e-5."""
    least = min(weight for weight in study.lambdas if weight > 0)
    above = sorted((weight for weight in study.lambdas if weight > least), reverse=True)
    shares = [_certified(found, name_of_lambda(weight), name, eps) for weight in above]
    mon = _certified(found, MON, of_mon, eps)
    form = "sharpened" if of_mon == SHARP else "as printed"
    return Statement(
        f"lambda above {least:g} certifies more than MON at eps = {eps:g}: by {FORMS[name]},"
        f" MON by its l2 bound {form}",
        f"{_listed(above, shares)}; MON {percent(mon, 2)}",
        bool(shares) and all(share > mon for share in shares),
    )


def _reachable_sets(study: Figure1, found: Sequence[Outcome], name: str) -> Statement:
    of = name_of_lambda(study.attacked_lambda)
    pairs = [(_certified(found, of, INTERVAL, e), _certified(found, of, name, e)) for e in TABLE]
    numbers = ", ".join(
        f"{percent(better, 2)} against {percent(worse, 2)} at {eps:g}"
        for eps, (better, worse) in zip(TABLE, pairs, strict=True)
    )
    most, least = (extreme(a - b for a, b in pairs) for extreme in (max, min))
    return Statement(
        f"(14) certifies far more than {FORMS[name]}, {of}: somewhere by"
        f" {100 * FAR_MORE:g} points, nowhere less",
        numbers,
        most >= FAR_MORE and least >= 0,
    )


def _cheaper(study: Figure1, found: Sequence[Outcome], name: str) -> Statement:
    of = name_of_lambda(study.attacked_lambda)
    cheap, dear = (seconds(found, of, form) for form in (name, INTERVAL))
    return Statement(
        f"{FORMS[name]} is far cheaper than (14), by a factor of {FAR_CHEAPER:g}, {of}",
        f"{cheap:.3g} s against {dear:.3g} s",
        FAR_CHEAPER * cheap <= dear,
    )


def seconds(found: Sequence[Outcome], variant: str, name: str) -> float:
    """Time to certify all samples once: the mean over the radii of the tables and over seeds."""
    times = [spread(found, variant, lambda o, e=e: o.at(name, e).seconds).mean for e in TABLE]
    return sum(times) / len(times)


def _certified(found: Sequence[Outcome], variant: str, name: str, eps: float) -> float:
    return spread(found, variant, lambda outcome: outcome.at(name, eps).share).mean


def _ordered(values: Sequence[float]) -> bool:
    """Whether they rise, from the first to the last and, but for SLACK, from each to the next."""
    steps = itertools.pairwise(values)
    return values[0] < values[-1] and all(b >= a - SLACK for a, b in steps)


def _listed(weights: Sequence[float], shares: Sequence[float]) -> str:
    pairs = zip(weights, shares, strict=True)
    return ", ".join(f"{weight:g}: {percent(share, 2)}" for weight, share in pairs)
