"""`equicert reproduce`: a published experiment, from training to its figure and its numbers."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from equicert.cli.options import ReproduceOptions
from equicert.errors import InputError, nearest
from equicert.presets import preset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equicert.data import DataSet
    from equicert.experiments.figure2 import Figure2
    from equicert.experiments.measurements import Measured
    from equicert.runs import RunFolder

_QUICK_SEEDS: Final = 1
_QUICK_EPOCHS: Final = 10
_QUICK_LIMIT: Final = 1000  # and all of them attacked
_QUICK_STEP: Final = 2  # hundredths between two radii


def run_reproduce(
    experiment: str, options: ReproduceOptions, *, quick: bool, resume: bool, quiet: bool
) -> None:
    """Train, certify and attack as the experiment asks; leave a figure, a page and all numbers.

    Raises:
        InputError: an unknown experiment or data set, an option out of its range.
        OutputError: `out` holds another run, or this one without `resume`.
        ContradictionError: an attack broke what was certified; everything was written.
    """
    if experiment != "figure2":
        raise InputError(f"unknown experiment '{experiment}'{nearest(experiment, ['figure2'])}")
    from equicert.cli import console
    from equicert.data import load_data
    from equicert.experiments.measurements import measure
    from equicert.experiments.verdicts import ContradictionError

    study = _figure2(options, quick=quick)
    folder_of_data = None if options.data_dir is None else Path(options.data_dir)
    data = load_data(options.data, folder_of_data, progress=not quiet)
    with console.study_progress(quiet) as progress:
        folder = study.run(data, options.out, spec=options.data, resume=resume, progress=progress)
    models = measure(study, folder.path)
    _write(folder, study, data, models, options, quick=quick)
    if not quiet:
        _print(folder, study, data, models, quick=quick)
    broken = [found for measured in models for found in measured.contradictions]
    if broken:
        raise ContradictionError(broken)


def _figure2(options: ReproduceOptions, *, quick: bool) -> Figure2:
    """The full or the quick study; options that are given override either."""
    from equicert.experiments.figure2 import Figure2, grid

    config = preset(options.preset, threads=options.threads)
    study = Figure2(config, radii=grid(options.eps_max, _QUICK_STEP if quick else 1))
    if quick:
        study = replace(
            study,
            config=replace(config, epochs=_QUICK_EPOCHS),
            seeds=_QUICK_SEEDS,
            limit=_QUICK_LIMIT,
        )
    if options.epochs is not None:
        study = replace(study, config=replace(study.config, epochs=options.epochs))
    if options.seeds is not None:
        study = replace(study, seeds=options.seeds)
    return study if options.limit is None else replace(study, limit=options.limit)


def _write(
    folder: RunFolder,
    study: Figure2,
    data: DataSet,
    models: Sequence[Measured],
    options: ReproduceOptions,
    *,
    quick: bool,
) -> None:
    from equicert.experiments import tables
    from equicert.experiments.pictures import figure2_picture
    from equicert.experiments.provenance import as_json
    from equicert.experiments.records import record

    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    command = _command_line(options, quick=quick)
    numbers = record(study, data, models, command=command, created=created, quick=quick)
    mnist = data.name == "mnist"
    units = "pixel values are in [0, 1]" if mnist else "in units of the data"
    subtitle = tables.subtitle(study, data.name, models, quick=quick)
    folder.write("figure2.png", figure2_picture(models, subtitle, units, published=mnist))
    folder.write("results.md", tables.page(study, data.name, models, numbers))
    folder.write("results.json", as_json(numbers))


def _print(
    folder: RunFolder, study: Figure2, data: DataSet, models: Sequence[Measured], *, quick: bool
) -> None:
    from equicert.cli import console
    from equicert.experiments import tables

    stdout = console.out()
    stdout.print(
        console.rows_table("Figure 2 of [J22]", tables.COMPARED, tables.comparison(study, models))
    )
    stdout.print(tables.check_sentence(models))
    stdout.print(tables.conditions(study, data.name, models))
    if quick:
        stdout.print(tables.QUICK)
    stdout.print(f"page: {shlex.quote(str(folder / 'results.md'))}")


def _command_line(options: ReproduceOptions, *, quick: bool) -> str:
    """What to type to get the same numbers again."""
    words = ["equicert", "reproduce", "figure2"]
    default = ReproduceOptions(options.data, options.out)
    for name, value in vars(options).items():
        if name in ("data", "out") or value != getattr(default, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, *(["--quick"] if quick else [])])
