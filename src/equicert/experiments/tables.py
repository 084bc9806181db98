"""What Figure 2 found, beside what is published: rows of text, and the page results.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from equicert.experiments.figure2 import MODELS, Figure2
from equicert.experiments.measurements import Measured, Spread, spread
from equicert.experiments.published import (
    FIGURE2,
    FIGURE2_EPS,
    FIGURE2_MACHINE,
    FIGURE2_SAMPLES,
    J22,
)
from equicert.report import percent

COMPARED: Final = ("model", "what", "published", "measured")
QUICK: Final = (
    "This is the quick version: fewer seeds, epochs, samples and radii. It shows that everything"
    " works; its numbers are not those of the experiment."
)


def comparison(study: Figure2, models: Sequence[Measured]) -> list[tuple[str, str, str, str]]:
    """Rows under COMPARED: published and measured values of both models."""
    at, samples = f"at eps = {study.eps:g}", models[0].samples
    rows: list[tuple[str, str, str, str]] = []
    for name in MODELS:
        known = FIGURE2[name]
        shares: list[tuple[str, float | None, Callable[[Measured], float]]] = [
            ("clean", known.clean, lambda m: m.clean),
            (f"certified by (14) {at}", known.certified, lambda m: m.main.certified),
            (f"unbroken by PGD {at}", known.pgd, lambda m: m.main.unbroken),
            (f"certified {at}, boxes not clipped", None, lambda m: m.certified_unclipped),
        ]
        for what, value, measured in shares:
            found = spread(models, name, measured)
            rows.append((name, what, "" if value is None else _share(value), _shares(found)))
        times = [
            ("an epoch", known.epoch_seconds, "", lambda m: m.epoch_seconds),
            (
                f"certifying {_count(samples)} images {at}",
                known.certify_seconds,
                "" if samples == FIGURE2_SAMPLES else f" for {_count(FIGURE2_SAMPLES)}",
                lambda m: m.certify_seconds,
            ),
        ]
        for what, value, remark, measured in times:
            found = spread(models, name, measured)
            said = "" if value is None else f"{value:g} s{remark} on {FIGURE2_MACHINE}"
            rows.append((name, what, said, f"{found.mean:.3g} s"))
    return rows


def check_sentence(models: Sequence[Measured]) -> str:
    """How many attacks met a certificate, and that none of them may succeed."""
    in_vain = sum(measured.attacks_in_vain for measured in models)
    broken = sum(len(measured.contradictions) for measured in models)
    return (
        f"Certified and yet broken: {broken} (it must be 0; {_count(in_vain)} attacks on certified"
        " boxes were in vain)."
    )


def conditions(study: Figure2, data: str, models: Sequence[Measured]) -> str:
    """What the numbers are of: data, samples, seeds, attack, clipping, spread."""
    first = models[0].main.first
    few = f"elsewhere the first {_count(first)}" if first < models[0].samples else "elsewhere too"
    starts = _counted(study.pgd.restarts, "random start")
    return (
        f"Data {data}, {_count(models[0].samples)} test images, {_seeds(study)}; training for"
        f" {_counted(study.config.epochs, 'epoch')}. Boxes are clipped to the data's domain unless"
        f" said otherwise. PGD takes {study.pgd.steps} steps from {starts} and attacks all images"
        f" at eps = {study.eps:g}, {few}. Accuracies are shares of all these images, mean over"
        " seeds ± sample standard deviation [least, greatest]. Published values are means on MNIST"
        f" at eps = {FIGURE2_EPS:g}."
    )


def subtitle(study: Figure2, data: str, models: Sequence[Measured], *, quick: bool) -> str:
    """What the figure says below its title."""
    first, samples = models[0].main.first, models[0].samples
    name = "MNIST" if data == "mnist" else data
    few = "" if first == samples else f" (PGD curves: the first {_count(first)})"
    version = "quick version, " if quick else ""
    return f"{version}{name}, {_seeds(study)}, {_count(samples)} test images{few}, boxes clipped"


def page(
    study: Figure2,
    data: str,
    models: Sequence[Measured],
    record: dict[str, Any],
) -> str:
    """The text of results.md; `record` is what results.json holds."""
    machine = record["machine"]
    times = (
        f"Times are of {machine['processor']}, {_counted(machine['threads'], 'thread')}; an epoch's"
        " is the median over epochs and includes its accuracies on test samples."
    )
    rows = [row for name in MODELS for row in _by_radius(models, name)]
    first = f"certified, first {_count(models[0].main.first)} images"
    header = ("model", "eps", "certified", "unbroken by PGD", "images attacked", first)
    return "\n".join(
        [
            "# Figure 2 of [J22]: certified and attacked, by radius",
            "",
            *(["**" + QUICK + "**", ""] if record["quick"] else []),
            conditions(study, data, models),
            "",
            "![Certified and PGD accuracy against the radius](figure2.png)",
            "",
            *_markdown(COMPARED, comparison(study, models)),
            "",
            check_sentence(models),
            "",
            times,
            "",
            "## By radius",
            "",
            *_markdown(header, rows),
            "",
            "## Doing it again",
            "",
            f"    {record['command']}",
            "",
            "Every number, per seed, is in `results.json`.",
            "",
            f"[J22] {J22}.",
            "",
        ]
    )


def _by_radius(models: Sequence[Measured], name: str) -> list[tuple[str, ...]]:
    own = [measured for measured in models if measured.model == name]
    found = []
    for rows in zip(*(measured.rows for measured in own), strict=True):
        certified = _shares(Spread.of([row.certified for row in rows]))
        unbroken = _shares(Spread.of([row.unbroken for row in rows]))
        first = _shares(Spread.of([row.certified_first for row in rows]))
        attacked = _count(rows[0].attacked) if rows[0].eps else "clean"
        found.append((name, f"{rows[0].eps:g}", certified, unbroken, attacked, first))
    return found


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _seeds(study: Figure2) -> str:
    return "seed 0" if study.seeds == 1 else f"seeds 0 to {study.seeds - 1}"


def _shares(found: Spread) -> str:
    """As "83.10 % ± 0.20 [82.90, 83.30]", or the mean alone where there is one seed."""
    if found.std is None:
        return _share(found.mean)
    ends = f"[{100 * found.least:.2f}, {100 * found.greatest:.2f}]"
    return f"{_share(found.mean)} ± {100 * found.std:.2f} {ends}"


def _share(value: float) -> str:
    return percent(value, 2)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _count(number: int) -> str:
    return f"{number:,}".replace(",", " ")
