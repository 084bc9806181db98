"""What the verdict files say: shares by method and radius, and the cost of each method."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from equicert.experiments.outcomes import Spread
from equicert.experiments.study import Stage, place_of
from equicert.experiments.verdicts import (
    Contradiction,
    Lines,
    attacks_on_proved,
    clean_share,
    largest_proved,
    share,
)
from equicert.experiments.verification.definition import ATTACK, AUTO, METHODS, Verification
from equicert.models import load_model
from equicert.runs import read_lines
from equicert.training import MODEL


@dataclass(frozen=True)
class Row:
    """One radius; shares of all samples.

    Attributes:
        eps: the radius.
        certified: by method, by it or one before it; the last value is what `Auto` certifies.
        falsified: a witness was found in the box; x itself is classified correctly.
        misclassified: at x itself.
        unknown: the rest.
        reasons: of these, how many samples for which reason.
        unbroken: by PGD; at eps = 0, where there is no room, the clean samples.
        seconds: total time of `Auto`.
        median: of its times a sample.
    """

    eps: float
    certified: Mapping[str, float]
    falsified: float
    misclassified: float
    unknown: float
    reasons: Mapping[str, int]
    unbroken: float
    seconds: float
    median: float

    @property
    def decided(self) -> float:
        """All but the unknown ones."""
        return 1 - self.unknown

    @property
    def open(self) -> float:
        """Neither falsified nor misclassified: certified or unknown."""
        return self.certified[METHODS[-1]] + self.unknown


@dataclass(frozen=True)
class Cost:
    """One method alone, at one radius.

    Attributes:
        method: its name.
        certified: share of all samples.
        decided: the same with what is falsified or misclassified.
        missed: samples that it does not certify, while `Auto` says that it or a cheaper one does.
        more: samples that it certifies, while `Auto` says that it and the cheaper ones do not.
        reason: why it decided nothing, where that is one reason other than a weak bound; else "".
        seconds: in total.
        mean: a sample.
        median: of the samples' times, each its own search and an equal part of what is shared.
        largest: of these.
    """

    method: str
    certified: float
    decided: float
    missed: int
    more: int
    reason: str
    seconds: float
    mean: float
    median: float
    largest: float


@dataclass(frozen=True)
class Measured:
    """What was measured of one model.

    Attributes:
        seed: of its training; of no meaning for a given model.
        digest: of its weights.
        samples: test samples that were certified and attacked.
        clean: clean accuracy on them.
        rows: by radius.
        costs: each method alone and then `Auto`, all at the study's `eps`.
        attacks_in_vain: attacks of PGD on certified boxes that failed.
        contradictions: those that did not, and witnesses in certified boxes.
    """

    seed: int
    digest: str
    samples: int
    clean: float
    rows: tuple[Row, ...]
    costs: tuple[Cost, ...]
    attacks_in_vain: int
    contradictions: tuple[Contradiction, ...]

    def cost(self, method: str) -> Cost:
        """Of this method."""
        return next(cost for cost in self.costs if cost.method == method)


def spread(models: Sequence[Measured], value: Callable[[Measured], float]) -> Spread:
    """The spread over seeds of a value."""
    return Spread.of([value(measured) for measured in models])


def measure(study: Verification, out: str | Path) -> list[Measured]:
    """The numbers of every model, from a folder in which the study has run to its end.

    Raises:
        OutputError, ModelError: a file is missing or damaged.
    """
    return [_measure(study, model, Path(out)) for model in study.models()]


def _measure(study: Verification, model: Stage, out: Path) -> Measured:
    train = out / model.folder
    given = model.variant.given
    digest = load_model(train / MODEL).digest if given is None else given.digest
    found = {
        (task.name, task.eps): read_lines(train.parent / place_of(task) / "verdicts.jsonl")
        for task in model.variant.tasks
    }
    main = found[AUTO, study.eps]
    in_vain, contradictions = _held_against_each_other(found)
    return Measured(
        model.seed,
        digest,
        len(main),
        clean_share(main),
        tuple(_row(eps, found[AUTO, eps], found.get((ATTACK, eps))) for eps in study.radii),
        tuple(_cost(name, found[name, study.eps], main) for name in (*METHODS, AUTO)),
        in_vain,
        contradictions,
    )


def _row(
    eps: float,
    lines: Lines,  # of `Auto`
    attacked: Lines | None,
) -> Row:
    times = sample_seconds(lines)
    return Row(
        eps,
        {name: len(certified_by(name, lines)) / len(lines) for name in METHODS},
        share(lines, "falsified"),
        share(lines, "misclassified"),
        share(lines, "unknown"),
        dict(Counter(line["reason"] for line in lines if line["status"] == "unknown")),
        clean_share(lines) if attacked is None else share(attacked, "unbroken"),
        sum(times),
        statistics.median(times),
    )


def _cost(method: str, lines: Lines, main: Lines) -> Cost:
    own = {line["index"] for line in lines if line["status"] == "certified"}
    said = certified_by(METHODS[-1] if method == AUTO else method, main)
    times = sample_seconds(lines)
    whys = {line["reason"] for line in lines if line["status"] == "unknown"}
    nothing = not own and len(whys) == 1 and "margin" not in whys
    return Cost(
        method,
        len(own) / len(lines),
        1 - share(lines, "unknown"),
        len(said - own),
        len(own - said),
        whys.pop() if nothing else "",
        sum(times),
        statistics.fmean(times),
        statistics.median(times),
        max(times),
    )


def certified_by(
    method: str,
    lines: Lines,  # of `Auto`
) -> set[int]:
    """The samples that this method or one before it has certified."""
    upto = METHODS[: METHODS.index(method) + 1]
    return {v["index"] for v in lines if v["status"] == "certified" and v["method"] in upto}


def sample_seconds(lines: Lines) -> list[float]:
    """The time of each sample: its own search, and an equal part of what all samples share."""
    searches = [line.get("search_seconds", 0.0) for line in lines]
    shared = sum(line["seconds"] for line in lines) - sum(searches)
    return [search + max(shared, 0.0) / len(lines) for search in searches]


def _held_against_each_other(
    found: Mapping[tuple[str, float], Lines],
) -> tuple[int, tuple[Contradiction, ...]]:
    """Attacks on certified boxes that failed; those that did not, and witnesses in such boxes."""
    certified = {task: lines for task, lines in found.items() if task[0] != ATTACK}
    proved = largest_proved(
        (line["index"], eps)
        for (_, eps), lines in certified.items()
        for line in lines
        if line["status"] == "certified"
    )
    tried = [(eps, lines) for (name, eps), lines in found.items() if name == ATTACK]
    in_vain, broken = attacks_on_proved(proved, tried)
    witnesses = [
        (eps, [line for line in lines if line["status"] in ("falsified", "misclassified")])
        for (_, eps), lines in certified.items()
    ]
    return in_vain, (*broken, *attacks_on_proved(proved, witnesses)[1])
