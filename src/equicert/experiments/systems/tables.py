"""What the comparison of systems found: rows of text, and the page results.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from equicert.experiments.outcomes import Outcome, spread
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
from equicert.experiments.published import J22
from equicert.experiments.systems.definition import (
    ATTACKED,
    BY_PGD,
    TABLE,
    Systems,
    best,
    best_names,
)
from equicert.experiments.systems.table import CALLED, System

COMPARED: Final = (
    "system",
    "best certificate",
    "clean",
    *(f"certified at {eps:g}" for eps in TABLE),
    *(f"PGD at {eps:g}" for eps in ATTACKED),
)
_TRAINED: Final = ("system", "settings", "tuning runs", "epochs", "seconds an epoch")
_EACH: Final = ("system", "certificate", *(f"eps = {eps:g}" for eps in TABLE), "remark")


def compared(study: Systems, found: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Rows under COMPARED."""
    return [
        (
            system.name,
            certificate(study, found, system),
            shares(spread(found, system.name, lambda o: o.clean)),
            *(shares(best(found, system, eps)[1]) for eps in TABLE),
            *(
                shares(spread(found, system.name, lambda o, e=eps: o.at(BY_PGD, e).share))
                for eps in ATTACKED
            ),
        )
        for system in study.systems
    ]


def certificate(study: Systems, found: Sequence[Outcome], system: System) -> str:
    """The names of those certificates that are best at some radius."""
    names = [CALLED[name] for name in best_names(found, system, study.radii)]
    return " / ".join(names) or "none certifies anything"


def conditions(study: Systems, data: str, found: Sequence[Outcome]) -> str:
    """What the numbers are of: data, samples, seeds, attack, choice of certificate, spread."""
    starts = counted(study.pgd.restarts, "random start")
    return (
        f"Data {data}, {grouped(found[0].samples)} test images, {seeds_of(study.seeds)}. Boxes are"
        " clipped to the data's domain. Each system is shown under the certificate that certifies"
        " the most at each radius, of those that apply. PGD takes"
        f" {study.pgd.steps} steps from {starts} and attacks the first {grouped(found[0].first)}"
        " images; what it leaves unbroken is not proved. Accuracies are mean over seeds ± sample"
        " standard deviation [least, greatest]."
    )


def page(study: Systems, data: str, found: Sequence[Outcome], record: dict[str, Any]) -> str:
    """The text of results.md; `record` is what results.json holds."""
    return "\n".join(
        [
            "# All systems, certified by radius",
            "",
            *quick_note(record["quick"]),
            conditions(study, data, found),
            "",
            "![Certified accuracy against the radius, by system](systems.png)",
            "",
            *markdown(COMPARED, compared(study, found)),
            "",
            verdict_sentence(found),
            "",
            "## How each was trained",
            "",
            *markdown(_TRAINED, _trained(study, found)),
            "",
            "A tuning run is a training run on this data before the settings were settled. "
            + times_sentence(record["machine"]),
            "",
            "## Every certificate",
            "",
            *markdown(_EACH, _each(study, found)),
            "",
            *again(record["command"]),
            f"[J22] {J22}.",
            "",
        ]
    )


def _trained(study: Systems, found: Sequence[Outcome]) -> list[tuple[str, ...]]:
    return [
        (
            system.name,
            system.source,
            str(system.tuning),
            str(system.config.epochs),
            f"{spread(found, system.name, lambda o: o.epoch_seconds).mean:.3g}",
        )
        for system in study.systems
    ]


def _each(study: Systems, found: Sequence[Outcome]) -> list[tuple[str, ...]]:
    rows = []
    for system in study.systems:
        own = [outcome for outcome in found if outcome.variant == system.name]
        for name in system.methods:
            cells = [
                shares(spread(own, system.name, lambda o, n=name, e=eps: o.at(n, e).share))
                for eps in TABLE
            ]
            why = sorted({o.reasons[name] for o in own if name in o.reasons})
            remark = f"does not apply: {', '.join(why)}" if why else ""
            rows.append((system.name, CALLED[name], *cells, remark))
    return rows
