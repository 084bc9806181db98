"""What people see: progress on standard error, results on standard output."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from equicert import training
from equicert.conditions import Condition
from equicert.experiments.progress import Progress as StudyProgress
from equicert.inspection import Inspection
from equicert.lipschitz_below import Sampled
from equicert.report import percent

_SHOWN = 20  # rows of a table of intervals
_NAME_WIDTH, _COLUMN_WIDTH = 24, 15  # of a table with things in columns: five in 100 columns


def out() -> Console:
    """Standard output; plain text where it is no terminal."""
    return Console(highlight=False, soft_wrap=True, markup=False)


@contextmanager
def progress(what: str, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error that a callback (done, all) moves; None when quiet."""
    if quiet:
        yield None
        return
    with _bar() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def training_progress(quiet: bool) -> Iterator[training.Progress]:
    """A bar over epochs, with the last epoch's accuracies beside it."""
    if quiet:
        yield training.Progress()
        return
    with _bar() as bar:
        yield _Stages(bar)


@contextmanager
def study_progress(quiet: bool) -> Iterator[StudyProgress]:
    """A bar that names the stage of an experiment and shows how far the stage is."""
    if quiet:
        yield StudyProgress()
        return
    with _bar() as bar:
        yield _Stages(bar)


class _Stages(StudyProgress):
    def __init__(self, bar: Progress) -> None:
        self._bar, self._task = bar, bar.add_task("training", total=None)
        self._stage, self._said = "", ""

    def stage(self, number: int, count: int, what: str) -> None:
        text = f"stage {number} of {count}, {what}"
        self._stage, self._said = f"{text}, ", ""
        self._bar.update(self._task, completed=0, total=None, description=text)
        if not self._bar.console.is_terminal:
            self._bar.console.print(text, soft_wrap=True)

    def samples(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        text = f"{self._stage}epoch {epoch}, loss {loss:.3f}{self._said}"
        self._bar.update(self._task, completed=step, total=steps, description=text)

    def epoch(self, metrics: dict[str, Any]) -> None:
        self._said = f", clean {_percent(metrics['clean_accuracy'])}"
        if metrics["certified_accuracy"] is not None:
            self._said += f", certified {_percent(metrics['certified_accuracy'])}"
        if not self._bar.console.is_terminal:
            seconds = metrics["seconds"]
            self._bar.console.print(f"epoch {metrics['epoch']}{self._said}, {seconds:.1f} s")


def table(title: str, rows: Sequence[tuple[str, Any]]) -> Table:
    """A two-column table of names and values."""
    made = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows:
        made.add_row(name, value if isinstance(value, str) else show(value))
    return made


def rows_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of texts under a header."""
    made = Table(*header, title=title, title_justify="left")
    for row in rows:
        made.add_row(*row)
    return made


def columns_that_fit(console: Console) -> int:
    """How many columns of `columns_table` stand side by side behind the first one."""
    return max(1, (console.width - _NAME_WIDTH) // _COLUMN_WIDTH)


def columns_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Things in columns, what is known of them in rows; long names of columns are folded."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    for k, name in enumerate(header):
        made.add_column(
            name,
            justify="right" if k else "left",
            overflow="fold",
            no_wrap=k == 0,
            max_width=_COLUMN_WIDTH - 2 if k else _NAME_WIDTH,
        )
    for row in rows:
        made.add_row(*row)
    return made


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, Any]]:
    """The entries of a summary that a person wants to see, accuracies in per cent."""
    rows = []
    for key, value in summary.items():
        if key == "versions":
            continue
        name = key.replace("_", " ")
        if key.endswith("accuracy"):
            rows.append((name, _percent(value)))
        elif key in ("model", "data_digest"):
            rows.append((name, str(value)[:16]))
        elif key == "certified_accuracy_at":
            rows += [(f"certified at eps = {eps}", _percent(share)) for eps, share in value.items()]
        elif isinstance(value, dict):
            rows.append((name, ", ".join(f"{k}: {v}" for k, v in value.items()) or "none"))
        else:
            rows.append((name, show(value)))
    return rows


def interval_table(title: str, lower: list[float], upper: list[float]) -> Table:
    """Lower and upper bounds, an index a row; the middle of a long list is left out."""
    made = Table("i", "lower", "upper", title=title, title_justify="left")
    for i, (lo, hi) in enumerate(zip(lower, upper, strict=True)):
        if len(lower) <= _SHOWN or i < _SHOWN - 2 or i == len(lower) - 1:
            made.add_row(str(i), f"{lo:.8g}", f"{hi:.8g}")
        elif i == _SHOWN - 2:
            made.add_row("...", "(--json shows all)", "")
    return made


def print_inspection(found: Inspection) -> None:
    """The tables of `equicert inspect`."""
    n, r, q = found.shapes
    rows: list[tuple[str, Any]] = [("hidden units n", n), ("inputs r", r), ("outputs q", q)]
    rows += [("activation", found.activation), ("digest", found.digest[:16])]
    if found.eta_ratio is not None:
        rows.append(("contracting, proved: eta_max / eta_min", found.eta_ratio))
    if found.modulus is not None:
        rows.append(("monotone, proved: m", found.modulus))
        rows.append(("Lambda_max / Lambda_min of that proof", found.Lambda_ratio))
    if found.abscissa is not None:
        rows.append(("spectral abscissa of the majorant, in floats", found.abscissa))
    out().print(table("network", rows))
    conditions = [found.conditions[0], found.stored_eta, *found.conditions[1:]]
    listed = [(c.name, c.source, *_decided(c)) for c in conditions if c is not None]
    holding = sum(c.verdict == "holds" for c in found.conditions)
    title = f"conditions for a unique fixed point: {holding} of 5 hold"
    out().print(rows_table(title, ("number", "source", "value", "< 1"), listed))
    _print_lipschitz("sup-norm", "contracting", found.lipschitz, found.sampled.sup, found.sampled)
    _print_lipschitz("l2", "monotone", found.lipschitz_l2, found.sampled.l2, found.sampled)


def _decided(condition: Condition) -> tuple[str, str]:
    """The number, with the side on which it is proved to lie, and what follows."""
    if math.isnan(condition.value):
        return "not computed", "undecided"
    side, verdict = {
        "holds": ("<=", "yes, proved"),
        "fails": (">=", "no, proved"),
        "undecided": ("about", "undecided"),
    }[condition.verdict]
    return f"{side} {show(condition.value)}", verdict


def _print_lipschitz(
    norm: str, needs: str, bounds: dict[str, float], below: float | None, sampled: Sampled
) -> None:
    lines = [(name, show(value), _ratio(value, below)) for name, value in bounds.items()]
    if below is not None:
        lines.append((f"from below, by {sampled.points} Jacobians in floats", show(below), ""))
    if lines:
        title = f"Lipschitz constant, {norm} to {norm}: bounds, rounded upwards"
        out().print(rows_table(title, ("bound", "value", "/ from below"), lines))
    if not bounds:
        out().print(f"no Lipschitz bound applies, {norm} to {norm}: not proved {needs}")
    if below is None:
        out().print(f"no Lipschitz constant from below, {norm} to {norm}: {sampled.reason}")


def _ratio(bound: float, sampled: float | None) -> str:
    """How far a bound may be off; nothing where there is nothing to compare it with."""
    return f"{bound / sampled:.3g}" if sampled else ""


def show(value: Any) -> str:
    """A value as text: floats to six digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _percent(value: float) -> str:
    return percent(value, 2)


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # a file wants lines, not bars
    )
