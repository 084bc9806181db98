"""What people see: progress on standard error, results on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from equicert import training
from equicert.experiments.progress import Progress as StudyProgress
from equicert.inspection import Inspection
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
        rows.append(("eta_max / eta_min of the proof", found.eta_ratio))
    if found.modulus is not None:
        rows.append(("monotone, proved: m", found.modulus))
        rows.append(("Lambda_max / Lambda_min of that proof", found.Lambda_ratio))
    out().print(table("network", rows))
    conditions = Table(
        "sufficient condition", "value", "< 1", title="well-posedness", title_justify="left"
    )
    for condition in found.conditions:
        verdict = ("yes, proved" if condition.proved else "yes") if condition.holds else "no"
        conditions.add_row(condition.name, show(condition.value), verdict)
    out().print(conditions)
    if found.lipschitz:
        bounds = list(found.lipschitz.items())
        out().print(table("Lipschitz bounds, sup-norm to sup-norm, rounded upwards", bounds))
    else:
        out().print("no Lipschitz bound applies in the sup-norm: not proved contracting")
    if found.lipschitz_l2:
        euclidean = list(found.lipschitz_l2.items())
        out().print(table("Lipschitz bounds, l2 to l2, rounded upwards", euclidean))


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
