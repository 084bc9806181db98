"""Figure 2 as it is handed over: figure2.png, results.md, results.json."""

from __future__ import annotations

from pathlib import Path

from equicert.data import DataSet
from equicert.experiments.figure2 import tables
from equicert.experiments.figure2.definition import Figure2
from equicert.experiments.figure2.measurements import measure
from equicert.experiments.figure2.pictures import figure2_picture
from equicert.experiments.figure2.records import record
from equicert.experiments.pages import QUICK, units_of, verdict_sentence
from equicert.experiments.provenance import as_json
from equicert.experiments.reports import Report, Request


def report(study: Figure2, data: DataSet, out: Path, request: Request) -> Report:
    """From a folder in which the study has run to its end.

    Raises:
        OutputError, ModelError: a file is missing or damaged.
    """
    models = measure(study, out)
    numbers = record(study, data, models, request)
    subtitle = tables.subtitle(study, data.name, models, quick=request.quick)
    published = data.name == "mnist"
    picture = figure2_picture(models, subtitle, units_of(data.name), published=published)
    conditions = tables.conditions(study, data.name, models)
    return Report(
        {
            "figure2.png": picture,
            "results.md": tables.page(study, data.name, models, numbers),
            "results.json": as_json(numbers),
        },
        "Figure 2 of [J22]",
        tables.COMPARED,
        tables.comparison(study, models),
        [verdict_sentence(models), conditions, *([QUICK] if request.quick else [])],
        [found for measured in models for found in measured.contradictions],
    )
