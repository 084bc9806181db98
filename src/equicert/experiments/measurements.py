"""The numbers of Figure 2, read from the folders of its stages, and their spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from equicert.evaluation import AttackRun
from equicert.experiments.figure2 import Figure2, Stage
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


def spread(models: Sequence[Measured], name: str, value: Callable[[Measured], float]) -> Spread:
    """The spread over seeds of a value of the models of this name."""
    return Spread.of([value(measured) for measured in models if measured.model == name])


def measure(study: Figure2, out: str | Path) -> list[Measured]:
    """The numbers of every model, from a folder in which the study has run to its end.

    Raises:
        OutputError, ModelError: a file is missing or damaged.
    """
    return [_measure(study, Path(out), seed, model) for seed, model in study.models()]


def _measure(study: Figure2, out: Path, seed: int, model: str) -> Measured:
    certified: dict[float, Lines] = {}
    attacked: dict[float, Lines] = {}
    unclipped: Lines = []
    for stage in study.evaluations(model, seed):
        lines = read_lines(out / stage.folder / "verdicts.jsonl")
        if isinstance(stage.job, AttackRun):
            attacked[stage.job.eps] = lines
        elif not stage.clipped:
            unclipped = lines
        elif stage.job is not None and stage.job.eps is not None:
            certified[stage.job.eps] = lines
    every = [*certified.items(), (study.eps, unclipped)]
    proved = largest_proved(
        (line["index"], eps) for eps, lines in every for line in lines if _is_certified(line)
    )
    in_vain, contradictions = attacks_on_proved(proved, attacked.items())
    first = min(study.attacked, len(unclipped))
    rows = {eps: _row(eps, lines, attacked.get(eps), first) for eps, lines in certified.items()}
    train = out / Stage(seed, model).folder
    return Measured(
        model,
        seed,
        load_model(train / MODEL).digest,
        len(unclipped),
        clean_share(unclipped),
        tuple(rows.values()),
        rows[study.eps],
        share(unclipped, "certified"),
        statistics.median(line["seconds"] for line in read_lines(train / METRICS)),
        _seconds(certified[study.eps]),
        _seconds(attacked[study.eps]),
        in_vain,
        tuple(contradictions),
    )


def _row(eps: float, certified: Lines, attacked: Lines | None, first: int) -> Row:
    if attacked is None:
        unbroken, count = clean_share(certified), len(certified)
        unbroken_first = clean_share(certified[:first])
    else:
        unbroken, count = share(attacked, "unbroken"), len(attacked)
        unbroken_first = share(attacked[:first], "unbroken")
    certified_first = share(certified[:first], "certified")
    all_certified = share(certified, "certified")
    return Row(eps, all_certified, unbroken, count, certified_first, unbroken_first, first)


def _is_certified(line: dict[str, object]) -> bool:
    return line["status"] == "certified"


def _seconds(lines: Lines) -> float:
    return sum(line["seconds"] for line in lines)
