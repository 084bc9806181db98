"""`equicert zoo`: the models that come with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equicert.zoo import Shipped

_ROWS = (
    "data",
    "structure of W and U",
    "hidden units",
    "activation",
    "parameters",
    "file, kB",
    "eps",
    "test samples",
    "measured: clean",
    "measured: certified",
    "  by method",
)
_EXPLANATION = (
    "All test samples were measured when the models were made. Nothing believes these numbers:"
    " `equicert certify` proves each verdict anew, from the weights."
)


def run_zoo() -> None:
    """Print the models side by side, and the commands that made and measured them.

    Raises:
        ModelError: a file of the package is missing or damaged.
    """
    from equicert import zoo
    from equicert.cli import console

    stdout, found = console.out(), zoo.entries()
    columns = [
        (f"{zoo.PREFIX}{name}", *_cells(entry, zoo.path(name).stat().st_size))
        for name, entry in found.items()
    ]
    together = console.columns_that_fit(stdout)
    for first in range(0, len(columns), together):
        lines = zip(("", *_ROWS), *columns[first : first + together], strict=True)
        header, *rows = lines
        stdout.print(console.columns_table(header, rows))
    for name, entry in found.items():
        stdout.print(f"{zoo.PREFIX}{name}, trained by\n  {entry.trained}")
        stdout.print(f"measured by\n  {entry.measured}\n")
    stdout.print(_EXPLANATION)


def _cells(entry: Shipped, size: int) -> tuple[str, ...]:
    """What is said of one model, in the order of `_ROWS`."""
    from equicert.report import percent

    return (
        entry.data,
        entry.structure,
        f"{entry.units}",
        entry.activation,
        f"{entry.parameters}",
        f"{size / 1000:.0f}",
        f"{entry.eps:g}",
        f"{entry.samples}",
        percent(entry.correct / entry.samples, 2),
        percent(entry.certified / entry.samples, 2),
        entry.method,
    )
