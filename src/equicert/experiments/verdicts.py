"""What verdict lines say together: shares, and whether an attack broke what was certified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from equicert.errors import EquicertError

Lines: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True)
class Contradiction:
    """A sample with a certificate and a broken box within the certified one.

    Attributes:
        index: of the sample in the test split.
        proved: the radius up to which it is certified.
        method: the attack.
        eps: the radius at which it was broken.
    """

    index: int
    proved: float
    method: str
    eps: float


class ContradictionError(EquicertError):
    """A point was found where a certificate says there is none."""

    def __init__(self, found: Sequence[Contradiction]) -> None:
        first, more = found[0], len(found) - 1
        others = f" ({more} more like it)" if more else ""
        super().__init__(
            f"test sample {first.index} is certified up to eps = {first.proved:g}, but"
            f" {first.method} broke it at eps = {first.eps:g}{others}: one of the two is wrong;"
            " please report it with the seed and the versions of this machine"
        )


def share(lines: Sequence[Mapping[str, Any]], status: str) -> float:
    """The fraction of these samples that have this status."""
    return sum(line["status"] == status for line in lines) / len(lines)


def clean_share(lines: Sequence[Mapping[str, Any]]) -> float:
    """The fraction of these samples that are predicted correctly."""
    return sum(line["predicted"] == line["label"] for line in lines) / len(lines)


def largest_proved(found: Iterable[tuple[int, float]]) -> dict[int, float]:
    """By sample, the largest of the radii at which it is certified."""
    proved: dict[int, float] = {}
    for index, eps in found:
        proved[index] = max(eps, proved.get(index, eps))
    return proved


def attacks_on_proved(
    proved: Mapping[int, float], attacks: Iterable[tuple[float, Lines]]
) -> tuple[int, list[Contradiction]]:
    """Attacks on certified samples, at the certified radius or at any smaller one.

    A sample that an attack finds misclassified contradicts its certificate, too.

    Args:
        proved: by sample, the largest certified radius.
        attacks: a radius, and the lines of an attack at it.

    Returns:
        the number of those in vain, and the others, of which there must be none.
    """
    in_vain, broken = 0, []
    for eps, lines in attacks:
        for line in lines:
            index = line["index"]
            if index not in proved or eps > proved[index]:
                continue
            if line["status"] == "unbroken":
                in_vain += 1
            else:
                broken.append(Contradiction(index, proved[index], line["method"], eps))
    return in_vain, broken
