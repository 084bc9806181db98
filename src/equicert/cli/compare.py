"""`equicert compare`: models side by side."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from equicert.cli.options import CompareOptions
from equicert.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from equicert.comparison import Compared, Named
    from equicert.comparison.tables import Conditions
    from equicert.data import DataSet


def run_compare(
    options: CompareOptions, models: Sequence[str], *, resume: bool, json: bool, quiet: bool
) -> None:
    """Measure every model, print the table, and write it where an output folder is named.

    Raises:
        InputError: a model or the data cannot be used, or an option is out of its range.
        OutputError: `out` holds another run, or this one without `resume`.
        ContradictionError: an attack broke what was certified; everything was written.
    """
    from equicert.cli import console
    from equicert.cli.commands import set_threads, with_domain
    from equicert.comparison import compare, refuse_contradictions, tables
    from equicert.data import load_data
    from equicert.runs import write_atomic

    set_threads(options.threads)
    if resume and options.out is None:
        raise InputError("--resume continues the run in a folder: name it with --out")
    named = _load(models, options.activation)
    folder_of_data = None if options.data_dir is None else Path(options.data_dir)
    data = load_data(options.data, folder_of_data, progress=not quiet)
    data = with_domain(data, options.domain)
    with console.study_progress(quiet) as progress:
        found = compare(
            named,
            data,
            options.eps,
            limit=options.limit,
            out=options.out,
            resume=resume,
            progress=progress,
        )
    conditions = _conditions(data, options)
    numbers = tables.record(found, conditions)
    if options.out is not None:
        out = Path(options.out)
        write_atomic(out / "comparison.json", dumps(numbers, indent=2, allow_nan=False) + "\n")
        write_atomic(out / "comparison.md", tables.page(found, conditions))
    if json:
        console.out().print_json(dumps(numbers, allow_nan=False))
    elif not quiet:
        _print(found, conditions)
    refuse_contradictions(found)


def _load(paths: Sequence[str], activation: str | None) -> list[Named]:
    """The models; `activation` is for those whose files name none."""
    from equicert.comparison import Named, short_names
    from equicert.models import load_model, model_metadata

    names = short_names(paths)
    silent = ["activation" not in model_metadata(path) for path in paths]
    if activation is not None and not any(silent):
        raise InputError(
            f"--activation {activation} is for models that do not name theirs, and all of these"
            " do; leave it out"
        )
    return [
        Named(name, load_model(path, activation if lacking else None))
        for name, path, lacking in zip(names, paths, silent, strict=True)
    ]


def _conditions(data: DataSet, options: CompareOptions) -> Conditions:
    from equicert.attacks import PGD
    from equicert.checkpoints import describe_domain
    from equicert.comparison.tables import Conditions

    samples = len(data.x_test[: options.limit])
    domain = describe_domain(data.domain)
    pgd = PGD()
    starts = "1 random start" if pgd.restarts == 1 else f"{pgd.restarts} random starts"
    attack = f"{pgd.steps} steps from {starts}"
    return Conditions(data.name, data.digest, samples, domain, options.eps, attack)


def _print(found: Sequence[Compared], conditions: Conditions) -> None:
    from equicert.cli import console
    from equicert.comparison import tables

    stdout, table = console.out(), tables.texts(found)
    together = console.columns_that_fit(stdout)
    for first in range(0, len(found), together):
        part = table.columns(first, first + together)
        stdout.print(console.columns_table(part.header, part.rows))
    for line in tables.numbered(table.notes):
        stdout.print(line)
    stdout.print(tables.explanation(conditions))
    stdout.print(tables.check_sentence(found))
