"""What Figure 2 found, beside what is published: rows of text, and the page results.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from equicert.experiments import pages
from equicert.experiments.figure2.definition import MODELS, Figure2
from equicert.experiments.figure2.measurements import Measured, spread
from equicert.experiments.outcomes import Spread
from equicert.experiments.pages import (
    again,
    counted,
    grouped,
    markdown,
    quick_note,
    seeds_of,
    shares,
    times_sentence,
    verdict_sentence,
)
from equicert.experiments.published import (
    FIGURE2,
    FIGURE2_EPS,
    FIGURE2_MACHINE,
    FIGURE2_SAMPLES,
    J22,
)
from equicert.report import percent

COMPARED: Final = ("model", "what", "published", "measured")


def comparison(study: Figure2, models: Sequence[Measured]) -> list[tuple[str, str, str, str]]:
    """Rows under COMPARED: published and measured values of both models."""
    at, samples = f"at eps = {study.eps:g}", models[0].samples
    rows: list[tuple[str, str, str, str]] = []
    for name in MODELS:
        known = FIGURE2[name]
        compared: list[tuple[str, float | None, Callable[[Measured], float]]] = [
            ("clean", known.clean, lambda m: m.clean),
            (f"certified by (14) {at}", known.certified, lambda m: m.main.certified),
            (f"unbroken by PGD {at}", known.pgd, lambda m: m.main.unbroken),
            (f"certified {at}, boxes not clipped", None, lambda m: m.certified_unclipped),
        ]
        for what, value, measured in compared:
            found = spread(models, name, measured)
            rows.append((name, what, "" if value is None else percent(value, 2), shares(found)))
        times = [
            ("an epoch", known.epoch_seconds, "", lambda m: m.epoch_seconds),
            (
                f"certifying {grouped(samples)} images {at}",
                known.certify_seconds,
                "" if samples == FIGURE2_SAMPLES else f" for {grouped(FIGURE2_SAMPLES)}",
                lambda m: m.certify_seconds,
            ),
        ]
        for what, value, remark, measured in times:
            found = spread(models, name, measured)
            said = "" if value is None else f"{value:g} s{remark} on {FIGURE2_MACHINE}"
            rows.append((name, what, said, f"{found.mean:.3g} s"))
    return rows


def conditions(study: Figure2, data: str, models: Sequence[Measured]) -> str:
    """What the numbers are of: data, samples, seeds, attack, clipping, spread."""
    first = models[0].main.first
    few = f"elsewhere the first {grouped(first)}" if first < models[0].samples else "elsewhere too"
    starts = counted(study.pgd.restarts, "random start")
    return (
        f"Data {data}, {grouped(models[0].samples)} test images, {seeds_of(study.seeds)}; training"
        f" for {counted(study.config.epochs, 'epoch')}. Boxes are clipped to the data's domain"
        f" unless said otherwise. PGD takes {study.pgd.steps} steps from {starts} and attacks all"
        " images"
        f" at eps = {study.eps:g}, {few}. Accuracies are shares of all these images, mean over"
        " seeds ± sample standard deviation [least, greatest]. Published values are means on MNIST"
        f" at eps = {FIGURE2_EPS:g}."
    )


def subtitle(study: Figure2, data: str, models: Sequence[Measured], *, quick: bool) -> str:
    """What the figure says below its title."""
    first, samples = models[0].main.first, models[0].samples
    few = "" if first == samples else f" (PGD curves: the first {grouped(first)})"
    return pages.subtitle(data, study.seeds, samples, quick=quick, attacked=few)


def page(
    study: Figure2,
    data: str,
    models: Sequence[Measured],
    record: dict[str, Any],
) -> str:
    """The text of results.md; `record` is what results.json holds."""
    rows = [row for name in MODELS for row in _by_radius(models, name)]
    first = f"certified, first {grouped(models[0].main.first)} images"
    header = ("model", "eps", "certified", "unbroken by PGD", "images attacked", first)
    return "\n".join(
        [
            "# Figure 2 of [J22]: certified and attacked, by radius",
            "",
            *quick_note(record["quick"]),
            conditions(study, data, models),
            "",
            "![Certified and PGD accuracy against the radius](figure2.png)",
            "",
            *markdown(COMPARED, comparison(study, models)),
            "",
            verdict_sentence(models),
            "",
            times_sentence(record["machine"]),
            "",
            "## By radius",
            "",
            *markdown(header, rows),
            "",
            *again(record["command"]),
            f"[J22] {J22}.",
            "",
        ]
    )


def _by_radius(models: Sequence[Measured], name: str) -> list[tuple[str, ...]]:
    own = [measured for measured in models if measured.model == name]
    found = []
    for rows in zip(*(measured.rows for measured in own), strict=True):
        certified = shares(Spread.of([row.certified for row in rows]))
        unbroken = shares(Spread.of([row.unbroken for row in rows]))
        first = shares(Spread.of([row.certified_first for row in rows]))
        attacked = grouped(rows[0].attacked) if rows[0].eps else "clean"
        found.append((name, f"{rows[0].eps:g}", certified, unbroken, attacked, first))
    return found
