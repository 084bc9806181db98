"""The comparison as it is handed over: systems.png, results.md, results.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equicert.data import DataSet
from equicert.experiments.outcomes import Outcome, measured, outcomes
from equicert.experiments.pages import QUICK, subtitle, units_of, verdict_sentence
from equicert.experiments.provenance import as_json, asked, described, surroundings
from equicert.experiments.reports import Report, Request
from equicert.experiments.systems import tables
from equicert.experiments.systems.definition import Systems, best
from equicert.experiments.systems.pictures import systems_picture


def report(study: Systems, data: DataSet, out: Path, request: Request) -> Report:
    """From a folder in which the study has run to its end.

    Raises:
        OutputError, ModelError: a file is missing or damaged.
    """
    found = outcomes(study, out)
    numbers = record(study, data, found, request)
    below = subtitle(data.name, study.seeds, found[0].samples, quick=request.quick)
    conditions = tables.conditions(study, data.name, found)
    return Report(
        {
            "systems.png": systems_picture(study, found, below, units_of(data.name)),
            "results.md": tables.page(study, data.name, found, numbers),
            "results.json": as_json(numbers),
        },
        "All systems, each under its best certificate",
        tables.COMPARED,
        tables.compared(study, found),
        [verdict_sentence(found), conditions, *([QUICK] if request.quick else [])],
        [contradiction for outcome in found for contradiction in outcome.contradictions],
    )


def record(
    study: Systems, data: DataSet, found: Sequence[Outcome], request: Request
) -> dict[str, Any]:
    """Every number per seed and over seeds, and what they depend on. Times are in seconds."""
    best_of = {
        system.name: {f"{eps:g}": best(found, system, eps)[0] for eps in study.radii}
        for system in study.systems
    }
    about = {s.name: {"source": s.source, "tuning_runs": s.tuning} for s in study.systems}
    return {
        **asked(study.kind, request),
        "data": described(data, found[0].samples),
        "settings": dict(study.settings()),
        "systems": about,
        "best": best_of,
        **measured(study, found),
        **surroundings(study.threads),
    }
