"""The study as it is handed over: convolutions.png, results.md, results.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from equicert.data import DataSet
from equicert.experiments.convolutions import tables
from equicert.experiments.convolutions.definition import Convolutions
from equicert.experiments.convolutions.measurements import About, describe
from equicert.experiments.convolutions.pictures import convolutions_picture
from equicert.experiments.convolutions.redo import commands
from equicert.experiments.outcomes import Outcome, measured, outcomes
from equicert.experiments.pages import QUICK, units_of, verdict_sentence
from equicert.experiments.provenance import as_json, asked, described, surroundings
from equicert.experiments.published import CERTIFIED, PublishedShare
from equicert.experiments.reports import Report, Request


def report(study: Convolutions, data: DataSet, out: Path, request: Request) -> Report:
    """From a folder in which the study has run to its end.

    Raises:
        OutputError, ModelError: a file is missing or damaged.
    """
    found, models = outcomes(study, out), describe(study, out)
    published = CERTIFIED if data.name == "mnist" else ()
    numbers = record(study, data, found, models, published, request)
    below = tables.subtitle(study, data.name, found, quick=request.quick)
    picture = convolutions_picture(study, found, published, below, units_of(data.name))
    conditions = tables.conditions(study, data.name, found)
    return Report(
        {
            "convolutions.png": picture,
            "results.md": tables.page(study, data.name, found, models, numbers),
            "results.json": as_json(numbers),
        },
        "Dense and convolutional networks, certified by (14)",
        tables.COMPARED,
        tables.compared(study, found),
        [verdict_sentence(found), conditions, *([QUICK] if request.quick else [])],
        [contradiction for outcome in found for contradiction in outcome.contradictions],
    )


def record(
    study: Convolutions,
    data: DataSet,
    found: Sequence[Outcome],
    models: Sequence[About],
    published: Sequence[PublishedShare],
    request: Request,
) -> dict[str, Any]:
    """Every number per model and over seeds, and what they depend on. Times are in seconds."""
    return {
        **asked(study.kind, request),
        "data": described(data, found[0].samples),
        "settings": dict(study.settings()),
        "published": [asdict(known) for known in published],
        "networks": [asdict(about) for about in models],
        "commands": {entry.name: commands(study, entry, data.name) for entry in study.entries},
        **measured(study, found),
        **surroundings(study.threads),
    }
