"""`equicert demo`: the whole story on handwritten digits, told on the terminal and on a page."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from equicert.cli.options import DemoOptions

if TYPE_CHECKING:
    from rich.table import Table

    from equicert.cli.demo.study import Findings


def run_demo(options: DemoOptions, *, quick: bool, quiet: bool) -> None:
    """Train, certify, attack; print a table; leave a report, replacing an earlier one as a whole.

    Raises:
        ConfigError: a seed or a number of threads out of range; nothing was done.
        OutputError: `out` holds something that the demo did not make, or cannot be written.
        ContradictionError: an attack broke what was certified.
    """
    from equicert.cli import console
    from equicert.cli.demo.pictures import draw_figures
    from equicert.cli.demo.replacement import earlier, replacing
    from equicert.cli.demo.study import Clock, Plan, study
    from equicert.training import thread_count

    plan, out, clock = Plan.of(options, quick=quick), Path(options.out), Clock()
    there = earlier(out)
    if not quiet:
        long = "a few seconds" if quick else "about a minute"
        console.out().print(f"training, certifying and attacking on handwritten digits, {long}")
        if there is not None:
            console.out().print(f"the demo of {there.created} in {out} will be replaced")
    with replacing(out) as folder, thread_count(plan.config.threads or 1):
        found = study(plan, folder, clock, quiet=quiet)
        with clock.stage("figures"), console.progress("drawing", quiet):
            pictures = draw_figures(found)
        created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        _write(folder, found, options, pictures, created)
    if not quiet:
        _print(found, out, replaced=None if there is None else there.created)


def _write(
    folder: Path,
    found: Findings,
    options: DemoOptions,
    pictures: dict[str, tuple[bytes, bytes]],
    created: str,
) -> None:
    from equicert.cli.demo import numbers, page
    from equicert.cli.demo.replacement import LIST, list_files
    from equicert.experiments.provenance import as_json
    from equicert.report import write_report
    from equicert.runs import write_atomic

    (folder / "figures").mkdir()
    for name, (light, dark) in pictures.items():
        write_atomic(folder / "figures" / f"{name}.png", light)
        write_atomic(folder / "figures" / f"{name}-dark.png", dark)
    sections = page.sections(found, options, pictures)
    lead, footer = page.lead(found), page.footer(created)
    write_report(folder / "report.html", page.TITLE, lead, sections, footer)
    found_numbers = numbers.results(found, options, created)
    found_numbers["files"] = list_files(folder)
    write_atomic(folder / LIST, as_json(found_numbers))


def _print(found: Findings, out: Path, replaced: str | None) -> None:
    from equicert.cli import console

    stdout = console.out()
    stdout.print(_table(found))
    stdout.print(
        f"mu(W) <= {found.network.contraction.mu:.3g} < 1, proved; {found.attacked} attacks on"
        " certified boxes, none succeeded"
    )
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in found.seconds.items())
    stdout.print(f"times: {stages}")
    if replaced is not None:
        stdout.print(f"replaced the demo of {replaced}")
    stdout.print(f"report: {shlex.quote(str(out / 'report.html'))}")


def _table(found: Findings) -> Table:
    from rich.table import Table

    from equicert.report import percent

    table = Table(
        title=f"{len(found.samples.x)} test images, boxes clipped to [0, 1], shares of all images",
        title_justify="left",
    )
    names = ("radius", "certified by (13)", "certified by (14)", "unbroken by PGD")
    for name in (*names, "unbroken by FGSM", "clean"):
        table.add_column(name, justify="right")
    for row in found.rows[1:]:
        shares = (row.certified_lipschitz, row.certified_interval, row.unbroken_pgd)
        cells = [percent(share) for share in (*shares, row.unbroken_fgsm, found.clean)]
        style = "bold" if row.eps == found.plan.eps else ""
        table.add_row(f"{row.eps:g}", *cells, style=style)
    return table
