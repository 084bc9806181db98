"""What was found of dense and convolutional networks: rows of text, and the page results.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from equicert.experiments.convolutions.definition import (
    ATTACK,
    CERTIFY,
    MAIN,
    Convolutions,
    Entry,
)
from equicert.experiments.convolutions.measurements import About, mean_seconds, of
from equicert.experiments.convolutions.redo import commands
from equicert.experiments.outcomes import Outcome, spread
from equicert.experiments.pages import (
    again,
    counted,
    grouped,
    markdown,
    name_of,
    quick_note,
    seeds_of,
    shares,
    verdict_sentence,
)
from equicert.experiments.published import CERTIFIED, J22
from equicert.report import percent

COMPARED: Final = (
    *("model", "clean"),
    *(f"certified at {eps:g}" for eps in MAIN),
    *(f"PGD at {eps:g}" for eps in MAIN),
)
_SIZES: Final = ("model", "what", "hidden units", "parameters", "trained for", "time to train")
_PUBLISHED: Final = ("published", *(f"certified at {eps:g}" for eps in MAIN), "source")
_COSTS: Final = ("model", *(f"{what} at {eps:g}" for what in ("certified", "PGD") for eps in MAIN))
_UNKNOWN: Final = "not known"
_MEANT: Final = (
    "Units are those of explicit layers and of the implicit block together, parameters the numbers"
    " other than 0 that are stored, biases of convolutions for each unit. The time to train is that"
    " of all epochs, with their accuracies on test samples, mean over seeds; of a given model, as"
    " the folder of its run says."
)


def compared(study: Convolutions, found: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Rows under COMPARED."""

    def cell(entry: Entry, value: Callable[[Outcome], float]) -> str:
        return shares(spread(found, entry.name, value))

    return [
        (
            entry.name,
            cell(entry, lambda o: o.clean),
            *(cell(entry, lambda o, e=eps: o.at(CERTIFY, e).share) for eps in MAIN),
            *(cell(entry, lambda o, e=eps: o.at(ATTACK, e).share) for eps in MAIN),
        )
        for entry in study.entries
    ]


def conditions(study: Convolutions, data: str, found: Sequence[Outcome]) -> str:
    """What the numbers are of: data, samples, seeds, certificate, attack."""
    starts = counted(study.pgd.restarts, "random start")
    images = f"{grouped(found[0].samples)} test images{_seeds(study)}"
    return (
        f"Data {data}, {images}. Certified by (14) alone, by"
        " box bounds that are rounded outwards; boxes are clipped to the data's domain. PGD takes"
        f" {study.pgd.steps} steps from {starts} and attacks the first {grouped(found[0].first)}"
        " images; what it leaves unbroken is not proved."
    )


def subtitle(study: Convolutions, data: str, found: Sequence[Outcome], *, quick: bool) -> str:
    """What the figure says below its title."""
    version = "quick version, " if quick else ""
    images = f"{grouped(found[0].samples)} test images{_seeds(study)}"
    return f"{version}{name_of(data)}, {images}, boxes clipped"


def _seeds(study: Convolutions) -> str:
    """As ", seeds 0 to 2"; of models that are all given it is not known."""
    return "" if all(entry.given for entry in study.entries) else f", {seeds_of(study.seeds)}"


def page(
    study: Convolutions,
    data: str,
    found: Sequence[Outcome],
    models: Sequence[About],
    record: dict[str, Any],
) -> str:
    """The text of results.md; `record` is what results.json holds."""
    return "\n".join(
        [
            "# Dense and convolutional networks, certified by radius",
            "",
            *quick_note(record["quick"]),
            conditions(study, data, found),
            "",
            "![Certified accuracy against the radius, by model](convolutions.png)",
            "",
            *markdown(COMPARED, compared(study, found)),
            "",
            verdict_sentence(found),
            "",
            *(_published() if record["published"] else []),
            "## The networks",
            "",
            *markdown(_SIZES, _sizes(study, models)),
            "",
            _MEANT,
            "",
            _timed(found, record["machine"]),
            "",
            *markdown(_COSTS, _costs(study, found)),
            "",
            "## Certified by radius",
            "",
            *markdown(("eps", *(e.name for e in study.entries)), _by_radius(study, found)),
            "",
            "## Each model again",
            "",
            *_commands(study, data),
            *again(record["command"]),
            *([f"[J22] {J22}.", ""] if record["published"] else []),
        ]
    )


def _published() -> list[str]:
    """The lines of what is published; sources that a row names stand in it."""
    names = list(dict.fromkeys(known.name for known in CERTIFIED))
    rows = []
    for name in names:
        own = {known.eps: known for known in CERTIFIED if known.name == name}
        cells = [percent(own[eps].certified) if eps in own else "" for eps in MAIN]
        source = next(iter(own.values())).source
        rows.append((name, *cells, "[J22]" if source == J22 else source))
    return [*markdown(_PUBLISHED, rows), ""]


def _sizes(study: Convolutions, models: Sequence[About]) -> list[tuple[str, ...]]:
    rows = []
    for entry in study.entries:
        about, seconds = of(models, entry), mean_seconds(models, entry)
        trained = _UNKNOWN
        if about.training is not None:
            epochs = counted(about.training.epochs, "epoch")
            trained = f"eps = {about.training.eps:g}, {epochs} on {about.training.device}"
        time = _UNKNOWN if seconds is None else f"{seconds:.3g} s"
        sizes = (grouped(about.units), grouped(about.parameters))
        rows.append((entry.name, entry.label, *sizes, trained, time))
    return rows


def _timed(found: Sequence[Outcome], machine: dict[str, Any]) -> str:
    return (
        f"Time to certify {grouped(found[0].samples)} images and to attack"
        f" {grouped(found[0].first)}, on {machine['processor']},"
        f" {counted(machine['threads'], 'thread')}:"
    )


def _costs(study: Convolutions, found: Sequence[Outcome]) -> list[tuple[str, ...]]:
    return [
        (
            entry.name,
            *(
                f"{spread(found, entry.name, lambda o, t=t, e=e: o.at(t, e).seconds).mean:.3g} s"
                for t in (CERTIFY, ATTACK)
                for e in MAIN
            ),
        )
        for entry in study.entries
    ]


def _by_radius(study: Convolutions, found: Sequence[Outcome]) -> list[tuple[str, ...]]:
    return [
        (
            f"{eps:g}",
            *(
                shares(spread(found, entry.name, lambda o, e=eps: o.at(CERTIFY, e).share))
                for entry in study.entries
            ),
        )
        for eps in study.radii
    ]


def _commands(study: Convolutions, data: str) -> list[str]:
    lines = []
    for entry in study.entries:
        note = ""
        if entry.given is not None:
            note = f"; given, weights {entry.given.network.digest[:12]}"
            note += "" if entry.given.trained else ", how it was trained is not known"
        typed = [f"    {command}" for command in commands(study, entry, data)]
        lines += [f"{entry.name}{note}:", "", *typed, ""]
    return lines
