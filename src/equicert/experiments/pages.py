"""Words and tables that the pages of all experiments share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from equicert.experiments.outcomes import Spread
from equicert.report import percent

QUICK: Final = (
    "This is the quick version: fewer seeds, epochs, samples and radii. It shows that everything"
    " works; its numbers are not those of the experiment."
)


def quick_note(quick: bool) -> list[str]:
    """The lines of a page that say so."""
    return ["**" + QUICK + "**", ""] if quick else []


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def check_sentence(broken: int, in_vain: int) -> str:
    """How many attacks met a certificate, and that none of them may succeed."""
    return (
        f"Certified and yet broken: {broken} (it must be 0; {grouped(in_vain)} attacks on certified"
        " boxes were in vain)."
    )


class Held(Protocol):
    """What attacks found of a model's certificates."""

    @property
    def contradictions(self) -> Sequence[object]:
        """Those that succeeded, of which there must be none."""
        ...

    @property
    def attacks_in_vain(self) -> int:
        """How many did not."""
        ...


def verdict_sentence(found: Sequence[Held]) -> str:
    """The same of all models together."""
    broken = sum(len(one.contradictions) for one in found)
    return check_sentence(broken, sum(one.attacks_in_vain for one in found))


def subtitle(data: str, seeds: int, samples: int, *, quick: bool, attacked: str = "") -> str:
    """What a figure says below its title; `attacked` is a remark about the samples."""
    version = "quick version, " if quick else ""
    images = f"{grouped(samples)} test images{attacked}, boxes clipped"
    return f"{version}{name_of(data)}, {seeds_of(seeds)}, {images}"


def times_sentence(machine: dict[str, Any]) -> str:
    """What times are of; `machine` is what results.json holds."""
    return (
        f"Times are of {machine['processor']}, {counted(machine['threads'], 'thread')}; an epoch's"
        " is the median over epochs and includes its accuracies on test samples."
    )


def again(command: str) -> list[str]:
    """The last part of a page: how to get its numbers again, and where all of them are."""
    lines = ["## Doing it again", "", f"    {command}", ""]
    return [*lines, "Every number, per seed, is in `results.json`.", ""]


def seeds_of(count: int) -> str:
    """As "seed 0" or "seeds 0 to 2"."""
    return "seed 0" if count == 1 else f"seeds 0 to {count - 1}"


def name_of(data: str) -> str:
    """A data set in a title."""
    return "MNIST" if data == "mnist" else data


def units_of(data: str) -> str:
    """The units of a radius, in words."""
    return "pixel values are in [0, 1]" if data == "mnist" else "in units of the data"


def shares(found: Spread) -> str:
    """As "83.10 % ± 0.20 [82.90, 83.30]", or the mean alone where there is one seed."""
    if found.std is None:
        return percent(found.mean, 2)
    ends = f"[{100 * found.least:.2f}, {100 * found.greatest:.2f}]"
    return f"{percent(found.mean, 2)} ± {100 * found.std:.2f} {ends}"


def counted(number: int, thing: str) -> str:
    """As "1 seed" or "3 seeds"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def grouped(number: int) -> str:
    """As "10 000"."""
    return f"{number:,}".replace(",", " ")
