"""A comparison as rows of text, as a page and as JSON: quantities in rows, models in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from equicert.comparison.results import Attacked, Certified, Compared
from equicert.experiments.provenance import machine
from equicert.runs import versions

_SHORT: Final = {  # names of verdicts, in the width that a terminal leaves beside five models
    "interval": "interval (14)",
    "sign-split": "sign-split [WeiK22]",
    "lipschitz": "lipschitz zeta",
    "lipschitz-local": "lipschitz zeta, local",
    "lipschitz-radius-derived-per-margin": "(13) derived, margins",
    "lipschitz-radius-weighted": "(13) Theorem 6.1",
    "lipschitz-radius-row-sum": "(13) [EG21]",
    "spectral": "spectral [P21]",
}
_NONE: Final = "-"
_ORDINARY: Final = "margin"  # of the reasons for unknown: the bounds were too loose


@dataclass(frozen=True)
class Conditions:
    """What every model of a comparison was measured on.

    Attributes:
        data: name of the data set.
        data_digest: of it.
        samples: how many, the first ones of the test split.
        domain: to which boxes are clipped, as JSON holds it.
        eps: their radius.
        attack: in words.
    """

    data: str
    data_digest: str
    samples: int
    domain: Any
    eps: float
    attack: str


class _Notes:
    """Footnotes, numbered in the order in which they are first used."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"


@dataclass(frozen=True)
class Texts:
    """The table in words.

    Attributes:
        header: names of the models, after an empty first cell.
        rows: a name and a cell for each model.
        notes: what the marks [1], [2], ... in the cells stand for.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def columns(self, first: int, last: int) -> Texts:
        """The same with some of the models only, counted from 0; all notes stay."""
        kept = slice(1 + first, 1 + last)
        rows = tuple((row[0], *row[kept]) for row in self.rows)
        return Texts((self.header[0], *self.header[kept]), rows, self.notes)


def texts(found: Sequence[Compared]) -> Texts:
    """The table of a comparison: accuracies in per cent, and seconds behind them."""
    notes = _Notes()
    rows = [
        ("n", *(f"{model.states}" for model in found)),
        ("parameters", *(f"{model.parameters}" for model in found)),
    ]
    if any(model.nonzero != model.parameters for model in found):
        rows.append(("  of them not 0", *(f"{model.nonzero}" for model in found)))
    rows.append(("activation", *(model.activation for model in found)))
    rows.append(("proved to be", *(_proved(model) for model in found)))
    rows.append(("clean", *(_NONE if m.clean is None else _percent(m.clean) for m in found)))
    rows.append(("PGD", *(_attack(model.name, model.attack, notes) for model in found)))
    struck = [model.attack.attacked for model in found]
    rows.append(("  samples attacked", *(_NONE if k is None else f"{k}" for k in struck)))
    for place, certified in enumerate(found[0].certificates):
        cells = (_cell(model, model.certificates[place], notes) for model in found)
        rows.append((_SHORT.get(certified.method, certified.method), *cells))
    return Texts(("", *(model.name for model in found)), tuple(rows), tuple(notes.texts))


def explanation(conditions: Conditions) -> str:
    """What the numbers are of."""
    clipped = "not clipped" if conditions.domain is None else "clipped to the data's domain"
    return (
        f"Data {conditions.data}, the first {conditions.samples} test samples, eps ="
        f" {conditions.eps:g}, boxes {clipped}. Clean, PGD (unbroken by {conditions.attack}) and"
        " certified by each method in per cent of all samples, then seconds for all of them"
        " without loading and the proof of well-posedness; * is the best certificate of its model."
    )


def page(found: Sequence[Compared], conditions: Conditions) -> str:
    """The text of comparison.md."""
    table = texts(found)
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(
        [
            "# Models compared",
            "",
            explanation(conditions),
            "",
            *("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines),
            "",
            *(f"{line}  " for line in numbered(table.notes)),
            "",
            check_sentence(found),
            "",
        ]
    )


def numbered(notes: Sequence[str]) -> list[str]:
    """The footnotes as lines."""
    return [f"[{number}] {text}" for number, text in enumerate(notes, 1)]


def check_sentence(found: Sequence[Compared]) -> str:
    """How often an attack succeeded where a method says that none can."""
    return f"Certified and yet broken: {sum(len(m.contradictions) for m in found)} (it must be 0)."


def record(found: Sequence[Compared], conditions: Conditions) -> dict[str, Any]:
    """All numbers as comparison.json holds them; accuracies are fractions."""
    return {
        "conditions": asdict(conditions),
        "models": [{**asdict(model), "best": model.best} for model in found],
        "certified_yet_broken": sum(len(model.contradictions) for model in found),
        "machine": machine(None),
        "versions": versions(),
    }


def _proved(model: Compared) -> str:
    proofs = {"contracting": model.contracting, "monotone": model.monotone}
    found = [name for name, holds in proofs.items() if holds]
    return {0: "neither", 1: "".join(found), 2: "both"}[len(found)]


def _attack(name: str, attack: Attacked, notes: _Notes) -> str:
    if attack.accuracy is None or attack.seconds is None:
        return f"{_NONE} {notes.mark(f'{name}: {attack.why_not}')}"
    return f"{_percent(attack.accuracy)}  {_seconds(attack.seconds)}"


def _cell(model: Compared, certified: Certified, notes: _Notes) -> str:
    if certified.accuracy is None or certified.seconds is None:
        return f"{_NONE} {notes.mark(f'{model.name}: {certified.why_not}')}"
    best = "*" if 0 < certified.accuracy == model.best else " "
    text = f"{_percent(certified.accuracy)}{best} {_seconds(certified.seconds)}"
    odd = {why: count for why, count in certified.reasons.items() if why != _ORDINARY}
    if odd:
        counts = ", ".join(f"{count} for {why}" for why, count in odd.items())
        text += (
            f" {notes.mark(f'{model.name}: samples left unknown by {certified.method}: {counts}')}"
        )
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _seconds(value: float) -> str:
    """Two or three digits: "0.04", "1.23", "12.3", "123"."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}".rjust(4)
