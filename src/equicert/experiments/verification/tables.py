"""What was decided by radius and at what cost: rows of text, and the page results.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from equicert.experiments.pages import (
    again,
    counted,
    grouped,
    markdown,
    name_of,
    quick_note,
    seeds_of,
    shares,
    verdict_sentence,
)
from equicert.experiments.verification.definition import AUTO, METHODS, Verification
from equicert.experiments.verification.measurements import Measured, Row, spread

CALLED: Final = {
    "lipschitz": "Lipschitz (13)",
    "interval": "interval (14)",
    "dual": "dual",
    "tightening": "tightening",
    "complete": "complete",
    AUTO: "auto",
}
BY_RADIUS: Final = (
    *("eps", "(13)", "(14)", "dual", "tightening", "complete"),
    *("not falsified", "unbroken by PGD", "decided"),
)
_TIMES: Final = ("eps", "auto, total", "median a sample", "unknown")
_COSTS: Final = (
    *("method alone", "certified", "decided", "total", "mean a sample", "median", "largest"),
    *("missed", "more", "remark"),
)


def by_radius(models: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Rows under BY_RADIUS."""
    values: list[Callable[[Row], float]] = [
        lambda row, n=name: row.certified[n] for name in METHODS
    ]
    values += [lambda row: row.open, lambda row: row.unbroken, lambda row: row.decided]
    return [
        (
            f"{row.eps:g}",
            *(shares(spread(models, lambda m, k=k, v=value: v(m.rows[k]))) for value in values),
        )
        for k, row in enumerate(models[0].rows)
    ]


def conditions(study: Verification, data: str, models: Sequence[Measured]) -> str:
    """What the numbers are of: data, network, samples, seeds, attack, limits."""
    config = study.config
    network = (
        f"one network (weights {models[0].digest[:12]})"
        if study.given is not None
        else f"networks trained for {counted(config.epochs, 'epoch')}, {seeds_of(study.seeds)}"
    )
    starts = counted(study.pgd.restarts, "random start")
    return (
        f"Data {data}, the first {grouped(models[0].samples)} test images, {network}; boxes are"
        f" clipped to the data's domain. A sample may take {study.timeout:g} s of tightening and"
        f" branch and bound; then it is unknown. PGD takes {study.pgd.steps} steps from {starts}."
        " Shares are of all these images."
    )


ASSUMPTION: Final = (
    "Shares by method are from one run of auto at each radius, whose verdicts name the method that"
    " decided them: what one method certifies, the later ones are taken to certify as well. Not"
    " falsified is what is certified or unknown; where nothing is unknown it equals complete."
)


def subtitles(
    study: Verification, data: str, models: Sequence[Measured], *, quick: bool
) -> tuple[str, str]:
    """What the figures say below their titles: what the numbers are of, and the limits."""
    version = "quick version, " if quick else ""
    seeds = "one network" if study.given is not None else seeds_of(study.seeds)
    samples = f"first {grouped(models[0].samples)} test images"
    limits = f"boxes clipped, at most {study.timeout:g} s a sample"
    return f"{version}{name_of(data)}, {seeds}, {samples}", limits


def page(study: Verification, data: str, models: Sequence[Measured], record: dict[str, Any]) -> str:
    """The text of results.md; `record` is what results.json holds."""
    return "\n".join(
        [
            "# Complete verification by radius, and its cost",
            "",
            *quick_note(record["quick"]),
            conditions(study, data, models),
            "",
            "![Share certified by each method against the radius](verification.png)",
            "",
            ASSUMPTION,
            "",
            *markdown(BY_RADIUS, by_radius(models)),
            "",
            verdict_sentence(models) + " Witnesses in certified boxes would count, too.",
            "",
            *markdown(_TIMES, _times(models)),
            "",
            f"## Each method alone at eps = {study.eps:g}",
            "",
            "![Time a sample against the share certified](cost.png)",
            "",
            *markdown(_COSTS, _costs(models)),
            "",
            _check(models),
            "",
            _clock(record["machine"]),
            "",
            *again(record["command"]),
        ]
    )


def _times(models: Sequence[Measured]) -> list[tuple[str, ...]]:
    rows = []
    for k, row in enumerate(models[0].rows):
        reasons = sum((Counter(m.rows[k].reasons) for m in models), Counter[str]())
        total = spread(models, lambda m, k=k: m.rows[k].seconds).mean
        median = spread(models, lambda m, k=k: m.rows[k].median).mean
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        rows.append((f"{row.eps:g}", f"{total:.3g} s", time_of(median), why or "none"))
    return rows


def _costs(models: Sequence[Measured]) -> list[tuple[str, ...]]:
    rows = []
    for name in (*METHODS, AUTO):
        costs = [measured.cost(name) for measured in models]
        total, mean, median, largest = (
            sum(getattr(cost, key) for cost in costs) / len(costs)
            for key in ("seconds", "mean", "median", "largest")
        )
        own = [shares(spread(models, lambda m, n=name: m.cost(n).certified))]
        own += [shares(spread(models, lambda m, n=name: m.cost(n).decided)), f"{total:.3g} s"]
        own += [time_of(seconds) for seconds in (mean, median, largest)]
        own += [str(sum(c.missed for c in costs)), str(sum(c.more for c in costs))]
        why = sorted({cost.reason for cost in costs} - {""})
        remark = f"does not apply: {', '.join(why)}" if why else ""
        rows.append((CALLED[name], *own, remark))
    return rows


def _check(models: Sequence[Measured]) -> str:
    missed, more = (sum(getattr(c, k) for m in models for c in m.costs) for k in ("missed", "more"))
    return (
        "The assumption, held against each method alone: samples that auto says a method (or a"
        f" cheaper one) certifies and that it does not certify alone (missed): {missed}; samples"
        f" that it certifies alone and that auto left to a later method, or to nothing (more):"
        f" {more}. Time-outs may cause either."
    )


def _clock(machine: dict[str, Any]) -> str:
    return (
        f"Times are by the clock, on {machine['processor']},"
        f" {counted(machine['threads'], 'thread')}. The time of a sample is that of its own search"
        " and an equal part of what all samples share."
    )


def time_of(seconds: float) -> str:
    """As "1.2 ms" or "3.4 s"."""
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
