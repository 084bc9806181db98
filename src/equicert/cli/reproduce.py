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
    from collections.abc import Callable

    from equicert.data import DataSet
    from equicert.experiments.convolutions.definition import Convolutions
    from equicert.experiments.convolutions.given import Given
    from equicert.experiments.figure1.definition import Figure1
    from equicert.experiments.figure2.definition import Figure2
    from equicert.experiments.reports import Report, Request
    from equicert.experiments.study import Study
    from equicert.experiments.systems.definition import Systems
    from equicert.experiments.verification.definition import Verification
    from equicert.schedules import TrainConfig

_QUICK_SEEDS: Final = 1
_QUICK_LIMIT: Final = 1000  # and all of them attacked
_QUICK_SEARCHED: Final = 100  # of what may search for seconds a sample
_QUICK_EPOCHS: Final = {
    "figure1": 2,
    "figure2": 10,
    "systems": 1,
    "verification": 10,
    "convolutions": 20,
}
_QUICK_STEP: Final = 2  # hundredths, or fortieths, between two radii
_OWN: Final = {  # settings of some experiments only
    "preset": ("figure2", "verification"),
    "eps_max": ("figure2", "verification"),
    "model": ("verification", "convolutions"),
    "timeout": ("verification",),
}
EXPERIMENTS: Final = tuple(_QUICK_EPOCHS)


def run_reproduce(
    experiment: str, options: ReproduceOptions, *, quick: bool, resume: bool, quiet: bool
) -> None:
    """Train, certify and attack as the experiment asks; leave a figure, a page and all numbers.

    Raises:
        InputError: an unknown experiment or data set, an option out of its range or of another
            experiment.
        OutputError: `out` holds another run, or this one without `resume`.
        ContradictionError: an attack broke what was certified; everything was written.
    """
    if experiment not in EXPERIMENTS:
        raise InputError(f"unknown experiment '{experiment}'{nearest(experiment, EXPERIMENTS)}")
    from equicert.cli import console
    from equicert.data import load_data
    from equicert.experiments.reports import Request
    from equicert.experiments.verdicts import ContradictionError

    study, report = _planned(experiment, options, quick=quick)
    folder_of_data = None if options.data_dir is None else Path(options.data_dir)
    data = load_data(options.data, folder_of_data, progress=not quiet)
    with console.study_progress(quiet) as progress:
        folder = study.run(data, options.out, spec=options.data, resume=resume, progress=progress)
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    command = _command_line(experiment, options, quick=quick)
    found = report(data, folder.path, Request(command, created, quick))
    for name, content in found.files.items():
        folder.write(name, content)
    if not quiet:
        stdout = console.out()
        stdout.print(console.rows_table(found.title, found.header, found.rows))
        for remark in found.remarks:
            stdout.print(remark)
        stdout.print(f"page: {shlex.quote(str(folder / 'results.md'))}")
    if found.contradictions:
        raise ContradictionError(found.contradictions)


def _planned(
    experiment: str, options: ReproduceOptions, *, quick: bool
) -> tuple[Study, Callable[[DataSet, Path, Request], Report]]:
    """The study, and what makes its report."""
    from functools import partial

    _refuse_settings_of_others(experiment, options)
    if experiment == "verification":
        from equicert.experiments.verification.report import report as of_verification

        verification = _verification(options, quick=quick)
        return verification, partial(of_verification, verification)
    if experiment == "convolutions":
        from equicert.experiments.convolutions.report import report as of_convolutions

        convolutions = _convolutions(options, quick=quick)
        return convolutions, partial(of_convolutions, convolutions)
    if experiment == "systems":
        from equicert.experiments.systems.report import report as of_systems

        systems = _systems(options, quick=quick)
        return systems, partial(of_systems, systems)
    if experiment == "figure1":
        from equicert.experiments.figure1.report import report as of_figure1

        figure1 = _figure1(options, quick=quick)
        return figure1, partial(of_figure1, figure1)
    from equicert.experiments.figure2.report import report as of_figure2

    figure2 = _figure2(options, quick=quick)
    return figure2, partial(of_figure2, figure2)


def _figure1(options: ReproduceOptions, *, quick: bool) -> Figure1:
    """The full or the quick study; options that are given override either."""
    from equicert.experiments.figure1.definition import QUICK_RADII, Figure1

    config = preset("lipschitz-published", threads=options.threads)
    study = Figure1(config)
    if quick:
        config = replace(config, epochs=_QUICK_EPOCHS["figure1"])
        study = replace(study, radii=QUICK_RADII)
    if options.epochs is not None:
        config = replace(config, epochs=options.epochs)
    seeds, limit = _counts(options, study, quick=quick)
    return replace(study, config=config, seeds=seeds, limit=limit)


def _systems(options: ReproduceOptions, *, quick: bool) -> Systems:
    """The full or the quick study; options that are given override either."""
    from equicert.experiments.study import lasting
    from equicert.experiments.systems.definition import QUICK_RADII, Systems

    study = Systems()
    if quick:
        study = replace(study, radii=QUICK_RADII)
    short = _QUICK_EPOCHS["systems"] if quick else None
    epochs = short if options.epochs is None else options.epochs

    def settled(config: TrainConfig) -> TrainConfig:
        config = replace(config, threads=options.threads)
        return config if epochs is None else lasting(config, epochs)

    systems = tuple(replace(s, config=settled(s.config)) for s in study.systems)
    seeds, limit = _counts(options, study, quick=quick)
    return replace(study, systems=systems, seeds=seeds, limit=limit)


def _verification(options: ReproduceOptions, *, quick: bool) -> Verification:
    """The full or the quick study; options that are given override either."""
    from equicert.experiments.verification.definition import Verification, grid
    from equicert.models import load_model

    if options.model is not None:
        _refuse_settings_of_training(options)
    config = preset(options.preset, threads=options.threads)
    epochs = _QUICK_EPOCHS["verification"] if quick else config.epochs
    config = replace(config, epochs=epochs if options.epochs is None else options.epochs)
    study = Verification(config, radii=grid(options.eps_max, _QUICK_STEP if quick else 1))
    seeds, limit = _counts(options, study, quick=quick, few=_QUICK_SEARCHED)
    timeout = study.timeout if options.timeout is None else options.timeout
    given = None if options.model is None else load_model(options.model)
    return replace(study, given=given, seeds=seeds, limit=limit, timeout=timeout)


def _convolutions(options: ReproduceOptions, *, quick: bool) -> Convolutions:
    """The full or the quick study; options that are given override either."""
    from equicert.experiments.convolutions import definition
    from equicert.experiments.study import lasting

    short = _QUICK_EPOCHS["convolutions"] if options.epochs is None else options.epochs
    models = definition.with_given(definition.ENTRIES, _named_models(options.model))
    if all(entry.given for entry in models):
        _refuse_settings_of_training(options)

    def settled(entry: definition.Entry) -> definition.Entry:
        if quick:
            entry = definition.quick(entry, short)
        elif options.epochs is not None:
            entry = replace(entry, config=lasting(entry.config, options.epochs))
        return replace(entry, config=replace(entry.config, threads=options.threads))

    study = definition.Convolutions(tuple(map(settled, models)))
    if quick:
        study = replace(study, radii=definition.QUICK_RADII)
    seeds, limit = _counts(options, study, quick=quick)
    return replace(study, seeds=seeds, limit=limit)


def _named_models(text: str | None) -> dict[str, Given]:
    """The models of a text such as "dense=runs/best/model.safetensors,mine=mine.npz".

    Raises:
        InputError: something else, or a name twice.
        ModelError: a file that is none.
    """
    from equicert.experiments.convolutions.given import given_model

    found: dict[str, Given] = {}
    for part in [] if text is None else text.split(","):
        name, equals, path = (word.strip() for word in part.partition("="))
        if not (name and equals and path) or name in found:
            raise InputError(
                "model of convolutions must be NAME=FILE, or several of different names separated"
                f" by commas, such as dense=best.safetensors,other=other.npz; got '{text}'"
            )
        found[name] = given_model(path)
    return found


def _refuse_settings_of_others(experiment: str, options: ReproduceOptions) -> None:
    """Raise InputError for a setting that would be ignored."""
    default = ReproduceOptions(options.data, options.out)
    for name, owners in _OWN.items():
        if experiment not in owners and getattr(options, name) != getattr(default, name):
            raise InputError(
                f"{name} is a setting of {' and '.join(owners)}, not of {experiment}; leave it out"
            )


def _refuse_settings_of_training(options: ReproduceOptions) -> None:
    """Raise InputError for a setting that a given model leaves no room for."""
    default = ReproduceOptions(options.data, options.out)
    for name in ("preset", "seeds", "epochs"):
        if getattr(options, name) != getattr(default, name):
            raise InputError(f"{name} is of training, and --model is trained already; leave it out")


def _figure2(options: ReproduceOptions, *, quick: bool) -> Figure2:
    """The full or the quick study; options that are given override either."""
    from equicert.experiments.figure2.definition import Figure2, grid

    config = preset(options.preset, threads=options.threads)
    study = Figure2(config, radii=grid(options.eps_max, _QUICK_STEP if quick else 1))
    epochs = _QUICK_EPOCHS["figure2"] if quick else config.epochs
    config = replace(config, epochs=epochs if options.epochs is None else options.epochs)
    seeds, limit = _counts(options, study, quick=quick)
    return replace(study, config=config, seeds=seeds, limit=limit)


def _counts(
    options: ReproduceOptions, study: Study, *, quick: bool, few: int = _QUICK_LIMIT
) -> tuple[int, int | None]:
    """Seeds, and the limit of samples, which is `few` in the quick study."""
    seeds, limit = (_QUICK_SEEDS, few) if quick else (study.seeds, study.limit)
    seeds = seeds if options.seeds is None else options.seeds
    return seeds, limit if options.limit is None else options.limit


def _command_line(experiment: str, options: ReproduceOptions, *, quick: bool) -> str:
    """What to type to get the same numbers again."""
    words = ["equicert", "reproduce", experiment]
    default = ReproduceOptions(options.data, options.out)
    for name, value in vars(options).items():
        if name in ("data", "out") or value != getattr(default, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, *(["--quick"] if quick else [])])
