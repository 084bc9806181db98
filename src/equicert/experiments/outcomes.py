"""What a study found, read from the folders of its stages, and its spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from equicert.attack_run import AttackRun
from equicert.experiments.study import Stage, Study, place_of
from equicert.experiments.verdicts import (
    Contradiction,
    Lines,
    attacks_on_proved,
    clean_share,
    largest_proved,
    share,
)
from equicert.models import load_model
from equicert.runs import read_lines
from equicert.training import METRICS, MODEL


@dataclass(frozen=True)
class Point:
    """One certificate or one attack at one radius; shares of samples.

    Attributes:
        eps: the radius.
        share: certified, or unbroken, of these samples.
        count: how many they are.
        share_first: the same of the first samples, the same ones everywhere in a study.
        seconds: how long it took.
    """

    eps: float
    share: float
    count: int
    share_first: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What was measured of one model.

    Attributes:
        variant: its name.
        seed: of its training.
        digest: of its weights.
        samples: test samples that were certified.
        first: how many the first ones are.
        clean: clean accuracy on all of them.
        clean_first: on the first ones.
        epoch_seconds: median time of an epoch, with its accuracies on test samples; 0 for a given
            model, of which none was trained here.
        curves: points by the name of the task, radii increasing.
        reasons: by the name of the task, why its method decided nothing at all; else absent.
        attacks_in_vain: attacks on certified boxes that failed.
        contradictions: those that did not.
    """

    variant: str
    seed: int
    digest: str
    samples: int
    first: int
    clean: float
    clean_first: float
    epoch_seconds: float
    curves: Mapping[str, tuple[Point, ...]]
    reasons: Mapping[str, str]
    attacks_in_vain: int
    contradictions: tuple[Contradiction, ...]

    def at(self, name: str, eps: float) -> Point:
        """The point of a curve at one of its radii."""
        return next(point for point in self.curves[name] if point.eps == eps)


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (None for a single value), least and greatest value."""

    mean: float
    std: float | None
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, min(values), max(values))


def spread(found: Iterable[Outcome], variant: str, value: Callable[[Outcome], float]) -> Spread:
    """The spread over seeds of a value of the models of this variant."""
    return Spread.of([value(outcome) for outcome in found if outcome.variant == variant])


def measured(study: Study, found: Sequence[Outcome]) -> dict[str, Any]:
    """Entries of a results.json: every number, per model and its spread over seeds."""
    return {
        "training": {v.name: v.config.to_mapping() for v in study.variants() if v.given is None},
        "certified_yet_broken": sum(len(outcome.contradictions) for outcome in found),
        "over_seeds": {
            variant.name: _over([outcome for outcome in found if outcome.variant == variant.name])
            for variant in study.variants()
        },
        "models": [asdict(outcome) for outcome in found],
    }


def _over(own: Sequence[Outcome]) -> dict[str, Any]:
    def over(value: Callable[[Outcome], float]) -> dict[str, Any]:
        return asdict(Spread.of([value(outcome) for outcome in own]))

    return {
        "clean": over(lambda o: o.clean),
        "epoch_seconds": over(lambda o: o.epoch_seconds),
        "curves": {
            name: [
                {
                    "eps": point.eps,
                    "count": point.count,
                    "share": over(lambda o, k=k, name=name: o.curves[name][k].share),
                    "share_first": over(lambda o, k=k, name=name: o.curves[name][k].share_first),
                    "seconds": over(lambda o, k=k, name=name: o.curves[name][k].seconds),
                }
                for k, point in enumerate(points)
            ]
            for name, points in own[0].curves.items()
        },
        "reasons": {name: why for outcome in own for name, why in outcome.reasons.items()},
    }


def outcomes(study: Study, out: str | Path) -> list[Outcome]:
    """The numbers of every model, from a folder in which the study has run to its end.

    Raises:
        OutputError, ModelError: a file is missing or damaged.
    """
    return [_outcome(model, Path(out), study.first()) for model in study.models()]


def _outcome(model: Stage, out: Path, first: int) -> Outcome:
    train, given = out / model.folder, model.variant.given
    epochs = [] if given is not None else read_lines(train / METRICS)
    found = [
        (task, read_lines(train.parent / place_of(task) / "verdicts.jsonl"))
        for task in model.variant.tasks
    ]
    attacked = [(task.eps, lines) for task, lines in found if isinstance(task.job, AttackRun)]
    certified = [(task, lines) for task, lines in found if not isinstance(task.job, AttackRun)]
    proved = largest_proved(
        (line["index"], task.eps)
        for task, lines in certified
        for line in lines
        if line["status"] == "certified"
    )
    in_vain, contradictions = attacks_on_proved(proved, attacked)
    curves: dict[str, tuple[Point, ...]] = {}
    for task, lines in sorted(found, key=lambda item: item[0].eps):
        status = "unbroken" if isinstance(task.job, AttackRun) else "certified"
        point = _point(task.eps, lines, status, first)
        curves[task.name] = (*curves.get(task.name, ()), point)
    some = certified[0][1]
    return Outcome(
        model.variant.name,
        model.seed,
        (load_model(train / MODEL) if given is None else given).digest,
        len(some),
        min(first, len(some)),
        clean_share(some),
        clean_share(some[:first]),
        statistics.median([line["seconds"] for line in epochs] or [0.0]),
        {task.name: curves[task.name] for task in model.variant.tasks},  # in their order
        _reasons((task.name, lines) for task, lines in certified),
        in_vain,
        tuple(contradictions),
    )


def _point(eps: float, lines: Lines, status: str, first: int) -> Point:
    seconds = sum(line["seconds"] for line in lines)
    return Point(eps, share(lines, status), len(lines), share(lines[:first], status), seconds)


def _reasons(certified: Iterable[tuple[str, Lines]]) -> dict[str, str]:
    """Why a method decided nothing at any radius, where that is one reason for all samples.

    "margin" is none: the method applies, and its bound is too weak.
    """
    said: dict[str, set[str]] = {}
    for name, lines in certified:
        why = {line["reason"] for line in lines if line["status"] == "unknown"}
        held = {""} if share(lines, "certified") > 0 else set()
        said[name] = said.get(name, set()) | why | held
    return {
        name: reason
        for name, reasons in said.items()
        for reason in reasons
        if len(reasons) == 1 and reason not in ("", "margin")
    }
