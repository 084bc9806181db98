"""Figure 1 as it is handed over: figure1.png, results.md, results.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from equicert.data import DataSet
from equicert.experiments.figure1 import tables
from equicert.experiments.figure1.definition import Figure1
from equicert.experiments.figure1.pictures import figure1_picture
from equicert.experiments.figure1.statements import Statement, statements
from equicert.experiments.outcomes import Outcome, measured, outcomes
from equicert.experiments.pages import QUICK, subtitle, units_of, verdict_sentence
from equicert.experiments.provenance import as_json, asked, described, surroundings
from equicert.experiments.published import FIGURE1, FIGURE2_MACHINE, J22
from equicert.experiments.reports import Report, Request


def report(study: Figure1, data: DataSet, out: Path, request: Request) -> Report:
    """From a folder in which the study has run to its end.

    Raises:
        OutputError, ModelError: a file is missing or damaged.
    """
    found = outcomes(study, out)
    said = statements(study, found)
    numbers = record(study, data, found, said, request)
    below = subtitle(data.name, study.seeds, found[0].samples, quick=request.quick)
    conditions = tables.conditions(study, data.name, found)
    return Report(
        {
            "figure1.png": figure1_picture(study, found, below, units_of(data.name)),
            "results.md": tables.page(study, data.name, found, said, numbers),
            "results.json": as_json(numbers),
        },
        "Figure 1 of [J22]",
        tables.CERTIFIED,
        tables.certified_rows(study, found),
        [verdict_sentence(found), conditions, *([QUICK] if request.quick else [])],
        [contradiction for outcome in found for contradiction in outcome.contradictions],
    )


def record(
    study: Figure1,
    data: DataSet,
    found: Sequence[Outcome],
    said: Sequence[Statement],
    request: Request,
) -> dict[str, Any]:
    """Every number per seed and over seeds, and what they depend on. Times are in seconds."""
    return {
        **asked(study.kind, request),
        "data": described(data, found[0].samples),
        "settings": dict(study.settings()),
        **measured(study, found),
        "statements": [asdict(statement) for statement in said],
        "published": {"source": J22, "machine": FIGURE2_MACHINE, **asdict(FIGURE1)},
        **surroundings(study.threads),
    }
