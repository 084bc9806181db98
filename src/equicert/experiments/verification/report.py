"""The study as it is handed over: verification.png, cost.png, results.md, results.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from equicert.data import DataSet
from equicert.experiments.pages import QUICK, units_of, verdict_sentence
from equicert.experiments.provenance import as_json, asked, described, surroundings
from equicert.experiments.reports import Report, Request
from equicert.experiments.verification import tables
from equicert.experiments.verification.definition import AUTO, METHODS, Verification
from equicert.experiments.verification.measurements import Measured, measure, spread
from equicert.experiments.verification.pictures import cost_picture, shares_picture


def report(study: Verification, data: DataSet, out: Path, request: Request) -> Report:
    """From a folder in which the study has run to its end.

    Raises:
        OutputError, ModelError: a file is missing or damaged.
    """
    models = measure(study, out)
    numbers = record(study, data, models, request)
    below = tables.subtitles(study, data.name, models, quick=request.quick)
    conditions = tables.conditions(study, data.name, models)
    return Report(
        {
            "verification.png": shares_picture(models, below, units_of(data.name)),
            "cost.png": cost_picture(models, study.eps, below),
            "results.md": tables.page(study, data.name, models, numbers),
            "results.json": as_json(numbers),
        },
        "Certified by each method, by radius",
        tables.BY_RADIUS,
        tables.by_radius(models),
        [verdict_sentence(models), conditions, *([QUICK] if request.quick else [])],
        [found for measured in models for found in measured.contradictions],
    )


def record(
    study: Verification, data: DataSet, models: Sequence[Measured], request: Request
) -> dict[str, Any]:
    """Every number per model and over seeds, and what they depend on. Times are in seconds."""
    return {
        **asked(study.kind, request),
        "data": described(data, models[0].samples),
        "settings": dict(study.settings()),
        "certified_yet_broken": sum(len(measured.contradictions) for measured in models),
        "over_seeds": _over_seeds(models),
        "models": [asdict(measured) for measured in models],
        **surroundings(study.threads),
    }


def _over_seeds(models: Sequence[Measured]) -> dict[str, Any]:
    """Mean, sample standard deviation, least and greatest value of each share and time."""

    def over(value: Callable[[Measured], float]) -> dict[str, Any]:
        return asdict(spread(models, value))

    rows = []
    for k, row in enumerate(models[0].rows):
        certified = {n: over(lambda m, k=k, n=n: m.rows[k].certified[n]) for n in METHODS}
        rows.append(
            {
                "eps": row.eps,
                "certified": certified,
                "not_falsified": over(lambda m, k=k: m.rows[k].open),
                "unbroken": over(lambda m, k=k: m.rows[k].unbroken),
                "decided": over(lambda m, k=k: m.rows[k].decided),
                "seconds": over(lambda m, k=k: m.rows[k].seconds),
            }
        )
    costs = {
        name: {
            "certified": over(lambda m, n=name: m.cost(n).certified),
            "seconds": over(lambda m, n=name: m.cost(n).seconds),
            "median_seconds": over(lambda m, n=name: m.cost(n).median),
        }
        for name in (*METHODS, AUTO)
    }
    return {"clean": over(lambda m: m.clean), "rows": rows, "costs": costs}
